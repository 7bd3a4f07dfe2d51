//! What every command gets: the user's settings and clients of the daemons they name.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use crate::client::{Client, Progress};
use crate::config::{Config, LOCAL, Remote};
use crate::error::{Error, Result};

/// What the flags that every command has stand under in its help.
const GLOBAL: &str = "Options of all commands";

/// Flags that every command has.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct GlobalArgs {
    /// Use this project instead of the one chosen with `project switch` (HUTCH_PROJECT does the same)
    #[arg(long, global = true, env = "HUTCH_PROJECT", value_name = "NAME", hide_env = true, help_heading = GLOBAL)]
    pub(crate) project: Option<String>,
    /// Talk to the daemon at this socket
    #[arg(long, global = true, value_name = "PATH", help_heading = GLOBAL)]
    pub(crate) socket: Option<PathBuf>,
    /// Print neither progress nor what was done
    #[arg(short, long, global = true, help_heading = GLOBAL)]
    pub(crate) quiet: bool,
}

/// The settings of this run.
pub(crate) struct Context {
    /// The user's file.
    pub(crate) config: Config,
    globals: GlobalArgs,
    clients: Mutex<HashMap<String, Arc<Client>>>,
}

/// An object on a daemon.
pub(crate) struct Target {
    /// The daemon.
    pub(crate) client: Arc<Client>,
    /// The object's name; empty when only the daemon was named.
    pub(crate) name: String,
}

impl Target {
    /// The name, which this command can't do without.
    pub(crate) fn required(self, what: &str) -> Result<Self> {
        if self.name.is_empty() {
            return Err(Error::usage(format!("{what}: a name is needed after the colon")));
        }
        Ok(self)
    }
}

impl Context {
    /// Reads the user's file.
    pub(crate) fn new(globals: GlobalArgs) -> Result<Self> {
        Ok(Self {
            config: Config::load()?,
            globals,
            clients: Mutex::default(),
        })
    }

    /// Prints what was done, unless told to be quiet.
    pub(crate) fn say(&self, text: &str) -> Result<()> {
        if self.globals.quiet {
            Ok(())
        } else {
            crate::output::print_line(text)
        }
    }

    /// Progress under `label`.
    pub(crate) fn progress(&self, label: &str) -> Progress {
        Progress::new(label, self.globals.quiet)
    }

    /// Splits `remote:name`; without a remote it is the default one's.
    pub(crate) fn split<'a>(&'a self, text: &'a str) -> (&'a str, &'a str) {
        text.split_once(':')
            .unwrap_or((self.config.default_remote.as_str(), text))
    }

    /// A client of the daemon that a remote's name stands for.
    pub(crate) fn client(&self, remote: &str) -> Result<Arc<Client>> {
        let mut clients = self.clients.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(client) = clients.get(remote) {
            return Ok(Arc::clone(client));
        }
        let found = self.remote(remote)?;
        let Some(socket) = found.socket() else {
            return Err(Error::usage(format!(
                "{remote:?} is an image server, and this command is for daemons"
            )));
        };
        let socket = match &self.globals.socket {
            Some(given) if remote == self.config.default_remote => given.clone(),
            _ => socket.to_owned(),
        };
        let project = self.globals.project.clone().unwrap_or(found.project);
        let client = Arc::new(Client::new(socket, project));
        clients.insert(remote.to_owned(), Arc::clone(&client));
        Ok(client)
    }

    /// Whether a remote's name stands for the daemon that `client` talks to.
    pub(crate) fn is_same(&self, remote: &str, client: &Client) -> bool {
        self.client(remote).is_ok_and(|other| other.socket() == client.socket())
    }

    /// A remote by name.
    pub(crate) fn remote(&self, name: &str) -> Result<Remote> {
        self.config.remote(name).ok_or_else(|| {
            Error::usage(format!(
                "there is no remote called {name:?}; `hutch remote list` shows them, and what the daemon's plugins offer can only be \
                 listed and launched: `hutch image list {name}:`, `hutch launch {name}:ALIAS`"
            ))
        })
    }

    /// A client of the default daemon.
    pub(crate) fn default_client(&self) -> Result<Arc<Client>> {
        self.client(&self.config.default_remote)
    }

    /// What `[remote:][name]` stands for.
    pub(crate) fn target(&self, text: &str) -> Result<Target> {
        let (remote, name) = self.split(text);
        Ok(Target {
            client: self.client(if remote.is_empty() { LOCAL } else { remote })?,
            name: name.to_owned(),
        })
    }

    /// What `[remote:]name` stands for, where the name is needed.
    pub(crate) fn named(&self, text: &str) -> Result<Target> {
        self.target(text)?.required(text)
    }

    /// What an optional `[remote:]` stands for.
    pub(crate) fn daemon(&self, text: Option<&str>) -> Result<Target> {
        text.map_or_else(
            || {
                Ok(Target {
                    client: self.default_client()?,
                    name: String::new(),
                })
            },
            |text| {
                let target = self.target(text)?;
                if !target.name.is_empty() {
                    return Err(Error::usage(format!("{text:?} is not a remote; those end in a colon")));
                }
                Ok(target)
            },
        )
    }

    /// Splits the arguments of a list: `[remote:][word] [word …]`. A first word with a colon counts as a remote's if it is one.
    pub(crate) fn daemon_and_rest(&self, words: &[String]) -> Result<(Target, Vec<String>)> {
        if let Some((first, rest)) = words.split_first()
            && let Some((remote, word)) = first.split_once(':')
            && (word.is_empty() || self.config.remote(remote).is_some())
        {
            let word = (!word.is_empty()).then(|| word.to_owned());
            let target = Target {
                client: self.client(remote)?,
                name: String::new(),
            };
            return Ok((target, word.into_iter().chain(rest.iter().cloned()).collect()));
        }
        Ok((self.daemon(None)?, words.to_vec()))
    }
}

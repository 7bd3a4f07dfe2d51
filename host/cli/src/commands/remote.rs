//! `remote`: what the user's own file says of daemons and image servers.

use clap::{Args, Subcommand};
use hutch_api::server::Server;

use super::image_name;
use crate::client::{ApiPath, Client};
use crate::config::{Config, LOCAL, Remote};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::output::{self, FormatArg, Table};

#[derive(Debug, Subcommand)]
pub(crate) enum RemoteCommand {
    /// List remotes, and the image sources that the daemon's plugins offer
    #[command(alias = "ls")]
    List {
        #[command(flatten)]
        format: FormatArg,
    },
    /// Add a daemon or an image server
    Add(AddArgs),
    /// Forget a remote
    #[command(alias = "rm")]
    Remove {
        /// The remote
        #[arg(value_name = "REMOTE")]
        name: String,
    },
    /// Give a remote a new name
    #[command(alias = "mv")]
    Rename {
        /// The remote
        #[arg(value_name = "REMOTE")]
        name: String,
        /// Its new name
        new_name: String,
    },
    /// Change where a remote is
    SetUrl {
        /// The remote
        #[arg(value_name = "REMOTE")]
        name: String,
        /// Its new address
        #[arg(value_name = "URL")]
        addr: String,
    },
    /// Make a daemon the one of names without a remote
    Switch {
        /// The remote
        #[arg(value_name = "REMOTE")]
        name: String,
    },
    /// Print the remote of names without one
    GetDefault,
}

#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// Its name
    #[arg(value_name = "REMOTE")]
    name: String,
    /// The path of a daemon's socket (unix:///PATH, or just /PATH), or an image server's URL
    #[arg(value_name = "URL")]
    addr: String,
    /// The image source that an image server is to be asked with, such as one of those that `remote list` shows
    #[arg(long, default_value = "", value_name = "SOURCE", hide_default_value = true)]
    protocol: String,
    /// The daemon's project that commands are about
    #[arg(
        long = "default-project",
        default_value = "",
        value_name = "PROJECT",
        hide_default_value = true
    )]
    project: String,
}

/// A line of `remote list`.
#[derive(serde::Serialize)]
struct Line {
    name: String,
    addr: String,
    protocol: String,
    project: String,
    default: bool,
}

impl RemoteCommand {
    /// Does it.
    pub(crate) async fn run(self, ctx: &Context) -> Result<()> {
        let mut config = ctx.config.clone();
        match self {
            Self::List { format } => return list(ctx, format).await,
            Self::GetDefault => return output::print_line(&config.default_remote),
            Self::Add(args) => add(ctx, &mut config, args).await?,
            Self::Remove { name } => {
                known(&config, &name)?;
                if name == config.default_remote {
                    return Err(Error::usage(format!(
                        "{name:?} is the default; `hutch remote switch` changes that"
                    )));
                }
                config.remotes.remove(&name);
            }
            Self::Rename { name, new_name } => {
                known(&config, &name)?;
                check_name(&config, &new_name)?;
                if let Some(remote) = config.remotes.remove(&name) {
                    config.remotes.insert(new_name.clone(), remote);
                }
                if config.default_remote == name {
                    config.default_remote = new_name;
                }
            }
            Self::SetUrl { name, addr } => {
                known(&config, &name)?;
                if let Some(remote) = config.remotes.get_mut(&name) {
                    remote.addr = address(&addr)?;
                }
            }
            Self::Switch { name } => {
                if ctx.remote(&name)?.socket().is_none() {
                    return Err(Error::usage(format!(
                        "{name:?} is an image server, and the default is a daemon"
                    )));
                }
                config.default_remote = name;
            }
        }
        config.save()
    }
}

/// A remote that is in the file.
fn known(config: &Config, name: &str) -> Result<()> {
    if name == LOCAL {
        return Err(Error::usage(
            "the local daemon is always there; HUTCH_SOCKET and HUTCH_DIR tell where",
        ));
    }
    if config.remotes.contains_key(name) {
        return Ok(());
    }
    Err(Error::usage(format!(
        "there is no remote called {name:?}; `hutch remote list` shows them"
    )))
}

fn check_name(config: &Config, name: &str) -> Result<()> {
    if name == LOCAL || config.remotes.contains_key(name) {
        return Err(Error::usage(format!("there is a remote called {name:?} already")));
    }
    if name.is_empty() || name.contains([':', '/', ' ']) {
        return Err(Error::usage(format!(
            "{name:?} can't be a remote's name: it has a colon, a slash or a blank"
        )));
    }
    Ok(())
}

/// An address in the form that the file has.
fn address(text: &str) -> Result<String> {
    let path = text
        .strip_prefix("unix://")
        .or_else(|| text.strip_prefix("unix:"))
        .unwrap_or(text);
    if path.starts_with('/') {
        return Ok(format!("unix://{path}"));
    }
    if text.starts_with("https://") || text.starts_with("http://") {
        return Ok(text.trim_end_matches('/').to_owned());
    }
    Err(Error::usage(format!(
        "{text:?} is neither the path of a socket (/PATH) nor a URL (https://…)"
    )))
}

async fn add(ctx: &Context, config: &mut Config, args: AddArgs) -> Result<()> {
    check_name(config, &args.name)?;
    let remote = Remote {
        addr: address(&args.addr)?,
        protocol: args.protocol,
        project: args.project,
    };
    match (remote.socket(), remote.protocol.is_empty()) {
        (Some(_), false) => return Err(Error::usage("a daemon needs no --protocol; that is for image servers")),
        (Some(socket), true) => {
            // Somebody has to answer there who is a daemon.
            let client = Client::new(socket.to_owned(), remote.project.clone());
            let _server: Server = client.get(ApiPath::new([""; 0])).await?;
        }
        (None, true) => return Err(Error::usage(which_protocol(ctx).await)),
        (None, false) => {
            let sources = match ctx.default_client() {
                Ok(client) => image_name::sources(&client).await.unwrap_or_default(),
                Err(_) => Vec::new(),
            };
            if !sources.is_empty() && !sources.contains(&remote.protocol) {
                ctx.say(&format!(
                    "The daemon has no image source {:?} at present; it has {}",
                    remote.protocol,
                    sources.join(", ")
                ))?;
            }
        }
    }
    config.remotes.insert(args.name, remote);
    Ok(())
}

async fn which_protocol(ctx: &Context) -> String {
    let sources = match ctx.default_client() {
        Ok(client) => image_name::sources(&client).await.unwrap_or_default(),
        Err(_) => Vec::new(),
    };
    let known = if sources.is_empty() {
        String::new()
    } else {
        format!("; the daemon knows {}", sources.join(", "))
    };
    format!("which image source is the server to be asked with? --protocol SOURCE{known}")
}

async fn list(ctx: &Context, format: FormatArg) -> Result<()> {
    let mut lines = Vec::new();
    let names = ctx.config.remotes.keys().cloned();
    let mut names: Vec<_> = names.chain([LOCAL.to_owned()]).collect();
    names.sort();
    names.dedup();
    for name in names {
        let remote = ctx.remote(&name)?;
        lines.push(Line {
            default: name == ctx.config.default_remote,
            name,
            protocol: if remote.socket().is_some() {
                "hutch".into()
            } else {
                remote.protocol
            },
            addr: remote.addr,
            project: remote.project,
        });
    }
    // The list is of the user's own file: it is complete without a daemon.
    if let Ok(client) = ctx.default_client()
        && let Ok(sources) = image_name::sources(&client).await
    {
        lines.extend(sources.into_iter().map(|name| Line {
            addr: "(a plugin of the daemon)".into(),
            protocol: name.clone(),
            project: String::new(),
            default: false,
            name,
        }));
    }
    output::print_list(format.format, &lines, |lines| {
        let mut table = Table::new(["NAME", "URL", "PROTOCOL", "PROJECT"]);
        for line in lines {
            let mark = if line.default { " (current)" } else { "" };
            let name = format!("{}{mark}", line.name);
            table.row(vec![
                name,
                line.addr.clone(),
                line.protocol.clone(),
                line.project.clone(),
            ]);
        }
        table
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_sockets_or_urls() {
        assert_eq!(address("/run/x.socket").unwrap(), "unix:///run/x.socket");
        assert_eq!(address("unix:///run/x.socket").unwrap(), "unix:///run/x.socket");
        assert_eq!(address("https://x.example/").unwrap(), "https://x.example");
        assert!(address("x.example").is_err());
    }

    #[test]
    fn names_can_be_typed_before_a_colon() {
        let config = Config::default();
        assert!(check_name(&config, "images").is_ok());
        for name in ["", "a:b", "a/b", LOCAL] {
            assert!(check_name(&config, name).is_err(), "{name:?}");
        }
    }
}

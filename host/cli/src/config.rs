//! The user's own file: where daemons and image servers are.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::output::{from_yaml, to_yaml};

/// The remote that is always there: the daemon on this machine.
pub(crate) const LOCAL: &str = "local";

/// Where the daemon of a machine keeps its state if nobody says otherwise.
const STATE_DIR: &str = "/var/lib/hutch";

/// What a remote is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Remote {
    /// `unix:///path` for a daemon's socket, else the URL of an image server.
    pub(crate) addr: String,
    /// The image source that an image server is to be asked with. A daemon has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) protocol: String,
    /// The project that commands are about; empty for the default.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) project: String,
}

impl Remote {
    /// The socket, if this is a daemon.
    pub(crate) fn socket(&self) -> Option<&Path> {
        self.addr.strip_prefix("unix://").map(Path::new)
    }
}

/// `config.yml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Config {
    /// The remote of names without one.
    pub(crate) default_remote: String,
    /// Remotes by name.
    pub(crate) remotes: BTreeMap<String, Remote>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            default_remote: LOCAL.into(),
            remotes: BTreeMap::new(),
        }
    }
}

/// The directory of the file: `HUTCH_CONF`, or `hutch` in the directory that XDG names for configuration.
fn directory() -> Result<PathBuf> {
    let set = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    set("HUTCH_CONF")
        .or_else(|| set("XDG_CONFIG_HOME").map(|dir| dir.join("hutch")))
        .or_else(|| set("HOME").map(|home| home.join(".config/hutch")))
        .ok_or_else(|| Error::usage("there is no place for the configuration: set HOME or HUTCH_CONF"))
}

impl Config {
    /// Reads the file; without one, the default. Without a home there is none to read.
    pub(crate) fn load() -> Result<Self> {
        let Ok(directory) = directory() else {
            return Ok(Self::default());
        };
        let path = directory.join("config.yml");
        match fs::read_to_string(&path) {
            Ok(text) => from_yaml(&text, &path.display().to_string()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(Error::file("cannot read", &path, error)),
        }
    }

    /// Writes the file in one step, readable by its owner only.
    pub(crate) fn save(&self) -> Result<()> {
        let directory = directory()?;
        let path = directory.join("config.yml");
        let failed = |source| Error::file("cannot write", &path, source);
        let text = to_yaml(self)?;
        fs::create_dir_all(&directory).map_err(failed)?;
        let fresh = directory.join(format!(".config.yml.{}", std::process::id()));
        let mut options = fs::OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let written = options
            .write(true)
            .create(true)
            .truncate(true)
            .open(&fresh)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .and_then(|()| fs::rename(&fresh, &path));
        if written.is_err() {
            // What is left of the attempt is of no use to anybody; the first error is the one to tell.
            let _ = fs::remove_file(&fresh);
        }
        written.map_err(failed)
    }

    /// A remote by its name. The local one is there even when the file does not have it.
    pub(crate) fn remote(&self, name: &str) -> Option<Remote> {
        let found = self.remotes.get(name).cloned();
        if name != LOCAL {
            return found;
        }
        let project = found.map(|remote| remote.project).unwrap_or_default();
        Some(Remote {
            addr: format!("unix://{}", local_socket().display()),
            project,
            ..Remote::default()
        })
    }
}

/// The socket of this machine's daemon: `HUTCH_SOCKET`, or `unix.socket` in `HUTCH_DIR` or in the usual directory.
fn local_socket() -> PathBuf {
    let set = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    set("HUTCH_SOCKET").unwrap_or_else(|| set("HUTCH_DIR").unwrap_or_else(|| STATE_DIR.into()).join("unix.socket"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_read_back_as_it_was_written() {
        let mut config = Config::default();
        let remote = Remote {
            addr: "https://images.example".into(),
            protocol: "p".into(),
            ..Remote::default()
        };
        config.remotes.insert("images".into(), remote);
        let yaml = to_yaml(&config).unwrap();
        assert_eq!(from_yaml::<Config>(&yaml, "test").unwrap(), config, "{yaml}");
        assert_eq!(config.remote("images").unwrap().socket(), None);
    }

    #[test]
    fn the_local_daemon_needs_no_entry() {
        let config = Config::default();
        assert!(config.remote(LOCAL).unwrap().socket().is_some());
        assert_eq!(config.remote("other"), None);
    }

    #[test]
    fn a_misspelt_key_is_refused() {
        assert!(from_yaml::<Config>("default-remot: x\n", "test").is_err());
    }
}

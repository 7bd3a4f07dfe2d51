//! Helper programs that run on without the daemon.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::link::Link;
use crate::protocol::Request;
use crate::spec::{BadSpec, check_environment, check_file_name, check_strings};
use crate::state::ExitStatus;

/// Version of [`ServiceSpec`]'s format. A keeper refuses another one.
pub const SERVICE_VERSION: u32 = 1;

/// A program that a keeper supervises: started again whenever it ends, after 100 ms at first and up to 30 s when it keeps
/// ending within 10 s.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    /// [`SERVICE_VERSION`].
    pub version: u32,
    /// Names it among the services of one run directory; as a container's id.
    pub id: String,
    /// Absolute path of the program.
    pub program: PathBuf,
    /// Its arguments, without the program's name.
    pub args: Vec<String>,
    /// Its environment besides `PATH`, which is the usual one of the system; nothing is inherited.
    pub env: Vec<(String, String)>,
    /// Its working directory.
    pub dir: PathBuf,
    /// Where it sees its working directory, an existing directory: in a mount namespace of its own `dir` is bound there. A
    /// program that gives up root reaches its directory by this, whoever may pass through those above `dir`.
    #[serde(default)]
    pub appears_at: Option<PathBuf>,
    /// User and group id to run as; the keeper's own, root, when `None`.
    pub user: Option<(u32, u32)>,
    /// File to which standard output and error are appended; dropped when `None`. Cut when it passes 1 MiB at a start.
    pub log: Option<PathBuf>,
}

impl ServiceSpec {
    /// Checks what can be checked without touching the system.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check(&self) -> Result<(), BadSpec> {
        if self.version != SERVICE_VERSION {
            return Err(BadSpec(format!("version {} is not {}", self.version, SERVICE_VERSION)));
        }
        check_file_name("service id", &self.id)?;
        check_strings("arguments", self.args.iter().map(String::as_str))?;
        check_environment(&self.env)?;
        let appears_absolute = self.appears_at.as_ref().is_none_or(|place| place.is_absolute());
        if !self.program.is_absolute() || !self.dir.is_absolute() || !appears_absolute {
            return Err(BadSpec(format!(
                "program {} or its directory is not absolute",
                self.program.display()
            )));
        }
        Ok(())
    }
}

/// What a service does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceState {
    /// Process id of the program; `None` while it waits to be started again or has been stopped.
    pub pid: Option<u32>,
    /// How often it was started again.
    pub restarts: u32,
    /// How it ended last time.
    pub last_exit: Option<ExitStatus>,
}

/// A supervised program. Clones are handles of the same one; dropping them leaves it running.
#[derive(Debug, Clone)]
pub struct Service {
    pub(crate) link: Arc<Link>,
}

impl Service {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        self.link.id()
    }

    /// What it does, as last told by its keeper.
    ///
    /// # Errors
    /// [`Error::Lost`] when its keeper is gone.
    pub fn state(&self) -> Result<ServiceState, Error> {
        self.link.service_state()
    }

    /// Sends a signal to the program.
    ///
    /// # Errors
    /// A fault of kind `state` when it does not run just now.
    pub async fn signal(&self, signal: i32) -> Result<(), Error> {
        self.link.call(Request::ServiceSignal { signal }).await
    }

    /// Stops it: `SIGTERM`, `SIGKILL` after 5 s. Returns when program and keeper are gone; stopping what is gone succeeds.
    ///
    /// # Errors
    /// What the keeper answers.
    pub async fn stop(&self) -> Result<(), Error> {
        match self.link.call(Request::ServiceStop).await {
            Ok(()) => {}
            // Its next user buries what is left.
            Err(Error::Lost { .. }) => return Ok(()),
            Err(error) => return Err(error),
        }
        self.link.gone().await;
        self.link.remove_record()
    }
}

//! What can go wrong on the way to and inside a keeper.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::spec::BadSpec;

/// Why an operation on a container failed. The message does not name the container: its id is the daemon's own, and whoever
/// asked knows the name.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The specification breaks a rule; nothing was done.
    #[error(transparent)]
    Spec(#[from] BadSpec),
    /// The keeper tried and failed.
    #[error("{fault}")]
    Keeper {
        /// The container or service.
        id: String,
        /// What the keeper says.
        fault: Fault,
    },
    /// The keeper is not there any more, or never came up.
    #[error("its keeper is gone")]
    Lost {
        /// The container or service.
        id: String,
    },
    /// The keeper's answer could not be understood.
    #[error("its keeper answered {what}")]
    Protocol {
        /// The container or service.
        id: String,
        /// What was wrong with it.
        what: String,
    },
    /// A keeper for this id exists already.
    #[error("it has a keeper already")]
    Exists {
        /// The container or service.
        id: String,
    },
    /// A system call in the daemon failed.
    #[error("{what} {}", path.display())]
    Io {
        /// What was being done, as a verb in its -ing form.
        what: &'static str,
        /// To what.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn io(what: &'static str, path: impl AsRef<Path>, source: impl Into<io::Error>) -> Self {
        Self::Io {
            what,
            path: path.as_ref().to_owned(),
            source: source.into(),
        }
    }

    /// The keeper's own description, when it is the keeper that failed.
    #[must_use]
    pub fn fault(&self) -> Option<&Fault> {
        match self {
            Self::Keeper { fault, .. } => Some(fault),
            _ => None,
        }
    }
}

/// A failure inside the keeper: which step, on what, why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{step}{}{}: {cause}", if object.is_empty() { "" } else { " " }, object)]
pub struct Fault {
    /// What the caller can tell apart.
    pub kind: FaultKind,
    /// The step in words: `mounting`, `executing`, `writing`.
    pub step: String,
    /// What it was done to, a path mostly; may be empty.
    pub object: String,
    /// Why, in words.
    pub cause: String,
    /// The error number, 0 when there is none.
    pub errno: i32,
}

/// Kinds of [`Fault`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum FaultKind {
    /// A system call failed.
    System,
    /// The container is not in the state that the operation needs.
    State,
    /// The program, the working directory or the exec session does not exist.
    NotFound,
    /// The program exists but can't be executed.
    NotExecutable,
    /// The request breaks a rule.
    Invalid,
    /// The keeper is older than the request, or the kernel lacks the feature.
    #[serde(other)]
    Unsupported,
}

impl Fault {
    /// A failed system call.
    #[must_use]
    pub fn system(step: &str, object: impl Into<String>, errno: i32) -> Self {
        let cause = io::Error::from_raw_os_error(errno).to_string();
        // The standard library appends " (os error N)", which says nothing to an operator.
        let cause = cause.split(" (os error").next().unwrap_or_default().to_lowercase();
        Self {
            kind: FaultKind::System,
            step: step.to_owned(),
            object: object.into(),
            cause,
            errno,
        }
    }

    /// A fault of another kind.
    #[must_use]
    pub fn new(kind: FaultKind, step: &str, object: impl Into<String>, cause: impl Into<String>) -> Self {
        Self {
            kind,
            step: step.to_owned(),
            object: object.into(),
            cause: cause.into(),
            errno: 0,
        }
    }
}

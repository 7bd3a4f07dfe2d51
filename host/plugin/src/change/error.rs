//! Why a change was not made.

use hutch_driver::DriverError;

use crate::files::FileError;
use crate::registry::RegistryError;
use crate::trust::TrustError;

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// There is no such plugin.
    #[error("there is no plugin {0:?}")]
    Unknown(String),
    /// The configuration decides about it.
    #[error("{0} is listed in the daemon's configuration: change it there, and start the daemon again")]
    Declared(String),
    /// It can't be done with this plugin or these arguments.
    #[error("{0}")]
    Invalid(String),
    /// Something else is in the way.
    #[error("{0}")]
    Conflict(String),
    /// Nobody whom the operator trusts answers for the file.
    #[error("{0}")]
    Untrusted(String),
    /// What its signature says is not enough, or the publishers' keys can't be worked with.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// It can't be fetched.
    #[error("can't fetch the file")]
    Fetch(#[source] DriverError),
    /// The file can't be taken in.
    #[error(transparent)]
    File(#[from] FileError),
    /// The change can't be recorded.
    #[error("can't record the change")]
    Registry(#[from] RegistryError),
    /// What it or its predecessor keeps can't be forgotten.
    #[error("what the plugin keeps can't be forgotten")]
    Kept(#[source] DriverError),
    /// A fault of the daemon's own.
    #[error("the daemon's own fault")]
    Own(#[from] tokio::task::JoinError),
}

impl ChangeError {
    /// The code of a driver's error that says the same: `not-found`, `invalid`, `in-use`, `not-granted`, `io`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unknown(_) | Self::File(FileError::Unknown(_)) => "not-found",
            Self::Conflict(_) | Self::Declared(_) => "in-use",
            Self::Untrusted(_) => "not-granted",
            Self::Trust(error) => match error {
                TrustError::Stranger(_) | TrustError::Revoked { .. } | TrustError::Mismatch { .. } => "not-granted",
                TrustError::Key(_)
                | TrustError::Name(_)
                | TrustError::Many
                | TrustError::Taken { .. }
                | TrustError::Signature(_) => "invalid",
                TrustError::Unknown(_) => "not-found",
                TrustError::Io { .. } | TrustError::Damaged { .. } => "io",
            },
            Self::Fetch(error) => match error.code.as_str() {
                "not-found" => "not-found",
                "limit" | "invalid" => "invalid",
                "cancelled" => "cancelled",
                _ => "unavailable",
            },
            Self::Invalid(_) | Self::File(FileError::NotAPlugin { .. } | FileError::Digest(_)) => "invalid",
            Self::File(_) | Self::Registry(_) | Self::Kept(_) => "io",
            Self::Own(_) => "internal",
        }
    }
}

/// The results of changes.
pub(crate) type Result<T, E = ChangeError> = std::result::Result<T, E>;

//! Why a driver's call failed.

use serde::{Deserialize, Serialize};

/// A failed call of a driver, with everything that a person needs to act on it. The codes are those of
/// `hutch:host/types.error`, an open space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{}{message}{}", self.origin(), self.log_suffix())]
pub struct DriverError {
    /// `invalid`, `not-found`, `already-exists`, `in-use`, `unsupported`, `no-space`, `not-requested`, `not-granted`,
    /// `unavailable`, `timeout`, `cancelled`, `limit`, `io`, `trap`, `internal`, or a driver's own with its id before it.
    pub code: String,
    /// One sentence in lower case without a full stop.
    pub message: String,
    /// Whether the same call may succeed later with nothing changed.
    pub retryable: bool,
    /// More, for programs.
    pub details: Vec<(String, String)>,
    /// The plugin that failed, empty when none is to blame.
    pub plugin: String,
    /// Its version.
    pub version: String,
    /// The last lines that it logged in this call.
    pub log: Vec<String>,
    /// Whether the plugin's own code answered this. Not so where the host says why there is no answer (no place to run it, a worker
    /// that is gone), which tells nothing of what the driver looks after.
    #[serde(skip)]
    pub answered: bool,
}

impl DriverError {
    /// An error of the host's own, with nobody else to blame.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            retryable: false,
            details: Vec::new(),
            plugin: String::new(),
            version: String::new(),
            log: Vec::new(),
            answered: false,
        }
    }

    /// The same error, blamed on a plugin.
    #[must_use]
    pub fn from_plugin(mut self, plugin: &str, version: &str) -> Self {
        self.plugin = plugin.to_owned();
        self.version = version.to_owned();
        self
    }

    /// Whether the code is `code`.
    pub fn is(&self, code: &str) -> bool {
        self.code == code
    }

    fn origin(&self) -> String {
        if self.plugin.is_empty() {
            String::new()
        } else {
            format!("plugin {} {}: ", self.plugin, self.version)
        }
    }

    fn log_suffix(&self) -> String {
        if self.log.is_empty() {
            String::new()
        } else {
            format!(" (its last log lines: {})", self.log.join(" | "))
        }
    }
}

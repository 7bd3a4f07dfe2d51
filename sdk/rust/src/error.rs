//! Why a call failed.

use crate::bindings::imports::hutch::host::types::Error as WireError;

/// The result of everything that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error as it goes to the host and comes from it.
///
/// The message is one sentence in lower case without a full stop, which names the object and the cause; it is what a person
/// gets to read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// One of the reserved codes (the constructors have them), or one of the driver's own with its id before it.
    pub code: String,
    /// For people.
    pub message: String,
    /// Whether the same call may succeed later without anything being changed.
    pub retryable: bool,
    /// For programs.
    pub details: Vec<(String, String)>,
}

impl Error {
    /// An error with any code.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            retryable: false,
            details: Vec::new(),
        }
    }

    /// `invalid`: an argument or an option can't be.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new("invalid", message)
    }

    /// `not-found`: the object is not there.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new("not-found", message)
    }

    /// `already-exists`: another object is there already.
    pub fn already_exists(message: impl Into<String>) -> Self {
        Self::new("already-exists", message)
    }

    /// `in-use`: something else needs the object as it is.
    pub fn in_use(message: impl Into<String>) -> Self {
        Self::new("in-use", message)
    }

    /// `unsupported`: the driver or the machine can't do it.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new("unsupported", message)
    }

    /// `unavailable`: something outside does not answer.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new("unavailable", message)
    }

    /// `limit`: more than is allowed.
    pub fn limit(message: impl Into<String>) -> Self {
        Self::new("limit", message)
    }

    /// `io`: reading or writing failed, or what was read is damaged.
    pub fn io(message: impl Into<String>) -> Self {
        Self::new("io", message)
    }

    /// `internal`: a fault of the driver's own.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new("internal", message)
    }

    /// Whether the code is `code`.
    pub fn is(&self, code: &str) -> bool {
        self.code == code
    }

    /// Says that the same call may succeed later.
    #[must_use]
    pub fn retryable(mut self) -> Self {
        self.retryable = true;
        self
    }

    /// Adds something for programs.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.details.push((key.into(), value.into()));
        self
    }

    /// Puts what was being done before the message; the code stays.
    #[must_use]
    pub fn context(mut self, doing: impl std::fmt::Display) -> Self {
        self.message = format!("{doing}: {}", self.message);
        self
    }
}

/// Adds what was being done to the error of a result.
pub trait Context<T> {
    /// See [`Error::context`].
    fn context<D: std::fmt::Display>(self, doing: impl FnOnce() -> D) -> Result<T>;
}

impl<T> Context<T> for Result<T> {
    fn context<D: std::fmt::Display>(self, doing: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|error| error.context(doing()))
    }
}

impl From<WireError> for Error {
    fn from(e: WireError) -> Self {
        Self {
            code: e.code,
            message: e.message,
            retryable: e.retryable,
            details: e.details,
        }
    }
}

impl From<Error> for WireError {
    fn from(e: Error) -> Self {
        Self {
            code: e.code,
            message: e.message,
            retryable: e.retryable,
            details: e.details,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_goes_before_the_message_and_the_code_stays() {
        let failed: Result<()> = Err(Error::io("the file is damaged").with("path", "a/b").retryable());
        let error = Context::context(failed, || "can't read volume c1").unwrap_err();
        assert_eq!(error.to_string(), "can't read volume c1: the file is damaged");
        assert!(error.is("io") && error.retryable);
        assert_eq!(Error::from(WireError::from(error.clone())), error);
    }
}

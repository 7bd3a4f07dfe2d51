//! Why the core could not do what it was asked.

use std::fmt::Write as _;

use hutch_container::{Fault, FaultKind};
use hutch_driver::DriverError;
use hutch_store::StoreError;

/// A refusal or failure. Its [`Display`](std::fmt::Display) names the object and what happened; [`Error::report`] adds the
/// causes, each once.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What has no name of its own is not there.
    #[error("{0} not found")]
    NotFound(&'static str),
    /// No object has this name. The text ends with what clients look for: `Instance not found`.
    #[error("{name:?}: {kind} not found")]
    Missing {
        /// What it would be, as LXD calls it: `Instance`, `Storage pool`.
        kind: &'static str,
        /// The name, or another id.
        name: String,
    },
    /// The request can't be carried out as it is: a bad name, an unknown key, a wrong state.
    #[error("{0}")]
    Invalid(String),
    /// The name is taken, or the object is in use.
    #[error("{0}")]
    Conflict(String),
    /// The caller may not do this.
    #[error("{0}")]
    Forbidden(String),
    /// The object changed since the caller read it (`If-Match`).
    #[error("the object was changed by somebody else since it was read (ETag {found}, not {wanted}): read it again")]
    Changed {
        /// What it has.
        found: String,
        /// What the caller asked for.
        wanted: String,
    },
    /// It can't be done now, and may be later.
    #[error("{0}")]
    Unavailable(String),
    /// The operation was cancelled.
    #[error("the operation was cancelled")]
    Cancelled,
    /// It took longer than the caller allowed.
    #[error("{0}")]
    Timeout(String),
    /// A driver failed.
    #[error("{action}")]
    Driver {
        /// What was being done, with the object's name.
        action: String,
        /// Why, with the plugin and its version.
        #[source]
        source: Box<DriverError>,
    },
    /// The state database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A container's keeper failed or refused.
    #[error("{action}")]
    Container {
        /// What was being done, with the instance's name.
        action: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file or other resource of the host failed.
    #[error("{action}")]
    Io {
        /// What was being done.
        action: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// The core's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The HTTP status for this error (RFC 9110).
    pub fn status(&self) -> u16 {
        match self {
            Self::NotFound(_) | Self::Missing { .. } => 404,
            Self::Invalid(_) => 400,
            Self::Conflict(_) => 409,
            Self::Forbidden(_) => 403,
            Self::Changed { .. } => 412,
            Self::Unavailable(_) => 503,
            Self::Driver { source, .. } => match source.code.as_str() {
                "invalid" | "unsupported" | "limit" => 400,
                "not-found" => 404,
                "already-exists" | "in-use" => 409,
                "not-granted" | "not-requested" => 403,
                "unavailable" => 503,
                "no-space" => 507,
                _ => 500,
            },
            Self::Container { source, .. } => match source.downcast_ref::<hutch_container::Error>() {
                // It is as the caller's own request or the instance's own state has it.
                Some(error) if error.fault().is_some_and(is_refusal) => 400,
                _ => 500,
            },
            Self::Cancelled | Self::Timeout(_) | Self::Store(_) | Self::Io { .. } => 500,
        }
    }

    /// The message with its causes, outermost first, separated by colons. What it quotes of a request, a file or a driver may have
    /// characters that a terminal obeys; they are written as `\u{1b}`.
    pub fn report(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let message = error.to_string();
            // A transparent error repeats its source; each is said once.
            if !text.ends_with(&message) {
                let _ = write!(text, ": {message}");
            }
            cause = error.source();
        }
        harmless(text)
    }

    /// A driver's failure during `action`.
    pub fn driver(action: impl Into<String>) -> impl FnOnce(DriverError) -> Self {
        let action = action.into();
        move |source| Self::Driver {
            action,
            source: Box::new(source),
        }
    }

    /// Whether a driver says that something outside does not answer and may answer again, with nothing changed.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(self, Self::Driver { source, .. } if source.retryable && source.is("unavailable"))
    }

    /// A keeper's failure during `action`.
    pub fn container<E: std::error::Error + Send + Sync + 'static>(
        action: impl Into<String>,
    ) -> impl FnOnce(E) -> Self {
        let action = action.into();
        move |source| Self::Container {
            action,
            source: Box::new(source),
        }
    }

    /// A failure of the host's during `action`.
    pub fn io(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }

    /// That no `kind` is called `name`.
    pub fn missing(kind: &'static str, name: impl Into<String>) -> Self {
        Self::Missing {
            kind,
            name: name.into(),
        }
    }

    /// Whether it is what a caller wanted who took an operation back, from whatever depth it comes.
    pub fn is_cancelled(&self) -> bool {
        match self {
            Self::Cancelled => true,
            Self::Driver { source, .. } => source.is("cancelled"),
            _ => false,
        }
    }

    /// Whether it says that an object is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound(_) | Self::Missing { .. })
    }

    /// For what the caller named in a request for something else: that it is not there is the request's fault, and 404 would say
    /// that the object of the request is missing.
    pub(crate) fn of_request(self) -> Self {
        if self.status() == 404 {
            Self::Invalid(self.report())
        } else {
            self
        }
    }

    /// A refusal with this text.
    pub fn invalid(text: impl Into<String>) -> Self {
        Self::Invalid(text.into())
    }
}

/// Whether a keeper refused what it was asked for, and did not fail in it.
fn is_refusal(fault: &Fault) -> bool {
    matches!(fault.kind, FaultKind::Invalid | FaultKind::State)
}

/// Whether a terminal obeys the character instead of showing it: controls (Unicode's category Cc), and those that turn the text
/// around (Unicode Standard Annex 9, section 2).
pub(crate) fn is_obeyed(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text with such characters written out, but for line breaks.
pub fn harmless(text: String) -> String {
    let obeyed = |c: char| is_obeyed(c) && c != '\n';
    if !text.contains(obeyed) {
        return text;
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if obeyed(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_written_out() {
        let report = Error::invalid("a\u{1b}[31m b\0c\u{202e}d\ne é").report();
        assert_eq!(report, "a\\u{1b}[31m b\\u{0}c\\u{202e}d\ne é");
    }

    #[test]
    fn a_report_says_each_cause_once() {
        let error = Error::driver("creating volume c1")(
            DriverError::new("no-space", "the pool is full").from_plugin("org.x", "1.0"),
        );
        assert_eq!(error.report(), "creating volume c1: plugin org.x 1.0: the pool is full");
        assert_eq!(error.status(), 507);
    }

    #[test]
    fn what_clients_match_on_is_kept() {
        let error = Error::missing("Instance", "c1");
        assert_eq!((error.status(), &*error.report()), (404, "\"c1\": Instance not found"));
    }
}

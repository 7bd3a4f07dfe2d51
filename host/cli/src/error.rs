//! What goes wrong, in the words the user reads.

use std::io;
use std::path::{Path, PathBuf};

use crate::commands::plugin::ArchiveError;

/// A failure of a command. [`report`] puts its chain of causes into the one line that is printed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Nobody answers at the daemon's socket.
    #[error("cannot reach the daemon at {}{}", path.display(), connect_hint(source))]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The connection broke, or what came over it was not HTTP.
    #[error("the connection to the daemon failed")]
    Http(#[from] hyper::Error),
    /// The daemon's answer, or a part of it, is not what the API says.
    #[error("cannot understand the daemon's answer to {request}")]
    Answer {
        /// Method and path.
        request: String,
        /// Where reading it ended.
        source: serde_json::Error,
    },
    /// The daemon refused. Its own words.
    #[error("{message}")]
    Server {
        /// The HTTP status.
        status: u16,
        /// What the daemon said.
        message: String,
    },
    /// An operation failed. The daemon's own words.
    #[error("{0}")]
    Operation(String),
    /// A websocket failed.
    #[error("a websocket to the daemon failed")]
    WebSocket(#[source] Box<tokio_tungstenite::tungstenite::Error>),
    /// The command can't be done as it was given. A sentence for the user.
    #[error("{0}")]
    Usage(String),
    /// A question was asked, and the input had ended.
    #[error("there was no answer")]
    NoAnswer,
    /// A file, a terminal or a program of the user's.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// YAML that can't be read.
    #[error("{what} is not the YAML that is expected here: {reason}")]
    Yaml {
        /// Where it came from.
        what: String,
        /// Where reading it ended, and why.
        reason: String,
    },
    /// JSON that can't be read or written.
    #[error("{what} is not the JSON that is expected here")]
    Json {
        /// Where it came from.
        what: String,
        /// Where reading it ended.
        source: serde_json::Error,
    },
    /// An archive of plugins.
    #[error("{}", path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What is wrong with it.
        source: ArchiveError,
    },
    /// A failure about a named object, of several or one that the cause does not name.
    #[error("{name}")]
    About {
        /// The object's name.
        name: String,
        /// What happened to it.
        source: Box<Error>,
    },
    /// Some of several failed, and each has been reported.
    #[error("{failed} of {total} failed")]
    Several {
        /// How many failed.
        failed: usize,
        /// How many there were.
        total: usize,
    },
}

/// What commands return.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

fn connect_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            " (is hutchd running? HUTCH_DIR or HUTCH_SOCKET names another one)"
        }
        io::ErrorKind::PermissionDenied => " (this needs root, or membership of the group that owns the socket)",
        _ => "",
    }
}

impl Error {
    /// Something that the user got wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    /// A failure of the system while doing `what` to a file.
    pub(crate) fn file(what: &str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            what: format!("{what} {}", path.display()),
            source,
        }
    }

    /// A failure of the system while doing `what`.
    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> Self {
        Self::Io {
            what: what.into(),
            source,
        }
    }

    /// Names the object, unless the message does already. The daemon's words stay at the end, because scripts match them there.
    pub(crate) fn about(self, name: &str) -> Self {
        match &self {
            Self::Server { message, .. } | Self::Operation(message) if !message.contains(name) => Self::About {
                name: name.to_owned(),
                source: Box::new(self),
            },
            _ => self,
        }
    }

    /// The HTTP status of a refusal.
    pub(crate) fn status(&self) -> Option<u16> {
        match self {
            Self::Server { status, .. } => Some(*status),
            Self::About { source, .. } => source.status(),
            _ => None,
        }
    }
}

impl From<tokio_tungstenite::tungstenite::Error> for Error {
    fn from(error: tokio_tungstenite::tungstenite::Error) -> Self {
        Self::WebSocket(Box::new(error))
    }
}

/// What came of doing the same thing to several objects, where a failure doesn't keep the others from it.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    total: usize,
    errors: Vec<Error>,
}

impl Failures {
    /// Takes what came of one.
    pub(crate) fn note(&mut self, result: Result<()>) {
        self.total += 1;
        self.errors.extend(result.err());
    }

    /// The only failure as it is; several are printed and counted.
    pub(crate) fn result(mut self) -> Result<()> {
        match self.errors.len() {
            0 => Ok(()),
            1 => self.errors.pop().map_or(Ok(()), Err),
            failed => {
                for error in &self.errors {
                    eprintln!("Error: {}", report(error));
                }
                Err(Error::Several {
                    failed,
                    total: self.total,
                })
            }
        }
    }
}

/// An error's words without the number that Rust adds to those of the system.
fn words(error: &dyn std::error::Error) -> String {
    let text = error.to_string();
    match text.rfind(" (os error ") {
        Some(at) if text.ends_with(')') => text[..at].to_owned(),
        _ => text,
    }
}

/// The whole chain of an error on one line.
pub(crate) fn report(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let words = words(error);
        // Some libraries repeat their cause in their own words.
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_is_named_once_and_the_daemons_words_end_the_line() {
        let refused = || Error::Server {
            status: 404,
            message: "Instance not found".into(),
        };
        assert_eq!(report(&refused().about("c1")), "c1: Instance not found");
        let named = Error::Server {
            status: 404,
            message: "no pool c1".into(),
        };
        assert_eq!(report(&named.about("c1")), "no pool c1");
        assert_eq!(refused().about("c1").status(), Some(404));
    }

    #[test]
    fn an_absent_daemon_is_said_with_what_to_do() {
        let error = Error::Connect {
            path: "/x/unix.socket".into(),
            source: io::ErrorKind::NotFound.into(),
        };
        let line = report(&error);
        assert!(
            line.starts_with("cannot reach the daemon at /x/unix.socket (is hutchd running?"),
            "{line}"
        );
        assert!(line.ends_with("entity not found"), "{line}");
    }
}

//! What can go wrong.

/// What this crate answers with.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a database did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The connection can't be used.
    #[error("the connection to the database failed: {0}")]
    Transport(String),
    /// The server closed the connection.
    #[error("the database closed the connection")]
    Closed,
    /// What the server said is not the protocol.
    #[error("the database's answer is not understood: {0}")]
    Protocol(String),
    /// A message is longer than [`LARGEST_MESSAGE`](crate::LARGEST_MESSAGE).
    #[error("the database sent a message of more than {0} bytes")]
    TooLarge(usize),
    /// The server refused the request as a whole: the database is not there, or the server is not in a state to change it.
    #[error("the database refused the request: {0}")]
    Refused(String),
    /// An operation of a transaction failed, and with it all of them. `code` is as RFC 7047, 3.1 and 5.2 have it: `constraint
    /// violation`, `referential integrity violation`, `timed out`, …
    #[error("the database refused {operation}: {code}{}", details.as_ref().map_or_else(String::new, |text| format!(": {text}")))]
    Operation {
        /// Which one: the kind and the table.
        operation: String,
        /// What kind of failure.
        code: String,
        /// The server's explanation.
        details: Option<String>,
    },
    /// A column has a value of another kind than it is asked for as, or is missing.
    #[error("the column {column:?} is not {expected}")]
    Column {
        /// The column.
        column: String,
        /// What was expected.
        expected: &'static str,
    },
}

impl Error {
    /// Whether what was waited for in a transaction ([`Transaction::wait`](crate::Transaction::wait)) is not so: somebody else changed
    /// the database in between, and who reads it anew may try again.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Operation { code, .. } if code == "timed out")
    }

    /// Whether the database can't be reached or is not in a state to serve: another server of a cluster may be.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Transport(_) | Self::Closed => true,
            Self::Operation { code, .. } | Self::Refused(code) => code == "not leader" || code == "cluster error",
            _ => false,
        }
    }
}

//! What can go wrong with interfaces and filters.

use rustix::io::Errno;

/// Why a change or a look failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused a request, or a system call failed.
    #[error("can't {what}")]
    Kernel {
        /// What could not be done to which object.
        what: String,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
    /// There is something else of that name.
    #[error("{name} exists and is {found}, not {wanted}")]
    WrongKind {
        /// The interface.
        name: String,
        /// What it is.
        found: String,
        /// What was asked for.
        wanted: &'static str,
    },
    /// There is an interface of that name that somebody else made.
    #[error("there is an interface {name} already, which belongs to something else: choose another name, or remove it")]
    Taken {
        /// The interface.
        name: String,
    },
    /// There is no such interface.
    #[error("there is no interface {name}")]
    NotFound {
        /// The interface.
        name: String,
    },
    /// An argument that can't be.
    #[error("{0}")]
    Invalid(String),
    /// The kernel's message could not be understood.
    #[error("a message of the kernel can't be understood: {0}")]
    Protocol(&'static str),
    /// `nft` could not be run or refused a ruleset.
    #[error("{0}")]
    Filter(String),
}

impl Error {
    pub(crate) fn kernel(what: impl Into<String>, source: Errno) -> Self {
        Self::Kernel {
            what: what.into(),
            source,
        }
    }

    /// The kernel's error number, where it is the kernel that refused.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Kernel { source, .. } => Some(*source),
            _ => None,
        }
    }
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

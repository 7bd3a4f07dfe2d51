//! Why an archive was not read, unpacked or written.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

/// An error number of the kernel (errno(3)). Unlike [`io::Error`] it can be compared and sent to another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errno(pub i32);

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

impl std::error::Error for Errno {}

impl From<rustix::io::Errno> for Errno {
    fn from(e: rustix::io::Errno) -> Self {
        Self(e.raw_os_error())
    }
}

impl From<&io::Error> for Errno {
    fn from(e: &io::Error) -> Self {
        Self(e.raw_os_error().unwrap_or(rustix::io::Errno::IO.raw_os_error()))
    }
}

/// What is wrong with an entry that would have been harmful or can't be represented.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The name begins with a slash.
    #[error("its name is absolute")]
    Absolute,
    /// The name has a component `..`.
    #[error("its name leads upwards")]
    Upwards,
    /// The name is empty or contains a zero byte.
    #[error("its name is not a path")]
    NotAPath,
    /// The name or one of its components is longer than the kernel takes (path_resolution(7), limits.h), or has more
    /// components than [`crate::Limits::depth`].
    #[error("its name is too long or too deep")]
    TooLong,
    /// A parent is a symbolic link, so that the entry would land somewhere else.
    #[error("it lies behind a symbolic link")]
    BehindSymlink,
    /// A parent is not a directory.
    #[error("its parent is not a directory")]
    ParentNotDirectory,
    /// Something that is not a directory would take the place of one.
    #[error("it would replace a directory")]
    ReplacesDirectory,
    /// A block or character device outside `dev/`.
    #[error("it is a device node outside /dev")]
    Device,
    /// A hard link to what is not in the tree, or to a directory.
    #[error("it is a hard link to {0:?}, which is no file of the image")]
    LinkTarget(String),
    /// A user or group id above 2^32 - 2: the id 2^32 - 1 means "unchanged" to chown(2).
    #[error("its owner is not a valid id")]
    Owner,
    /// What should be a regular file is something else.
    #[error("it is not a regular file")]
    NotAFile,
    /// A kind of entry that no image needs, such as a part of a multi-volume archive.
    #[error("its type {0:?} is not known")]
    Type(char),
    /// Extended attributes that are larger than the kernel takes (xattr(7)).
    #[error("its extended attributes are too large")]
    Xattrs,
}

/// Why an archive was not read, unpacked or written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Error {
    /// Neither a tar archive (plain, gzip, bzip2, xz, zstd) nor a squashfs image.
    #[error("this is neither a tar archive nor a squashfs image")]
    Format,
    /// Known, but not something that can become a container.
    #[error("this is {0}, which is not supported")]
    Unsupported(String),
    /// The archive ends in the middle.
    #[error("the archive is truncated")]
    Truncated,
    /// The archive contradicts its format.
    #[error("the archive is damaged: {0}")]
    Corrupt(String),
    /// An entry that is not accepted.
    #[error("the archive's entry {entry:?} is refused")]
    Refused {
        /// Its name as far as it can be shown.
        entry: String,
        /// Why.
        #[source]
        reason: Refusal,
    },
    /// The archive is larger than what is allowed.
    #[error("the archive exceeds the limit of {limit} {unit}")]
    Limit {
        /// The limit that was exceeded.
        limit: u64,
        /// What it counts.
        unit: String,
    },
    /// The image lacks something that every image has.
    #[error("the image has no {0}")]
    Missing(String),
    /// `metadata.yaml` or a template is not what it should be.
    #[error("the image's {file} is invalid: {reason}")]
    Invalid {
        /// The file in the archive.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file system into which the archive is unpacked, or onto which one is written, is full (or its quota is used up).
    #[error("no space is left for {entry:?}")]
    NoSpace {
        /// The entry that did not fit.
        entry: String,
        /// ENOSPC or EDQUOT.
        #[source]
        source: Errno,
    },
    /// The archive can't be read.
    #[error("cannot read the archive")]
    Read(#[source] Errno),
    /// A file of the tree can't be made, read or changed.
    #[error("cannot {action} {entry:?}")]
    Tree {
        /// What was tried, as a verb.
        action: String,
        /// On which entry.
        entry: String,
        /// Why it failed.
        #[source]
        source: Errno,
    },
    /// The archive can't be written.
    #[error("cannot write the archive")]
    Write(#[source] Errno),
    /// The jail of the process that unpacks can't be made.
    #[error("cannot confine the process that reads the archive ({step})")]
    Jail {
        /// Which part of it.
        step: String,
        /// Why.
        #[source]
        source: Errno,
    },
    /// The process that unpacks can't be started, ended without an answer or answered nonsense.
    #[error("the process that reads the archive failed: {0}")]
    Process(String),
    /// The caller gave up.
    #[error("cancelled")]
    Cancelled,
}

/// The result of everything here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Whether the archive itself is to blame, and not the machine: the caller's error, not the server's.
    pub fn is_archive_fault(&self) -> bool {
        matches!(
            self,
            Self::Format
                | Self::Unsupported(_)
                | Self::Truncated
                | Self::Corrupt(_)
                | Self::Refused { .. }
                | Self::Limit { .. }
                | Self::Missing(_)
                | Self::Invalid { .. }
        )
    }

    pub(crate) fn refused(entry: &[u8], reason: Refusal) -> Self {
        Self::Refused {
            entry: show(entry),
            reason,
        }
    }

    pub(crate) fn corrupt(what: impl Into<String>) -> Self {
        Self::Corrupt(what.into())
    }

    /// A failed system call on an entry of the tree; a full file system is told apart.
    pub(crate) fn tree(action: &str, entry: &[u8], e: rustix::io::Errno) -> Self {
        use rustix::io::Errno as E;
        match e {
            E::NOSPC | E::DQUOT => Self::NoSpace {
                entry: show(entry),
                source: e.into(),
            },
            _ => Self::Tree {
                action: action.to_owned(),
                entry: show(entry),
                source: e.into(),
            },
        }
    }

    /// What reading (and decompressing) the archive reported.
    pub(crate) fn read(e: &io::Error) -> Self {
        if let Some(errno) = e.raw_os_error() {
            return Self::Read(Errno(errno));
        }
        if e.kind() == io::ErrorKind::UnexpectedEof {
            return Self::Truncated;
        }
        Self::Corrupt(e.to_string())
    }
}

/// A name from an archive for a message: lossy and of bounded length.
pub(crate) fn show(name: &[u8]) -> String {
    const MOST: usize = 200;
    let text = String::from_utf8_lossy(&name[..name.len().min(MOST)]).into_owned();
    if name.len() > MOST { text + "…" } else { text }
}

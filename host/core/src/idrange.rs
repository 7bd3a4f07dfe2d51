//! Ranges of user and group ids for user namespaces, shared by all daemons of the machine.
//!
//! Files keep unshifted ids on disk, so a range matters only while its container runs. Who holds the lock on a range's
//! file in the machine-wide directory owns the range: the keeper keeps the descriptor open, and the range is free again
//! the moment that process is gone, whoever of daemon and keeper died first. Nothing has to be cleaned up.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::{Error, Result};

/// Ids in a range: what distributions expect to have.
pub const RANGE: u32 = 65_536;
/// The first id that is given out. Below lie what `/etc/subuid` gives to people by default and what systemd uses
/// (systemd's `UIDS-GIDS`: 524288 and up to 1879048191 for its containers, from which only a part is taken here).
const FIRST: u32 = 0x7000_0000;
/// How many ranges there are: the top of the id space stays free, because 2^32-1 is no id.
const COUNT: u32 = 0x3000;

/// A range that is held as long as [`IdRange::lock`] or a copy of it is open.
#[derive(Debug)]
pub struct IdRange {
    /// The host's id of the container's 0.
    pub base: u32,
    /// The lock; whoever keeps it open holds the range.
    pub lock: File,
}

/// Gives out ranges.
#[derive(Debug)]
pub struct IdRanges {
    directory: PathBuf,
    next: AtomicU32,
}

impl IdRanges {
    /// Ranges that are locked in `directory`, which every daemon of the machine must name alike.
    ///
    /// # Errors
    /// [`Error::Io`] when the directory can't be made.
    pub fn open(directory: &Path) -> Result<Self> {
        let make = |path: &Path, mode: u32| {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(mode)
                .create(path)
                .map_err(Error::io(format!("making {}", path.display())))
        };
        // Others have their places in the directory above, too: helper services that gave up root pass through it.
        if let Some(parent) = directory.parent() {
            make(parent, 0o755)?;
        }
        make(directory, 0o700)?;
        // Daemons begin at different places, so that they seldom try a range that another holds.
        let start = rand::random::<u32>() % COUNT;
        Ok(Self {
            directory: directory.to_owned(),
            next: AtomicU32::new(start),
        })
    }

    /// Takes a free range.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when all are taken, [`Error::Io`] when a lock file can't be made.
    pub fn take(&self) -> Result<IdRange> {
        for _ in 0..COUNT {
            let index = self.next.fetch_add(1, Ordering::Relaxed) % COUNT;
            let path = self.directory.join(index.to_string());
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(0o600)
                .open(&path)
                .map_err(Error::io(format!("opening {}", path.display())))?;
            match file.try_lock() {
                Ok(()) => {
                    return Ok(IdRange {
                        base: FIRST + index * RANGE,
                        lock: file,
                    });
                }
                Err(std::fs::TryLockError::WouldBlock) => {}
                Err(std::fs::TryLockError::Error(source)) => {
                    return Err(Error::Io {
                        action: format!("locking {}", path.display()),
                        source,
                    });
                }
            }
        }
        Err(Error::Unavailable(format!(
            "all {COUNT} ranges of user ids of this machine are in use"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_daemons_never_get_one_range() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (IdRanges::open(dir.path()).unwrap(), IdRanges::open(dir.path()).unwrap());
        let held: Vec<IdRange> = (0..64)
            .map(|i| if i % 2 == 0 { a.take() } else { b.take() }.unwrap())
            .collect();
        let mut bases: Vec<u32> = held.iter().map(|range| range.base).collect();
        bases.sort_unstable();
        bases.dedup();
        assert_eq!(bases.len(), 64);
        assert!(bases.iter().all(|base| base.checked_add(RANGE).is_some()));
    }

    #[test]
    fn a_range_is_free_again_when_its_holder_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let ranges = IdRanges {
            directory: dir.path().to_owned(),
            next: AtomicU32::new(7),
        };
        let base = ranges.take().unwrap().base;
        ranges.next.store(7, Ordering::Relaxed);
        assert_eq!(ranges.take().unwrap().base, base);
    }
}

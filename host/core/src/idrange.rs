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
    /// Whether this process's user namespace has the ids at all.
    has_ids: bool,
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
            has_ids: has_ids("/proc/self/uid_map")? && has_ids("/proc/self/gid_map")?,
        })
    }

    /// Takes a free range.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when all are taken, or when this daemon is in a container that has only its own; [`Error::Io`] when a lock
    /// file can't be made.
    pub fn take(&self) -> Result<IdRange> {
        if !self.has_ids {
            return Err(Error::Unavailable(
                "this daemon runs in a container that has no user ids for another one: set security.privileged=true, with which root \
                 inside is the root of this container, and nobody's on the machine"
                    .to_owned(),
            ));
        }
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

/// Whether an id map (`user_namespaces(7)`) has all ids that are given out.
fn has_ids(path: &str) -> Result<bool> {
    let text = std::fs::read_to_string(path).map_err(Error::io(format!("reading {path}")))?;
    Ok(maps_all(&text))
}

fn maps_all(map: &str) -> bool {
    let wanted = u64::from(FIRST)..u64::from(FIRST) + u64::from(COUNT) * u64::from(RANGE);
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(|number| number.parse::<u64>().unwrap_or(0));
        let (first, count) = (numbers.next().unwrap_or(0), numbers.nth(1).unwrap_or(0));
        first <= wanted.start && first + count >= wanted.end
    })
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
    fn a_container_is_told_from_a_machine() {
        assert!(maps_all("         0          0 4294967295\n"));
        assert!(!maps_all("         0 2429812736      65536\n"));
        assert!(!maps_all(""));
    }

    #[test]
    fn a_range_is_free_again_when_its_holder_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let ranges = IdRanges {
            directory: dir.path().to_owned(),
            next: AtomicU32::new(7),
            has_ids: true,
        };
        let base = ranges.take().unwrap().base;
        ranges.next.store(7, Ordering::Relaxed);
        assert_eq!(ranges.take().unwrap().base, base);
    }
}

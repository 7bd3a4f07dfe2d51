//! User ids of workers: one for each, from a range of the machine's that nothing else uses.
//!
//! Who holds the lock on an id's file in the machine-wide directory has the id. The kernel lets go of it with the process that
//! holds it, so nothing has to be cleaned up.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

/// The first id. It lies behind those of containers (`host/core/src/idrange.rs`) and below 2^32-2, where the ids end that mean
/// something else (systemd's `UIDS-GIDS`).
const FIRST: u32 = 0xa000_0000;
/// How many there are: more than processes that a machine has for plugins.
const COUNT: u32 = 4096;

/// Where the search for a free id begins, so that one that was just given back is not given out at once.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// An id that is held as long as this is.
#[derive(Debug)]
pub(super) struct WorkerId {
    /// The user id, which is also the group id.
    pub(super) id: u32,
    _lock: File,
}

/// Takes a free id in `directory`.
///
/// # Errors
/// The directory can't be used, or all ids are taken.
pub(super) fn take(directory: &Path) -> io::Result<WorkerId> {
    if let Some(parent) = directory.parent() {
        // Others have their places in there, too.
        DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
    }
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    for _ in 0..COUNT {
        let number = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(directory.join(number.to_string()))?;
        match file.try_lock() {
            Ok(()) => {
                return Ok(WorkerId {
                    id: FIRST + number,
                    _lock: file,
                });
            }
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Err(io::Error::other("all user ids for plugins are taken"))
}

/// Takes this id in `directory`, unless somebody has it or it is none of these.
pub(super) fn take_one(directory: &Path, id: u32) -> Option<WorkerId> {
    let number = id.checked_sub(FIRST).filter(|number| *number < COUNT)?;
    let file = OpenOptions::new()
        .write(true)
        .open(directory.join(number.to_string()))
        .ok()?;
    file.try_lock().ok()?;
    Some(WorkerId { id, _lock: file })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_id_is_given_out_twice() {
        let directory = tempfile::tempdir().expect("a directory");
        let ids: Vec<_> = (0..COUNT).map(|_| take(directory.path()).expect("free")).collect();
        let distinct: std::collections::BTreeSet<_> = ids.iter().map(|id| id.id).collect();
        assert_eq!(distinct.len(), ids.len());
        take(directory.path()).expect_err("all are taken");
        drop(ids);
        take(directory.path()).expect("free again");
    }
}

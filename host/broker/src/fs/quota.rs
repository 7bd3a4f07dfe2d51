//! Limits of trees by project quota. A tree's project number is kept on its directories by the file system; the broker
//! chooses one that nothing uses and remembers nothing.

use std::os::fd::AsRawFd as _;

use hutch_driver::DriverError;
use hutch_sys::quota::{self, Project};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Dir, FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;

use super::tree::OpenRoot;
use crate::error::{io, os};

/// How deep trees may be that get their first limit: one descriptor is open per level.
const MAX_DEPTH: usize = 512;
/// How many numbers are tried before giving up; with a billion of them the first one does.
const TRIES: usize = 16;

/// Whether limits are enforced on the root's file system.
pub(super) fn in_force(root: &OpenRoot) -> bool {
    root.open_dir("").is_ok_and(quota::project_quota_enforced)
}

/// Bytes in use by the tree; `None` if it has no project of its own.
pub(super) fn usage(root: &OpenRoot, path: &str) -> Result<Option<u64>, DriverError> {
    let what = || format!("can't ask what {} uses", root.describe(path));
    let dir = root.open_dir(path).map_err(|e| os(what(), e))?;
    let project = quota::project(&dir).map_err(|e| io(what(), &e))?;
    if project.id == 0 || !project.inherit {
        return Ok(None);
    }
    quota::usage(&dir, project.id)
        .map(|usage| Some(usage.bytes))
        .map_err(|e| io(what(), &e))
}

/// Limits the tree, which becomes a project of its own if it is none yet.
pub(super) fn set(root: &OpenRoot, path: &str, bytes: Option<u64>) -> Result<(), DriverError> {
    let what = || format!("can't limit {}", root.describe(path));
    let dir = root.open_dir(path).map_err(|e| os(what(), e))?;
    let mut project = quota::project(&dir).map_err(|e| io(what(), &e))?;
    if project.id == 0 {
        if bytes.is_none() {
            return Ok(());
        }
        project.id = unused(&dir).map_err(|e| io(what(), &e))?;
    }
    if let Some(bytes) = bytes
        && project.inherit
        && let used = quota::usage(&dir, project.id).map_err(|e| io(what(), &e))?.bytes
        && used > bytes
    {
        return Err(DriverError::new(
            "in-use",
            format!("{} to {bytes} bytes: it holds {used} already", what()),
        ));
    }
    // The limit is in force before files are counted, and the directory itself is marked last: a repetition after a crash
    // in between finds it unmarked or with its number, and goes through the tree again.
    quota::set_limit(&dir, project.id, bytes).map_err(|e| io(what(), &e))?;
    if !project.inherit {
        quota::set_project(
            &dir,
            Project {
                id: project.id,
                inherit: false,
            },
        )
        .map_err(|e| io(what(), &e))?;
        assign(dir.as_fd(), project.id, 0).map_err(|e| match e {
            Errno::LOOP => DriverError::new(
                "limit",
                format!("{}: it is deeper than {MAX_DEPTH} directories", what()),
            ),
            e => os(what(), e),
        })?;
        quota::set_project(
            &dir,
            Project {
                id: project.id,
                inherit: true,
            },
        )
        .map_err(|e| io(what(), &e))?;
    }
    Ok(())
}

/// Gives `file` the project that what is made in `dir` has, so that it can be renamed there.
pub(super) fn adopt(dir: &OwnedFd, file: BorrowedFd<'_>) -> Result<(), std::io::Error> {
    let dir = openat(
        dir,
        ".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let project = quota::project(dir)?;
    quota::set_project(
        file,
        Project {
            id: project.id,
            inherit: false,
        },
    )
}

/// A number that no file has and that no limit is set for.
fn unused(dir: &OwnedFd) -> Result<u32, std::io::Error> {
    for _ in 0..TRIES {
        let (high, _) = uuid::Uuid::new_v4().as_u64_pair();
        // Small numbers are left to people who give them by hand (projects(5)), the highest bit to signed readers.
        let id = u32::try_from(high >> 33).unwrap_or_default() | 0x4000_0000;
        if quota::usage(dir, id)? == quota::Usage::default() {
            return Ok(id);
        }
    }
    Err(std::io::Error::other("no unused project number was found"))
}

/// Gives everything below `dir` the project. Only directories and regular files are opened: the others hold no data.
fn assign(dir: BorrowedFd<'_>, id: u32, depth: usize) -> Result<(), Errno> {
    if depth >= MAX_DEPTH {
        return Err(Errno::LOOP);
    }
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        // First without opening it: somebody inside may put a device where a file was.
        let path = match openat(
            dir,
            entry.file_name(),
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            Err(Errno::NOENT) => continue,
            other => other?,
        };
        let is_dir = match FileType::from_raw_mode(fstat(&path)?.st_mode) {
            FileType::Directory => true,
            FileType::RegularFile => false,
            _ => continue,
        };
        let reopened = rustix::fs::open(
            format!("/proc/self/fd/{}", path.as_raw_fd()),
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let project = Project { id, inherit: is_dir };
        quota::set_project(&reopened, project).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
        if is_dir {
            assign(reopened.as_fd(), id, depth + 1)?;
        }
    }
    Ok(())
}

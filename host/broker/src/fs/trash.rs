//! Taking trees away at once and removing them in the background.
//!
//! What is discarded is renamed into `.hutch-trash` at the top of its root, under a name of its own, and a thread with low
//! priority removes it. Unfinished copies and files are made there too, so that whatever a killed daemon leaves is in this
//! one directory; it is emptied when the root is first used again, that of a service when the daemon starts.

use std::collections::VecDeque;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};

use hutch_driver::DriverError;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, IFlags, Mode, OFlags, mkdirat, openat, renameat, statat, unlinkat};
use rustix::io::Errno;

use super::tree::{OpenRoot, Place, open_beneath, open_within};
use crate::error::{internal, os};

/// The directory at the top of a root.
pub(super) const TRASH: &str = ".hutch-trash";

/// How deep the removal descends before it moves a directory to the top of the trash instead: bounds the descriptors
/// and the stack, whatever somebody in a container made.
const MAX_DEPTH: usize = 24;

/// Opens the trash of a root, which is made if it is missing.
pub(super) fn open_trash(root: &OpenRoot) -> Result<OwnedFd, DriverError> {
    let fail = |e| os(format_args!("can't open {TRASH} in {}", root.describe("")), e);
    match open_beneath(&root.fd, TRASH, OFlags::PATH | OFlags::DIRECTORY) {
        Err(Errno::NOENT) => {}
        other => return other.map_err(fail),
    }
    match mkdirat(&root.fd, TRASH, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(fail(e)),
    }
    open_beneath(&root.fd, TRASH, OFlags::PATH | OFlags::DIRECTORY).map_err(fail)
}

/// A name that nothing else in a trash has.
pub(super) fn fresh_name() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// The thread that empties trashes.
#[derive(Debug)]
pub(super) struct Reaper {
    jobs: Sender<Job>,
}

#[derive(Debug)]
enum Job {
    /// Remove this name from the trash of the root at this path. The root is opened anew, so that a waiting job does not
    /// keep a file system from being unmounted.
    Remove(PathBuf, String),
    /// Answer when everything that was asked for before is done.
    Flush(Sender<()>),
}

impl Reaper {
    /// Starts the thread.
    ///
    /// # Errors
    /// `internal` where the system has no room for a thread.
    pub(super) fn start() -> Result<Self, DriverError> {
        let (jobs, receiver) = channel();
        std::thread::Builder::new()
            .name("hutch-reaper".to_owned())
            .spawn(move || run(&receiver))
            .map_err(|e| internal(format!("can't start the thread that removes discarded trees: {e}")))?;
        Ok(Self { jobs })
    }

    /// Has `name` in the trash of `root` removed.
    pub(super) fn remove(&self, root: &Path, name: String) {
        self.send(Job::Remove(root.to_owned(), name));
    }

    /// Returns when all earlier removals are done. Blocks.
    pub(super) fn flush(&self) {
        let (done, wait) = channel();
        self.send(Job::Flush(done));
        // An error means that the thread is gone, and with it everything that could be waited for.
        let _ = wait.recv();
    }

    fn send(&self, job: Job) {
        if self.jobs.send(job).is_err() {
            tracing::error!("the thread that removes discarded trees is gone; they are removed after a restart");
        }
    }
}

fn run(jobs: &Receiver<Job>) {
    if let Err(e) = rustix::process::nice(10) {
        tracing::debug!("can't lower the priority of the removal of discarded trees: {e}");
    }
    while let Ok(job) = jobs.recv() {
        match job {
            Job::Flush(done) => drop(done.send(())),
            Job::Remove(root, name) => {
                if let Err(e) = remove_from(&root, &name) {
                    tracing::warn!(root = %root.display(), name, "can't remove a discarded tree: {e}");
                }
            }
        }
    }
}

fn remove_from(root: &Path, name: &str) -> Result<(), Errno> {
    let root = match openat(
        rustix::fs::CWD,
        root,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    ) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    match open_beneath(&root, TRASH, OFlags::RDONLY | OFlags::DIRECTORY) {
        Err(Errno::NOENT) => Ok(()),
        other => remove_tree(other?.as_fd(), name),
    }
}

/// Removes `name` and all below it from `trash`. What is already gone is no error, so that two may do it at once.
pub(super) fn remove_tree(trash: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
    let mut queue = VecDeque::from([name.to_owned()]);
    let mut first_error = None;
    while let Some(name) = queue.pop_front() {
        let result = remove_entry(trash, c_name(&name)?.as_c_str(), trash, 0, &mut queue);
        if let Err(e) = result {
            first_error.get_or_insert(e);
        }
    }
    first_error.map_or(Ok(()), Err)
}

fn c_name(name: &str) -> Result<std::ffi::CString, Errno> {
    std::ffi::CString::new(name).map_err(|_| Errno::INVAL)
}

fn remove_entry(
    dir: BorrowedFd<'_>,
    name: &std::ffi::CStr,
    trash: BorrowedFd<'_>,
    depth: usize,
    queue: &mut VecDeque<String>,
) -> Result<(), Errno> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // Linux answers EISDIR (unlink(2)); EPERM may also be an immutable file, or an immutable directory that it is in, which
        // the caller sees to. Only a plain file is opened for it: opening a device or a fifo does something.
        Err(Errno::ISDIR) => {}
        Err(Errno::PERM) => {
            let kind = FileType::from_raw_mode(statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode);
            if kind.is_file() {
                clear_flags(dir, name, OFlags::RDONLY | OFlags::NONBLOCK)?;
            }
            if !kind.is_dir() {
                return unlinkat(dir, name, AtFlags::empty());
            }
        }
        Err(e) => return Err(e),
    }
    match unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        Err(Errno::PERM) => clear_flags(dir, name, OFlags::RDONLY | OFlags::DIRECTORY)?,
        Err(e) => return Err(e),
    }
    if depth >= MAX_DEPTH {
        let moved = fresh_name();
        renameat(dir, name, trash, moved.as_str())?;
        queue.push_back(moved);
        return Ok(());
    }
    empty_dir(dir, name, trash, depth, queue)?;
    match unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e),
    }
}

fn empty_dir(
    dir: BorrowedFd<'_>,
    name: &std::ffi::CStr,
    trash: BorrowedFd<'_>,
    depth: usize,
    queue: &mut VecDeque<String>,
) -> Result<(), Errno> {
    let path = Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()));
    let fd = match open_within(dir, path, OFlags::RDONLY | OFlags::DIRECTORY) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    let mut first_error = None;
    let mut cleared = false;
    for entry in Dir::read_from(&fd)? {
        let entry = entry?;
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        let mut result = remove_entry(fd.as_fd(), entry.file_name(), trash, depth + 1, queue);
        if result == Err(Errno::PERM) && !cleared {
            // The directory itself may be immutable or append-only.
            cleared = true;
            clear_flags(dir, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
            result = remove_entry(fd.as_fd(), entry.file_name(), trash, depth + 1, queue);
        }
        if let Err(e) = result {
            first_error.get_or_insert(e);
        }
    }
    first_error.map_or(Ok(()), Err)
}

/// Moves what is at `place` by `renamed`, also where its own flags forbid that, as those do that the root of a privileged container
/// gave to its root directory. It has them again afterwards, unless it is moved away to be removed.
pub(super) fn despite_flags(
    place: &Place,
    removal: bool,
    renamed: impl Fn() -> Result<(), Errno>,
) -> Result<(), Errno> {
    let refused = match renamed() {
        Err(Errno::PERM) => Errno::PERM,
        other => return other,
    };
    let kind = FileType::from_raw_mode(statat(&place.parent, place.name.as_str(), AtFlags::SYMLINK_NOFOLLOW)?.st_mode);
    // Opening a device or a fifo would do something.
    let open = match kind {
        FileType::Directory => OFlags::RDONLY | OFlags::DIRECTORY,
        FileType::RegularFile => OFlags::RDONLY | OFlags::NONBLOCK,
        _ => return Err(refused),
    };
    let fd = openat(
        &place.parent,
        place.name.as_str(),
        open | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let flags = rustix::fs::ioctl_getflags(&fd)?;
    if !flags.intersects(IFlags::IMMUTABLE | IFlags::APPEND) {
        return Err(refused);
    }
    rustix::fs::ioctl_setflags(&fd, flags & !(IFlags::IMMUTABLE | IFlags::APPEND))?;
    let moved = renamed();
    if !removal || moved.is_err() {
        rustix::fs::ioctl_setflags(&fd, flags)?;
    }
    moved
}

/// Takes off the flags that forbid a removal (`chattr +i`, `+a`), which the root of a privileged container can set.
fn clear_flags(dir: BorrowedFd<'_>, name: &std::ffi::CStr, open: OFlags) -> Result<(), Errno> {
    let fd = openat(dir, name, open | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let flags = rustix::fs::ioctl_getflags(&fd)?;
    rustix::fs::ioctl_setflags(&fd, flags & !(IFlags::IMMUTABLE | IFlags::APPEND))
}

/// The names in a trash.
pub(super) fn list(trash: impl AsFd) -> Result<Vec<String>, Errno> {
    let fd = openat(
        trash,
        ".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let mut names = Vec::new();
    for entry in Dir::new(fd)? {
        let entry = entry?;
        if let Ok(name) = entry.file_name().to_str()
            && name != "."
            && name != ".."
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

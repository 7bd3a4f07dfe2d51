//! Copying trees as they are: owners, modes, times, extended attributes, hard links, device nodes, fifos, sockets, holes.
//!
//! The copy is made in the trash of the target's root and renamed into place when it is complete, so that a killed daemon
//! leaves nothing but what the trash's emptying removes, and a failed copy is removed at once. Completeness is against a
//! failing or killed copy; when the machine loses power it is the file system that says what of a recent copy is there.
//!
//! A container decides what its tree looks like, so neither memory nor descriptors grow with it: however deep and wide the source
//! is, a few directories are open at a time and the way back is found by path, a bounded number of names is remembered, and
//! which files are the same one is noted on the disk, as further names of them in a directory of the trash.

mod data;

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use hutch_driver::{Cancel, DriverError, Progress};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, RenameFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::ops::exists;
use super::trash;
use super::tree::{OpenRoot, Place, open_within};
use crate::error::{cancelled, invalid, os};

/// Longest path below the top of the source, in bytes (`PATH_MAX` of the kernel, with room for the root's).
const MAX_DEPTH_BYTES: usize = 3800;
/// How many subdirectories of one directory are remembered at a time; the listing goes on where it stopped when they are done.
const PENDING: usize = 64;
/// Largest extended attribute, and list of them (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`; xattr(7)).
const XATTR_MAX: usize = 64 << 10;

/// What is copied.
pub(super) enum Source<'a> {
    /// What has this name in this directory.
    Entry(Place),
    /// An open directory.
    Directory(&'a OwnedFd),
}

/// One copy.
pub(super) struct Job<'a> {
    /// What is copied, for errors.
    pub(super) from: String,
    /// Where the copy goes.
    pub(super) to_root: &'a OpenRoot,
    /// Its path there.
    pub(super) to: &'a str,
    /// Whether extents can be shared; tried only where it is known to work.
    pub(super) reflink: bool,
    /// Whether the target may be an empty directory, which the copy then replaces.
    pub(super) replaces_empty: bool,
    /// Whether the caller still wants it.
    pub(super) cancel: &'a Cancel,
    /// Hears how far it is.
    pub(super) progress: &'a dyn Progress,
}

impl Job<'_> {
    fn what(&self) -> String {
        format!("can't copy {} to {}", self.from, self.to_root.describe(self.to))
    }
}

/// Refuses a copy of a tree into itself.
pub(super) fn check_apart(from_root: &OpenRoot, from: &str, to_root: &OpenRoot, to: &str) -> Result<(), DriverError> {
    let within = to == from || from.is_empty() || to.strip_prefix(from).is_some_and(|rest| rest.starts_with('/'));
    if from_root.path == to_root.path && within {
        return Err(invalid(format!(
            "can't copy {} to {}: the target lies in the source",
            from_root.describe(from),
            to_root.describe(to)
        )));
    }
    Ok(())
}

/// Copies; see the module's documentation.
///
/// # Errors
/// `already-exists` where something is at the target; `not-found`; `no-space`; `cancelled`; `limit` for a tree deeper than
/// a path can be long.
pub(super) fn copy(job: &Job<'_>, source: Source<'_>) -> Result<(), DriverError> {
    job.to_root.require_writable()?;
    let fail = |e| os(job.what(), e);
    let target = job.to_root.place(job.to)?;
    if !job.replaces_empty && exists(&target).map_err(fail)? {
        return Err(DriverError::new(
            "already-exists",
            format!("{}: the target exists", job.what()),
        ));
    }
    let trash = trash::open_trash(job.to_root)?;
    let name = trash::fresh_name();
    let mut copier = Copier::new(job, &trash, &name)?;
    let copied = copier
        .run(source)
        .and_then(|()| copier.forget_links().map_err(fail))
        .and_then(|()| {
            rustix::fs::renameat_with(
                &trash,
                name.as_str(),
                &target.parent,
                target.name.as_str(),
                // rename(2) replaces an empty directory, and no other.
                match job.replaces_empty {
                    true => RenameFlags::empty(),
                    false => RenameFlags::NOREPLACE,
                },
            )
            .map_err(fail)
        });
    if copied.is_err() {
        let removed = copier.forget_links().and(remove(&trash, &name));
        if let Err(e) = removed {
            tracing::warn!("can't remove an unfinished copy in {}: {e}", job.to_root.path.display());
        }
    }
    copied
}

fn remove(trash: impl AsFd, name: &str) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let listed = rustix::fs::openat(trash, ".", flags, Mode::empty())?;
    trash::remove_tree(listed.as_fd(), name)
}

/// A directory on the way from the top to what is being copied.
struct Level {
    /// Relative to the top of the tree; empty for the top.
    path: PathBuf,
    stat: Stat,
    /// Subdirectories that are still to be copied, at most [`PENDING`].
    pending: Vec<CString>,
    /// Where the listing goes on after them (`d_off` of readdir(3)); `None` at its end.
    rest: Option<i64>,
}

struct Copier<'a> {
    job: &'a Job<'a>,
    trash: BorrowedFd<'a>,
    name: &'a str,
    /// A directory of the trash with one more name of each file that has several in the source, called by the source's device
    /// and inode; made for the first of them.
    links: Option<(String, OwnedFd)>,
    buffer: Vec<u8>,
    names: Vec<u8>,
    /// Bytes copied, and those that were told of.
    copied: u64,
    told: u64,
}

impl<'a> Copier<'a> {
    fn new(job: &'a Job<'a>, trash: &'a OwnedFd, name: &'a str) -> Result<Self, DriverError> {
        if job.cancel.is_cancelled() {
            return Err(cancelled(job.what()));
        }
        let buffer = || vec![0; XATTR_MAX];
        Ok(Self {
            job,
            trash: trash.as_fd(),
            name,
            links: None,
            buffer: buffer(),
            names: buffer(),
            copied: 0,
            told: 0,
        })
    }

    fn fail(&self, path: &Path, errno: Errno) -> DriverError {
        if path.as_os_str().is_empty() {
            os(self.job.what(), errno)
        } else {
            os(
                format_args!("{}: at {:?}", self.job.what(), path.display().to_string()),
                errno,
            )
        }
    }

    fn run(&mut self, source: Source<'_>) -> Result<(), DriverError> {
        let top = Path::new("");
        let source = match source {
            Source::Directory(dir) => {
                open_within(dir.as_fd(), top, OFlags::RDONLY | OFlags::DIRECTORY).map_err(|e| self.fail(top, e))?
            }
            Source::Entry(Place { parent, name }) => {
                let stat = rustix::fs::statat(&parent, name.as_str(), AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(|e| self.fail(top, e))?;
                if !FileType::from_raw_mode(stat.st_mode).is_dir() {
                    let name = CString::new(name).map_err(|_| invalid("a zero byte in a name"))?;
                    let target = CString::new(self.name).map_err(|_| invalid("a zero byte in a name"))?;
                    return self
                        .copy_leaf(parent.as_fd(), &name, self.trash, &target, &stat)
                        .map_err(|e| self.fail(top, e));
                }
                open_within(parent.as_fd(), Path::new(&name), OFlags::RDONLY | OFlags::DIRECTORY)
                    .map_err(|e| self.fail(top, e))?
            }
        };
        let stat = rustix::fs::fstat(&source).map_err(|e| self.fail(top, e))?;
        rustix::fs::mkdirat(self.trash, self.name, Mode::RWXU).map_err(|e| self.fail(top, e))?;
        let mut levels = vec![self.enter(&source, top.to_owned(), stat)?];
        while let Some(level) = levels.last_mut() {
            if level.pending.is_empty() && level.rest.is_some() {
                let dir = open_within(source.as_fd(), &level.path, OFlags::RDONLY | OFlags::DIRECTORY)
                    .map_err(|e| self.fail(&level.path, e))?;
                self.list(&dir, level)?;
            }
            if let Some(name) = level.pending.pop() {
                let path = level.path.join(OsStr::from_bytes(name.to_bytes()));
                if path.as_os_str().len() > MAX_DEPTH_BYTES {
                    return Err(DriverError::new(
                        "limit",
                        format!(
                            "{}: a path in it is longer than {MAX_DEPTH_BYTES} bytes",
                            self.job.what()
                        ),
                    ));
                }
                let dir = open_within(source.as_fd(), &path, OFlags::RDONLY | OFlags::DIRECTORY)
                    .map_err(|e| self.fail(&path, e))?;
                let stat = rustix::fs::fstat(&dir).map_err(|e| self.fail(&path, e))?;
                levels.push(self.enter(&dir, path, stat)?);
            } else if let Some(level) = levels.pop() {
                self.leave(&source, &level).map_err(|e| self.fail(&level.path, e))?;
            }
        }
        Ok(())
    }

    fn target_dir(&self, path: &Path) -> Result<OwnedFd, Errno> {
        open_within(
            self.trash,
            &Path::new(self.name).join(path),
            OFlags::RDONLY | OFlags::DIRECTORY,
        )
    }

    /// Begins with a directory.
    fn enter(&mut self, source: &OwnedFd, path: PathBuf, stat: Stat) -> Result<Level, DriverError> {
        let mut level = Level {
            path,
            stat,
            pending: Vec::new(),
            rest: Some(0),
        };
        self.list(source, &mut level)?;
        Ok(level)
    }

    /// Copies everything in a directory but its subdirectories, which are made empty and remembered, until those are as many as are
    /// remembered at a time.
    fn list(&mut self, source: &OwnedFd, level: &mut Level) -> Result<(), DriverError> {
        let fail = |copier: &Self, e| copier.fail(&level.path, e);
        let target = self.target_dir(&level.path).map_err(|e| fail(self, e))?;
        let mut dir = Dir::read_from(source).map_err(|e| fail(self, e))?;
        if let Some(offset) = level.rest.take().filter(|offset| *offset != 0) {
            dir.seek(offset).map_err(|e| fail(self, e))?;
        }
        for entry in dir {
            let entry = entry.map_err(|e| self.fail(&level.path, e))?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            if self.job.cancel.is_cancelled() {
                return Err(cancelled(self.job.what()));
            }
            let below = level.path.join(OsStr::from_bytes(name.to_bytes()));
            let copied = rustix::fs::statat(source, name, AtFlags::SYMLINK_NOFOLLOW).and_then(|stat| {
                if FileType::from_raw_mode(stat.st_mode).is_dir() {
                    level.pending.push(name.to_owned());
                    rustix::fs::mkdirat(&target, name, Mode::RWXU)
                } else {
                    self.copy_leaf(source.as_fd(), name, target.as_fd(), name, &stat)
                }
            });
            match copied {
                Err(Errno::CANCELED) => return Err(cancelled(self.job.what())),
                other => other.map_err(|e| self.fail(&below, e))?,
            }
            if level.pending.len() == PENDING {
                level.rest = Some(entry.offset());
                return Ok(());
            }
        }
        Ok(())
    }

    /// Where files with several names are noted.
    fn links(&mut self) -> Result<&OwnedFd, Errno> {
        if self.links.is_none() {
            let name = trash::fresh_name();
            rustix::fs::mkdirat(self.trash, name.as_str(), Mode::RWXU)?;
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            let dir = open_within(self.trash, Path::new(&name), flags)?;
            self.links = Some((name, dir));
        }
        self.links.as_ref().map(|(_, dir)| dir).ok_or(Errno::NOENT)
    }

    /// Takes the notes away, so that files have as many names as they should.
    fn forget_links(&mut self) -> Result<(), Errno> {
        self.links.take().map_or(Ok(()), |(name, _)| remove(self.trash, &name))
    }

    /// Gives a directory what only lasts once nothing is made in it any more.
    fn leave(&mut self, source: &OwnedFd, level: &Level) -> Result<(), Errno> {
        let from = open_within(source.as_fd(), &level.path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let to = self.target_dir(&level.path)?;
        self.finish_open(from.as_fd(), to.as_fd(), &level.stat)
    }

    /// Owner, attributes, mode and times of what is open on both sides. The order matters: a change of the owner takes
    /// away set-id bits and file capabilities (chown(2)), and everything changes times.
    fn finish_open(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, stat: &Stat) -> Result<(), Errno> {
        rustix::fs::fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
        let used = match rustix::fs::flistxattr(from, self.names.as_mut_slice()) {
            Err(Errno::OPNOTSUPP) => 0,
            other => other?,
        };
        let list = self.names.get(..used).unwrap_or_default().to_vec();
        for name in attribute_names(&list) {
            let size = rustix::fs::fgetxattr(from, name, self.buffer.as_mut_slice())?;
            rustix::fs::fsetxattr(
                to,
                name,
                self.buffer.get(..size).unwrap_or_default(),
                XattrFlags::empty(),
            )?;
        }
        rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
        rustix::fs::futimens(to, &times(stat))
    }

    /// Copies anything but a directory.
    fn copy_leaf(
        &mut self,
        from: BorrowedFd<'_>,
        name: &CStr,
        to: BorrowedFd<'_>,
        to_name: &CStr,
        stat: &Stat,
    ) -> Result<(), Errno> {
        if stat.st_nlink < 2 {
            return self.copy_alone(from, name, to, to_name, stat);
        }
        let key = format!("{:x}-{:x}", stat.st_dev, stat.st_ino);
        let links = self.links()?;
        match rustix::fs::linkat(links, key.as_str(), to, to_name, AtFlags::empty()) {
            Err(Errno::NOENT) => {}
            // With the note it has one name more than in the source, which may have as many as can be. Then this is the last.
            Err(Errno::MLINK) => return rustix::fs::renameat(links, key.as_str(), to, to_name),
            other => return other,
        }
        self.copy_alone(from, name, to, to_name, stat)?;
        rustix::fs::linkat(to, to_name, self.links()?, key.as_str(), AtFlags::empty())
    }

    /// Copies what has one name, or what has this one first.
    fn copy_alone(
        &mut self,
        from: BorrowedFd<'_>,
        name: &CStr,
        to: BorrowedFd<'_>,
        to_name: &CStr,
        stat: &Stat,
    ) -> Result<(), Errno> {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => self.copy_file(from, name, to, to_name, stat),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(from, name, Vec::new())?;
                rustix::fs::symlinkat(target.as_c_str(), to, to_name)?;
                self.finish_named(from, name, to, to_name, stat, false)
            }
            FileType::Directory => Err(Errno::ISDIR),
            other => {
                rustix::fs::mknodat(to, to_name, other, Mode::RUSR | Mode::WUSR, stat.st_rdev)?;
                self.finish_named(from, name, to, to_name, stat, true)
            }
        }
    }

    /// Like [`Copier::finish_open`] for what can't or must not be opened.
    fn finish_named(
        &mut self,
        from: BorrowedFd<'_>,
        name: &CStr,
        to: BorrowedFd<'_>,
        to_name: &CStr,
        stat: &Stat,
        has_mode: bool,
    ) -> Result<(), Errno> {
        let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        rustix::fs::chownat(to, to_name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        let (source, target) = (proc_path(from, name), proc_path(to, to_name));
        let used = match rustix::fs::llistxattr(source.as_path(), self.names.as_mut_slice()) {
            Err(Errno::OPNOTSUPP) => 0,
            other => other?,
        };
        let list = self.names.get(..used).unwrap_or_default().to_vec();
        for attribute in attribute_names(&list) {
            let size = rustix::fs::lgetxattr(source.as_path(), attribute, self.buffer.as_mut_slice())?;
            let value = self.buffer.get(..size).unwrap_or_default();
            rustix::fs::lsetxattr(target.as_path(), attribute, value, XattrFlags::empty())?;
        }
        if has_mode {
            // The node was made a moment ago in a directory that nobody else reaches, so it is no symbolic link.
            rustix::fs::chmodat(
                to,
                to_name,
                Mode::from_raw_mode(stat.st_mode & 0o7777),
                AtFlags::empty(),
            )?;
        }
        rustix::fs::utimensat(to, to_name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
    }

    fn copy_file(
        &mut self,
        from: BorrowedFd<'_>,
        name: &CStr,
        to: BorrowedFd<'_>,
        to_name: &CStr,
        stat: &Stat,
    ) -> Result<(), Errno> {
        // Somebody inside may have put a fifo or a device where a file was: neither is waited for, and both are refused.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let source = rustix::fs::openat(from, name, flags, Mode::empty())?;
        let now = rustix::fs::fstat(&source)?;
        if (now.st_dev, now.st_ino) != (stat.st_dev, stat.st_ino) {
            return Err(Errno::STALE);
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let target = rustix::fs::openat(to, to_name, flags, Mode::RUSR | Mode::WUSR)?;
        if now.st_size > 0 {
            self.copy_data(source.as_fd(), target.as_fd(), &now)?;
        }
        self.finish_open(source.as_fd(), target.as_fd(), &now)
    }
}

/// A path by which functions that take no directory reach `name` in `dir`.
fn proc_path(dir: BorrowedFd<'_>, name: &CStr) -> PathBuf {
    Path::new("/proc/self/fd")
        .join(dir.as_raw_fd().to_string())
        .join(OsStr::from_bytes(name.to_bytes()))
}

fn attribute_names(list: &[u8]) -> impl Iterator<Item = &OsStr> {
    list.split(|&b| b == 0)
        .filter(|name| !name.is_empty())
        .map(OsStr::from_bytes)
}

fn times(stat: &Stat) -> Timestamps {
    let nanoseconds = |n| i64::try_from(n).unwrap_or(0);
    Timestamps {
        last_access: Timespec {
            tv_sec: stat.st_atime,
            tv_nsec: nanoseconds(stat.st_atime_nsec),
        },
        last_modification: Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: nanoseconds(stat.st_mtime_nsec),
        },
    }
}

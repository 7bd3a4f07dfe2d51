//! Writes a tree below a directory, never following a symbolic link and never leaving it.
//!
//! Every name is resolved by openat2(2) with `RESOLVE_BENEATH`, `RESOLVE_NO_SYMLINKS` and `RESOLVE_NO_XDEV`, so that what an
//! earlier entry made can't send a later one elsewhere, even if nothing else confined this process.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::entry::{DataSink, Entry, EntryPath, Kind, Time};
use crate::error::{Error, Refusal, Result, show};
use crate::walk::{DataOf, Tree};

/// How every path is resolved.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);
/// How directories are opened that are only passed through.
const PASS: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A tree below a directory.
pub(crate) struct DiskTree {
    root: OwnedFd,
    /// The directory of the last entry: archives list directories' contents together.
    last_parent: Option<(Vec<u8>, OwnedFd)>,
    /// Directories whose time is set at the end, because every file that is made in one changes it.
    directories: Vec<(EntryPath, Time)>,
}

impl DiskTree {
    /// The tree below `root`, which is open for reading.
    pub(crate) fn new(root: OwnedFd) -> Self {
        Self {
            root,
            last_parent: None,
            directories: Vec::new(),
        }
    }

    /// Sets what could not be set before all files were there, and with `sync` waits until everything is on the disk.
    pub(crate) fn finish(mut self, sync: bool) -> Result<()> {
        for (path, time) in std::mem::take(&mut self.directories) {
            let times = timestamps(time);
            let set = if path.is_root() {
                rustix::fs::futimens(&self.root, &times)
            } else {
                let (parent, name) = self.parent(&path)?;
                rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)
            };
            set.map_err(|e| Error::tree("set the time of", path.as_bytes(), e))?;
        }
        if sync {
            rustix::fs::syncfs(&self.root).map_err(|e| Error::tree("flush", b"", e))?;
        }
        Ok(())
    }

    /// The directory that an entry lies in, made if the archive left it out, and the entry's name in it.
    fn parent<'a>(&'a mut self, path: &'a EntryPath) -> Result<(BorrowedFd<'a>, &'a [u8])> {
        let (parent, name) = path.split();
        if parent.is_empty() {
            return Ok((self.root.as_fd(), name));
        }
        let known = self.last_parent.as_ref().is_some_and(|(known, _)| known == parent);
        if !known {
            let fd = match self.open_directory(parent) {
                Err(Errno::NOENT) => self.make_directories(parent, path)?,
                other => other.map_err(|e| parent_error(path, e))?,
            };
            self.last_parent = Some((parent.to_vec(), fd));
        }
        match &self.last_parent {
            Some((_, fd)) => Ok((fd.as_fd(), name)),
            None => Ok((self.root.as_fd(), name)),
        }
    }

    fn open_directory(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        rustix::fs::openat2(&self.root, path, PASS, Mode::empty(), BENEATH)
    }

    fn make_directories(&self, parent: &[u8], path: &EntryPath) -> Result<OwnedFd> {
        let ends = parent
            .iter()
            .enumerate()
            .filter(|(_, b)| **b == b'/')
            .map(|(at, _)| at)
            .chain([parent.len()]);
        let mut fd = self
            .root
            .try_clone()
            .map_err(|e| Error::tree("open", b"", io_errno(&e)))?;
        let mut start = 0;
        for end in ends {
            let component = &parent[start..end];
            start = end + 1;
            match rustix::fs::mkdirat(&fd, component, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(Error::tree("create", &parent[..end], e)),
            }
            fd =
                rustix::fs::openat2(&fd, component, PASS, Mode::empty(), BENEATH).map_err(|e| parent_error(path, e))?;
        }
        Ok(fd)
    }

    fn directory(&mut self, entry: &Entry) -> Result<()> {
        let fail = |action: &'static str| move |e| Error::tree(action, entry.path.as_bytes(), e);
        if !entry.path.is_root() {
            let (parent, name) = self.parent(&entry.path)?;
            make_room(parent, name, entry, || {
                rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700))
            })?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let path = if entry.path.is_root() {
            b"."
        } else {
            entry.path.as_bytes()
        };
        let fd = rustix::fs::openat2(&self.root, path, flags, Mode::empty(), BENEATH).map_err(fail("open"))?;
        set_attributes(fd.as_fd(), entry)?;
        self.directories.push((entry.path.clone(), entry.mtime));
        Ok(())
    }

    fn file(&mut self, entry: &Entry, size: u64, data: &mut dyn DataOf) -> Result<()> {
        let fail = |action: &'static str| move |e| Error::tree(action, entry.path.as_bytes(), e);
        let (parent, name) = self.parent(&entry.path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = make_room(parent, name, entry, || {
            rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600))
        })?;
        let Some(fd) = fd else {
            return Err(Error::refused(entry.path.as_bytes(), Refusal::ReplacesDirectory));
        };
        let mut writer = FileWriter {
            fd: fd.as_fd(),
            entry,
            end: 0,
        };
        data.copy_to(&mut writer)?;
        if writer.end != size {
            rustix::fs::ftruncate(&fd, size).map_err(fail("extend"))?;
        }
        set_attributes(fd.as_fd(), entry)?;
        rustix::fs::futimens(&fd, &timestamps(entry.mtime)).map_err(fail("set the time of"))
    }

    fn hard_link(&mut self, entry: &Entry, target: &EntryPath) -> Result<()> {
        let path = entry.path.as_bytes();
        let no_target = || Error::refused(path, Refusal::LinkTarget(show(target.as_bytes())));
        if *target == entry.path || target.is_root() {
            return Err(no_target());
        }
        let (target_parent, target_name) = target.split();
        let target_parent = match target_parent {
            [] => self
                .root
                .try_clone()
                .map_err(|e| Error::tree("open", b"", io_errno(&e)))?,
            parent => self.open_directory(parent).map_err(|_| no_target())?,
        };
        let (parent, name) = self.parent(&entry.path)?;
        let link = || rustix::fs::linkat(&target_parent, target_name, parent, name, AtFlags::empty());
        match link() {
            Ok(()) => Ok(()),
            // EPERM: the target is a directory.
            Err(Errno::NOENT | Errno::PERM) => Err(no_target()),
            Err(Errno::EXIST) => match make_room(parent, name, entry, link)? {
                Some(()) => Ok(()),
                None => Err(Error::refused(path, Refusal::ReplacesDirectory)),
            },
            Err(e) => Err(Error::tree("link", path, e)),
        }
    }

    /// A symbolic link, a pipe or a socket: what is never opened.
    fn special(&mut self, entry: &Entry) -> Result<()> {
        let path = entry.path.as_bytes();
        let fail = |action: &'static str| move |e| Error::tree(action, path, e);
        let (parent, name) = self.parent(&entry.path)?;
        let mode = Mode::from_raw_mode(entry.mode);
        let make = || match &entry.kind {
            Kind::Symlink(target) => rustix::fs::symlinkat(target.as_slice(), parent, name),
            Kind::Fifo => rustix::fs::mknodat(parent, name, FileType::Fifo, mode, 0),
            _ => rustix::fs::mknodat(parent, name, FileType::Socket, mode, 0),
        };
        if make_room(parent, name, entry, make)?.is_none() {
            return Err(Error::refused(path, Refusal::ReplacesDirectory));
        }
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(fail("change the owner of"))?;
        if !matches!(entry.kind, Kind::Symlink(_)) {
            // The node was made by this process a moment ago and nobody else can reach it, so the name still means it.
            rustix::fs::chmodat(parent, name, mode, AtFlags::empty()).map_err(fail("change the mode of"))?;
        }
        rustix::fs::utimensat(parent, name, &timestamps(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(fail("set the time of"))
    }
}

impl Tree for DiskTree {
    fn add(&mut self, entry: &Entry, data: &mut dyn DataOf) -> Result<()> {
        if entry.path.is_root() && entry.kind != Kind::Directory {
            return Err(Error::refused(entry.path.as_bytes(), Refusal::ReplacesDirectory));
        }
        match &entry.kind {
            Kind::Directory => self.directory(entry),
            Kind::File(size) => self.file(entry, *size, data),
            Kind::Hardlink(target) => self.hard_link(entry, target),
            Kind::Symlink(_) | Kind::Fifo | Kind::Socket => self.special(entry),
            Kind::Device => Err(Error::refused(entry.path.as_bytes(), Refusal::Device)),
        }
    }
}

/// Makes something with `make`; what an earlier entry of the same name made gives way. `None` when that is a directory,
/// which only a directory may find there.
fn make_room<T>(
    parent: BorrowedFd<'_>,
    name: &[u8],
    entry: &Entry,
    make: impl Fn() -> Result<T, Errno>,
) -> Result<Option<T>> {
    let path = entry.path.as_bytes();
    match make() {
        Ok(made) => return Ok(Some(made)),
        Err(Errno::EXIST) => {}
        Err(e) => return Err(Error::tree("create", path, e)),
    }
    let found =
        rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| Error::tree("look at", path, e))?;
    if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
        return Ok(None);
    }
    rustix::fs::unlinkat(parent, name, AtFlags::empty()).map_err(|e| Error::tree("replace", path, e))?;
    make().map(Some).map_err(|e| Error::tree("create", path, e))
}

/// Owner, extended attributes and mode of an open file or directory, in the order in which none undoes another: chown(2)
/// clears the set-uid bit and capabilities, and a change of the mode is also one of the access control list.
fn set_attributes(fd: BorrowedFd<'_>, entry: &Entry) -> Result<()> {
    let path = entry.path.as_bytes();
    let fail = |action: &'static str| move |e| Error::tree(action, path, e);
    rustix::fs::fchown(fd, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))
        .map_err(fail("change the owner of"))?;
    for (name, value) in &entry.xattrs {
        rustix::fs::fsetxattr(fd, name.as_slice(), value, XattrFlags::empty())
            .map_err(|e| Error::tree(&format!("set the extended attribute {} of", show(name)), path, e))?;
    }
    rustix::fs::fchmod(fd, Mode::from_raw_mode(entry.mode)).map_err(fail("change the mode of"))
}

/// Why a parent could not be opened.
fn parent_error(path: &EntryPath, e: Errno) -> Error {
    match e {
        Errno::LOOP => Error::refused(path.as_bytes(), Refusal::BehindSymlink),
        Errno::NOTDIR => Error::refused(path.as_bytes(), Refusal::ParentNotDirectory),
        e => Error::tree("open the directory of", path.as_bytes(), e),
    }
}

struct FileWriter<'a> {
    fd: BorrowedFd<'a>,
    entry: &'a Entry,
    /// Where the last data ended.
    end: u64,
}

impl DataSink for FileWriter<'_> {
    fn write_at(&mut self, offset: u64, mut data: &[u8]) -> Result<()> {
        let mut at = offset;
        while !data.is_empty() {
            match rustix::io::pwrite(self.fd, data, at) {
                Ok(n) => {
                    data = &data[n..];
                    at += n as u64;
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(Error::tree("write", self.entry.path.as_bytes(), e)),
            }
        }
        self.end = at;
        Ok(())
    }
}

fn timestamps(time: Time) -> Timestamps {
    let mtime = Timespec {
        tv_sec: time.seconds,
        tv_nsec: time.nanoseconds.into(),
    };
    Timestamps {
        last_access: mtime,
        last_modification: mtime,
    }
}

fn io_errno(e: &std::io::Error) -> Errno {
    Errno::from_io_error(e).unwrap_or(Errno::IO)
}

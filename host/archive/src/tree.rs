//! Reads a directory tree as [`Source`], for an archive that is made of it.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::entry::{DataSink, Entry, EntryPath, Kind, Source, Time, Xattr, check_xattrs, owner};
use crate::error::{Error, Result};

/// Bytes that are read of a file at a time.
const CHUNK: usize = 256 << 10;
/// Nothing is followed out of the tree.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);

/// A directory tree that is being walked, each directory before what is in it, names in order.
pub(crate) struct TreeReader {
    root: OwnedFd,
    depth: usize,
    read: Arc<AtomicU64>,
    /// The directories from the root to the one that is being read, with the names that are left, last one first; `None`
    /// before the root has been answered.
    open: Option<Vec<(EntryPath, Vec<Vec<u8>>)>>,
    /// The first name of every file that has several, by device and inode.
    names: HashMap<(u64, u64), EntryPath>,
    /// The current file and its size.
    data: Option<(EntryPath, u64)>,
}

impl TreeReader {
    /// The tree below `root`, which nobody changes meanwhile. Paths may have `depth` components; bytes read are added to
    /// `read`.
    pub(crate) fn new(root: OwnedFd, depth: usize, read: Arc<AtomicU64>) -> Self {
        Self {
            root,
            depth,
            read,
            open: None,
            names: HashMap::new(),
            data: None,
        }
    }

    fn open(&self, path: &EntryPath, flags: OFlags) -> Result<OwnedFd> {
        let name = if path.is_root() { b"." } else { path.as_bytes() };
        rustix::fs::openat2(
            &self.root,
            name,
            flags | OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
            BENEATH,
        )
        .map_err(|e| Error::tree("open", path.as_bytes(), e))
    }

    /// The names in a directory, last one first.
    fn list(&self, path: &EntryPath) -> Result<Vec<Vec<u8>>> {
        let fail = |e| Error::tree("list", path.as_bytes(), e);
        let directory = Dir::new(self.open(path, OFlags::DIRECTORY)?).map_err(fail)?;
        let mut names = Vec::new();
        for entry in directory {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        names.sort_unstable_by(|a, b| b.cmp(a));
        Ok(names)
    }

    fn entry(&mut self, path: EntryPath) -> Result<Entry> {
        let name = path.as_bytes();
        let at = if path.is_root() { b"." } else { name };
        let stat = rustix::fs::statat(&self.root, at, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| Error::tree("look at", name, e))?;
        let kind = self.kind(&path, &stat)?;
        let xattrs = match kind {
            Kind::Directory | Kind::File(_) => self.xattrs(&path, OFlags::NONBLOCK)?,
            _ => Vec::new(),
        };
        check_xattrs(&xattrs, name)?;
        Ok(Entry {
            kind,
            mode: stat.st_mode & 0o7777,
            uid: owner(stat.st_uid.into(), name)?,
            gid: owner(stat.st_gid.into(), name)?,
            mtime: Time {
                seconds: stat.st_mtime,
                nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or_default(),
            },
            xattrs,
            path,
        })
    }

    fn kind(&mut self, path: &EntryPath, stat: &Stat) -> Result<Kind> {
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let names = self.list(path)?;
                self.open.get_or_insert_default().push((path.clone(), names));
                Kind::Directory
            }
            FileType::RegularFile => {
                if stat.st_nlink > 1 {
                    let inode = (stat.st_dev, stat.st_ino);
                    if let Some(first) = self.names.get(&inode) {
                        return Ok(Kind::Hardlink(first.clone()));
                    }
                    self.names.insert(inode, path.clone());
                }
                let size = u64::try_from(stat.st_size).unwrap_or_default();
                self.data = Some((path.clone(), size));
                Kind::File(size)
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&self.root, path.as_bytes(), Vec::new());
                Kind::Symlink(
                    target
                        .map_err(|e| Error::tree("read the link", path.as_bytes(), e))?
                        .into_bytes(),
                )
            }
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
            _ => Kind::Device,
        })
    }

    fn xattrs(&self, path: &EntryPath, flags: OFlags) -> Result<Vec<Xattr>> {
        let fail = |e| Error::tree("read the attributes of", path.as_bytes(), e);
        let file = self.open(path, flags)?;
        // The kernel's limits are 64 KiB for the list and for a value (xattr(7)).
        let mut buffer = vec![0; 64 << 10];
        let length = match rustix::fs::flistxattr(&file, &mut buffer[..]) {
            Ok(length) => length,
            Err(Errno::NOTSUP) => return Ok(Vec::new()),
            Err(e) => return Err(fail(e)),
        };
        let list = buffer[..length].to_vec();
        let mut xattrs = Vec::new();
        for name in list.split(|&b| b == 0).filter(|name| !name.is_empty()) {
            match rustix::fs::fgetxattr(&file, name, &mut buffer[..]) {
                Ok(length) => xattrs.push((name.to_vec(), buffer[..length].to_vec())),
                // Attributes that a file system only shows, or does not let this process see.
                Err(Errno::NODATA | Errno::NOTSUP | Errno::PERM) => {}
                Err(e) => return Err(fail(e)),
            }
        }
        Ok(xattrs)
    }
}

impl Source for TreeReader {
    fn next_entry(&mut self) -> Result<Option<Entry>> {
        self.data = None;
        let Some(open) = &mut self.open else {
            return self.entry(EntryPath::default()).map(Some);
        };
        while let Some((directory, names)) = open.last_mut() {
            match names.pop() {
                Some(name) => {
                    let path = directory.join(&name, self.depth);
                    let path = path.map_err(|reason| Error::refused(&name, reason))?;
                    return self.entry(path).map(Some);
                }
                None => {
                    open.pop();
                }
            }
        }
        Ok(None)
    }

    fn read_data(&mut self, sink: &mut dyn DataSink) -> Result<()> {
        let Some((path, size)) = self.data.take() else {
            return Ok(());
        };
        let file = self.open(&path, OFlags::NOFOLLOW | OFlags::NONBLOCK)?;
        let mut buffer = vec![0; CHUNK];
        let mut at = 0;
        while at < size {
            let most = usize::try_from(size - at).unwrap_or(usize::MAX).min(CHUNK);
            match rustix::io::pread(&file, &mut buffer[..most], at) {
                // It became shorter; the rest is zeros, so that the archive stays whole.
                Ok(0) => break,
                Ok(n) => {
                    self.read.fetch_add(n as u64, Ordering::Relaxed);
                    sink.write_at(at, &buffer[..n])?;
                    at += n as u64;
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(Error::tree("read", path.as_bytes(), e)),
            }
        }
        Ok(())
    }
}

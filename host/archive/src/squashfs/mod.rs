//! Reading of squashfs images, as [`Source`]: directories are walked from the root, each before what is in it.

mod image;
mod inode;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::entry::{DataSink, Entry, EntryPath, Kind, Source, Time, check_xattrs, owner};
use crate::error::{Error, Result};
use image::{Image, u16_at, u32_at};
use inode::{FileData, Inode, InodeKind, Listing};

/// A squashfs image that is being walked.
pub(crate) struct SquashfsReader {
    image: Image,
    depth: usize,
    /// The directories from the root to the one that is being read; `None` before the root has been answered.
    open: Option<Vec<Directory>>,
    /// Directories that have been met: one that contains itself would never end.
    seen: HashSet<u32>,
    /// The first name of every file that has several.
    names: HashMap<u32, EntryPath>,
    /// Where the current file's data are.
    data: Option<FileData>,
    /// The last fragment block: files that lie next to each other share it.
    fragment: Option<(u32, Rc<Vec<u8>>)>,
}

/// A directory that is being read.
struct Directory {
    path: EntryPath,
    listing: Listing,
    /// Names that follow the last header.
    run: u32,
    /// Where in the inode table the inodes of these names are.
    block: u32,
}

/// Bytes of the header before up to 256 names.
const HEADER: u32 = 12;
/// Bytes before each name.
const ENTRY: u32 = 8;

impl Listing {
    /// The next `n` bytes.
    fn take(&mut self, image: &mut Image, n: u32) -> Result<Vec<u8>> {
        let left = self.remaining.checked_sub(n);
        self.remaining = left.ok_or_else(|| Error::corrupt("a directory of the squashfs image is cut"))?;
        image.stream(&mut self.cursor, n as usize)
    }
}

impl SquashfsReader {
    /// Opens an image. Paths may have `depth` components; bytes read are added to `read`.
    pub(crate) fn open(file: File, depth: usize, read: Arc<AtomicU64>) -> Result<Self> {
        Ok(Self {
            image: Image::open(file, read)?,
            depth,
            open: None,
            seen: HashSet::new(),
            names: HashMap::new(),
            data: None,
            fragment: None,
        })
    }

    /// The next name of a directory and a reference to its inode; `None` at its end.
    fn next_name(image: &mut Image, directory: &mut Directory) -> Result<Option<(Vec<u8>, u64)>> {
        let Directory {
            listing, run, block, ..
        } = directory;
        if *run == 0 {
            if listing.remaining == 0 {
                return Ok(None);
            }
            let header = listing.take(image, HEADER)?;
            // The number of names is stored less one.
            *run = u32_at(&header, 0);
            *block = u32_at(&header, 4);
            if *run >= 256 {
                return Err(Error::corrupt(
                    "a directory of the squashfs image has an impossible header",
                ));
            }
            *run += 1;
        }
        *run -= 1;
        let entry = listing.take(image, ENTRY)?;
        let name = listing.take(image, u32::from(u16_at(&entry, 6)) + 1)?;
        Ok(Some((name, (u64::from(*block) << 16) | u64::from(u16_at(&entry, 0)))))
    }

    fn entry(&mut self, path: EntryPath, reference: u64) -> Result<Entry> {
        let inode = inode::read(&mut self.image, reference)?;
        let name = path.as_bytes();
        let xattrs = inode.xattrs(&mut self.image)?;
        check_xattrs(&xattrs, name)?;
        let mut entry = Entry {
            kind: Kind::Device,
            mode: inode.mode,
            uid: owner(inode.uid.into(), name)?,
            gid: owner(inode.gid.into(), name)?,
            mtime: Time {
                seconds: inode.mtime.into(),
                nanoseconds: 0,
            },
            xattrs,
            path,
        };
        entry.kind = self.kind(inode, &entry.path)?;
        Ok(entry)
    }

    fn kind(&mut self, inode: Inode, path: &EntryPath) -> Result<Kind> {
        let is_directory = matches!(inode.kind, InodeKind::Directory(_));
        if is_directory {
            if !self.seen.insert(inode.number) {
                return Err(Error::corrupt("a directory of the squashfs image is in two places"));
            }
        } else if inode.links > 1 {
            if let Some(first) = self.names.get(&inode.number) {
                return Ok(Kind::Hardlink(first.clone()));
            }
            self.names.insert(inode.number, path.clone());
        }
        Ok(match inode.kind {
            InodeKind::Directory(listing) => {
                let directory = Directory {
                    path: path.clone(),
                    listing,
                    run: 0,
                    block: 0,
                };
                self.open.get_or_insert_default().push(directory);
                Kind::Directory
            }
            InodeKind::File(data) => {
                let size = data.size;
                self.data = Some(data);
                Kind::File(size)
            }
            InodeKind::Symlink(target) => Kind::Symlink(target),
            InodeKind::Fifo => Kind::Fifo,
            InodeKind::Socket => Kind::Socket,
            InodeKind::Device => Kind::Device,
        })
    }

    /// The last bytes of a file, from the block that it shares.
    fn tail(&mut self, index: u32, offset: u32, length: usize, sink: &mut dyn DataSink, at: u64) -> Result<()> {
        let known = self
            .fragment
            .as_ref()
            .filter(|(known, _)| *known == index)
            .map(|(_, data)| Rc::clone(data));
        let block = match known {
            Some(block) => block,
            None => {
                let (place, stored, compressed) = inode::fragment_block(&mut self.image, index)?;
                let most = self.image.superblock.block_size as usize;
                let block = Rc::new(self.image.block(place, stored, compressed, most)?);
                self.fragment = Some((index, Rc::clone(&block)));
                block
            }
        };
        let offset = offset as usize;
        let data = block
            .get(offset..offset.saturating_add(length))
            .ok_or_else(image::out_of_range)?;
        sink.write_at(at, data)
    }
}

impl Source for SquashfsReader {
    fn next_entry(&mut self) -> Result<Option<Entry>> {
        self.data = None;
        if self.open.is_none() {
            let root = self.image.superblock.root;
            let entry = self.entry(EntryPath::default(), root)?;
            if entry.kind != Kind::Directory {
                return Err(Error::corrupt("the root of the squashfs image is not a directory"));
            }
            return Ok(Some(entry));
        }
        while let Some(directory) = self.open.as_mut().and_then(|open| open.last_mut()) {
            match Self::next_name(&mut self.image, directory)? {
                Some((name, reference)) => {
                    let path = directory.path.join(&name, self.depth);
                    let path = path.map_err(|reason| Error::refused(&name, reason))?;
                    return self.entry(path, reference).map(Some);
                }
                None => {
                    self.open.as_mut().and_then(Vec::pop);
                }
            }
        }
        Ok(None)
    }

    fn read_data(&mut self, sink: &mut dyn DataSink) -> Result<()> {
        let Some(FileData {
            size,
            mut start,
            mut sizes,
            fragment,
        }) = self.data.take()
        else {
            return Ok(());
        };
        let block_size = u64::from(self.image.superblock.block_size);
        let mut at = 0;
        while at < size {
            let expected = (size - at).min(block_size);
            if let Some((index, offset)) = fragment.filter(|_| expected < block_size) {
                return self.tail(index, offset, usize::try_from(expected).unwrap_or_default(), sink, at);
            }
            let (stored, compressed) = inode::block_size(u32_at(&self.image.stream(&mut sizes, 4)?, 0));
            // A block without bytes is a hole.
            if stored > 0 {
                let data = self
                    .image
                    .block(start, stored, compressed, self.image.superblock.block_size as usize)?;
                if data.len() as u64 != expected {
                    return Err(Error::corrupt("a block of the squashfs image has a wrong size"));
                }
                sink.write_at(at, &data)?;
                start = start.checked_add(stored as u64).ok_or_else(image::out_of_range)?;
            }
            at += expected;
        }
        Ok(())
    }
}

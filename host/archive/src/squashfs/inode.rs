//! Inodes of a squashfs image, and the tables that they point into.

use super::image::{ABSENT, Cursor, Image, out_of_range, u16_at, u32_at, u64_at};
use crate::entry::Xattr;
use crate::error::{Error, Result};

/// "No fragment" and "no extended attributes".
const NONE: u32 = u32::MAX;
/// Extended attributes of one inode.
const MOST_XATTRS: u32 = 1024;

/// An inode.
pub(super) struct Inode {
    pub(super) number: u32,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: u32,
    pub(super) links: u32,
    xattrs: u32,
    pub(super) kind: InodeKind,
}

/// What an inode is.
pub(super) enum InodeKind {
    Directory(Listing),
    File(FileData),
    Symlink(Vec<u8>),
    Device,
    Fifo,
    Socket,
}

/// Where the names of a directory are.
pub(super) struct Listing {
    pub(super) cursor: Cursor,
    /// Bytes of it that have not been read.
    pub(super) remaining: u32,
}

/// Where the data of a file are.
pub(super) struct FileData {
    pub(super) size: u64,
    /// Where its whole blocks begin in the image.
    pub(super) start: u64,
    /// The sizes of its blocks.
    pub(super) sizes: Cursor,
    /// The block that it shares with other files for its last bytes, and where they are in it.
    pub(super) fragment: Option<(u32, u32)>,
}

/// Reads the inode at a reference.
pub(super) fn read(image: &mut Image, reference: u64) -> Result<Inode> {
    let mut cursor = Cursor::at(image.superblock.inode_table, reference)?;
    let head = image.stream(&mut cursor, 16)?;
    let (kind, links, xattrs) = read_kind(image, &mut cursor, u16_at(&head, 0))?;
    Ok(Inode {
        number: u32_at(&head, 12),
        mode: u32::from(u16_at(&head, 2)) & 0o7777,
        uid: id(image, u16_at(&head, 4))?,
        gid: id(image, u16_at(&head, 6))?,
        mtime: u32_at(&head, 8),
        links,
        xattrs,
        kind,
    })
}

/// What follows the common part: the kind, how many names there are, and the index of the extended attributes.
fn read_kind(image: &mut Image, cursor: &mut Cursor, kind: u16) -> Result<(InodeKind, u32, u32)> {
    let extended = kind >= 8;
    Ok(match kind {
        1 => {
            let b = image.stream(cursor, 16)?;
            let listing = listing(image, u32_at(&b, 0), u16_at(&b, 10), u32::from(u16_at(&b, 8)))?;
            (InodeKind::Directory(listing), 1, NONE)
        }
        8 => {
            let b = image.stream(cursor, 24)?;
            let listing = listing(image, u32_at(&b, 8), u16_at(&b, 18), u32_at(&b, 4))?;
            (InodeKind::Directory(listing), 1, u32_at(&b, 20))
        }
        2 => {
            let b = image.stream(cursor, 16)?;
            let fragment = fragment(u32_at(&b, 4), u32_at(&b, 8));
            let data = FileData {
                size: u32_at(&b, 12).into(),
                start: u32_at(&b, 0).into(),
                sizes: *cursor,
                fragment,
            };
            (InodeKind::File(data), 1, NONE)
        }
        9 => {
            let b = image.stream(cursor, 40)?;
            let fragment = fragment(u32_at(&b, 28), u32_at(&b, 32));
            let data = FileData {
                size: u64_at(&b, 8),
                start: u64_at(&b, 0),
                sizes: *cursor,
                fragment,
            };
            (InodeKind::File(data), u32_at(&b, 24), u32_at(&b, 36))
        }
        3 | 10 => {
            let b = image.stream(cursor, 8)?;
            let length = u32_at(&b, 4);
            if length == 0 || length > 4095 {
                return Err(Error::corrupt("a symbolic link has no valid target"));
            }
            let target = image.stream(cursor, length as usize)?;
            if target.contains(&0) {
                return Err(Error::corrupt("a symbolic link has no valid target"));
            }
            (
                InodeKind::Symlink(target),
                u32_at(&b, 0),
                xattr_index(image, cursor, extended)?,
            )
        }
        4 | 5 | 11 | 12 => {
            let b = image.stream(cursor, 8)?;
            (InodeKind::Device, u32_at(&b, 0), xattr_index(image, cursor, extended)?)
        }
        6 | 7 | 13 | 14 => {
            let b = image.stream(cursor, 4)?;
            let kind = if matches!(kind, 6 | 13) {
                InodeKind::Fifo
            } else {
                InodeKind::Socket
            };
            (kind, u32_at(&b, 0), xattr_index(image, cursor, extended)?)
        }
        _ => return Err(Error::corrupt("an inode of the squashfs image has an unknown type")),
    })
}

fn xattr_index(image: &mut Image, cursor: &mut Cursor, extended: bool) -> Result<u32> {
    if extended {
        Ok(u32_at(&image.stream(cursor, 4)?, 0))
    } else {
        Ok(NONE)
    }
}

fn listing(image: &Image, block: u32, offset: u16, size: u32) -> Result<Listing> {
    let reference = (u64::from(block) << 16) | u64::from(offset);
    let cursor = Cursor::at(image.superblock.directory_table, reference)?;
    // The size counts three bytes for "." and "..", which are not there.
    Ok(Listing {
        cursor,
        remaining: size.saturating_sub(3),
    })
}

fn fragment(index: u32, offset: u32) -> Option<(u32, u32)> {
    (index != NONE).then_some((index, offset))
}

fn id(image: &mut Image, index: u16) -> Result<u32> {
    let Image { superblock, .. } = image;
    if index >= superblock.ids {
        return Err(out_of_range());
    }
    let table = superblock.id_table;
    Ok(u32_at(&image.table(table, index.into(), 4)?, 0))
}

/// Where a fragment block is: its place, its size in the image, and whether it is compressed.
pub(super) fn fragment_block(image: &mut Image, index: u32) -> Result<(u64, usize, bool)> {
    let Image { superblock, .. } = image;
    if index >= superblock.fragments {
        return Err(out_of_range());
    }
    let table = superblock.fragment_table;
    let entry = image.table(table, index.into(), 16)?;
    let (stored, compressed) = block_size(u32_at(&entry, 8));
    Ok((u64_at(&entry, 0), stored, compressed))
}

/// What the size of a data block says: its bytes in the image and whether it is compressed.
pub(super) fn block_size(word: u32) -> (usize, bool) {
    ((word & 0x00ff_ffff) as usize, word & 0x0100_0000 == 0)
}

impl Inode {
    /// Its extended attributes, with their full names.
    pub(super) fn xattrs(&self, image: &mut Image) -> Result<Vec<Xattr>> {
        let table = image.superblock.xattr_table;
        if self.xattrs == NONE || table == ABSENT {
            return Ok(Vec::new());
        }
        let head = image.raw(table, 16)?;
        let values = u64_at(&head, 0);
        if self.xattrs >= u32_at(&head, 8) {
            return Err(out_of_range());
        }
        let entry = image.table(table + 16, self.xattrs.into(), 16)?;
        let count = u32_at(&entry, 8);
        if count > MOST_XATTRS {
            return Err(Error::corrupt("an inode has too many extended attributes"));
        }
        let mut cursor = Cursor::at(values, u64_at(&entry, 0))?;
        let mut xattrs = Vec::new();
        for _ in 0..count {
            xattrs.push(xattr(image, &mut cursor, values)?);
        }
        Ok(xattrs)
    }
}

fn xattr(image: &mut Image, cursor: &mut Cursor, values: u64) -> Result<Xattr> {
    const ELSEWHERE: u16 = 0x100;
    let head = image.stream(cursor, 4)?;
    let kind = u16_at(&head, 0);
    let prefix: &[u8] = match kind & 0xff {
        0 => b"user.",
        1 => b"trusted.",
        2 => b"security.",
        _ => return Err(Error::corrupt("an extended attribute is of an unknown kind")),
    };
    let name = image.stream(cursor, u16_at(&head, 2).into())?;
    let value = if kind & ELSEWHERE == 0 {
        value(image, cursor)?
    } else {
        // The value in this place is a reference to where another inode has the same.
        let reference = image.stream(cursor, 12)?;
        let mut there = Cursor::at(values, u64_at(&reference, 4))?;
        value(image, &mut there)?
    };
    Ok(([prefix, &name].concat(), value))
}

fn value(image: &mut Image, cursor: &mut Cursor) -> Result<Vec<u8>> {
    let length = u32_at(&image.stream(cursor, 4)?, 0);
    if length > 64 << 10 {
        return Err(Error::corrupt("an extended attribute is too large"));
    }
    image.stream(cursor, length as usize)
}

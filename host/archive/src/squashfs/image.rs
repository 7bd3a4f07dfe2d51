//! The parts of a squashfs image that hold everything else: the superblock, compressed blocks, metadata streams and tables.
//! The format is that of Linux's fs/squashfs/squashfs_fs.h, version 4.0, all numbers little-endian.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Most bytes of a metadata block, unpacked.
const METADATA_BLOCK: usize = 8192;
/// Metadata blocks that are kept unpacked: 4 MiB.
const CACHED_BLOCKS: usize = 512;
/// The place of a table that is not there.
pub(super) const ABSENT: u64 = u64::MAX;

/// How the blocks of an image are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Codec {
    Gzip,
    Xz,
    Zstd,
}

/// What the superblock says, checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Superblock {
    pub(super) block_size: u32,
    pub(super) fragments: u32,
    pub(super) ids: u16,
    pub(super) root: u64,
    pub(super) id_table: u64,
    pub(super) xattr_table: u64,
    pub(super) inode_table: u64,
    pub(super) directory_table: u64,
    pub(super) fragment_table: u64,
    codec: Codec,
}

/// A number at a place of a buffer that is long enough.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// As [`u16_at`].
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | (u32::from(u16_at(bytes, at + 2)) << 16)
}

/// As [`u16_at`].
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | (u64::from(u32_at(bytes, at + 4)) << 32)
}

impl Superblock {
    fn parse(bytes: &[u8; 96]) -> Result<Self> {
        let block_size = u32_at(bytes, 12);
        if u16_at(bytes, 28) != 4 || u16_at(bytes, 30) != 0 {
            return Err(Error::Unsupported(
                "a squashfs image of another version than 4.0".to_owned(),
            ));
        }
        // From 4 KiB to 1 MiB.
        if !block_size.is_power_of_two() || !(12..=20).contains(&block_size.ilog2()) {
            return Err(Error::corrupt("the block size of the squashfs image is impossible"));
        }
        let codec = match u16_at(bytes, 20) {
            1 => Codec::Gzip,
            4 => Codec::Xz,
            6 => Codec::Zstd,
            other => {
                let name = match other {
                    2 => "lzma",
                    3 => "lzo",
                    5 => "lz4",
                    _ => "something unknown",
                };
                return Err(Error::Unsupported(format!("a squashfs image compressed with {name}")));
            }
        };
        Ok(Self {
            block_size,
            fragments: u32_at(bytes, 16),
            ids: u16_at(bytes, 26),
            root: u64_at(bytes, 32),
            id_table: u64_at(bytes, 48),
            xattr_table: u64_at(bytes, 56),
            inode_table: u64_at(bytes, 64),
            directory_table: u64_at(bytes, 72),
            fragment_table: u64_at(bytes, 80),
            codec,
        })
    }
}

/// An unpacked metadata block, and where the next one begins.
struct MetadataBlock {
    data: Vec<u8>,
    next: u64,
}

/// A place in a metadata stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor {
    block: u64,
    offset: usize,
}

impl Cursor {
    /// The place that a reference names: the block, counted from `table`, in the upper bits, and the offset in it.
    pub(super) fn at(table: u64, reference: u64) -> Result<Self> {
        let block = table.checked_add(reference >> 16).ok_or_else(out_of_range)?;
        // 16 bits fit.
        let offset = usize::from(u16_at(&reference.to_le_bytes(), 0));
        Ok(Self { block, offset })
    }
}

pub(super) fn out_of_range() -> Error {
    Error::corrupt("a reference in the squashfs image is out of range")
}

/// A squashfs image.
pub(super) struct Image {
    file: File,
    read: Arc<AtomicU64>,
    pub(super) superblock: Superblock,
    metadata: HashMap<u64, Rc<MetadataBlock>>,
}

impl Image {
    /// Reads the superblock. Bytes that are read from the file are added to `read`.
    pub(super) fn open(file: File, read: Arc<AtomicU64>) -> Result<Self> {
        let mut bytes = [0; 96];
        read_at(&file, &mut bytes, 0)?;
        let superblock = Superblock::parse(&bytes)?;
        // Not by the standard library, which asks with a system call that the jail does not have.
        let length = rustix::fs::fstat(&file).map_err(|e| Error::Read(e.into()))?.st_size;
        if i64::try_from(u64_at(&bytes, 40)).map_or(true, |used| used > length) {
            return Err(Error::Truncated);
        }
        Ok(Self {
            file,
            read,
            superblock,
            metadata: HashMap::new(),
        })
    }

    /// Bytes of the file as they are.
    pub(super) fn raw(&self, at: u64, length: usize) -> Result<Vec<u8>> {
        let mut data = vec![0; length];
        read_at(&self.file, &mut data, at)?;
        self.read.fetch_add(length as u64, Ordering::Relaxed);
        Ok(data)
    }

    /// A block of at most `most` bytes unpacked, of which `stored` bytes lie at `at`.
    pub(super) fn block(&self, at: u64, stored: usize, compressed: bool, most: usize) -> Result<Vec<u8>> {
        if stored > most {
            return Err(Error::corrupt("a block of the squashfs image is too large"));
        }
        let data = self.raw(at, stored)?;
        if compressed { self.unpack(&data, most) } else { Ok(data) }
    }

    fn unpack(&self, data: &[u8], most: usize) -> Result<Vec<u8>> {
        let damaged = |_| Error::corrupt("a block of the squashfs image can't be unpacked");
        if self.superblock.codec == Codec::Zstd {
            return zstd::bulk::decompress(data, most).map_err(damaged);
        }
        let mut out = Vec::with_capacity(most);
        let limit = most as u64 + 1;
        match self.superblock.codec {
            Codec::Gzip => flate2::bufread::ZlibDecoder::new(data)
                .take(limit)
                .read_to_end(&mut out),
            // The dictionary is at most as large as a block, and mksquashfs makes it no larger.
            _ => {
                let stream = liblzma::stream::Stream::new_stream_decoder(64 << 20, 0).map_err(|e| damaged(e.into()))?;
                liblzma::bufread::XzDecoder::new_stream(data, stream)
                    .take(limit)
                    .read_to_end(&mut out)
            }
        }
        .map_err(damaged)?;
        if out.len() > most {
            Err(Error::corrupt("a block of the squashfs image is too large"))
        } else {
            Ok(out)
        }
    }

    fn metadata_block(&mut self, at: u64) -> Result<Rc<MetadataBlock>> {
        if let Some(block) = self.metadata.get(&at) {
            return Ok(Rc::clone(block));
        }
        let header = u16_at(&self.raw(at, 2)?, 0);
        let stored = usize::from(header & 0x7fff);
        let start = at.checked_add(2).ok_or_else(out_of_range)?;
        let data = self.block(start, stored, header & 0x8000 == 0, METADATA_BLOCK)?;
        if data.is_empty() {
            return Err(Error::corrupt("a metadata block of the squashfs image is empty"));
        }
        let block = Rc::new(MetadataBlock {
            data,
            next: start + stored as u64,
        });
        if self.metadata.len() >= CACHED_BLOCKS {
            self.metadata.clear();
        }
        self.metadata.insert(at, Rc::clone(&block));
        Ok(block)
    }

    /// Reads `length` bytes of a metadata stream and moves the cursor behind them.
    pub(super) fn stream(&mut self, cursor: &mut Cursor, length: usize) -> Result<Vec<u8>> {
        let mut out = Vec::with_capacity(length.min(METADATA_BLOCK));
        while out.len() < length {
            let block = self.metadata_block(cursor.block)?;
            let rest = block.data.get(cursor.offset..).ok_or_else(out_of_range)?;
            let n = rest.len().min(length - out.len());
            out.extend_from_slice(&rest[..n]);
            cursor.offset += n;
            if cursor.offset == block.data.len() {
                *cursor = Cursor {
                    block: block.next,
                    offset: 0,
                };
            }
        }
        Ok(out)
    }

    /// Entry `index` of a table whose entries are `size` bytes (a divisor of 8192) and whose list of blocks is at `table`.
    pub(super) fn table(&mut self, table: u64, index: u64, size: usize) -> Result<Vec<u8>> {
        let per_block = (METADATA_BLOCK / size) as u64;
        let pointer = (index / per_block)
            .checked_mul(8)
            .and_then(|o| o.checked_add(table))
            .ok_or_else(out_of_range)?;
        let block = u64_at(&self.raw(pointer, 8)?, 0);
        let offset = usize::try_from(index % per_block).unwrap_or_default() * size;
        self.stream(&mut Cursor { block, offset }, size)
    }
}

fn read_at(file: &File, buffer: &mut [u8], at: u64) -> Result<()> {
    // Beyond what an offset can be (off_t is signed) there is no file.
    if i64::try_from(at).is_err() {
        return Err(out_of_range());
    }
    file.read_exact_at(buffer, at).map_err(|e| Error::read(&e))
}

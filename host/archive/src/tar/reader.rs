//! Reads a tar archive entry by entry, in one pass.

use std::io::{BufRead, ErrorKind};

use super::BLOCK;
use super::header::{Flavour, Header, unsigned};
use super::pax::Overrides;
use super::sparse::{PaxKind, Piece, SparseMap, read_map};
use crate::entry::{DataSink, Entry, EntryPath, Kind, Source, Time, check_xattrs, owner};
use crate::error::{Error, Refusal, Result};

/// Bytes of one extended header: room for the largest extended attributes.
const MOST_EXTENDED: u64 = 2 << 20;
/// Bytes of one long name of GNU's.
const MOST_NAME: u64 = 16 << 10;
/// Headers that may come before the one that they are about.
const MOST_HEADERS: usize = 16;
/// Bytes that may follow the end of the archive: padding to a record of whatever size.
const MOST_TRAILING: usize = 16 << 20;

/// A tar archive.
pub(crate) struct TarReader<R> {
    input: R,
    depth: usize,
    global: Overrides,
    /// Stored bytes of the current entry that have not been read.
    remaining: u64,
    /// Bytes after them up to the next block.
    padding: u64,
    /// Where the current file's data belongs.
    pieces: Vec<Piece>,
    ended: bool,
}

/// What the headers before the current one say of it.
#[derive(Default)]
struct Before {
    overrides: Overrides,
    name: Option<Vec<u8>>,
    link_name: Option<Vec<u8>>,
}

impl<R: BufRead> TarReader<R> {
    /// Paths may have `depth` components.
    pub(crate) fn new(input: R, depth: usize) -> Self {
        Self {
            input,
            depth,
            global: Overrides::default(),
            remaining: 0,
            padding: 0,
            pieces: Vec::new(),
            ended: false,
        }
    }

    /// Reads exactly `buf`; `false` when the archive ends before its first byte.
    fn fill(&mut self, buf: &mut [u8]) -> Result<bool> {
        let mut at = 0;
        while at < buf.len() {
            let available = self.available()?;
            if available.is_empty() {
                return if at == 0 { Ok(false) } else { Err(Error::Truncated) };
            }
            let n = available.len().min(buf.len() - at);
            buf[at..at + n].copy_from_slice(&available[..n]);
            self.input.consume(n);
            at += n;
        }
        Ok(true)
    }

    /// What can be read without waiting, at least one byte unless the archive is at its end.
    fn available(&mut self) -> Result<&[u8]> {
        loop {
            match self.input.fill_buf() {
                Ok(_) => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::read(&e)),
            }
        }
        // Asked again because the borrow checker can't see that the loop ends with it; the buffer is full now.
        self.input.fill_buf().map_err(|e| Error::read(&e))
    }

    fn block(&mut self) -> Result<[u8; BLOCK]> {
        let mut block = [0; BLOCK];
        if self.fill(&mut block)? {
            Ok(block)
        } else {
            Err(Error::Truncated)
        }
    }

    /// Passes over what is left of the current entry.
    fn skip(&mut self) -> Result<()> {
        let mut left = self.remaining.saturating_add(self.padding);
        while left > 0 {
            let n = self.available()?.len();
            if n == 0 {
                return Err(Error::Truncated);
            }
            let n = usize::try_from(left).unwrap_or(usize::MAX).min(n);
            self.input.consume(n);
            left -= n as u64;
        }
        (self.remaining, self.padding) = (0, 0);
        Ok(())
    }

    /// The next header block; `None` at the end of the archive, which two blocks of zeros mark. As other programs do, one
    /// is accepted when nothing follows it; an archive without any has been cut.
    fn header_block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let block = self.block()?;
        if block != [0; BLOCK] {
            return Ok(Some(block));
        }
        let mut second = [0; BLOCK];
        if self.fill(&mut second)? && second != [0; BLOCK] {
            return Err(Error::corrupt("data follow the end of the archive"));
        }
        self.drain()?;
        Ok(None)
    }

    /// Reads what follows the end, so that the checksums of the compression are checked.
    fn drain(&mut self) -> Result<()> {
        let mut trailing = 0;
        loop {
            let n = self.available()?.len();
            if n == 0 {
                return Ok(());
            }
            trailing += n;
            if trailing > MOST_TRAILING {
                return Err(Error::corrupt("data follow the end of the archive"));
            }
            self.input.consume(n);
        }
    }

    /// Data of the entry just begun that is kept in memory.
    fn small(&mut self, size: u64, most: u64) -> Result<Vec<u8>> {
        if size > most {
            return Err(Error::corrupt("an extended header is too large"));
        }
        self.begin(size);
        let mut data = vec![0; usize::try_from(size).map_err(|_| Error::Truncated)?];
        if !self.fill(&mut data)? && !data.is_empty() {
            return Err(Error::Truncated);
        }
        self.remaining = 0;
        self.skip()?;
        Ok(data)
    }

    fn begin(&mut self, size: u64) {
        self.remaining = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
        self.pieces.clear();
    }

    fn entry(&mut self, header: &Header<'_>, before: Before) -> Result<Entry> {
        let overrides = before.overrides.or(&self.global);
        let sparse = overrides.sparse.kind()?;
        let name = overrides.sparse.name.clone().filter(|_| sparse.is_some());
        let name = name.or(overrides.path).or(before.name).unwrap_or_else(|| header.name());
        let path = EntryPath::parse(&name, self.depth).map_err(|reason| Error::refused(&name, reason))?;
        let link = overrides
            .link_path
            .or(before.link_name)
            .unwrap_or_else(|| header.link_name());
        let stored = match overrides.size {
            Some(size) => size,
            None => header.size()?,
        };
        self.begin(stored);
        let kind = self.kind(header, &name, &link, stored, sparse)?;
        if !matches!(kind, Kind::File(_)) && stored != 0 {
            // Programs differ in whether such data exist, so the archive would mean different things to them.
            return Err(Error::corrupt("an entry that is not a file has data"));
        }
        check_xattrs(&overrides.xattrs, &name)?;
        let uid = overrides.uid.map_or_else(|| header.uid(), Ok)?;
        let gid = overrides.gid.map_or_else(|| header.gid(), Ok)?;
        let mtime = match overrides.mtime {
            Some(time) => time,
            None => Time {
                seconds: header.mtime()?,
                nanoseconds: 0,
            },
        };
        Ok(Entry {
            path,
            kind,
            mode: header.mode()?,
            uid: owner(uid, &name)?,
            gid: owner(gid, &name)?,
            mtime,
            xattrs: overrides.xattrs,
        })
    }

    fn kind(
        &mut self,
        header: &Header<'_>,
        name: &[u8],
        link: &[u8],
        stored: u64,
        sparse: Option<PaxKind>,
    ) -> Result<Kind> {
        Ok(match header.typeflag() {
            // Before POSIX a directory was a file whose name ends with a slash.
            0 | b'0' if name.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' => Kind::File(self.file(stored, sparse)?),
            b'1' => {
                let target = EntryPath::parse(link, self.depth).map_err(|reason| Error::refused(name, reason))?;
                Kind::Hardlink(target)
            }
            b'2' if link.is_empty() || link.contains(&0) || link.len() > 4095 => {
                return Err(Error::corrupt("a symbolic link has no valid target"));
            }
            b'2' => Kind::Symlink(link.to_vec()),
            b'3' | b'4' => Kind::Device,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            b'S' if header.flavour() == Flavour::Gnu => Kind::File(self.old_sparse(header, stored)?),
            other => return Err(Error::refused(name, Refusal::Type(char::from(other)))),
        })
    }

    /// The apparent size of a regular file; where its data belong is noted.
    fn file(&mut self, stored: u64, sparse: Option<PaxKind>) -> Result<u64> {
        let map = match sparse {
            None => {
                self.pieces = vec![Piece {
                    offset: 0,
                    length: stored,
                }];
                return Ok(stored);
            }
            Some(PaxKind::InHeader(map)) => map,
            Some(PaxKind::InData { size }) => {
                let mut left = stored;
                let (map, used) = read_map(size, || {
                    left = left
                        .checked_sub(BLOCK as u64)
                        .ok_or_else(|| Error::corrupt("the map of a sparse file is cut"))?;
                    self.block()
                })?;
                self.remaining -= used;
                map
            }
        };
        map.check(self.remaining)?;
        self.pieces = map.pieces;
        Ok(map.size)
    }

    /// The same for GNU's old format, in which the map is in the header and in blocks after it that are not counted in
    /// the size.
    fn old_sparse(&mut self, header: &Header<'_>, stored: u64) -> Result<u64> {
        let size = unsigned(header.raw(483..495)).ok_or_else(|| Error::corrupt("a sparse file's size is no number"))?;
        let mut map = SparseMap {
            size,
            pieces: Vec::new(),
        };
        map.push_old(header.raw(386..482), 4)?;
        let mut more = header.raw(482..483)[0] != 0;
        while more {
            let block = self.block()?;
            let known = map.pieces.len();
            map.push_old(&block[..504], 21)?;
            more = block[504] != 0;
            if more && map.pieces.len() == known {
                return Err(Error::corrupt("the map of a sparse file has empty parts"));
            }
        }
        map.check(stored)?;
        self.pieces = map.pieces;
        Ok(size)
    }
}

impl<R: BufRead> Source for TarReader<R> {
    fn next_entry(&mut self) -> Result<Option<Entry>> {
        if self.ended {
            return Ok(None);
        }
        self.skip()?;
        let mut before = Before::default();
        for _ in 0..MOST_HEADERS {
            let Some(block) = self.header_block()? else {
                self.ended = true;
                return Ok(None);
            };
            let header = Header::new(&block)?;
            match header.typeflag() {
                b'x' | b'X' => {
                    let data = self.small(header.size()?, MOST_EXTENDED)?;
                    before.overrides.parse(&data)?;
                }
                b'g' => {
                    let data = self.small(header.size()?, MOST_EXTENDED)?;
                    self.global.parse(&data)?;
                }
                b'L' => before.name = Some(until_zero(self.small(header.size()?, MOST_NAME)?)),
                b'K' => before.link_name = Some(until_zero(self.small(header.size()?, MOST_NAME)?)),
                // The label of a volume.
                b'V' => {
                    self.small(header.size()?, MOST_NAME)?;
                }
                _ => return self.entry(&header, before).map(Some),
            }
        }
        Err(Error::corrupt("there are too many extended headers"))
    }

    fn read_data(&mut self, sink: &mut dyn DataSink) -> Result<()> {
        for piece in std::mem::take(&mut self.pieces) {
            let mut done = 0;
            while done < piece.length {
                let left = usize::try_from(piece.length - done).unwrap_or(usize::MAX);
                let available = self.available()?;
                if available.is_empty() {
                    return Err(Error::Truncated);
                }
                let n = available.len().min(left);
                sink.write_at(piece.offset + done, &available[..n])?;
                self.input.consume(n);
                self.remaining -= n as u64;
                done += n as u64;
            }
        }
        Ok(())
    }
}

/// GNU's long names end with a zero byte.
fn until_zero(mut name: Vec<u8>) -> Vec<u8> {
    if let Some(end) = name.iter().position(|&b| b == 0) {
        name.truncate(end);
    }
    name
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;

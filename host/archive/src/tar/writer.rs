//! Writes tar archives in the pax format. Fields that fit stand in the ustar header alone, so that small archives can be
//! read by everything; whatever does not fit, and extended attributes, come in an extended header before it.

use std::io::{self, Write};

use super::BLOCK;
use super::header::seal;
use crate::entry::{Entry, Kind};

/// Eight octal digits and a zero byte would be needed from here on.
const MOST_ID: u64 = 0o7_777_777;
/// The same for a size or time of eleven digits.
const MOST_SIZE: u64 = 0o77_777_777_777;

/// Writes entries to `W`.
pub(crate) struct TarWriter<W> {
    out: W,
    /// Bytes of the current file that are still to come, and the padding after them.
    remaining: u64,
    padding: usize,
}

impl<W: Write> TarWriter<W> {
    pub(crate) fn new(out: W) -> Self {
        Self {
            out,
            remaining: 0,
            padding: 0,
        }
    }

    /// Begins an entry. For a [`Kind::File`] its bytes follow through [`TarWriter::data`], exactly as many as its size.
    pub(crate) fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        self.end_of_data()?;
        let mut block = [0; BLOCK];
        let mut extended = Vec::new();
        let mut name = entry.path.as_bytes().to_vec();
        if name.is_empty() {
            name.push(b'.');
        }
        if entry.kind == Kind::Directory {
            name.push(b'/');
        }
        let (typeflag, link, size): (u8, &[u8], u64) = match &entry.kind {
            Kind::File(size) => (b'0', b"", *size),
            Kind::Hardlink(target) => (b'1', target.as_bytes(), 0),
            Kind::Symlink(target) => (b'2', target, 0),
            Kind::Directory => (b'5', b"", 0),
            Kind::Fifo => (b'6', b"", 0),
            Kind::Socket | Kind::Device => {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    "sockets and devices are not archived",
                ));
            }
        };
        put_text(&mut block, &mut extended, 0..100, b"path", &name);
        put_text(&mut block, &mut extended, 157..257, b"linkpath", link);
        put_octal(&mut block, 100..108, u64::from(entry.mode));
        put_number(
            &mut block,
            &mut extended,
            108..116,
            b"uid",
            u64::from(entry.uid),
            MOST_ID,
        );
        put_number(
            &mut block,
            &mut extended,
            116..124,
            b"gid",
            u64::from(entry.gid),
            MOST_ID,
        );
        put_number(&mut block, &mut extended, 124..136, b"size", size, MOST_SIZE);
        put_mtime(&mut block, &mut extended, entry);
        for (key, value) in &entry.xattrs {
            push_record(&mut extended, &[b"SCHILY.xattr.", key.as_slice()].concat(), value);
        }
        if !extended.is_empty() {
            self.extended(&extended)?;
        }
        self.block(block, typeflag)?;
        self.begin(size);
        Ok(())
    }

    /// The next bytes of the current file.
    pub(crate) fn data(&mut self, data: &[u8]) -> io::Result<()> {
        self.remaining = self
            .remaining
            .checked_sub(data.len() as u64)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a file grew while it was archived"))?;
        self.out.write_all(data)
    }

    /// Writes the end of the archive and answers what was written to.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.end_of_data()?;
        self.out.write_all(&[0; 2 * BLOCK])?;
        Ok(self.out)
    }

    fn extended(&mut self, records: &[u8]) -> io::Result<()> {
        let mut block = [0; BLOCK];
        block[..9].copy_from_slice(b"PaxHeader");
        put_octal(&mut block, 100..108, 0o644);
        put_octal(&mut block, 108..116, 0);
        put_octal(&mut block, 116..124, 0);
        put_octal(&mut block, 124..136, records.len() as u64);
        put_octal(&mut block, 136..148, 0);
        self.block(block, b'x')?;
        self.begin(records.len() as u64);
        self.data(records)?;
        self.end_of_data()
    }

    fn block(&mut self, mut block: [u8; BLOCK], typeflag: u8) -> io::Result<()> {
        block[156] = typeflag;
        block[257..265].copy_from_slice(b"ustar\x0000");
        seal(&mut block);
        self.out.write_all(&block)
    }

    fn begin(&mut self, size: u64) {
        self.remaining = size;
        // The remainder of a division by 512 fits.
        let over = usize::try_from(size % BLOCK as u64).unwrap_or_default();
        self.padding = (BLOCK - over) % BLOCK;
    }

    fn end_of_data(&mut self) -> io::Result<()> {
        if self.remaining > 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "a file shrank while it was archived",
            ));
        }
        self.out.write_all(&[0; BLOCK][..self.padding])?;
        self.padding = 0;
        Ok(())
    }
}

/// Appends the record `length key=value`, in which the length counts itself.
pub(crate) fn push_record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + digits(length) {
        length = rest + digits(length);
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn digits(n: usize) -> usize {
    n.checked_ilog10().map_or(1, |d| d as usize + 1)
}

fn put_text(block: &mut [u8; BLOCK], extended: &mut Vec<u8>, field: std::ops::Range<usize>, key: &[u8], text: &[u8]) {
    let fits = text.len() <= field.len() && text.is_ascii();
    if !fits {
        push_record(extended, key, text);
    }
    let n = text.len().min(field.len());
    block[field.start..field.start + n].copy_from_slice(&text[..n]);
}

fn put_number(
    block: &mut [u8; BLOCK],
    extended: &mut Vec<u8>,
    field: std::ops::Range<usize>,
    key: &[u8],
    n: u64,
    most: u64,
) {
    if n > most {
        push_record(extended, key, n.to_string().as_bytes());
    }
    put_octal(block, field, n.min(most));
}

/// Nanoseconds and times before 1970 need an extended header.
fn put_mtime(block: &mut [u8; BLOCK], extended: &mut Vec<u8>, entry: &Entry) {
    let time = entry.mtime;
    let seconds = u64::try_from(time.seconds).unwrap_or(0).min(MOST_SIZE);
    if time.nanoseconds != 0 || u64::try_from(time.seconds) != Ok(seconds) {
        // A fraction counts away from zero.
        let text = match (time.seconds, time.nanoseconds) {
            (s, ns) if s < 0 && ns > 0 => {
                let sign = if s == -1 { "-" } else { "" };
                format!("{sign}{}.{:09}", s + 1, 1_000_000_000 - ns)
            }
            (s, ns) => format!("{s}.{ns:09}"),
        };
        push_record(extended, b"mtime", text.as_bytes());
    }
    put_octal(block, 136..148, seconds);
}

fn put_octal(block: &mut [u8; BLOCK], field: std::ops::Range<usize>, n: u64) {
    let width = field.len() - 1;
    let text = format!("{n:0width$o}\0");
    block[field].copy_from_slice(text.as_bytes());
}

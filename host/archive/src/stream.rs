//! The bytes of an archive: what compressed them is told by their beginning, and they are decompressed in a thread of
//! their own, so that writing the tree does not wait for it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use crate::error::{Errno, Error, Result};

/// Decompressed bytes that are handed over at a time.
const CHUNK: usize = 512 << 10;
/// Chunks on their way between the two threads.
const IN_FLIGHT: usize = 4;
/// Where the magic of a tar header lies, and of an ISO image or a disk, which are told apart only to name them.
const TAR_MAGIC_AT: usize = 257;

/// What a file is, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Tar(Compression),
    Squashfs,
}

/// What a tar archive is compressed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Bzip2,
    Xz,
    Zstd,
}

impl Format {
    /// Tells the format by the first 512 bytes (fewer where the file is shorter). The magic numbers are those of RFC 1952,
    /// the .xz file format, RFC 8878, the bzip2 program, POSIX's ustar and Linux's squashfs_fs.h.
    pub(crate) fn detect(head: &[u8]) -> Result<Self> {
        let starts = |magic: &[u8]| head.starts_with(magic);
        if starts(&[0x1f, 0x8b]) {
            return Ok(Self::Tar(Compression::Gzip));
        }
        if starts(&[0xfd, b'7', b'z', b'X', b'Z', 0]) {
            return Ok(Self::Tar(Compression::Xz));
        }
        if starts(&[0x28, 0xb5, 0x2f, 0xfd]) {
            return Ok(Self::Tar(Compression::Zstd));
        }
        if starts(b"BZh") {
            return Ok(Self::Tar(Compression::Bzip2));
        }
        if starts(b"hsqs") {
            return Ok(Self::Squashfs);
        }
        if starts(b"QFI\xfb") {
            return Err(Error::Unsupported("the disk of a virtual machine (qcow2)".into()));
        }
        let is_tar = head.get(TAR_MAGIC_AT..TAR_MAGIC_AT + 5) == Some(b"ustar")
            || (head.len() == crate::tar::BLOCK && crate::tar::header::checksum_matches(head));
        if is_tar {
            Ok(Self::Tar(Compression::None))
        } else {
            Err(Error::Format)
        }
    }

    /// Tells the format of a file and goes back to its beginning.
    pub(crate) fn of(file: &mut File) -> Result<Self> {
        let fail = |e: io::Error| Error::Read(Errno::from(&e));
        let mut head = Vec::with_capacity(crate::tar::BLOCK);
        file.seek(SeekFrom::Start(0)).map_err(fail)?;
        file.by_ref()
            .take(crate::tar::BLOCK as u64)
            .read_to_end(&mut head)
            .map_err(fail)?;
        file.seek(SeekFrom::Start(0)).map_err(fail)?;
        Self::detect(&head)
    }
}

/// The usual extension of files like this one: `tar.xz`, `squashfs`. Afterwards the file is at its beginning.
pub fn extension(file: &mut File) -> Result<&'static str> {
    Ok(match Format::of(file)? {
        Format::Squashfs => "squashfs",
        Format::Tar(Compression::None) => "tar",
        Format::Tar(Compression::Gzip) => "tar.gz",
        Format::Tar(Compression::Bzip2) => "tar.bz2",
        Format::Tar(Compression::Xz) => "tar.xz",
        Format::Tar(Compression::Zstd) => "tar.zst",
    })
}

/// Counts what is read from a file.
struct Counted {
    file: File,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buf)?;
        self.read.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// A decompressed stream.
pub(crate) struct Stream(Box<dyn BufRead>);

impl Stream {
    /// The stream of a file that is positioned at its beginning. A decompressor takes at most `memory` bytes. Bytes read
    /// from the file are added to `read`.
    pub(crate) fn open(file: File, compression: Compression, memory: u64, read: Arc<AtomicU64>) -> Result<Self> {
        let counted = BufReader::with_capacity(CHUNK, Counted { file, read });
        let inner: Box<dyn BufRead> = match compression {
            Compression::None => Box::new(counted),
            _ => Box::new(Threaded::spawn(move || decoder(counted, compression, memory))?),
        };
        Ok(Self(inner))
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl BufRead for Stream {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.0.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.0.consume(amount);
    }
}

/// A decompressor that takes several streams one after the other, as the command-line tools do.
fn decoder(input: BufReader<Counted>, compression: Compression, memory: u64) -> io::Result<Box<dyn Read>> {
    Ok(match compression {
        Compression::None => Box::new(input),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(input)),
        Compression::Xz => {
            let flags = liblzma::stream::CONCATENATED;
            let stream = liblzma::stream::Stream::new_stream_decoder(memory, flags)?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(input, stream))
        }
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
            decoder.window_log_max(memory.max(1 << 10).ilog2().min(31))?;
            Box::new(decoder)
        }
    })
}

type Chunk = io::Result<Vec<u8>>;

/// Reads ahead in a thread. The thread ends with the reader or with the stream, whichever is first.
struct Threaded {
    full: Receiver<Chunk>,
    empty: Sender<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
    ended: bool,
}

impl Threaded {
    fn spawn(open: impl FnOnce() -> io::Result<Box<dyn Read>> + Send + 'static) -> Result<Self> {
        let (full_tx, full) = sync_channel(IN_FLIGHT);
        let (empty, empty_rx) = channel();
        std::thread::Builder::new()
            .name("decompress".into())
            .spawn(move || match open() {
                Ok(reader) => pump(reader, &full_tx, &empty_rx),
                // The receiver is gone only when nobody wants the answer.
                Err(e) => drop(full_tx.send(Err(e))),
            })
            .map_err(|e| Error::Jail {
                step: "starting a thread".into(),
                source: Errno::from(&e),
            })?;
        Ok(Self {
            full,
            empty,
            current: Vec::new(),
            at: 0,
            ended: false,
        })
    }
}

/// Fills chunks until the stream ends or fails, or until nobody takes them any more. An empty chunk is the end.
fn pump(mut reader: Box<dyn Read>, full: &SyncSender<Chunk>, empty: &Receiver<Vec<u8>>) {
    loop {
        let mut chunk = empty.try_recv().unwrap_or_default();
        chunk.clear();
        chunk.reserve_exact(CHUNK);
        let result = reader.by_ref().take(CHUNK as u64).read_to_end(&mut chunk);
        let last = chunk.is_empty() || result.is_err();
        // What came before an error is handed over first.
        if !chunk.is_empty() && full.send(Ok(chunk)).is_err() {
            return;
        }
        if last {
            drop(full.send(result.map(|_| Vec::new())));
            return;
        }
    }
}

impl BufRead for Threaded {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.current.len() && !self.ended {
            let spent = std::mem::take(&mut self.current);
            // The thread may have ended already; then nobody needs the buffer.
            drop(self.empty.send(spent));
            self.at = 0;
            match self.full.recv() {
                Ok(Ok(chunk)) => {
                    self.ended = chunk.is_empty();
                    self.current = chunk;
                }
                Ok(Err(e)) => {
                    self.ended = true;
                    return Err(e);
                }
                Err(_) => {
                    self.ended = true;
                    return Err(io::Error::other("the decompressor crashed"));
                }
            }
        }
        Ok(&self.current[self.at..])
    }

    fn consume(&mut self, amount: usize) {
        self.at = (self.at + amount).min(self.current.len());
    }
}

impl Read for Threaded {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let n = available.len().min(buf.len());
        buf[..n].copy_from_slice(&available[..n]);
        self.consume(n);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn packed(compression: Compression, data: &[u8]) -> Vec<u8> {
        match compression {
            Compression::None => data.to_vec(),
            Compression::Gzip => {
                let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                e.write_all(data).unwrap();
                e.finish().unwrap()
            }
            Compression::Bzip2 => {
                let mut e = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
                e.write_all(data).unwrap();
                e.finish().unwrap()
            }
            Compression::Xz => {
                let mut e = liblzma::write::XzEncoder::new(Vec::new(), 1);
                e.write_all(data).unwrap();
                e.finish().unwrap()
            }
            Compression::Zstd => zstd::encode_all(data, 1).unwrap(),
        }
    }

    fn read_all(compression: Compression, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut out = Vec::new();
        Stream::open(file, compression, 64 << 20, Arc::default())
            .unwrap()
            .read_to_end(&mut out)?;
        Ok(out)
    }

    /// Does not compress well, so that a cut is a cut in the data.
    fn sample() -> Vec<u8> {
        let mut x = 1u32;
        let mut next = || {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            x.to_be_bytes()[0]
        };
        (0..3_000_000).map(|_| next()).collect()
    }

    const ALL: [Compression; 4] = [
        Compression::Gzip,
        Compression::Bzip2,
        Compression::Xz,
        Compression::Zstd,
    ];

    #[test]
    fn streams_come_back_whole_and_are_known_by_their_magic() {
        let data = sample();
        for compression in ALL {
            let bytes = packed(compression, &data);
            assert_eq!(Format::detect(&bytes[..512]), Ok(Format::Tar(compression)));
            assert!(read_all(compression, &bytes).unwrap() == data, "{compression:?}");
            let twice = [bytes.clone(), bytes].concat();
            assert_eq!(
                read_all(compression, &twice).unwrap().len(),
                2 * data.len(),
                "{compression:?}"
            );
        }
    }

    #[test]
    fn a_cut_stream_is_truncated_and_a_changed_one_corrupt() {
        let data = sample();
        for compression in ALL {
            let mut bytes = packed(compression, &data);
            for cut in [bytes.len() - 1, bytes.len() / 2] {
                let e = Error::read(&read_all(compression, &bytes[..cut]).unwrap_err());
                assert_eq!(e, Error::Truncated, "{compression:?} cut at {cut}");
            }
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0xff;
            bytes[middle + 1] ^= 0xff;
            if compression != Compression::Zstd {
                let e = Error::read(&read_all(compression, &bytes).unwrap_err());
                assert!(matches!(e, Error::Corrupt(_)), "{compression:?}: {e:?}");
            }
        }
    }

    #[test]
    fn what_is_no_archive_is_said_to_be_none() {
        assert_eq!(Format::detect(b""), Err(Error::Format));
        assert_eq!(Format::detect(&[0; 512]), Err(Error::Format));
        assert_eq!(Format::detect(b"#!/bin/sh\n"), Err(Error::Format));
        assert!(matches!(Format::detect(b"QFI\xfb0000"), Err(Error::Unsupported(_))));
        assert_eq!(Format::detect(b"hsqs"), Ok(Format::Squashfs));
    }
}

//! Writes image archives: zstd-compressed tar, in the pax format.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};

use serde::{Deserialize, Serialize};

use crate::check::DryTree;
use crate::entry::{DataSink, Entry, EntryPath, Kind, Time};
use crate::error::{Errno, Error, Result, show};
use crate::metadata::{ImageMetadata, METADATA_FILE, TEMPLATES_DIR};
use crate::tar::writer::TarWriter;
use crate::walk::{DataOf, Tree};

/// The level of zstd at which a processor still keeps up with a disk.
const LEVEL: i32 = 3;
/// Zeros that stand for holes, written this many at a time.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Something small that is put into an archive, replacing what has its name there. It belongs to root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// Relative to the root of the tree, without `..`. Directories above it that are missing are made with mode 0755.
    pub path: String,
    /// What it is.
    pub kind: PlacedKind,
}

/// What a [`Placed`] entry is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlacedKind {
    /// A regular file.
    File {
        /// Permissions: 0 to 07777.
        mode: u32,
        /// Its content.
        data: Vec<u8>,
    },
    /// A symbolic link.
    Symlink {
        /// Where it leads.
        target: Vec<u8>,
    },
}

/// A zstd-compressed tar archive that is being written.
pub(crate) struct Packer<W: Write> {
    tar: TarWriter<zstd::Encoder<'static, BufWriter<W>>>,
    /// What is in the archive, so that it never contradicts itself.
    tree: DryTree,
    depth: usize,
}

impl<W: Write> Packer<W> {
    /// Paths may have `depth` components.
    pub(crate) fn new(out: W, depth: usize) -> Result<Self> {
        let mut encoder =
            zstd::Encoder::new(BufWriter::with_capacity(1 << 20, out), LEVEL).map_err(|e| write_error(&e))?;
        encoder.include_checksum(true).map_err(|e| write_error(&e))?;
        Ok(Self {
            tar: TarWriter::new(encoder),
            tree: DryTree::default(),
            depth,
        })
    }

    /// Puts something small into the archive.
    pub(crate) fn place(&mut self, placed: &Placed, time: Time) -> Result<()> {
        let name = placed.path.as_bytes();
        let path = EntryPath::parse(name, self.depth).map_err(|reason| Error::refused(name, reason))?;
        for parent in self.tree.missing_parents(&path) {
            let parent = EntryPath::parse(&parent, self.depth).map_err(|reason| Error::refused(name, reason))?;
            self.add(&plain(parent, Kind::Directory, 0o755, time), &mut Bytes(&[]))?;
        }
        match &placed.kind {
            PlacedKind::File { mode, data } => {
                let entry = plain(path, Kind::File(data.len() as u64), *mode & 0o7777, time);
                self.add(&entry, &mut Bytes(data))
            }
            PlacedKind::Symlink { target } => {
                if target.is_empty() || target.contains(&0) || target.len() > 4095 {
                    return Err(Error::Invalid {
                        file: show(name),
                        reason: "its target is no path".to_owned(),
                    });
                }
                self.add(
                    &plain(path, Kind::Symlink(target.clone()), 0o777, time),
                    &mut Bytes(&[]),
                )
            }
        }
    }

    /// Writes the end of the archive.
    pub(crate) fn finish(self) -> Result<()> {
        let encoder = self.tar.finish().map_err(|e| write_error(&e))?;
        let mut out = encoder.finish().map_err(|e| write_error(&e))?;
        out.flush().map_err(|e| write_error(&e))
    }
}

impl<W: Write> Tree for Packer<W> {
    fn add(&mut self, entry: &Entry, data: &mut dyn DataOf) -> Result<()> {
        if entry.kind == Kind::Socket {
            // Whoever listened on it is gone, and tar has no type for it.
            return Ok(());
        }
        self.tree.add(entry, &mut Bytes(&[]))?;
        self.tar.entry(entry).map_err(|e| write_error(&e))?;
        let Kind::File(size) = entry.kind else { return Ok(()) };
        let mut body = Body {
            tar: &mut self.tar,
            end: 0,
        };
        data.copy_to(&mut body)?;
        body.fill_to(size)
    }
}

/// A file's data on their way into an archive. Holes become zeros, which cost next to nothing once they are compressed.
struct Body<'a, W: Write> {
    tar: &'a mut TarWriter<W>,
    end: u64,
}

impl<W: Write> Body<'_, W> {
    fn fill_to(&mut self, offset: u64) -> Result<()> {
        while self.end < offset {
            let n = usize::try_from(offset - self.end)
                .unwrap_or(usize::MAX)
                .min(ZEROS.len());
            self.tar.data(&ZEROS[..n]).map_err(|e| write_error(&e))?;
            self.end += n as u64;
        }
        Ok(())
    }
}

impl<W: Write> DataSink for Body<'_, W> {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        self.fill_to(offset)?;
        self.tar.data(data).map_err(|e| write_error(&e))?;
        self.end += data.len() as u64;
        Ok(())
    }
}

/// Data in memory.
struct Bytes<'a>(&'a [u8]);

impl DataOf for Bytes<'_> {
    fn copy_to(&mut self, sink: &mut dyn DataSink) -> Result<()> {
        if self.0.is_empty() {
            Ok(())
        } else {
            sink.write_at(0, self.0)
        }
    }
}

/// Writes the metadata archive of a split image: `metadata.yaml` and the templates by file name.
pub fn write_metadata(metadata: &ImageMetadata, templates: &BTreeMap<String, String>, out: &File) -> Result<()> {
    let time = Time {
        seconds: metadata.creation_date,
        nanoseconds: 0,
    };
    let mut packer = Packer::new(out, 2)?;
    place_metadata(&mut packer, metadata, templates, time)?;
    packer.finish()
}

/// Puts `metadata.yaml` and the templates into an archive.
pub(crate) fn place_metadata<W: Write>(
    packer: &mut Packer<W>,
    metadata: &ImageMetadata,
    templates: &BTreeMap<String, String>,
    time: Time,
) -> Result<()> {
    let file = |path: String, data: Vec<u8>| Placed {
        path,
        kind: PlacedKind::File { mode: 0o644, data },
    };
    packer.place(&file(METADATA_FILE.to_owned(), metadata.to_yaml()?.into_bytes()), time)?;
    for (name, text) in templates {
        packer.place(
            &file(format!("{TEMPLATES_DIR}/{name}"), text.clone().into_bytes()),
            time,
        )?;
    }
    Ok(())
}

/// An entry of root's.
fn plain(path: EntryPath, kind: Kind, mode: u32, mtime: Time) -> Entry {
    Entry {
        path,
        kind,
        mode,
        uid: 0,
        gid: 0,
        mtime,
        xattrs: Vec::new(),
    }
}

fn write_error(e: &io::Error) -> Error {
    match rustix::io::Errno::from_io_error(e) {
        Some(errno @ (rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT)) => Error::NoSpace {
            entry: "the archive".to_owned(),
            source: errno.into(),
        },
        Some(errno) => Error::Write(errno.into()),
        // Not the system's but the writer's own: a file changed its size while it was read.
        None => match e.kind() {
            io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof => Error::Corrupt(e.to_string()),
            _ => Error::Write(Errno::from(e)),
        },
    }
}

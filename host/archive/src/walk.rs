//! Goes through an archive once: every entry is checked against the limits, put where it belongs and counted.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::check::DryTree;
use crate::entry::{DataSink, Entry, Kind, Source};
use crate::error::{Error, Refusal, Result, show};
use crate::layout::{Content, Place};
use crate::limits::{Budget, at_most};
use crate::metadata::{ImageMetadata, METADATA_FILE, ROOTFS_DIR};

/// Progress is reported whenever this many more bytes have been read or unpacked…
const REPORT_BYTES: u64 = 4 << 20;
/// …or this many more entries met.
const REPORT_ENTRIES: u64 = 2048;

/// How far an archive has been read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Bytes of the archive file.
    pub read: u64,
    /// Bytes that came out of it.
    pub unpacked: u64,
    /// Entries.
    pub entries: u64,
}

/// What was found in, or unpacked from, an archive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Entries of the archive.
    pub entries: u64,
    /// Bytes of all files, holes not counted.
    pub bytes: u64,
    /// Device nodes under `dev/` that were left out: a container's `/dev` is made by its host.
    pub devices_skipped: u64,
    /// Extended attributes that were left out: those of security modules, of the overlay file system and `trusted.*`, which
    /// mean something only on the machine that set them.
    pub xattrs_dropped: u64,
}

/// What an image archive says of itself, and that all of it can be unpacked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspection {
    /// The content of `metadata.yaml`; `None` for the root file system of a split image.
    pub metadata: Option<ImageMetadata>,
    /// The templates by file name.
    pub templates: BTreeMap<String, String>,
    /// What is in it.
    pub report: Report,
}

/// Where the entries of a root file system go.
pub(crate) trait Tree {
    /// Adds an entry; if it is a file, its data are to be had from `data`.
    fn add(&mut self, entry: &Entry, data: &mut dyn DataOf) -> Result<()>;
}

/// The data of the current entry.
pub(crate) trait DataOf {
    /// Gives them to `sink`.
    fn copy_to(&mut self, sink: &mut dyn DataSink) -> Result<()>;
}

/// Counts, checks the limits and says how far the work is.
pub(crate) struct Meter<'a> {
    budget: Budget,
    report: Report,
    last: Progress,
    /// Fails when nobody wants the work done any more.
    tell: &'a mut dyn FnMut(Progress) -> Result<()>,
}

impl<'a> Meter<'a> {
    pub(crate) fn new(budget: Budget, tell: &'a mut dyn FnMut(Progress) -> Result<()>) -> Self {
        Self {
            budget,
            report: Report::default(),
            last: Progress::default(),
            tell,
        }
    }

    fn entry(&mut self, entry: &Entry) -> Result<()> {
        self.budget.entry()?;
        if let Kind::File(size) = entry.kind {
            self.budget.file(size)?;
        }
        self.tell_sometimes()
    }

    fn data(&mut self, n: u64) -> Result<()> {
        self.budget.data(n)?;
        self.tell_sometimes()
    }

    fn tell_sometimes(&mut self) -> Result<()> {
        let now = Progress {
            read: self.budget.read(),
            unpacked: self.budget.bytes(),
            entries: self.budget.entries(),
        };
        let due = now.read - self.last.read >= REPORT_BYTES
            || now.unpacked - self.last.unpacked >= REPORT_BYTES
            || now.entries - self.last.entries >= REPORT_ENTRIES;
        if due {
            self.last = now;
            (self.tell)(now)?;
        }
        Ok(())
    }

    /// Leaves out extended attributes that are no part of an image.
    fn filter_xattrs(&mut self, entry: &mut Entry) {
        let before = entry.xattrs.len();
        let kind = entry.kind.clone();
        entry.xattrs.retain(|(name, _)| keeps_xattr(name, &kind));
        self.report.xattrs_dropped += (before - entry.xattrs.len()) as u64;
    }

    fn finish(self) -> Report {
        Report {
            entries: self.budget.entries(),
            bytes: self.budget.bytes(),
            ..self.report
        }
    }
}

/// The data of the current entry, counted on their way.
struct Metered<'a, 'b> {
    source: &'a mut dyn Source,
    meter: &'a mut Meter<'b>,
}

impl DataOf for Metered<'_, '_> {
    fn copy_to(&mut self, sink: &mut dyn DataSink) -> Result<()> {
        self.source.read_data(&mut Counting {
            meter: self.meter,
            sink,
        })
    }
}

struct Counting<'a, 'b> {
    meter: &'a mut Meter<'b>,
    sink: &'a mut dyn DataSink,
}

impl DataSink for Counting<'_, '_> {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        self.meter.data(data.len() as u64)?;
        self.sink.write_at(offset, data)
    }
}

/// Keeps a small file in memory.
struct Collect(Vec<u8>);

impl DataSink for Collect {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        if offset != self.0.len() as u64 {
            return Err(Error::corrupt("a small file is sparse"));
        }
        self.0.extend_from_slice(data);
        Ok(())
    }
}

/// Puts the root file system of an archive into `tree`.
pub(crate) fn unpack(
    source: &mut dyn Source,
    content: Content,
    mut meter: Meter<'_>,
    tree: &mut dyn Tree,
) -> Result<Report> {
    let mut any = false;
    while let Some(mut entry) = source.next_entry()? {
        meter.entry(&entry)?;
        if content.place(&mut entry)? == Place::Root {
            any = true;
            add(source, &mut meter, tree, &mut entry)?;
        }
    }
    if !any {
        return Err(Error::Missing(ROOTFS_DIR.to_owned()));
    }
    Ok(meter.finish())
}

/// Puts a root file system into an archive, below the directory that it has in a unified image. Devices and sockets are left
/// out: a container's host makes the first, and the second mean nothing without who listens.
pub(crate) fn pack(source: &mut dyn Source, mut meter: Meter<'_>, tree: &mut dyn Tree) -> Result<Report> {
    while let Some(mut entry) = source.next_entry()? {
        meter.entry(&entry)?;
        match &entry.kind {
            Kind::Device => {
                meter.report.devices_skipped += 1;
                continue;
            }
            Kind::Socket => continue,
            Kind::Hardlink(target) => entry.kind = Kind::Hardlink(target.under(ROOTFS_DIR.as_bytes())),
            _ => {}
        }
        meter.filter_xattrs(&mut entry);
        entry.path = entry.path.under(ROOTFS_DIR.as_bytes());
        tree.add(
            &entry,
            &mut Metered {
                source,
                meter: &mut meter,
            },
        )?;
    }
    Ok(meter.finish())
}

/// Reads all of an archive, so that everything that unpacking would refuse is refused now.
pub(crate) fn inspect(source: &mut dyn Source, content: Content, mut meter: Meter<'_>) -> Result<Inspection> {
    let mut found = Inspection::default();
    let mut tree = DryTree::default();
    while let Some(mut entry) = source.next_entry()? {
        meter.entry(&entry)?;
        let limits = meter.budget.limits().clone();
        match content.place(&mut entry)? {
            Place::Root => add(source, &mut meter, &mut tree, &mut entry)?,
            Place::Metadata => {
                let yaml = small(source, &mut meter, &entry, limits.metadata_bytes)?;
                found.metadata = Some(ImageMetadata::parse(&yaml)?);
            }
            Place::Template(name) => {
                let data = small(source, &mut meter, &entry, limits.template_bytes)?;
                let not_text = |_| Error::Invalid {
                    file: name.clone(),
                    reason: "a template is not UTF-8".to_owned(),
                };
                let text = String::from_utf8(data).map_err(not_text)?;
                found.templates.insert(name, text);
                at_most(found.templates.len() as u64, limits.templates as u64, "templates")?;
            }
            Place::Elsewhere => {}
        }
    }
    if content.has_metadata() && found.metadata.is_none() {
        return Err(Error::Missing(METADATA_FILE.to_owned()));
    }
    if content.has_rootfs() && tree.is_empty() {
        return Err(Error::Missing(ROOTFS_DIR.to_owned()));
    }
    if let Some(metadata) = &found.metadata {
        let missing = metadata
            .templates
            .values()
            .find(|t| !found.templates.contains_key(&t.template));
        if let Some(template) = missing {
            return Err(Error::Missing(format!("template {:?}", template.template)));
        }
    }
    found.report = meter.finish();
    Ok(found)
}

/// Adds an entry to the tree, unless it is a device in the directory that no image needs to have.
fn add(source: &mut dyn Source, meter: &mut Meter<'_>, tree: &mut dyn Tree, entry: &mut Entry) -> Result<()> {
    let name = entry.path.as_bytes();
    if entry.kind == Kind::Device {
        if entry.path.below(b"dev").is_none() {
            return Err(Error::refused(name, Refusal::Device));
        }
        meter.report.devices_skipped += 1;
        return Ok(());
    }
    meter.filter_xattrs(entry);
    tree.add(entry, &mut Metered { source, meter })
}

/// Which extended attributes (xattr(7)) are part of an image: capabilities of programs, access control lists, and what
/// users set; but not what would speak to the overlay file system that the image becomes a layer of.
pub(crate) fn keeps_xattr(name: &[u8], kind: &Kind) -> bool {
    let is_file = matches!(kind, Kind::File(_));
    let is_file_or_directory = is_file || *kind == Kind::Directory;
    match name {
        b"security.capability" => is_file,
        b"system.posix_acl_access" => is_file_or_directory,
        b"system.posix_acl_default" => *kind == Kind::Directory,
        _ => is_file_or_directory && name.starts_with(b"user.") && !name.starts_with(b"user.overlay."),
    }
}

/// The content of a small file of the archive.
fn small(source: &mut dyn Source, meter: &mut Meter<'_>, entry: &Entry, limit: u64) -> Result<Vec<u8>> {
    let Kind::File(size) = entry.kind else {
        return Err(Error::refused(entry.path.as_bytes(), Refusal::NotAFile));
    };
    at_most(size, limit, &format!("bytes of {}", show(entry.path.as_bytes())))?;
    let mut data = Collect(Vec::new());
    Metered { source, meter }.copy_to(&mut data)?;
    Ok(data.0)
}

//! How archives become images.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::ControlFlow;
use std::sync::Arc;

use hutch_api::Timestamp;
use hutch_api::image::ImageAlias;
use hutch_archive::{Content, ImageMetadata, Progress, Template, Unpacker};
use hutch_store::Transaction;
use serde::{Deserialize, Serialize};

use super::files::{Part, StagedFile};
use super::record::{AliasRecord, ImageRecord, Origin, Shape, check_alias};
use super::{architecture, record};
use crate::error::{Error, Result};
use crate::events;
use crate::journal::Entry;
use crate::operations::NewOperation;
use crate::projects::Feature;
use crate::records::RECORD_VERSION;
use crate::{Core, Operation, names, settings};

/// Properties of one image and bytes of each, so that records stay small.
const MOST_PROPERTIES: usize = 256;
const MOST_PROPERTY_BYTES: usize = 8192;

/// An image that a client sent.
#[derive(Debug)]
pub struct ImageUpload {
    /// The archive of a unified image, or the metadata of a split one.
    pub metadata: StagedFile,
    /// The root file system of a split image.
    pub rootfs: Option<StagedFile>,
    /// The name that the client has for it (`X-LXD-filename`).
    pub filename: String,
    /// Whether anybody may have it (`X-LXD-public`).
    pub public: bool,
    /// Properties that are added to its own (`X-LXD-properties`).
    pub properties: BTreeMap<String, String>,
    /// Names to give it (`X-LXD-aliases`).
    pub aliases: Vec<ImageAlias>,
    /// What its fingerprint must be (`X-LXD-fingerprint`).
    pub fingerprint: Option<String>,
    /// Profiles of new instances (`X-LXD-profiles`); the default one when empty.
    pub profiles: Vec<String>,
}

/// Archives with everything that is known of the image that they are.
pub(super) struct NewImage {
    pub(super) project: String,
    pub(super) main: StagedFile,
    pub(super) rootfs: Option<StagedFile>,
    pub(super) filename: String,
    pub(super) public: bool,
    pub(super) auto_update: bool,
    pub(super) cached: bool,
    pub(super) properties: BTreeMap<String, String>,
    pub(super) aliases: Vec<ImageAlias>,
    pub(super) fingerprint: Option<String>,
    pub(super) profiles: Vec<String>,
    pub(super) expires_at: Timestamp,
    pub(super) origin: Option<Origin>,
    pub(super) source_aliases: Vec<String>,
    /// Whether an image that is there already will do.
    pub(super) may_exist: bool,
}

/// Templates of an image, as they are kept beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Templates {
    /// Which files are made from them, by path in the instance.
    pub templates: BTreeMap<String, Template>,
    /// Their texts by file name.
    pub texts: BTreeMap<String, String>,
}

/// What reading the archives has shown.
struct Inspected {
    fingerprint: String,
    size: u64,
    metadata: ImageMetadata,
    texts: BTreeMap<String, String>,
}

impl Core {
    /// Makes an image of what a client sent. The operation's metadata has `fingerprint` and `size` at the end.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the project, [`Error::Invalid`] for a name or property that can't be; what is wrong with the
    /// archive is found out by the operation.
    pub async fn image_import(self: &Arc<Self>, project: &str, upload: ImageUpload) -> Result<Arc<Operation>> {
        let project = self.scope(project, Feature::Images)?;
        check_properties(&upload.properties)?;
        self.check_new_aliases(&project, &upload.aliases)?;
        let profiles = self.check_image_profiles(&project, upload.profiles)?;
        let new = NewImage {
            project: project.clone(),
            main: upload.metadata,
            rootfs: upload.rootfs,
            filename: upload.filename.chars().filter(|c| !c.is_control()).take(255).collect(),
            public: upload.public,
            auto_update: false,
            cached: false,
            properties: upload.properties,
            aliases: upload.aliases,
            fingerprint: upload.fingerprint,
            profiles,
            expires_at: Timestamp::NEVER,
            origin: None,
            source_aliases: Vec::new(),
            may_exist: false,
        };
        let core = Arc::clone(self);
        let about = image_operation(&project, "Importing image");
        self.operations
            .begin(about, move |operation| async move {
                core.take_in(new, &operation).await.map(drop)
            })
            .await
    }

    /// Refuses aliases that can't be, or that are taken.
    pub(super) fn check_new_aliases(&self, project: &str, aliases: &[ImageAlias]) -> Result<()> {
        for alias in aliases {
            check_alias(&alias.name)?;
            if self
                .images
                .aliases
                .get(&(project.to_owned(), alias.name.clone()))
                .is_some()
            {
                return Err(Error::Conflict(format!("Alias already exists: {}", alias.name)));
            }
        }
        Ok(())
    }

    /// The profiles of an image, which are there; the default one where none is named.
    pub(super) fn check_image_profiles(&self, project: &str, profiles: Vec<String>) -> Result<Vec<String>> {
        if profiles.is_empty() {
            return Ok(vec![crate::profiles::DEFAULT.to_owned()]);
        }
        for name in &profiles {
            names::object("profile", name)?;
            self.profile(project, name)?;
        }
        Ok(profiles)
    }

    /// Makes an image of archives. It is there when this returns, with all its files on the disk.
    pub(super) async fn take_in(
        self: &Arc<Self>,
        new: NewImage,
        operation: &Arc<Operation>,
    ) -> Result<Arc<ImageRecord>> {
        let (new, found) = self.read_archives(new, operation).await?;
        if let Some(wanted) = new
            .fingerprint
            .as_deref()
            .filter(|wanted| !found.fingerprint.eq_ignore_ascii_case(wanted))
        {
            return Err(Error::invalid(format!(
                "Image has fingerprint {}, not {wanted} as announced",
                found.fingerprint
            )));
        }
        // Whoever deletes the same image in another project waits, or is waited for.
        let in_use = self.images.in_use.get(&found.fingerprint);
        let _in_use = in_use.write().await;
        let _guard = self.images.changing.lock().await;
        let at = (new.project.clone(), found.fingerprint.clone());
        if let Some(known) = self.images.records.get(&at) {
            if !new.may_exist {
                return Err(Error::Conflict(format!(
                    "Image with same fingerprint already exists: {}",
                    found.fingerprint
                )));
            }
            self.check_new_aliases(&new.project, &new.aliases)?;
            self.add_aliases(&new.project, &found.fingerprint, &new.aliases).await?;
            told(operation, &known);
            return Ok(known);
        }
        self.check_new_aliases(&new.project, &new.aliases)?;
        let record = Arc::new(self.keep(new, found, operation).await?);
        told(operation, &record);
        Ok(record)
    }

    /// Reads the archives in the background: what they are, and that all of it can be unpacked.
    async fn read_archives(
        self: &Arc<Self>,
        new: NewImage,
        operation: &Arc<Operation>,
    ) -> Result<(NewImage, Inspected)> {
        let (unpacker, operation) = (self.images.unpacker.clone(), Arc::clone(operation));
        let work = move || {
            let found = inspect(&unpacker, &new, &operation)?;
            for staged in [Some(&new.main), new.rootfs.as_ref()].into_iter().flatten() {
                staged
                    .file()
                    .sync_all()
                    .map_err(Error::io("writing the image to disk"))?;
            }
            Ok((new, found))
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|e| Error::io("reading the image")(std::io::Error::other(e)))?
    }

    /// Moves the files to their places and writes the records.
    async fn keep(&self, new: NewImage, found: Inspected, operation: &Arc<Operation>) -> Result<ImageRecord> {
        let Inspected {
            fingerprint,
            size,
            metadata,
            texts,
        } = found;
        let entry = self
            .journal
            .begin(
                operation.id(),
                Entry::ImageImport {
                    fingerprint: fingerprint.clone(),
                },
            )
            .await?;
        let files = &self.images.files;
        let shape = if new.rootfs.is_some() {
            Shape::Split
        } else {
            Shape::Unified
        };
        let kept = (|| {
            if let Some(rootfs) = new.rootfs {
                files.keep(rootfs, &fingerprint, Part::Rootfs)?;
            }
            if !metadata.templates.is_empty() {
                let templates = Templates {
                    templates: metadata.templates.clone(),
                    texts,
                };
                let json = serde_json::to_vec(&templates).map_err(|e| Error::io("writing templates")(e.into()))?;
                files.write(&fingerprint, Part::Templates, &json)?;
            }
            files.keep(new.main, &fingerprint, Part::Main)
        })();
        if let Err(error) = kept {
            let shared = self
                .images
                .records
                .list()
                .iter()
                .any(|record| record.fingerprint == fingerprint);
            if !shared {
                files.remove(&fingerprint)?;
            }
            self.journal.done(entry, Transaction::new()).await?;
            return Err(error);
        }
        self.journal.step(&entry, "files");
        let mut properties = metadata.properties;
        properties.extend(new.properties);
        let expires_at = if new.expires_at.is_never() {
            from_unix(metadata.expiry_date)
        } else {
            new.expires_at
        };
        let record = ImageRecord {
            v: RECORD_VERSION,
            project: new.project,
            fingerprint,
            shape,
            filename: new.filename,
            architecture: metadata.architecture,
            size,
            properties: settings::pruned(properties),
            profiles: new.profiles,
            public: new.public,
            auto_update: new.auto_update,
            cached: new.cached,
            created_at: from_unix(metadata.creation_date),
            expires_at,
            uploaded_at: Timestamp::now(),
            last_used_at: Timestamp::NEVER,
            origin: new.origin,
            source_aliases: new.source_aliases,
        };
        // The names come with the image or not at all.
        let aliases = alias_records(&record.project, &record.fingerprint, &new.aliases);
        let change = put_aliases(Transaction::new().put(record.key(), &record)?, &aliases)?;
        self.journal.done(entry, change).await?;
        let at = (record.project.clone(), record.fingerprint.clone());
        self.images.records.insert(at, Arc::new(record.clone()));
        let path = format!("/1.0/images/{}", record.fingerprint);
        self.events
            .lifecycle(&record.project, "image-created", &path, serde_json::Map::new());
        self.show_aliases(aliases);
        Ok(record)
    }

    /// Gives an image names, which are free.
    pub(super) async fn add_aliases(&self, project: &str, fingerprint: &str, aliases: &[ImageAlias]) -> Result<()> {
        if aliases.is_empty() {
            return Ok(());
        }
        let aliases = alias_records(project, fingerprint, aliases);
        self.store.commit(put_aliases(Transaction::new(), &aliases)?).await?;
        self.show_aliases(aliases);
        Ok(())
    }

    fn show_aliases(&self, aliases: Vec<AliasRecord>) {
        for alias in aliases {
            let path = format!("/1.0/images/aliases/{}", alias.name);
            self.events.lifecycle(
                &alias.project,
                "image-alias-created",
                &path,
                events::context([("target", alias.target.clone().into())]),
            );
            self.images
                .aliases
                .insert((alias.project.clone(), alias.name.clone()), Arc::new(alias));
        }
    }

    /// The templates of an image.
    ///
    /// # Errors
    /// [`Error::Io`] when they can't be read.
    pub fn image_templates(&self, fingerprint: &str) -> Result<Templates> {
        let path = self.images.files.path(fingerprint, Part::Templates);
        let action = || format!("reading {}", path.display());
        match std::fs::read(&path) {
            Ok(json) => serde_json::from_slice(&json).map_err(|e| Error::io(action())(e.into())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Templates::default()),
            Err(e) => Err(Error::io(action())(e)),
        }
    }
}

fn alias_records(project: &str, fingerprint: &str, aliases: &[ImageAlias]) -> Vec<AliasRecord> {
    let record = |alias: &ImageAlias| AliasRecord::new(project, &alias.name, &alias.description, fingerprint);
    aliases.iter().map(record).collect()
}

fn put_aliases(mut change: Transaction, aliases: &[AliasRecord]) -> Result<Transaction> {
    for alias in aliases {
        change = change.put(alias.key(), alias)?;
    }
    Ok(change)
}

/// The key of an operation's metadata under which work on images says how far it is. Clients show every key that ends in
/// `_progress`, so the steps share one and follow each other; it is the one that downloads report under.
pub(super) const PROGRESS: &str = "download_progress";

/// An operation on images that can be cancelled; which image it is about may turn out later.
pub(super) fn image_operation(project: &str, description: &str) -> NewOperation {
    NewOperation {
        description: description.to_owned(),
        project: project.to_owned(),
        ..NewOperation::default()
    }
    .cancellable()
}

/// What clients look for in an operation that made an image.
fn told(operation: &Operation, record: &ImageRecord) {
    operation.add_resource("images", format!("/1.0/images/{}", record.fingerprint));
    operation.set_metadata("fingerprint", record.fingerprint.clone().into());
    // A string, as LXD has it.
    operation.set_metadata("size", record.size.to_string().into());
}

/// Says how far the reading of an archive is, in the operation's metadata, and stops it when the operation is cancelled.
pub(super) fn watch<'a>(
    operation: &'a Operation,
    what: &'a str,
    total: u64,
) -> impl FnMut(Progress) -> ControlFlow<()> + 'a {
    let mut last = None;
    move |progress| {
        let percent = progress.read.min(total) * 100 / total.max(1);
        if last.replace(percent) != Some(percent) {
            operation.set_metadata(PROGRESS, format!("{what}: {percent}%").into());
        }
        go_on(operation)
    }
}

/// Whether the work for an operation goes on.
pub(super) fn go_on(operation: &Operation) -> ControlFlow<()> {
    if operation.cancel_flag().is_cancelled() {
        ControlFlow::Break(())
    } else {
        ControlFlow::Continue(())
    }
}

fn inspect(unpacker: &Unpacker, new: &NewImage, operation: &Operation) -> Result<Inspected> {
    let main = new.main.file();
    let rootfs = new.rootfs.as_ref().map(StagedFile::file);
    let both: Vec<&File> = [Some(main), rootfs].into_iter().flatten().collect();
    let fingerprint = hutch_archive::fingerprint(&both).map_err(archive_error("reading the image"))?;
    let length = |file: &File| file.metadata().map(|m| m.len()).map_err(Error::io("reading the image"));
    let content = if rootfs.is_some() {
        Content::Metadata
    } else {
        Content::Unified
    };
    let seen = unpacker.inspect(main, content, &mut watch(operation, "Checking image", length(main)?));
    let seen = seen.map_err(archive_error("checking the image"))?;
    let mut size = length(main)?;
    if let Some(rootfs) = rootfs {
        size += length(rootfs)?;
        let watch = &mut watch(operation, "Checking image", length(rootfs)?);
        unpacker
            .inspect(rootfs, Content::Rootfs, watch)
            .map_err(archive_error("checking the image's root file system"))?;
    }
    // The archive crate answers with metadata whenever it is asked for them.
    let mut metadata = seen.metadata.unwrap_or_default();
    check_properties(&metadata.properties)?;
    metadata.architecture = match architecture::canonical(&metadata.architecture) {
        Some(name) => name.to_owned(),
        None => {
            return Err(Error::invalid(format!(
                "Image has the unknown architecture {:.64?}",
                metadata.architecture
            )));
        }
    };
    Ok(Inspected {
        fingerprint,
        size,
        metadata,
        texts: seen.templates,
    })
}

/// An archive's faults are the caller's; the machine's are not.
pub(super) fn archive_error(action: &str) -> impl FnOnce(hutch_archive::Error) -> Error {
    let action = action.to_owned();
    move |source| match &source {
        hutch_archive::Error::Cancelled => Error::Cancelled,
        hutch_archive::Error::NoSpace { .. } => {
            let error = hutch_driver::DriverError::new("no-space", with_causes(&source));
            Error::driver(action)(error)
        }
        _ if source.is_archive_fault() => Error::invalid(format!("Invalid image: {}", with_causes(&source))),
        _ => Error::io(action)(std::io::Error::other(source)),
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", with_causes(source)),
        None => error.to_string(),
    }
}

/// Refuses properties that would make records large.
pub(super) fn check_properties(properties: &BTreeMap<String, String>) -> Result<()> {
    let too_long =
        |(key, value): (&String, &String)| key.is_empty() || key.len() > 255 || value.len() > MOST_PROPERTY_BYTES;
    if properties.len() > MOST_PROPERTIES || properties.iter().any(too_long) {
        return Err(Error::invalid(format!(
            "Invalid image properties: at most {MOST_PROPERTIES} of at most {MOST_PROPERTY_BYTES} bytes with a name of 1 to 255"
        )));
    }
    Ok(())
}

/// Zero stands for "never".
fn from_unix(seconds: i64) -> Timestamp {
    if seconds <= 0 {
        Timestamp::NEVER
    } else {
        Timestamp::from_unix(seconds)
    }
}

impl Core {
    /// Writes an image's record and shows it from now on.
    pub(super) async fn put_image(&self, record: ImageRecord) -> Result<()> {
        self.store
            .commit(Transaction::new().put(record::image_key(&record.project, &record.fingerprint), &record)?)
            .await?;
        self.images
            .records
            .insert((record.project.clone(), record.fingerprint.clone()), Arc::new(record));
        Ok(())
    }

    /// Writes an alias's record and shows it from now on.
    pub(super) async fn put_alias(&self, record: AliasRecord) -> Result<()> {
        self.store
            .commit(Transaction::new().put(record.key(), &record)?)
            .await?;
        self.images
            .aliases
            .insert((record.project.clone(), record.name.clone()), Arc::new(record));
        Ok(())
    }
}

//! Images: archives from which instances are made.
//!
//! An image's record is in the store, its files are in `images/` below the state directory, named by fingerprint, and where
//! it has been used it is unpacked as a volume of a pool. Projects may have the same image; they share files and volumes,
//! which go with the last record.
//!
//! ```text
//!  upload ──┐
//!  download ┼─► staged file ─► inspected ─► record + file ──first use──► volume of a pool
//!  build ───┤                                   │
//!  publish ─┘                                   └── delete: volumes, record, file
//! ```

pub(crate) use architecture::check as architecture;

mod alias;
mod architecture;
mod build;
mod change;
mod choose;
mod fetch;
mod files;
mod import;
mod publish;
mod record;
mod source;
mod volume;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use hutch_api::image::{Image, ImageAlias};
use hutch_archive::{Limits, Unpacker};
use hutch_driver::image::{ImageFile, NamedBy};
use hutch_driver::{Call, DriverError};
use hutch_store::{Store, Transaction};

use crate::error::{Error, Result};
use crate::journal::{Entry, Open};
use crate::projects::Feature;
use crate::table::Table;
use crate::{Core, Tagged, etag};

pub use change::{ExportFile, ImageExport};
pub use choose::ImageChoice;
pub use files::StagedFile;
pub use import::{ImageUpload, Templates};
pub use record::{AliasRecord, ImageRecord, Origin, Shape};
pub use source::SourceQuery;
pub use volume::ImageVolume;

use files::Files;
use record::VolumeRecord;
use volume::Locks;

/// Fetches the files that image sources name.
#[async_trait]
pub trait Downloader: Send + Sync {
    /// Fetches a file into the directory `dir` and answers where it is, once its checksum and size are found right. What has
    /// been fetched of it before an interruption stays in `dir`, and the next call for the same checksum goes on there.
    /// Progress and cancellation are those of `call`. Only what the plugin that named the file may fetch in `call` is fetched, also
    /// after a redirection.
    ///
    /// # Errors
    /// `unavailable`, to be tried again, where another version of the plugin is in use by then: it may be allowed something else.
    async fn download(&self, file: &ImageFile, dir: &Path, by: &NamedBy, call: &Call) -> Result<PathBuf, DriverError>;
}

/// All images.
pub struct Images {
    records: Table<(String, String), ImageRecord>,
    aliases: Table<(String, String), AliasRecord>,
    /// Pool and fingerprint of every image that is unpacked.
    volumes: Mutex<BTreeSet<(String, String)>>,
    files: Files,
    unpacker: Unpacker,
    /// Held by whoever changes a record.
    changing: tokio::sync::Mutex<()>,
    /// By fingerprint: read by those who make instances of an image, written by those who unpack or delete it.
    in_use: Locks,
    /// By what is being fetched.
    fetching: Locks,
    /// Who is being asked what they have.
    asking: source::Asking,
}

impl Images {
    /// Reads the records and removes files that belong to none.
    ///
    /// # Errors
    /// The store's, and what keeps the directory from being made or read.
    pub async fn open(state_dir: &Path, store: &dyn Store) -> Result<Self> {
        let images = Self {
            records: Table::default(),
            aliases: Table::default(),
            volumes: Mutex::default(),
            files: Files::open(&state_dir.join("images"))?,
            // `main` of every program with a core begins with `hutch_archive::run_if_asked`.
            unpacker: Unpacker::this_program(Limits::default()),
            changing: tokio::sync::Mutex::default(),
            in_use: Locks::default(),
            fetching: Locks::default(),
            asking: source::Asking::default(),
        };
        for (key, record) in hutch_store::load::<ImageRecord>(store, record::IMAGES).await? {
            record::check_version(record::IMAGES, &key, record.v)?;
            images
                .records
                .insert((record.project.clone(), record.fingerprint.clone()), Arc::new(record));
        }
        for (key, record) in hutch_store::load::<AliasRecord>(store, record::ALIASES).await? {
            record::check_version(record::ALIASES, &key, record.v)?;
            images
                .aliases
                .insert((record.project.clone(), record.name.clone()), Arc::new(record));
        }
        for (key, record) in hutch_store::load::<VolumeRecord>(store, record::VOLUMES).await? {
            record::check_version(record::VOLUMES, &key, record.v)?;
            images.unpacked().insert((record.pool, record.fingerprint));
        }
        images.sweep()?;
        Ok(images)
    }

    /// Renders templates; blocks meanwhile.
    ///
    /// # Errors
    /// As [`Unpacker::render`].
    pub(crate) fn render_templates(
        &self,
        pages: Vec<hutch_archive::Page>,
        surroundings: hutch_archive::Surroundings,
    ) -> hutch_archive::Result<Vec<String>> {
        self.unpacker.render(pages, surroundings)
    }

    /// Removes files of images that have no record, which an interrupted import or deletion leaves. Nothing may be on its way
    /// in.
    ///
    /// # Errors
    /// What keeps the directory from being read.
    pub fn sweep(&self) -> Result<()> {
        let known: BTreeSet<String> = self
            .records
            .list()
            .iter()
            .map(|record| record.fingerprint.clone())
            .collect();
        self.files.sweep(&known)
    }

    fn unpacked(&self) -> MutexGuard<'_, BTreeSet<(String, String)>> {
        self.volumes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fingerprints of the images that are unpacked in a pool.
    pub(crate) fn volumes(&self, pool: &str) -> Vec<String> {
        self.unpacked()
            .iter()
            .filter(|(of, _)| of == pool)
            .map(|(_, fingerprint)| fingerprint.clone())
            .collect()
    }

    /// Paths of the images that are kept up to date by one of the image drivers `names`, each with its driver's name.
    pub(crate) fn refreshed_from(&self, names: &[String]) -> Vec<(String, String)> {
        let records = self.records.list().into_iter().filter(|record| record.auto_update);
        let with_driver = records.filter_map(|record| Some((record.origin.as_ref()?.driver.clone(), record)));
        with_driver
            .filter(|(driver, _)| names.contains(driver))
            .map(|(driver, record)| {
                let path = format!("/1.0/images/{}", record.fingerprint);
                (driver, crate::profiles::with_project(path, &record.project))
            })
            .collect()
    }

    /// Paths of a project's images.
    pub(crate) fn paths(&self, project: &str) -> Vec<String> {
        let records = self.records.list();
        let own = records.iter().filter(|record| record.project == project);
        own.map(|record| format!("/1.0/images/{}", record.fingerprint))
            .collect()
    }

    /// Adds to the deletion of a pool that its volumes are gone.
    pub(crate) fn forget_pool(&self, mut change: Transaction, pool: &str) -> Result<Transaction> {
        let mut unpacked = self.unpacked();
        for (_, fingerprint) in unpacked.iter().filter(|(of, _)| of == pool) {
            change = change.delete(record::volume_key(pool, fingerprint));
        }
        unpacked.retain(|(of, _)| of != pool);
        Ok(change)
    }

    /// The image of a project that has this fingerprint or, if it is the only one, begins with it.
    fn find(&self, project: &str, fingerprint: &str) -> Result<Arc<ImageRecord>> {
        if let Some(record) = self.records.get(&(project.to_owned(), fingerprint.to_owned())) {
            return Ok(record);
        }
        let is_beginning = !fingerprint.is_empty() && fingerprint.bytes().all(|b| b.is_ascii_hexdigit());
        let mut found = self.records.list();
        found.retain(|record| is_beginning && record.project == project && record.fingerprint.starts_with(fingerprint));
        match found.len() {
            0 => Err(Error::missing("Image", fingerprint)),
            1 => Ok(found.swap_remove(0)),
            _ => Err(Error::invalid(format!(
                "Image fingerprint {fingerprint:?} is the beginning of several images'"
            ))),
        }
    }

    /// An image's record in whatever project has it: files and volumes belong to all.
    fn of_any_project(&self, fingerprint: &str) -> Result<Arc<ImageRecord>> {
        self.records
            .list()
            .into_iter()
            .find(|record| record.fingerprint == fingerprint)
            .ok_or_else(|| Error::missing("Image", fingerprint))
    }

    /// The image that an alias of a project names.
    fn by_alias(&self, project: &str, name: &str) -> Result<Arc<ImageRecord>> {
        let alias = self
            .aliases
            .get(&(project.to_owned(), name.to_owned()))
            .ok_or_else(|| Error::missing("Image alias", name))?;
        self.records
            .get(&(project.to_owned(), alias.target.clone()))
            .ok_or_else(|| Error::missing("Image", &alias.target))
    }

    fn render(&self, record: &ImageRecord, aliases: &[Arc<AliasRecord>]) -> Image {
        let own = aliases
            .iter()
            .filter(|alias| alias.project == record.project && alias.target == record.fingerprint);
        let aliases = own.map(|alias| ImageAlias {
            name: alias.name.clone(),
            description: alias.description.clone(),
        });
        record.render(aliases.collect())
    }
}

impl Core {
    /// The images of a project, or all there are.
    pub fn image_list(&self, project: Option<&str>) -> Result<Vec<Arc<Image>>> {
        let project = project
            .map(|project| self.scope(project, Feature::Images))
            .transpose()?;
        let aliases = self.images.aliases.list();
        let mut records = self.images.records.list();
        records.retain(|record| project.as_ref().is_none_or(|project| record.project == *project));
        Ok(records
            .iter()
            .map(|record| Arc::new(self.images.render(record, &aliases)))
            .collect())
    }

    /// The image with this fingerprint, or the only one whose fingerprint begins so.
    ///
    /// # Errors
    /// [`Error::NotFound`], and [`Error::Invalid`] for the beginning of several.
    pub fn image(&self, project: &str, fingerprint: &str) -> Result<Tagged<Arc<Image>>> {
        let project = self.scope(project, Feature::Images)?;
        let record = self.images.find(&project, fingerprint)?;
        let value = self.images.render(&record, &self.images.aliases.list());
        Ok(Tagged {
            etag: etag(&value.etag_parts()),
            value: Arc::new(value),
        })
    }

    /// A file of its own, in which an upload can be kept until it is imported. It goes with the value.
    ///
    /// # Errors
    /// What keeps it from being made.
    pub fn stage_upload(&self) -> Result<StagedFile> {
        self.images.files.stage()
    }
}

/// Settles what an earlier run of the daemon began. Pools have been cleaned up before, so that a volume that was half-filled,
/// or is of an image that is being deleted, is gone or belongs to nothing; files without a record went when the daemon
/// started.
pub(crate) async fn recover(core: &Arc<Core>, open: &Open, entry: &Entry) -> Result<()> {
    match entry {
        Entry::ImageDelete { fingerprint } => {
            let in_use = core.images.in_use.get(fingerprint);
            let _in_use = in_use.write().await;
            let _guard = core.images.changing.lock().await;
            core.finish_image_delete(fingerprint, open).await
        }
        _ => core.journal.done(open.clone(), Transaction::new()).await,
    }
}

/// Starts what happens to images by itself, every six hours: [`Core::expire_images`], now for the first time, and
/// [`Core::refresh_images`], then for the first time.
pub(crate) fn start(core: &Arc<Core>) {
    const PERIOD: std::time::Duration = std::time::Duration::from_secs(6 * 3600);
    let core = Arc::downgrade(core);
    tokio::spawn(async move {
        let mut turns = tokio::time::interval(PERIOD);
        turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut first = true;
        loop {
            turns.tick().await;
            let Some(core) = core.upgrade() else { return };
            core.expire_images().await;
            if !first {
                core.refresh_images().await;
            }
            first = false;
        }
    });
}

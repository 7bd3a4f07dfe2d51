//! Changing, exporting and deleting images, and the end of those that are only cached.

use std::fs::File;
use std::io::Seek;
use std::sync::Arc;

use hutch_api::Timestamp;
use hutch_api::image::{ImagePatch, ImagePut};
use hutch_store::Transaction;

use super::files::Part;
use super::import::{archive_error, check_properties};
use super::record::{self, AliasRecord, ImageRecord, Shape};
use crate::error::{Error, Result};
use crate::journal::{Entry, Open};
use crate::operations::NewOperation;
use crate::pools::image_volume;
use crate::projects::Feature;
use crate::{Core, Operation, check_etag, settings};

/// Days after which an image goes that was fetched for an instance and has not been used since. It is what LXD has in
/// `images.remote_cache_expiry` by default.
const CACHE_DAYS: i64 = 10;
/// Uses that follow each other within this many seconds are one.
const SAME_USE: i64 = 60;

/// The files of an image, open, so that they can be sent even if it is deleted meanwhile.
#[derive(Debug)]
pub struct ImageExport {
    /// One for a unified image; metadata and root file system, in this order, for a split one.
    pub files: Vec<ExportFile>,
}

/// A file of an image.
#[derive(Debug)]
pub struct ExportFile {
    /// The part's name in a multipart body: `metadata` or `rootfs`.
    pub part: &'static str,
    /// A name for people: the fingerprint with the extension that tells the format.
    pub filename: String,
    /// The file, at its beginning.
    pub file: File,
    /// Its bytes.
    pub size: u64,
}

impl Core {
    /// Replaces what can be changed of an image.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the image or a profile, [`Error::Changed`], [`Error::Invalid`].
    pub async fn image_update(
        &self,
        project: &str,
        fingerprint: &str,
        put: ImagePut,
        if_match: Option<&str>,
    ) -> Result<()> {
        let _guard = self.images.changing.lock().await;
        self.image_put(project, fingerprint, put, if_match).await
    }

    /// Changes some of an image.
    ///
    /// # Errors
    /// As [`Core::image_update`].
    pub async fn image_patch(
        &self,
        project: &str,
        fingerprint: &str,
        patch: ImagePatch,
        if_match: Option<&str>,
    ) -> Result<()> {
        let _guard = self.images.changing.lock().await;
        let mut put = self.image(project, fingerprint)?.value.to_put();
        patch.apply(&mut put);
        self.image_put(project, fingerprint, put, if_match).await
    }

    async fn image_put(&self, project: &str, fingerprint: &str, put: ImagePut, if_match: Option<&str>) -> Result<()> {
        let current = self.image(project, fingerprint)?;
        check_etag(&current.value.etag_parts(), if_match)?;
        check_properties(&put.properties)?;
        let project = self.scope(project, Feature::Images)?;
        let record = self.images.find(&project, fingerprint)?;
        if put.auto_update && record.origin.is_none() {
            return Err(Error::invalid(
                "This image has no source from which it could be kept up to date",
            ));
        }
        let record = ImageRecord {
            auto_update: put.auto_update,
            expires_at: put.expires_at,
            profiles: self.check_image_profiles(&project, put.profiles)?,
            properties: settings::pruned(put.properties),
            public: put.public,
            ..ImageRecord::clone(&record)
        };
        let path = format!("/1.0/images/{}", record.fingerprint);
        self.put_image(record).await?;
        self.events
            .lifecycle(&project, "image-updated", &path, serde_json::Map::new());
        Ok(())
    }

    /// Opens the files of an image.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Io`] for a file that is missing.
    pub fn image_export(&self, project: &str, fingerprint: &str) -> Result<ImageExport> {
        let project = self.scope(project, Feature::Images)?;
        let record = self.images.find(&project, fingerprint)?;
        let parts: &[(&'static str, Part)] = match record.shape {
            Shape::Unified => &[("metadata", Part::Main)],
            Shape::Split => &[("metadata", Part::Main), ("rootfs", Part::Rootfs)],
        };
        let mut files = Vec::new();
        for (part, which) in parts {
            let mut file = self.images.files.get(&record.fingerprint, *which)?;
            let extension = hutch_archive::extension(&mut file).map_err(archive_error("exporting the image"))?;
            let size = file.metadata().map_err(Error::io("exporting the image"))?.len();
            file.rewind().map_err(Error::io("exporting the image"))?;
            let prefix = if *part == "metadata" && parts.len() == 2 {
                "meta-"
            } else {
                ""
            };
            let filename = format!("{prefix}{}.{extension}", record.fingerprint);
            files.push(ExportFile {
                part,
                filename,
                file,
                size,
            });
        }
        Ok(ImageExport { files })
    }

    /// Deletes an image with its aliases. Instances that were made from it stay.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn image_delete(self: &Arc<Self>, project: &str, fingerprint: &str) -> Result<Arc<Operation>> {
        let project = self.scope(project, Feature::Images)?;
        let record = self.images.find(&project, fingerprint)?;
        let path = format!("/1.0/images/{}", record.fingerprint);
        let core = Arc::clone(self);
        self.operations
            .begin(
                NewOperation::task(&project, "Deleting image", "images", path),
                move |operation| async move { core.delete_image(&record, operation.id()).await },
            )
            .await
    }

    /// Deletes an image: its record in this project, and everything else if that was the last.
    pub(super) async fn delete_image(&self, record: &ImageRecord, operation: &str) -> Result<()> {
        let fingerprint = &record.fingerprint;
        let in_use = self.images.in_use.get(fingerprint);
        // Waits for those who are making instances of it.
        let _in_use = in_use.write().await;
        let _guard = self.images.changing.lock().await;
        self.images.find(&record.project, fingerprint)?;
        let shared = |other: &Arc<ImageRecord>| other.fingerprint == *fingerprint && other.project != record.project;
        if self.images.records.list().iter().any(shared) {
            let change = self.without_image(&record.project, fingerprint, Transaction::new());
            self.store.commit(change).await?;
            self.forget_image(&record.project, fingerprint);
        } else {
            let entry = self
                .journal
                .begin(
                    operation,
                    Entry::ImageDelete {
                        fingerprint: fingerprint.clone(),
                    },
                )
                .await?;
            self.delete_image_volumes(fingerprint).await;
            self.journal.step(&entry, "volumes");
            let deleted = self.finish_image_delete(fingerprint, &entry).await;
            self.journal.unless_failed(entry, deleted).await?;
        }
        let path = format!("/1.0/images/{fingerprint}");
        self.events
            .lifecycle(&record.project, "image-deleted", &path, serde_json::Map::new());
        Ok(())
    }

    /// Deletes the volumes of an image. A pool that can't be used now removes its volume when it is brought up again, since
    /// the volume then belongs to nothing.
    async fn delete_image_volumes(&self, fingerprint: &str) {
        let pools: Vec<String> = self
            .images
            .unpacked()
            .iter()
            .filter(|(_, of)| of == fingerprint)
            .map(|(pool, _)| pool.clone())
            .collect();
        for name in pools {
            let deleted = async {
                let pool = self.open_pool(&name).await?;
                let action = format!("deleting the image's volume in pool {name}");
                let volume = image_volume(fingerprint);
                pool.driver
                    .delete(&pool.call(None), &pool.reference(), &volume)
                    .await
                    .map_err(Error::driver(action))
            };
            if let Err(error) = deleted.await {
                tracing::warn!(
                    image = fingerprint,
                    pool = name,
                    error = error.report(),
                    "an image's volume is left to the next start"
                );
            }
        }
    }

    /// Forgets an image in all projects, then removes its files. What can't be removed belongs to nothing from then on, and goes
    /// when the daemon or the pool is brought up the next time.
    ///
    /// # Errors
    /// The store's; the image is there as before, and is unpacked anew when it is used.
    pub(crate) async fn finish_image_delete(&self, fingerprint: &str, entry: &Open) -> Result<()> {
        let mut change = Transaction::new();
        {
            let mut unpacked = self.images.unpacked();
            for (pool, _) in unpacked.iter().filter(|(_, of)| of == fingerprint) {
                change = change.delete(record::volume_key(pool, fingerprint));
            }
            unpacked.retain(|(_, of)| of != fingerprint);
        }
        let mut records = self.images.records.list();
        records.retain(|record| record.fingerprint == fingerprint);
        for record in &records {
            change = self.without_image(&record.project, fingerprint, change);
        }
        self.journal.done(entry.clone(), change).await?;
        for record in &records {
            self.forget_image(&record.project, fingerprint);
        }
        if let Err(error) = self.images.files.remove(fingerprint) {
            tracing::warn!(
                image = fingerprint,
                error = error.report(),
                "an image's files are left to the next start"
            );
        }
        Ok(())
    }

    /// Adds the end of an image's record and aliases in a project to a change.
    fn without_image(&self, project: &str, fingerprint: &str, mut change: Transaction) -> Transaction {
        for alias in self.aliases_of(project, fingerprint) {
            change = change.delete(alias.key());
        }
        change.delete(record::image_key(project, fingerprint))
    }

    /// Shows an image of a project and its aliases no more.
    fn forget_image(&self, project: &str, fingerprint: &str) {
        for alias in self.aliases_of(project, fingerprint) {
            self.images.aliases.remove(&(project.to_owned(), alias.name.clone()));
        }
        self.images
            .records
            .remove(&(project.to_owned(), fingerprint.to_owned()));
    }

    fn aliases_of(&self, project: &str, fingerprint: &str) -> Vec<Arc<AliasRecord>> {
        let mut aliases = self.images.aliases.list();
        aliases.retain(|alias| alias.project == project && alias.target == fingerprint);
        aliases
    }

    /// Notes that an instance is made from an image.
    pub(super) async fn image_used(&self, record: &Arc<ImageRecord>) -> Result<Arc<ImageRecord>> {
        let seconds = |at: Timestamp| at.get().map_or(0, time::OffsetDateTime::unix_timestamp);
        let now = Timestamp::now();
        if seconds(now) - seconds(record.last_used_at) < SAME_USE {
            return Ok(Arc::clone(record));
        }
        let _guard = self.images.changing.lock().await;
        // It may have been changed or deleted since.
        let record = self.images.find(&record.project, &record.fingerprint)?;
        let used = ImageRecord {
            last_used_at: now,
            ..ImageRecord::clone(&record)
        };
        self.put_image(used.clone()).await?;
        Ok(Arc::new(used))
    }

    /// Deletes images that were fetched for instances and have not been used for ten days.
    pub async fn expire_images(&self) {
        let now = time::OffsetDateTime::now_utc();
        for record in self.images.records.list().iter().filter(|record| record.cached) {
            let used = record.last_used_at.get().or(record.uploaded_at.get());
            if used.is_none_or(|used| (now - used).whole_days() < CACHE_DAYS) {
                continue;
            }
            match self.delete_image(record, "").await {
                Ok(()) => tracing::info!(
                    image = record.fingerprint,
                    days = CACHE_DAYS,
                    "removed a cached image that was not used"
                ),
                Err(error) => tracing::warn!(
                    image = record.fingerprint,
                    error = error.report(),
                    "a cached image could not be removed"
                ),
            }
        }
    }
}

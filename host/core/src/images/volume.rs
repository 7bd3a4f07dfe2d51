//! Images as volumes of pools: unpacked once, on first use, however many ask at the same time.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use hutch_archive::Content;
use hutch_driver::TreePath;
use hutch_driver::storage::VolumeRef;
use hutch_store::Transaction;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use tokio::sync::{OwnedRwLockReadGuard, RwLock};

use super::files::Part;
use super::import::{archive_error, watch};
use super::record::{self, ImageRecord, Shape, VolumeRecord};
use crate::error::{Error, Result};
use crate::journal::Entry;
use crate::pools::{OpenPool, ROOT, image_volume};
use crate::records::RECORD_VERSION;
use crate::{Core, Operation};

/// Locks that come and go with what they are for.
#[derive(Default)]
pub(super) struct Locks(Mutex<HashMap<String, Arc<RwLock<()>>>>);

/// Above this many, locks that nobody holds are dropped.
const IDLE_LOCKS: usize = 64;

impl Locks {
    /// The lock of `key`; everybody who asks while somebody has it gets the same.
    pub(super) fn get(&self, key: &str) -> Arc<RwLock<()>> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if locks.len() > IDLE_LOCKS {
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        }
        Arc::clone(locks.entry(key.to_owned()).or_default())
    }
}

/// An image's volume, which stays as long as this value does.
#[must_use = "the volume may be deleted as soon as this is dropped"]
pub struct ImageVolume {
    /// The volume as a driver sees it.
    pub reference: VolumeRef,
    _in_use: OwnedRwLockReadGuard<()>,
}

impl Core {
    /// Makes sure that an image is unpacked in a pool.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an image that was deleted meanwhile, [`Error::Invalid`] for an archive that can't be unpacked,
    /// the driver's, and a full pool.
    pub(crate) async fn ensure_image_volume(
        self: &Arc<Self>,
        fingerprint: &str,
        pool: &OpenPool,
        operation: &Arc<Operation>,
    ) -> Result<ImageVolume> {
        let reference = image_volume(fingerprint);
        let at = (pool.record.name.clone(), fingerprint.to_owned());
        let lock = self.images.in_use.get(fingerprint);
        let guard = Arc::clone(&lock).read_owned().await;
        self.images.of_any_project(fingerprint)?;
        if self.images.unpacked().contains(&at) {
            return Ok(ImageVolume {
                reference,
                _in_use: guard,
            });
        }
        drop(guard);
        let guard = tokio::select! {
            guard = lock.write_owned() => guard,
            () = operation.cancelled() => return Err(Error::Cancelled),
        };
        let image = self.images.of_any_project(fingerprint)?;
        if !self.images.unpacked().contains(&at) {
            self.unpack_into(pool, &image, operation).await?;
            self.images.unpacked().insert(at);
        }
        Ok(ImageVolume {
            reference,
            _in_use: guard.downgrade(),
        })
    }

    async fn unpack_into(
        self: &Arc<Self>,
        pool: &OpenPool,
        image: &ImageRecord,
        operation: &Arc<Operation>,
    ) -> Result<()> {
        let name = &pool.record.name;
        let short = &image.fingerprint[..12.min(image.fingerprint.len())];
        let action = format!("unpacking image {short} into pool {name}");
        let (volume, call) = (image_volume(&image.fingerprint), pool.call(Some(operation)));
        let entry = Entry::ImageUnpack {
            fingerprint: image.fingerprint.clone(),
            pool: name.clone(),
        };
        let entry = self.journal.begin(operation.id(), entry).await?;
        let filled = async {
            let place = pool
                .driver
                .begin_fill(&call, &pool.reference(), &volume, false)
                .await
                .map_err(Error::driver(&action))?;
            self.journal.step(&entry, "begun");
            // Checks that the answer is inside the pool; the way there is then taken without following links.
            pool.path(&place)?;
            let root = pool.path(&TreePath {
                root: ROOT.to_owned(),
                path: String::new(),
            })?;
            let target = open_below(&root, Path::new(&place.path)).map_err(Error::io(&action))?;
            self.unpack(image, target, operation, &action).await?;
            self.journal.step(&entry, "unpacked");
            pool.driver
                .end_fill(&call, &pool.reference(), &volume, false)
                .await
                .map_err(Error::driver(&action))
        };
        if let Err(error) = filled.await {
            // The caller's cancellation must not keep what was begun from being taken back.
            if let Err(undo) = pool.driver.delete(&pool.call(None), &pool.reference(), &volume).await {
                tracing::warn!(image = short, pool = name, error = %undo, "a half-filled volume could not be removed");
            }
            self.journal.done(entry, Transaction::new()).await?;
            return Err(error);
        }
        self.journal.step(&entry, "volume");
        let record = VolumeRecord {
            v: RECORD_VERSION,
            pool: name.clone(),
            fingerprint: image.fingerprint.clone(),
        };
        let key = record::volume_key(name, &image.fingerprint);
        self.journal.done(entry, Transaction::new().put(key, &record)?).await
    }

    async fn unpack(
        &self,
        image: &ImageRecord,
        target: OwnedFd,
        operation: &Arc<Operation>,
        action: &str,
    ) -> Result<()> {
        let (part, content) = match image.shape {
            Shape::Unified => (Part::Main, Content::Unified),
            Shape::Split => (Part::Rootfs, Content::Rootfs),
        };
        let archive: File = self.images.files.get(&image.fingerprint, part)?;
        let total = archive.metadata().map_err(Error::io(action))?.len();
        let (unpacker, operation, what) = (self.images.unpacker.clone(), Arc::clone(operation), action.to_owned());
        let work = move || {
            let watch = &mut watch(&operation, "Unpacking image", total);
            unpacker
                .unpack(&archive, content, &target, true, watch)
                .map_err(archive_error(&what))
        };
        let report = tokio::task::spawn_blocking(work)
            .await
            .map_err(|e| Error::io(action)(std::io::Error::other(e)))??;
        tracing::info!(
            image = image.fingerprint,
            entries = report.entries,
            bytes = report.bytes,
            devices_skipped = report.devices_skipped,
            "unpacked an image"
        );
        Ok(())
    }
}

/// Opens a directory below another without following symbolic links (openat2(2)).
pub(super) fn open_below(root: &Path, path: &Path) -> std::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags, Mode::empty())?;
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let below = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    Ok(rustix::fs::openat2(root, path, flags, Mode::empty(), below)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_shared_while_they_are_held() {
        let locks = Locks::default();
        let one = locks.get("a");
        assert!(Arc::ptr_eq(&one, &locks.get("a")));
        for i in 0..200 {
            locks.get(&i.to_string());
        }
        assert!(Arc::ptr_eq(&one, &locks.get("a")), "a lock that is held was dropped");
        assert!(locks.0.lock().unwrap().len() <= IDLE_LOCKS + 2);
    }

    #[test]
    fn directories_are_opened_without_links() {
        let dir = std::env::temp_dir().join(format!("hutch-below-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(dir.join("a/b")).unwrap();
        std::os::unix::fs::symlink("/", dir.join("out")).unwrap();
        open_below(&dir, Path::new("a/b")).unwrap();
        open_below(&dir, Path::new("")).unwrap();
        assert!(open_below(&dir, Path::new("out/etc")).is_err());
        assert!(open_below(&dir, Path::new("../..")).is_err());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}

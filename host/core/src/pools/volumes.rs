//! The volumes of a pool: those of instances and of images.

use hutch_api::Config;
use hutch_api::storage::StorageVolume;
use hutch_driver::storage::{VolumeRef, VolumeState};

use crate::error::{Error, Result};
use crate::journal::Entry;
use crate::profiles::with_project;
use crate::records::{InstanceRecord, volume_name};
use crate::{Core, Tagged, etag};

/// An instance's root volume as a driver sees it.
pub(crate) fn instance_volume(record: &InstanceRecord) -> VolumeRef {
    VolumeRef {
        kind: record.kind.clone(),
        name: volume_name(&record.project, &record.name),
        content: "filesystem".to_owned(),
        config: Config::new(),
    }
}

/// An image's volume as a driver sees it.
pub(crate) fn image_volume(fingerprint: &str) -> VolumeRef {
    VolumeRef {
        kind: "image".to_owned(),
        name: fingerprint.to_owned(),
        content: "filesystem".to_owned(),
        config: Config::new(),
    }
}

impl Core {
    /// What belongs in a pool, with what `unfinished` changes may have left under a new name.
    pub(super) fn valid_volumes(&self, pool: &str, unfinished: &[Entry]) -> Vec<VolumeState> {
        let mut valid = self.instances.volumes(pool);
        for entry in unfinished {
            // A renaming is finished after the cleaning up: until then either name may be the one that is there.
            match entry {
                Entry::InstanceRename {
                    project,
                    name,
                    new_name,
                } => {
                    let (old, new) = (volume_name(project, name), volume_name(project, new_name));
                    if let Some(volume) = valid.iter().find(|volume| volume.name == old).cloned() {
                        valid.push(VolumeState { name: new, ..volume });
                    }
                }
                Entry::SnapshotRename {
                    project,
                    name,
                    new_name,
                    ..
                } => {
                    let owner = volume_name(project, name);
                    for volume in valid.iter_mut().filter(|volume| volume.name == owner) {
                        volume.snapshots.push(new_name.clone());
                    }
                }
                // It is gone on with after the cleaning up: what was copied is there under names of the moment.
                Entry::InstanceRenew { project, name, renewal } => {
                    let owner = volume_name(project, name);
                    let copied = renewal.added.iter().map(|(name, _)| name).chain([&renewal.root]);
                    for volume in valid.iter_mut().filter(|volume| volume.name == owner) {
                        volume.snapshots.extend(copied.clone().cloned());
                    }
                }
                _ => {}
            }
        }
        valid.extend(self.images.volumes(pool).into_iter().map(|fingerprint| VolumeState {
            kind: "image".to_owned(),
            name: fingerprint,
            snapshots: Vec::new(),
        }));
        valid
    }

    /// The volumes of a pool: those of instances and of images.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn volumes(&self, pool: &str, project: Option<&str>) -> Result<Vec<StorageVolume>> {
        self.pools
            .get(&pool.to_owned())
            .ok_or_else(|| Error::missing("Storage pool", pool))?;
        let mut volumes: Vec<StorageVolume> = self
            .instances
            .in_pool(pool)
            .into_iter()
            .filter(|(owner, ..)| project.is_none_or(|project| project == owner))
            .map(|(project, name, kind, created_at)| StorageVolume {
                used_by: vec![with_project(format!("/1.0/instances/{name}"), &project)],
                name,
                kind,
                content_type: "filesystem".to_owned(),
                location: "none".to_owned(),
                project,
                created_at,
                ..StorageVolume::default()
            })
            .collect();
        volumes.extend(self.images.volumes(pool).into_iter().map(|fingerprint| StorageVolume {
            used_by: vec![format!("/1.0/images/{fingerprint}")],
            name: fingerprint,
            kind: "image".to_owned(),
            content_type: "filesystem".to_owned(),
            location: "none".to_owned(),
            project: crate::DEFAULT_PROJECT.to_owned(),
            ..StorageVolume::default()
        }));
        Ok(volumes)
    }

    /// One volume of a pool.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn volume(&self, pool: &str, project: &str, kind: &str, name: &str) -> Result<Tagged<StorageVolume>> {
        let value = self
            .volumes(pool, Some(project).filter(|_| kind != "image"))?
            .into_iter()
            .find(|volume| volume.kind == kind && volume.name == name)
            .ok_or_else(|| Error::missing("Storage volume", name))?;
        Ok(Tagged {
            etag: etag(&value.etag_parts()),
            value,
        })
    }
}

//! Storage pools and the volumes in them.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::wire::wire;
use crate::{Config, Timestamp, config};

wire! {
    /// A storage pool.
    pub struct StoragePool {
        /// Its name.
        pub name: String,
        /// What people wrote of it.
        pub description: String,
        /// The driver's name.
        pub driver: String,
        /// `Created`, `Pending`, `Errored`, `Unavailable`.
        pub status: String,
        /// Its configuration.
        pub config: Config,
        /// Paths of the instances, profiles, images and volumes that use it.
        pub used_by: Vec<String>,
        /// The cluster members that have it.
        pub locations: Vec<String>,
    }

    /// `POST /1.0/storage-pools`.
    pub struct StoragePoolsPost {
        /// Its name.
        pub name: String,
        /// What people wrote of it.
        pub description: String,
        /// The driver's name; empty for the operator's default.
        pub driver: String,
        /// Its configuration.
        pub config: Config,
    }

    /// `PUT /1.0/storage-pools/{name}`.
    pub struct StoragePoolPut {
        /// Its configuration.
        pub config: Config,
        /// What people wrote of it.
        pub description: String,
    }

    /// `PATCH /1.0/storage-pools/{name}`: what is absent stays.
    pub struct StoragePoolPatch {
        /// Keys to change; an empty value removes its key.
        pub config: Option<Config>,
        /// What people wrote of it.
        pub description: Option<String>,
    }

    /// `GET /1.0/storage-pools/{name}/resources`.
    pub struct ResourcesStoragePool {
        /// Bytes.
        pub space: ResourcesStoragePoolSpace,
        /// Inodes.
        pub inodes: ResourcesStoragePoolInodes,
    }

    /// Bytes.
    pub struct ResourcesStoragePoolSpace {
        /// In use.
        pub used: u64,
        /// There are.
        pub total: u64,
    }

    /// Inodes.
    pub struct ResourcesStoragePoolInodes {
        /// In use.
        pub used: u64,
        /// There are.
        pub total: u64,
    }

    /// A volume.
    pub struct StorageVolume {
        /// Its name; of a snapshot `volume/snapshot`.
        pub name: String,
        /// What people wrote of it.
        pub description: String,
        /// `container`, `virtual-machine`, `image`, `custom`.
        #[serde(rename = "type")]
        pub kind: String,
        /// `filesystem`, `block`, `iso`.
        pub content_type: String,
        /// Its configuration.
        pub config: Config,
        /// Paths of what uses it.
        pub used_by: Vec<String>,
        /// The cluster member it is on.
        pub location: String,
        /// Its project.
        pub project: String,
        /// When it was made.
        pub created_at: Timestamp,
    }

    /// `POST /1.0/storage-pools/{pool}/volumes[/{type}]`.
    pub struct StorageVolumesPost {
        /// Its name.
        pub name: String,
        /// What people wrote of it.
        pub description: String,
        /// `custom`; the path may say it instead.
        #[serde(rename = "type")]
        pub kind: String,
        /// `filesystem` (also when empty), `block`, `iso`.
        pub content_type: String,
        /// Its configuration.
        pub config: Config,
        /// What it is a copy of.
        pub source: StorageVolumeSource,
    }

    /// What a volume is a copy of.
    pub struct StorageVolumeSource {
        /// Empty for an empty volume, `copy`, `migration`.
        #[serde(rename = "type")]
        pub kind: String,
        /// The volume, or `volume/snapshot`.
        pub name: String,
        /// Its pool.
        pub pool: String,
        /// Its project.
        pub project: String,
        /// Leave snapshots out.
        pub volume_only: bool,
        /// Whether an existing volume is brought up to date.
        pub refresh: bool,
        /// Whether a refresh leaves snapshots out that are older than the newest there.
        pub refresh_exclude_older: bool,
        /// The cluster member it is on.
        pub location: String,
        /// `pull` or `push`.
        pub mode: String,
        /// The operation on the other server.
        pub operation: String,
        /// The certificate of the other server, in PEM.
        pub certificate: String,
        /// The secrets of its channels.
        pub secrets: BTreeMap<String, String>,
    }

    /// `PUT …/volumes/{type}/{name}`.
    pub struct StorageVolumePut {
        /// Its configuration.
        pub config: Config,
        /// What people wrote of it.
        pub description: String,
        /// When not empty, the snapshot to restore, and the rest is ignored.
        #[serde(skip_serializing_if = "String::is_empty")]
        pub restore: String,
    }

    /// `PATCH …/volumes/{type}/{name}`: what is absent stays.
    pub struct StorageVolumePatch {
        /// Keys to change; an empty value removes its key.
        pub config: Option<Config>,
        /// What people wrote of it.
        pub description: Option<String>,
        /// See [`StorageVolumePut::restore`].
        pub restore: Option<String>,
    }

    /// `POST …/volumes/{type}/{name}`: rename, move or offer for migration.
    pub struct StorageVolumePost {
        /// The new name.
        pub name: String,
        /// The pool to move to.
        pub pool: String,
        /// The project to move to.
        pub project: String,
        /// Whether to offer it to another server.
        pub migration: bool,
        /// Leave snapshots out.
        pub volume_only: bool,
    }

    /// A snapshot of a volume.
    pub struct StorageVolumeSnapshot {
        /// Its name within the volume.
        pub name: String,
        /// What people wrote of it.
        pub description: String,
        /// `filesystem`, `block`.
        pub content_type: String,
        /// The volume's configuration then.
        pub config: Config,
        /// When it was taken.
        pub created_at: Timestamp,
        /// When it goes away.
        pub expires_at: Timestamp,
    }

    /// `POST …/volumes/{type}/{name}/snapshots`.
    pub struct StorageVolumeSnapshotsPost {
        /// Its name; one is made up when it is empty.
        pub name: String,
        /// When it goes away.
        pub expires_at: Option<Timestamp>,
    }

    /// `PUT …/volumes/{type}/{name}/snapshots/{snapshot}`.
    pub struct StorageVolumeSnapshotPut {
        /// What people wrote of it.
        pub description: String,
        /// When it goes away.
        pub expires_at: Option<Timestamp>,
    }

    /// `GET …/volumes/{type}/{name}/state`.
    pub struct StorageVolumeState {
        /// Space; absent when it isn't known.
        pub usage: Option<StorageVolumeStateUsage>,
    }

    /// The space of a volume, in bytes.
    pub struct StorageVolumeStateUsage {
        /// In use.
        pub used: u64,
        /// The limit; 0 without one.
        pub total: i64,
    }
}

impl StoragePool {
    /// The changeable part, as a PUT would send it back.
    pub fn to_put(&self) -> StoragePoolPut {
        StoragePoolPut {
            config: self.config.clone(),
            description: self.description.clone(),
        }
    }

    /// What an ETag is made of.
    pub fn etag_parts(&self) -> Value {
        serde_json::json!([self.name, self.driver, self.description, self.config])
    }
}

impl StorageVolume {
    /// The changeable part, as a PUT would send it back.
    pub fn to_put(&self) -> StorageVolumePut {
        StorageVolumePut {
            config: self.config.clone(),
            description: self.description.clone(),
            restore: String::new(),
        }
    }

    /// What an ETag is made of.
    pub fn etag_parts(&self) -> Value {
        serde_json::json!([self.name, self.kind, self.description, self.config])
    }
}

impl StoragePoolPatch {
    /// Changes `put` as the PATCH asks.
    pub fn apply(self, put: &mut StoragePoolPut) {
        if let Some(description) = self.description {
            put.description = description;
        }
        config::merge(&mut put.config, self.config.unwrap_or_default());
    }
}

impl StorageVolumePatch {
    /// Changes `put` as the PATCH asks.
    pub fn apply(self, put: &mut StorageVolumePut) {
        if let Some(description) = self.description {
            put.description = description;
        }
        if let Some(restore) = self.restore {
            put.restore = restore;
        }
        config::merge(&mut put.config, self.config.unwrap_or_default());
    }
}

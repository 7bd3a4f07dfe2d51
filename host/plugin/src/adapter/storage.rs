//! Storage drivers.

use std::sync::Arc;

use async_trait::async_trait;
use hutch_driver::storage::{CopySource, PoolRef, PoolSpace, StorageDriver, VolumeRef, VolumeState};
use hutch_driver::{Call, DriverError, DriverInfo, MountPlan, Options, TreePath};

use super::{answer, pairs, picked};
use crate::bindings::storage::types as wit;
use crate::export::{Exports, StorageExports};
use crate::plugin::Slot;

/// A storage driver that a plugin provides under one name.
pub(crate) struct StorageAdapter {
    slot: Arc<Slot>,
    name: String,
}

impl StorageAdapter {
    pub(crate) fn new(slot: Arc<Slot>, name: &str) -> Self {
        Self {
            slot,
            name: name.to_owned(),
        }
    }
}

impl Exports {
    fn storage(&self) -> Option<&StorageExports> {
        match self {
            Self::Storage(exports) => Some(exports),
            _ => None,
        }
    }
}

fn pool_ref(pool: &PoolRef) -> wit::PoolRef {
    wit::PoolRef {
        name: pool.name.clone(),
        root: pool.root.clone(),
        config: pairs(&pool.config),
    }
}

fn volume_ref(volume: &VolumeRef) -> wit::VolumeRef {
    wit::VolumeRef {
        kind: volume.kind.clone(),
        name: volume.name.clone(),
        content: volume.content.clone(),
        config: pairs(&volume.config),
    }
}

fn checked_space(space: wit::PoolSpace) -> Result<PoolSpace, String> {
    let space = PoolSpace {
        total_bytes: space.total_bytes,
        used_bytes: space.used_bytes,
        total_inodes: space.total_inodes,
        used_inodes: space.used_inodes,
    };
    // A file system that makes inodes as they are needed says that it has none in all.
    if space.used_bytes > space.total_bytes || (space.total_inodes > 0 && space.used_inodes > space.total_inodes) {
        return Err("more in use than there is".to_owned());
    }
    Ok(space)
}

/// What a call on a pool as a whole works on.
fn pool_target(pool: &PoolRef) -> String {
    format!("storage/{}", pool.name)
}

/// What a call on a volume works on.
fn target(pool: &PoolRef, volume: &VolumeRef) -> String {
    format!("storage/{}/{}/{}", pool.name, volume.kind, volume.name)
}

#[async_trait]
impl StorageDriver for StorageAdapter {
    fn info(&self) -> DriverInfo {
        self.slot.current().info(&self.name)
    }

    async fn validate(&self, call: &Call, pool: &PoolRef, current: Option<&Options>) -> Result<Options, DriverError> {
        let plugin = self.slot.current();
        plugin.check_options(&pool.config)?;
        let target = format!("storage/{}", call.object);
        plugin
            .call(
                call,
                target,
                |e| e.storage().map(|s| &s.pool.validate),
                (pool_ref(pool), current.map(pairs)),
                answer::options,
            )
            .await
    }

    async fn create_pool(&self, call: &Call, pool: &PoolRef) -> Result<(), DriverError> {
        self.slot
            .current()
            .call(
                call,
                pool_target(pool),
                |e| e.storage().map(|s| &s.pool.create),
                (pool_ref(pool),),
                Ok,
            )
            .await
    }

    async fn open_pool(&self, call: &Call, pool: &PoolRef) -> Result<(), DriverError> {
        self.slot
            .current()
            .call(
                call,
                pool_target(pool),
                |e| e.storage().map(|s| &s.pool.open),
                (pool_ref(pool),),
                Ok,
            )
            .await
    }

    async fn delete_pool(&self, call: &Call, pool: &PoolRef) -> Result<(), DriverError> {
        self.slot
            .current()
            .call(
                call,
                pool_target(pool),
                |e| e.storage().map(|s| &s.pool.delete),
                (pool_ref(pool),),
                Ok,
            )
            .await
    }

    async fn space(&self, call: &Call, pool: &PoolRef) -> Result<PoolSpace, DriverError> {
        // Reading how full a pool is must not wait for what is being written to it.
        let target = format!("storage-space/{}", pool.name);
        let pick = picked(|e| e.storage().map(|s| &s.pool.space));
        self.slot
            .current()
            .call(call, target, pick, (pool_ref(pool),), checked_space)
            .await
    }

    async fn reconcile(&self, call: &Call, pool: &PoolRef, valid: &[VolumeState]) -> Result<Vec<String>, DriverError> {
        let valid: Vec<_> = valid
            .iter()
            .map(|v| wit::VolumeState {
                kind: v.kind.clone(),
                name: v.name.clone(),
                snapshots: v.snapshots.clone(),
            })
            .collect();
        let params = (pool_ref(pool), valid);
        self.slot
            .current()
            .call(
                call,
                pool_target(pool),
                |e| e.storage().map(|s| &s.pool.reconcile),
                params,
                answer::report,
            )
            .await
    }

    async fn create(&self, call: &Call, pool: &PoolRef, volume: &VolumeRef) -> Result<(), DriverError> {
        let params = (pool_ref(pool), volume_ref(volume));
        self.slot
            .current()
            .call(
                call,
                target(pool, volume),
                |e| e.storage().map(|s| &s.volume.create),
                params,
                Ok,
            )
            .await
    }

    async fn begin_fill(
        &self,
        call: &Call,
        pool: &PoolRef,
        volume: &VolumeRef,
        plain: bool,
    ) -> Result<TreePath, DriverError> {
        let params = (pool_ref(pool), volume_ref(volume), plain);
        self.slot
            .current()
            .call(
                call,
                target(pool, volume),
                |e| e.storage().map(|s| &s.volume.begin_fill),
                params,
                |at| answer::tree_path(call, at),
            )
            .await
    }

    async fn end_fill(&self, call: &Call, pool: &PoolRef, volume: &VolumeRef, plain: bool) -> Result<(), DriverError> {
        let params = (pool_ref(pool), volume_ref(volume), plain);
        self.slot
            .current()
            .call(
                call,
                target(pool, volume),
                |e| e.storage().map(|s| &s.volume.end_fill),
                params,
                Ok,
            )
            .await
    }

    async fn create_from_image(
        &self,
        call: &Call,
        pool: &PoolRef,
        image: &VolumeRef,
        volume: &VolumeRef,
        plain: bool,
    ) -> Result<(), DriverError> {
        let params = (pool_ref(pool), volume_ref(image), volume_ref(volume), plain);
        self.slot
            .current()
            .call(
                call,
                target(pool, volume),
                |e| e.storage().map(|s| &s.volume.create_from_image),
                params,
                Ok,
            )
            .await
    }

    async fn delete(&self, call: &Call, pool: &PoolRef, volume: &VolumeRef) -> Result<(), DriverError> {
        let params = (pool_ref(pool), volume_ref(volume));
        self.slot
            .current()
            .call(
                call,
                target(pool, volume),
                |e| e.storage().map(|s| &s.volume.delete),
                params,
                Ok,
            )
            .await
    }

    async fn rename(&self, call: &Call, pool: &PoolRef, volume: &VolumeRef, new_name: &str) -> Result<(), DriverError> {
        let params = (pool_ref(pool), volume_ref(volume), new_name.to_owned());
        self.slot
            .current()
            .call(
                call,
                target(pool, volume),
                |e| e.storage().map(|s| &s.volume.rename),
                params,
                Ok,
            )
            .await
    }

    async fn mount(&self, call: &Call, pool: &PoolRef, volume: &VolumeRef) -> Result<MountPlan, DriverError> {
        let params = (pool_ref(pool), volume_ref(volume));
        self.slot
            .current()
            .call(
                call,
                target(pool, volume),
                |e| e.storage().map(|s| &s.volume.mount),
                params,
                |plan| answer::mount_plan(call, plan),
            )
            .await
    }

    async fn usage(&self, call: &Call, pool: &PoolRef, volume: &VolumeRef) -> Result<Option<u64>, DriverError> {
        let params = (pool_ref(pool), volume_ref(volume));
        self.slot
            .current()
            .call(
                call,
                target(pool, volume),
                |e| e.storage().map(|s| &s.volume.usage),
                params,
                Ok,
            )
            .await
    }

    async fn snapshot_create(
        &self,
        call: &Call,
        pool: &PoolRef,
        volume: &VolumeRef,
        name: &str,
        live: bool,
    ) -> Result<(), DriverError> {
        let params = (pool_ref(pool), volume_ref(volume), name.to_owned(), live);
        let pick = picked(|e| e.storage()?.snapshot.as_ref().map(|s| &s.create));
        self.slot
            .current()
            .call(call, target(pool, volume), pick, params, Ok)
            .await
    }

    async fn snapshot_delete(
        &self,
        call: &Call,
        pool: &PoolRef,
        volume: &VolumeRef,
        name: &str,
    ) -> Result<(), DriverError> {
        let params = (pool_ref(pool), volume_ref(volume), name.to_owned());
        let pick = picked(|e| e.storage()?.snapshot.as_ref().map(|s| &s.delete));
        self.slot
            .current()
            .call(call, target(pool, volume), pick, params, Ok)
            .await
    }

    async fn snapshot_rename(
        &self,
        call: &Call,
        pool: &PoolRef,
        volume: &VolumeRef,
        name: &str,
        new_name: &str,
    ) -> Result<(), DriverError> {
        let params = (pool_ref(pool), volume_ref(volume), name.to_owned(), new_name.to_owned());
        let pick = picked(|e| e.storage()?.snapshot.as_ref().map(|s| &s.rename));
        self.slot
            .current()
            .call(call, target(pool, volume), pick, params, Ok)
            .await
    }

    async fn snapshot_restore(
        &self,
        call: &Call,
        pool: &PoolRef,
        volume: &VolumeRef,
        name: &str,
    ) -> Result<(), DriverError> {
        let params = (pool_ref(pool), volume_ref(volume), name.to_owned());
        let pick = picked(|e| e.storage()?.snapshot.as_ref().map(|s| &s.restore));
        self.slot
            .current()
            .call(call, target(pool, volume), pick, params, Ok)
            .await
    }

    async fn snapshot_mount(
        &self,
        call: &Call,
        pool: &PoolRef,
        volume: &VolumeRef,
        name: &str,
    ) -> Result<MountPlan, DriverError> {
        let params = (pool_ref(pool), volume_ref(volume), name.to_owned());
        let pick = picked(|e| e.storage()?.snapshot.as_ref().map(|s| &s.mount));
        self.slot
            .current()
            .call(call, target(pool, volume), pick, params, |plan| {
                answer::mount_plan(call, plan)
            })
            .await
    }

    async fn copy(
        &self,
        call: &Call,
        pool: &PoolRef,
        source: &VolumeRef,
        snapshot: Option<&str>,
        to: &VolumeRef,
        live: bool,
        plain: bool,
    ) -> Result<(), DriverError> {
        let snapshot = snapshot.map(str::to_owned);
        let params = (
            pool_ref(pool),
            volume_ref(source),
            snapshot,
            volume_ref(to),
            live,
            plain,
        );
        let pick = picked(|e| e.storage()?.clone.as_ref().map(|c| &c.copy));
        self.slot.current().call(call, target(pool, to), pick, params, Ok).await
    }

    async fn replica_copy(
        &self,
        call: &Call,
        pool: &PoolRef,
        source: CopySource<'_>,
        volume: &VolumeRef,
        name: &str,
    ) -> Result<(), DriverError> {
        let params = (
            pool_ref(pool),
            volume_ref(source.volume),
            source.snapshot.map(str::to_owned),
            volume_ref(volume),
            name.to_owned(),
            source.live,
        );
        let pick = picked(|e| e.storage()?.replica.as_ref().map(|r| &r.copy));
        self.slot
            .current()
            .call(call, target(pool, volume), pick, params, Ok)
            .await
    }

    async fn replica_begin_fill(
        &self,
        call: &Call,
        pool: &PoolRef,
        volume: &VolumeRef,
        name: &str,
    ) -> Result<TreePath, DriverError> {
        let params = (pool_ref(pool), volume_ref(volume), name.to_owned());
        let pick = picked(|e| e.storage()?.replica.as_ref().map(|r| &r.begin_fill));
        self.slot
            .current()
            .call(call, target(pool, volume), pick, params, |at| {
                answer::tree_path(call, at)
            })
            .await
    }

    async fn replica_end_fill(
        &self,
        call: &Call,
        pool: &PoolRef,
        volume: &VolumeRef,
        name: &str,
    ) -> Result<(), DriverError> {
        let params = (pool_ref(pool), volume_ref(volume), name.to_owned());
        let pick = picked(|e| e.storage()?.replica.as_ref().map(|r| &r.end_fill));
        self.slot
            .current()
            .call(call, target(pool, volume), pick, params, Ok)
            .await
    }

    async fn replica_promote(
        &self,
        call: &Call,
        pool: &PoolRef,
        volume: &VolumeRef,
        name: &str,
    ) -> Result<(), DriverError> {
        let params = (pool_ref(pool), volume_ref(volume), name.to_owned());
        let pick = picked(|e| e.storage()?.replica.as_ref().map(|r| &r.promote));
        self.slot
            .current()
            .call(call, target(pool, volume), pick, params, Ok)
            .await
    }

    async fn release(&self, call: &Call, pool: &PoolRef, volume: &VolumeRef) -> Result<(), DriverError> {
        let params = (pool_ref(pool), volume_ref(volume));
        let pick = picked(|e| e.storage()?.release.as_ref().map(|r| &r.volume));
        self.slot
            .current()
            .call(call, target(pool, volume), pick, params, Ok)
            .await
    }

    async fn set_quota(
        &self,
        call: &Call,
        pool: &PoolRef,
        volume: &VolumeRef,
        bytes: Option<u64>,
    ) -> Result<(), DriverError> {
        let params = (pool_ref(pool), volume_ref(volume), bytes);
        let pick = picked(|e| e.storage()?.quota.as_ref().map(|q| &q.set));
        self.slot
            .current()
            .call(call, target(pool, volume), pick, params, Ok)
            .await
    }
}

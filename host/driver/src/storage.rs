//! Storage drivers, as `wit/storage` has them.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{Call, DriverError, DriverInfo, MountPlan, Options, TreePath};

/// A pool in a call.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PoolRef {
    /// The pool's name.
    pub name: String,
    /// The id of the root in [`Call::roots`] at which it lies.
    pub root: String,
    /// Its configuration.
    pub config: Options,
}

/// A volume in a call.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VolumeRef {
    /// `container`, `virtual-machine`, `image`, `custom`.
    pub kind: String,
    /// Unique in the pool, with the project in it.
    pub name: String,
    /// `filesystem` or `block`.
    pub content: String,
    /// Its configuration.
    pub config: Options,
}

/// What is copied, and how.
#[derive(Clone, Copy, Debug)]
pub struct CopySource<'a> {
    /// The volume.
    pub volume: &'a VolumeRef,
    /// Its snapshot that is copied; `None` for the volume as it is.
    pub snapshot: Option<&'a str>,
    /// The volume is mounted, and its writers are stopped for the length of the call.
    pub live: bool,
}

/// A volume that belongs in a pool.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VolumeState {
    /// As in [`VolumeRef`].
    pub kind: String,
    /// As in [`VolumeRef`].
    pub name: String,
    /// Its snapshots.
    pub snapshots: Vec<String>,
}

/// How full a pool is.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct PoolSpace {
    /// Bytes in all.
    pub total_bytes: u64,
    /// Bytes used.
    pub used_bytes: u64,
    /// Inodes in all; 0 where there is no limit.
    pub total_inodes: u64,
    /// Inodes used.
    pub used_inodes: u64,
}

/// A storage driver. Optional abilities answer `unsupported` where [`DriverInfo::can`] says that they are not there; the
/// core asks first. The semantics of every call are those of its namesake in `wit/storage`.
#[async_trait]
pub trait StorageDriver: Send + Sync {
    /// Who provides it, and its abilities: `snapshot`, `clone`, `replica`, `release`, `quota`.
    fn info(&self) -> DriverInfo;

    /// `pool.validate`.
    async fn validate(&self, call: &Call, pool: &PoolRef, current: Option<&Options>) -> Result<Options, DriverError>;
    /// `pool.create`.
    async fn create_pool(&self, call: &Call, pool: &PoolRef) -> Result<(), DriverError>;
    /// `pool.open`.
    async fn open_pool(&self, call: &Call, pool: &PoolRef) -> Result<(), DriverError>;
    /// `pool.delete`.
    async fn delete_pool(&self, call: &Call, pool: &PoolRef) -> Result<(), DriverError>;
    /// `pool.space`.
    async fn space(&self, call: &Call, pool: &PoolRef) -> Result<PoolSpace, DriverError>;
    /// `pool.reconcile`.
    async fn reconcile(&self, call: &Call, pool: &PoolRef, valid: &[VolumeState]) -> Result<Vec<String>, DriverError>;

    /// `volume.create`.
    async fn create(&self, call: &Call, pool: &PoolRef, volume: &VolumeRef) -> Result<(), DriverError>;
    /// `volume.begin-fill`.
    async fn begin_fill(
        &self,
        call: &Call,
        pool: &PoolRef,
        volume: &VolumeRef,
        plain: bool,
    ) -> Result<TreePath, DriverError>;
    /// `volume.end-fill`.
    async fn end_fill(&self, call: &Call, pool: &PoolRef, volume: &VolumeRef, plain: bool) -> Result<(), DriverError>;
    /// `volume.create-from-image`.
    async fn create_from_image(
        &self,
        call: &Call,
        pool: &PoolRef,
        image: &VolumeRef,
        volume: &VolumeRef,
        plain: bool,
    ) -> Result<(), DriverError>;
    /// `volume.delete`.
    async fn delete(&self, call: &Call, pool: &PoolRef, volume: &VolumeRef) -> Result<(), DriverError>;
    /// `volume.rename`.
    async fn rename(&self, call: &Call, pool: &PoolRef, volume: &VolumeRef, new_name: &str) -> Result<(), DriverError>;
    /// `volume.mount`.
    async fn mount(&self, call: &Call, pool: &PoolRef, volume: &VolumeRef) -> Result<MountPlan, DriverError>;
    /// `volume.usage`.
    async fn usage(&self, call: &Call, pool: &PoolRef, volume: &VolumeRef) -> Result<Option<u64>, DriverError>;

    /// `snapshot.create`.
    async fn snapshot_create(
        &self,
        call: &Call,
        pool: &PoolRef,
        volume: &VolumeRef,
        name: &str,
        live: bool,
    ) -> Result<(), DriverError>;
    /// `snapshot.delete`.
    async fn snapshot_delete(
        &self,
        call: &Call,
        pool: &PoolRef,
        volume: &VolumeRef,
        name: &str,
    ) -> Result<(), DriverError>;
    /// `snapshot.rename`.
    async fn snapshot_rename(
        &self,
        call: &Call,
        pool: &PoolRef,
        volume: &VolumeRef,
        name: &str,
        new_name: &str,
    ) -> Result<(), DriverError>;
    /// `snapshot.restore`.
    async fn snapshot_restore(
        &self,
        call: &Call,
        pool: &PoolRef,
        volume: &VolumeRef,
        name: &str,
    ) -> Result<(), DriverError>;
    /// `snapshot.mount`.
    async fn snapshot_mount(
        &self,
        call: &Call,
        pool: &PoolRef,
        volume: &VolumeRef,
        name: &str,
    ) -> Result<MountPlan, DriverError>;

    /// `clone.copy`.
    #[expect(clippy::too_many_arguments, reason = "mirrors the function in the WIT package")]
    async fn copy(
        &self,
        call: &Call,
        pool: &PoolRef,
        source: &VolumeRef,
        snapshot: Option<&str>,
        target: &VolumeRef,
        live: bool,
        plain: bool,
    ) -> Result<(), DriverError>;

    /// `replica.copy`.
    async fn replica_copy(
        &self,
        call: &Call,
        pool: &PoolRef,
        source: CopySource<'_>,
        volume: &VolumeRef,
        name: &str,
    ) -> Result<(), DriverError>;
    /// `replica.begin-fill`.
    async fn replica_begin_fill(
        &self,
        call: &Call,
        pool: &PoolRef,
        volume: &VolumeRef,
        name: &str,
    ) -> Result<TreePath, DriverError>;
    /// `replica.end-fill`.
    async fn replica_end_fill(
        &self,
        call: &Call,
        pool: &PoolRef,
        volume: &VolumeRef,
        name: &str,
    ) -> Result<(), DriverError>;
    /// `replica.promote`.
    async fn replica_promote(
        &self,
        call: &Call,
        pool: &PoolRef,
        volume: &VolumeRef,
        name: &str,
    ) -> Result<(), DriverError>;

    /// `release.volume`.
    async fn release(&self, call: &Call, pool: &PoolRef, volume: &VolumeRef) -> Result<(), DriverError>;

    /// `quota.set`.
    async fn set_quota(
        &self,
        call: &Call,
        pool: &PoolRef,
        volume: &VolumeRef,
        bytes: Option<u64>,
    ) -> Result<(), DriverError>;
}

//! Storage drivers: `hutch:storage`.

use crate::{Host, MountPlan, Result, TreePath};

pub use crate::bindings::imports::hutch::storage::types::{PoolRef, PoolSpace, VolumeRef, VolumeState};

/// Pools. Required.
pub trait Pool {
    /// Checks a pool's configuration and completes it. `current` is what the pool has, when it is changed; without it there is no
    /// pool yet, and its root can't be reached.
    fn validate(
        host: &impl Host,
        pool: &PoolRef,
        current: Option<&[(String, String)]>,
    ) -> Result<Vec<(String, String)>>;
    /// Makes an empty pool in its root.
    fn create(host: &impl Host, pool: &PoolRef) -> Result<()>;
    /// Makes sure that an existing pool can be used.
    fn open(host: &impl Host, pool: &PoolRef) -> Result<()>;
    /// Removes a pool that holds no volume any more.
    fn delete(host: &impl Host, pool: &PoolRef) -> Result<()>;
    /// How full it is.
    fn space(host: &impl Host, pool: &PoolRef) -> Result<PoolSpace>;
    /// Removes what is not in `valid`, finishes or takes back what was left half-done, and says what it removed.
    fn reconcile(host: &impl Host, pool: &PoolRef, valid: &[VolumeState]) -> Result<Vec<String>>;
}

/// Volumes. Required.
pub trait Volume {
    /// Makes an empty volume.
    fn create(host: &impl Host, pool: &PoolRef, volume: &VolumeRef) -> Result<()>;
    /// Makes an empty place that the host fills, for a volume that is one tree if it is to be `plain`. Repeated, it is empty again.
    fn begin_fill(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, plain: bool) -> Result<TreePath>;
    /// Makes the filled place a volume. `plain` is what it was for `begin_fill`.
    fn end_fill(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, plain: bool) -> Result<()>;
    /// Makes a volume with the content of an image volume, as one tree if it is to be `plain`.
    fn create_from_image(
        host: &impl Host,
        pool: &PoolRef,
        image: &VolumeRef,
        volume: &VolumeRef,
        plain: bool,
    ) -> Result<()>;
    /// Deletes a volume and its snapshots.
    fn delete(host: &impl Host, pool: &PoolRef, volume: &VolumeRef) -> Result<()>;
    /// Gives a volume another name.
    fn rename(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, new_name: &str) -> Result<()>;
    /// How the host makes the volume appear.
    fn mount(host: &impl Host, pool: &PoolRef, volume: &VolumeRef) -> Result<MountPlan>;
    /// Bytes that the volume alone uses; `None` where only a walk could tell.
    fn usage(host: &impl Host, pool: &PoolRef, volume: &VolumeRef) -> Result<Option<u64>>;
}

/// Points in time of a volume. Optional.
pub trait Snapshot {
    /// Takes one. `live`: the volume is mounted, and its writers are stopped for the length of the call.
    fn create(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, name: &str, live: bool) -> Result<()>;
    /// Removes one.
    fn delete(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, name: &str) -> Result<()>;
    /// Gives one another name.
    fn rename(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, name: &str, new_name: &str) -> Result<()>;
    /// Makes the volume, which is not mounted, what the snapshot is.
    fn restore(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, name: &str) -> Result<()>;
    /// How the host makes the snapshot appear, read-only.
    fn mount(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, name: &str) -> Result<MountPlan>;
}

/// What a volume is copied from and how.
#[derive(Clone, Copy, Debug)]
pub struct CopySource<'a> {
    /// The volume.
    pub volume: &'a VolumeRef,
    /// The snapshot to begin from; `None` for the volume as it is.
    pub snapshot: Option<&'a str>,
    /// The volume is mounted, and its writers are stopped for the length of the call.
    pub live: bool,
}

/// New volumes from existing ones. Optional.
pub trait Clone {
    /// Makes `target` from `source`, as one tree if it is to be `plain`.
    fn copy(host: &impl Host, pool: &PoolRef, source: CopySource<'_>, target: &VolumeRef, plain: bool) -> Result<()>;
}

/// Snapshots whose content comes from elsewhere. Optional; needs [`Snapshot`].
pub trait Replica {
    /// Makes a snapshot `name` of `volume` with the content of `source`.
    fn copy(host: &impl Host, pool: &PoolRef, source: CopySource<'_>, volume: &VolumeRef, name: &str) -> Result<()>;
    /// Makes an empty place that the host fills. Repeated, it is empty again.
    fn begin_fill(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, name: &str) -> Result<TreePath>;
    /// Makes the filled place a snapshot.
    fn end_fill(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, name: &str) -> Result<()>;
    /// Makes the volume, which is not mounted, what the snapshot is, and takes the snapshot away. Without one it was done before.
    fn promote(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, name: &str) -> Result<()>;
}

/// Volumes whose home is elsewhere: `mount` brings one in, and this lets it go. Optional.
pub trait Release {
    /// Nobody uses the volume any more: what was written to it goes home. Called after each use and, for what nobody uses, when the
    /// pool is opened.
    fn volume(host: &impl Host, pool: &PoolRef, volume: &VolumeRef) -> Result<()>;
}

/// Limits of a volume's size. Optional.
pub trait Quota {
    /// Limits a volume; `None` lifts the limit.
    fn set(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, bytes: Option<u64>) -> Result<()>;
}

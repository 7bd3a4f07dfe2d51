//! Snapshots whose content comes from elsewhere, and volumes that become them.

use hutch_sdk::storage::{CopySource, PoolRef, Replica, VolumeRef};
use hutch_sdk::{Error, Host, Result, TreePath};

use crate::Dir;
use crate::layout::Places;
use crate::snapshot::is_there;
use crate::volume::{REPLACED, existing, settle, source_tree};

/// The tree of a snapshot that the host is filling, beside where the snapshot's will be.
const FILLING: &str = "filling";

impl Replica for Dir {
    fn copy(host: &impl Host, pool: &PoolRef, source: CopySource<'_>, volume: &VolumeRef, name: &str) -> Result<()> {
        let places = Places::of(pool, volume)?;
        let snapshot = places.snapshot(name)?;
        if is_there(host, &snapshot)? {
            return Ok(());
        }
        existing(host, &places, volume)?;
        existing(host, &Places::of(pool, source.volume)?, source.volume)?;
        host.fs_make_dir(&snapshot, 0o700)?;
        host.fs_copy_tree(&source_tree(pool, source)?, &snapshot.join("rootfs"))
    }

    fn begin_fill(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, name: &str) -> Result<TreePath> {
        let places = Places::of(pool, volume)?;
        existing(host, &places, volume)?;
        let snapshot = places.snapshot(name)?;
        if is_there(host, &snapshot)? {
            return Err(Error::already_exists(format!(
                "the volume {:?} has a snapshot {name:?} already",
                volume.name
            )));
        }
        host.fs_discard(&snapshot)?;
        host.fs_make_dir(&snapshot, 0o700)?;
        let tree = snapshot.join(FILLING);
        host.fs_make_dir(&tree, 0o755)?;
        Ok(tree)
    }

    fn end_fill(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, name: &str) -> Result<()> {
        let snapshot = Places::of(pool, volume)?.snapshot(name)?;
        let filling = snapshot.join(FILLING);
        if !is_there(host, &snapshot)? && host.fs_stat(&filling)?.is_none() {
            return Err(Error::not_found(format!(
                "the snapshot {name:?} of the volume {:?} is not being filled",
                volume.name
            )));
        }
        host.fs_rename(&filling, &snapshot.join("rootfs"))
    }

    fn promote(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, name: &str) -> Result<()> {
        let places = Places::of(pool, volume)?;
        let note = existing(host, &places, volume)?;
        let snapshot = places.snapshot(name)?;
        if is_there(host, &snapshot)? {
            let tree = snapshot.join("rootfs");
            settle(host, &places.home)?;
            if let Some(bytes) = note.quota {
                host.fs_set_quota(&tree, Some(bytes))?;
            }
            // Repeated after the first of the two, both say the same again.
            host.fs_rename(&places.tree(), &places.home.join(REPLACED))?;
            host.fs_rename(&tree, &places.tree())?;
        }
        host.fs_discard(&places.home.join(REPLACED))?;
        host.fs_discard(&snapshot)
    }
}

//! Snapshots: copies of a volume's tree.

use hutch_sdk::storage::{PoolRef, Snapshot, VolumeRef};
use hutch_sdk::{Error, Host, MountPlan, Result, TreePath};

use crate::Dir;
use crate::layout::Places;
use crate::volume::{REPLACED, RESTORED, existing, settle};

pub(crate) fn is_there(host: &impl Host, snapshot: &TreePath) -> Result<bool> {
    Ok(host.fs_stat(&snapshot.join("rootfs"))?.is_some())
}

fn no_such(volume: &VolumeRef, name: &str) -> Error {
    Error::not_found(format!(
        "the {} volume {:?} has no snapshot {name:?}",
        volume.kind, volume.name
    ))
}

impl Snapshot for Dir {
    fn create(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, name: &str, _live: bool) -> Result<()> {
        let places = Places::of(pool, volume)?;
        let snapshot = places.snapshot(name)?;
        if is_there(host, &snapshot)? {
            return Ok(());
        }
        existing(host, &places, volume)?;
        host.fs_make_dir(&snapshot, 0o700)?;
        host.fs_copy_tree(&places.tree(), &snapshot.join("rootfs"))
    }

    fn delete(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, name: &str) -> Result<()> {
        host.fs_discard(&Places::of(pool, volume)?.snapshot(name)?)
    }

    fn rename(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, name: &str, new_name: &str) -> Result<()> {
        let places = Places::of(pool, volume)?;
        let (from, to) = (places.snapshot(name)?, places.snapshot(new_name)?);
        match (is_there(host, &from)?, is_there(host, &to)?) {
            (false, false) => Err(no_such(volume, name)),
            (false, true) => Ok(()),
            (true, true) if name == new_name => Ok(()),
            (true, true) => Err(Error::already_exists(format!(
                "the volume {:?} has a snapshot {new_name:?} already",
                volume.name
            ))),
            (true, false) => {
                // An unfinished snapshot of the new name may have left its empty directory.
                host.fs_discard(&to)?;
                host.fs_rename(&from, &to)
            }
        }
    }

    fn restore(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, name: &str) -> Result<()> {
        let places = Places::of(pool, volume)?;
        let note = existing(host, &places, volume)?;
        let snapshot = places.snapshot(name)?;
        if !is_there(host, &snapshot)? {
            return Err(no_such(volume, name));
        }
        settle(host, &places.home)?;
        let (restored, replaced) = (places.home.join(RESTORED), places.home.join(REPLACED));
        host.fs_copy_tree(&snapshot.join("rootfs"), &restored)?;
        host.fs_rename(&places.tree(), &replaced)?;
        if let Err(error) = host.fs_rename(&restored, &places.tree()) {
            // The volume is what it was. Where even that fails, the next call finds it so.
            let _ = host.fs_rename(&replaced, &places.tree());
            return Err(error);
        }
        host.fs_discard(&replaced)?;
        match note.quota {
            Some(bytes) => host.fs_set_quota(&places.tree(), Some(bytes)),
            None => Ok(()),
        }
    }

    fn mount(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, name: &str) -> Result<MountPlan> {
        let snapshot = Places::of(pool, volume)?.snapshot(name)?;
        match is_there(host, &snapshot)? {
            true => Ok(MountPlan::bind(snapshot.join("rootfs"))),
            false => Err(no_such(volume, name)),
        }
    }
}

//! Snapshots: copies of a volume's tree, beside it.

use hutch_sdk::paths::check_component;
use hutch_sdk::storage::{PoolRef, Snapshot, VolumeRef};
use hutch_sdk::{Error, Host, MountPlan, Result, TreePath};

use crate::Mutant;
use crate::fault::Fault;
use crate::volume::{existing, places, write};

fn place(pool: &PoolRef, volume: &VolumeRef, name: &str) -> Result<TreePath> {
    check_component("snapshot", name)?;
    Ok(places(pool, volume, &volume.name)?.home.join("snapshots").join(name))
}

fn is_there(host: &impl Host, at: &TreePath) -> Result<bool> {
    Ok(host.fs_stat(at)?.is_some())
}

fn no_such(volume: &VolumeRef, name: &str) -> Error {
    Error::not_found(format!("the volume {:?} has no snapshot {name:?}", volume.name))
}

impl Snapshot for Mutant {
    fn create(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, name: &str, _live: bool) -> Result<()> {
        let (snapshot, places) = (place(pool, volume, name)?, places(pool, volume, &volume.name)?);
        let tree = places.home.join(&existing(host, &places, volume)?.tree());
        if is_there(host, &snapshot)? {
            return Ok(());
        }
        host.fs_make_dir(&places.home.join("snapshots"), 0o700)?;
        if Fault::of(pool) == Some(Fault::SnapshotLeaks) {
            let aside = places.home.join(&format!("aside-{:x}", host.random()));
            host.fs_copy_tree(&tree, &aside)?;
        }
        host.fs_copy_tree(&tree, &snapshot)
    }

    fn delete(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, name: &str) -> Result<()> {
        host.fs_discard(&place(pool, volume, name)?)
    }

    fn rename(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, name: &str, new_name: &str) -> Result<()> {
        let (from, to) = (place(pool, volume, name)?, place(pool, volume, new_name)?);
        match (is_there(host, &from)?, is_there(host, &to)?) {
            (false, false) => Err(no_such(volume, name)),
            (false, true) => Ok(()),
            (true, true) if from == to => Ok(()),
            (true, true) => Err(Error::already_exists(format!("there is a snapshot {new_name:?}"))),
            (true, false) => host.fs_rename(&from, &to),
        }
    }

    fn restore(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, name: &str) -> Result<()> {
        let (snapshot, places) = (place(pool, volume, name)?, places(pool, volume, &volume.name)?);
        let mut note = existing(host, &places, volume)?;
        if !is_there(host, &snapshot)? {
            return Err(no_such(volume, name));
        }
        let old = places.home.join(&note.tree());
        if Fault::of(pool) == Some(Fault::RestoreDiscardsFirst) {
            host.fs_discard(&old)?;
        }
        note.number += 1;
        let tree = places.home.join(&note.tree());
        host.fs_discard(&tree)?;
        host.fs_copy_tree(&snapshot, &tree)?;
        if let Some(limit) = note.limit {
            host.fs_set_quota(&tree, Some(limit))?;
        }
        write(host, &places.home, &note)?;
        host.fs_discard(&old)
    }

    fn mount(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, name: &str) -> Result<MountPlan> {
        let snapshot = place(pool, volume, name)?;
        if !is_there(host, &snapshot)? {
            return Err(no_such(volume, name));
        }
        if Fault::of(pool) == Some(Fault::SnapshotFollows) {
            let places = places(pool, volume, &volume.name)?;
            return Ok(MountPlan::bind(
                places.home.join(&existing(host, &places, volume)?.tree()),
            ));
        }
        Ok(MountPlan::bind(snapshot))
    }
}

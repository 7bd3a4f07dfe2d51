//! Snapshots: copies of a volume's tree, beside it.

use hutch_sdk::paths::check_component;
use hutch_sdk::storage::{PoolRef, Snapshot, VolumeRef};
use hutch_sdk::{Error, Host, MountPlan, Result, TreePath};

use crate::Driver;
use crate::volume::{existing, places, write};

/// Where a snapshot lies.
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

impl Snapshot for Driver {
    fn create(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, name: &str, _live: bool) -> Result<()> {
        let (snapshot, places) = (place(pool, volume, name)?, places(pool, volume, &volume.name)?);
        let tree = existing(host, &places, volume)?.tree();
        if is_there(host, &snapshot)? {
            return Ok(());
        }
        host.fs_make_dir(&places.home.join("snapshots"), 0o700)?;
        host.fs_copy_tree(&places.home.join(&tree), &snapshot)
    }

    fn delete(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, name: &str) -> Result<()> {
        host.fs_discard(&place(pool, volume, name)?)
    }

    fn rename(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, name: &str, new_name: &str) -> Result<()> {
        let (from, to) = (place(pool, volume, name)?, place(pool, volume, new_name)?);
        match (is_there(host, &from)?, is_there(host, &to)?) {
            (false, false) => Err(no_such(volume, name)),
            // It was renamed by a call whose answer was lost.
            (false, true) => Ok(()),
            (true, true) if from == to => Ok(()),
            (true, true) => Err(Error::already_exists(format!(
                "the volume {:?} has a snapshot {new_name:?} already",
                volume.name
            ))),
            (true, false) => host.fs_rename(&from, &to),
        }
    }

    fn restore(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, name: &str) -> Result<()> {
        let (snapshot, places) = (place(pool, volume, name)?, places(pool, volume, &volume.name)?);
        let note = existing(host, &places, volume)?;
        if !is_there(host, &snapshot)? {
            return Err(no_such(volume, name));
        }
        let (old, number) = (note.tree(), note.number.wrapping_add(1));
        let tree = places.home.join(&format!("tree-{number}"));
        // An interrupted restore may have left it.
        host.fs_discard(&tree)?;
        host.fs_copy_tree(&snapshot, &tree)?;
        write(host, &places.home, &note.origin, number)?;
        host.fs_discard(&places.home.join(&old))
    }

    fn mount(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, name: &str) -> Result<MountPlan> {
        let snapshot = place(pool, volume, name)?;
        if is_there(host, &snapshot)? {
            Ok(MountPlan::bind(snapshot))
        } else {
            Err(no_such(volume, name))
        }
    }
}

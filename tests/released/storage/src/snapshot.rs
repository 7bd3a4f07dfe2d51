//! Snapshots: copies of a volume's tree, beside it.

use crate::bindings::exports::hutch::storage::snapshot::Guest;
use crate::bindings::hutch::host::fs;
use crate::bindings::hutch::host::types::{MountPlan, TreePath};
use crate::bindings::hutch::storage::types::{PoolRef, VolumeRef};
use crate::place::{Note, Place, check_name};
use crate::{Driver, Result, below, bind, refused};

fn place(pool: &PoolRef, volume: &VolumeRef, name: &str) -> Result<TreePath> {
    check_name("snapshot", name)?;
    Ok(below(&Place::of(pool, volume)?.home, &format!("snapshots/{name}")))
}

fn is_there(at: &TreePath) -> Result<bool> {
    Ok(fs::stat(at)?.is_some())
}

fn existing(at: &TreePath, volume: &VolumeRef, name: &str) -> Result<()> {
    if is_there(at)? {
        return Ok(());
    }
    let message = format!("the volume {:?} has no snapshot {name:?}", volume.name);
    refused("not-found", message)
}

impl Guest for Driver {
    fn create(pool: PoolRef, volume: VolumeRef, name: String, _live: bool) -> Result<()> {
        let (at, of) = (place(&pool, &volume, &name)?, Place::of(&pool, &volume)?);
        let tree = of.existing()?.tree();
        if is_there(&at)? {
            return Ok(());
        }
        fs::make_dir(&below(&of.home, "snapshots"), 0o700)?;
        fs::copy_tree(&below(&of.home, &tree), &at)
    }

    fn delete(pool: PoolRef, volume: VolumeRef, name: String) -> Result<()> {
        fs::discard(&place(&pool, &volume, &name)?)
    }

    fn rename(pool: PoolRef, volume: VolumeRef, name: String, new_name: String) -> Result<()> {
        let (old, new) = (place(&pool, &volume, &name)?, place(&pool, &volume, &new_name)?);
        match (is_there(&old)?, is_there(&new)?) {
            (false, false) => existing(&old, &volume, &name),
            // It was renamed by a call whose answer was lost, or has the name.
            (false, true) => Ok(()),
            (true, true) if name == new_name => Ok(()),
            (true, true) => refused("already-exists", format!("the snapshot {new_name:?} is there already")),
            (true, false) => fs::rename(&old, &new),
        }
    }

    fn restore(pool: PoolRef, volume: VolumeRef, name: String) -> Result<()> {
        let (at, of) = (place(&pool, &volume, &name)?, Place::of(&pool, &volume)?);
        let note = of.existing()?;
        existing(&at, &volume, &name)?;
        let old = below(&of.home, &note.tree());
        let restored = Note {
            number: note.number.wrapping_add(1),
            ..note
        };
        let new = below(&of.home, &restored.tree());
        // An interrupted restore may have left it.
        fs::discard(&new)?;
        fs::copy_tree(&at, &new)?;
        Place::write(&of.home, &restored)?;
        fs::discard(&old)
    }

    fn mount(pool: PoolRef, volume: VolumeRef, name: String) -> Result<MountPlan> {
        let at = place(&pool, &volume, &name)?;
        existing(&at, &volume, &name)?;
        Ok(bind(at))
    }
}

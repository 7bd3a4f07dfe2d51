//! Volumes.

use crate::bindings::exports::hutch::storage::volume::Guest;
use crate::bindings::hutch::host::fs;
use crate::bindings::hutch::host::types::{MountPlan, TreePath};
use crate::bindings::hutch::storage::types::{PoolRef, VolumeRef};
use crate::place::Place;
use crate::{Driver, Result, below, bind, refused};

impl Guest for Driver {
    fn create(pool: PoolRef, volume: VolumeRef) -> Result<()> {
        let place = Place::of(&pool, &volume)?;
        if place.is_made("nothing")? {
            return Ok(());
        }
        fs::make_dir(&place.begin()?, 0o755)?;
        place.publish("nothing")
    }

    fn begin_fill(pool: PoolRef, volume: VolumeRef, _plain: bool) -> Result<TreePath> {
        let place = Place::of(&pool, &volume)?;
        place.absent()?;
        let tree = place.begin()?;
        fs::make_dir(&tree, 0o755)?;
        Ok(tree)
    }

    fn end_fill(pool: PoolRef, volume: VolumeRef, _plain: bool) -> Result<()> {
        let place = Place::of(&pool, &volume)?;
        if place.is_made("outside")? {
            return Ok(());
        }
        place.begun()?;
        place.publish("outside")
    }

    fn create_from_image(pool: PoolRef, image: VolumeRef, volume: VolumeRef, _plain: bool) -> Result<()> {
        let (place, source) = (Place::of(&pool, &volume)?, Place::of(&pool, &image)?);
        let origin = format!("image {}", image.name);
        if place.is_made(&origin)? {
            return Ok(());
        }
        let content = below(&source.home, &source.existing()?.tree());
        fs::copy_tree(&content, &place.begin()?)?;
        place.publish(&origin)
    }

    fn delete(pool: PoolRef, volume: VolumeRef) -> Result<()> {
        let place = Place::of(&pool, &volume)?;
        fs::discard(&place.home)?;
        fs::discard(&place.making)
    }

    fn rename(pool: PoolRef, volume: VolumeRef, new_name: String) -> Result<()> {
        let (old, new) = (Place::of(&pool, &volume)?, Place::called(&pool, &volume, &new_name)?);
        let (there, taken) = (old.note()?.is_some(), new.note()?.is_some());
        match (there, taken) {
            (false, false) => old.existing().map(|_| ()),
            // It was renamed by a call whose answer was lost, or has the name.
            (false, true) => Ok(()),
            (true, true) if volume.name == new_name => Ok(()),
            (true, true) => refused("already-exists", format!("the volume {new_name:?} is there already")),
            (true, false) => fs::rename(&old.home, &new.home),
        }
    }

    fn mount(pool: PoolRef, volume: VolumeRef) -> Result<MountPlan> {
        let place = Place::of(&pool, &volume)?;
        Ok(bind(below(&place.home, &place.existing()?.tree())))
    }

    fn usage(pool: PoolRef, volume: VolumeRef) -> Result<Option<u64>> {
        let place = Place::of(&pool, &volume)?;
        place.existing()?;
        fs::usage(&place.home)
    }
}

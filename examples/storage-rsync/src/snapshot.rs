//! Snapshots: trees on the other machine that the note names.

use hutch_sdk::paths::check_component;
use hutch_sdk::storage::{PoolRef, Snapshot, VolumeRef};
use hutch_sdk::{Error, Host, MountPlan, Result};

use crate::Rsync;
use crate::note::{Places, VolumeNote, existing, read};
use crate::tree::{Home, name as tree_name};

/// The tree that a snapshot is.
pub fn number_of(note: &VolumeNote, volume: &VolumeRef, name: &str) -> Result<u32> {
    check_component("snapshot", name)?;
    let number = note.snapshots.get(name).copied();
    number.ok_or_else(|| Error::not_found(format!("the volume {:?} has no snapshot {name:?}", volume.name)))
}

/// The volume, which must be there.
fn home<'v>(host: &impl Host, pool: &PoolRef, volume: &'v VolumeRef, name: &str) -> Result<Home<'v>> {
    check_component("snapshot", name)?;
    let places = Places::of(pool, volume)?;
    let note = existing(host, &places, volume)?;
    Home::of(pool, volume, places.home, note)
}

impl Snapshot for Rsync {
    fn create(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, name: &str, _live: bool) -> Result<()> {
        let mut home = home(host, pool, volume, name)?;
        if !home.note.snapshots.contains_key(name) {
            let number = home.send(host)?;
            // What is sent next is linked with this.
            home.note.home = number;
            home.note.snapshots.insert(name.to_owned(), number);
            return home.change(host);
        }
        home.tell(host)
    }

    fn delete(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, name: &str) -> Result<()> {
        check_component("snapshot", name)?;
        let places = Places::of(pool, volume)?;
        let Some(note) = read(host, &places.home)? else {
            return Ok(());
        };
        let mut home = Home::of(pool, volume, places.home, note)?;
        let Some(number) = home.note.snapshots.remove(name) else {
            return home.tell(host);
        };
        host.fs_discard(&home.here.join("shown").join(&number.to_string()))?;
        home.change(host)
    }

    fn rename(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, name: &str, new_name: &str) -> Result<()> {
        check_component("snapshot", new_name)?;
        let mut home = home(host, pool, volume, name)?;
        let there = |name: &str| home.note.snapshots.get(name).copied();
        match (there(name), there(new_name)) {
            (None, None) => number_of(&home.note, volume, name).map(|_| ()),
            // It was renamed by a call whose answer was lost, or that could not tell the other machine.
            (None, Some(_)) => home.tell(host),
            (Some(_), Some(_)) if name == new_name => Ok(()),
            (Some(_), Some(_)) => Err(Error::already_exists(format!(
                "the volume {:?} has a snapshot {new_name:?} already",
                volume.name
            ))),
            (Some(number), None) => {
                home.note.snapshots.remove(name);
                home.note.snapshots.insert(new_name.to_owned(), number);
                home.change(host)
            }
        }
    }

    fn restore(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, name: &str) -> Result<()> {
        let mut home = home(host, pool, volume, name)?;
        home.note.home = number_of(&home.note, volume, name)?;
        let tree = home.note.tree.take();
        home.note.told = false;
        home.write(host)?;
        if let Some(tree) = tree {
            host.fs_discard(&home.here.join(&tree_name(tree)))?;
        }
        home.tell(host)
    }

    fn mount(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, name: &str) -> Result<MountPlan> {
        let home = home(host, pool, volume, name)?;
        let number = number_of(&home.note, volume, name)?;
        Ok(MountPlan::bind(home.show(host, number)?))
    }
}

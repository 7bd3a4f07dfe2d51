//! Volumes.

use hutch_sdk::paths::check_component;
use hutch_sdk::storage::{PoolRef, Volume, VolumeRef};
use hutch_sdk::{Error, Host, MountPlan, Result, TreePath, note};
use serde::{Deserialize, Serialize};

use crate::Driver;
use crate::pool::VERSION;

/// The kinds of volumes, which are also the names of their directories.
pub const KINDS: [&str; 4] = ["container", "virtual-machine", "image", "custom"];

/// The note beside a volume's tree.
#[derive(Serialize, Deserialize)]
pub struct VolumeNote {
    version: u32,
    /// What the volume was made from: the same call repeated is told from another by it.
    pub origin: String,
    /// Which of the trees is the volume's.
    pub number: u32,
}

impl VolumeNote {
    /// The name of the volume's tree.
    pub fn tree(&self) -> String {
        format!("tree-{}", self.number)
    }
}

/// Where a volume lies and where it is made.
pub struct Places {
    pub home: TreePath,
    pub making: TreePath,
}

/// Checks a volume and says where it lies.
pub fn places(pool: &PoolRef, volume: &VolumeRef, name: &str) -> Result<Places> {
    check_component("volume", name)?;
    if !KINDS.contains(&volume.kind.as_str()) || volume.content != "filesystem" {
        return Err(Error::unsupported(format!(
            "a pool of directories has no place for the {} volume {name:?} of the kind {}",
            volume.content, volume.kind
        )));
    }
    let root = TreePath::root(&pool.root);
    let place = |below: &str| root.join(below).join(&volume.kind).join(name);
    Ok(Places {
        home: place("volumes"),
        making: place("making"),
    })
}

/// The note of the volume at `home`; `None` where there is none.
pub fn read(host: &impl Host, home: &TreePath) -> Result<Option<VolumeNote>> {
    note::read(host, &home.join("volume.json"), VERSION)
}

/// Writes the note of the volume at `home`: the step by which a tree becomes the volume's.
pub fn write(host: &impl Host, home: &TreePath, origin: &str, number: u32) -> Result<()> {
    let made = VolumeNote {
        version: VERSION,
        origin: origin.to_owned(),
        number,
    };
    note::write(host, &home.join("volume.json"), &made)
}

/// The note of a volume that must be there.
pub fn existing(host: &impl Host, places: &Places, volume: &VolumeRef) -> Result<VolumeNote> {
    read(host, &places.home)?.ok_or_else(|| no_such(volume))
}

fn no_such(volume: &VolumeRef) -> Error {
    Error::not_found(format!("there is no {} volume {:?}", volume.kind, volume.name))
}

/// Whether the volume was made from `origin` already. From anything else it may not be made again.
fn is_made(host: &impl Host, places: &Places, volume: &VolumeRef, origin: &str) -> Result<bool> {
    match read(host, &places.home)? {
        None => Ok(false),
        Some(note) if note.origin == origin => Ok(true),
        Some(note) => Err(Error::already_exists(format!(
            "the {} volume {:?} is there already, made from {}",
            volume.kind, volume.name, note.origin
        ))),
    }
}

/// An empty place to make a volume in, without what an interrupted call may have left there.
fn begin(host: &impl Host, places: &Places) -> Result<TreePath> {
    host.fs_discard(&places.making)?;
    host.fs_make_dir(&places.making, 0o700)?;
    Ok(places.making.join("tree-0"))
}

/// Makes what lies in the volume's `making` the volume.
fn publish(host: &impl Host, places: &Places, origin: &str) -> Result<()> {
    write(host, &places.making, origin, 0)?;
    host.fs_rename(&places.making, &places.home)
}

impl Volume for Driver {
    fn create(host: &impl Host, pool: &PoolRef, volume: &VolumeRef) -> Result<()> {
        let places = places(pool, volume, &volume.name)?;
        if is_made(host, &places, volume, "nothing")? {
            return Ok(());
        }
        let tree = begin(host, &places)?;
        host.fs_make_dir(&tree, 0o755)?;
        publish(host, &places, "nothing")
    }

    fn begin_fill(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, _plain: bool) -> Result<TreePath> {
        let places = places(pool, volume, &volume.name)?;
        if read(host, &places.home)?.is_some() {
            return Err(Error::already_exists(format!(
                "the {} volume {:?} is there already",
                volume.kind, volume.name
            )));
        }
        let tree = begin(host, &places)?;
        host.fs_make_dir(&tree, 0o755)?;
        Ok(tree)
    }

    fn end_fill(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, _plain: bool) -> Result<()> {
        let places = places(pool, volume, &volume.name)?;
        if is_made(host, &places, volume, "outside")? {
            return Ok(());
        }
        if host.fs_stat(&places.making.join("tree-0"))?.is_none() {
            return Err(Error::not_found(format!(
                "the {} volume {:?} is not being filled",
                volume.kind, volume.name
            )));
        }
        publish(host, &places, "outside")
    }

    fn create_from_image(
        host: &impl Host,
        pool: &PoolRef,
        image: &VolumeRef,
        volume: &VolumeRef,
        _plain: bool,
    ) -> Result<()> {
        let places = places(pool, volume, &volume.name)?;
        let origin = format!("image {}", image.name);
        if is_made(host, &places, volume, &origin)? {
            return Ok(());
        }
        let source = self::places(pool, image, &image.name)?;
        let content = existing(host, &source, image)?.tree();
        let tree = begin(host, &places)?;
        host.fs_copy_tree(&source.home.join(&content), &tree)?;
        publish(host, &places, &origin)
    }

    fn delete(host: &impl Host, pool: &PoolRef, volume: &VolumeRef) -> Result<()> {
        let places = places(pool, volume, &volume.name)?;
        host.fs_discard(&places.home)?;
        host.fs_discard(&places.making)
    }

    fn rename(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, new_name: &str) -> Result<()> {
        let (from, to) = (places(pool, volume, &volume.name)?, places(pool, volume, new_name)?);
        match (read(host, &from.home)?, read(host, &to.home)?) {
            (None, None) => Err(no_such(volume)),
            // It was renamed by a call whose answer was lost.
            (None, Some(_)) => Ok(()),
            (Some(_), Some(_)) if from.home == to.home => Ok(()),
            (Some(_), Some(_)) => Err(Error::already_exists(format!(
                "there is a {} volume {new_name:?} already",
                volume.kind
            ))),
            (Some(_), None) => host.fs_rename(&from.home, &to.home),
        }
    }

    fn mount(host: &impl Host, pool: &PoolRef, volume: &VolumeRef) -> Result<MountPlan> {
        let places = places(pool, volume, &volume.name)?;
        let tree = existing(host, &places, volume)?.tree();
        Ok(MountPlan::bind(places.home.join(&tree)))
    }

    fn usage(host: &impl Host, pool: &PoolRef, volume: &VolumeRef) -> Result<Option<u64>> {
        let places = places(pool, volume, &volume.name)?;
        existing(host, &places, volume)?;
        host.fs_usage(&places.home)
    }
}

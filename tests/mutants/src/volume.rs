//! Volumes: a note, and the tree that it names.

use hutch_sdk::paths::check_component;
use hutch_sdk::storage::{PoolRef, Quota, Volume, VolumeRef};
use hutch_sdk::{Error, Host, MountPlan, Result, TreePath, note};
use serde::{Deserialize, Serialize};

use crate::Mutant;
use crate::fault::Fault;

/// The kinds of volumes, which are also the names of their directories.
pub(crate) const KINDS: [&str; 4] = ["container", "virtual-machine", "image", "custom"];

/// The version of the note.
const VERSION: u32 = 1;

/// The note beside a volume's trees.
#[derive(Serialize, Deserialize)]
pub(crate) struct Note {
    version: u32,
    /// What the volume was made from.
    pub(crate) origin: String,
    /// Which of the trees is the volume's.
    pub(crate) number: u32,
    /// Its limit, for the tree of a restore.
    pub(crate) limit: Option<u64>,
}

impl Note {
    pub(crate) fn tree(&self) -> String {
        format!("tree-{}", self.number)
    }
}

/// Where a volume lies and where it is made.
pub(crate) struct Places {
    pub(crate) home: TreePath,
    making: TreePath,
}

pub(crate) fn places(pool: &PoolRef, volume: &VolumeRef, name: &str) -> Result<Places> {
    if Fault::of(pool) != Some(Fault::BelievesNames) {
        check_component("volume", name)?;
    }
    if !KINDS.contains(&volume.kind.as_str()) || volume.content != "filesystem" {
        return Err(Error::unsupported(format!(
            "there is no place for a {} volume",
            volume.content
        )));
    }
    let root = TreePath::root(&pool.root);
    let place = |below: &str| root.join(below).join(&volume.kind).join(name);
    Ok(Places {
        home: place("volumes"),
        making: place("making"),
    })
}

pub(crate) fn read(host: &impl Host, home: &TreePath) -> Result<Option<Note>> {
    note::read(host, &home.join("volume.json"), VERSION)
}

pub(crate) fn write(host: &impl Host, home: &TreePath, note: &Note) -> Result<()> {
    note::write(host, &home.join("volume.json"), note)
}

pub(crate) fn existing(host: &impl Host, places: &Places, volume: &VolumeRef) -> Result<Note> {
    read(host, &places.home)?.ok_or_else(|| no_such(volume))
}

fn no_such(volume: &VolumeRef) -> Error {
    Error::not_found(format!("there is no {} volume {:?}", volume.kind, volume.name))
}

fn new(origin: &str) -> Note {
    Note {
        version: VERSION,
        origin: origin.to_owned(),
        number: 0,
        limit: None,
    }
}

fn is_made(host: &impl Host, pool: &PoolRef, places: &Places, volume: &VolumeRef, origin: &str) -> Result<bool> {
    match read(host, &places.home)? {
        Some(note) if note.origin == origin => Ok(true),
        Some(_) if Fault::of(pool) == Some(Fault::CreateReplaces) => {
            host.fs_discard(&places.home)?;
            Ok(false)
        }
        Some(_) => Err(Error::already_exists(format!("{:?} is there already", volume.name))),
        None => Ok(false),
    }
}

/// Makes a volume whose tree `fill` makes, by one step.
fn make<H: Host>(
    host: &H,
    pool: &PoolRef,
    places: &Places,
    origin: &str,
    fill: impl FnOnce(&TreePath) -> Result<()>,
) -> Result<()> {
    if Fault::of(pool) == Some(Fault::CreateInPlace) {
        host.fs_make_dir(&places.home, 0o700)?;
        write(host, &places.home, &new(origin))?;
        return fill(&places.home.join("tree-0"));
    }
    host.fs_discard(&places.making)?;
    host.fs_make_dir(&places.making, 0o700)?;
    fill(&places.making.join("tree-0"))?;
    publish(host, places, origin)
}

fn publish(host: &impl Host, places: &Places, origin: &str) -> Result<()> {
    write(host, &places.making, &new(origin))?;
    host.fs_rename(&places.making, &places.home)
}

impl Volume for Mutant {
    fn create(host: &impl Host, pool: &PoolRef, volume: &VolumeRef) -> Result<()> {
        let places = places(pool, volume, &volume.name)?;
        if is_made(host, pool, &places, volume, "nothing")? {
            return Ok(());
        }
        make(host, pool, &places, "nothing", |tree| host.fs_make_dir(tree, 0o755))
    }

    fn begin_fill(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, _plain: bool) -> Result<TreePath> {
        let (places, fault) = (places(pool, volume, &volume.name)?, Fault::of(pool));
        if read(host, &places.home)?.is_some() {
            return Err(Error::already_exists(format!("{:?} is there already", volume.name)));
        }
        if fault != Some(Fault::FillKeeps) {
            host.fs_discard(&places.making)?;
        }
        host.fs_make_dir(&places.making, 0o700)?;
        let tree = places.making.join("tree-0");
        host.fs_make_dir(&tree, 0o755)?;
        if fault == Some(Fault::FillIsThere) {
            publish(host, &places, "outside")?;
            return Ok(places.home.join("tree-0"));
        }
        Ok(tree)
    }

    fn end_fill(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, _plain: bool) -> Result<()> {
        let places = places(pool, volume, &volume.name)?;
        if is_made(host, pool, &places, volume, "outside")? {
            return Ok(());
        }
        if host.fs_stat(&places.making.join("tree-0"))?.is_none() {
            return Err(Error::not_found(format!("{:?} is not being filled", volume.name)));
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
        let (places, fault) = (places(pool, volume, &volume.name)?, Fault::of(pool));
        let origin = format!("image {}", image.name);
        if is_made(host, pool, &places, volume, &origin)? {
            return Ok(());
        }
        let source = self::places(pool, image, &image.name)?;
        let content = source.home.join(&existing(host, &source, image)?.tree());
        make(host, pool, &places, &origin, |tree| {
            match host.fs_copy_tree(&content, tree) {
                Err(_) if fault == Some(Fault::SwallowsErrors) => host.fs_make_dir(tree, 0o755),
                copied => copied,
            }
        })
    }

    fn delete(host: &impl Host, pool: &PoolRef, volume: &VolumeRef) -> Result<()> {
        let (places, fault) = (places(pool, volume, &volume.name)?, Fault::of(pool));
        if fault == Some(Fault::DeleteOnce) {
            existing(host, &places, volume)?;
        }
        match host.fs_discard(&places.home) {
            Err(error) if fault == Some(Fault::HidesRefusals) => return Err(Error::internal(error.message)),
            discarded => discarded?,
        }
        host.fs_discard(&places.making)
    }

    fn rename(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, new_name: &str) -> Result<()> {
        let (from, to) = (places(pool, volume, &volume.name)?, places(pool, volume, new_name)?);
        match (read(host, &from.home)?, read(host, &to.home)?) {
            (None, None) => return Err(no_such(volume)),
            (None, Some(_)) => return Ok(()),
            (Some(_), Some(_)) if from.home == to.home => return Ok(()),
            (Some(_), Some(_)) if Fault::of(pool) == Some(Fault::RenameReplaces) => host.fs_discard(&to.home)?,
            (Some(_), Some(_)) => return Err(Error::already_exists(format!("there is a volume {new_name:?}"))),
            (Some(_), None) => {}
        }
        if Fault::of(pool) == Some(Fault::RenameLosesSnapshots) {
            host.fs_discard(&from.home.join("snapshots"))?;
        }
        host.fs_rename(&from.home, &to.home)
    }

    fn mount(host: &impl Host, pool: &PoolRef, volume: &VolumeRef) -> Result<MountPlan> {
        let (places, fault) = (places(pool, volume, &volume.name)?, Fault::of(pool));
        let mut note = existing(host, &places, volume)?;
        if fault == Some(Fault::MountMoves) {
            let from = places.home.join(&note.tree());
            note.number += 1;
            host.fs_rename(&from, &places.home.join(&note.tree()))?;
            write(host, &places.home, &note)?;
        }
        if fault == Some(Fault::SharesImage)
            && let Some(image) = note.origin.strip_prefix("image ")
        {
            let image = TreePath::root(&pool.root).join("volumes/image").join(image);
            return Ok(MountPlan::bind(image.join("tree-0")));
        }
        Ok(MountPlan::bind(places.home.join(&note.tree())))
    }

    fn usage(host: &impl Host, pool: &PoolRef, volume: &VolumeRef) -> Result<Option<u64>> {
        let places = places(pool, volume, &volume.name)?;
        host.fs_usage(&places.home.join(&existing(host, &places, volume)?.tree()))
    }
}

impl Quota for Mutant {
    fn set(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, bytes: Option<u64>) -> Result<()> {
        let places = places(pool, volume, &volume.name)?;
        let mut note = existing(host, &places, volume)?;
        if Fault::of(pool) == Some(Fault::QuotaIgnored) || (bytes.is_none() && note.limit.is_none()) {
            return Ok(());
        }
        host.fs_set_quota(&places.home.join(&note.tree()), bytes)?;
        note.limit = bytes;
        write(host, &places.home, &note)
    }
}

//! Volumes, copies of them, and their way home.

use hutch_sdk::storage::{Clone, CopySource, PoolRef, Release, Volume, VolumeRef};
use hutch_sdk::{Error, Host, MountPlan, Result, TreePath};

use crate::Rsync;
use crate::note::{Places, VolumeNote, existing, no_such, read, write};
use crate::snapshot::number_of;
use crate::tree::{Home, name};

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

/// An empty place to make a volume in, without what an interrupted call may have left there; and where its tree is to be.
fn begin(host: &impl Host, places: &Places) -> Result<TreePath> {
    host.fs_discard(&places.making)?;
    host.fs_make_dir(&places.making, 0o700)?;
    Ok(places.making.join(&name(0)))
}

/// Makes what lies in the volume's `making` the volume.
fn publish(host: &impl Host, places: &Places, origin: &str) -> Result<()> {
    write(host, &places.making, &VolumeNote::new(host, origin))?;
    host.fs_rename(&places.making, &places.home)
}

impl Volume for Rsync {
    fn create(host: &impl Host, pool: &PoolRef, volume: &VolumeRef) -> Result<()> {
        let places = Places::of(pool, volume)?;
        if is_made(host, &places, volume, "nothing")? {
            return Ok(());
        }
        let tree = begin(host, &places)?;
        host.fs_make_dir(&tree, 0o755)?;
        publish(host, &places, "nothing")
    }

    fn begin_fill(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, _plain: bool) -> Result<TreePath> {
        let places = Places::of(pool, volume)?;
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
        let places = Places::of(pool, volume)?;
        if is_made(host, &places, volume, "outside")? {
            return Ok(());
        }
        if host.fs_stat(&places.making.join(&name(0)))?.is_none() {
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
        let places = Places::of(pool, volume)?;
        let origin = format!("image {}", image.name);
        if is_made(host, &places, volume, &origin)? {
            return Ok(());
        }
        let source = Places::of(pool, image)?;
        let note = existing(host, &source, image)?;
        let tree = begin(host, &places)?;
        let content = Home::of(pool, image, source.home, note)?.bring(host)?;
        host.fs_copy_tree(&content, &tree)?;
        publish(host, &places, &origin)
    }

    fn delete(host: &impl Host, pool: &PoolRef, volume: &VolumeRef) -> Result<()> {
        let places = Places::of(pool, volume)?;
        // There first: while the note is here, it can be found.
        if let Some(note) = read(host, &places.home)?.filter(|note| note.sent) {
            let home = Home::of(pool, volume, places.home.clone(), note)?;
            home.remote
                .remove(host, &home.here, std::slice::from_ref(&home.note.id))?;
        }
        host.fs_discard(&places.home)?;
        host.fs_discard(&places.making)
    }

    fn rename(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, new_name: &str) -> Result<()> {
        let (from, to) = (Places::of(pool, volume)?, Places::named(pool, volume, new_name)?);
        let note = match (read(host, &from.home)?, read(host, &to.home)?) {
            (None, None) => return Err(no_such(volume)),
            (Some(_), Some(_)) if from.home == to.home => return Ok(()),
            (Some(_), Some(_)) => {
                return Err(Error::already_exists(format!(
                    "there is a {} volume {new_name:?} already",
                    volume.kind
                )));
            }
            // It was renamed by a call whose answer was lost, or that could not tell the other machine.
            (None, Some(note)) => note,
            (Some(mut note), None) => {
                note.told = false;
                write(host, &from.home, &note)?;
                host.fs_rename(&from.home, &to.home)?;
                note
            }
        };
        let mut home = Home::of(pool, volume, to.home, note)?;
        home.name = new_name;
        home.tell(host)
    }

    fn mount(host: &impl Host, pool: &PoolRef, volume: &VolumeRef) -> Result<MountPlan> {
        let places = Places::of(pool, volume)?;
        let note = existing(host, &places, volume)?;
        let tree = Home::of(pool, volume, places.home, note)?.bring(host)?;
        Ok(MountPlan::bind(tree))
    }

    fn usage(host: &impl Host, pool: &PoolRef, volume: &VolumeRef) -> Result<Option<u64>> {
        let places = Places::of(pool, volume)?;
        // Of what is away only a walk could tell.
        match existing(host, &places, volume)?.tree {
            Some(tree) => host.fs_usage(&places.home.join(&name(tree))),
            None => Ok(None),
        }
    }
}

impl Clone for Rsync {
    fn copy(host: &impl Host, pool: &PoolRef, source: CopySource<'_>, target: &VolumeRef, _plain: bool) -> Result<()> {
        let places = Places::of(pool, target)?;
        let (kind, from) = (&source.volume.kind, &source.volume.name);
        let origin = match source.snapshot {
            None => format!("{kind} {from}"),
            Some(snapshot) => format!("{kind} {from}/{snapshot}"),
        };
        if is_made(host, &places, target, &origin)? {
            return Ok(());
        }
        let source_places = Places::of(pool, source.volume)?;
        let note = existing(host, &source_places, source.volume)?;
        let number = match source.snapshot {
            None => note.home,
            Some(snapshot) => number_of(&note, source.volume, snapshot)?,
        };
        let tree = begin(host, &places)?;
        match note.tree {
            Some(local) if source.snapshot.is_none() => {
                host.fs_copy_tree(&source_places.home.join(&name(local)), &tree)?;
            }
            // What is away comes to where it is wanted, and not to the source.
            _ => {
                host.fs_make_dir(&tree, 0o700)?;
                let id = note.id.clone();
                let home = Home::of(pool, source.volume, source_places.home, note)?;
                home.remote.fetch(host, &id, number, &tree)?;
            }
        }
        publish(host, &places, &origin)
    }
}

impl Release for Rsync {
    fn volume(host: &impl Host, pool: &PoolRef, volume: &VolumeRef) -> Result<()> {
        let places = Places::of(pool, volume)?;
        let note = existing(host, &places, volume)?;
        if volume.kind == "image" {
            return Ok(());
        }
        let mut home = Home::of(pool, volume, places.home, note)?;
        if let Some(tree) = home.note.tree {
            home.note.home = home.send(host)?;
            home.note.tree = None;
            home.note.told = false;
            home.write(host)?;
            host.fs_discard(&home.here.join(&name(tree)))?;
        }
        host.fs_discard(&home.here.join("shown"))?;
        home.tell(host)
    }
}

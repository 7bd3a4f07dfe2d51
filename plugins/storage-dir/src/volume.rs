//! Volumes, copies of them, and limits of their size.

use hutch_sdk::storage::{Clone, CopySource, PoolRef, Quota, Volume, VolumeRef};
use hutch_sdk::{Error, Host, MountPlan, Result, TreePath};

use crate::Dir;
use crate::layout::{Places, VolumeNote, read_volume, write_volume};

/// The tree that a restore has made and not yet put in place.
pub(crate) const RESTORED: &str = "rootfs.restored";
/// The tree that a restore has taken away and not yet discarded.
pub(crate) const REPLACED: &str = "rootfs.replaced";

fn no_such(volume: &VolumeRef) -> Error {
    Error::not_found(format!("there is no {} volume {:?}", volume.kind, volume.name))
}

/// The volume's note.
pub(crate) fn existing(host: &impl Host, places: &Places, volume: &VolumeRef) -> Result<VolumeNote> {
    read_volume(host, &places.home)?.ok_or_else(|| no_such(volume))
}

/// Whether the volume is there already, made from `origin`.
fn is_made(host: &impl Host, places: &Places, volume: &VolumeRef, origin: &str) -> Result<bool> {
    match read_volume(host, &places.home)? {
        None => Ok(false),
        Some(note) if note.origin == origin => Ok(true),
        Some(note) => {
            let (kind, name) = (&volume.kind, &volume.name);
            Err(Error::already_exists(format!(
                "the {kind} volume {name:?} is there already, made from {}",
                note.origin
            )))
        }
    }
}

/// Makes what lies in the volume's staging place the volume.
fn publish(host: &impl Host, places: &Places, origin: &str) -> Result<()> {
    write_volume(host, &places.staging, &VolumeNote::new(origin))?;
    host.fs_rename(&places.staging, &places.home)
}

/// Makes a volume from a copy of `tree`.
fn make_from(host: &impl Host, places: &Places, tree: &TreePath, origin: &str) -> Result<()> {
    host.fs_discard(&places.staging)?;
    host.fs_make_dir(&places.staging, 0o700)?;
    host.fs_copy_tree(tree, &places.staging.join("rootfs"))?;
    publish(host, places, origin)
}

/// Finishes or takes back a restore that was interrupted: whichever tree is whole takes the volume's place.
pub(crate) fn settle(host: &impl Host, home: &TreePath) -> Result<()> {
    let there = |name: &str| Ok::<_, Error>(host.fs_stat(&home.join(name))?.is_some());
    if there("rootfs")? {
        if there(REPLACED)? {
            host.fs_discard(&home.join(REPLACED))?;
        }
        if there(RESTORED)? {
            host.fs_discard(&home.join(RESTORED))?;
        }
    } else if there(RESTORED)? {
        host.fs_rename(&home.join(RESTORED), &home.join("rootfs"))?;
        host.fs_discard(&home.join(REPLACED))?;
    }
    Ok(())
}

impl Volume for Dir {
    fn create(host: &impl Host, pool: &PoolRef, volume: &VolumeRef) -> Result<()> {
        let places = Places::of(pool, volume)?;
        if is_made(host, &places, volume, "nothing")? {
            return Ok(());
        }
        host.fs_discard(&places.staging)?;
        host.fs_make_dir(&places.staging, 0o700)?;
        host.fs_make_dir(&places.staging.join("rootfs"), 0o755)?;
        publish(host, &places, "nothing")
    }

    fn begin_fill(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, _plain: bool) -> Result<TreePath> {
        let places = Places::of(pool, volume)?;
        if read_volume(host, &places.home)?.is_some() {
            return Err(Error::already_exists(format!(
                "the {} volume {:?} is there already",
                volume.kind, volume.name
            )));
        }
        host.fs_discard(&places.staging)?;
        host.fs_make_dir(&places.staging, 0o700)?;
        let tree = places.staging.join("rootfs");
        host.fs_make_dir(&tree, 0o755)?;
        Ok(tree)
    }

    fn end_fill(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, _plain: bool) -> Result<()> {
        let places = Places::of(pool, volume)?;
        if is_made(host, &places, volume, "outside")? {
            return Ok(());
        }
        if host.fs_stat(&places.staging.join("rootfs"))?.is_none() {
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
        let origin = format!("{} {}", image.kind, image.name);
        if is_made(host, &places, volume, &origin)? {
            return Ok(());
        }
        let source = Places::of(pool, image)?;
        existing(host, &source, image)?;
        make_from(host, &places, &source.tree(), &origin)
    }

    fn delete(host: &impl Host, pool: &PoolRef, volume: &VolumeRef) -> Result<()> {
        let places = Places::of(pool, volume)?;
        host.fs_discard(&places.home)?;
        host.fs_discard(&places.snapshots)?;
        host.fs_discard(&places.staging)
    }

    fn rename(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, new_name: &str) -> Result<()> {
        let (from, to) = (Places::of(pool, volume)?, Places::named(pool, volume, new_name)?);
        if from.home == to.home {
            return existing(host, &from, volume).map(|_| ());
        }
        let there = |at: &TreePath| Ok::<_, Error>(host.fs_stat(at)?.is_some());
        match (there(&from.home)?, there(&to.home)?) {
            (false, false) => return Err(no_such(volume)),
            (true, true) => {
                return Err(Error::already_exists(format!(
                    "there is a {} volume {new_name:?} already",
                    volume.kind
                )));
            }
            _ => {}
        }
        // The snapshots go first, so that the volume under its new name means that all is done.
        if there(&from.snapshots)? {
            host.fs_rename(&from.snapshots, &to.snapshots)?;
        }
        host.fs_rename(&from.home, &to.home)
    }

    fn mount(host: &impl Host, pool: &PoolRef, volume: &VolumeRef) -> Result<MountPlan> {
        let places = Places::of(pool, volume)?;
        match host.fs_stat(&places.tree())? {
            Some(_) => Ok(MountPlan::bind(places.tree())),
            None => Err(no_such(volume)),
        }
    }

    fn usage(host: &impl Host, pool: &PoolRef, volume: &VolumeRef) -> Result<Option<u64>> {
        host.fs_usage(&Places::of(pool, volume)?.tree())
    }
}

/// The tree of what is copied.
pub(crate) fn source_tree(pool: &PoolRef, source: CopySource<'_>) -> Result<TreePath> {
    let from = Places::of(pool, source.volume)?;
    match source.snapshot {
        None => Ok(from.tree()),
        Some(snapshot) => Ok(from.snapshot(snapshot)?.join("rootfs")),
    }
}

impl Clone for Dir {
    fn copy(host: &impl Host, pool: &PoolRef, source: CopySource<'_>, target: &VolumeRef, _plain: bool) -> Result<()> {
        let places = Places::of(pool, target)?;
        let (kind, name) = (&source.volume.kind, &source.volume.name);
        let origin = match source.snapshot {
            None => format!("{kind} {name}"),
            Some(snapshot) => format!("{kind} {name}/{snapshot}"),
        };
        if is_made(host, &places, target, &origin)? {
            return Ok(());
        }
        existing(host, &Places::of(pool, source.volume)?, source.volume)?;
        make_from(host, &places, &source_tree(pool, source)?, &origin)
    }
}

impl Quota for Dir {
    fn set(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, bytes: Option<u64>) -> Result<()> {
        let places = Places::of(pool, volume)?;
        let mut note = existing(host, &places, volume)?;
        if bytes.is_none() && note.quota.is_none() {
            return Ok(());
        }
        // Noted for a restore, whose new tree needs the limit again.
        note.quota = bytes;
        host.fs_set_quota(&places.tree(), bytes)?;
        write_volume(host, &places.home, &note)
    }
}

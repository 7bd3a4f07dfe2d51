//! Volumes, and limits of their size.

use hutch_sdk::paths::list_all;
use hutch_sdk::storage::{PoolRef, Quota, Volume, VolumeRef};
use hutch_sdk::{Error, Host, MountPlan, Result, TreePath, note};

use crate::Overlay;
use crate::layers::{copy_stack, make_tree, make_upper, reference, reference_all, release_all, root_mode};
use crate::layout::{Filling, Layout, VERSION, check, check_name, no_such};
use crate::record::{Form, Id, Record};

/// The form of a new volume. Only containers are layered: a custom volume may be mounted several times at once, which an
/// overlay's writable layer must not be, and a virtual machine's holds a few small files.
pub(crate) fn form_of(volume: &VolumeRef, plain: bool) -> Form {
    match volume.kind.as_str() {
        "image" => Form::Image,
        "container" if !plain => Form::Layered,
        _ => Form::Plain,
    }
}

/// Whether the volume is there already, made from `origin`.
pub(crate) fn is_made(host: &impl Host, layout: &Layout, volume: &VolumeRef, origin: &str) -> Result<bool> {
    match layout.read(host, volume)? {
        None => Ok(false),
        Some(record) if record.origin == origin => Ok(true),
        Some(record) => {
            let (kind, name) = (&volume.kind, &volume.name);
            Err(Error::already_exists(format!(
                "the {kind} volume {name:?} is there already, made from {}",
                record.origin
            )))
        }
    }
}

/// Discards what the host has filled of a volume that is not finished.
pub(crate) fn drop_filling(host: &impl Host, layout: &Layout, at: &TreePath) -> Result<bool> {
    let Some(filling) = note::read::<Filling>(host, at, VERSION)? else {
        return Ok(false);
    };
    host.fs_discard(&layout.layer(&filling.layer))?;
    host.fs_discard(at)?;
    Ok(true)
}

/// Collects everything of a volume whose record lies at `at`, out of the way, and that record at last.
pub(crate) fn finish_removal(host: &impl Host, layout: &Layout, at: &TreePath, record: &Record) -> Result<()> {
    for tree in record.tree.iter().chain(record.filling.values()) {
        host.fs_discard(&layout.layer(tree))?;
    }
    let frozen: Vec<Id> = record.layers.keys().cloned().collect();
    release_all(host, layout, &record.uid, &frozen)?;
    host.fs_discard(at)
}

/// Finishes deletions of earlier volumes of this name that were interrupted.
fn finish_removals(host: &impl Host, layout: &Layout, volume: &VolumeRef) -> Result<()> {
    let dir = layout.kind("removed", &volume.kind);
    for entry in list_all(host, &dir)? {
        let name = entry
            .name
            .strip_suffix(".json")
            .and_then(|stem| stem.rsplit_once('.'))
            .map(|(name, _)| name);
        if name == Some(&volume.name) {
            let at = dir.join(&entry.name);
            if let Some(record) = note::read(host, &at, VERSION)? {
                finish_removal(host, layout, &at, &record)?;
            }
        }
    }
    Ok(())
}

impl Volume for Overlay {
    fn create(host: &impl Host, pool: &PoolRef, volume: &VolumeRef) -> Result<()> {
        check(volume)?;
        let layout = Layout::of(pool);
        if is_made(host, &layout, volume, "nothing")? {
            return Ok(());
        }
        if volume.kind == "image" {
            return Err(Error::invalid(format!(
                "the image volume {:?} can't be made from nothing",
                volume.name
            )));
        }
        // An overlay needs something to lie on.
        let mut record = Record::new(Id::new(host), "nothing", Form::Plain);
        record.tree = Some(make_tree(host, &layout, record.mode)?);
        layout.write(host, volume, &record)
    }

    fn begin_fill(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, _plain: bool) -> Result<TreePath> {
        check(volume)?;
        let layout = Layout::of(pool);
        if layout.read(host, volume)?.is_some() {
            return Err(Error::already_exists(format!(
                "the {} volume {:?} is there already",
                volume.kind, volume.name
            )));
        }
        drop_filling(host, &layout, &layout.filling(volume))?;
        let filling = Filling::new(Id::new(host), Id::new(host));
        note::write(host, &layout.filling(volume), &filling)?;
        host.fs_make_dir(&layout.tree(&filling.layer), 0o755)?;
        Ok(layout.tree(&filling.layer))
    }

    fn end_fill(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, plain: bool) -> Result<()> {
        check(volume)?;
        let layout = Layout::of(pool);
        if is_made(host, &layout, volume, "outside")? {
            return host.fs_discard(&layout.filling(volume));
        }
        let filling: Option<Filling> = note::read(host, &layout.filling(volume), VERSION)?;
        let missing = || {
            Error::not_found(format!(
                "the {} volume {:?} is not being filled",
                volume.kind, volume.name
            ))
        };
        let Filling { uid, layer, .. } = filling.ok_or_else(missing)?;
        let mut record = Record::new(uid, "outside", form_of(volume, plain));
        record.mode = root_mode(host, &layout, &layer)?;
        if record.form == Form::Plain {
            record.tree = Some(layer);
        } else {
            reference(host, &layout, &record.uid, &layer)?;
            record.adopt(&[layer]);
            if record.form == Form::Layered {
                record.tree = Some(make_upper(host, &layout, record.mode, None)?);
            }
        }
        layout.write(host, volume, &record)?;
        host.fs_discard(&layout.filling(volume))
    }

    fn create_from_image(
        host: &impl Host,
        pool: &PoolRef,
        image: &VolumeRef,
        volume: &VolumeRef,
        plain: bool,
    ) -> Result<()> {
        check(image)?;
        check(volume)?;
        let layout = Layout::of(pool);
        let origin = format!("{} {}", image.kind, image.name);
        if is_made(host, &layout, volume, &origin)? {
            return Ok(());
        }
        let source = layout.existing(host, image)?;
        if source.form != Form::Image {
            return Err(Error::invalid(format!(
                "the {} volume {:?} is not an image",
                image.kind, image.name
            )));
        }
        let chain = source.own_chain()?;
        let mut record = Record::new(Id::new(host), origin, form_of(volume, plain));
        record.mode = source.mode;
        if record.form == Form::Plain {
            record.tree = Some(copy_stack(host, &layout, &chain, None)?);
        } else {
            reference_all(host, &layout, &record.uid, &chain)?;
            record.adopt(&chain);
        }
        if record.form == Form::Layered {
            record.tree = Some(make_upper(host, &layout, record.mode, None)?);
        }
        layout.write(host, volume, &record)
    }

    fn delete(host: &impl Host, pool: &PoolRef, volume: &VolumeRef) -> Result<()> {
        check(volume)?;
        let layout = Layout::of(pool);
        let Some(record) = layout.read(host, volume)? else {
            drop_filling(host, &layout, &layout.filling(volume))?;
            return finish_removals(host, &layout, volume);
        };
        let removed = layout.removed(volume, &record.uid);
        host.fs_rename(&layout.record(volume), &removed)?;
        finish_removal(host, &layout, &removed, &record)
    }

    fn rename(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, new_name: &str) -> Result<()> {
        check(volume)?;
        check_name("volume", new_name)?;
        let layout = Layout::of(pool);
        if new_name == volume.name {
            return layout.existing(host, volume).map(|_| ());
        }
        let target = VolumeRef {
            name: new_name.to_owned(),
            ..volume.clone()
        };
        host.fs_rename(&layout.record(volume), &layout.record(&target))
            .map_err(|error| match error.code.as_str() {
                "not-found" => no_such(volume),
                "already-exists" => {
                    Error::already_exists(format!("there is a {} volume {new_name:?} already", volume.kind))
                }
                _ => error,
            })
    }

    fn mount(host: &impl Host, pool: &PoolRef, volume: &VolumeRef) -> Result<MountPlan> {
        check(volume)?;
        let layout = Layout::of(pool);
        let mut record = layout.existing(host, volume)?;
        if record.clean {
            // From now on something may be written.
            record.clean = false;
            layout.write(host, volume, &record)?;
        }
        let chain = layout.trees(&record.own_chain()?);
        Ok(match (&record.tree, record.form) {
            (Some(upper), Form::Layered) => {
                MountPlan::overlay(chain, layout.tree(upper), layout.layer(upper).join("work"))
            }
            (Some(tree), _) => MountPlan::bind(layout.tree(tree)),
            (None, _) => read_only(chain),
        })
    }

    fn usage(host: &impl Host, pool: &PoolRef, volume: &VolumeRef) -> Result<Option<u64>> {
        check(volume)?;
        let layout = Layout::of(pool);
        let record = layout.existing(host, volume)?;
        match record.tree.as_ref().or(record.top.as_ref()) {
            Some(layer) => host.fs_usage(&layout.layer(layer)),
            None => Ok(Some(0)),
        }
    }
}

/// How frozen layers are made to appear.
pub(crate) fn read_only(mut chain: Vec<TreePath>) -> MountPlan {
    match chain.len() {
        1 => MountPlan::bind(chain.remove(0)),
        _ => MountPlan::overlay_read_only(chain),
    }
}

impl Quota for Overlay {
    fn set(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, bytes: Option<u64>) -> Result<()> {
        check(volume)?;
        let layout = Layout::of(pool);
        let mut record = layout.existing(host, volume)?;
        let Some(tree) = &record.tree else {
            return Err(Error::unsupported(format!(
                "the image volume {:?} is read-only and takes no limit",
                volume.name
            )));
        };
        if bytes.is_none() && record.quota.is_none() {
            return Ok(());
        }
        host.fs_set_quota(&layout.layer(tree), bytes)?;
        if record.quota == bytes {
            return Ok(());
        }
        // Noted for the writable layers that come after this one.
        record.quota = bytes;
        layout.write(host, volume, &record)
    }
}

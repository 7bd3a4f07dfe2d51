//! Snapshots.

use hutch_sdk::storage::{PoolRef, Snapshot, VolumeRef};
use hutch_sdk::{Error, Host, MountPlan, Result};

use crate::Overlay;
use crate::layers::{copy_stack, make_upper, reference, release_all, root_mode};
use crate::layout::{Layout, check, check_name};
use crate::record::{Form, Id, MAX_LAYERS, Record, SnapshotRecord};
use crate::volume::read_only;

/// Makes what a layered volume that is not mounted shows its uppermost frozen layer, with a new, empty one to write to. The
/// record is changed and not yet written. Answers with the layer that the record no longer names, if there is one: it is
/// discarded once the record is written.
pub(crate) fn freeze(host: &impl Host, layout: &Layout, record: &mut Record) -> Result<Option<Id>> {
    let Some(tree) = record.tree.clone().filter(|_| !record.clean) else {
        return Ok(None);
    };
    let stack = record.stack()?;
    let mode = root_mode(host, layout, &tree)?;
    let merged = stack.len() > MAX_LAYERS;
    let (frozen, below) = match merged {
        true => (copy_stack(host, layout, &stack, None)?, None),
        false => (tree.clone(), record.top.clone()),
    };
    reference(host, layout, &record.uid, &frozen)?;
    let upper = make_upper(host, layout, mode, record.quota)?;
    record.layers.insert(frozen.clone(), below);
    record.top = Some(frozen);
    record.mode = mode;
    record.tree = Some(upper);
    record.clean = true;
    Ok(merged.then_some(tree))
}

/// Copies what a mounted volume, whose writers are stopped, shows into a frozen layer, over the volume's own where that is
/// possible.
fn freeze_copy(host: &impl Host, layout: &Layout, record: &mut Record, tree: &Id) -> Result<SnapshotRecord> {
    let mode = root_mode(host, layout, tree)?;
    let stack = record.stack()?;
    let shares = record.form == Form::Layered && stack.len() <= MAX_LAYERS;
    let copied = if shares { std::slice::from_ref(tree) } else { &stack };
    let top = copy_stack(host, layout, copied, None)?;
    reference(host, layout, &record.uid, &top)?;
    record
        .layers
        .insert(top.clone(), if shares { record.top.clone() } else { None });
    Ok(SnapshotRecord { top, mode })
}

/// Makes a volume that is not mounted what a snapshot of it is. The record is changed and not yet written. Answers with the layer
/// that it no longer names.
pub(crate) fn put_back(
    host: &impl Host,
    layout: &Layout,
    record: &mut Record,
    snapshot: SnapshotRecord,
) -> Result<Option<Id>> {
    let old = record.tree.take();
    if record.form == Form::Plain {
        let stack = record.chain(&snapshot.top)?;
        record.tree = Some(copy_stack(host, layout, &stack, record.quota)?);
    } else {
        record.tree = Some(make_upper(host, layout, snapshot.mode, record.quota)?);
        record.top = Some(snapshot.top);
        record.mode = snapshot.mode;
        record.clean = true;
    }
    Ok(old)
}

/// Writes the record and gives up what it no longer names.
pub(crate) fn commit(
    host: &impl Host,
    layout: &Layout,
    volume: &VolumeRef,
    record: &mut Record,
    discard: Option<Id>,
) -> Result<()> {
    let dropped = record.prune()?;
    layout.write(host, volume, record)?;
    if let Some(layer) = discard {
        host.fs_discard(&layout.layer(&layer))?;
    }
    release_all(host, layout, &record.uid, &dropped)
}

impl Snapshot for Overlay {
    fn create(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, name: &str, live: bool) -> Result<()> {
        check(volume)?;
        check_name("snapshot", name)?;
        let layout = Layout::of(pool);
        let mut record = layout.existing(host, volume)?;
        if record.snapshots.contains_key(name) {
            return Ok(());
        }
        let mut discard = None;
        let snapshot = match (record.tree.clone(), record.form) {
            (Some(tree), form) if form == Form::Plain || live => freeze_copy(host, &layout, &mut record, &tree)?,
            _ => {
                discard = freeze(host, &layout, &mut record)?;
                let top = record
                    .top
                    .clone()
                    .ok_or_else(|| Error::internal("a layered volume has no layer"))?;
                SnapshotRecord { top, mode: record.mode }
            }
        };
        record.snapshots.insert(name.to_owned(), snapshot);
        commit(host, &layout, volume, &mut record, discard)
    }

    fn delete(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, name: &str) -> Result<()> {
        check(volume)?;
        check_name("snapshot", name)?;
        let layout = Layout::of(pool);
        check_name("snapshot", name)?;
        let Some(mut record) = layout.read(host, volume)? else {
            return Ok(());
        };
        let filling = record.filling.remove(name);
        if record.snapshots.remove(name).is_none() && filling.is_none() {
            return Ok(());
        }
        commit(host, &layout, volume, &mut record, filling)
    }

    fn rename(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, name: &str, new_name: &str) -> Result<()> {
        check(volume)?;
        check_name("snapshot", name)?;
        check_name("snapshot", new_name)?;
        let layout = Layout::of(pool);
        let mut record = layout.existing(host, volume)?;
        match (
            record.snapshots.contains_key(name),
            record.snapshots.contains_key(new_name),
        ) {
            (false, true) => Ok(()),
            (true, true) if name == new_name => Ok(()),
            (true, true) => Err(Error::already_exists(format!(
                "the volume {:?} has a snapshot {new_name:?} already",
                volume.name
            ))),
            _ => {
                let snapshot = record.snapshot(&volume.name, name)?.clone();
                record.snapshots.remove(name);
                record.snapshots.insert(new_name.to_owned(), snapshot);
                layout.write(host, volume, &record)
            }
        }
    }

    fn restore(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, name: &str) -> Result<()> {
        check(volume)?;
        check_name("snapshot", name)?;
        let layout = Layout::of(pool);
        let mut record = layout.existing(host, volume)?;
        let snapshot = record.snapshot(&volume.name, name)?.clone();
        let old = put_back(host, &layout, &mut record, snapshot)?;
        commit(host, &layout, volume, &mut record, old)
    }

    fn mount(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, name: &str) -> Result<MountPlan> {
        check(volume)?;
        check_name("snapshot", name)?;
        let layout = Layout::of(pool);
        let record = layout.existing(host, volume)?;
        let chain = record.chain(&record.snapshot(&volume.name, name)?.top)?;
        Ok(read_only(layout.trees(&chain)))
    }
}

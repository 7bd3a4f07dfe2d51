//! Snapshots whose content comes from elsewhere, and volumes that become them.

use hutch_sdk::storage::{CopySource, PoolRef, Replica, VolumeRef};
use hutch_sdk::{Error, Host, Result, TreePath};

use crate::Overlay;
use crate::copy::Content;
use crate::layers::{make_tree, reference, root_mode};
use crate::layout::{Layout, check, check_name};
use crate::snapshot::{commit, put_back};

impl Replica for Overlay {
    fn copy(host: &impl Host, pool: &PoolRef, source: CopySource<'_>, volume: &VolumeRef, name: &str) -> Result<()> {
        check(source.volume)?;
        check(volume)?;
        check_name("snapshot", name)?;
        let layout = Layout::of(pool);
        let mut record = layout.existing(host, volume)?;
        if record.snapshots.contains_key(name) {
            return Ok(());
        }
        let content = Content::of(host, &layout, source, true)?;
        let chain = content.frozen(host, &layout, &record.uid)?;
        record.adopt_snapshot(name, &chain, content.mode)?;
        commit(host, &layout, volume, &mut record, None)
    }

    fn begin_fill(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, name: &str) -> Result<TreePath> {
        check(volume)?;
        check_name("snapshot", name)?;
        let layout = Layout::of(pool);
        let mut record = layout.existing(host, volume)?;
        if record.snapshots.contains_key(name) {
            return Err(Error::already_exists(format!(
                "the volume {:?} has a snapshot {name:?} already",
                volume.name
            )));
        }
        let layer = make_tree(host, &layout, 0o755)?;
        let tree = layout.tree(&layer);
        let earlier = record.filling.insert(name.to_owned(), layer);
        commit(host, &layout, volume, &mut record, earlier)?;
        Ok(tree)
    }

    fn end_fill(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, name: &str) -> Result<()> {
        check(volume)?;
        let layout = Layout::of(pool);
        let mut record = layout.existing(host, volume)?;
        if record.snapshots.contains_key(name) {
            return Ok(());
        }
        let missing = || {
            Error::not_found(format!(
                "the snapshot {name:?} of the volume {:?} is not being filled",
                volume.name
            ))
        };
        let layer = record.filling.remove(name).ok_or_else(missing)?;
        let mode = root_mode(host, &layout, &layer)?;
        reference(host, &layout, &record.uid, &layer)?;
        record.adopt_snapshot(name, &[layer], mode)?;
        commit(host, &layout, volume, &mut record, None)
    }

    fn promote(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, name: &str) -> Result<()> {
        check(volume)?;
        let layout = Layout::of(pool);
        let mut record = layout.existing(host, volume)?;
        let Some(snapshot) = record.snapshots.remove(name) else {
            return Ok(());
        };
        let old = put_back(host, &layout, &mut record, snapshot)?;
        commit(host, &layout, volume, &mut record, old)
    }
}

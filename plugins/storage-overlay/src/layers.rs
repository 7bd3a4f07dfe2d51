//! Making, sharing and collecting layers.
//!
//! Calls on different volumes run side by side and may share layers, so that one may take up a layer that another is about
//! to collect. Each side announces itself before it looks at the other: who takes a layer up makes its reference and then looks
//! for the mark `dying`; who collects one makes the mark and then looks for references. Whatever the order, at least one of
//! them sees the other and steps back. All of that is directories made and listed, which need not last: `reconcile` derives
//! the references from the records.

use hutch_sdk::paths::list_all;
use hutch_sdk::{Error, Host, Result, TreePath};

use crate::layout::Layout;
use crate::record::Id;

const DYING: &str = "dying";
const REFS: &str = "refs";

/// Takes a frozen layer up for the volume `uid`.
pub(crate) fn reference(host: &impl Host, layout: &Layout, uid: &Id, layer: &Id) -> Result<()> {
    let home = layout.layer(layer);
    host.fs_make_dir(&home.join(REFS).join(uid.as_str()), 0o700)?;
    let entries = list_all(host, &home)?;
    let is_whole = entries.iter().any(|entry| entry.name == "fs");
    if is_whole && !entries.iter().any(|entry| entry.name == DYING) {
        return Ok(());
    }
    // Without its tree, the layer was gone already and the reference has made an empty shell of it.
    host.fs_discard(&if is_whole {
        home.join(REFS).join(uid.as_str())
    } else {
        home
    })?;
    Err(Error::in_use("a layer of the volume's source is being removed").retryable())
}

/// Takes all layers of a chain up.
pub(crate) fn reference_all(host: &impl Host, layout: &Layout, uid: &Id, chain: &[Id]) -> Result<()> {
    chain.iter().try_for_each(|layer| reference(host, layout, uid, layer))
}

/// Gives a frozen layer up, and collects it if nobody else uses it.
pub(crate) fn release(host: &impl Host, layout: &Layout, uid: &Id, layer: &Id) -> Result<()> {
    let home = layout.layer(layer);
    host.fs_discard(&home.join(REFS).join(uid.as_str()))?;
    if !is_unused(host, &home)? {
        return Ok(());
    }
    host.fs_make_dir(&home.join(DYING), 0o700)?;
    match is_unused(host, &home)? {
        true => host.fs_discard(&home),
        false => host.fs_discard(&home.join(DYING)),
    }
}

/// Gives several layers up.
pub(crate) fn release_all(host: &impl Host, layout: &Layout, uid: &Id, layers: &[Id]) -> Result<()> {
    layers.iter().try_for_each(|layer| release(host, layout, uid, layer))
}

fn is_unused(host: &impl Host, home: &TreePath) -> Result<bool> {
    match host.fs_list_dir(&home.join(REFS), None, 1) {
        Ok(refs) => Ok(refs.is_empty()),
        Err(error) if error.is("not-found") => Ok(true),
        Err(error) => Err(error),
    }
}

/// Makes an empty tree.
pub(crate) fn make_tree(host: &impl Host, layout: &Layout, mode: u32) -> Result<Id> {
    let id = Id::new(host);
    host.fs_make_dir(&layout.tree(&id), mode)?;
    Ok(id)
}

/// Makes an empty writable layer with the limit `quota`.
pub(crate) fn make_upper(host: &impl Host, layout: &Layout, mode: u32, quota: Option<u64>) -> Result<Id> {
    let id = make_tree(host, layout, mode)?;
    finish_upper(host, layout, &id, quota)?;
    Ok(id)
}

/// Makes a tree into a writable layer. The limit is one of the directory that holds the tree and the overlay's work directory:
/// files are renamed from one to the other, which project quotas allow within one project alone.
pub(crate) fn finish_upper(host: &impl Host, layout: &Layout, id: &Id, quota: Option<u64>) -> Result<()> {
    let home = layout.layer(id);
    host.fs_make_dir(&home.join("work"), 0o700)?;
    quota.map_or(Ok(()), |bytes| host.fs_set_quota(&home, Some(bytes)))
}

/// Makes a tree of what a stack of layers, uppermost first, shows.
pub(crate) fn copy_stack(host: &impl Host, layout: &Layout, stack: &[Id], quota: Option<u64>) -> Result<Id> {
    let id = Id::new(host);
    let home = layout.layer(&id);
    host.fs_make_dir(&home, 0o700)?;
    if let Some(bytes) = quota {
        host.fs_set_quota(&home, Some(bytes))?;
    }
    match stack {
        [single] => host.fs_copy_tree(&layout.tree(single), &layout.tree(&id))?,
        _ => host.fs_copy_merged(&layout.trees(stack), &layout.tree(&id))?,
    }
    Ok(id)
}

/// The permission bits of a layer's root directory.
pub(crate) fn root_mode(host: &impl Host, layout: &Layout, layer: &Id) -> Result<u32> {
    let info = host.fs_stat(&layout.tree(layer))?;
    let info = info.ok_or_else(|| Error::io(format!("the layer {} is gone", layer.as_str())))?;
    Ok(info.mode & 0o7777)
}

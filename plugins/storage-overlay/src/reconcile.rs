//! Making the pool what the records say, and the records what the core says.

use std::collections::{BTreeMap, BTreeSet};

use hutch_sdk::paths::list_all;
use hutch_sdk::storage::{VolumeRef, VolumeState};
use hutch_sdk::{Host, Result, TreePath};

use crate::layout::{KINDS, Layout};
use crate::record::{Id, Record};

/// Layers that records name: frozen ones with the volumes that use them, and writable ones.
#[derive(Default)]
struct Named {
    frozen: BTreeMap<Id, BTreeSet<String>>,
    writable: BTreeSet<Id>,
}

impl Named {
    fn add(&mut self, record: &Record) {
        for layer in record.layers.keys() {
            self.frozen
                .entry(layer.clone())
                .or_default()
                .insert(record.uid.as_str().to_owned());
        }
        self.writable.extend(record.tree.clone());
    }
}

/// Nothing else may be done in the pool meanwhile. First come the records alone, and a layer is discarded because no record
/// names it, never because of a missing reference, which a lost power supply may have taken. A record that can't be read
/// stops everything before any layer is discarded: nobody knows which ones it names.
pub(crate) fn run(host: &impl Host, layout: &Layout, valid: &[VolumeState]) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    let mut named = Named::default();
    let mut discard: Vec<TreePath> = Vec::new();
    for kind in KINDS {
        for (below, what) in [("filling", "unfinished"), ("removed", "deleted")] {
            let dir = layout.kind(below, kind);
            for entry in list_all(host, &dir)? {
                discard.push(dir.join(&entry.name));
                removed.push(format!("{what} {kind} volume {}", entry.name.trim_end_matches(".json")));
            }
        }
        let dir = layout.kind("volumes", kind);
        for entry in list_all(host, &dir)? {
            let name = entry.name.strip_suffix(".json").unwrap_or(&entry.name);
            let volume = VolumeRef {
                kind: kind.into(),
                name: name.into(),
                content: "filesystem".into(),
                config: Vec::new(),
            };
            match valid.iter().find(|state| state.kind == kind && state.name == name) {
                Some(state) => keep(host, layout, &volume, state, &mut named, &mut removed)?,
                None => {
                    discard.push(dir.join(&entry.name));
                    removed.push(format!("{kind} volume {name}"));
                }
            }
        }
    }
    discard.iter().try_for_each(|note| host.fs_discard(note))?;
    let layers = sweep(host, layout, &named)?;
    if layers > 0 {
        removed.push(format!("{layers} layers that no volume uses"));
    }
    Ok(removed)
}

/// Takes the snapshots that the core doesn't know out of a volume's record.
fn keep(
    host: &impl Host,
    layout: &Layout,
    volume: &VolumeRef,
    state: &VolumeState,
    named: &mut Named,
    removed: &mut Vec<String>,
) -> Result<()> {
    let mut record = layout.existing(host, volume)?;
    let unknown: Vec<String> = record
        .snapshots
        .keys()
        .filter(|name| !state.snapshots.contains(name))
        .cloned()
        .collect();
    for name in &unknown {
        record.snapshots.remove(name);
        removed.push(format!("snapshot {name} of {} volume {}", volume.kind, volume.name));
    }
    let unfinished = std::mem::take(&mut record.filling);
    for name in unfinished.keys() {
        removed.push(format!(
            "unfinished snapshot {name} of {} volume {}",
            volume.kind, volume.name
        ));
    }
    if !unknown.is_empty() || !unfinished.is_empty() {
        record.prune()?;
        layout.write(host, volume, &record)?;
    }
    named.add(&record);
    Ok(())
}

/// Discards layers that no record names, makes the references of the others what the records say, and answers with the
/// number of those discarded.
fn sweep(host: &impl Host, layout: &Layout, named: &Named) -> Result<usize> {
    let mut discarded = 0;
    for entry in list_all(host, &layout.layers())? {
        let home = layout.layers().join(&entry.name);
        let id = Id::try_from(entry.name.clone()).ok();
        let users = id.as_ref().and_then(|id| named.frozen.get(id));
        if let Some(users) = users {
            host.fs_discard(&home.join("dying"))?;
            let refs = home.join("refs");
            let present: BTreeSet<String> = list_all(host, &refs)?.into_iter().map(|entry| entry.name).collect();
            for stale in present.difference(users) {
                host.fs_discard(&refs.join(stale))?;
            }
            for missing in users.difference(&present) {
                host.fs_make_dir(&refs.join(missing), 0o700)?;
            }
        } else if !id.is_some_and(|id| named.writable.contains(&id)) {
            host.fs_discard(&home)?;
            discarded += 1;
        }
    }
    Ok(discarded)
}

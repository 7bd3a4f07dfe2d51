//! Pools.

use crate::bindings::exports::hutch::storage::pool::Guest;
use crate::bindings::hutch::host::types::{Options, TreePath};
use crate::bindings::hutch::host::{fs, log};
use crate::bindings::hutch::storage::types::{PoolRef, PoolSpace, VolumeState};
use crate::place::{KINDS, Place, names, root};
use crate::{Driver, Result, below, refused};

const KEYS: [&str; 2] = ["source", "volatile.initial_source"];
const NOTE: &[u8] = b"1 released";

impl Guest for Driver {
    fn validate(pool: PoolRef, current: Option<Options>) -> Result<Options> {
        let known = |key: &str| KEYS.contains(&key) || key.starts_with("user.");
        if let Some((key, _)) = pool.config.iter().find(|(key, _)| !known(key)) {
            return refused("invalid", format!("invalid option for pool {}: {key:?}", pool.name));
        }
        let fields = [("changed".to_owned(), current.is_some().to_string())];
        log::write(log::Level::Debug, "looked at a pool's configuration", &fields);
        Ok(pool.config)
    }

    fn create(pool: PoolRef) -> Result<()> {
        for directory in ["volumes", "making"] {
            for kind in KINDS {
                fs::make_dir(&below(&root(&pool), &format!("{directory}/{kind}")), 0o700)?;
            }
        }
        fs::write_file(&below(&root(&pool), "pool"), NOTE, 0o600)
    }

    fn open(pool: PoolRef) -> Result<()> {
        match fs::read_file(&below(&root(&pool), "pool"))? {
            Some(note) if note == NOTE => Ok(()),
            Some(_) => refused("invalid", format!("pool {} is another driver's", pool.name)),
            None => refused(
                "not-found",
                format!("there is no pool in the directory of pool {}", pool.name),
            ),
        }
    }

    fn delete(pool: PoolRef) -> Result<()> {
        for name in ["volumes", "making", "pool"] {
            fs::discard(&below(&root(&pool), name))?;
        }
        Ok(())
    }

    fn space(pool: PoolRef) -> Result<PoolSpace> {
        let space = fs::space(&pool.root)?;
        Ok(PoolSpace {
            total_bytes: space.total_bytes,
            used_bytes: space.used_bytes,
            total_inodes: space.total_inodes,
            used_inodes: space.used_inodes,
        })
    }

    fn reconcile(pool: PoolRef, valid: Vec<VolumeState>) -> Result<Vec<String>> {
        let mut removed = Vec::new();
        for kind in KINDS {
            let at = |directory: &str| below(&root(&pool), &format!("{directory}/{kind}"));
            tidy(&at("making"), &mut removed, |_| false)?;
            let stays = |name: &str| valid.iter().any(|volume| volume.kind == kind && volume.name == name);
            tidy(&at("volumes"), &mut removed, stays)?;
        }
        for volume in &valid {
            let home = below(&root(&pool), &format!("volumes/{}/{}", volume.kind, volume.name));
            let place = Place::at(home);
            let Some(note) = place.note()? else { continue };
            // Trees of restores that were interrupted.
            let tree = note.tree();
            tidy(&place.home, &mut removed, |name| {
                !name.starts_with("tree-") || name == tree
            })?;
            tidy(&below(&place.home, "snapshots"), &mut removed, |name| {
                volume.snapshots.iter().any(|snapshot| snapshot == name)
            })?;
        }
        Ok(removed)
    }
}

/// Discards what is in a directory and may not stay, and tells it.
fn tidy(directory: &TreePath, removed: &mut Vec<String>, stays: impl Fn(&str) -> bool) -> Result<()> {
    for name in names(directory)? {
        if !stays(&name) {
            let at = below(directory, &name);
            fs::discard(&at)?;
            removed.push(at.path);
        }
    }
    Ok(())
}

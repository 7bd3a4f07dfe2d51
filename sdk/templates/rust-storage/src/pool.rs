//! Pools.

use hutch_sdk::paths::list_all;
use hutch_sdk::storage::{Pool, PoolRef, PoolSpace, VolumeState};
use hutch_sdk::{Error, Host, Options, Result, TreePath, note};
use serde::{Deserialize, Serialize};

use crate::Driver;
use crate::volume::{KINDS, read};

/// The version of this layout. A pool of a newer one is refused.
pub const VERSION: u32 = 1;

/// The note in a pool's root.
#[derive(Serialize, Deserialize)]
struct PoolNote {
    version: u32,
    driver: String,
}

fn pool_note(pool: &PoolRef) -> TreePath {
    TreePath::root(&pool.root).join("pool.json")
}

impl Pool for Driver {
    fn validate(
        _host: &impl Host,
        pool: &PoolRef,
        _current: Option<&[(String, String)]>,
    ) -> Result<Vec<(String, String)>> {
        let options = Options::new(&pool.config);
        options.check_keys("a pool", &["source", "volatile.initial_source"])?;
        Ok(options.into_pairs())
    }

    fn create(host: &impl Host, pool: &PoolRef) -> Result<()> {
        let root = TreePath::root(&pool.root);
        for kind in KINDS {
            host.fs_make_dir(&root.join("volumes").join(kind), 0o700)?;
            host.fs_make_dir(&root.join("making").join(kind), 0o700)?;
        }
        let made = PoolNote {
            version: VERSION,
            driver: env!("CARGO_PKG_NAME").to_owned(),
        };
        note::write(host, &pool_note(pool), &made)
    }

    fn open(host: &impl Host, pool: &PoolRef) -> Result<()> {
        match note::read::<PoolNote>(host, &pool_note(pool), VERSION)? {
            Some(made) if made.driver == env!("CARGO_PKG_NAME") => Ok(()),
            Some(made) => Err(Error::invalid(format!(
                "pool {} belongs to the driver {:?}",
                pool.name, made.driver
            ))),
            None => Err(Error::not_found(format!(
                "there is no pool in the directory of pool {}",
                pool.name
            ))),
        }
    }

    fn delete(host: &impl Host, pool: &PoolRef) -> Result<()> {
        let root = TreePath::root(&pool.root);
        for place in ["volumes", "making", "pool.json"] {
            host.fs_discard(&root.join(place))?;
        }
        Ok(())
    }

    fn space(host: &impl Host, pool: &PoolRef) -> Result<PoolSpace> {
        let space = host.fs_space(&pool.root)?;
        Ok(PoolSpace {
            total_bytes: space.total_bytes,
            used_bytes: space.used_bytes,
            total_inodes: space.total_inodes,
            used_inodes: space.used_inodes,
        })
    }

    fn reconcile(host: &impl Host, pool: &PoolRef, valid: &[VolumeState]) -> Result<Vec<String>> {
        let root = TreePath::root(&pool.root);
        let mut removed = Vec::new();
        for kind in KINDS {
            let (making, volumes) = (root.join("making").join(kind), root.join("volumes").join(kind));
            remove(host, &making, &mut removed, |_| false)?;
            remove(host, &volumes, &mut removed, |name| {
                valid.iter().any(|volume| volume.kind == kind && volume.name == name)
            })?;
            for volume in valid.iter().filter(|volume| volume.kind == kind) {
                let home = volumes.join(&volume.name);
                let Some(note) = read(host, &home)? else { continue };
                // Trees of restores that were interrupted.
                let current = note.tree();
                remove(host, &home, &mut removed, |name| !name.starts_with("tree-") || name == current)?;
                remove(host, &home.join("snapshots"), &mut removed, |name| {
                    volume.snapshots.iter().any(|snapshot| snapshot == name)
                })?;
            }
        }
        Ok(removed)
    }
}

/// Discards what is in a directory and may not stay, and adds its path to `removed`.
fn remove(
    host: &impl Host,
    directory: &TreePath,
    removed: &mut Vec<String>,
    stays: impl Fn(&str) -> bool,
) -> Result<()> {
    for entry in list_all(host, directory)? {
        if !stays(&entry.name) {
            let at = directory.join(&entry.name);
            host.fs_discard(&at)?;
            removed.push(at.path);
        }
    }
    Ok(())
}

//! Pools: `volumes/KIND/NAME`, `making/KIND/NAME`, `pool.json`.

use hutch_sdk::paths::list_all;
use hutch_sdk::storage::{Pool, PoolRef, PoolSpace, VolumeState};
use hutch_sdk::{Error, Host, Options, Result, TreePath};

use crate::Mutant;
use crate::fault::{Fault, OPTION};
use crate::volume::{KINDS, read};

impl Pool for Mutant {
    fn validate(
        _host: &impl Host,
        pool: &PoolRef,
        _current: Option<&[(String, String)]>,
    ) -> Result<Vec<(String, String)>> {
        let options = Options::new(&pool.config);
        let fault = options.get(OPTION);
        Fault::check(fault)?;
        if fault != Some("accepts-any-key") {
            options.check_keys("a pool", &["source", "volatile.initial_source", OPTION])?;
        }
        Ok(options.into_pairs())
    }

    fn create(host: &impl Host, pool: &PoolRef) -> Result<()> {
        let root = TreePath::root(&pool.root);
        for kind in KINDS {
            host.fs_make_dir(&root.join("volumes").join(kind), 0o700)?;
            host.fs_make_dir(&root.join("making").join(kind), 0o700)?;
        }
        host.fs_write_file(&root.join("pool.json"), b"{}", 0o600)
    }

    fn open(host: &impl Host, pool: &PoolRef) -> Result<()> {
        if Fault::of(pool) == Some(Fault::OpenMakes) {
            return <Self as Pool>::create(host, pool);
        }
        match host.fs_stat(&TreePath::root(&pool.root).join("pool.json"))? {
            Some(_) => Ok(()),
            None => Err(Error::not_found(format!("there is no pool {}", pool.name))),
        }
    }

    fn delete(host: &impl Host, pool: &PoolRef) -> Result<()> {
        let root = TreePath::root(&pool.root);
        if Fault::of(pool) != Some(Fault::PoolDeleteLeaves) {
            host.fs_discard(&root.join("volumes"))?;
        }
        host.fs_discard(&root.join("making"))?;
        host.fs_discard(&root.join("pool.json"))
    }

    fn space(host: &impl Host, pool: &PoolRef) -> Result<PoolSpace> {
        let space = host.fs_space(&pool.root)?;
        let more = u64::from(Fault::of(pool) == Some(Fault::FullerThanFull));
        Ok(PoolSpace {
            total_bytes: space.total_bytes,
            used_bytes: space.used_bytes + more * space.total_bytes,
            total_inodes: space.total_inodes,
            used_inodes: space.used_inodes,
        })
    }

    fn reconcile(host: &impl Host, pool: &PoolRef, valid: &[VolumeState]) -> Result<Vec<String>> {
        let (root, fault) = (TreePath::root(&pool.root), Fault::of(pool));
        let mut removed = Vec::new();
        if fault == Some(Fault::ReconcileKeepsAll) {
            return Ok(removed);
        }
        for kind in KINDS {
            let of_kind = || valid.iter().filter(|volume| volume.kind == kind);
            if fault != Some(Fault::ReconcileLeavesMaking) {
                remove(host, &root.join("making").join(kind), &mut removed, |_| false)?;
            }
            let volumes = root.join("volumes").join(kind);
            remove(host, &volumes, &mut removed, |name| {
                of_kind().any(|volume| volume.name == name)
            })?;
            for volume in of_kind() {
                let home = volumes.join(&volume.name);
                let Some(note) = read(host, &home)? else { continue };
                let current = note.tree();
                remove(host, &home, &mut removed, |name| {
                    !name.starts_with("tree-") || name == current
                })?;
                let keeps = fault != Some(Fault::ReconcileDropsSnapshots);
                remove(host, &home.join("snapshots"), &mut removed, |name| {
                    keeps && volume.snapshots.iter().any(|snapshot| snapshot == name)
                })?;
                if fault == Some(Fault::ReconcileTellsAnothers) {
                    removed.push(home.path);
                }
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

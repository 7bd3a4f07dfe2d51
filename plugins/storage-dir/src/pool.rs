//! Pools.

use hutch_sdk::options::parse_size;
use hutch_sdk::paths::list_all;
use hutch_sdk::storage::{Pool, PoolRef, PoolSpace, VolumeState};
use hutch_sdk::{Error, Host, Options, Result, TreePath};

use crate::layout::{KINDS, STAGING, is_pool, write_pool};
use crate::{Dir, volume};

/// What may lie in the root of a pool that is being made, beside what this driver makes: the host's own, and what `mkfs`
/// leaves.
const FOREIGN: [&str; 2] = [".hutch-trash", "lost+found"];

fn directories() -> impl Iterator<Item = String> {
    let kinds = KINDS
        .iter()
        .flat_map(|(_, dir)| [(*dir).to_owned(), format!("{dir}-snapshots")]);
    kinds.chain([STAGING.to_owned()])
}

impl Pool for Dir {
    fn validate(
        _host: &impl Host,
        pool: &PoolRef,
        _current: Option<&[(String, String)]>,
    ) -> Result<Vec<(String, String)>> {
        let options = Options::new(&pool.config);
        options.check_keys(
            "a pool of directories",
            &["source", "volatile.initial_source", "volume.size"],
        )?;
        if let Some(size) = options.get("volume.size") {
            parse_size(size).map_err(|error| error.context("invalid value for \"volume.size\""))?;
        }
        Ok(options.into_pairs())
    }

    fn create(host: &impl Host, pool: &PoolRef) -> Result<()> {
        let root = TreePath::root(&pool.root);
        if !is_pool(host, pool)? {
            let ours = |name: &str| FOREIGN.contains(&name) || directories().any(|dir| dir == name);
            if let Some(other) = list_all(host, &root)?.into_iter().find(|entry| !ours(&entry.name)) {
                return Err(Error::invalid(format!(
                    "the directory of pool {} is not empty: it holds {:?}",
                    pool.name, other.name
                )));
            }
        }
        for dir in directories() {
            host.fs_make_dir(&root.join(&dir), 0o700)?;
        }
        write_pool(host, pool)
    }

    fn open(host: &impl Host, pool: &PoolRef) -> Result<()> {
        match is_pool(host, pool)? {
            true => Ok(()),
            false => Err(Error::not_found(format!(
                "there is no pool of this driver in the directory of pool {}",
                pool.name
            ))),
        }
    }

    fn delete(host: &impl Host, pool: &PoolRef) -> Result<()> {
        let root = TreePath::root(&pool.root);
        for (_, dir) in KINDS {
            if let Some(volume) = list_all(host, &root.join(dir))?.first() {
                return Err(Error::in_use(format!(
                    "pool {} holds the volume {dir}/{}",
                    pool.name, volume.name
                )));
            }
        }
        for dir in directories() {
            host.fs_discard(&root.join(&dir))?;
        }
        host.fs_discard(&root.join("pool.json"))
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
        for (kind, dir) in KINDS {
            let wanted = |name: &str| valid.iter().find(|volume| volume.kind == kind && volume.name == name);
            drop_all(host, &root.join(STAGING).join(dir), "unfinished", &mut removed, |_| {
                false
            })?;
            drop_all(host, &root.join(dir), "volume", &mut removed, |name| {
                wanted(name).is_some()
            })?;
            let snapshots = root.join(&format!("{dir}-snapshots"));
            drop_all(host, &snapshots, "snapshots of", &mut removed, |name| {
                wanted(name).is_some()
            })?;
            for volume in valid.iter().filter(|volume| volume.kind == kind) {
                volume::settle(host, &root.join(dir).join(&volume.name))?;
                let of_volume = snapshots.join(&volume.name);
                drop_all(host, &of_volume, "snapshot", &mut removed, |name| {
                    volume.snapshots.iter().any(|s| s == name)
                })?;
            }
        }
        Ok(removed)
    }
}

/// Discards the entries of a directory that are not to stay, and adds what it did to `removed`.
fn drop_all(
    host: &impl Host,
    at: &TreePath,
    what: &str,
    removed: &mut Vec<String>,
    stays: impl Fn(&str) -> bool,
) -> Result<()> {
    for entry in list_all(host, at)?.into_iter().filter(|entry| !stays(&entry.name)) {
        let path = at.join(&entry.name);
        host.fs_discard(&path)?;
        removed.push(format!("{what} {}", path.path));
    }
    Ok(())
}

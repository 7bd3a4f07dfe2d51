//! Pools.

use hutch_sdk::options::parse_size;
use hutch_sdk::paths::list_all;
use hutch_sdk::storage::{Pool, PoolRef, PoolSpace, VolumeState};
use hutch_sdk::{Error, Host, Options, Result};

use crate::layout::{DIRECTORIES, KINDS, Layout};
use crate::{Overlay, reconcile};

/// What may lie in the root of a pool that is being made, beside what this driver makes: the host's own, and what `mkfs`
/// leaves.
const FOREIGN: [&str; 2] = [".hutch-trash", "lost+found"];

/// Refuses file systems that overlayfs can't write to, such as another overlay or NFS.
fn check_file_system(host: &impl Host, pool: &PoolRef) -> Result<()> {
    match host
        .fs_features(&pool.root)?
        .iter()
        .any(|feature| feature == "overlay-upper")
    {
        true => Ok(()),
        false => Err(Error::unsupported(format!(
            "the file system of pool {} can't hold the writable layer of an overlay; another directory or driver can",
            pool.name
        ))),
    }
}

impl Pool for Overlay {
    fn validate(
        _host: &impl Host,
        pool: &PoolRef,
        _current: Option<&[(String, String)]>,
    ) -> Result<Vec<(String, String)>> {
        let options = Options::new(&pool.config);
        options.check_keys("an overlay pool", &["source", "volatile.initial_source", "volume.size"])?;
        if let Some(size) = options.get("volume.size") {
            parse_size(size).map_err(|error| error.context("invalid value for \"volume.size\""))?;
        }
        Ok(options.into_pairs())
    }

    fn create(host: &impl Host, pool: &PoolRef) -> Result<()> {
        let layout = Layout::of(pool);
        if !layout.is_pool(host, pool)? {
            let ours = |name: &str| FOREIGN.contains(&name) || DIRECTORIES.contains(&name);
            if let Some(other) = list_all(host, layout.root())?
                .into_iter()
                .find(|entry| !ours(&entry.name))
            {
                return Err(Error::invalid(format!(
                    "the directory of pool {} is not empty: it holds {:?}",
                    pool.name, other.name
                )));
            }
        }
        check_file_system(host, pool)?;
        host.fs_make_dir(&layout.layers(), 0o700)?;
        for below in ["filling", "removed", "volumes"] {
            for kind in KINDS {
                host.fs_make_dir(&layout.kind(below, kind), 0o700)?;
            }
        }
        layout.write_pool(host)
    }

    fn open(host: &impl Host, pool: &PoolRef) -> Result<()> {
        match Layout::of(pool).is_pool(host, pool)? {
            true => check_file_system(host, pool),
            false => Err(Error::not_found(format!(
                "there is no pool of this driver in the directory of pool {}",
                pool.name
            ))),
        }
    }

    fn delete(host: &impl Host, pool: &PoolRef) -> Result<()> {
        let layout = Layout::of(pool);
        for kind in KINDS {
            if let Some(volume) = list_all(host, &layout.kind("volumes", kind))?.first() {
                let name = volume.name.trim_end_matches(".json");
                return Err(Error::in_use(format!(
                    "pool {} holds the {kind} volume {name:?}",
                    pool.name
                )));
            }
        }
        for dir in DIRECTORIES {
            host.fs_discard(&layout.root().join(dir))?;
        }
        host.fs_discard(&layout.root().join("pool.json"))
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
        reconcile::run(host, &Layout::of(pool), valid)
    }
}

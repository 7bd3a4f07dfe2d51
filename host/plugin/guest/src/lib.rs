//! A storage driver of plain trees that misbehaves on request.
//!
//! Its configuration says in which function and how: `fault.volume.mount = "trap"` and the like, with the ways of `faults.rs`
//! and those of the functions themselves, which begin with `answer-`. `validate` also does what the option `fault` says.

use hutch_sdk::host::Level;
use hutch_sdk::storage::{Pool, PoolRef, PoolSpace, Snapshot, Volume, VolumeRef, VolumeState};
use hutch_sdk::{Error, Host, MountPlan, Result, TreePath};

mod faults;

use faults::{Pairs, at, gate, misbehave, option, wanted};

/// The driver.
#[derive(Debug)]
pub struct Faulty;

/// An option that a pool has from its beginning.
const FIXED: &str = "fixed";

hutch_sdk::storage_plugin! { driver: Faulty, exports: [pool, volume, snapshot] }

fn home(volume: &VolumeRef) -> TreePath {
    at(&format!("{}/{}", volume.kind, volume.name))
}

fn tree(volume: &VolumeRef) -> TreePath {
    at(&format!("{}/{}/rootfs", volume.kind, volume.name))
}

/// Snapshots lie side by side, so that there are no directories that somebody has to remove with the last one.
fn kept(volume: &VolumeRef, name: &str) -> TreePath {
    at(&format!("snapshots/{} {} {name}", volume.kind, volume.name))
}

/// A copy of `from`, made anew.
fn copied(host: &impl Host, from: &TreePath, to: &TreePath, parent: &TreePath) -> Result<()> {
    host.fs_discard(to)?;
    host.fs_make_dir(parent, 0o700)?;
    host.fs_copy_tree(from, to)
}

impl Pool for Faulty {
    fn validate(host: &impl Host, pool: &PoolRef, current: Option<&[(String, String)]>) -> Result<Pairs> {
        let config = &pool.config;
        if current.is_some_and(|current| option(current, FIXED) != option(config, FIXED)) {
            return Err(Error::invalid(format!(
                "the option {FIXED:?} of pool {} can't be changed",
                pool.name
            )));
        }
        host.log(
            Level::Info,
            "asked to validate",
            &[("options".to_owned(), config.len().to_string())],
        );
        match option(config, "fault") {
            "" => Ok(config.to_vec()),
            fault => misbehave(host, fault),
        }
    }

    fn create(host: &impl Host, pool: &PoolRef) -> Result<()> {
        gate(host, &pool.config, "pool.create")?;
        // What is thrown away goes through a directory of the host's, which is there from now on.
        host.fs_make_dir(&at("container/first"), 0o700)?;
        host.fs_discard(&at("container"))?;
        ["container", "image", "snapshots"]
            .into_iter()
            .try_for_each(|name| host.fs_make_dir(&at(name), 0o700))
    }

    fn open(host: &impl Host, pool: &PoolRef) -> Result<()> {
        gate(host, &pool.config, "pool.open")
    }

    fn delete(host: &impl Host, pool: &PoolRef) -> Result<()> {
        gate(host, &pool.config, "pool.delete")?;
        ["container", "image", "snapshots"]
            .into_iter()
            .try_for_each(|name| host.fs_discard(&at(name)))
    }

    fn space(host: &impl Host, pool: &PoolRef) -> Result<PoolSpace> {
        gate(host, &pool.config, "pool.space")?;
        let used = u64::from(wanted(&pool.config, "pool.space") == "answer-more-than-all");
        Ok(PoolSpace {
            total_bytes: 1,
            used_bytes: used * 2,
            total_inodes: 0,
            used_inodes: 0,
        })
    }

    fn reconcile(host: &impl Host, pool: &PoolRef, valid: &[VolumeState]) -> Result<Vec<String>> {
        gate(host, &pool.config, "pool.reconcile")?;
        if wanted(&pool.config, "pool.reconcile") == "answer-many-lines" {
            return Ok(vec!["removed nothing".to_owned(); 20_000]);
        }
        Ok(valid
            .iter()
            .map(|volume| format!("left {} alone", volume.name))
            .collect())
    }
}

impl Volume for Faulty {
    fn create(host: &impl Host, pool: &PoolRef, volume: &VolumeRef) -> Result<()> {
        gate(host, &pool.config, "volume.create")?;
        host.fs_make_dir(&tree(volume), 0o755)
    }

    fn begin_fill(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, _plain: bool) -> Result<TreePath> {
        gate(host, &pool.config, "volume.begin-fill")?;
        let elsewhere = |root: &str, path: &str| TreePath {
            root: root.to_owned(),
            path: path.to_owned(),
        };
        match wanted(&pool.config, "volume.begin-fill") {
            "answer-other-root" => return Ok(elsewhere("somewhere else", "")),
            "answer-above" => return Ok(elsewhere("pool", "../../images")),
            "answer-absolute" => return Ok(elsewhere("pool", "/etc")),
            "answer-missing" => return Ok(at("not/there")),
            _ => {}
        }
        host.fs_discard(&home(volume))?;
        host.fs_make_dir(&tree(volume), 0o755)?;
        Ok(tree(volume))
    }

    fn end_fill(host: &impl Host, pool: &PoolRef, _: &VolumeRef, _plain: bool) -> Result<()> {
        gate(host, &pool.config, "volume.end-fill")
    }

    fn create_from_image(
        host: &impl Host,
        pool: &PoolRef,
        image: &VolumeRef,
        volume: &VolumeRef,
        _: bool,
    ) -> Result<()> {
        if host.fs_stat(&home(volume))?.is_some() {
            return Err(Error::already_exists(format!("there is a volume {:?}", volume.name)));
        }
        copied(host, &tree(image), &tree(volume), &home(volume))?;
        // Late, so that there is something to be taken back.
        gate(host, &pool.config, "volume.create-from-image")
    }

    fn delete(host: &impl Host, pool: &PoolRef, volume: &VolumeRef) -> Result<()> {
        gate(host, &pool.config, "volume.delete")?;
        let snapshots = format!("{} {} ", volume.kind, volume.name);
        for entry in host.fs_list_dir(&at("snapshots"), None, 1000)? {
            if entry.name.starts_with(&snapshots) {
                host.fs_discard(&at(&format!("snapshots/{}", entry.name)))?;
            }
        }
        host.fs_discard(&home(volume))
    }

    fn rename(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, new_name: &str) -> Result<()> {
        gate(host, &pool.config, "volume.rename")?;
        host.fs_rename(&home(volume), &at(&format!("{}/{new_name}", volume.kind)))
    }

    fn mount(host: &impl Host, pool: &PoolRef, volume: &VolumeRef) -> Result<MountPlan> {
        gate(host, &pool.config, "volume.mount")?;
        let good = MountPlan::bind(tree(volume));
        let overlay = |upper: &str, work: &str| MountPlan {
            kind: "overlay".to_owned(),
            layers: vec![tree(volume)],
            upper: Some(at(upper)),
            work: Some(at(work)),
            options: Pairs::new(),
        };
        Ok(match wanted(&pool.config, "volume.mount") {
            "answer-escape" => MountPlan::bind(at("volumes/../../../etc")),
            "answer-absolute" => MountPlan::bind(at("/etc")),
            "answer-not-there" => MountPlan::bind(at("not/there")),
            "answer-other-root" => MountPlan::bind(TreePath {
                root: "testpool".to_owned(),
                path: String::new(),
            }),
            "answer-neighbour" => MountPlan::bind(at("container/neighbour/rootfs")),
            "answer-everything" => MountPlan::bind(at("")),
            "answer-neighbour-above" => overlay("container/neighbour/rootfs", "container/work"),
            "answer-kind" => MountPlan {
                kind: "proc".to_owned(),
                ..good
            },
            "answer-many-layers" => MountPlan {
                layers: vec![tree(volume); 20_000],
                ..overlay("upper", "work")
            },
            "answer-within" => overlay("upper", "upper/work"),
            _ => good,
        })
    }

    fn usage(host: &impl Host, pool: &PoolRef, _: &VolumeRef) -> Result<Option<u64>> {
        gate(host, &pool.config, "volume.usage")?;
        Ok(None)
    }
}

impl Snapshot for Faulty {
    fn create(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, name: &str, _: bool) -> Result<()> {
        let to = kept(volume, name);
        copied(host, &tree(volume), &to, &at("snapshots"))?;
        gate(host, &pool.config, "snapshot.create")
    }

    fn delete(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, name: &str) -> Result<()> {
        gate(host, &pool.config, "snapshot.delete")?;
        host.fs_discard(&kept(volume, name))
    }

    fn rename(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, name: &str, new_name: &str) -> Result<()> {
        gate(host, &pool.config, "snapshot.rename")?;
        host.fs_rename(&kept(volume, name), &kept(volume, new_name))
    }

    fn restore(host: &impl Host, pool: &PoolRef, volume: &VolumeRef, name: &str) -> Result<()> {
        gate(host, &pool.config, "snapshot.restore")?;
        copied(host, &kept(volume, name), &tree(volume), &home(volume))
    }

    fn mount(_: &impl Host, _: &PoolRef, _: &VolumeRef, _: &str) -> Result<MountPlan> {
        Err(Error::unsupported("no"))
    }
}

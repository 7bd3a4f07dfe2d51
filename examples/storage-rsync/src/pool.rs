//! Pools.

use hutch_sdk::paths::list_all;
use hutch_sdk::storage::{Pool, PoolRef, PoolSpace, VolumeRef, VolumeState};
use hutch_sdk::{Error, Host, Options, Result, TreePath};

use crate::Rsync;
use crate::note::{KINDS, PoolNote, read};
use crate::remote::{OPTION, Remote, check};
use crate::tree::{Home, name};

/// Where rsync finds and leaves what one call needs.
const WORK: &str = "work";

/// Brings the note of the pool on the other machine here; `None` where there is none.
fn noted_there(host: &impl Host, pool: &PoolRef, remote: &Remote) -> Result<Option<PoolNote>> {
    let seen = TreePath::root(&pool.root).join(WORK);
    // What an interrupted call left is not what is there now.
    host.fs_discard(&seen)?;
    host.fs_make_dir(&seen, 0o700)?;
    let note = match remote.fetch_note(host, &seen)? {
        true => PoolNote::read(host, &seen).map_err(|error| error.context(remote.address()))?,
        false => None,
    };
    host.fs_discard(&seen)?;
    Ok(note)
}

fn of_another(remote: &Remote) -> Error {
    Error::invalid(format!(
        "{} belongs to another pool, of this host or another one: take another name or another directory",
        remote.address()
    ))
}

impl Pool for Rsync {
    fn validate(
        _host: &impl Host,
        pool: &PoolRef,
        _current: Option<&[(String, String)]>,
    ) -> Result<Vec<(String, String)>> {
        let options = Options::new(&pool.config);
        options.check_keys("a pool", &["source", "volatile.initial_source", OPTION])?;
        check(options.get(OPTION))?;
        Ok(options.into_pairs())
    }

    fn create(host: &impl Host, pool: &PoolRef) -> Result<()> {
        let (root, remote) = (TreePath::root(&pool.root), Remote::of(pool)?);
        let mut note = match PoolNote::read(host, &root)? {
            Some(note) => note,
            None => PoolNote::new(host),
        };
        // Before anything is there, so that it is found again.
        note.write(host, &root)?;
        match noted_there(host, pool, &remote)? {
            Some(other) if other.id != note.id => return Err(of_another(&remote)),
            None if remote.holds_something(host)? => {
                return Err(Error::invalid(format!(
                    "{} is not empty, and no pool: take another name or another directory",
                    remote.address()
                )));
            }
            _ => {}
        }
        for kind in KINDS {
            host.fs_make_dir(&root.join("volumes").join(kind), 0o700)?;
            host.fs_make_dir(&root.join("making").join(kind), 0o700)?;
        }
        note.made = true;
        host.fs_make_dir(&root.join("pool/volumes"), 0o700)?;
        note.write(host, &root.join("pool"))?;
        remote.make(host, &root.join("pool"))?;
        note.write(host, &root)
    }

    fn open(host: &impl Host, pool: &PoolRef) -> Result<()> {
        let (root, remote) = (TreePath::root(&pool.root), Remote::of(pool)?);
        let Some(note) = PoolNote::read(host, &root)?.filter(|note| note.made) else {
            return Err(Error::not_found(format!(
                "there is no pool in the directory of pool {}",
                pool.name
            )));
        };
        match noted_there(host, pool, &remote)? {
            Some(there) if there.id == note.id => Ok(()),
            Some(_) => Err(of_another(&remote)),
            // A disk that is not mounted there looks like this.
            None => Err(Error::unavailable(format!("there is no pool at {}", remote.address())).retryable()),
        }
    }

    fn delete(host: &impl Host, pool: &PoolRef) -> Result<()> {
        let (root, remote) = (TreePath::root(&pool.root), Remote::of(pool)?);
        if let Some(note) = PoolNote::read(host, &root)? {
            let there = noted_there(host, pool, &remote)?;
            if there.is_some_and(|there| there.id == note.id) {
                let work = root.join(WORK);
                host.fs_make_dir(&work, 0o700)?;
                remote.remove_pool(host, &work)?;
            }
        }
        for place in ["volumes", "making", "pool", WORK, "pool.json"] {
            host.fs_discard(&root.join(place))?;
        }
        Ok(())
    }

    /// Of the pool's directory here: rsync does not tell how full another machine's is.
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
            remove(host, &root.join("making").join(kind), &mut removed, |_| false)?;
            remove_volumes(host, pool, kind, valid, &mut removed)?;
            for state in valid.iter().filter(|volume| volume.kind == kind) {
                settle(host, pool, state, &mut removed)?;
            }
        }
        Ok(removed)
    }
}

/// Removes the volumes of a kind that are not valid, there and here.
fn remove_volumes(
    host: &impl Host,
    pool: &PoolRef,
    kind: &str,
    valid: &[VolumeState],
    removed: &mut Vec<String>,
) -> Result<()> {
    let volumes = TreePath::root(&pool.root).join("volumes").join(kind);
    let stays = |name: &str| valid.iter().any(|volume| volume.kind == kind && volume.name == name);
    let mut sent = Vec::new();
    for entry in list_all(host, &volumes)?.iter().filter(|entry| !stays(&entry.name)) {
        let note = read(host, &volumes.join(&entry.name))?;
        sent.extend(note.filter(|note| note.sent).map(|note| note.id));
    }
    if !sent.is_empty() {
        let work = TreePath::root(&pool.root).join(WORK);
        host.fs_make_dir(&work, 0o700)?;
        Remote::of(pool)?.remove(host, &work, &sent)?;
        host.fs_discard(&work)?;
    }
    remove(host, &volumes, removed, stays)
}

/// Removes what interrupted calls left of a volume, and its snapshots that are not valid.
fn settle(host: &impl Host, pool: &PoolRef, state: &VolumeState, removed: &mut Vec<String>) -> Result<()> {
    let here = TreePath::root(&pool.root)
        .join("volumes")
        .join(&state.kind)
        .join(&state.name);
    let Some(mut note) = read(host, &here)? else {
        return Ok(());
    };
    let current = note.tree.map(name);
    remove(host, &here, removed, |entry| {
        entry != "coming" && (!entry.starts_with("tree-") || Some(entry) == current.as_deref())
    })?;
    let before = note.snapshots.len();
    note.snapshots.retain(|name, _| {
        let stays = state.snapshots.contains(name);
        if !stays {
            removed.push(format!("{}: the snapshot {name}", here.path));
        }
        stays
    });
    remove(host, &here.join("shown"), removed, |number| {
        number
            .parse()
            .is_ok_and(|number: u32| note.snapshots.values().any(|tree| *tree == number))
    })?;
    let volume = VolumeRef {
        kind: state.kind.clone(),
        name: state.name.clone(),
        content: "filesystem".to_owned(),
        config: Vec::new(),
    };
    let changed = note.snapshots.len() != before;
    let mut home = Home::of(pool, &volume, here, note)?;
    if changed { home.change(host) } else { home.tell(host) }
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

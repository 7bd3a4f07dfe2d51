//! The control group of a worker, by which the kernel counts all memory that it has: also what a limit of the process's own
//! (RLIMIT_DATA, getrlimit(2)) does not count, such as memory that it filled and then can't write to any more.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use hutch_sys::cgroup::{Hierarchies, is_occupied, remove_tree};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::ids;

/// The cgroup in which Hutch has all of its own.
const PARENT: &str = "hutch";

/// How long a process may take to end that was killed; some milliseconds are usual.
const PATIENCE: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// See the module's documentation. It is removed when this is dropped, which is after its process has ended.
#[derive(Debug)]
pub(super) struct Cage {
    dir: PathBuf,
}

impl Cage {
    /// A cage of `memory` bytes for the worker with the user id `id`. There is none where the machine can limit no memory for cgroups
    /// made here, which is told once in the log.
    ///
    /// # Errors
    /// What the kernel says to the cgroup or its limit.
    pub(super) fn make(id: u32, memory: u64) -> io::Result<Option<Self>> {
        let hierarchies = Hierarchies::find();
        let legacy = hierarchies.legacy("memory");
        let Some(root) = legacy.or_else(|| hierarchies.unified()) else {
            return Ok(none());
        };
        let parent = root.join(PARENT);
        make_directory(&parent)?;
        if legacy.is_none() && !(turn_on(root)? && turn_on(&parent)?) {
            return Ok(none());
        }
        let dir = parent.join(format!("plugin-{id}"));
        // The id is ours alone. A daemon that was killed removes nothing, and its workers end with it, but some time after it.
        end_all(&dir)?;
        remove_tree(&dir)?;
        make_directory(&dir)?;
        let cage = Self { dir };
        let (most, with_swap) = match legacy {
            Some(_) => ("memory.limit_in_bytes", ("memory.memsw.limit_in_bytes", memory)),
            None => ("memory.max", ("memory.swap.max", 0)),
        };
        cage.set(most, memory)?;
        match cage.set(with_swap.0, with_swap.1) {
            // The kernel counts no swap.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
        Ok(Some(cage))
    }

    /// Removes the cages that workers of a daemon left that was killed: those whose user ids nobody has.
    pub(super) fn sweep(ids: &Path) {
        let hierarchies = Hierarchies::find();
        let root = hierarchies.legacy("memory").or_else(|| hierarchies.unified());
        let found = root.and_then(|root| fs::read_dir(root.join(PARENT)).ok());
        for entry in found.into_iter().flatten().flatten() {
            let name = entry.file_name();
            let id = name
                .to_str()
                .and_then(|name| name.strip_prefix("plugin-")?.parse().ok());
            let Some(_id) = id.and_then(|id| ids::take_one(ids, id)) else {
                continue;
            };
            if let Err(error) = end_all(&entry.path()).and_then(|()| remove_tree(&entry.path())) {
                tracing::warn!(%error, "the control group {} is left", entry.path().display());
            }
        }
    }

    /// Puts a process into it, and all that it has from now on.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn hold(&self, pid: u32) -> io::Result<()> {
        self.set("cgroup.procs", u64::from(pid))
    }

    fn set(&self, file: &str, value: u64) -> io::Result<()> {
        let path = self.dir.join(file);
        fs::write(&path, value.to_string())
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.dir) {
            tracing::warn!(%error, "the control group {} is left", self.dir.display());
        }
    }
}

fn none() -> Option<Cage> {
    static WARNED: AtomicBool = AtomicBool::new(false);
    if !WARNED.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            "the memory of plugins' processes is limited by the processes' own limits alone: cgroups here have no memory controller"
        );
    }
    None
}

/// Ends the processes in a cgroup, and waits until they have ended. One that is not there has none.
fn end_all(dir: &Path) -> io::Result<()> {
    let list = match fs::read_to_string(dir.join("cgroup.procs")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        list => list?,
    };
    for pid in list.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)) {
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(process) => {
                // Its number may have become another's since, but not that of one in the list when it is read again.
                let there = fs::read_to_string(dir.join("cgroup.procs"))?;
                if there.lines().any(|line| line == pid.as_raw_nonzero().to_string()) {
                    end(&process)?;
                }
            }
            Err(Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Ends a process and waits until it has ended, but not for one that the kernel holds.
fn end(process: &OwnedFd) -> io::Result<()> {
    match pidfd_send_signal(process, Signal::KILL) {
        // It ended meanwhile.
        Err(Errno::SRCH) => return Ok(()),
        other => other?,
    }
    rustix::io::retry_on_intr(|| poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&PATIENCE)))?;
    Ok(())
}

fn make_directory(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Lets the cgroups below `dir` have the memory controller. False where that can't be (the kernel's `admin-guide/cgroup-v2`).
fn turn_on(dir: &Path) -> io::Result<bool> {
    let has = |file: &str| {
        let list = fs::read_to_string(dir.join(file))?;
        Ok::<_, io::Error>(list.split_whitespace().any(|name| name == "memory"))
    };
    if has("cgroup.subtree_control")? {
        return Ok(true);
    }
    if !has("cgroup.controllers")? || is_occupied(dir)? {
        return Ok(false);
    }
    fs::write(dir.join("cgroup.subtree_control"), "+memory").map(|()| true)
}

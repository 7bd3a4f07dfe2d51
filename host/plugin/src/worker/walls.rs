//! The walls around a worker, put up by itself before it reads a byte. Each stops something that the others might let
//! through; `docs/security.md` says which stops what.

use std::path::Path;

use nix::sched::CloneFlags;
use nix::unistd::{Gid, Uid};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::process::{Resource, Rlimit, Signal};
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::{Deserialize, Serialize};

/// Descriptors: the three that it is given, copies of two, those of the event loop, an image of the guest's memory at a time.
const FILES: u64 = 64;
/// Threads, of which there are two.
const THREADS: u64 = 8;

/// What a worker says of the walls around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Walls {
    /// Whether it has a user id, namespaces and a root directory of its own, for which the daemon has to be root.
    pub(crate) apart: bool,
    /// What the kernel's Landlock does.
    pub(crate) landlock: Landlock,
}

/// How much of Landlock (landlock(7)) the kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Landlock {
    /// All that this version knows: files, TCP ports, signals and abstract sockets.
    Full,
    /// An older kernel's.
    Partial,
    /// None.
    Absent,
}

/// Which wall could not be put up, and why.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}")]
pub(crate) struct WallError {
    what: &'static str,
    why: String,
}

/// Puts up the walls of a worker around this process, which has one thread: those of [`worker_main`](super::worker_main) by the same
/// code, for tests that try them from inside. `calls` says whether the filter of system calls is one of them, without which it
/// shows what the others hold back.
///
/// # Errors
/// Which could not be put up.
pub fn confine(id: u32, memory: u64, calls: bool) -> Result<(), String> {
    enter(id, memory).map_err(|error| error.to_string())?;
    if calls { super::filter::install() } else { Ok(()) }
}

/// Turns an error into one that says which step failed.
fn failed<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> WallError {
    move |why| WallError {
        what,
        why: why.to_string(),
    }
}

/// Puts up all walls but the filter of system calls, which comes once the code is in memory. This process has one thread.
/// `id` is the user and group that it becomes where it was started by root, and `memory` the bytes that it may write to.
pub(crate) fn enter(id: u32, memory: u64) -> Result<Walls, WallError> {
    end_with_the_daemon()?;
    limits(memory)?;
    let apart = rustix::process::geteuid().is_root();
    if apart {
        // Process ids are the daemon's thread's doing, since a process can't change its own.
        let namespaces =
            CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
        nix::sched::unshare(namespaces).map_err(failed("namespaces of its own"))?;
        empty_root().map_err(failed("an empty root directory"))?;
        become_nobody_else(id)?;
    }
    rustix::thread::set_no_new_privs(true).map_err(failed("no new privileges"))?;
    // The change of identity has cleared it (PR_SET_PDEATHSIG(2const)).
    end_with_the_daemon()?;
    let landlock = landlock().map_err(failed("Landlock"))?;
    Ok(Walls { apart, landlock })
}

fn end_with_the_daemon() -> Result<(), WallError> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(failed("ending with the daemon"))
}

fn limits(memory: u64) -> Result<(), WallError> {
    let limits = [
        (Resource::Data, memory),
        (Resource::Core, 0),
        (Resource::Nofile, FILES),
        (Resource::Nproc, THREADS),
        (Resource::Memlock, 0),
        (Resource::Msgqueue, 0),
    ];
    for (resource, most) in limits {
        let limit = Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        rustix::process::setrlimit(resource, limit).map_err(failed("limits of resources"))?;
    }
    Ok(())
}

/// Makes an empty, read-only file system the root, and leaves nothing else mounted. It is mounted where there is a directory for
/// certain: this program was executed by a name below it. Stacking the old root onto the new one saves a directory to
/// put it into (pivot_root(2), "pivot_root(".", ".")").
fn empty_root() -> rustix::io::Result<()> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private)?;
    let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
    rustix::mount::mount(c"none", c"/proc", c"tmpfs", flags, c"mode=0555,size=4k")?;
    rustix::process::chdir(Path::new("/proc"))?;
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir(Path::new("/"))
}

/// Becomes the user and group `id`, without other groups and without capabilities, now and after whatever could be executed.
fn become_nobody_else(id: u32) -> Result<(), WallError> {
    for capability in CapabilitySet::all().iter() {
        // One that the kernel doesn't know is in no set (EINVAL).
        if rustix::thread::capability_is_in_bounding_set(capability).unwrap_or(false) {
            rustix::thread::remove_capability_from_bounding_set(capability).map_err(failed("an empty bounding set"))?;
        }
    }
    let identity = || -> nix::Result<()> {
        let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
        nix::unistd::setgroups(&[])?;
        nix::unistd::setresgid(gid, gid, gid)?;
        nix::unistd::setresuid(uid, uid, uid)
    };
    identity().map_err(failed(
        "a user id of its own (is the daemon in a container that has no ids for it?)",
    ))?;
    rustix::thread::clear_ambient_capability_set().map_err(failed("no capabilities"))?;
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, none).map_err(failed("no capabilities"))
}

/// Refuses every file, TCP port, abstract socket and signal of others, as far as the kernel can.
fn landlock() -> Result<Landlock, landlock::RulesetError> {
    use landlock::{ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetStatus, Scope};
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(ABI::V6))?
        .handle_access(AccessNet::from_all(ABI::V6))?
        .scope(Scope::from_all(ABI::V6))?
        .create()?
        .restrict_self()?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => Landlock::Full,
        RulesetStatus::PartiallyEnforced => Landlock::Partial,
        RulesetStatus::NotEnforced => Landlock::Absent,
    })
}

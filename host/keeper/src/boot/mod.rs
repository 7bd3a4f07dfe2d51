//! Making PID 1, in the processes that become it.
//!
//! The keeper forks a *preparer*, which has the powers of the host's root: it enters the container's cgroups, opens what is to be
//! mounted, joins the container's network and user namespaces and forks once more, into the remaining namespaces, as the
//! keeper's child (`CLONE_PARENT`). That second process builds the container's view from inside and executes PID 1's program.
//! Both report on a socket.

pub(crate) mod apparmor;
pub(crate) mod devices;
mod files;
pub(crate) mod filesystems;
pub(crate) mod prepare;
pub(crate) mod root;
pub(crate) mod security;

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use hutch_container::{ContainerSpec, Fault};
use hutch_sys::process::{self, Forked};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};

use crate::cgroup::Cgroup;
use crate::fault::{At, Result};
use crate::wire;
use prepare::Prepared;

/// What the two processes tell the keeper.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// PID 1 exists; its pidfd is beside.
    Init {
        /// As the host numbers it.
        pid: u32,
    },
    /// The root is mounted; a detached copy of the mount is beside.
    Root,
    /// The console is there; beside are its master side, its slave side and the directory of the container's terminals.
    Console,
    /// Calls are intercepted; the descriptor on which they are told is beside.
    Listener,
    /// The next system call executes the program; after it the socket ends.
    Executing,
    /// It went wrong.
    Failed(Fault),
}

/// What a boot needs.
pub(crate) struct Boot<'a> {
    pub(crate) spec: &'a ContainerSpec,
    pub(crate) userns: Option<BorrowedFd<'a>>,
    pub(crate) netns: BorrowedFd<'a>,
    pub(crate) cgroup: &'a Cgroup,
    /// Whether there was a boot before.
    pub(crate) reboot: bool,
    /// The root of the boot before, when this is a reboot.
    pub(crate) root: Option<OwnedFd>,
    /// Where reports go.
    pub(crate) socket: OwnedFd,
}

/// The preparer. Ends with PID 1 made, or with the fault reported.
pub(crate) fn prepare(mut boot: Boot<'_>) -> ! {
    process::default_signals();
    process::block_signals(false);
    match run_preparer(&mut boot) {
        Ok(()) => process::exit(0),
        Err(fault) => report_and_exit(&boot.socket, fault),
    }
}

fn report_and_exit(socket: &OwnedFd, fault: Fault) -> ! {
    // When the keeper is gone there is nobody to tell.
    drop(wire::send(socket, &Report::Failed(fault), &[]));
    process::exit(1)
}

fn run_preparer(boot: &mut Boot<'_>) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).at("tying to", "the keeper")?;
    boot.cgroup.enter_legacy()?;
    prepare::resource_limits(boot.spec)?;
    let prepared = Prepared::open(boot.spec, boot.userns, &mut boot.root)?;
    move_into_link_name_space(boot.netns, Some(LinkNameSpaceType::Network)).at("joining", "the network namespace")?;
    if let Some(userns) = boot.userns {
        move_into_link_name_space(userns, Some(LinkNameSpaceType::User)).at("joining", "the user namespace")?;
    }
    let namespaces = libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_PARENT;
    // SAFETY: this process has a single thread, as has the keeper that it was forked from.
    match unsafe { process::fork(namespaces, None) }.at("making", "the namespaces of PID 1")? {
        Forked::Parent { pid, pidfd } => {
            wire::send(&boot.socket, &Report::Init { pid }, &[pidfd.as_fd()]).at("reporting", "PID 1")
        }
        Forked::Child => match run_init(boot, prepared) {
            Err(fault) => report_and_exit(&boot.socket, fault),
            Ok(never) => match never {},
        },
    }
}

/// PID 1 up to its program.
fn run_init(boot: &Boot<'_>, prepared: Prepared) -> Result<std::convert::Infallible> {
    let spec = boot.spec;
    let profile = apparmor::Profile::open(spec)?;
    if spec.idmap.is_some() {
        security::become_user(0, 0, &[])?;
    }
    set_parent_process_death_signal(Some(Signal::KILL)).at("tying to", "the keeper")?;
    rustix::process::setsid().at("making", "a session")?;
    process::new_session_keyring().at("making", "a session keyring")?;
    nix::unistd::sethostname(&spec.hostname).at("setting", "the host name")?;

    let (stage, tree) = root::build(spec, &prepared)?;
    let copy = root::detached_copy(&tree)?;
    wire::send(&boot.socket, &Report::Root, &[copy.as_fd()]).at("reporting", "the root")?;
    drop(copy);
    let old_root = root::pivot(&tree)?;
    // Before anything is mounted: they are files of the root, wherever their paths lead there.
    files::write(spec, boot.reboot)?;
    filesystems::mount_kernel(spec)?;
    let console = devices::build(spec, prepared.nodes)?;
    filesystems::mount_extra(spec, prepared.mounts)?;
    filesystems::settings(spec)?;
    filesystems::protect(&stage)?;
    root::leave(&old_root)?;
    drop((stage, tree, old_root));

    let fds = [console.master.as_fd(), console.slave.as_fd(), console.directory.as_fd()];
    wire::send(&boot.socket, &Report::Console, &fds).at("reporting", "the console")?;
    for stream in 0..3 {
        // SAFETY: the numbers 0 to 2 are this process's standard streams, open on /dev/null, and are replaced.
        if unsafe { libc::dup2(std::os::fd::AsRawFd::as_raw_fd(&console.slave), stream) } < 0 {
            return Err(std::io::Error::last_os_error()).at("opening", "/dev/console");
        }
    }
    if let Some(listener) = security::confine(spec, profile)? {
        wire::send(&boot.socket, &Report::Listener, &[listener.as_fd()]).at("reporting", "the system call filter")?;
    }
    execute(boot)
}

fn execute(boot: &Boot<'_>) -> Result<std::convert::Infallible> {
    let spec = boot.spec;
    let program = c_string(&spec.init[0])?;
    let arguments = spec
        .init
        .iter()
        .map(|word| c_string(word))
        .collect::<Result<Vec<_>>>()?;
    let marker = ("container".to_owned(), "lxc".to_owned());
    let environment = environment(spec.env.iter().filter(|(name, _)| *name != marker.0).chain([&marker]))?;
    wire::send(&boot.socket, &Report::Executing, &[]).at("reporting", "the program")?;
    security::limit_to_allowed(spec)?;
    Err(process::execute(&program, &arguments, &environment)).at("executing", &spec.init[0])
}

/// `name=value` as `execve(2)` wants it.
pub(crate) fn environment<'a>(env: impl Iterator<Item = &'a (String, String)>) -> Result<Vec<CString>> {
    env.map(|(name, value)| c_string(&format!("{name}={value}"))).collect()
}

pub(crate) fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Fault::new(hutch_container::FaultKind::Invalid, "reading", text, "a zero byte"))
}

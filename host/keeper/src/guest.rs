//! The process that begins programs inside: forked from the keeper at the first one, it joins the container once, and each program
//! then costs one fork. It is in the container's cgroups but not in its PID namespace, so that nobody inside sees it. There is one
//! for programs, which are frozen with the container, and one for file servers, which go on then.
//!
//! What it forks is the keeper's child (`CLONE_PARENT`).

use std::os::fd::{AsFd, OwnedFd};

use hutch_container::{ContainerSpec, ExecSpec, Fault, FaultKind};
use hutch_sys::process::{self, Forked};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};
use serde::{Deserialize, Serialize};

use crate::boot::apparmor::Profile;
use crate::boot::{self, security};
use crate::fault::{At, Result};
use crate::{sftp, wire};

/// What the keeper asks for. Beside it: the socket for [`Begun`], then the program's three streams or SFTP's one.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// A program, with or without a terminal of this many columns and rows.
    Program { spec: ExecSpec, pty: Option<(u16, u16)> },
    /// A file server.
    Sftp,
}

/// The answer to an [`Order`], in the order of those; the process's pidfd is beside.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Forking {
    /// The process, as the host numbers it.
    Pid(u32),
    /// It could not be forked.
    Failed(Fault),
    /// To no order, and before the first answer: the process has joined a container of which calls are intercepted. What is beside is not a
    /// pidfd but the descriptor on which they are told.
    Listener,
}

/// What the new process says on its own socket, which ends when it executes its program.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Begun {
    /// The terminal's master side is beside.
    Terminal,
    /// It went wrong.
    Failed(Fault),
}

/// What the process needs of the keeper.
pub(crate) struct Guest<'a> {
    /// It begins file servers, which are the keeper's own programs, and not the container's.
    pub(crate) files: bool,
    pub(crate) spec: &'a ContainerSpec,
    pub(crate) cgroup: &'a crate::cgroup::Cgroup,
    pub(crate) init: &'a OwnedFd,
    pub(crate) terminals: &'a OwnedFd,
    pub(crate) socket: OwnedFd,
}

/// Joins the container and serves until the keeper closes the socket.
pub(crate) fn run(guest: &Guest<'_>) -> ! {
    process::default_signals();
    process::block_signals(false);
    // Whoever is at the other ends of the keeper's sockets must see them close with the keeper, and not with this process.
    let needed = [guest.socket.as_fd(), guest.init.as_fd(), guest.terminals.as_fd()];
    if process::close_others(&needed).is_err() {
        process::exit(1);
    }
    let joined = join(guest).and_then(|listener| match listener {
        Some(listener) => {
            wire::send(&guest.socket, &Forking::Listener, &[listener.as_fd()]).at("reporting", "the system call filter")
        }
        None => Ok(()),
    });
    loop {
        let incoming = match wire::receive(&guest.socket) {
            Ok(Some(incoming)) => incoming,
            Ok(None) | Err(_) => process::exit(0),
        };
        let forked = match (&joined, wire::parse::<Order>(&incoming.bytes)) {
            (Err(fault), _) => Err(fault.clone()),
            (Ok(()), Err(error)) => Err(Fault::new(FaultKind::Invalid, "reading", "an order", error.to_string())),
            (Ok(()), Ok(order)) => begin(guest, order, incoming.fds),
        };
        let sent = match forked {
            Ok((pid, pidfd)) => wire::send(&guest.socket, &Forking::Pid(pid), &[pidfd.as_fd()]),
            Err(fault) => wire::send(&guest.socket, &Forking::Failed(fault), &[]),
        };
        if sent.is_err() {
            process::exit(0);
        }
    }
}

/// Returns the descriptor on which intercepted calls are told, if any are.
fn join(guest: &Guest<'_>) -> Result<Option<OwnedFd>> {
    set_parent_process_death_signal(Some(Signal::KILL)).at("tying to", "the keeper")?;
    // The container's root must not look into this process, which holds descriptors and memory of the host's.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .at("protecting", "the process")?;
    std::fs::write("/proc/self/oom_score_adj", "0").at("writing", "/proc/self/oom_score_adj")?;
    guest.cgroup.enter_legacy()?;
    boot::prepare::resource_limits(guest.spec)?;
    let profile = Profile::open(guest.spec)?;
    let mut spaces = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::CONTROL_GROUP
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::NETWORK
        | ThreadNameSpaceType::PROCESS_ID;
    if guest.spec.idmap.is_some() {
        spaces |= ThreadNameSpaceType::USER;
    }
    move_into_thread_name_spaces(guest.init.as_fd(), spaces).at("joining", "the container")?;
    if guest.spec.idmap.is_some() {
        security::become_user(0, 0, &[])?;
    }
    process::new_session_keyring().at("making", "a session keyring")?;
    if guest.files {
        return security::confine_own(guest.spec, profile).map(|()| None);
    }
    security::confine(guest.spec, profile)
}

fn begin(guest: &Guest<'_>, order: Order, fds: Vec<OwnedFd>) -> Result<(u32, OwnedFd)> {
    // SAFETY: this process has a single thread, as has the keeper that it was forked from.
    match unsafe { process::fork(libc::CLONE_PARENT, None) }.at("forking for", "a program")? {
        Forked::Parent { pid, pidfd } => Ok((pid, pidfd)),
        Forked::Child => {
            let mut fds = fds.into_iter();
            let Some(report) = fds.next() else { process::exit(126) };
            let fault = match order {
                Order::Program { spec, pty } => match execute(guest, &spec, pty, &report, fds) {
                    Err(fault) => fault,
                    Ok(never) => match never {},
                },
                Order::Sftp => {
                    let Some(stream) = fds.next() else { process::exit(126) };
                    if process::close_others(&[stream.as_fd()]).is_err() {
                        process::exit(126)
                    }
                    let _ = rustix::thread::set_name(c"hutch-sftp");
                    sftp::serve(stream);
                    process::exit(0)
                }
            };
            // Without the keeper there is nobody to tell.
            drop(wire::send(&report, &Begun::Failed(fault), &[]));
            process::exit(127)
        }
    }
}

fn execute(
    guest: &Guest<'_>,
    spec: &ExecSpec,
    pty: Option<(u16, u16)>,
    report: &OwnedFd,
    streams: impl Iterator<Item = OwnedFd>,
) -> Result<std::convert::Infallible> {
    rustix::process::setsid().at("making", "a session")?;
    let streams: Vec<OwnedFd> = match pty {
        Some(size) => terminal(guest, spec, size, report)?,
        None => streams.collect(),
    };
    let [stdin, stdout, stderr] = streams.as_slice() else {
        return Err(Fault::new(
            FaultKind::Invalid,
            "executing",
            &spec.command[0],
            "without three streams",
        ));
    };
    for (from, to) in [stdin, stdout, stderr].into_iter().zip(0..) {
        // SAFETY: the numbers 0 to 2 are this process's standard streams, which nothing here owns; they are replaced.
        if unsafe { libc::dup2(std::os::fd::AsRawFd::as_raw_fd(from), to) } < 0 {
            return Err(std::io::Error::last_os_error()).at("preparing", "the standard streams");
        }
    }
    enter_directory(spec)?;
    security::limit_to_allowed(guest.spec)?;
    security::become_user(spec.uid, spec.gid, &spec.groups)?;
    // Cleared by the change of user, and what is executed is not to die with the keeper: only PID 1 is.
    Err(execute_in_path(spec)?)
}

/// The directory that was asked for, or home. A home that is not there is no fault, as at a login (`login(1)`).
fn enter_directory(spec: &ExecSpec) -> Result<()> {
    if let Some(cwd) = &spec.cwd {
        return rustix::process::chdir(cwd)
            .map_err(|error| found(Fault::system("entering", cwd, error.raw_os_error())));
    }
    let home = spec.env.iter().find(|(name, _)| name == "HOME");
    if home.is_some_and(|(_, home)| rustix::process::chdir(home.as_str()).is_ok()) {
        return Ok(());
    }
    rustix::process::chdir("/").at("entering", "/")
}

/// A terminal of the container's as controlling terminal; its master side goes to the keeper.
fn terminal(guest: &Guest<'_>, spec: &ExecSpec, size: (u16, u16), report: &OwnedFd) -> Result<Vec<OwnedFd>> {
    let (master, slave) = boot::devices::terminal(guest.terminals)?;
    let (ws_col, ws_row) = size;
    let size = rustix::termios::Winsize {
        ws_col,
        ws_row,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(&master, size).at("resizing", "the terminal")?;
    let uid = rustix::fs::Uid::from_raw(spec.uid);
    rustix::fs::fchown(&slave, Some(uid), None).at("handing over", "the terminal")?;
    process::set_controlling_terminal(&slave).at("taking", "the terminal")?;
    wire::send(report, &Begun::Terminal, &[master.as_fd()]).at("reporting", "the terminal")?;
    let copy = || slave.try_clone().at("copying", "the terminal");
    Ok(vec![copy()?, copy()?, slave.try_clone().at("copying", "the terminal")?])
}

/// Executes the program, looked for in `PATH` as `execvp(3)` does; returns why it could not be.
fn execute_in_path(spec: &ExecSpec) -> Result<Fault> {
    let name = &spec.command[0];
    let arguments = spec
        .command
        .iter()
        .map(|word| boot::c_string(word))
        .collect::<Result<Vec<_>>>()?;
    let environment = boot::environment(spec.env.iter())?;
    let path = spec
        .env
        .iter()
        .find(|(name, _)| name == "PATH")
        .map_or("/bin:/usr/bin", |(_, value)| value.as_str());
    let candidates: Vec<String> = match name.contains('/') {
        true => vec![name.clone()],
        false => path
            .split(':')
            .filter(|dir| !dir.is_empty())
            .map(|dir| format!("{dir}/{name}"))
            .collect(),
    };
    let mut worst = libc::ENOENT;
    for candidate in candidates {
        let error = process::execute(&boot::c_string(&candidate)?, &arguments, &environment);
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => {}
            errno => worst = errno.unwrap_or(worst),
        }
    }
    Ok(found(Fault::system("executing", name, worst)))
}

/// Marks what a shell would answer with 127 and 126.
fn found(mut fault: Fault) -> Fault {
    match fault.errno {
        libc::ENOENT | libc::ENOTDIR => fault.kind = FaultKind::NotFound,
        libc::EACCES | libc::ENOEXEC | libc::EISDIR | libc::ELOOP => fault.kind = FaultKind::NotExecutable,
        _ => {}
    }
    fault
}

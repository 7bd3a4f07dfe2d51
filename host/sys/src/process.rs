//! Making processes in namespaces, and their ends.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use rustix::process::{WaitId, WaitIdOptions, waitid};

/// Of `clone(2)`; `libc` has it in a type that it does not fit.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `struct clone_args` of `clone(2)`, as of Linux 5.7.
#[repr(C, align(8))]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Which of the two processes one is after [`fork`].
#[derive(Debug)]
pub enum Forked {
    /// The new one.
    Child,
    /// The old one.
    Parent {
        /// The new process as this one's PID namespace numbers it.
        pid: u32,
        /// A descriptor of the new process.
        pidfd: OwnedFd,
    },
}

/// Forks with `clone3(2)`: `namespaces` are `CLONE_NEW*` flags, to which `CLONE_PARENT` may be added, which makes the child a
/// sibling. With `cgroup`, a directory of the unified hierarchy, the child begins in that cgroup, which spares a migration.
///
/// # Errors
/// Those of `clone(2)`, such as `EBUSY` when the cgroup is not a leaf, or `EAGAIN` at a limit.
///
/// # Safety
/// The caller's process must have a single thread: the child has a copy of the memory with whatever other threads were in the
/// middle of.
pub unsafe fn fork(namespaces: i32, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Forked> {
    let mut pidfd: libc::c_int = -1;
    let sibling = namespaces & libc::CLONE_PARENT != 0;
    let flags = namespaces.cast_unsigned() | libc::CLONE_PIDFD.cast_unsigned();
    let mut args = CloneArgs {
        flags: u64::from(flags),
        pidfd: (&raw mut pidfd) as u64,
        // A sibling inherits the signal, and giving one is EINVAL.
        exit_signal: if sibling {
            0
        } else {
            u64::from(libc::SIGCHLD.cast_unsigned())
        },
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    // SAFETY: the structure has the size that is given and points at nothing but `pidfd`; without CLONE_VM the child has its own
    // copy of this stack; the caller vouches for the threads.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) };
    match u32::try_from(pid) {
        Err(_) => Err(io::Error::last_os_error()),
        Ok(0) => Ok(Forked::Child),
        Ok(pid) => {
            // SAFETY: the kernel has put a new descriptor there, which nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Forked::Parent { pid, pidfd })
        }
    }
}

/// Ends this process at once, without running what was registered for its end.
pub fn exit(code: i32) -> ! {
    // SAFETY: it takes no pointers and does not return.
    unsafe { libc::_exit(code) }
}

/// Replaces this process's program.
///
/// # Errors
/// Those of `execve(2)`; it returns in no other case.
#[must_use]
pub fn execute(program: &CStr, arguments: &[CString], environment: &[CString]) -> io::Error {
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
    };
    let (argv, envp) = (pointers(arguments), pointers(environment));
    // SAFETY: both arrays end with a null pointer and, like their strings, live past the call.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    io::Error::last_os_error()
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It returned this.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

/// Reaps a child if it has ended; `None` while it runs.
///
/// # Errors
/// `ECHILD` when it is nobody's child, or not this process's.
pub fn reap(pidfd: impl AsFd) -> io::Result<Option<End>> {
    // Siblings made by a child have no exit signal, and are seen with __WALL only (wait(2)).
    let options =
        WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::from_bits_retain(libc::__WALL.cast_unsigned());
    let Some(status) = waitid(WaitId::PidFd(pidfd.as_fd()), options)? else {
        return Ok(None);
    };
    Ok(Some(match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => End::Code(code),
        (None, signal) => End::Signal(signal.unwrap_or(libc::SIGKILL)),
    }))
}

/// Blocks, or unblocks, every signal that can be.
pub fn block_signals(block: bool) {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the set is filled before it is read; there is no place for the old one.
    unsafe {
        if block {
            libc::sigfillset(set.as_mut_ptr())
        } else {
            libc::sigemptyset(set.as_mut_ptr())
        };
        libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), ptr::null_mut());
    }
}

/// Gives every signal its default effect; the standard library has `SIGPIPE` ignored, which programs would inherit.
pub fn default_signals() {
    for signal in 1..=64 {
        // SAFETY: the default effect calls nothing of ours. For signals that can't be set it fails, which is as well.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Makes the terminal the controlling one of this process, which must lead a session without one.
///
/// # Errors
/// Those of `TIOCSCTTY` (`tty_ioctl(4)`).
pub fn set_controlling_terminal(terminal: impl AsFd) -> io::Result<()> {
    Ok(rustix::process::ioctl_tiocsctty(terminal)?)
}

/// Closes every descriptor from 3 up but these, whoever owns it: for a process that has just been forked and has no use for what its
/// parent holds, and never returns to what owns it.
///
/// # Errors
/// Those of `close_range(2)`, such as `ENOSYS` before Linux 5.9.
pub fn close_others(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut numbers: Vec<u32> = keep
        .iter()
        .map(|fd| fd.as_raw_fd().cast_unsigned())
        .filter(|fd| *fd > 2)
        .collect();
    numbers.sort_unstable();
    let mut first = 3;
    for last in numbers.into_iter().map(|fd| fd.checked_sub(1)).chain([Some(u32::MAX)]) {
        let Some(last) = last else { continue };
        if first <= last {
            // SAFETY: it takes numbers only; what is closed is not used any more, as the caller promises by calling this.
            if unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        first = last.saturating_add(2);
    }
    Ok(())
}

/// Gives this process a session keyring of its own (`session-keyring(7)`), so that it has no part in that of whoever started
/// the daemon. A kernel without keyrings needs none, and where an outer container's filter refuses them nobody inside reaches one.
///
/// # Errors
/// Those of `keyctl_join_session_keyring(3)`.
pub fn new_session_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: a null name asks for a keyring without one.
    match unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_JOIN_SESSION_KEYRING,
            ptr::null::<libc::c_char>(),
        )
    } {
        -1 => match io::Error::last_os_error() {
            error if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => Ok(()),
            error => Err(error),
        },
        _ => Ok(()),
    }
}

/// Whether this process, with the ids and capabilities that it has for files, may write to what is open; in a directory: make and remove
/// files.
///
/// # Errors
/// Those of `faccessat2(2)`, such as `EACCES` when it may not.
pub fn may_write(object: impl AsFd) -> io::Result<()> {
    let empty: &CStr = c"";
    let flags = libc::AT_EMPTY_PATH | libc::AT_EACCESS;
    // SAFETY: the path ends with a zero byte and lives past the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_faccessat2,
            object.as_fd().as_raw_fd(),
            empty.as_ptr(),
            libc::W_OK,
            flags,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Brings up the loopback interface of this process's network namespace.
///
/// # Errors
/// Those of `SIOCSIFFLAGS` (`netdevice(7)`).
pub fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: all zeros is a valid value of this structure of numbers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(b"lo") {
        *place = libc::c_char::from_ne_bytes([*byte]);
    }
    // IFF_UP | IFF_RUNNING, which `libc` has as a wider type.
    request.ifr_ifru.ifru_flags = 0x41;
    // SAFETY: the structure is what this request reads, its name ends with a zero byte.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sends any signal, real-time ones as well, to a process.
///
/// # Errors
/// Those of `pidfd_send_signal(2)`: `EINVAL` for a number that is no signal, `ESRCH` when the process has ended.
pub fn send_signal(pidfd: impl AsFd, signal: i32) -> io::Result<()> {
    let fd = pidfd.as_fd().as_raw_fd();
    // SAFETY: a null siginfo is what kill(2) would send.
    match unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            fd,
            signal,
            ptr::null::<libc::siginfo_t>(),
            0,
        )
    } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_reaped_with_its_code() {
        // SAFETY: the child only exits.
        match unsafe { fork(0, None) }.unwrap() {
            Forked::Child => exit(7),
            Forked::Parent { pidfd, .. } => {
                rustix::event::poll(
                    &mut [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)],
                    None,
                )
                .unwrap();
                assert_eq!(reap(&pidfd).unwrap(), Some(End::Code(7)));
                assert_eq!(reap(&pidfd).unwrap_err().raw_os_error(), Some(libc::ECHILD));
            }
        }
    }
}

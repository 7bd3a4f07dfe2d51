//! Running a program to its end, confined in what it leaves behind.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Makes `command` start in a session of its own, in the cgroup whose `cgroup.procs` is open for writing as `procs`, and in
/// a mount namespace of its own, so that whatever it starts can be killed with the cgroup and whatever it mounts goes with
/// it. Mounts that are made outside later still reach it.
///
/// # Errors
/// None here; spawning the command fails when the kernel refuses one of the steps.
pub fn confine(command: &mut Command, procs: OwnedFd) -> &mut Command {
    let steps = move || -> io::Result<()> {
        // A process that writes 0 moves itself (cgroups(7)).
        // SAFETY: the descriptor is owned by this closure and the buffer is a constant of the length given.
        check(unsafe { libc::write(procs.as_raw_fd(), b"0".as_ptr().cast(), 1) } > 0)?;
        // SAFETY: takes no pointers.
        check(unsafe { libc::setsid() } > 0)?;
        // SAFETY: takes no pointers; the child has one thread.
        check(unsafe { libc::unshare(libc::CLONE_NEWNS) } == 0)?;
        let nothing = std::ptr::null();
        // SAFETY: the target is a constant that ends with a zero byte; the other pointers may be null for a change of
        // propagation (mount(2)).
        check(
            unsafe {
                libc::mount(
                    nothing,
                    c"/".as_ptr(),
                    nothing,
                    libc::MS_REC | libc::MS_SLAVE,
                    nothing.cast(),
                )
            } == 0,
        )
    };
    // SAFETY: between fork and exec the closure makes system calls only (write, setsid, unshare, mount) and allocates
    // nothing: `io::Error::last_os_error` is a number.
    unsafe { command.pre_exec(steps) }
}

fn check(good: bool) -> io::Result<()> {
    if good { Ok(()) } else { Err(io::Error::last_os_error()) }
}

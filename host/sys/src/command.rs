//! Running a program to its end, confined in what it leaves behind.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Trees that a program finds at places of its own, which nobody else can rename or put a link in the way of.
#[derive(Debug)]
pub struct PrivateTrees {
    /// A directory that is there. A small file system is mounted on it where only the program sees it.
    pub base: CString,
    /// Mounts that are attached nowhere (see [`crate::mount`]), and their absolute paths, each one name below `base`.
    pub trees: Vec<(OwnedFd, CString)>,
}

/// Makes `command` start in a session of its own, in the cgroup whose `cgroup.procs` is open for writing as `procs`, and in
/// a mount namespace of its own, so that whatever it starts can be killed with the cgroup and whatever it mounts goes with
/// it. Mounts that are made outside later still reach it. `trees` are attached there, if any.
///
/// # Errors
/// None here; spawning the command fails when the kernel refuses one of the steps.
pub fn confine(command: &mut Command, procs: OwnedFd, trees: PrivateTrees) -> &mut Command {
    let steps = move || -> io::Result<()> {
        // A process that writes 0 moves itself (cgroups(7)).
        // SAFETY: the descriptor is owned by this closure and the buffer is a constant of the length given.
        check(unsafe { libc::write(procs.as_raw_fd(), b"0".as_ptr().cast(), 1) } > 0)?;
        // SAFETY: takes no pointers.
        check(unsafe { libc::setsid() } > 0)?;
        // SAFETY: takes no pointers; the child has one thread.
        check(unsafe { libc::unshare(libc::CLONE_NEWNS) } == 0)?;
        let nothing = std::ptr::null();
        let flags = libc::MS_REC | libc::MS_SLAVE;
        // SAFETY: the target is a constant that ends with a zero byte; the other pointers may be null for a change of
        // propagation (mount(2)).
        let changed = unsafe { libc::mount(nothing, c"/".as_ptr(), nothing, flags, nothing.cast()) };
        check(changed == 0)?;
        attach(&trees)
    };
    // SAFETY: between fork and exec the closure makes system calls only (write, setsid, unshare, mount, mkdir, move_mount) and
    // allocates nothing: `io::Error::last_os_error` is a number.
    unsafe { command.pre_exec(steps) }
}

/// Called between fork and exec: makes system calls only.
fn attach(trees: &PrivateTrees) -> io::Result<()> {
    if trees.trees.is_empty() {
        return Ok(());
    }
    let (kind, options) = (c"tmpfs", c"mode=0711,size=64k");
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    // SAFETY: all are strings that end with a zero byte and live past the call.
    let mounted = unsafe {
        libc::mount(
            kind.as_ptr(),
            trees.base.as_ptr(),
            kind.as_ptr(),
            flags,
            options.as_ptr().cast(),
        )
    };
    check(mounted == 0)?;
    for (tree, at) in &trees.trees {
        // SAFETY: the path is a string that ends with a zero byte and lives past the call.
        check(unsafe { libc::mkdir(at.as_ptr(), 0o700) } == 0)?;
        // SAFETY: the descriptor is open, and both paths are strings that end with a zero byte and live past the call.
        let moved = unsafe {
            libc::syscall(
                libc::SYS_move_mount,
                tree.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_FDCWD,
                at.as_ptr(),
                libc::MOVE_MOUNT_F_EMPTY_PATH,
            )
        };
        check(moved == 0)?;
    }
    Ok(())
}

fn check(good: bool) -> io::Result<()> {
    if good { Ok(()) } else { Err(io::Error::last_os_error()) }
}

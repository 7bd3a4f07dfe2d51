//! Starting a process that lives on without its parent.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

/// The flag of `posix_spawnattr_setflags(3)` for a session of its own; the `libc` crate lacks it for glibc.
const POSIX_SPAWN_SETSID: i32 = 0x80;

/// Runs `program` with `arguments` (the first is its name), an empty environment, its standard streams on `/dev/null`, in a
/// session of its own, with no signal blocked or ignored. Each descriptor of `fds` becomes the number beside it, which must
/// be 3 or more; all others are closed because everything in this workspace is opened with `O_CLOEXEC`. The caller's memory
/// is not copied (`posix_spawn(3)` suspends it instead), so a large daemon may use this freely.
///
/// Returns a descriptor of the process (`pidfd_open(2)`), which is the caller's child.
///
/// # Errors
/// What `posix_spawn(3)` says, such as `ENOENT` for a missing program; `EINVAL` for a zero byte in an argument.
pub fn detached(program: &Path, arguments: &[OsString], fds: &[(i32, OwnedFd)]) -> io::Result<OwnedFd> {
    let c_string = |text: &OsStr| CString::new(text.as_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL));
    let program = c_string(program.as_os_str())?;
    let arguments = arguments.iter().map(|a| c_string(a)).collect::<io::Result<Vec<_>>>()?;
    let argv: Vec<*mut libc::c_char> = arguments
        .iter()
        .map(|a| a.as_ptr().cast_mut())
        .chain([ptr::null_mut()])
        .collect();
    let envp = [ptr::null_mut::<libc::c_char>()];
    // Moved out of the way first, so that no target number is somebody else's source.
    let above = fds.iter().map(|(target, _)| *target).max().unwrap_or(2) + 1;
    let moved = fds
        .iter()
        .map(|(target, fd)| Ok((*target, rustix::io::fcntl_dupfd_cloexec(fd, above)?)))
        .collect::<io::Result<Vec<_>>>()?;

    let mut actions = Actions::new()?;
    for stream in 0..3 {
        actions.open(stream, c"/dev/null")?;
    }
    for (target, fd) in &moved {
        actions.dup(fd.as_raw_fd(), *target)?;
    }
    let attributes = Attributes::new()?;
    let mut pid = 0;
    // SAFETY: the strings, the two null-terminated arrays, the actions and the attributes outlive the call; `pid` is a
    // place for the result.
    check(unsafe {
        libc::posix_spawn(
            &raw mut pid,
            program.as_ptr(),
            &raw const actions.0,
            &raw const attributes.0,
            argv.as_ptr(),
            envp.as_ptr(),
        )
    })?;
    // The process can't have been reaped: it is a child that nobody else knows of.
    let pid = rustix::process::Pid::from_raw(pid).ok_or(io::ErrorKind::Other)?;
    Ok(rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?)
}

/// `posix_spawn` and its helpers return the error number.
fn check(result: libc::c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

struct Actions(libc::posix_spawn_file_actions_t);

impl Actions {
    fn new() -> io::Result<Self> {
        let mut actions = MaybeUninit::uninit();
        // SAFETY: the call initialises what it is given, when it succeeds.
        check(unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) })?;
        // SAFETY: it succeeded.
        Ok(Self(unsafe { actions.assume_init() }))
    }

    fn open(&mut self, fd: i32, path: &std::ffi::CStr) -> io::Result<()> {
        // SAFETY: the actions are initialised and the path, which is copied, ends with a zero byte.
        check(unsafe { libc::posix_spawn_file_actions_addopen(&raw mut self.0, fd, path.as_ptr(), libc::O_RDWR, 0) })
    }

    fn dup(&mut self, from: i32, to: i32) -> io::Result<()> {
        // SAFETY: the actions are initialised.
        check(unsafe { libc::posix_spawn_file_actions_adddup2(&raw mut self.0, from, to) })
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: initialised by `new`, destroyed once.
        unsafe { libc::posix_spawn_file_actions_destroy(&raw mut self.0) };
    }
}

struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    fn new() -> io::Result<Self> {
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: the call initialises what it is given, when it succeeds.
        check(unsafe { libc::posix_spawnattr_init(attributes.as_mut_ptr()) })?;
        // SAFETY: it succeeded.
        let mut this = Self(unsafe { attributes.assume_init() });
        let mut empty = MaybeUninit::<libc::sigset_t>::uninit();
        let mut all = MaybeUninit::<libc::sigset_t>::uninit();
        let flags = libc::POSIX_SPAWN_SETSIGMASK | libc::POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSID;
        // SAFETY: the two sets are filled by the first two calls before the others read them; the attributes are
        // initialised.
        unsafe {
            libc::sigemptyset(empty.as_mut_ptr());
            libc::sigfillset(all.as_mut_ptr());
            check(libc::posix_spawnattr_setsigmask(&raw mut this.0, empty.as_ptr()))?;
            check(libc::posix_spawnattr_setsigdefault(&raw mut this.0, all.as_ptr()))?;
            check(libc::posix_spawnattr_setflags(
                &raw mut this.0,
                libc::c_short::try_from(flags).unwrap_or_default(),
            ))?;
        }
        Ok(this)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: initialised by `new`, destroyed once.
        unsafe { libc::posix_spawnattr_destroy(&raw mut self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn descriptors_arrive_at_their_numbers() {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let script =
            "echo $#:$0; ls /proc/self/fd >&4; readlink /proc/self/fd/0 >&4; tr '\\0' '\\n' < /proc/self/environ >&4";
        let arguments: [OsString; 3] = ["sh".into(), "-c".into(), format!("exec >&4; {script}").into()];
        let null = rustix::fs::open("/dev/zero", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty()).unwrap();
        let pidfd = detached(Path::new("/bin/sh"), &arguments, &[(4, write), (3, null)]).unwrap();
        let mut text = String::new();
        std::fs::File::from(read).read_to_string(&mut text).unwrap();
        let options = rustix::process::WaitIdOptions::EXITED;
        rustix::process::waitid(
            rustix::process::WaitId::PidFd(std::os::fd::AsFd::as_fd(&pidfd)),
            options,
        )
        .unwrap();
        assert!(text.contains("/dev/null"), "{text}");
        assert!(!text.contains("PATH=/"), "{text}");
    }

    #[test]
    fn a_missing_program_is_said() {
        let error = detached(Path::new("/nonexistent"), &["x".into()], &[]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}

//! Calls that wait for somebody else's answer (`seccomp_unotify(2)`).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `struct seccomp_notif` of `linux/seccomp.h`: a call that waits. Its arguments are as they were in the registers; what they point
/// at can be changed by other threads of its process at any time.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Notification {
    /// Names the call to its listener, once and for all.
    pub id: u64,
    /// The thread that makes it, as the receiver's PID namespace numbers it; 0 when it is not in there.
    pub pid: u32,
    flags: u32,
    /// The number of the call.
    pub number: u32,
    /// The ABI of the call, `AUDIT_ARCH_*` of `linux/audit.h`.
    pub arch: u32,
    instruction: u64,
    /// Its arguments.
    pub arguments: [u64; 6],
}

/// `struct seccomp_notif_resp`.
#[repr(C)]
struct Response {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

/// What a waiting call is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It returns this.
    Value(i64),
    /// It fails with this error.
    Errno(i32),
    /// The kernel carries it out as if there were no filter, with its caller's powers and with whatever its arguments point at by then. No
    /// decision about what a caller may do can rest on that (`seccomp_unotify(2)`).
    Continue,
}

const RECEIVE: libc::c_ulong = 0xc050_2100;
const SEND: libc::c_ulong = 0xc018_2101;
const IS_VALID: libc::c_ulong = 0x4008_2102;

/// Takes the next call that waits. It does not block when the listener has been seen readable by its only reader.
///
/// # Errors
/// `ENOENT` when the caller was killed meanwhile; others of `ioctl(2)` on a listener.
pub fn receive(listener: BorrowedFd<'_>) -> io::Result<Notification> {
    // All zeros, as the call wants it.
    let mut notification = Notification::default();
    // SAFETY: the structure has the size that the request's number says, and lives past the call.
    match unsafe { libc::ioctl(listener.as_raw_fd(), RECEIVE as _, &raw mut notification) } {
        0 => Ok(notification),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Answers a call.
///
/// # Errors
/// `ENOENT` when its caller is gone, `EINPROGRESS` when it has been answered.
pub fn answer(listener: BorrowedFd<'_>, id: u64, answer: Answer) -> io::Result<()> {
    const FLAG_CONTINUE: u32 = 1;
    let (value, error, flags) = match answer {
        Answer::Value(value) => (value, 0, 0),
        Answer::Errno(errno) => (0, -errno, 0),
        Answer::Continue => (0, 0, FLAG_CONTINUE),
    };
    let response = Response {
        id,
        value,
        error,
        flags,
    };
    // SAFETY: the structure has the size that the request's number says, and lives past the call.
    match unsafe { libc::ioctl(listener.as_raw_fd(), SEND as _, &raw const response) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether the call still waits. As long as it does, its caller lives, and the caller's number has not become somebody else's: what was opened
/// by that number before this was asked is the caller's.
#[must_use]
pub fn is_waiting(listener: BorrowedFd<'_>, id: u64) -> bool {
    // SAFETY: the number lives past the call, which only reads it.
    unsafe { libc::ioctl(listener.as_raw_fd(), IS_VALID as _, &raw const id) == 0 }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::super::{Rule, Verdict, compile, install_with_listener, name_of};
    use super::*;

    #[test]
    fn structures_have_the_sizes_that_the_requests_say() {
        assert_eq!(size_of::<Notification>(), (RECEIVE >> 16 & 0x3fff) as usize);
        assert_eq!(size_of::<Response>(), (SEND >> 16 & 0x3fff) as usize);
    }

    #[test]
    fn a_call_waits_for_its_answer() {
        let rules = [Rule {
            call: "sysinfo",
            verdict: Verdict::Notify,
            when: None,
        }];
        let filter = compile(&rules, Verdict::Allow, false);
        // The filter is this thread's alone, and its descriptor the whole process's.
        let (send, receive_listener) = std::sync::mpsc::channel();
        let caller = std::thread::spawn(move || {
            send.send(install_with_listener(&filter).unwrap()).unwrap();
            let call = || {
                // SAFETY: the filter answers, and nothing is written.
                let result = unsafe { libc::syscall(libc::SYS_sysinfo, 0) };
                (result, io::Error::last_os_error().raw_os_error().unwrap_or(0))
            };
            (call().0, call().1)
        });
        let listener = receive_listener.recv().unwrap();
        let first = receive(listener.as_fd()).unwrap();
        assert_eq!(name_of(first.arch, first.number), Some("sysinfo"));
        assert!(is_waiting(listener.as_fd(), first.id));
        answer(listener.as_fd(), first.id, Answer::Value(7)).unwrap();
        let second = receive(listener.as_fd()).unwrap();
        assert!(!is_waiting(listener.as_fd(), first.id));
        answer(listener.as_fd(), second.id, Answer::Errno(libc::EXDEV)).unwrap();
        assert_eq!(caller.join().unwrap(), (7, libc::EXDEV));
    }
}

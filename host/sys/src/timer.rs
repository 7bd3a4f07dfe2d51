//! A timer that is waited for as a descriptor (`timerfd_create(2)`).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// A timer on the monotonic clock. Its descriptor is readable once it has run out.
#[derive(Debug)]
pub struct Timer(OwnedFd);

impl Timer {
    /// One that is not set.
    ///
    /// # Errors
    /// Those of `timerfd_create(2)`.
    pub fn new() -> io::Result<Self> {
        // SAFETY: it takes numbers only.
        let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made it, and nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Lets it run out once, after this time; unsets it when that is zero.
    ///
    /// # Errors
    /// Those of `timerfd_settime(2)`, such as a time past the clock's end.
    pub fn set(&self, after: Duration) -> io::Result<()> {
        let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // The type of the field is not named: the C library's own name for it differs in width between libraries.
        let it_value = libc::timespec {
            tv_sec: after
                .as_secs()
                .try_into()
                .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?,
            tv_nsec: after.subsec_nanos().into(),
        };
        let value = libc::itimerspec {
            it_interval: zero,
            it_value,
        };
        // SAFETY: the value lives past the call; there is no place for the old one.
        match unsafe { libc::timerfd_settime(self.0.as_raw_fd(), 0, &raw const value, std::ptr::null_mut()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Makes it unreadable until it runs out again; `false` when it had not run out.
    #[must_use]
    pub fn acknowledge(&self) -> bool {
        rustix::io::read(&self.0, &mut [0; 8]).is_ok()
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_runs_out_once() {
        let timer = Timer::new().unwrap();
        assert!(!timer.acknowledge());
        timer.set(Duration::from_millis(1)).unwrap();
        rustix::event::poll(
            &mut [rustix::event::PollFd::new(&timer, rustix::event::PollFlags::IN)],
            None,
        )
        .unwrap();
        assert!(timer.acknowledge());
        assert!(!timer.acknowledge());
    }
}

//! The keeper's handle of a process that begins programs ([`crate::guest`]).

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use hutch_sys::process::{self, Forked};
use rustix::event::epoll::EventFlags;
use rustix::event::{PollFd, PollFlags, poll};

use super::Inside;
use crate::fault::{At, Result};
use crate::guest::{self, Guest};
use crate::reactor::{Reactor, Source};
use crate::wire;

/// What such a process begins, which decides the cgroup that it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Programs. They are frozen with the container.
    Programs,
    /// File servers. They are not.
    Files,
}

impl Kind {
    pub(super) const ALL: [Self; 2] = [Self::Programs, Self::Files];

    /// The kind whose events have this number.
    pub(super) fn numbered(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u32 == number)
    }
}

/// What a fork into a cgroup says that was removed.
fn is_removed(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

/// The process, which has joined the container.
pub(super) struct Beginner {
    pub(super) socket: OwnedFd,
    pidfd: OwnedFd,
    /// Who waits to be forked, in order.
    pub(super) waiting: VecDeque<u32>,
}

impl Beginner {
    /// Forks one.
    pub(super) fn fork(reactor: &Reactor, inside: &Inside<'_>, kind: Kind) -> Result<Self> {
        let (ours, theirs) = wire::pair().at("making", "a socket")?;
        let into = |cgroup: BorrowedFd<'_>| {
            // SAFETY: the keeper has a single thread.
            unsafe { process::fork(0, Some(cgroup)) }
        };
        let forked = match kind {
            Kind::Files => into(inside.cgroup.files()),
            Kind::Programs => match into(inside.cgroup.guests()) {
                Err(error) if is_removed(&error) => into(inside.cgroup.renew_guests(inside.spec)?.as_fd()),
                forked => forked,
            },
        };
        let pidfd = match forked.at("forking into", "the container's cgroup")? {
            Forked::Child => {
                drop(ours);
                guest::run(&Guest {
                    files: kind == Kind::Files,
                    spec: inside.spec,
                    cgroup: inside.cgroup,
                    init: inside.init,
                    terminals: inside.terminals,
                    socket: theirs,
                })
            }
            Forked::Parent { pidfd, .. } => pidfd,
        };
        let number = kind as u32;
        reactor
            .add(&ours, Source::Guest, number, EventFlags::IN)
            .at("watching", "a process")?;
        reactor
            .add(&pidfd, Source::GuestProcess, number, EventFlags::IN)
            .at("watching", "a process")?;
        Ok(Self {
            socket: ours,
            pidfd,
            waiting: VecDeque::new(),
        })
    }

    /// Ends it and says who still waits. It may hold PID namespace and cgroup no longer than the container does.
    pub(super) fn end(self, reactor: &Reactor) -> VecDeque<u32> {
        reactor.remove(&self.socket);
        reactor.remove(&self.pidfd);
        drop(self.socket);
        drop(process::send_signal(&self.pidfd, libc::SIGKILL));
        let _ = poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], None);
        drop(process::reap(&self.pidfd));
        self.waiting
    }
}

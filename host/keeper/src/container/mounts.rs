//! Mounting and unmounting in a running container.
//!
//! A process does it that is forked for the purpose, since a source may be on a disk that does not answer: it opens the sources where
//! the host has them, joins the container's mount and user namespaces, and attaches them there.

use std::os::fd::{AsFd, OwnedFd};

use hutch_container::protocol::Answer;
use hutch_container::{ContainerState, Fault, Mount};
use hutch_sys::process::{self, Forked};
use rustix::event::epoll::EventFlags;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{DumpableBehavior, Signal, set_dumpable_behavior, set_parent_process_death_signal};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};
use serde::{Deserialize, Serialize};

use super::lifecycle::wait_for;
use super::{Container, Outcome, refuse};
use crate::boot::{filesystems, prepare, security};
use crate::clients::{Asker, Clients};
use crate::fault::{At, Result};
use crate::reactor::{Places, Reactor, Source};
use crate::wire;

/// What the process says at its end.
#[derive(Debug, Serialize, Deserialize)]
enum Report {
    Done,
    Failed(Fault),
}

/// A change that goes on.
pub(super) struct Changing {
    report: OwnedFd,
    process: OwnedFd,
    asker: Asker,
    mounts: Vec<Mount>,
}

/// Processes that were ended while they mounted. One that waits for a disk ends when that answers, and nothing here waits for it.
#[derive(Debug)]
pub(super) struct Abandoned(Places<OwnedFd>);

impl Abandoned {
    pub(super) const fn new() -> Self {
        Self(Places::new())
    }

    fn kill(&mut self, reactor: &Reactor, process: OwnedFd) {
        // It may have ended by itself.
        drop(process::send_signal(&process, libc::SIGKILL));
        let place = self.0.insert(process);
        let Some(process) = self.0.get(place) else { return };
        if reactor.add(process, Source::Mounter, place, EventFlags::IN).is_err() {
            // The kernel has no memory for the watch: its entry in the table of processes stays until the keeper ends.
            self.0.remove(place);
        }
    }

    fn reap(&mut self, reactor: &Reactor, place: u32) {
        let Some(process) = self.0.remove(place) else { return };
        reactor.remove(&process);
        // It is readable because it has ended (pidfd_open(2)).
        drop(process::reap(&process));
    }
}

impl Container {
    /// Begins to replace what is mounted.
    pub(super) fn set_mounts(&mut self, reactor: &Reactor, asker: Asker, mounts: Vec<Mount>) -> Outcome {
        match self.begin_mounts(reactor, asker, mounts) {
            Ok(()) => Outcome::Later,
            Err(fault) => Outcome::Now(Err(fault)),
        }
    }

    fn begin_mounts(&mut self, reactor: &Reactor, asker: Asker, mounts: Vec<Mount>) -> Result<()> {
        let invalid = |error: hutch_container::BadSpec| {
            Fault::new(hutch_container::FaultKind::Invalid, "mounting", "", error.to_string())
        };
        mounts.iter().try_for_each(Mount::check).map_err(invalid)?;
        let (Some(init), ContainerState::Running { .. }, None) = (&self.init, &self.state, &self.booting) else {
            return Err(refuse("mounting", "the container does not run"));
        };
        if self.mounting.is_some() {
            return Err(refuse("mounting", "another change of the mounts goes on"));
        }
        let (ours, theirs) = wire::pair().at("making", "a socket")?;
        let change = Change::between(&self.spec.mounts, &mounts);
        // SAFETY: the keeper has a single thread.
        let process = match unsafe { process::fork(0, None) }.at("forking for", "mounts")? {
            Forked::Child => {
                drop(ours);
                let userns = self.namespaces.user.as_ref();
                // Whoever is at the other ends of the keeper's sockets must see them close with the keeper.
                let needed: Vec<_> = [&theirs, &init.pidfd]
                    .into_iter()
                    .chain(userns)
                    .map(AsFd::as_fd)
                    .collect();
                let closed = process::close_others(&needed).at("closing", "descriptors");
                let report = match closed.and_then(|()| change.carry_out(&init.pidfd, userns)) {
                    Ok(()) => Report::Done,
                    Err(fault) => Report::Failed(fault),
                };
                // Without the keeper there is nobody to tell.
                drop(wire::send(&theirs, &report, &[]));
                process::exit(0)
            }
            Forked::Parent { pidfd, .. } => pidfd,
        };
        reactor
            .add(&ours, Source::Mounts, 0, EventFlags::IN)
            .at("watching", "a process")?;
        self.mounting = Some(Changing {
            report: ours,
            process,
            asker,
            mounts,
        });
        Ok(())
    }

    /// The process has said how it went, or has ended without.
    pub(crate) fn mounts_ready(&mut self, reactor: &Reactor, clients: &mut Clients) {
        let Some(changing) = self.mounting.take() else { return };
        reactor.remove(&changing.report);
        let said = match wire::receive(&changing.report) {
            Ok(Some(incoming)) => wire::parse::<Report>(&incoming.bytes).ok(),
            Ok(None) | Err(_) => None,
        };
        // It has exited or is about to.
        wait_for(&changing.process);
        let result = match said {
            Some(Report::Done) => {
                self.spec.mounts = changing.mounts;
                Ok((Answer::Nothing, Vec::new()))
            }
            Some(Report::Failed(fault)) => Err(fault),
            None => Err(refuse("mounting", "the process that mounts was killed")),
        };
        clients.answer(reactor, changing.asker, result);
    }

    /// The container has ended, and its mounts with it.
    pub(super) fn abandon_mounts(&mut self, reactor: &Reactor, clients: &mut Clients) {
        let Some(changing) = self.mounting.take() else { return };
        reactor.remove(&changing.report);
        self.abandoned.kill(reactor, changing.process);
        let fault = refuse("mounting", "the container has ended");
        clients.answer(reactor, changing.asker, Err(fault));
    }

    /// A process that was ended while it mounted is no more.
    pub(crate) fn mounter_ended(&mut self, reactor: &Reactor, place: u32) {
        self.abandoned.reap(reactor, place);
    }
}

/// What is to be unmounted, and mounted after that.
#[derive(Debug, PartialEq, Eq)]
struct Change<'a> {
    old: Vec<&'a Mount>,
    new: Vec<&'a Mount>,
}

impl<'a> Change<'a> {
    /// What differs, and all that lies below it: it goes when what is above it goes, and would be hidden by what comes.
    fn between(old: &'a [Mount], new: &'a [Mount]) -> Self {
        let differing = |these: &'a [Mount], those: &'a [Mount]| {
            let news = these.iter().filter(|one| !those.contains(one));
            news.collect::<Vec<_>>()
        };
        let mut touched = differing(old, new);
        touched.extend(differing(new, old));
        let concerned = |list: &'a [Mount]| {
            let below = |one: &&Mount| touched.iter().any(|other| one.is_within(other));
            list.iter().filter(below).collect()
        };
        Self {
            old: concerned(old),
            new: concerned(new),
        }
    }

    /// In a process of its own, which ends after it. What fails is taken back.
    fn carry_out(&self, init: &OwnedFd, userns: Option<&OwnedFd>) -> Result<()> {
        process::default_signals();
        process::block_signals(false);
        set_parent_process_death_signal(Some(Signal::KILL)).at("tying to", "the keeper")?;
        // The container's root must not look into this process, which holds descriptors and memory of the host's.
        set_dumpable_behavior(DumpableBehavior::NotDumpable).at("protecting", "the process")?;
        let open = |mounts: &[&Mount]| -> Result<Vec<Option<OwnedFd>>> {
            let mounts: Vec<Mount> = mounts.iter().copied().cloned().collect();
            prepare::open_mounts(&mounts, userns.map(AsFd::as_fd))
        };
        let trees = open(&self.new)?;
        // To go back to; what the host has no more can't come back.
        let former: Vec<Option<OwnedFd>> = self
            .old
            .iter()
            .map(|mount| open(&[mount]).ok().and_then(|mut trees| trees.pop().flatten()))
            .collect();
        let spaces = match userns {
            Some(_) => ThreadNameSpaceType::MOUNT | ThreadNameSpaceType::USER,
            None => ThreadNameSpaceType::MOUNT,
        };
        move_into_thread_name_spaces(init.as_fd(), spaces).at("joining", "the container")?;
        if userns.is_some() {
            security::become_user(0, 0, &[])?;
        }
        for (number, mount) in self.old.iter().enumerate().rev() {
            if let Err(fault) = take_away(mount) {
                self.put_back(&former, number + 1);
                return Err(fault);
            }
        }
        for (number, (mount, tree)) in self.new.iter().zip(&trees).enumerate() {
            let Some(tree) = tree else { continue };
            let Err(fault) = filesystems::put(mount, tree) else {
                continue;
            };
            if !mount.required {
                continue;
            }
            // What this process has done, backwards; the first fault is what the caller is told.
            for mount in self.new[..number].iter().rev() {
                drop(take_away(mount));
            }
            self.put_back(&former, 0);
            return Err(fault);
        }
        Ok(())
    }

    /// Mounts again what was there before, from this number on, as far as that goes.
    fn put_back(&self, former: &[Option<OwnedFd>], from: usize) {
        for (mount, tree) in self.old.iter().zip(former).skip(from) {
            drop(tree.as_ref().map(|tree| filesystems::put(mount, tree)));
        }
    }
}

/// Unmounts what is at a mount's target. The container's root may have done that already.
fn take_away(mount: &Mount) -> Result<()> {
    let target = filesystems::target(mount);
    match unmount(&target, UnmountFlags::DETACH) {
        // Nothing is there, or nothing is mounted there (umount(2)).
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::INVAL) | Ok(()) => Ok(()),
        Err(error) => Err(error).at("unmounting", target),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(source: &str, target: &str) -> Mount {
        Mount {
            source: source.into(),
            target: target.into(),
            readonly: false,
            recursive: false,
            shift: true,
            required: true,
        }
    }

    #[test]
    fn a_process_that_is_abandoned_is_reaped() {
        let reactor = Reactor::new().unwrap();
        // SAFETY: the child only waits for its end.
        let process = match unsafe { process::fork(0, None) }.unwrap() {
            Forked::Child => loop {
                let _ = rustix::event::poll(&mut [], None);
            },
            Forked::Parent { pidfd, .. } => pidfd,
        };
        let seen = process.try_clone().unwrap();
        let mut abandoned = Abandoned::new();
        abandoned.kill(&reactor, process);
        let mut ready = Vec::new();
        while ready.is_empty() {
            reactor.wait(&mut ready).unwrap();
        }
        assert_eq!((ready.len(), ready[0].source), (1, Source::Mounter));
        abandoned.reap(&reactor, ready[0].place);
        let again = process::reap(&seen).unwrap_err();
        assert_eq!(again.raw_os_error(), Some(libc::ECHILD));
        assert!(abandoned.0.places().is_empty());
    }

    #[test]
    fn what_lies_below_a_change_is_mounted_again() {
        let (a, b, c) = (mount("/a", "/srv"), mount("/b", "srv/x"), mount("/c", "/srv2"));
        let other = mount("/other", "/srv");
        let (old, new) = ([a.clone(), b.clone(), c.clone()], [other.clone(), b.clone(), c.clone()]);
        let change = Change::between(&old, &new);
        assert_eq!((change.old, change.new), (vec![&a, &b], vec![&other, &b]));
        let (old, new) = ([b.clone()], [b.clone(), c.clone()]);
        let change = Change::between(&old, &new);
        assert_eq!((change.old, change.new), (vec![], vec![&c]));
        let (old, new) = ([b.clone(), c.clone()], [a.clone(), b.clone(), c]);
        let change = Change::between(&old, &new);
        assert_eq!((change.old, change.new), (vec![&b], vec![&a, &b]));
    }
}

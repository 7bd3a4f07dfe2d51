//! From boot to boot, and to the end.

use std::os::fd::{AsFd, OwnedFd};

use hutch_container::protocol::{Answer, Reply};
use hutch_container::{ContainerState, Exit, ExitKind, ExitStatus, KeeperEvent};
use hutch_sys::process::{self, End, Forked};
use hutch_sys::sysinfo::Figures;
use rustix::event::epoll::EventFlags;

use super::{Booting, Container, Init, Next, refuse, status};
use crate::boot::{self, Boot, Report};
use crate::clients::{Asker, Clients};
use crate::fault::{At, Result};
use crate::reactor::{Reactor, Source};
use crate::wire;

impl Container {
    /// Forks the preparer of a boot, the first or one more.
    pub(super) fn boot(&mut self, reactor: &Reactor, asker: Option<Asker>) -> Result<()> {
        let (ours, theirs) = wire::pair().at("making", "a socket")?;
        self.booted = Figures::of_machine().at("asking for", "the time")?.uptime;
        // SAFETY: the keeper has a single thread.
        let forked = unsafe { process::fork(0, Some(self.cgroup.container())) };
        match forked.at("forking into", format!("the cgroup {}", self.spec.cgroup))? {
            Forked::Child => {
                drop(ours);
                boot::prepare(Boot {
                    spec: &self.spec,
                    userns: self.namespaces.user.as_ref().map(AsFd::as_fd),
                    netns: self.namespaces.network.as_fd(),
                    cgroup: &self.cgroup,
                    reboot: self.state != ContainerState::Created,
                    root: self.root.take(),
                    socket: theirs,
                })
            }
            Forked::Parent { pidfd, .. } => {
                drop(theirs);
                reactor
                    .add(&ours, Source::Boot, 0, EventFlags::IN)
                    .at("watching", "the boot")?;
                reactor
                    .add(&pidfd, Source::Preparer, 0, EventFlags::IN)
                    .at("watching", "the boot")?;
                let preparer = Some(pidfd);
                self.booting = Some(Booting {
                    socket: ours,
                    preparer,
                    executing: false,
                    fault: None,
                    asker,
                });
                Ok(())
            }
        }
    }

    /// Takes a report of the boot, or its end.
    pub(crate) fn boot_ready(&mut self, reactor: &Reactor, clients: &mut Clients) {
        let Some(booting) = &mut self.booting else { return };
        let incoming = wire::receive(&booting.socket).ok().flatten();
        let Some(mut incoming) = incoming else {
            return self.boot_ended(reactor, clients);
        };
        let taken = match wire::parse::<Report>(&incoming.bytes) {
            Ok(Report::Init { pid }) => match incoming.fds.pop() {
                Some(pidfd) => {
                    let added = reactor
                        .add(&pidfd, Source::Init, 0, EventFlags::IN)
                        .at("watching", "PID 1");
                    self.init = Some(Init { pid, pidfd });
                    added
                }
                None => Ok(()),
            },
            Ok(Report::Root) => {
                self.root = incoming.fds.pop();
                Ok(())
            }
            Ok(Report::Console) => match <[OwnedFd; 3]>::try_from(incoming.fds) {
                Ok([master, slave, directory]) => {
                    self.terminals = Some(directory);
                    self.console.attach(reactor, master, slave)
                }
                Err(_) => Ok(()),
            },
            Ok(Report::Listener) => match incoming.fds.pop() {
                Some(listener) => self.intercepts.listen(reactor, listener),
                None => Ok(()),
            },
            Ok(Report::Executing) => {
                booting.executing = true;
                Ok(())
            }
            Ok(Report::Failed(fault)) => Err(fault),
            Err(error) => Err(error).at("reading", "a report"),
        };
        if let (Err(fault), Some(booting)) = (taken, &mut self.booting) {
            booting.fault.get_or_insert(fault);
        }
    }

    fn boot_ended(&mut self, reactor: &Reactor, clients: &mut Clients) {
        let Some(booting) = self.booting.take() else { return };
        reactor.remove(&booting.socket);
        if let Some(preparer) = &booting.preparer {
            reactor.remove(preparer);
            // It has exited or is about to: its end of the socket is closed.
            wait_for(preparer);
        }
        let reboots = match self.state {
            ContainerState::Running { reboots, .. } => reboots + 1,
            _ => 0,
        };
        let fault = match (booting.fault, &self.init) {
            (None, Some(init)) if booting.executing => {
                self.state = ContainerState::Running {
                    pid: init.pid,
                    reboots,
                    frozen: false,
                };
                let pid = init.pid;
                let event = if reboots == 0 {
                    KeeperEvent::Started { pid }
                } else {
                    KeeperEvent::Rebooted { pid }
                };
                clients.tell(reactor, &Reply::Event(event));
                if let Some(asker) = booting.asker {
                    clients.answer(reactor, asker, Ok((Answer::Nothing, Vec::new())));
                }
                // From here on the keeper waits, for years perhaps, and needs little of itself for that.
                self.spec.files.retain(|file| file.every_boot);
                self.spec.files.shrink_to_fit();
                hutch_sys::memory::forget_code();
                return;
            }
            (Some(fault), _) => fault,
            (None, _) => refuse("starting", "PID 1 was killed before it executed its program"),
        };
        self.next = Some(match self.state {
            ContainerState::Running { .. } => Next::End(Exit {
                kind: ExitKind::Crashed,
                status: ExitStatus::Code(1),
            }),
            _ => Next::Fail(fault, booting.asker),
        });
        self.clean_up(reactor, clients);
    }

    /// The preparer has ended.
    pub(crate) fn preparer_ready(&mut self, reactor: &Reactor) {
        if let Some(pidfd) = self.booting.as_mut().and_then(|booting| booting.preparer.take()) {
            reactor.remove(&pidfd);
            wait_for(&pidfd);
        }
    }

    /// PID 1 has ended.
    pub(crate) fn init_ready(&mut self, reactor: &Reactor, clients: &mut Clients) {
        let Some(init) = &self.init else { return };
        let Ok(Some(end)) = process::reap(&init.pidfd) else {
            return;
        };
        reactor.remove(&init.pidfd);
        self.init = None;
        if self.booting.is_some() || self.next.is_some() {
            // The boot's own end says what went wrong.
            return;
        }
        // A PID namespace tells how it was ended by the signal that its PID 1 seems to die of (reboot(2)).
        self.next = Some(match end {
            End::Signal(libc::SIGHUP) if !self.killed => Next::Reboot,
            _ => Next::End(Exit {
                kind: self.exit_kind(end),
                status: status(end),
            }),
        });
        self.clean_up(reactor, clients);
    }

    fn exit_kind(&self, end: End) -> ExitKind {
        match end {
            _ if self.killed => ExitKind::Killed,
            End::Signal(libc::SIGINT) | End::Code(0) => ExitKind::Halted,
            _ => ExitKind::Crashed,
        }
    }

    /// Ends what is left of a boot; [`Container::cgroup_ready`] goes on.
    fn clean_up(&mut self, reactor: &Reactor, clients: &mut Clients) {
        self.console.detach(reactor);
        self.execs.retire_all(reactor);
        self.abandon_mounts(reactor, clients);
        // That can only fail when the cgroup is gone, and then it is empty.
        drop(self.cgroup.kill());
        self.cgroup_ready(reactor, clients);
    }

    /// Something in `cgroup.events` may have changed.
    pub(crate) fn cgroup_ready(&mut self, reactor: &Reactor, clients: &mut Clients) {
        let (populated, frozen) = (self.cgroup.is_populated(), self.cgroup.is_frozen());
        for (asker, _) in self.freezing.extract_if(.., |(_, want)| *want == frozen || !populated) {
            clients.answer(reactor, asker, Ok((Answer::Nothing, Vec::new())));
        }
        if let ContainerState::Running { frozen: shown, .. } = &mut self.state {
            *shown = frozen;
        }
        if populated || self.next.is_none() {
            return;
        }
        if let Some(init) = self.init.take() {
            reactor.remove(&init.pidfd);
            wait_for(&init.pidfd);
        }
        self.execs.reap(reactor, clients);
        match self.next.take() {
            Some(Next::Reboot) if !self.killed => {
                let renewed = self.cgroup.renew(reactor, &self.spec, &self.limits);
                let booted = renewed.and_then(|()| self.boot(reactor, None));
                if booted.is_err() {
                    self.end(
                        reactor,
                        clients,
                        Exit {
                            kind: ExitKind::Crashed,
                            status: ExitStatus::Code(1),
                        },
                    );
                }
            }
            Some(Next::Reboot) => {
                self.end(
                    reactor,
                    clients,
                    Exit {
                        kind: ExitKind::Killed,
                        status: ExitStatus::Signal(libc::SIGKILL),
                    },
                );
            }
            Some(Next::End(exit)) => self.end(reactor, clients, exit),
            Some(Next::Fail(fault, Some(asker))) => clients.answer(reactor, asker, Err(fault)),
            Some(Next::Fail(_, None)) | None => {}
        }
    }

    fn end(&mut self, reactor: &Reactor, clients: &mut Clients, exit: Exit) {
        self.state = ContainerState::Ended(exit);
        self.console.close_streams(reactor);
        clients.tell(reactor, &Reply::Event(KeeperEvent::Exited(exit)));
    }
}

/// Waits for a process that has ended or is about to.
pub(super) fn wait_for(pidfd: &OwnedFd) {
    use rustix::event::{PollFd, PollFlags, poll};
    // Neither can fail on a child's descriptor.
    let _ = poll(&mut [PollFd::new(pidfd, PollFlags::IN)], None);
    drop(process::reap(pidfd));
}

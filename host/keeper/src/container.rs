//! One container: what it does, and what changes that.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use hutch_container::protocol::{Answer, Hello, PROTOCOL_VERSION, Reply, Request};
use hutch_container::{
    ContainerSpec, ContainerState, Exit, ExitKind, ExitStatus, Fault, FaultKind, KeeperEvent, Limits,
};
use hutch_sys::process::{self, End, Forked};
use rustix::event::epoll::EventFlags;

use crate::boot::{self, Boot, Report};
use crate::cgroup::Cgroup;
use crate::clients::{Asker, Clients};
use crate::console::Console;
use crate::exec::Execs;
use crate::fault::{At, Result};
use crate::namespaces::Namespaces;
use crate::reactor::{Reactor, Source};
use crate::wire;

/// Signals that ask a PID 1 to halt, in the order of preference: systemd's `SIGRTMIN+3` (`systemd(1)`, glibc's numbers, whatever this
/// program is linked with), and `SIGPWR` of all others.
const HALT_SYSTEMD: i32 = 37;

/// What a request leads to.
pub(crate) enum Outcome {
    /// This answer.
    Now(Result<(Answer, Vec<OwnedFd>)>),
    /// An answer later.
    Later,
    /// This answer, then the keeper's end.
    Last,
}

fn nothing() -> Outcome {
    Outcome::Now(Ok((Answer::Nothing, Vec::new())))
}

fn refuse(step: &str, cause: &str) -> Fault {
    Fault::new(FaultKind::State, step, "", cause)
}

struct Init {
    pid: u32,
    pidfd: OwnedFd,
}

/// A boot between its begin and the program's execution.
struct Booting {
    socket: OwnedFd,
    preparer: Option<OwnedFd>,
    executing: bool,
    fault: Option<Fault>,
    /// Who asked for the start; nobody asks for a reboot.
    asker: Option<Asker>,
}

/// What happens when the cgroup is empty.
enum Next {
    Reboot,
    End(Exit),
    /// The start failed.
    Fail(Fault, Option<Asker>),
}

/// Everything about one container.
pub(crate) struct Container {
    spec: ContainerSpec,
    limits: Limits,
    namespaces: Namespaces,
    cgroup: Cgroup,
    cgroup_events: File,
    state: ContainerState,
    booting: Option<Booting>,
    init: Option<Init>,
    next: Option<Next>,
    root: Option<OwnedFd>,
    terminals: Option<OwnedFd>,
    console: Console,
    execs: Execs,
    killed: bool,
    freezing: Vec<(Asker, bool)>,
}

impl Container {
    /// Makes what exists before PID 1.
    pub(crate) fn make(spec: ContainerSpec, reactor: &Reactor) -> Result<Self> {
        spec.check()
            .map_err(|error| Fault::new(FaultKind::Invalid, "reading", "the specification", error.to_string()))?;
        let namespaces = Namespaces::make(spec.idmap.as_ref())?;
        let cgroup = Cgroup::make(&spec)?;
        let cgroup_events = cgroup.events()?;
        reactor
            .add(&cgroup_events, Source::Cgroup, 0, EventFlags::PRI)
            .at("watching", "the cgroup")?;
        Ok(Self {
            limits: spec.limits.clone(),
            namespaces,
            cgroup,
            cgroup_events,
            state: ContainerState::Created,
            booting: None,
            init: None,
            next: None,
            root: None,
            terminals: None,
            console: Console::new(spec.console.log_bytes),
            execs: Execs::new(reactor)?,
            killed: false,
            freezing: Vec::new(),
            spec,
        })
    }

    pub(crate) fn id(&self) -> &str {
        &self.spec.id
    }

    /// Carries out a request.
    pub(crate) fn request(&mut self, reactor: &Reactor, asker: Asker, request: Request, fds: Vec<OwnedFd>) -> Outcome {
        let done = match request {
            Request::Hello { .. } => return Outcome::Now(self.hello()),
            Request::Start => {
                return self
                    .start(reactor, asker)
                    .map_or_else(|fault| Outcome::Now(Err(fault)), |()| Outcome::Later);
            }
            Request::Exec { .. } | Request::Sftp => return self.exec(reactor, asker, request, fds),
            Request::Freeze { frozen } => return self.freeze(asker, frozen),
            Request::Release => return self.release(),
            Request::Console => {
                return Outcome::Now(self.console.open_stream(reactor).map(|fd| (Answer::Nothing, vec![fd])));
            }
            Request::ConsoleLog => {
                let log = self.console.log().at("copying", "the console log");
                return Outcome::Now(log.map(|fd| (Answer::Nothing, vec![fd])));
            }
            Request::ExecSignal { id, signal } => self.execs.signal(&id, signal),
            Request::ExecForget { id } => self.execs.forget(&id),
            Request::Shutdown => self.halt(),
            Request::Reboot => self.signal_init(libc::SIGINT),
            Request::Kill => self.kill(),
            Request::ConsoleResize { cols, rows } => self.console.resize(cols, rows),
            Request::ConsoleClear => {
                self.console.clear_log();
                Ok(())
            }
            Request::SetLimits { limits } => self.set_limits(limits),
            Request::ServiceSignal { .. } | Request::ServiceStop => Err(Fault::new(
                FaultKind::Unsupported,
                "reading",
                "a request",
                "this keeper holds a container",
            )),
        };
        match done {
            Ok(()) => nothing(),
            Err(fault) => Outcome::Now(Err(fault)),
        }
    }

    fn hello(&self) -> Result<(Answer, Vec<OwnedFd>)> {
        let own = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty())
            .at("opening", "the keeper")?;
        let network = self
            .namespaces
            .network
            .try_clone()
            .at("copying", "the network namespace")?;
        let hello = Hello {
            version: PROTOCOL_VERSION,
            id: self.spec.id.clone(),
            pid: std::process::id(),
            container: Some(self.state.clone()),
            execs: self.execs.list(),
            service: None,
        };
        Ok((Answer::Hello(hello), vec![own, network]))
    }

    fn start(&mut self, reactor: &Reactor, asker: Asker) -> Result<()> {
        if self.state != ContainerState::Created || self.booting.is_some() || self.next.is_some() {
            return Err(refuse("starting", "it has been started already"));
        }
        self.boot(reactor, Some(asker))
    }

    /// Forks the preparer of a boot, the first or one more.
    fn boot(&mut self, reactor: &Reactor, asker: Option<Asker>) -> Result<()> {
        let (ours, theirs) = wire::pair().at("making", "a socket")?;
        // A reboot's preparer goes there by itself: kernels up to 6.18 at least kill whatever is forked into a cgroup that
        // `cgroup.kill` was used on before (`cgroup_css_set_fork` compares with the parent's count of kills).
        let first = self.state == ContainerState::Created;
        // SAFETY: the keeper has a single thread.
        let forked = unsafe { process::fork(0, first.then(|| self.cgroup.directory())) };
        match forked.at("forking into", format!("the cgroup {}", self.spec.cgroup))? {
            Forked::Child => {
                drop(ours);
                boot::prepare(Boot {
                    spec: &self.spec,
                    userns: self.namespaces.user.as_ref().map(AsFd::as_fd),
                    netns: self.namespaces.network.as_fd(),
                    cgroup: &self.cgroup,
                    inside: first,
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
        self.execs.retire(reactor);
        // That can only fail when the cgroup is gone, and then it is empty.
        drop(self.cgroup.kill());
        self.cgroup_ready(reactor, clients);
    }

    /// Something in `cgroup.events` may have changed.
    pub(crate) fn cgroup_ready(&mut self, reactor: &Reactor, clients: &mut Clients) {
        let (populated, frozen) = self.read_events();
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
                let booted = self.cgroup.clear(&self.spec).and_then(|()| self.boot(reactor, None));
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

    fn read_events(&self) -> (bool, bool) {
        let mut buffer = [0; 128];
        let length = std::os::unix::fs::FileExt::read_at(&self.cgroup_events, &mut buffer, 0).unwrap_or(0);
        let has = |line: &[u8]| buffer[..length].split(|byte| *byte == b'\n').any(|have| have == line);
        (has(b"populated 1"), has(b"frozen 1"))
    }

    fn kill(&mut self) -> Result<()> {
        self.killed = true;
        if matches!(self.state, ContainerState::Ended(_)) {
            return Ok(());
        }
        if self.state == ContainerState::Created && self.booting.is_none() && self.next.is_none() {
            return Err(refuse("killing", "it has not been started"));
        }
        self.cgroup.kill()
    }

    /// Asks PID 1 to halt.
    fn halt(&self) -> Result<()> {
        let pid = self.init.as_ref().map_or(0, |init| init.pid);
        let path = format!("/proc/{pid}/status");
        let text = std::fs::read_to_string(&path).map_err(|_| refuse("halting", "it does not run"))?;
        let systemd = listens(&text, HALT_SYSTEMD);
        self.signal_init(if systemd { HALT_SYSTEMD } else { libc::SIGPWR })
    }

    fn signal_init(&self, signal: i32) -> Result<()> {
        match (&self.init, &self.state) {
            (Some(init), ContainerState::Running { .. }) => {
                process::send_signal(&init.pidfd, signal).at("signalling", "PID 1")
            }
            _ => Err(refuse("signalling PID 1", "the container does not run")),
        }
    }

    fn freeze(&mut self, asker: Asker, frozen: bool) -> Outcome {
        if !matches!(self.state, ContainerState::Running { .. }) {
            return Outcome::Now(Err(refuse("freezing", "the container does not run")));
        }
        if let Err(fault) = self.cgroup.freeze(frozen) {
            return Outcome::Now(Err(fault));
        }
        if self.read_events().1 == frozen {
            if let ContainerState::Running { frozen: shown, .. } = &mut self.state {
                *shown = frozen;
            }
            return nothing();
        }
        self.freezing.push((asker, frozen));
        Outcome::Later
    }

    fn set_limits(&mut self, limits: Limits) -> Result<()> {
        limits
            .check()
            .map_err(|text| Fault::new(FaultKind::Invalid, "limiting", "", text))?;
        if let Err(fault) = self.cgroup.set_limits(&limits, &self.limits) {
            // Back to what was, as far as the kernel lets: the caller was told that nothing changed.
            drop(self.cgroup.set_limits(&self.limits, &limits));
            return Err(fault);
        }
        self.limits = limits;
        Ok(())
    }

    fn exec(&mut self, reactor: &Reactor, asker: Asker, request: Request, fds: Vec<OwnedFd>) -> Outcome {
        let (Some(init), Some(terminals), ContainerState::Running { frozen: false, .. }, None) =
            (&self.init, &self.terminals, &self.state, &self.booting)
        else {
            let frozen = matches!(self.state, ContainerState::Running { frozen: true, .. });
            let cause = if frozen {
                "the container is frozen"
            } else {
                "the container does not run"
            };
            return Outcome::Now(Err(refuse("executing", cause)));
        };
        let inside = crate::exec::Inside {
            spec: &self.spec,
            cgroup: &self.cgroup,
            init: &init.pidfd,
            terminals,
        };
        match self.execs.begin(reactor, &inside, asker, request, fds) {
            Ok(()) => Outcome::Later,
            Err(fault) => Outcome::Now(Err(fault)),
        }
    }

    fn release(&mut self) -> Outcome {
        let over = matches!(self.state, ContainerState::Created | ContainerState::Ended(_));
        if !over || self.booting.is_some() || self.next.is_some() {
            return Outcome::Now(Err(refuse("releasing", "the container runs")));
        }
        match self.cgroup.remove() {
            Ok(()) => Outcome::Last,
            Err(fault) => Outcome::Now(Err(fault)),
        }
    }

    /// A daemon has gone.
    pub(crate) fn client_gone(&mut self, reactor: &Reactor, client: u32) {
        self.execs.client_gone(reactor, client);
        self.freezing.retain(|(asker, _)| asker.client != client);
    }

    pub(crate) fn console(&mut self) -> &mut Console {
        &mut self.console
    }

    pub(crate) fn execs(&mut self) -> &mut Execs {
        &mut self.execs
    }
}

/// Waits for a process that has ended or is about to.
fn wait_for(pidfd: &OwnedFd) {
    use rustix::event::{PollFd, PollFlags, poll};
    // Neither can fail on a child's descriptor.
    let _ = poll(&mut [PollFd::new(pidfd, PollFlags::IN)], None);
    drop(process::reap(pidfd));
}

pub(crate) fn status(end: End) -> ExitStatus {
    match end {
        End::Code(code) => ExitStatus::Code(code),
        End::Signal(signal) => ExitStatus::Signal(signal),
    }
}

/// Whether a process waits for a signal, by `/proc/PID/status`: caught by a handler, or blocked to be read from a `signalfd(2)` as
/// systemd does.
fn listens(status: &str, signal: i32) -> bool {
    status
        .lines()
        .filter_map(|line| line.strip_prefix("SigBlk:").or_else(|| line.strip_prefix("SigCgt:")))
        .any(|mask| u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask >> (signal - 1) & 1 == 1))
}

#[cfg(test)]
mod tests {
    use super::listens;

    #[test]
    fn masks_are_read() {
        let status = "Name:\tsystemd\nSigBlk:\t7be3c0fe28014a03\nSigIgn:\t0\nSigCgt:\t00000000000004ec\n";
        assert!(listens(status, 37));
        assert!(listens(status, 3));
        assert!(!listens(status, 9));
    }
}

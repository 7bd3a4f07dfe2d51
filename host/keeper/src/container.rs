//! One container: what it is asked for. What happens to it is in [`lifecycle`].

mod lifecycle;
mod mounts;

use std::os::fd::{AsFd, OwnedFd};

use hutch_container::protocol::{Answer, Hello, PROTOCOL_VERSION, Request};
use hutch_container::{ContainerSpec, ContainerState, Exit, ExitStatus, Fault, FaultKind, Limits};
use hutch_sys::process::{self, End};
use rustix::event::epoll::EventFlags;

use crate::cgroup::Cgroup;
use crate::clients::{Asker, Clients};
use crate::console::Console;
use crate::exec::Execs;
use crate::fault::{At, Result};
use crate::intercept::{Intercepts, Scene};
use crate::namespaces::Namespaces;
use crate::reactor::Reactor;

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
    state: ContainerState,
    booting: Option<Booting>,
    init: Option<Init>,
    next: Option<Next>,
    root: Option<OwnedFd>,
    terminals: Option<OwnedFd>,
    console: Console,
    execs: Execs,
    intercepts: Intercepts,
    /// When PID 1 was begun, in seconds of the machine's time.
    booted: u64,
    killed: bool,
    freezing: Vec<(Asker, bool)>,
    mounting: Option<mounts::Changing>,
    abandoned: mounts::Abandoned,
    /// The connection for whose life the container is frozen with its file servers, and whether it was frozen before that.
    held_by: Option<(u32, bool)>,
}

impl Container {
    /// Makes what exists before PID 1.
    pub(crate) fn make(spec: ContainerSpec, reactor: &Reactor) -> Result<Self> {
        spec.check()
            .map_err(|error| Fault::new(FaultKind::Invalid, "reading", "the specification", error.to_string()))?;
        let namespaces = Namespaces::make(spec.idmap.as_ref())?;
        let cgroup = Cgroup::make(&spec)?;
        cgroup.watch(reactor)?;
        Ok(Self {
            limits: spec.limits.clone(),
            namespaces,
            cgroup,
            state: ContainerState::Created,
            booting: None,
            init: None,
            next: None,
            root: None,
            terminals: None,
            console: Console::new(spec.console.log_bytes),
            execs: Execs::new(reactor)?,
            intercepts: Intercepts::new(),
            booted: 0,
            killed: false,
            freezing: Vec::new(),
            mounting: None,
            abandoned: mounts::Abandoned::new(),
            held_by: None,
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
            Request::Freeze { frozen } => {
                self.held_by = None;
                return self.freeze(asker, frozen, false);
            }
            Request::Hold => {
                let paused = match self.held_by {
                    Some((_, paused)) => paused,
                    None => matches!(self.state, ContainerState::Running { frozen: true, .. }),
                };
                self.held_by = Some((asker.client, paused));
                return self.freeze(asker, true, true);
            }
            Request::SetMounts { mounts } => return self.set_mounts(reactor, asker, mounts),
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

    fn freeze(&mut self, asker: Asker, frozen: bool, all: bool) -> Outcome {
        if !matches!(self.state, ContainerState::Running { .. }) {
            return Outcome::Now(Err(refuse("freezing", "the container does not run")));
        }
        if let Err(fault) = self.cgroup.freeze(frozen, all) {
            return Outcome::Now(Err(fault));
        }
        if self.cgroup.is_frozen() == frozen {
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
        let (Some(init), Some(terminals), ContainerState::Running { frozen, .. }, None) =
            (&self.init, &self.terminals, &self.state, &self.booting)
        else {
            return Outcome::Now(Err(refuse("executing", "the container does not run")));
        };
        if *frozen && !matches!(request, Request::Sftp) {
            return Outcome::Now(Err(refuse("executing", "the container is frozen")));
        }
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
        if let Some((holder, paused)) = self.held_by
            && holder == client
        {
            self.held_by = None;
            // Nobody is left to be told; a cgroup that is gone holds nothing frozen.
            drop(self.cgroup.freeze(paused, false));
        }
    }

    /// The process that begins programs has something to say.
    pub(crate) fn guest_ready(&mut self, reactor: &Reactor, clients: &mut Clients, place: u32) {
        if let Some(listener) = self.execs.guest_ready(reactor, clients, place)
            && let Err(fault) = self.intercepts.listen(reactor, listener)
        {
            // Nobody would answer its calls.
            self.execs.guest_failed(reactor, clients, place, &fault);
        }
    }

    /// A call waits to be answered.
    pub(crate) fn call_ready(&mut self, reactor: &Reactor, place: u32, flags: EventFlags) {
        // Only unprivileged containers have listeners.
        let Some(userns) = &self.namespaces.user else { return };
        let scene = Scene {
            spec: &self.spec,
            cgroup: &self.cgroup,
            limits: &self.limits,
            userns: userns.as_fd(),
            booted: self.booted,
        };
        self.intercepts.ready(reactor, &scene, place, flags);
    }

    /// A process that answers a call may have had its time.
    pub(crate) fn helpers_late(&mut self) {
        let frozen = matches!(self.state, ContainerState::Running { frozen: true, .. });
        self.intercepts.timer_ready(frozen);
    }

    pub(crate) fn intercepts(&mut self) -> &mut Intercepts {
        &mut self.intercepts
    }

    pub(crate) fn console(&mut self) -> &mut Console {
        &mut self.console
    }

    pub(crate) fn execs(&mut self) -> &mut Execs {
        &mut self.execs
    }
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

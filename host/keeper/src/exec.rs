//! The programs that were begun from outside, and the keeper's side of the process that begins them.

mod beginner;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use hutch_container::protocol::{Answer, Reply, Request};
use hutch_container::{ContainerSpec, ExecInfo, ExitStatus, Fault, FaultKind, KeeperEvent};
use hutch_sys::process;
use hutch_sys::timer::Timer;
use rustix::event::epoll::EventFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::cgroup::Cgroup;
use crate::clients::{Asker, Clients};
use crate::container::status;
use crate::fault::{At, Result};
use crate::guest::{Begun, Forking, Order};
use crate::reactor::{Places, Reactor, Source};
use crate::wire;
use beginner::{Beginner, Kind};

/// Programs at a time, and ends of programs that no daemon has fetched.
const MOST_EXECS: usize = 1024;

/// Time without a new program after which the processes that begin them are let go. Their memory is worth more than the few
/// milliseconds of the next one.
const IDLE: Duration = Duration::from_secs(10);

/// What a new program needs of its container.
pub(crate) struct Inside<'a> {
    pub(crate) spec: &'a ContainerSpec,
    pub(crate) cgroup: &'a Cgroup,
    pub(crate) init: &'a OwnedFd,
    pub(crate) terminals: &'a OwnedFd,
}

/// A program, or a file server, which has no id and is forgotten at its end.
struct Exec {
    id: Option<String>,
    pid: u32,
    /// Whether the process that begins programs has still to answer for it; its place is taken until then.
    forking: bool,
    process: Option<OwnedFd>,
    /// While it begins: whom to answer, its reports, and what they said.
    beginning: Option<Beginning>,
    /// The daemon that began it.
    client: Option<u32>,
    /// Kept so that the program lives on without a daemon.
    terminal: Option<OwnedFd>,
    end: Option<ExitStatus>,
}

struct Beginning {
    asker: Asker,
    /// `None` once it has ended.
    report: Option<OwnedFd>,
    fault: Option<Fault>,
    /// What goes to the daemon with the answer.
    give: Option<OwnedFd>,
}

/// All programs of a container.
pub(crate) struct Execs {
    list: Places<Exec>,
    beginners: [Option<Beginner>; 2],
    timer: Timer,
}

impl Execs {
    pub(crate) fn new(reactor: &Reactor) -> Result<Self> {
        let timer = Timer::new().at("making", "a timer")?;
        reactor
            .add(&timer, Source::Timer, 0, EventFlags::IN)
            .at("watching", "a timer")?;
        Ok(Self {
            list: Places::new(),
            beginners: [None, None],
            timer,
        })
    }

    pub(crate) fn list(&self) -> Vec<ExecInfo> {
        let info = |exec: &Exec| {
            Some(ExecInfo {
                id: exec.id.clone()?,
                pid: exec.pid,
                status: exec.end,
            })
        };
        let begun = self.list.iter().filter(|(_, exec)| exec.beginning.is_none());
        begun.filter_map(|(_, exec)| info(exec)).collect()
    }

    /// Has a program begun; the answer follows.
    pub(crate) fn begin(
        &mut self,
        reactor: &Reactor,
        inside: &Inside<'_>,
        asker: Asker,
        request: Request,
        fds: Vec<OwnedFd>,
    ) -> Result<()> {
        let (id, order) = match request {
            Request::Exec { spec, pty } => (Some(self.accept(&spec, pty, &fds)?), Order::Program { spec, pty }),
            _ => (None, Order::Sftp),
        };
        if self.list.iter().count() >= MOST_EXECS {
            return Err(Fault::new(
                FaultKind::State,
                "executing",
                "",
                format!("{MOST_EXECS} programs are too many"),
            ));
        }
        let (report, theirs) = wire::pair().at("making", "a socket")?;
        let (streams, give) = match (&order, fds) {
            (Order::Program { .. }, fds) => (fds, None),
            (Order::Sftp, _) => {
                let (daemons, servers) =
                    socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                        .at("making", "a socket")?;
                (vec![servers], Some(daemons))
            }
        };
        let sent: Vec<BorrowedFd<'_>> = [theirs.as_fd()]
            .into_iter()
            .chain(streams.iter().map(AsFd::as_fd))
            .collect();
        let kind = match &order {
            Order::Program { .. } => Kind::Programs,
            Order::Sftp => Kind::Files,
        };
        let slot = &mut self.beginners[kind as usize];
        let beginner = match slot {
            Some(beginner) => beginner,
            None => slot.insert(Beginner::fork(reactor, inside, kind)?),
        };
        wire::send(&beginner.socket, &order, &sent).at("asking for", "a program")?;
        let beginning = Beginning {
            asker,
            report: Some(report),
            fault: None,
            give,
        };
        self.add(reactor, kind, id, beginning)?;
        self.timer.set(IDLE).at("setting", "a timer")
    }

    /// Notes a program that has been asked for.
    fn add(&mut self, reactor: &Reactor, kind: Kind, id: Option<String>, beginning: Beginning) -> Result<()> {
        let client = Some(beginning.asker.client);
        let place = self.list.insert(Exec {
            id,
            pid: 0,
            forking: true,
            process: None,
            beginning: Some(beginning),
            client,
            terminal: None,
            end: None,
        });
        if let Some(beginner) = &mut self.beginners[kind as usize] {
            beginner.waiting.push_back(place);
        }
        let beginning = self.list.get(place).and_then(|exec| exec.beginning.as_ref());
        let Some(report) = beginning.and_then(|beginning| beginning.report.as_ref()) else {
            return Ok(());
        };
        let added = reactor
            .add(report, Source::ExecReport, place, EventFlags::IN)
            .at("watching", "a program");
        if added.is_err()
            && let Some(exec) = self.list.get(place)
        {
            // The asker hears of it from here; what the process says and how it ends is of no interest then.
            (exec.beginning, exec.id) = (None, None);
        }
        added
    }

    fn accept(&self, spec: &hutch_container::ExecSpec, pty: Option<(u16, u16)>, fds: &[OwnedFd]) -> Result<String> {
        let invalid = |cause: String| Fault::new(FaultKind::Invalid, "executing", spec.id.as_str(), cause);
        spec.check().map_err(|error| invalid(error.to_string()))?;
        if fds.len() != if pty.is_some() { 0 } else { 3 } {
            return Err(invalid(format!("{} descriptors came with the request", fds.len())));
        }
        if self.list.iter().any(|(_, exec)| exec.id.as_ref() == Some(&spec.id)) {
            return Err(invalid("there is a program of this id".to_owned()));
        }
        Ok(spec.id.clone())
    }

    /// The timer has run out: nothing was begun for a while.
    pub(crate) fn timer_ready(&mut self, reactor: &Reactor) {
        if !self.timer.acknowledge() {
            return;
        }
        let mut busy = false;
        for kind in Kind::ALL {
            match &self.beginners[kind as usize] {
                Some(beginner) if beginner.waiting.is_empty() => self.retire(reactor, kind),
                Some(_) => busy = true,
                None => {}
            }
        }
        if busy {
            drop(self.timer.set(IDLE));
        } else {
            hutch_sys::memory::forget_code();
        }
    }

    /// Lets the processes that begin programs go.
    pub(crate) fn retire_all(&mut self, reactor: &Reactor) {
        Kind::ALL.into_iter().for_each(|kind| self.retire(reactor, kind));
    }

    fn retire(&mut self, reactor: &Reactor, kind: Kind) {
        let Some(beginner) = self.beginners[kind as usize].take() else {
            return;
        };
        for place in beginner.end(reactor) {
            if let Some(exec) = self.list.get(place) {
                exec.forking = false;
            }
            self.fail(
                place,
                Fault::new(FaultKind::State, "executing", "", "the container has ended"),
            );
        }
    }

    fn fail(&mut self, place: u32, fault: Fault) {
        if let Some(beginning) = self.list.get(place).and_then(|exec| exec.beginning.as_mut()) {
            beginning.fault.get_or_insert(fault);
        }
    }

    /// The answer to an order, or the process's end; or the descriptor on which intercepted calls of its programs are told, which is
    /// returned.
    #[must_use]
    pub(crate) fn guest_ready(&mut self, reactor: &Reactor, clients: &mut Clients, number: u32) -> Option<OwnedFd> {
        let kind = Kind::numbered(number)?;
        let beginner = self.beginners[kind as usize].as_mut()?;
        let Ok(Some(incoming)) = wire::receive(&beginner.socket) else {
            self.guest_ended(reactor, clients, number);
            return None;
        };
        let said = wire::parse::<Forking>(&incoming.bytes).at("reading", "a report");
        let beside = incoming.fds.into_iter().next();
        if let Ok(Forking::Listener) = said {
            return beside;
        }
        let place = beginner.waiting.pop_front()?;
        self.guest_answered(reactor, kind, place, said, beside);
        self.settle(reactor, clients, place);
        None
    }

    fn guest_answered(
        &mut self,
        reactor: &Reactor,
        kind: Kind,
        place: u32,
        said: Result<Forking>,
        beside: Option<OwnedFd>,
    ) {
        if let Some(exec) = self.list.get(place) {
            exec.forking = false;
        }
        match (said, beside, self.list.get(place)) {
            (Ok(Forking::Pid(pid)), Some(pidfd), Some(exec)) => {
                exec.pid = pid;
                let added = reactor.add(&pidfd, Source::ExecProcess, place, EventFlags::IN);
                exec.process = Some(pidfd);
                if let Err(fault) = added.at("watching", "a program") {
                    self.fail(place, fault);
                }
            }
            (Ok(Forking::Failed(fault)) | Err(fault), _, _) => {
                self.fail(place, fault);
                // The next one begins anew: this one may have failed to join.
                let idle = |beginner: &Beginner| beginner.waiting.is_empty();
                if self.beginners[kind as usize].as_ref().is_some_and(idle) {
                    self.retire(reactor, kind);
                }
            }
            _ => self.fail(place, Fault::system("executing", "", libc::EPROTO)),
        }
    }

    /// A process that begins programs is of no use, because of this fault.
    pub(crate) fn guest_failed(&mut self, reactor: &Reactor, clients: &mut Clients, number: u32, fault: &Fault) {
        let kind = Kind::numbered(number);
        let waiting = kind.and_then(|kind| Some(self.beginners[kind as usize].as_ref()?.waiting.clone()));
        for place in waiting.into_iter().flatten() {
            self.fail(place, fault.clone());
        }
        self.guest_ended(reactor, clients, number);
    }

    /// A report of a program that begins, or the end of them, which is its execution.
    pub(crate) fn report_ready(&mut self, reactor: &Reactor, clients: &mut Clients, place: u32) {
        let Some(exec) = self.list.get(place) else { return };
        let Some(beginning) = &mut exec.beginning else { return };
        let Some(report) = &beginning.report else { return };
        match wire::receive(report) {
            Ok(Some(incoming)) => match wire::parse::<Begun>(&incoming.bytes) {
                Ok(Begun::Terminal) => {
                    exec.terminal = incoming.fds.into_iter().next();
                    beginning.give = exec.terminal.as_ref().and_then(|terminal| terminal.try_clone().ok());
                }
                Ok(Begun::Failed(fault)) => drop(beginning.fault.get_or_insert(fault)),
                Err(error) => {
                    beginning.fault.get_or_insert(Fault::new(
                        FaultKind::System,
                        "reading",
                        "a report",
                        error.to_string(),
                    ));
                }
            },
            Ok(None) | Err(_) => {
                reactor.remove(report);
                beginning.report = None;
                self.settle(reactor, clients, place);
            }
        }
    }

    /// Answers the asker once the program has been forked and has executed, or one of both has failed.
    fn settle(&mut self, reactor: &Reactor, clients: &mut Clients, place: u32) {
        let Some(exec) = self.list.get(place) else { return };
        let Some(beginning) = &mut exec.beginning else {
            return self.drop_if_over(reactor, place);
        };
        let asker = beginning.asker;
        if let Some(fault) = beginning.fault.take() {
            if let Some(report) = &beginning.report {
                reactor.remove(report);
            }
            clients.answer(reactor, asker, Err(fault));
            exec.beginning = None;
            exec.id = None;
            return self.drop_if_over(reactor, place);
        }
        if beginning.report.is_some() || exec.process.is_none() && exec.end.is_none() {
            return;
        }
        let fds = beginning.give.take().into_iter().collect();
        let pid = exec.pid;
        exec.beginning = None;
        clients.answer(reactor, asker, Ok((Answer::Exec { pid }, fds)));
        if let (Some(id), Some(status)) = (exec.id.clone(), exec.end) {
            clients.tell(reactor, &Reply::Event(KeeperEvent::ExecExited { id, status }));
        }
    }

    /// Frees the place of one without a name, as a failed one is, of which nothing is to come any more.
    fn drop_if_over(&mut self, reactor: &Reactor, place: u32) {
        let over =
            |exec: &mut Exec| exec.id.is_none() && exec.beginning.is_none() && !exec.forking && exec.process.is_none();
        if self.list.get(place).is_some_and(over)
            && let Some(Exec {
                terminal: Some(terminal),
                ..
            }) = self.list.remove(place)
        {
            reactor.remove(&terminal);
        }
    }

    /// A program has ended.
    pub(crate) fn process_ready(&mut self, reactor: &Reactor, clients: &mut Clients, place: u32) {
        let Some(exec) = self.list.get(place) else { return };
        let Some(process) = &exec.process else { return };
        let end = match process::reap(process) {
            Ok(Some(end)) => end,
            Ok(None) => return,
            Err(_) => process::End::Signal(libc::SIGKILL),
        };
        reactor.remove(process);
        exec.process = None;
        exec.end = Some(status(end));
        if let Some(terminal) = exec.terminal.take() {
            reactor.remove(&terminal);
        }
        match (&exec.id, &exec.beginning) {
            (None, None) => self.drop_if_over(reactor, place),
            (Some(id), None) => {
                let event = KeeperEvent::ExecExited {
                    id: id.clone(),
                    status: status(end),
                };
                clients.tell(reactor, &Reply::Event(event));
            }
            // Told after the answer.
            (_, Some(_)) => self.settle(reactor, clients, place),
        }
    }

    /// Reaps every program: the cgroup is empty.
    pub(crate) fn reap(&mut self, reactor: &Reactor, clients: &mut Clients) {
        for place in self.list.places() {
            while self
                .list
                .get(place)
                .is_some_and(|exec| exec.beginning.as_ref().is_some_and(|b| b.report.is_some()))
            {
                self.report_ready(reactor, clients, place);
            }
            self.settle(reactor, clients, place);
            self.process_ready(reactor, clients, place);
        }
    }

    pub(crate) fn signal(&mut self, id: &str, signal: i32) -> Result<()> {
        let missing = || Fault::new(FaultKind::NotFound, "signalling", id, "no such program runs");
        let process = self.find(id)?.process.as_ref().ok_or_else(missing)?;
        process::send_signal(process, signal).at("signalling", id)
    }

    fn find(&mut self, id: &str) -> Result<&mut Exec> {
        let place = self
            .list
            .iter()
            .find(|(_, exec)| exec.id.as_deref() == Some(id))
            .map(|(place, _)| place);
        let missing = || Fault::new(FaultKind::NotFound, "looking for", id, "no such program");
        place.and_then(|place| self.list.get(place)).ok_or_else(missing)
    }

    pub(crate) fn forget(&mut self, id: &str) -> Result<()> {
        if self.find(id)?.end.is_none() {
            return Err(Fault::new(FaultKind::State, "forgetting", id, "it runs"));
        }
        let place = self
            .list
            .iter()
            .find(|(_, exec)| exec.id.as_deref() == Some(id))
            .map(|(place, _)| place);
        place.and_then(|place| self.list.remove(place));
        Ok(())
    }

    /// Programs of a daemon that has gone run on: what they write to their terminals is read here, and dropped, from now on.
    pub(crate) fn client_gone(&mut self, reactor: &Reactor, client: u32) {
        for place in self.list.places() {
            let Some(exec) = self.list.get(place) else { continue };
            if exec.client != Some(client) {
                continue;
            }
            exec.client = None;
            if let Some(terminal) = &exec.terminal {
                let prepared = rustix::io::ioctl_fionbio(terminal, true);
                if prepared
                    .and_then(|()| {
                        reactor
                            .add(terminal, Source::ExecTerminal, place, EventFlags::IN)
                            .map_err(|_| rustix::io::Errno::NOMEM)
                    })
                    .is_err()
                {
                    exec.terminal = None;
                }
            }
        }
    }

    /// Reads what nobody does.
    pub(crate) fn terminal_ready(&mut self, reactor: &Reactor, place: u32) {
        let Some(exec) = self.list.get(place) else { return };
        let Some(terminal) = &exec.terminal else { return };
        match rustix::io::read(terminal, &mut [0; 4096]) {
            Ok(1..) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            // No process has it open any more.
            Ok(0) | Err(_) => {
                reactor.remove(terminal);
                exec.terminal = None;
            }
        }
    }

    /// A process that begins programs has ended unasked.
    pub(crate) fn guest_ended(&mut self, reactor: &Reactor, clients: &mut Clients, number: u32) {
        let Some(kind) = Kind::numbered(number) else { return };
        let Some(beginner) = &self.beginners[kind as usize] else {
            return;
        };
        let waiting: Vec<u32> = beginner.waiting.iter().copied().collect();
        self.retire(reactor, kind);
        waiting
            .into_iter()
            .for_each(|place| self.settle(reactor, clients, place));
    }
}

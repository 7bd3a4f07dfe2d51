//! A helper program that is kept running.

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hutch_container::protocol::{Answer, Hello, PROTOCOL_VERSION, Reply, Request};
use hutch_container::{CGROUP_PARENT, Fault, FaultKind, ServiceSpec, ServiceState};
use hutch_sys::cgroup::Hierarchies;
use hutch_sys::process::{self, Forked};
use hutch_sys::timer::Timer;
use rustix::event::epoll::EventFlags;
use rustix::fs::{Mode, OFlags, open, openat};

use crate::boot::{c_string, environment, security};
use crate::clients::{Asker, Clients, Heard};
use crate::container::status;
use crate::fault::{At, Result};
use crate::reactor::{Reactor, Ready, Source};

/// Where distributions have their programs; the program's own environment has nothing else that is not asked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The pause before a program is started again: doubled, up to the second, whenever it had run for less than the third.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const LONG_ENOUGH: Duration = Duration::from_secs(10);

/// Time between asking a program to end and killing it.
const GRACE: Duration = Duration::from_secs(5);

/// Bytes of log above which it is begun anew.
const LONGEST_LOG: u64 = 1024 * 1024;

/// The program, its cgroup and what is known of it.
pub(crate) struct Service {
    spec: ServiceSpec,
    cgroup: OwnedFd,
    cgroup_name: String,
    process: Option<(u32, OwnedFd)>,
    started: Instant,
    timer: Timer,
    pause: Duration,
    state: ServiceState,
    stopping: Vec<Asker>,
}

impl Service {
    /// Starts the program. Its cgroup, of this name, is what finds it even when this keeper has been killed.
    pub(crate) fn make(spec: ServiceSpec, cgroup_name: &str, reactor: &Reactor) -> Result<Self> {
        let invalid = |cause: String| Fault::new(FaultKind::Invalid, "reading", "the specification", cause);
        spec.check().map_err(|error| invalid(error.to_string()))?;
        hutch_container::check_file_name("cgroup", cgroup_name).map_err(|error| invalid(error.to_string()))?;
        let timer = Timer::new().at("making", "a timer")?;
        reactor
            .add(&timer, Source::Timer, 0, EventFlags::IN)
            .at("watching", "a timer")?;
        let mut this = Self {
            spec,
            cgroup: make_cgroup(cgroup_name)?,
            cgroup_name: cgroup_name.to_owned(),
            process: None,
            started: Instant::now(),
            timer,
            pause: FIRST_PAUSE,
            state: ServiceState {
                pid: None,
                restarts: 0,
                last_exit: None,
            },
            stopping: Vec::new(),
        };
        match this.start(reactor) {
            Ok(()) => Ok(this),
            Err(fault) => {
                this.remove_cgroup();
                Err(fault)
            }
        }
    }

    pub(crate) fn id(&self) -> &str {
        &self.spec.id
    }

    fn start(&mut self, reactor: &Reactor) -> Result<()> {
        let (failed, report) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).at("making", "a pipe")?;
        let log = self.open_log()?;
        // SAFETY: the keeper has a single thread.
        match unsafe { process::fork(0, None) }.at("forking for", &self.spec.program)? {
            Forked::Child => {
                drop(failed);
                let fault = match enter(&self.cgroup).and_then(|()| execute(&self.spec, &log, &report)) {
                    Err(fault) => fault,
                    Ok(never) => match never {},
                };
                // A fault is a few hundred bytes, which a pipe takes at once.
                let _ = rustix::io::write(&report, &serde_json::to_vec(&fault).unwrap_or_default());
                process::exit(127)
            }
            Forked::Parent { pid, pidfd } => {
                drop(report);
                let mut text = Vec::new();
                std::io::Read::read_to_end(&mut fs::File::from(failed), &mut text).at("reading", "a pipe")?;
                if let Ok(fault) = serde_json::from_slice::<Fault>(&text) {
                    wait_for(&pidfd);
                    return Err(fault);
                }
                reactor
                    .add(&pidfd, Source::Service, 0, EventFlags::IN)
                    .at("watching", &self.spec.program)?;
                self.process = Some((pid, pidfd));
                self.state.pid = Some(pid);
                self.started = Instant::now();
                Ok(())
            }
        }
    }

    fn open_log(&self) -> Result<OwnedFd> {
        let path = self.spec.log.clone().unwrap_or_else(|| PathBuf::from("/dev/null"));
        let mut options = fs::OpenOptions::new();
        options.append(true).create(true).mode(0o600);
        let log = options.open(&path).at("opening", &path)?;
        if log.metadata().at("reading", &path)?.len() > LONGEST_LOG {
            log.set_len(0).at("cutting", &path)?;
        }
        Ok(log.into())
    }

    /// Deals with one event; `true` when it was the last.
    pub(crate) fn event(&mut self, reactor: &Reactor, clients: &mut Clients, event: Ready) -> bool {
        let Ready { source, place, flags } = event;
        match source {
            Source::Listener => clients.accept(reactor),
            Source::Client => {
                if let Heard::Request(asker, request, _) = clients.ready(reactor, place, flags) {
                    return self.request(reactor, clients, asker, &request);
                }
            }
            Source::Service => return self.ended(reactor, clients),
            Source::Timer => self.timer_ready(reactor, clients),
            _ => {}
        }
        false
    }

    fn request(&mut self, reactor: &Reactor, clients: &mut Clients, asker: Asker, request: &Request) -> bool {
        let done = match request {
            Request::Hello { .. } => self.hello(),
            Request::ServiceSignal { signal } => self.signal(*signal).map(|()| (Answer::Nothing, Vec::new())),
            Request::ServiceStop => {
                self.stopping.push(asker);
                return self.stop(reactor, clients);
            }
            _ => Err(Fault::new(
                FaultKind::Unsupported,
                "reading",
                "a request",
                "this keeper holds a service",
            )),
        };
        clients.answer(reactor, asker, done);
        false
    }

    fn hello(&self) -> Result<(Answer, Vec<OwnedFd>)> {
        let own = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty())
            .at("opening", "the keeper")?;
        let hello = Hello {
            version: PROTOCOL_VERSION,
            id: self.spec.id.clone(),
            pid: std::process::id(),
            container: None,
            execs: Vec::new(),
            service: Some(self.state.clone()),
        };
        Ok((Answer::Hello(hello), vec![own]))
    }

    fn signal(&self, signal: i32) -> Result<()> {
        match &self.process {
            Some((_, pidfd)) => process::send_signal(pidfd, signal).at("signalling", &self.spec.program),
            None => Err(Fault::new(
                FaultKind::State,
                "signalling",
                self.id(),
                "it does not run just now",
            )),
        }
    }

    fn stop(&mut self, reactor: &Reactor, clients: &mut Clients) -> bool {
        if self.process.is_none() {
            return self.finish(reactor, clients);
        }
        // It may have ended just now, of which the event is on its way; without a timer it is killed at once.
        drop(self.signal(libc::SIGTERM));
        if self.timer.set(GRACE).is_err() {
            drop(self.signal(libc::SIGKILL));
        }
        false
    }

    /// The program has ended.
    fn ended(&mut self, reactor: &Reactor, clients: &mut Clients) -> bool {
        let Some((_, pidfd)) = &self.process else { return false };
        let Ok(Some(end)) = process::reap(pidfd) else {
            return false;
        };
        reactor.remove(pidfd);
        self.process = None;
        self.state.pid = None;
        self.state.last_exit = Some(status(end));
        if !self.stopping.is_empty() {
            return self.finish(reactor, clients);
        }
        self.pause_and_retry();
        clients.tell(reactor, &Reply::Service(self.state.clone()));
        false
    }

    fn pause_and_retry(&mut self) {
        // What it has started must not be in the way of the next one.
        drop(self.kill_rest());
        if self.started.elapsed() >= LONG_ENOUGH {
            self.pause = FIRST_PAUSE;
        }
        // It is a descriptor of our own and the time is short: that can't fail.
        drop(self.timer.set(self.pause));
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    fn timer_ready(&mut self, reactor: &Reactor, clients: &mut Clients) {
        if !self.timer.acknowledge() {
            return;
        }
        if !self.stopping.is_empty() {
            drop(self.signal(libc::SIGKILL));
            return;
        }
        if self.process.is_some() {
            return;
        }
        self.state.restarts += 1;
        if self.start(reactor).is_err() {
            self.state.last_exit = Some(hutch_container::ExitStatus::Code(127));
            self.pause_and_retry();
        }
        clients.tell(reactor, &Reply::Service(self.state.clone()));
    }

    fn finish(&mut self, reactor: &Reactor, clients: &mut Clients) -> bool {
        self.remove_cgroup();
        for asker in std::mem::take(&mut self.stopping) {
            clients.answer(reactor, asker, Ok((Answer::Nothing, Vec::new())));
        }
        true
    }

    fn kill_rest(&self) -> std::io::Result<()> {
        let root = Hierarchies::find().unified().ok_or(std::io::ErrorKind::NotFound)?;
        fs::write(
            root.join(CGROUP_PARENT).join(&self.cgroup_name).join("cgroup.kill"),
            "1",
        )
    }

    fn remove_cgroup(&self) {
        // What can't be removed now is when the service is ensured or asked for the next time.
        drop(Hierarchies::find().kill_and_remove(CGROUP_PARENT, &self.cgroup_name));
    }
}

fn make_cgroup(name: &str) -> Result<OwnedFd> {
    let missing = || {
        Fault::new(
            FaultKind::Unsupported,
            "looking for",
            "cgroup v2",
            "the unified hierarchy is not mounted",
        )
    };
    let dir = Hierarchies::find()
        .unified()
        .ok_or_else(missing)?
        .join(CGROUP_PARENT)
        .join(name);
    fs::create_dir_all(&dir).at("making", &dir)?;
    open(
        &dir,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .at("opening", &dir)
}

fn wait_for(pidfd: &OwnedFd) {
    use rustix::event::{PollFd, PollFlags, poll};
    // Neither can fail on a child's descriptor.
    let _ = poll(&mut [PollFd::new(pidfd, PollFlags::IN)], None);
    drop(process::reap(pidfd));
}

/// Moves this process into the cgroup. It is not forked into it: kernels up to 6.18 at least kill whatever is forked so into a cgroup
/// that `cgroup.kill` was used on before (`cgroup_css_set_fork` compares with the parent's count of kills).
fn enter(cgroup: &OwnedFd) -> Result<()> {
    let file = openat(cgroup, "cgroup.procs", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
    file.and_then(|file| rustix::io::write(&file, b"0"))
        .map(drop)
        .at("entering", "the cgroup of the service")
}

/// The service's directory as the program is to see it. What is bound for that is in a namespace of the program's own; mounts
/// that are made outside later still reach it.
fn place(spec: &ServiceSpec) -> Result<&std::path::Path> {
    use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
    let Some(place) = &spec.appears_at else {
        return Ok(&spec.dir);
    };
    // SAFETY: this process has one thread, and no descriptor table or memory is unshared.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }.at("making", "a mount namespace")?;
    let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", slave).at("separating", "the mount namespace")?;
    mount_bind(&spec.dir, place).at("binding", place)?;
    Ok(place)
}

/// The program's process up to its execution.
fn execute(spec: &ServiceSpec, log: &OwnedFd, report: &OwnedFd) -> Result<std::convert::Infallible> {
    process::default_signals();
    process::block_signals(false);
    process::close_others(&[log.as_fd(), report.as_fd()]).at("closing", "descriptors")?;
    rustix::process::setsid().at("making", "a session")?;
    for stream in [1, 2] {
        // SAFETY: these are this process's standard streams, which nothing here owns; they are replaced.
        if unsafe { libc::dup2(log.as_raw_fd(), stream) } < 0 {
            return Err(std::io::Error::last_os_error()).at("opening", "the log");
        }
    }
    let dir = place(spec)?;
    rustix::process::chdir(dir).at("entering", dir)?;
    if let Some((uid, gid)) = spec.user {
        security::become_user(uid, gid, &[])?;
    }
    let name = spec.program.to_string_lossy();
    let program = c_string(&name)?;
    let arguments: Vec<CString> = std::iter::once(Ok(program.clone()))
        .chain(spec.args.iter().map(|word| c_string(word)))
        .collect::<Result<_>>()?;
    let path = ("PATH".to_owned(), PATH.to_owned());
    let environment = environment(spec.env.iter().filter(|(name, _)| name != "PATH").chain([&path]))?;
    let mut fault = Err(process::execute(&program, &arguments, &environment)).at("executing", &spec.program);
    if let Err(fault) = &mut fault
        && matches!(fault.errno, libc::ENOENT | libc::ENOTDIR)
    {
        fault.kind = FaultKind::NotFound;
    }
    fault
}

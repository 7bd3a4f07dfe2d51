//! Calls that a container's programs make and that the keeper answers (`seccomp_unotify(2)`).
//!
//! The keeper itself does no more than to take a call from its listener and to fork a *helper* for it: what the call's arguments
//! point at, and where its paths lead, is the container's, which can let any look at it last for ever (a page of `userfaultfd(2)`, a
//! file system of its own). A helper has [`PATIENCE`], there are at most [`MOST_HELPERS`] of a container, and while there are so many, further
//! calls wait in the kernel and the keeper goes on with everything else. Helpers are in the container's cgroup: they count
//! against its limits, freeze and end with it.
//!
//! **What a hostile caller gains by changing what it has given: nothing.**
//! - Numbers are taken from the notification, which has the registers' values. What lies in memory is copied once; what was checked is
//!   that copy, and the copy is what is used.
//! - The caller is named by its thread's number, which could become another's. Its directory in `/proc` is opened first, and only then is
//!   the kernel asked whether the call still waits ([`notify::is_waiting`]): if so, that directory is the caller's, and all else is
//!   opened below it, which fails once the caller is gone. Nothing is looked up by the number again.
//! - Paths are resolved once, in the caller's root and mount namespace, with the caller's own ids and capabilities in the container's user
//!   namespace, into a descriptor; what is done is done to that descriptor. Whatever a path is exchanged for meanwhile, nothing is
//!   reached that the caller could not reach itself.
//! - What is added to the caller's own powers does not depend on the path: a device node is one of [`mknod::SAFE`], by the numbers in the
//!   registers, and is made before a path is looked at; the attribute and its value are constants.
//! - [`Answer::Continue`] lets the kernel carry the call out with the caller's own powers, as without the filter. It is the answer
//!   whenever a call is not one of those that get more, or anything about it is odd: the kernel then says what is wrong with it, if anything is.

mod mknod;
mod setxattr;
mod sysinfo;
mod target;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use hutch_container::{ContainerSpec, Limits};
use hutch_sys::process::{self, End, Forked};
use hutch_sys::seccomp::name_of;
use hutch_sys::seccomp::notify::{self, Answer, Notification};
use hutch_sys::timer::Timer;
use rustix::event::epoll::EventFlags;

use crate::cgroup::Cgroup;
use crate::fault::{At, Result};
use crate::reactor::{Places, Reactor, Source};
use target::Target;

/// How long a helper may take. A container that is frozen does not use it up.
const PATIENCE: Duration = Duration::from_secs(10);

/// Helpers of one container at a time.
const MOST_HELPERS: usize = 8;

/// What a helper needs of its container.
pub(crate) struct Scene<'a> {
    pub(crate) spec: &'a ContainerSpec,
    pub(crate) cgroup: &'a Cgroup,
    pub(crate) limits: &'a Limits,
    pub(crate) userns: BorrowedFd<'a>,
    /// When PID 1 was begun, by the machine's time since its start.
    pub(crate) booted: u64,
}

struct Helper {
    process: OwnedFd,
    /// A copy, so that what it listens to stays the same.
    listener: OwnedFd,
    call: u64,
    deadline: Instant,
}

/// The calls of a container that are answered here.
pub(crate) struct Intercepts {
    /// PID 1's, and one of each process that began programs while any of those lives.
    listeners: Places<OwnedFd>,
    helpers: Places<Helper>,
    /// Made with the first listener.
    timer: Option<Timer>,
    /// Whether there are as many helpers as there may be, and listeners are left alone.
    full: bool,
}

impl Intercepts {
    pub(crate) const fn new() -> Self {
        Self {
            listeners: Places::new(),
            helpers: Places::new(),
            timer: None,
            full: false,
        }
    }

    /// Answers what is told on one more listener, until nobody is left who could make a call.
    pub(crate) fn listen(&mut self, reactor: &Reactor, listener: OwnedFd) -> Result<()> {
        if self.timer.is_none() {
            let timer = Timer::new().at("making", "a timer")?;
            reactor
                .add(&timer, Source::HelperTimer, 0, EventFlags::IN)
                .at("watching", "a timer")?;
            self.timer = Some(timer);
        }
        let wanted = self.wanted();
        let place = self.listeners.insert(listener);
        let Some(listener) = self.listeners.get(place) else {
            return Ok(());
        };
        let added = reactor.add(listener, Source::Listening, place, wanted);
        if added.is_err() {
            self.listeners.remove(place);
        }
        added.at("watching", "system calls")
    }

    fn wanted(&self) -> EventFlags {
        if self.full { EventFlags::empty() } else { EventFlags::IN }
    }

    /// A call waits, or the last process that could make one is gone.
    pub(crate) fn ready(&mut self, reactor: &Reactor, scene: &Scene<'_>, place: u32, flags: EventFlags) {
        let Some(listener) = self.listeners.get(place) else {
            return;
        };
        if flags.contains(EventFlags::IN) && !self.full {
            // One at a time: whatever else waits for the keeper comes in between.
            if let Ok(call) = notify::receive(listener.as_fd()) {
                self.begin(reactor, scene, place, &call);
            }
        } else if flags.intersects(EventFlags::HUP | EventFlags::ERR) {
            reactor.remove(listener);
            self.listeners.remove(place);
        }
    }

    fn begin(&mut self, reactor: &Reactor, scene: &Scene<'_>, place: u32, call: &Notification) {
        let Some(listener) = self.listeners.get(place) else {
            return;
        };
        let begun = match Request::of(call) {
            None => Err(Answer::Continue),
            Some(request) => listener
                .try_clone()
                .and_then(|listener| Ok((fork(scene, &listener, call, request)?, listener)))
                .map_err(|error| Answer::Errno(error.raw_os_error().unwrap_or(libc::ENOMEM))),
        };
        match begun {
            Ok((process, listener)) => self.watch(
                reactor,
                Helper {
                    process,
                    listener,
                    call: call.id,
                    deadline: Instant::now() + PATIENCE,
                },
            ),
            // A caller that is gone needs no answer.
            Err(answer) => drop(notify::answer(listener.as_fd(), call.id, answer)),
        }
    }

    fn watch(&mut self, reactor: &Reactor, helper: Helper) {
        let place = self.helpers.insert(helper);
        let Some(helper) = self.helpers.get(place) else {
            return;
        };
        if reactor
            .add(&helper.process, Source::Helper, place, EventFlags::IN)
            .is_err()
        {
            // Without memory for the watch there is no telling when it ends.
            drop(process::send_signal(&helper.process, libc::SIGKILL));
            drop(notify::answer(
                helper.listener.as_fd(),
                helper.call,
                Answer::Errno(libc::ENOMEM),
            ));
            self.helpers.remove(place);
            return;
        }
        self.set_timer();
        self.balance(reactor);
    }

    /// A helper has ended.
    pub(crate) fn helper_ended(&mut self, reactor: &Reactor, place: u32) {
        let Some(helper) = self.helpers.remove(place) else {
            return;
        };
        reactor.remove(&helper.process);
        // It is readable because it has ended (pidfd_open(2)).
        if !matches!(process::reap(&helper.process), Ok(Some(End::Code(0)))) {
            // It has not answered; if it has after all, this is refused.
            drop(notify::answer(
                helper.listener.as_fd(),
                helper.call,
                Answer::Errno(libc::EIO),
            ));
        }
        self.set_timer();
        self.balance(reactor);
    }

    /// A helper has had its time, unless the container was frozen meanwhile.
    pub(crate) fn timer_ready(&mut self, frozen: bool) {
        if !self.timer.as_ref().is_some_and(Timer::acknowledge) {
            return;
        }
        let now = Instant::now();
        for place in self.helpers.places() {
            let Some(helper) = self.helpers.get(place).filter(|helper| helper.deadline <= now) else {
                continue;
            };
            helper.deadline = now + PATIENCE;
            if !frozen {
                // Its end is an event of its own. It may be long in coming, as long as a disk does not answer; so long its place is taken.
                drop(process::send_signal(&helper.process, libc::SIGKILL));
            }
        }
        self.set_timer();
    }

    fn set_timer(&self) {
        let next = self.helpers.iter().map(|(_, helper)| helper.deadline).min();
        let wait = next.map_or(Duration::ZERO, |next| {
            // Zero would unset it.
            next.saturating_duration_since(Instant::now())
                .max(Duration::from_millis(1))
        });
        if let Some(timer) = &self.timer {
            // The time is within what a clock can be set to.
            drop(timer.set(wait));
        }
    }

    /// Leaves the listeners alone while there are as many helpers as there may be.
    fn balance(&mut self, reactor: &Reactor) {
        let full = self.helpers.iter().count() >= MOST_HELPERS;
        if full == self.full {
            return;
        }
        self.full = full;
        for (place, listener) in self.listeners.iter() {
            // It is registered, so that this can't fail.
            let _ = reactor.modify(listener, Source::Listening, place, self.wanted());
        }
    }
}

/// A call for which somebody has to be forked, as far as its registers tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Request {
    Mknod(mknod::Request),
    Setxattr(setxattr::Request),
    Sysinfo { address: u64, compat: bool },
}

impl Request {
    /// `None` for one that the kernel is to carry out as it would without a filter.
    fn of(call: &Notification) -> Option<Self> {
        let name = name_of(call.arch, call.number)?;
        match name {
            "mknod" | "mknodat" => mknod::Request::of(name, &call.arguments).map(Self::Mknod),
            "setxattr" | "lsetxattr" | "fsetxattr" => setxattr::Request::of(name, &call.arguments).map(Self::Setxattr),
            "sysinfo" => Some(Self::Sysinfo {
                address: call.arguments[0],
                compat: hutch_sys::seccomp::is_compat(call.arch),
            }),
            _ => None,
        }
    }
}

/// Forks a helper.
fn fork(scene: &Scene<'_>, listener: &OwnedFd, call: &Notification, request: Request) -> std::io::Result<OwnedFd> {
    let into = |cgroup: BorrowedFd<'_>| {
        // SAFETY: the keeper has a single thread.
        unsafe { process::fork(0, Some(cgroup)) }
    };
    let forked = match into(scene.cgroup.guests()) {
        // The container's root may have removed it.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => {
            match scene.cgroup.renew_guests(scene.spec) {
                Ok(guests) => into(guests.as_fd()),
                Err(fault) => Err(std::io::Error::from_raw_os_error(fault.errno)),
            }
        }
        forked => forked,
    };
    match forked? {
        Forked::Parent { pidfd, .. } => Ok(pidfd),
        Forked::Child => help(scene, listener, call, request),
    }
}

/// The helper.
fn help(scene: &Scene<'_>, listener: &OwnedFd, call: &Notification, request: Request) -> ! {
    // What it takes on behalf of the container is counted there, as what a command of it takes.
    let prepared = scene.cgroup.enter_legacy();
    if prepared
        .and_then(|()| target::prepare(&[listener.as_fd(), scene.userns]))
        .is_err()
    {
        process::exit(1);
    }
    let answer = Target::open(listener.as_fd(), call).and_then(|target| match request {
        Request::Mknod(request) => mknod::carry_out(scene, &target, request),
        Request::Setxattr(request) => setxattr::carry_out(scene, &target, request),
        Request::Sysinfo { address, compat } => sysinfo::carry_out(scene, &target, address, compat),
    });
    let answer = answer.unwrap_or_else(|refusal| refusal.0);
    let answered = notify::answer(listener.as_fd(), call.id, answer);
    process::exit(i32::from(answered.is_err()))
}

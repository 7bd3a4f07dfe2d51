//! The files of a container that does not run: its root, put together as for a boot, and file servers in it.
//!
//! The root is mounted once. Every stream that the daemon sends over the control socket gets a server of its own there; when
//! all have ended and none comes for a while, or the daemon closes the socket, the process ends and the root goes with it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use hutch_container::{ContainerSpec, Fault, FaultKind};
use hutch_sys::process::{self, Forked};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::boot::apparmor::Profile;
use crate::boot::prepare::Prepared;
use crate::boot::{filesystems, root, security};
use crate::fault::{At, Result};
use crate::namespaces::Namespaces;
use crate::{hold, sftp, wire};

/// How long the root stays mounted without a stream: clients open one for each file that they move.
const IDLE: Duration = Duration::from_secs(5);
/// Streams at a time; one more is closed at once.
const MOST_STREAMS: usize = 64;

/// Serves the streams that come over `control`, on which it says first how the start went: an empty packet, or the fault as
/// JSON. Returns the exit code.
pub(crate) fn serve(text: &[u8], control: OwnedFd) -> i32 {
    let result = hold::parse::<ContainerSpec>(text).and_then(|spec| {
        let invalid = |error: hutch_container::BadSpec| {
            Fault::new(FaultKind::Invalid, "reading", "the specification", error.to_string())
        };
        spec.check().map_err(invalid)?;
        run(&spec, &control)
    });
    match result {
        Ok(()) => 0,
        Err(fault) => {
            say(&control, Some(&fault));
            1
        }
    }
}

/// Says how it went.
fn say(control: &OwnedFd, fault: Option<&Fault>) {
    let verdict = fault.map(|fault| serde_json::to_vec(fault).unwrap_or_default());
    // When the daemon is gone there is nobody to tell; the server sees the end of the socket.
    let _ = wire::send_bytes(control, verdict.as_deref().unwrap_or(b"ready"), &[]);
}

fn run(spec: &ContainerSpec, control: &OwnedFd) -> Result<()> {
    let userns = spec.idmap.as_ref().map(Namespaces::make_user).transpose()?;
    // SAFETY: the process has a single thread.
    match unsafe { process::fork(0, None) }.at("forking for", "the file server")? {
        Forked::Child => {
            let fault = enter(spec, userns.as_ref().map(AsFd::as_fd)).err();
            say(control, fault.as_ref());
            if fault.is_none() {
                drop(process::close_others(&[control.as_fd()]));
                Servers::default().run(control);
            }
            process::exit(0)
        }
        Forked::Parent { pidfd, .. } => {
            let mut watched = [PollFd::new(&pidfd, PollFlags::IN)];
            poll(&mut watched, None).map(drop).at("waiting for", "the file server")
        }
    }
}

/// The servers of streams, one process each: what one of them waits for holds up no other.
#[derive(Default)]
struct Servers {
    running: Vec<OwnedFd>,
    /// No more are taken: the daemon is refused, so that it does not take this process for one that serves.
    closing: bool,
}

impl Servers {
    /// Returns when there is nothing to serve any more and no server left.
    fn run(mut self, control: &OwnedFd) {
        while self.wait(control) {
            match wire::receive(control) {
                Ok(Some(incoming)) => self.take(incoming),
                Ok(None) | Err(_) => break,
            }
        }
        for server in self.running {
            // One that has ended already needs no signal.
            drop(process::send_signal(&server, libc::SIGKILL));
            // The root is in use until it is gone.
            let _ = poll(&mut [PollFd::new(&server, PollFlags::IN)], None);
        }
    }

    /// Waits for a packet; `false` when the daemon is gone, or none has come for [`IDLE`] and no server is left.
    fn wait(&mut self, control: &OwnedFd) -> bool {
        loop {
            self.running
                .retain(|server| !matches!(process::reap(server), Ok(Some(_))));
            let idle = self.running.is_empty();
            if idle && self.closing {
                return false;
            }
            // A socket that was shut down is always readable; that the daemon closes it is told unasked.
            let wanted = if self.closing {
                PollFlags::empty()
            } else {
                PollFlags::IN
            };
            let mut watched = vec![PollFd::new(control, wanted)];
            watched.extend(self.running.iter().map(|server| PollFd::new(server, PollFlags::IN)));
            let limit = idle.then(|| Timespec::try_from(IDLE).unwrap_or_default());
            match poll(&mut watched, limit.as_ref()) {
                Ok(0) => self.close(control),
                Ok(_) if !watched[0].revents().is_empty() => return !self.closing,
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }

    /// Refuses more streams; those that were sent before that are served.
    fn close(&mut self, control: &OwnedFd) {
        self.closing = true;
        if rustix::net::shutdown(control, rustix::net::Shutdown::Read).is_err() {
            return;
        }
        while is_waiting(control)
            && let Ok(Some(incoming)) = wire::receive(control)
        {
            self.take(incoming);
        }
    }

    fn take(&mut self, mut incoming: wire::Incoming) {
        if let Some(stream) = incoming.fds.pop()
            && self.running.len() < MOST_STREAMS
        {
            self.begin(stream);
        }
    }

    fn begin(&mut self, stream: OwnedFd) {
        // SAFETY: the process has a single thread.
        match unsafe { process::fork(0, None) } {
            Ok(Forked::Child) => {
                // The control socket must not be kept open by a server.
                drop(process::close_others(&[stream.as_fd()]));
                // The parent waits for it; this is for the case that somebody kills the parent.
                let _ = set_parent_process_death_signal(Some(Signal::KILL));
                sftp::serve(stream);
                process::exit(0)
            }
            Ok(Forked::Parent { pidfd, .. }) => self.running.push(pidfd),
            // The client sees the end of its stream.
            Err(_) => drop(stream),
        }
    }
}

/// Whether a packet is there that came before the socket was shut down.
fn is_waiting(control: &OwnedFd) -> bool {
    let mut byte = [0_u8];
    let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
    rustix::net::recv(control, &mut byte, flags).is_ok_and(|(_, length)| length > 0)
}

/// Puts this process where the container's root is. The mounts go with it.
fn enter(spec: &ContainerSpec, userns: Option<BorrowedFd<'_>>) -> Result<()> {
    process::default_signals();
    process::block_signals(false);
    set_parent_process_death_signal(Some(Signal::KILL)).at("tying to", "the keeper")?;
    let profile = Profile::open(spec)?;
    let mut kept = None;
    let prepared = Prepared::open(spec, userns, &mut kept)?;
    if let Some(userns) = userns {
        move_into_link_name_space(userns, Some(LinkNameSpaceType::User)).at("joining", "the user namespace")?;
    }
    // SAFETY: no descriptor table is unshared, which is what could confuse the owners of descriptors.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.at("making", "a mount namespace")?;
    if spec.idmap.is_some() {
        security::become_user(0, 0, &[])?;
    }
    let (stage, tree) = root::build(spec, &prepared)?;
    let old = root::pivot(&tree)?;
    filesystems::mount_extra(spec, prepared.mounts)?;
    root::leave(&old)?;
    drop((stage, tree, old));
    security::confine_own(spec, profile)
}

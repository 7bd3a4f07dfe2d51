//! A netlink socket that sends one request and reads its answer.

use std::time::Duration;

use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with};

use crate::message::{Message, Received, i32_at, messages};
use crate::rtnl::{NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR};

/// What one read takes: a dump comes in pieces of up to 32 KiB when there is room for them.
const BUFFER: usize = 32 << 10;
/// An answer of the kernel takes microseconds, or the time that somebody else holds the lock of all interfaces.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a dump is begun again because something changed under it.
const DUMP_TRIES: usize = 5;

/// A socket in the namespace in which it was opened, for ever.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// In the namespace of the calling thread.
    pub(crate) fn open() -> Result<Self, Errno> {
        // Protocol 0 is NETLINK_ROUTE.
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&fd, Timeout::Recv, Some(PATIENCE))?;
        bind(&fd, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self { fd, sequence: 0 })
    }

    /// In the namespace `netns`: a thread enters it, opens the socket and ends.
    pub(crate) fn open_in(netns: BorrowedFd<'_>) -> Result<Self, Errno> {
        let enter = || {
            rustix::thread::move_into_link_name_space(netns, Some(rustix::thread::LinkNameSpaceType::Network))?;
            Self::open()
        };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new()
                .name("hutch-netns".to_owned())
                .spawn_scoped(scope, enter);
            match thread {
                Ok(thread) => thread.join().unwrap_or(Err(Errno::IO)),
                Err(e) => Err(Errno::from_io_error(&e).unwrap_or(Errno::AGAIN)),
            }
        })
    }

    /// Sends a change and waits until it is made.
    pub(crate) fn change(
        &mut self,
        kind: u16,
        flags: u16,
        build: impl FnOnce(u16, u16) -> Message,
    ) -> Result<(), Errno> {
        self.exchange(build(kind, flags | NLM_F_REQUEST | NLM_F_ACK), &mut |_| {})
    }

    /// Sends a question that one message answers, which `each` gets.
    pub(crate) fn ask(
        &mut self,
        kind: u16,
        build: impl FnOnce(u16, u16) -> Message,
        each: &mut dyn FnMut(Received<'_>),
    ) -> Result<(), Errno> {
        self.exchange(build(kind, NLM_F_REQUEST | NLM_F_ACK), each)
    }

    /// Reads all objects of a kind. When something changed meanwhile it begins again: `restart` throws away what came.
    pub(crate) fn dump<T>(
        &mut self,
        kind: u16,
        build: impl Fn(u16, u16) -> Message,
        state: &mut T,
        restart: fn(&mut T),
        each: fn(&mut T, Received<'_>),
    ) -> Result<(), Errno> {
        for _ in 0..DUMP_TRIES {
            restart(state);
            let mut interrupted = false;
            self.exchange(build(kind, NLM_F_REQUEST | NLM_F_DUMP), &mut |received| {
                interrupted |= received.flags & NLM_F_DUMP_INTR != 0;
                each(state, received);
            })?;
            if !interrupted {
                return Ok(());
            }
        }
        // The last one is as good as any other that could be had: every object in it was there.
        Ok(())
    }

    fn exchange(&mut self, message: Message, each: &mut dyn FnMut(Received<'_>)) -> Result<(), Errno> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        let bytes = message.finish(sequence);
        rustix::io::retry_on_intr(|| send(&self.fd, &bytes, SendFlags::empty()))?;
        // Not kept: there is a socket per instance, and 32 KiB each would be much.
        let mut buffer = vec![0; BUFFER];
        self.receive(sequence, &mut buffer, each)
    }

    fn receive(&self, sequence: u32, buffer: &mut [u8], each: &mut dyn FnMut(Received<'_>)) -> Result<(), Errno> {
        loop {
            let (_, length) = rustix::io::retry_on_intr(|| recv(&self.fd, &mut *buffer, RecvFlags::TRUNC))?;
            let Some(bytes) = buffer.get(..length) else {
                return Err(Errno::MSGSIZE);
            };
            for received in messages(bytes) {
                // The rest of an earlier exchange that was given up.
                if received.sequence != sequence {
                    continue;
                }
                match received.kind {
                    NLMSG_DONE | NLMSG_ERROR => return result_of(received.body),
                    _ => each(received),
                }
            }
        }
    }
}

/// The error number at the beginning of an acknowledgement, negative or 0.
fn result_of(body: &[u8]) -> Result<(), Errno> {
    match i32_at(body, 0) {
        None | Some(0) => Ok(()),
        Some(negative) => Err(Errno::from_raw_os_error(negative.checked_neg().unwrap_or(i32::MAX))),
    }
}

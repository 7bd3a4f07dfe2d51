//! The daemons' connections: one as a rule, two while one takes over from another.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use hutch_container::Fault;
use hutch_container::protocol::{Answer, Packet, Reply};
use rustix::event::epoll::EventFlags;
use rustix::net::SocketFlags;

use crate::fault::{At, Result};
use crate::reactor::{Places, Reactor, Source};
use crate::wire;

/// Connections at a time, and packets that wait for a daemon which does not read. One over either is closed: state is told
/// anew at the next introduction.
const MOST_CLIENTS: usize = 64;
const MOST_WAITING: usize = 256;

struct Client {
    socket: OwnedFd,
    waiting: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
}

/// Whom an answer goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asker {
    pub(crate) client: u32,
    pub(crate) id: u64,
}

/// All connections.
pub(crate) struct Clients {
    listener: OwnedFd,
    list: Places<Client>,
}

/// A request, or the end of a connection.
pub(crate) enum Heard {
    /// A request with its descriptors.
    Request(Asker, hutch_container::protocol::Request, Vec<OwnedFd>),
    /// This connection has ended.
    Gone(u32),
    /// Nothing that concerns anybody else.
    Nothing,
}

impl Clients {
    pub(crate) fn new(reactor: &Reactor, listener: OwnedFd) -> Result<Self> {
        rustix::io::ioctl_fionbio(&listener, true).at("preparing", "the socket")?;
        reactor
            .add(&listener, Source::Listener, 0, EventFlags::IN)
            .at("watching", "the socket")?;
        Ok(Self {
            listener,
            list: Places::new(),
        })
    }

    /// Takes a connection. Only root may talk to a keeper; the run directory keeps others away already.
    pub(crate) fn accept(&mut self, reactor: &Reactor) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let Ok(socket) = rustix::net::accept_with(&self.listener, flags) else {
            return;
        };
        let root = rustix::net::sockopt::socket_peercred(&socket).is_ok_and(|peer| peer.uid.is_root());
        if !root || self.list.iter().count() >= MOST_CLIENTS {
            return;
        }
        let place = self.list.insert(Client {
            socket,
            waiting: VecDeque::new(),
        });
        if let Some(client) = self.list.get(place)
            && reactor
                .add(&client.socket, Source::Client, place, EventFlags::IN)
                .is_err()
        {
            self.list.remove(place);
        }
    }

    /// Deals with an event of a connection.
    pub(crate) fn ready(&mut self, reactor: &Reactor, place: u32, flags: EventFlags) -> Heard {
        if flags.contains(EventFlags::OUT) {
            self.flush(reactor, place);
        }
        let Some(client) = self.list.get(place) else {
            return Heard::Nothing;
        };
        if !flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            return Heard::Nothing;
        }
        match wire::receive(&client.socket) {
            Ok(Some(incoming)) => match wire::parse::<Packet>(&incoming.bytes) {
                Ok(Packet { id, request }) => Heard::Request(Asker { client: place, id }, request, incoming.fds),
                Err(error) => {
                    self.unknown(reactor, place, &incoming.bytes, &error.to_string());
                    Heard::Nothing
                }
            },
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Heard::Nothing,
            Ok(None) | Err(_) => {
                self.close(reactor, place);
                Heard::Gone(place)
            }
        }
    }

    /// Answers a request that this keeper does not know, from a newer daemon.
    fn unknown(&mut self, reactor: &Reactor, place: u32, bytes: &[u8], cause: &str) {
        #[derive(serde::Deserialize)]
        struct Numbered {
            id: u64,
        }
        if let Ok(Numbered { id }) = wire::parse(bytes) {
            let kind = hutch_container::FaultKind::Unsupported;
            self.answer(
                reactor,
                Asker { client: place, id },
                Err(Fault::new(kind, "reading", "a request", cause)),
            );
        }
    }

    /// Answers a request. An asker that is gone is no error.
    pub(crate) fn answer(&mut self, reactor: &Reactor, to: Asker, result: Result<(Answer, Vec<OwnedFd>)>) {
        let (reply, fds) = match result {
            Ok((answer, fds)) => (Reply::Done { id: to.id, answer }, fds),
            Err(fault) => (Reply::Failed { id: to.id, fault }, Vec::new()),
        };
        self.send(reactor, to.client, &reply, fds);
    }

    /// Tells every daemon.
    pub(crate) fn tell(&mut self, reactor: &Reactor, reply: &Reply) {
        for place in self.list.places() {
            self.send(reactor, place, reply, Vec::new());
        }
    }

    fn send(&mut self, reactor: &Reactor, place: u32, reply: &Reply, fds: Vec<OwnedFd>) {
        // Replies are made here, of strings and numbers: they can be encoded.
        let Ok(bytes) = serde_json::to_vec(reply) else { return };
        let Some(client) = self.list.get(place) else { return };
        if client.waiting.len() >= MOST_WAITING {
            self.close(reactor, place);
            return;
        }
        client.waiting.push_back((bytes, fds));
        self.flush(reactor, place);
    }

    fn flush(&mut self, reactor: &Reactor, place: u32) {
        let Some(client) = self.list.get(place) else { return };
        while let Some((bytes, fds)) = client.waiting.front() {
            let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            match wire::send_bytes(&client.socket, bytes, &borrowed) {
                Ok(()) => drop(client.waiting.pop_front()),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                // The end of the connection is an event of its own.
                Err(_) => client.waiting.clear(),
            }
        }
        let flags = if client.waiting.is_empty() {
            EventFlags::IN
        } else {
            EventFlags::IN | EventFlags::OUT
        };
        // It is registered, so that this can't fail.
        let _ = reactor.modify(&client.socket, Source::Client, place, flags);
    }

    fn close(&mut self, reactor: &Reactor, place: u32) {
        if let Some(client) = self.list.remove(place) {
            reactor.remove(&client.socket);
        }
    }

    /// Sends what waits, blocking, before the process ends.
    pub(crate) fn finish(&mut self) {
        for place in self.list.places() {
            let Some(client) = self.list.get(place) else { continue };
            // A daemon that has gone does not need to hear it.
            let _ = rustix::io::ioctl_fionbio(&client.socket, false);
            for (bytes, fds) in client.waiting.drain(..) {
                let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
                drop(wire::send_bytes(&client.socket, &bytes, &borrowed));
            }
        }
    }
}

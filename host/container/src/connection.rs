//! One connection to a keeper: numbered requests, their replies, and events between them.

use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recv, recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use crate::protocol::{Answer, MAX_FDS, MAX_PACKET, Packet, Reply, Request};
use crate::{Error, Fault};

/// Puts a descriptor under the runtime's watch.
pub(crate) fn watched(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open and names the same file until it is dropped, which the `AsyncFd` that owns it does.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(|error| error.into_parts().1)
}

/// A packet as it came, with what was beside it.
pub(crate) struct Received {
    pub(crate) reply: Reply,
    pub(crate) fds: Vec<OwnedFd>,
}

type Outcome = Result<(Answer, Vec<OwnedFd>), Fault>;

/// The requests that wait for their reply. `None` once the connection has ended.
type Waiting = Mutex<Option<HashMap<u64, oneshot::Sender<Outcome>>>>;

/// The sending half, and the replies' addresses. Whoever holds the receiving half calls [`Connection::settle`].
pub(crate) struct Connection {
    id: String,
    socket: AsyncFd<OwnedFd>,
    next: AtomicU64,
    waiting: Waiting,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// Takes over a connected socket that does not block.
    pub(crate) fn new(id: String, socket: OwnedFd) -> io::Result<Arc<Self>> {
        let socket = watched(socket, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Arc::new(Self {
            id,
            socket,
            next: AtomicU64::new(1),
            waiting: Mutex::new(Some(HashMap::new())),
        }))
    }

    pub(crate) fn lost(&self) -> Error {
        Error::Lost { id: self.id.clone() }
    }

    /// Sends a request with descriptors beside it and waits for its reply.
    pub(crate) async fn call(&self, request: Request, fds: &[OwnedFd]) -> Result<(Answer, Vec<OwnedFd>), Error> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let text = serde_json::to_vec(&Packet { id, request }).map_err(|error| Error::Protocol {
            id: self.id.clone(),
            what: error.to_string(),
        })?;
        if text.len() > MAX_PACKET {
            let what = format!("nothing: a request of {} bytes is over {MAX_PACKET}", text.len());
            return Err(Error::Protocol {
                id: self.id.clone(),
                what,
            });
        }
        let (sender, receiver) = oneshot::channel();
        match self.lock().as_mut() {
            Some(waiting) => waiting.insert(id, sender),
            None => return Err(self.lost()),
        };
        let _forget = Forget { connection: self, id };
        self.send(&text, fds).await?;
        match receiver.await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(fault)) => Err(Error::Keeper {
                id: self.id.clone(),
                fault,
            }),
            Err(_) => Err(self.lost()),
        }
    }

    async fn send(&self, text: &[u8], fds: &[OwnedFd]) -> Result<(), Error> {
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let sent = self
            .socket
            .async_io(Interest::WRITABLE, |socket| {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                if !borrowed.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&borrowed)) {
                    return Err(io::ErrorKind::InvalidInput.into());
                }
                let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
                Ok(sendmsg(socket, &[IoSlice::new(text)], &mut control, flags)?)
            })
            .await;
        match sent {
            Ok(_) => Ok(()),
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN)
                ) =>
            {
                Err(self.lost())
            }
            Err(error) => Err(Error::io("sending to the keeper of", &self.id, error)),
        }
    }

    /// The next packet; `None` at the end of the connection.
    pub(crate) async fn receive(&self) -> Result<Option<Received>, Error> {
        let protocol = |what: String| Error::Protocol {
            id: self.id.clone(),
            what,
        };
        let result = self.socket.async_io(Interest::READABLE, receive_packet).await;
        let (packet, truncated, fds) = match result {
            Ok(received) => received,
            Err(error) if error.raw_os_error() == Some(libc::ECONNRESET) => return Ok(None),
            Err(error) => return Err(Error::io("receiving from the keeper of", &self.id, error)),
        };
        if packet.is_empty() {
            return Ok(None);
        }
        if truncated {
            return Err(protocol(format!(
                "a packet of over {MAX_PACKET} bytes or {MAX_FDS} descriptors"
            )));
        }
        let reply = serde_json::from_slice(&packet).map_err(|error| protocol(error.to_string()))?;
        Ok(Some(Received { reply, fds }))
    }

    /// Hands a reply to whoever waits for it. One that nobody waits for (the caller gave up) is dropped with its
    /// descriptors.
    pub(crate) fn settle(&self, id: u64, outcome: Outcome) {
        let waiting = self.lock().as_mut().and_then(|waiting| waiting.remove(&id));
        if let Some(sender) = waiting {
            drop(sender.send(outcome));
        }
    }

    /// Ends every wait, now and later, with [`Error::Lost`].
    pub(crate) fn end(&self) {
        drop(self.lock().take());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<HashMap<u64, oneshot::Sender<Outcome>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a request out of the table when its caller gives up.
struct Forget<'a> {
    connection: &'a Connection,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = self.connection.lock().as_mut() {
            waiting.remove(&self.id);
        }
    }
}

/// A packet, whether it was cut, and its descriptors. Room is made once its length is known: a daemon holds a connection to every
/// container, which says nothing for days, and none may keep [`MAX_PACKET`] bytes for that.
fn receive_packet(socket: &OwnedFd) -> io::Result<(Vec<u8>, bool, Vec<OwnedFd>)> {
    let look = RecvFlags::PEEK | RecvFlags::TRUNC | RecvFlags::DONTWAIT;
    // With `MSG_TRUNC` the second number is the packet's whole length (recv(2)).
    let (_, length) = recv(socket, &mut [0_u8; 0][..], look)?;
    let mut packet = vec![0; length.min(MAX_PACKET)];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let message = recvmsg(socket, &mut [IoSliceMut::new(&mut packet)], &mut control, flags)?;
    packet.truncate(message.bytes);
    let mut fds = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            fds.extend(rights);
        }
    }
    let truncated = message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
    Ok((packet, truncated, fds))
}

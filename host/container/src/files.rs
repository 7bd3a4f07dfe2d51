//! The files of containers that do not run.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sendmsg, socketpair,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::connection::watched;
use crate::runtime::{Role, Runtime, encode, ended, spec_memfd};
use crate::{ContainerSpec, Error};

/// Longest verdict on a start.
const LONGEST_VERDICT: usize = 4096;

impl Runtime {
    /// Opens the files of a container that does not run: its root and mounts as it would see them, in a user namespace with
    /// the same map, with an SFTP server at the other end of each [`FilesHandle::stream`]. They close by themselves some seconds
    /// after the last stream.
    ///
    /// # Errors
    /// A fault that names what could not be mounted.
    pub async fn files(&self, spec: &ContainerSpec) -> Result<FilesHandle, Error> {
        spec.check()?;
        let failed = |error: std::io::Error| Error::io("making a socket for", &spec.id, error);
        // The server's end blocks: it has nothing else to do.
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).map_err(|e| failed(e.into()))?;
        rustix::io::ioctl_fionbio(&ours, true).map_err(|e| failed(e.into()))?;
        let control = watched(ours, Interest::READABLE | Interest::WRITABLE).map_err(failed)?;
        let memfd = spec_memfd(&encode(&spec.id, &self.complete(spec).await?)?)
            .map_err(|e| Error::io("making a memfd for", &spec.id, e))?;
        let process = self.spawn_role(Role::Files, &spec.id, memfd, theirs, None)?;
        read_verdict(&spec.id, &control).await?;
        Ok(FilesHandle {
            id: spec.id.clone(),
            control,
            process,
        })
    }
}

/// The open files of a container that does not run. Dropped without [`FilesHandle::close`], they are closed a moment later.
#[derive(Debug)]
pub struct FilesHandle {
    id: String,
    control: AsyncFd<OwnedFd>,
    process: OwnedFd,
}

impl FilesHandle {
    /// A stream socket on which SFTP (version 3) is spoken, beside those that are open; `None` when the files have closed.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn stream(&self) -> Result<Option<OwnedFd>, Error> {
        let failed = |error: std::io::Error| Error::io("asking for a stream of the files of", &self.id, error);
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(|error| failed(error.into()))?;
        let sent = self
            .control
            .async_io(Interest::WRITABLE, |control| Ok(send(control.as_fd(), theirs.as_fd())?))
            .await;
        match sent {
            Ok(()) => Ok(Some(ours)),
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::PIPE | Errno::CONNRESET) => Ok(None),
                _ => Err(failed(error)),
            },
        }
    }

    /// Whether the files have closed.
    #[must_use]
    pub fn has_closed(&self) -> bool {
        let mut process = [rustix::event::PollFd::new(&self.process, rustix::event::PollFlags::IN)];
        let at_once = rustix::event::Timespec::default();
        rustix::event::poll(&mut process, Some(&at_once)).is_ok_and(|ready| ready > 0)
    }

    /// Returns once the files have closed by themselves.
    ///
    /// # Errors
    /// [`Error::Io`] when that can't be watched.
    pub fn closed(&self) -> impl Future<Output = Result<(), Error>> + Send + 'static {
        let process = self.process.try_clone();
        async move {
            let watched = async { ended(process?.as_fd()).await };
            watched
                .await
                .map_err(|error| Error::io("waiting for", "the file server", error))
        }
    }

    /// Closes all streams and waits until the files are not in use any more.
    ///
    /// # Errors
    /// [`Error::Io`] when that can't be watched.
    pub async fn close(self) -> Result<(), Error> {
        let closed = self.closed();
        drop(self.control);
        closed.await
    }
}

fn send(control: BorrowedFd<'_>, stream: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let streams = [stream];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    if !rights.push(SendAncillaryMessage::ScmRights(&streams)) {
        return Err(Errno::INVAL);
    }
    sendmsg(control, &[IoSlice::new(b"stream")], &mut rights, SendFlags::NOSIGNAL).map(drop)
}

/// Reads how a file server's start went: the word `ready`, or a fault as JSON.
async fn read_verdict(id: &str, control: &AsyncFd<OwnedFd>) -> Result<(), Error> {
    let mut verdict = vec![0; LONGEST_VERDICT];
    let length = control
        .async_io(Interest::READABLE, |fd| {
            Ok(rustix::io::readv(fd, &mut [IoSliceMut::new(&mut verdict)])?)
        })
        .await
        .map_err(|error| Error::io("hearing from the file server of", id, error))?;
    match verdict.get(..length) {
        None | Some([]) => Err(Error::Lost { id: id.to_owned() }),
        Some(b"ready") => Ok(()),
        Some(text) => {
            let fault = serde_json::from_slice(text).map_err(|error| Error::Protocol {
                id: id.to_owned(),
                what: error.to_string(),
            })?;
            Err(Error::Keeper {
                id: id.to_owned(),
                fault,
            })
        }
    }
}

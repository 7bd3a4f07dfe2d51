//! The files of containers that do not run.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::io::Interest;

use crate::connection::watched;
use crate::runtime::{Role, Runtime, encode, ended, spec_memfd};
use crate::{ContainerSpec, Error};

impl Runtime {
    /// Opens the files of a container that does not run: its root and mounts as it would see them, in a user namespace with
    /// the same map, with an SFTP server at the other end of [`FilesHandle::stream`].
    ///
    /// # Errors
    /// A fault that names what could not be mounted.
    pub async fn files(&self, spec: &ContainerSpec) -> Result<FilesHandle, Error> {
        spec.check()?;
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                .map_err(|error| Error::io("making a socket for", &spec.id, error))?;
        let memfd = spec_memfd(&encode(&spec.id, spec)?).map_err(|e| Error::io("making a memfd for", &spec.id, e))?;
        let process = self.spawn_role(Role::Files, &spec.id, memfd, theirs, None)?;
        let stream = read_verdict(&spec.id, ours).await?;
        Ok(FilesHandle { stream, process })
    }
}

/// The open files of a container that does not run.
#[derive(Debug)]
pub struct FilesHandle {
    stream: OwnedFd,
    process: OwnedFd,
}

impl FilesHandle {
    /// The stream socket on which SFTP (version 3) is spoken.
    #[must_use]
    pub fn stream(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Closes the stream and waits until the files are not in use any more.
    ///
    /// # Errors
    /// [`Error::Io`] when that can't be watched.
    pub async fn close(self) -> Result<(), Error> {
        // A shutdown reaches the server even when somebody holds a duplicate of the stream.
        match rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Both) {
            Ok(()) | Err(rustix::io::Errno::NOTCONN) => {}
            Err(error) => return Err(Error::io("closing the stream of", "the file server", error)),
        }
        drop(self.stream);
        ended(self.process.as_fd())
            .await
            .map_err(|error| Error::io("waiting for", "the file server", error))
    }
}

/// Reads how a file server's start went: a line, empty when all is well, else a fault as JSON.
async fn read_verdict(id: &str, socket: OwnedFd) -> Result<OwnedFd, Error> {
    let failed = |error| Error::io("hearing from the file server of", id, error);
    rustix::io::ioctl_fionbio(&socket, true).map_err(|error| failed(error.into()))?;
    let socket = watched(socket, Interest::READABLE).map_err(failed)?;
    let mut line = Vec::new();
    // Byte by byte, not to take what belongs to SFTP.
    loop {
        let mut byte = [0];
        let read = socket
            .async_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut byte)?))
            .await
            .map_err(failed)?;
        match (read, byte) {
            (0, _) => return Err(Error::Lost { id: id.to_owned() }),
            (_, [b'\n']) => break,
            _ if line.len() > 4096 => {
                return Err(Error::Protocol {
                    id: id.to_owned(),
                    what: "a line without end".to_owned(),
                });
            }
            _ => line.extend(byte),
        }
    }
    if !line.is_empty() {
        let fault = serde_json::from_slice(&line).map_err(|error| Error::Protocol {
            id: id.to_owned(),
            what: error.to_string(),
        })?;
        return Err(Error::Keeper {
            id: id.to_owned(),
            fault,
        });
    }
    Ok(socket.into_inner())
}

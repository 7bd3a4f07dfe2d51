//! The namespaces that outlive a boot: user and network.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};

use hutch_container::{Fault, IdMap};
use hutch_sys::process::{self, End, Forked};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::fault::{At, Result};

/// Namespaces held open.
pub(crate) struct Namespaces {
    /// Of a container that is not privileged.
    pub(crate) user: Option<OwnedFd>,
    pub(crate) network: OwnedFd,
}

impl Namespaces {
    /// Makes a user namespace with this map, if one is given, and a network namespace that it owns, with `lo` up.
    pub(crate) fn make(idmap: Option<&IdMap>) -> Result<Self> {
        let flags = if idmap.is_some() {
            libc::CLONE_NEWUSER | libc::CLONE_NEWNET
        } else {
            libc::CLONE_NEWNET
        };
        make(flags, idmap, |user, process| {
            Ok(Self {
                user,
                network: open_namespace(process, "net")?,
            })
        })
    }

    /// A user namespace alone.
    pub(crate) fn make_user(idmap: &IdMap) -> Result<OwnedFd> {
        make(libc::CLONE_NEWUSER, Some(idmap), |user, _| {
            user.ok_or_else(|| Fault::system("making", "a user namespace", libc::EINVAL))
        })
    }
}

/// Forks a process into new namespaces, holds it until `open` has what it wants of it, and ends it.
fn make<T>(flags: i32, idmap: Option<&IdMap>, open: impl FnOnce(Option<OwnedFd>, u32) -> Result<T>) -> Result<T> {
    let (wait, go) = pipe_with(PipeFlags::CLOEXEC).at("making", "a pipe")?;
    // SAFETY: the keeper has a single thread.
    match unsafe { process::fork(flags, None) }.at("making", "the user and network namespaces")? {
        Forked::Child => {
            drop(go);
            let up = if flags & libc::CLONE_NEWNET == 0 {
                Ok(())
            } else {
                process::loopback_up()
            };
            // Until the keeper closes its end, having opened the namespaces.
            let _ = rustix::io::read(&wait, &mut [0]);
            process::exit(up.map_or_else(|error| error.raw_os_error().unwrap_or(libc::EIO), |()| 0));
        }
        Forked::Parent { pid, pidfd } => {
            let opened = (|| {
                let user = match idmap {
                    Some(map) => {
                        write_maps(pid, map)?;
                        Some(open_namespace(pid, "user")?)
                    }
                    None => None,
                };
                open(user, pid)
            })();
            drop(go);
            poll(&mut [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)], None).at("waiting for", "a process")?;
            match process::reap(&pidfd).at("waiting for", "a process")? {
                Some(End::Code(0)) | None => opened,
                Some(End::Code(errno)) => Err(Fault::system("bringing up", "lo", errno)),
                Some(End::Signal(_)) => Err(Fault::system("making", "the user and network namespaces", libc::EINTR)),
            }
        }
    }
}

fn write_maps(pid: u32, map: &IdMap) -> Result<()> {
    for (file, ranges) in [("uid_map", &map.uids), ("gid_map", &map.gids)] {
        let path = format!("/proc/{pid}/{file}");
        fs::write(&path, IdMap::proc_text(ranges)).at("writing", path)?;
    }
    Ok(())
}

fn open_namespace(pid: u32, kind: &str) -> Result<OwnedFd> {
    let path = format!("/proc/{pid}/ns/{kind}");
    fs::File::open(&path).map(OwnedFd::from).at("opening", path)
}

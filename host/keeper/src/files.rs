//! The files of a container that does not run: its root, put together as for a boot, and a file server in it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use hutch_container::{ContainerSpec, Fault, FaultKind};
use hutch_sys::process::{self, Forked};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::boot::prepare::Prepared;
use crate::boot::{filesystems, root, security};
use crate::fault::{At, Result};
use crate::namespaces::Namespaces;
use crate::{hold, sftp};

/// Serves on the stream until it ends: first a line, empty or with the fault as JSON, then SFTP. Returns the exit code.
pub(crate) fn serve(text: &[u8], stream: OwnedFd) -> i32 {
    let result = hold::parse::<ContainerSpec>(text).and_then(|spec| {
        let invalid = |error: hutch_container::BadSpec| {
            Fault::new(FaultKind::Invalid, "reading", "the specification", error.to_string())
        };
        spec.check().map_err(invalid)?;
        run(&spec, &stream)
    });
    match result {
        Ok(()) => 0,
        Err(fault) => {
            say(&stream, Some(&fault));
            1
        }
    }
}

/// Says how it went.
fn say(stream: &OwnedFd, fault: Option<&Fault>) {
    let mut line = fault
        .map(|fault| serde_json::to_vec(fault).unwrap_or_default())
        .unwrap_or_default();
    line.push(b'\n');
    // When the daemon is gone there is nobody to tell; the server sees the end of the stream.
    let _ = rustix::net::send(stream, &line, rustix::net::SendFlags::NOSIGNAL);
}

fn run(spec: &ContainerSpec, stream: &OwnedFd) -> Result<()> {
    let userns = spec.idmap.as_ref().map(Namespaces::make_user).transpose()?;
    // SAFETY: the process has a single thread.
    match unsafe { process::fork(0, None) }.at("forking for", "the file server")? {
        Forked::Child => {
            let fault = enter(spec, userns.as_ref().map(AsFd::as_fd)).err();
            say(stream, fault.as_ref());
            if fault.is_none()
                && let Ok(stream) = stream.try_clone()
            {
                drop(process::close_others(&[stream.as_fd()]));
                sftp::serve(stream);
            }
            process::exit(0)
        }
        Forked::Parent { pidfd, .. } => {
            let mut watched = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut watched, None)
                .map(drop)
                .at("waiting for", "the file server")
        }
    }
}

/// Puts this process where the container's root is. The mounts go with it.
fn enter(spec: &ContainerSpec, userns: Option<BorrowedFd<'_>>) -> Result<()> {
    process::default_signals();
    process::block_signals(false);
    set_parent_process_death_signal(Some(Signal::KILL)).at("tying to", "the keeper")?;
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
    security::confine(spec)
}

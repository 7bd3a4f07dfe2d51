//! `setxattr(2)` of the attribute by which an overlay's directory hides what lies below it.
//!
//! Attributes of the class `trusted` are for whoever is root of the machine. Which directory a call means is found out by a process that has
//! gone where the caller is, with the caller's powers; it hands the directory back, open, to one that has stayed the host's root.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use hutch_sys::process::{self, Forked};
use hutch_sys::seccomp::notify::Answer;
use rustix::fs::{OFlags, XattrFlags, setxattr};
use rustix::thread::CapabilitySet;

use super::Scene;
use super::target::{AS_EVER, Step, Target, errno, resolve};
use crate::wire;

/// The only attribute, and the only value of it, that a caller is helped with: they mean something for overlays alone, and nothing for Hutch's
/// own, which have their attributes in another class.
const NAME: &str = "trusted.overlay.opaque";
const VALUE: u8 = b'y';

/// How a directory is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Named {
    Path { address: u64, follow: bool },
    Descriptor(i32),
}

/// An attribute to be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Request {
    object: Named,
    name: u64,
    value: u64,
    flags: XattrFlags,
}

impl Request {
    /// `None` for one that can't be [`NAME`] with [`VALUE`], as far as the registers tell.
    pub(super) fn of(call: &str, arguments: &[u64; 6]) -> Option<Self> {
        let [object, name, value, size, flags, _] = *arguments;
        let low = u32::try_from(object & u64::from(u32::MAX)).unwrap_or_default();
        let object = match call {
            "fsetxattr" => Named::Descriptor(low.cast_signed()),
            _ => Named::Path {
                address: object,
                follow: call == "setxattr",
            },
        };
        let flags = XattrFlags::from_bits(u32::try_from(flags).ok()?)?;
        (size == 1).then_some(Self {
            object,
            name,
            value,
            flags,
        })
    }
}

/// Sets the attribute.
pub(super) fn carry_out(scene: &Scene<'_>, target: &Target<'_>, request: Request) -> Step<Answer> {
    if target.string(request.name)? != NAME.as_bytes() || target.byte(request.value)? != VALUE {
        return Err(AS_EVER);
    }
    target.require(scene.userns, CapabilitySet::SYS_ADMIN)?;
    let directory = find(scene, target, request.object)?;
    // The very directory that was found, whatever its path leads to by now.
    let path = format!("/proc/self/fd/{}", directory.as_raw_fd());
    match setxattr(path, NAME, &[VALUE], request.flags) {
        Ok(()) => Ok(Answer::Value(0)),
        Err(error) => Err(errno(error.raw_os_error())),
    }
}

/// Has the directory looked for by a process that goes where the caller is.
fn find(scene: &Scene<'_>, target: &Target<'_>, object: Named) -> Step<OwnedFd> {
    let (ours, theirs) = wire::pair().map_err(|_| AS_EVER)?;
    // SAFETY: the helper has a single thread, as has the keeper that it was forked from.
    match unsafe { process::fork(0, None) }.map_err(|_| AS_EVER)? {
        Forked::Child => {
            drop(ours);
            if let Ok(found) = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
                .map_err(|_| AS_EVER)
                .and_then(|()| look(target, scene.userns, object))
            {
                // Without the one that asked there is nobody to tell.
                drop(wire::send_bytes(&theirs, b"found", &[found.as_fd()]));
            }
            process::exit(0)
        }
        Forked::Parent { .. } => {
            drop(theirs);
            let said = wire::receive(&ours).ok().flatten();
            said.and_then(|mut said| said.fds.pop()).ok_or(AS_EVER)
        }
    }
}

fn look(target: &Target<'_>, userns: BorrowedFd<'_>, object: Named) -> Step<OwnedFd> {
    let base = target.base(libc::AT_FDCWD)?;
    let (path, open) = match object {
        Named::Path { address, .. } => (target.string(address)?, None),
        Named::Descriptor(number) if number < 0 => return Err(AS_EVER),
        Named::Descriptor(number) => (Vec::new(), Some(target.base(number)?)),
    };
    target.enter(userns, &base)?;
    let _reduced = target.as_caller()?;
    let directory = match (open, object) {
        (Some(open), _) => open,
        (None, Named::Path { follow: true, .. }) => resolve(&path, OFlags::DIRECTORY)?,
        (None, _) => resolve(&path, OFlags::DIRECTORY | OFlags::NOFOLLOW)?,
    };
    // Only where the caller could make and remove files.
    process::may_write(&directory).map_err(|_| AS_EVER)?;
    Ok(directory)
}

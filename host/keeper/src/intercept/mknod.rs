//! `mknod(2)` of devices that are safe to have.
//!
//! The kernel lets nobody in a user namespace make device nodes, and lets none be opened that lies in a file system of one, nor, here, on
//! a container's volume, whose mounts refuse devices. So a node is made where it can be used, in a file system that holds nothing else and
//! is mounted at the path, on an empty file that the caller's own powers make there.

use std::os::fd::{AsFd, OwnedFd};

use hutch_sys::seccomp::notify::Answer;
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, chownat, makedev, mknodat, openat, unlinkat};
use rustix::mount::{
    MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount_change, move_mount, open_tree,
};
use rustix::process::umask;
use rustix::thread::{CapabilitySet, UnshareFlags};

use super::Scene;
use super::target::{AS_EVER, Powers, Step, Target, resolve};
use crate::boot::root::{attach, new_mount};

/// What may be made: `null`, `zero`, `full`, `random`, `urandom` and `tty` (the kernel's `admin-guide/devices.txt`). Not LXD's
/// 5:1, which is the machine's own console.
pub(super) const SAFE: [(u32, u32); 6] = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0)];

/// Permissions, with the bits for set-user-id, set-group-id and the sticky one.
const PERMISSIONS: u32 = 0o7777;

/// The name of the node in its file system.
const NODE: &str = "node";

/// A node to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Request {
    /// Descriptor of the directory from which a relative path begins.
    base: i32,
    /// Where the path is in the caller's memory.
    path: u64,
    permissions: u32,
    device: (u32, u32),
}

impl Request {
    /// `None` for what is not one of [`SAFE`]: the kernel decides, and makes whiteouts (0:0) for whoever may make a file (Linux 5.8).
    pub(super) fn of(name: &str, arguments: &[u64; 6]) -> Option<Self> {
        // As the kernel takes them, which are the low words.
        let low = |place: usize| u32::try_from(arguments[place] & u64::from(u32::MAX)).unwrap_or_default();
        let (base, path, mode, device) = match name {
            "mknod" => (libc::AT_FDCWD, arguments[0], low(1), low(2)),
            _ => (low(0).cast_signed(), arguments[1], low(2), low(3)),
        };
        // `new_decode_dev` of linux/kdev_t.h.
        let device = (
            (device & 0x000f_ff00) >> 8,
            device & 0xff | (device >> 12) & 0x000f_ff00,
        );
        let character = mode & libc::S_IFMT == libc::S_IFCHR;
        (character && SAFE.contains(&device)).then_some(Self {
            base,
            path,
            permissions: mode & PERMISSIONS,
            device,
        })
    }
}

/// Makes the node.
pub(super) fn carry_out(scene: &Scene<'_>, target: &Target<'_>, request: Request) -> Step<Answer> {
    let path = target.string(request.path)?;
    let (directory, name) = split(&path).ok_or(AS_EVER)?;
    target.require(scene.userns, CapabilitySet::MKNOD)?;
    let base = if path.starts_with(b"/") {
        target.base(libc::AT_FDCWD)?
    } else {
        target.base(request.base)?
    };
    // On the host's side, where the caller's ids are the host's.
    let node = make(&request, &target.powers()?).map_err(|_| AS_EVER)?;
    target.enter(scene.userns, &base)?;
    let full = target.as_caller()?;
    let directory = resolve(directory, OFlags::DIRECTORY)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = openat(&directory, name, flags, Mode::from_raw_mode(request.permissions)).map_err(|_| AS_EVER)?;
    if full.take().is_ok() && mount_on(&node, &place).is_ok() {
        return Ok(Answer::Value(0));
    }
    // The caller's own place for it: whatever it has become meanwhile, the caller could remove it.
    let _ = unlinkat(&directory, name, AtFlags::empty());
    Err(AS_EVER)
}

/// The directory and the name in it; `None` for a path that ends in no name.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let (directory, name) = match path.iter().rposition(|byte| *byte == b'/') {
        None => (&b"."[..], path),
        Some(0) => (&b"/"[..], &path[1..]),
        Some(at) => (&path[..at], &path[at + 1..]),
    };
    (!matches!(name, b"" | b"." | b"..")).then_some((directory, name))
}

/// Mounts the node on the file that is open as `place`, wherever that is by now.
fn mount_on(node: &OwnedFd, place: &OwnedFd) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(node.as_fd(), "", place.as_fd(), "", flags)
}

/// A mount of a device node that the caller owns, attached nowhere.
fn make(request: &Request, owner: &Powers) -> std::io::Result<OwnedFd> {
    let options = [("size", "4k"), ("nr_inodes", "2"), ("mode", "0755")];
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let files = new_mount("tmpfs", &options, flags).map_err(|fault| std::io::Error::from_raw_os_error(fault.errno))?;
    let (major, minor) = request.device;
    // As mknod(2) takes it from the permissions.
    umask(Mode::from_raw_mode(owner.umask));
    let mode = Mode::from_raw_mode(request.permissions);
    mknodat(&files, NODE, FileType::CharacterDevice, mode, makedev(major, minor))?;
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    chownat(&files, NODE, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    match copy(&files) {
        // Before Linux 6.15 only what is attached can be copied.
        Err(rustix::io::Errno::INVAL) => {
            attach_apart(&files)?;
            Ok(copy(&files)?)
        }
        copied => Ok(copied?),
    }
}

fn copy(files: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(files.as_fd(), NODE, flags)
}

/// Attaches a mount in a mount namespace of this process's own, from which nothing spreads.
fn attach_apart(files: &OwnedFd) -> std::io::Result<()> {
    // SAFETY: no descriptor table is unshared, which is what could confuse the owners of descriptors.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    Ok(attach(files, CWD, "/")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_safe_devices_are_made() {
        let arguments = |mode: u32, device: u32| [u64::MAX, 7, mode.into(), device.into(), 0, 0];
        let null = Request::of("mknodat", &arguments(libc::S_IFCHR | 0o666, 0x103)).unwrap();
        assert_eq!(
            (null.base, null.path, null.permissions, null.device),
            (-1, 7, 0o666, (1, 3))
        );
        assert!(Request::of("mknod", &[7, 0x2000, 0x105, 0, 0, 0]).is_some());
        for (mode, device) in [
            (libc::S_IFBLK, 0x103),
            (libc::S_IFREG, 0x103),
            (libc::S_IFCHR, 0),
            (libc::S_IFCHR, 0x101),
            (libc::S_IFCHR, 0x501),
            // sda.
            (libc::S_IFBLK, 0x800),
            // 1:259, and 257:3.
            (libc::S_IFCHR, 0x10_0103),
            (libc::S_IFCHR, 0x1_0103),
        ] {
            assert_eq!(
                Request::of("mknodat", &arguments(mode, device)),
                None,
                "{mode:o} {device:x}"
            );
        }
    }

    #[test]
    fn paths_have_a_name_at_their_end() {
        let text = |path: &'static str| {
            let (directory, name) = split(path.as_bytes())?;
            Some((str::from_utf8(directory).unwrap(), str::from_utf8(name).unwrap()))
        };
        assert_eq!(text("null"), Some((".", "null")));
        assert_eq!(text("/null"), Some(("/", "null")));
        assert_eq!(text("../a//null"), Some(("../a/", "null")));
        for path in ["", "/", "a/", "a/.", ".."] {
            assert_eq!(text(path), None, "{path}");
        }
    }

    /// As root, because devices are made here.
    #[test]
    fn a_node_is_made_with_either_way_to_copy_it() {
        let request = Request::of("mknod", &[0, (libc::S_IFCHR | 0o640).into(), 0x105, 0, 0, 0]).unwrap();
        let owner = Powers {
            uid: 1234,
            gid: 5678,
            groups: Vec::new(),
            umask: 0o2,
            effective: CapabilitySet::empty(),
        };
        // SAFETY: the child makes system calls, and allocates as the allocator's locks let a fork of a test's thread.
        match unsafe { hutch_sys::process::fork(0, None) }.unwrap() {
            hutch_sys::process::Forked::Child => {
                let made = make(&request, &owner).and_then(|node| Ok(rustix::fs::fstat(&node)?));
                let right = made.is_ok_and(|found| {
                    (found.st_uid, found.st_gid, found.st_mode & 0o7777, found.st_rdev)
                        == (1234, 5678, 0o640, makedev(1, 5))
                });
                let apart = new_mount("tmpfs", &[("size", "4k")], MountAttrFlags::empty()).is_ok_and(|files| {
                    attach_apart(&files).is_ok() && openat(&files, ".", OFlags::PATH, Mode::empty()).is_ok()
                });
                hutch_sys::process::exit(i32::from(!right) + 2 * i32::from(!apart));
            }
            hutch_sys::process::Forked::Parent { pidfd, .. } => {
                let mut watched = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
                rustix::event::poll(&mut watched, None).unwrap();
                let end = hutch_sys::process::reap(&pidfd).unwrap();
                assert_eq!(end, Some(hutch_sys::process::End::Code(0)));
            }
        }
    }
}

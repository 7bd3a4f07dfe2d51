//! Changing mounts through descriptors.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::path::Arg;

/// `struct mount_attr` of `mount_setattr(2)`, as of Linux 5.12.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
struct RawAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

/// `MOUNT_ATTR_IDMAP` of `mount_setattr(2)`.
const IDMAP: u64 = 0x0010_0000;

/// Flags of a mount, `MOUNT_ATTR_*` of `mount_setattr(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(u64);

impl Flags {
    /// Nothing can be written.
    pub const READ_ONLY: Self = Self(1);
    /// Set-user-id and file capabilities have no effect.
    pub const NO_SUID: Self = Self(2);
    /// Device nodes can't be opened.
    pub const NO_DEVICES: Self = Self(4);
    /// Programs can't be executed.
    pub const NO_EXECUTION: Self = Self(8);
    /// Symbolic links are not followed, by whatever program (Linux 5.14).
    pub const NO_LINKS: Self = Self(0x0020_0000);

    /// No flags.
    #[must_use]
    pub const fn none() -> Self {
        Self(0)
    }

    /// Those of both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Returns when all that was written to the file system that `path` is on is on its disk (`syncfs(2)`).
///
/// # Errors
/// Those of opening it and of `syncfs`, which tells of writes that failed.
pub fn flush(path: &Path) -> io::Result<()> {
    let open = openat2(
        CWD,
        path,
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::empty(),
    )?;
    Ok(rustix::fs::syncfs(open)?)
}

/// Changes the mount that `tree` is the root of, with those below it when `recursive`. With `userns`, ids are mapped by that
/// user namespace from now on; it can be set once, on a mount that is not attached yet.
///
/// # Errors
/// Those of `mount_setattr(2)`: `EINVAL` when the file system can't map ids, `EPERM` when the caller is not privileged over
/// it or a flag is locked.
pub fn set_attributes(
    tree: BorrowedFd<'_>,
    recursive: bool,
    set: Flags,
    clear: Flags,
    userns: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut attributes = RawAttributes {
        set: set.0,
        clear: clear.0,
        ..RawAttributes::default()
    };
    if let Some(userns) = userns {
        attributes.set |= IDMAP;
        attributes.userns = u64::from(userns.as_raw_fd().cast_unsigned());
    }
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    let empty: &CStr = c"";
    // SAFETY: the path and the structure, whose size is given, live past the call, which only reads them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            empty.as_ptr(),
            flags,
            &raw const attributes,
            size_of::<RawAttributes>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A copy of the mount at `path`, attached nowhere; with those below it when `recursive`. It goes when the descriptor is
/// closed, unless it has been moved somewhere by then.
///
/// # Errors
/// Those of `open_tree(2)`.
pub fn clone_tree(path: impl Arg, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(open_tree(CWD, path, flags)?)
}

/// A copy of the mount at the directory `path`, which is absolute and has no symbolic link anywhere on the way; without those
/// below it. It goes as that of [`clone_tree`] does.
///
/// For places in trees that strangers fill, in which a name may have become a link to anywhere since it was last looked at: the
/// directory is opened by `openat2(2)` with `RESOLVE_NO_SYMLINKS`, and copied through that descriptor.
///
/// # Errors
/// `ELOOP` for a link on the way, `ENOTDIR` for what is no directory, and those of `open_tree(2)`.
pub fn clone_directory(path: impl Arg) -> io::Result<OwnedFd> {
    let directory = openat2(
        CWD,
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    )?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(open_tree(&directory, "", flags)?)
}

/// A copy of the mount at the directory that is open as `directory`, attached nowhere, with those below it.
///
/// # Errors
/// Those of `open_tree(2)`.
pub fn clone_open(directory: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    Ok(open_tree(directory, "", flags)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As root, because copies of mounts are made here.
    #[test]
    fn a_directory_is_copied_only_where_no_link_leads() {
        let dir = std::env::temp_dir().canonicalize().unwrap();
        let dir = dir.join(format!("hutch-mount-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("a/b")).unwrap();
        std::fs::write(dir.join("a/file"), "").unwrap();
        std::os::unix::fs::symlink("/", dir.join("a/out")).unwrap();
        std::os::unix::fs::symlink("b", dir.join("a/beside")).unwrap();
        let errno = |path: &str| {
            clone_directory(dir.join(path))
                .err()
                .and_then(|error| error.raw_os_error())
        };
        let found = ["a/b", "a/out", "a/out/etc", "a/beside", "a/file", "a/none"].map(errno);
        std::fs::remove_dir_all(&dir).unwrap();
        let expected = [
            None,
            Some(libc::ELOOP),
            Some(libc::ELOOP),
            Some(libc::ELOOP),
            Some(libc::ENOTDIR),
            Some(libc::ENOENT),
        ];
        assert_eq!(found, expected);
    }
}

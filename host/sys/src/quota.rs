//! Project quotas: limits on trees of a file system (quotactl(2), and the requests `FS_IOC_FSGETXATTR` and
//! `FS_IOC_FSSETXATTR` of `linux/fs.h`).

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// `PRJQUOTA` of `linux/quota.h`.
const PROJECT: u32 = 2;
/// `Q_XGETQSTATV` of `linux/dqblk_xfs.h`.
const GET_STATE: u32 = 0x5808;
/// `FS_QUOTA_PDQ_ENFD`: project limits are enforced.
const PROJECT_ENFORCED: u16 = 1 << 5;
/// `FS_XFLAG_PROJINHERIT`: what is made in the directory belongs to its project.
const INHERIT: u32 = 0x200;
/// `FS_IOC_FSGETXATTR`, `_IOR('X', 31, struct fsxattr)`.
const GET_ATTRIBUTES: libc::Ioctl = 0x801c_581f_u32 as libc::Ioctl;
/// `FS_IOC_FSSETXATTR`, `_IOW('X', 32, struct fsxattr)`.
const SET_ATTRIBUTES: libc::Ioctl = 0x401c_5820_u32 as libc::Ioctl;

/// `struct fsxattr` of `linux/fs.h`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    padding: [u8; 8],
}

/// `struct fs_quota_statv` of `linux/dqblk_xfs.h`.
#[repr(C)]
#[derive(Clone, Copy)]
struct State {
    version: i8,
    padding: u8,
    flags: u16,
    /// Sizes of the quota files, times of grace, warnings: not asked for here.
    rest: [u32; 39],
}

/// The project that a file or directory belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Project {
    /// Its number; 0 for none.
    pub id: u32,
    /// For a directory: whether what is made in it belongs to the project, too.
    pub inherit: bool,
}

/// What a project uses and may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes in use.
    pub bytes: u64,
    /// Inodes in use.
    pub inodes: u64,
    /// Most bytes; 0 for no limit.
    pub limit_bytes: u64,
}

/// Whether the file system of `fd` enforces limits of projects.
///
/// `fd` must be open for reading. Every error means that it does not.
pub fn project_quota_enforced(fd: impl AsFd) -> bool {
    let mut state = State {
        version: 1,
        padding: 0,
        flags: 0,
        rest: [0; 39],
    };
    quotactl(fd, GET_STATE, 0, (&raw mut state).cast()).is_ok() && state.flags & PROJECT_ENFORCED != 0
}

/// The project of an open file or directory.
///
/// # Errors
/// `ENOTTY` or `EOPNOTSUPP` where the file system knows no projects.
pub fn project(fd: impl AsFd) -> io::Result<Project> {
    let attributes = attributes(fd)?;
    Ok(Project {
        id: attributes.project,
        inherit: attributes.flags & INHERIT != 0,
    })
}

/// Makes an open file or directory belong to a project.
///
/// # Errors
/// As [`project`]; `EINVAL` for `inherit` on what is not a directory; `EPERM`, `EACCES` for who may not.
pub fn set_project(fd: impl AsFd, project: Project) -> io::Result<()> {
    let mut attributes = attributes(fd.as_fd())?;
    attributes.project = project.id;
    attributes.flags = if project.inherit {
        attributes.flags | INHERIT
    } else {
        attributes.flags & !INHERIT
    };
    // SAFETY: the request reads one `struct fsxattr` from the pointer, which is to a live one of the same layout.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), SET_ATTRIBUTES, &raw const attributes) })
}

/// What a project uses on the file system of `fd`.
///
/// # Errors
/// `ESRCH` where project quotas are not in force.
pub fn usage(fd: impl AsFd, project: u32) -> io::Result<Usage> {
    // SAFETY: `dqblk` is a plain C structure for which all zeros is a value.
    let mut block: libc::dqblk = unsafe { std::mem::zeroed() };
    match quotactl(fd, libc::Q_GETQUOTA.cast_unsigned(), project, (&raw mut block).cast()) {
        Ok(()) => Ok(Usage {
            bytes: block.dqb_curspace,
            inodes: block.dqb_curinodes,
            limit_bytes: block.dqb_bhardlimit.saturating_mul(1024),
        }),
        // A project that was never used.
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(Usage::default()),
        Err(e) => Err(e),
    }
}

/// Limits a project to `bytes` on the file system of `fd`, rounded up to whole KiB; `None` lifts the limit.
///
/// # Errors
/// `ESRCH` where project quotas are not in force; `EPERM` for who may not.
pub fn set_limit(fd: impl AsFd, project: u32, bytes: Option<u64>) -> io::Result<()> {
    // SAFETY: `dqblk` is a plain C structure for which all zeros is a value.
    let mut block: libc::dqblk = unsafe { std::mem::zeroed() };
    // A limit of 0 means none to the kernel, so that the smallest one is 1 KiB.
    block.dqb_bhardlimit = bytes.map_or(0, |bytes| bytes.div_ceil(1024).max(1));
    block.dqb_bsoftlimit = block.dqb_bhardlimit;
    block.dqb_valid = libc::QIF_BLIMITS;
    quotactl(fd, libc::Q_SETQUOTA.cast_unsigned(), project, (&raw mut block).cast())
}

fn attributes(fd: impl AsFd) -> io::Result<Attributes> {
    let mut attributes = Attributes::default();
    // SAFETY: the request writes one `struct fsxattr` to the pointer, which is to a live one of the same layout.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), GET_ATTRIBUTES, &raw mut attributes) })?;
    Ok(attributes)
}

/// `quotactl_fd` (quotactl(2), Linux 5.14) on project quotas. `address` must be to what `command` reads or writes.
fn quotactl(fd: impl AsFd, command: u32, project: u32, address: *mut libc::c_void) -> io::Result<()> {
    let command = libc::c_long::from(command << 8 | PROJECT);
    // SAFETY: the callers, all in this module, pass a pointer to a live structure of the layout that their command is
    // documented to use.
    let result = unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            libc::c_long::from(fd.as_fd().as_raw_fd()),
            command,
            libc::c_long::from(project),
            address,
        )
    };
    check(if result < 0 { -1 } else { 0 })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_the_kernels() {
        assert_eq!(size_of::<Attributes>(), 28);
        assert_eq!(size_of::<State>(), 160);
    }

    #[test]
    fn proc_has_no_projects() {
        let dir = std::fs::File::open("/proc").unwrap();
        assert!(!project_quota_enforced(&dir));
        assert!(project(&dir).is_err());
    }
}

//! Finding out what a root's file system can do, by doing it.

use hutch_driver::DriverError;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;
use rustix::mount::{FsOpenFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsopen};

use super::tree::OpenRoot;
use super::{quota, trash};
use crate::error::os;

/// Abilities of a file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Features {
    /// Files can share extents (`FICLONE`, ioctl_ficlone(2)).
    pub(super) reflink: bool,
    /// Trees can be limited (quotactl(2), project quota in force).
    pub(super) project_quota: bool,
    /// A directory of it can be the writable layer of an overlay.
    pub(super) overlay_upper: bool,
}

impl Features {
    /// As `fs.features` names them.
    pub(super) fn names(self) -> Vec<String> {
        [
            (self.reflink, "reflink"),
            (self.project_quota, "project-quota"),
            (self.overlay_upper, "overlay-upper"),
        ]
        .into_iter()
        .filter(|(has, _)| *has)
        .map(|(_, name)| name.to_owned())
        .collect()
    }
}

/// Tries everything out in a directory of the root's trash. A root that may not be changed has no abilities that
/// somebody who only reads could use.
pub(super) fn probe(root: &OpenRoot) -> Result<Features, DriverError> {
    if !root.writable {
        return Ok(Features::default());
    }
    let fail = |e| {
        os(
            format_args!("can't find out what the file system of {} can do", root.describe("")),
            e,
        )
    };
    let trash = trash::open_trash(root)?;
    let name = trash::fresh_name();
    mkdirat(&trash, name.as_str(), Mode::RWXU).map_err(fail)?;
    let dir = openat(
        &trash,
        name.as_str(),
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(fail);
    let found = dir.and_then(|dir| {
        Ok(Features {
            reflink: reflink(dir.as_fd()).map_err(fail)?,
            project_quota: quota::in_force(root),
            overlay_upper: overlay_upper(&dir).map_err(fail)?,
        })
    });
    let listed = openat(
        &trash,
        ".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(fail)?;
    trash::remove_tree(listed.as_fd(), &name).map_err(fail)?;
    found
}

fn reflink(dir: BorrowedFd<'_>) -> Result<bool, Errno> {
    let file = |name: &str| {
        openat(
            dir,
            name,
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC,
            Mode::RUSR | Mode::WUSR,
        )
    };
    let (source, target) = (file("a")?, file("b")?);
    rustix::io::write(&source, &[1; 4096])?;
    Ok(rustix::fs::ioctl_ficlone(&target, &source).is_ok())
}

/// Makes the superblock of an overlay without mounting it anywhere. Layers are given through `/proc/self/fd`, so that their
/// paths need no escaping.
fn overlay_upper(dir: &OwnedFd) -> Result<bool, Errno> {
    for name in ["lower", "upper", "work"] {
        mkdirat(dir, name, Mode::RWXU)?;
    }
    let try_it = || -> Result<(), Errno> {
        use std::os::fd::AsRawFd as _;
        let base = format!("/proc/self/fd/{}", dir.as_raw_fd());
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(context.as_fd(), "lowerdir", format!("{base}/lower"))?;
        fsconfig_set_string(context.as_fd(), "upperdir", format!("{base}/upper"))?;
        fsconfig_set_string(context.as_fd(), "workdir", format!("{base}/work"))?;
        fsconfig_set_flag(context.as_fd(), "userxattr")?;
        fsconfig_create(context.as_fd())
    };
    Ok(try_it().is_ok())
}

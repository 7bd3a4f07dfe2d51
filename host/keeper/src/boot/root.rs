//! The root file system, put together inside the container's namespaces.

use std::os::fd::{AsFd, OwnedFd};

use hutch_container::{ContainerSpec, RootFs};
use rustix::fs::{CWD, Mode, OFlags, mkdirat, open, openat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount, mount_change, move_mount, open_tree,
    unmount,
};
use rustix::process::{fchdir, pivot_root};

use super::prepare::{Prepared, PreparedRoot};
use crate::fault::{At, Result};

/// A new file system, attached nowhere.
pub(crate) fn new_mount(kind: &str, options: &[(&str, &str)], flags: MountAttrFlags) -> Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).at("opening", kind)?;
    // What the mount table shows as its source.
    let named = [("source", kind)];
    for (key, value) in named.iter().chain(options) {
        fsconfig_set_string(context.as_fd(), *key, *value).at("setting", format!("{kind} {key}={value}"))?;
    }
    fsconfig_create(context.as_fd()).at("making", kind)?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, flags).at("mounting", kind)
}

/// Attaches a mount at a path below a directory.
pub(crate) fn attach(tree: impl AsFd, dir: impl AsFd, path: &str) -> rustix::io::Result<()> {
    move_mount(
        tree.as_fd(),
        "",
        dir.as_fd(),
        path,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
}

/// Builds the root on a stage, a small tmpfs that takes the place of the host's root, which is in a directory of it from then on.
/// Returns the stage and the root's directory.
pub(crate) fn build(spec: &ContainerSpec, prepared: &Prepared) -> Result<(OwnedFd, OwnedFd)> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).at("making private", "/")?;
    let stage = new_mount("tmpfs", &[("size", "64k"), ("mode", "0700")], MountAttrFlags::empty())?;
    attach(&stage, CWD, "/").at("mounting", "the stage")?;
    mkdirat(&stage, "host", Mode::RWXU).at("making", "host on the stage")?;
    fchdir(&stage).at("entering", "the stage")?;
    pivot_root(".", "host").at("pivoting to", "the stage")?;
    mkdirat(&stage, "root", Mode::RWXU).at("making", "root on the stage")?;
    match &prepared.root {
        PreparedRoot::Tree(tree) => attach(tree, &stage, "root").at("mounting", root_name(spec))?,
        PreparedRoot::Overlay { layers, upper } => mount_overlay(spec, &stage, layers, upper)?,
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let tree = openat(&stage, "root", flags, Mode::empty()).at("opening", "the root")?;
    Ok((stage, tree))
}

fn root_name(spec: &ContainerSpec) -> String {
    match &spec.root {
        RootFs::Bind { path } => path.display().to_string(),
        RootFs::Overlay { upper, .. } => upper.display().to_string(),
    }
}

/// Mounts the overlay from inside the user namespace, which makes it writable for the container's ids. Its layers have to be
/// attached for that: the kernel refuses detached ones.
fn mount_overlay(spec: &ContainerSpec, stage: &OwnedFd, layers: &[OwnedFd], upper: &OwnedFd) -> Result<()> {
    let mut names = Vec::with_capacity(layers.len());
    for (number, layer) in layers.iter().enumerate() {
        let name = format!("l{number}");
        mkdirat(stage, name.as_str(), Mode::RWXU).at("making", "a layer's directory")?;
        attach(layer, stage, &name).at("mounting", format!("layer {number}"))?;
        names.push(name);
    }
    mkdirat(stage, "u", Mode::RWXU).at("making", "the upper directory's directory")?;
    attach(upper, stage, "u").at("mounting", "the upper directory")?;
    let RootFs::Overlay { upper, work, .. } = &spec.root else {
        return Ok(());
    };
    let base = |path: &std::path::Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    // Relative names keep 500 layers within the page that mount(2) takes. Deleted files are marked by user xattrs also in privileged
    // containers, so that a volume means the same in both.
    let lower = names.join(":");
    let options = format!(
        "lowerdir={lower},upperdir=u/{},workdir=u/{},userxattr",
        base(upper),
        base(work)
    );
    let options = std::ffi::CString::new(options).unwrap_or_default();
    fchdir(stage).at("entering", "the stage")?;
    mount("overlay", "root", "overlay", MountFlags::empty(), options.as_c_str()).at("mounting the overlay of", upper)
}

/// A second mount of the root, attached nowhere: held by the keeper, it carries the root over a reboot, and keeps the flush that
/// comes with the last unmount out of the way of a stop.
pub(crate) fn detached_copy(tree: &OwnedFd) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(tree, "", flags).at("copying", "the root's mount")
}

/// Makes `tree` the root. The stage stays until [`leave`]: as long as the host's root is there, the kernel lets this user namespace
/// mount `proc` and `sysfs`, which it only does where they are visible whole already.
pub(crate) fn pivot(tree: &OwnedFd) -> Result<OwnedFd> {
    let old = open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).at("opening", "/")?;
    fchdir(tree).at("entering", "the root")?;
    pivot_root(".", ".").at("pivoting to", "the root")?;
    Ok(old)
}

/// Lets the stage and the host's mounts go. Nothing is mounted on the stage's root, so that this is what goes.
pub(crate) fn leave(old: &OwnedFd) -> Result<()> {
    fchdir(old).at("entering", "the old root")?;
    unmount(".", UnmountFlags::DETACH).at("unmounting", "the old root")?;
    rustix::process::chdir("/").at("entering", "/")
}

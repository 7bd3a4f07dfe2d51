//! `proc`, `sysfs`, the cgroup tree and the mounts of the specification.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use hutch_container::{ContainerSpec, Mount};
use hutch_sys::mount::{Flags, clone_tree, set_attributes};
use rustix::fs::CWD;
use rustix::mount::{MountAttrFlags, MountFlags, mount};

use super::root::{attach, new_mount};
use crate::fault::{At, Result};

/// Where containers made inside find whole instances of `proc` and `sysfs`, without which the kernel refuses them theirs
/// (`mount_too_revealing` in `fs/namespace.c`). Only with [`ContainerSpec::nesting`].
const HIDDEN: &str = "/dev/.hutch";

/// What says too much of the host, or acts on it, in `/proc`.
const MASKED_FILES: [&str; 5] = [
    "/proc/kcore",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/sysrq-trigger",
    "/proc/timer_list",
];
const MASKED_DIRECTORIES: [&str; 3] = ["/proc/acpi", "/proc/scsi", "/sys/firmware"];

/// Mounts what the kernel provides, writable for now.
pub(crate) fn mount_kernel(spec: &ContainerSpec) -> Result<()> {
    let plain = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    for dir in ["/proc", "/sys", "/dev"] {
        make_directory(Path::new(dir))?;
    }
    mount("proc", "/proc", "proc", plain, None).at("mounting", "/proc")?;
    mount("sysfs", "/sys", "sysfs", plain, None).at("mounting", "/sys")?;
    mount("cgroup2", "/sys/fs/cgroup", "cgroup2", plain, None).at("mounting", "/sys/fs/cgroup")?;
    let dev = new_mount(
        "tmpfs",
        &[("size", "512k"), ("mode", "0755")],
        MountAttrFlags::MOUNT_ATTR_NOSUID,
    )?;
    attach(&dev, CWD, "/dev").at("mounting", "/dev")?;
    if spec.nesting {
        fs::create_dir(HIDDEN).at("making", HIDDEN)?;
        for kind in ["proc", "sysfs"] {
            let path = format!("{HIDDEN}/{kind}");
            fs::create_dir(&path).at("making", &path)?;
            mount(kind, path.as_str(), kind, plain, None).at("mounting", &path)?;
        }
    }
    Ok(())
}

/// Makes a directory if nothing is there.
fn make_directory(path: &Path) -> Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error).at("making", path),
        _ => Ok(()),
    }
}

/// Mounts what the specification asks for.
pub(crate) fn mount_extra(spec: &ContainerSpec, trees: Vec<Option<OwnedFd>>) -> Result<()> {
    for (mount, tree) in spec.mounts.iter().zip(trees) {
        let Some(tree) = tree else { continue };
        match put(mount, &tree) {
            Err(fault) if mount.required => return Err(fault),
            _ => {}
        }
    }
    Ok(())
}

/// Attaches a mount at its target. The process's root being the container's, whatever the path goes through stays inside.
pub(crate) fn put(mount: &Mount, tree: &OwnedFd) -> Result<()> {
    let target = target(mount);
    make_target(tree, &target)?;
    attach(tree, CWD, &target.to_string_lossy()).at("mounting on", &target)
}

/// Where a mount goes, from the root.
pub(crate) fn target(mount: &Mount) -> PathBuf {
    Path::new("/").join(mount.target.strip_prefix("/").unwrap_or(&mount.target))
}

/// Makes a place of the kind that the mount is: a directory, or else a file.
fn make_target(tree: &OwnedFd, target: &Path) -> Result<()> {
    let mode = rustix::fs::fstat(tree).at("looking at the source of", target)?.st_mode;
    if rustix::fs::FileType::from_raw_mode(mode) == rustix::fs::FileType::Directory {
        return fs::create_dir_all(target).at("making", target);
    }
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).at("making", parent)?;
    }
    match fs::OpenOptions::new().write(true).create_new(true).open(target) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error).at("making", target),
        _ => Ok(()),
    }
}

/// Sets the kernel settings of the specification.
pub(crate) fn settings(spec: &ContainerSpec) -> Result<()> {
    for (name, value) in &spec.sysctls {
        // As sysctl(8): with a slash as the first separator, slashes separate and dots are plain.
        let first = name.find(['.', '/']).map(|at| name.as_bytes()[at]);
        let path = if first == Some(b'/') {
            name.clone()
        } else {
            name.replace(['.', '/'], "/")
        };
        let path = Path::new("/proc/sys").join(path);
        fs::write(&path, value).at("writing", path)?;
    }
    Ok(())
}

/// Makes `/proc/sys` but for `net`, and `/sys` but for its network devices, read-only, as systemd's container interface asks
/// (its services decide by it what is theirs to do); covers what is not a container's business; gives this boot its id.
pub(crate) fn protect(stage: &OwnedFd) -> Result<()> {
    let none = Flags::none();
    let net = clone_tree("/proc/sys/net", false).at("opening", "/proc/sys/net")?;
    let boot_id = boot_id(stage)?;
    let kernel = clone_tree("/proc/sys", false).at("opening", "/proc/sys")?;
    set_attributes(kernel.as_fd(), false, Flags::READ_ONLY, none, None).at("protecting", "/proc/sys")?;
    attach(&kernel, CWD, "/proc/sys").at("protecting", "/proc/sys")?;
    attach(&net, CWD, "/proc/sys/net").at("mounting", "/proc/sys/net")?;
    attach(&boot_id, CWD, "/proc/sys/kernel/random/boot_id").at("mounting", "the boot id")?;

    let devices = clone_tree("/sys/devices/virtual/net", false).at("opening", "/sys/devices/virtual/net")?;
    let sysfs =
        rustix::mount::open_tree(CWD, "/sys", rustix::mount::OpenTreeFlags::OPEN_TREE_CLOEXEC).at("opening", "/sys")?;
    let mut covered: Option<&str> = None;
    for path in MASKED_DIRECTORIES.iter().filter(|path| Path::new(path).is_dir()) {
        let cover = match covered {
            None => new_mount(
                "tmpfs",
                &[("size", "4k"), ("mode", "0555")],
                MountAttrFlags::MOUNT_ATTR_RDONLY,
            )?,
            // Of one that is attached: kernels before 6.15 copy no others.
            Some(first) => clone_tree(first, false).at("opening", first)?,
        };
        attach(&cover, CWD, path).at("covering", path)?;
        covered = Some(path);
    }
    for path in MASKED_FILES.iter().filter(|path| Path::new(path).exists()) {
        let cover = clone_tree("/dev/null", false).at("opening", "/dev/null")?;
        attach(&cover, CWD, path).at("covering", path)?;
    }
    set_attributes(sysfs.as_fd(), false, Flags::READ_ONLY, none, None).at("protecting", "/sys")?;
    attach(&devices, CWD, "/sys/devices/virtual/net").at("mounting", "/sys/devices/virtual/net")?;
    Ok(())
}

/// A mount of a file with a random UUID, for `/proc/sys/kernel/random/boot_id`: the kernel's is one for the whole machine.
fn boot_id(stage: &OwnedFd) -> Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    let uuid = "/proc/sys/kernel/random/uuid";
    let text = fs::read_to_string(uuid).at("reading", uuid)?;
    let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CREATE | rustix::fs::OFlags::CLOEXEC;
    let file = rustix::fs::openat(stage, "boot_id", flags, rustix::fs::Mode::from_raw_mode(0o444))
        .at("making", "the boot id")?;
    rustix::io::write(&file, text.as_bytes()).at("writing", "the boot id")?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let tree = clone_tree(path.as_str(), false).at("opening", "the boot id")?;
    set_attributes(tree.as_fd(), false, Flags::READ_ONLY, Flags::none(), None).at("protecting", "the boot id")?;
    Ok(tree)
}

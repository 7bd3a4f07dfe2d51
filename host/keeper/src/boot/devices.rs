//! `/dev`, and the console.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use hutch_container::ContainerSpec;
use rustix::fs::{CWD, Mode, OFlags, open, openat};
use rustix::mount::{MountFlags, OpenTreeFlags, mount, open_tree};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};

use super::root::attach;
use crate::fault::{At, Result};

/// The group `tty`, to which terminals belong in every distribution.
const TTY_GROUP: u32 = 5;

/// The console's ends and where the container's terminals are.
pub(crate) struct Console {
    pub(crate) master: OwnedFd,
    pub(crate) slave: OwnedFd,
    pub(crate) directory: OwnedFd,
}

/// Fills `/dev`, an empty tmpfs.
pub(crate) fn build(spec: &ContainerSpec, nodes: Vec<(&'static str, OwnedFd)>) -> Result<Console> {
    for (name, tree) in nodes {
        let path = format!("/dev/{name}");
        if let Some((dir, _)) = name.rsplit_once('/') {
            let dir = format!("/dev/{dir}");
            fs::create_dir_all(&dir).at("making", &dir)?;
        }
        fs::File::create(&path).at("making", &path)?;
        attach(&tree, CWD, &path).at("mounting", &path)?;
    }
    for (target, link) in [
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
        ("pts/ptmx", "/dev/ptmx"),
    ] {
        symlink(target, link).at("making", link)?;
    }
    let plain = MountFlags::NOSUID | MountFlags::NODEV;
    for dir in ["/dev/pts", "/dev/shm", "/dev/mqueue"] {
        fs::create_dir(dir).at("making", dir)?;
    }
    mount("tmpfs", "/dev/shm", "tmpfs", plain, c"mode=1777").at("mounting", "/dev/shm")?;
    mount("mqueue", "/dev/mqueue", "mqueue", plain | MountFlags::NOEXEC, None).at("mounting", "/dev/mqueue")?;
    // A devpts takes a group by its id on the inside, which has to be mapped.
    let mapped = spec.idmap.as_ref().is_none_or(|map| map.host_gid(TTY_GROUP).is_some());
    let options = if mapped {
        c"newinstance,ptmxmode=0666,mode=0620,gid=5,max=1024"
    } else {
        c"newinstance,ptmxmode=0666,mode=0620,max=1024"
    };
    mount(
        "devpts",
        "/dev/pts",
        "devpts",
        MountFlags::NOSUID | MountFlags::NOEXEC,
        options,
    )
    .at("mounting", "/dev/pts")?;
    console()
}

fn console() -> Result<Console> {
    let directory = open(
        "/dev/pts",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .at("opening", "/dev/pts")?;
    let (master, slave) = terminal(&directory)?;
    let path = "/dev/console";
    fs::File::create(path).at("making", path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o620)).at("making", path)?;
    let name = rustix::termios::ttyname(&slave, Vec::new()).at("naming", path)?;
    let name = name.to_string_lossy();
    let base = Path::new(name.as_ref()).file_name().unwrap_or_default();
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(directory.as_fd(), base, flags).at("opening", path)?;
    attach(&tree, CWD, path).at("mounting", path)?;
    Ok(Console {
        master,
        slave,
        directory,
    })
}

/// A new terminal of the `devpts` whose directory this is: its master and its slave side.
pub(crate) fn terminal(directory: &OwnedFd) -> Result<(OwnedFd, OwnedFd)> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = openat(directory, "ptmx", flags, Mode::empty()).at("opening", "/dev/ptmx")?;
    unlockpt(&master).at("unlocking", "a terminal")?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = ioctl_tiocgptpeer(&master, flags).at("opening", "a terminal")?;
    Ok((master, slave))
}

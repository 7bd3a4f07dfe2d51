//! What needs the powers of the host's root: opening what is to be mounted, with its ids mapped, and raising limits.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use hutch_container::{ContainerSpec, Fault, FaultKind, Mount, RootFs};
use hutch_sys::mount::{Flags, clone_directory, clone_tree, set_attributes};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::fault::{At, Result};

/// Device nodes of the host that every container gets, below `/dev`, and whether it can do without.
const NODES: [(&str, bool); 8] = [
    ("null", false),
    ("zero", false),
    ("full", false),
    ("random", false),
    ("urandom", false),
    ("tty", false),
    ("fuse", true),
    ("net/tun", true),
];

/// Mounts that are attached nowhere yet.
pub(crate) struct Prepared {
    pub(crate) root: PreparedRoot,
    /// Of [`ContainerSpec::mounts`], in the same order; `None` for one that is left out.
    pub(crate) mounts: Vec<Option<OwnedFd>>,
    /// Of the host's device nodes, with their names below `/dev`.
    pub(crate) nodes: Vec<(&'static str, OwnedFd)>,
}

/// What the root is made of.
pub(crate) enum PreparedRoot {
    /// One tree, which is it.
    Tree(OwnedFd),
    /// The layers of an overlay, uppermost first, and the directory that holds its upper and work directories.
    Overlay { layers: Vec<OwnedFd>, upper: OwnedFd },
}

impl Prepared {
    /// Opens everything. `kept` is the root of the boot before, when there was one.
    pub(crate) fn open(
        spec: &ContainerSpec,
        userns: Option<BorrowedFd<'_>>,
        kept: &mut Option<OwnedFd>,
    ) -> Result<Self> {
        let root = match (kept.take(), &spec.root) {
            (Some(tree), _) => PreparedRoot::Tree(tree),
            (None, RootFs::Bind { path }) => PreparedRoot::Tree(root_tree(userns, path)?),
            (None, RootFs::Overlay { layers, upper, .. }) => PreparedRoot::Overlay {
                layers: layers
                    .iter()
                    .map(|layer| root_tree(userns, layer))
                    .collect::<Result<_>>()?,
                // Both directories have to be reached through one mount; their parent is the same (see ContainerSpec::check).
                upper: root_tree(userns, upper.parent().unwrap_or(upper))?,
            },
        };
        Ok(Self {
            root,
            mounts: open_mounts(&spec.mounts, userns)?,
            nodes: nodes()?,
        })
    }
}

/// A copy of the mount at a directory of the root file system. What lies in a pool is named by a driver, and its trees are filled
/// by containers: a symbolic link in either must not lead out of the pool. The pool's mount may refuse set-user-id programs and devices;
/// the container's ids being mapped, the first are its own, and the second are the device cgroup's matter where nodes can be
/// made at all.
fn root_tree(userns: Option<BorrowedFd<'_>>, path: &Path) -> Result<OwnedFd> {
    let tree = clone_directory(path).at("opening", path)?;
    let (set, clear) = match userns {
        Some(_) => (Flags::NO_DEVICES, Flags::NO_SUID.and(Flags::READ_ONLY)),
        None => (
            Flags::none(),
            Flags::NO_SUID.and(Flags::NO_DEVICES).and(Flags::READ_ONLY),
        ),
    };
    set_attributes(tree.as_fd(), false, set, clear, userns).map_err(|error| map_fault(path, &error))?;
    Ok(tree)
}

fn map_fault(path: &Path, error: &std::io::Error) -> Fault {
    match error.raw_os_error() {
        Some(libc::EINVAL) => Fault {
            cause: "its file system can't map ids (see mount_setattr(2))".to_owned(),
            ..Fault::system("mapping the ids of", path.display().to_string(), libc::EINVAL)
        },
        errno => Fault::system("mapping the ids of", path.display().to_string(), errno.unwrap_or(0)),
    }
}

/// Copies of the mounts at the sources, with their flags and ids, attached nowhere; `None` for one that is not required and missing.
pub(crate) fn open_mounts(mounts: &[Mount], userns: Option<BorrowedFd<'_>>) -> Result<Vec<Option<OwnedFd>>> {
    mounts
        .iter()
        .map(|mount| {
            let open = || -> Result<OwnedFd> {
                let tree = clone_tree(mount.source.as_path(), mount.recursive).at("opening", &mount.source)?;
                let set = if mount.readonly {
                    Flags::NO_DEVICES.and(Flags::READ_ONLY)
                } else {
                    Flags::NO_DEVICES
                };
                let userns = userns.filter(|_| mount.shift);
                set_attributes(tree.as_fd(), mount.recursive, set, Flags::none(), userns)
                    .map_err(|error| map_fault(&mount.source, &error))?;
                Ok(tree)
            };
            match open() {
                Err(fault) if mount.required => Err(fault),
                opened => Ok(opened.ok()),
            }
        })
        .collect()
}

fn nodes() -> Result<Vec<(&'static str, OwnedFd)>> {
    let mut nodes = Vec::with_capacity(NODES.len());
    for (name, optional) in NODES {
        let path = Path::new("/dev").join(name);
        match clone_tree(path.as_path(), false) {
            Ok(tree) => nodes.push((name, tree)),
            Err(error) if optional && error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).at("opening", path),
        }
    }
    Ok(nodes)
}

/// Sets what is inherited and needs `CAP_SYS_RESOURCE` on the host.
pub(crate) fn resource_limits(spec: &ContainerSpec) -> Result<()> {
    // The daemon may be protected from the kernel's memory killer (oom_score_adj, proc(5)); what it starts is not.
    std::fs::write("/proc/self/oom_score_adj", "0").at("writing", "/proc/self/oom_score_adj")?;
    for limit in &spec.rlimits {
        let unknown = || Fault::new(FaultKind::Invalid, "setting", &limit.resource, "no such resource limit");
        let resource = resource(&limit.resource).ok_or_else(unknown)?;
        setrlimit(
            resource,
            Rlimit {
                current: limit.soft,
                maximum: limit.hard,
            },
        )
        .at("setting", &limit.resource)?;
    }
    Ok(())
}

/// Names as in `prlimit(1)`.
fn resource(name: &str) -> Option<Resource> {
    Some(match name {
        "as" => Resource::As,
        "core" => Resource::Core,
        "cpu" => Resource::Cpu,
        "data" => Resource::Data,
        "fsize" => Resource::Fsize,
        "locks" => Resource::Locks,
        "memlock" => Resource::Memlock,
        "msgqueue" => Resource::Msgqueue,
        "nice" => Resource::Nice,
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        "rss" => Resource::Rss,
        "rtprio" => Resource::Rtprio,
        "rttime" => Resource::Rttime,
        "sigpending" => Resource::Sigpending,
        "stack" => Resource::Stack,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn limits_have_names() {
        assert!(super::resource("nofile").is_some());
        assert!(super::resource("NOFILE").is_none());
    }
}

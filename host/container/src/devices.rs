//! By what means the kernel keeps containers from devices that are not theirs.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use hutch_sys::bpf;
use hutch_sys::cgroup::Hierarchies;
use serde::{Deserialize, Serialize};

use crate::CGROUP_PARENT;

/// The means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceControl {
    /// A program on the container's cgroup in the unified hierarchy (`BPF_PROG_TYPE_CGROUP_DEVICE`).
    #[default]
    Bpf,
    /// The `devices` controller of version 1 (the kernel's `admin-guide/cgroup-v1/devices`).
    Legacy,
    /// Those of the container that everything here runs in: who is not root on the machine makes no device nodes, and opens none that
    /// its keeper does not let it have.
    Enclosing,
}

/// What works on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceSupport {
    /// What containers are started with.
    pub control: DeviceControl,
    /// Why it is not [`DeviceControl::Bpf`], for the operator to read: what the kernel lacks, and what that leads to.
    pub reason: Option<String>,
}

impl DeviceSupport {
    /// Tries the first, on a cgroup of its own that is removed again.
    pub(crate) fn probe() -> Self {
        let hierarchies = Hierarchies::find();
        let tried = match hierarchies.unified() {
            Some(root) => try_program(root),
            // Nothing can be started, and the keeper says why.
            None => Ok(()),
        };
        Self::choose(tried, hierarchies.legacy("devices").is_some(), in_user_namespace())
    }

    fn choose(tried: io::Result<()>, legacy: bool, enclosed: bool) -> Self {
        let error = match tried {
            Ok(()) => {
                return Self {
                    control: DeviceControl::Bpf,
                    reason: None,
                };
            }
            Err(error) if enclosed && error.raw_os_error() == Some(libc::EPERM) => {
                return Self {
                    control: DeviceControl::Enclosing,
                    reason: None,
                };
            }
            Err(error) => error,
        };
        let leads_to = if legacy {
            "containers are kept from devices by the devices controller of cgroup version 1 instead"
        } else {
            "and the devices controller of cgroup version 1 is not mounted: no container can be started \
             (mount -t cgroup -o devices devices /sys/fs/cgroup/devices, and restart the daemon)"
        };
        Self {
            control: DeviceControl::Legacy,
            reason: Some(format!(
                "the kernel takes no BPF program for the devices of a cgroup ({error}; it needs CONFIG_CGROUP_BPF), {leads_to}"
            )),
        }
    }
}

/// Loads a program that refuses every device, and has it asked for an empty cgroup.
fn try_program(root: &Path) -> io::Result<()> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let parent = root.join(CGROUP_PARENT);
    match fs::create_dir(&parent) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let cgroup = parent.join(format!("probe-{}-{number}", std::process::id()));
    fs::create_dir(&cgroup)?;
    let tried = fs::File::open(&cgroup).and_then(|cgroup| bpf::restrict_devices(cgroup.as_fd(), &[]));
    fs::remove_dir(&cgroup)?;
    tried
}

/// Whether this is not the machine's own user namespace, which has all ids.
fn in_user_namespace() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().ne(["0", "0", "4294967295"])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(errno: Option<i32>, legacy: bool, enclosed: bool) -> DeviceSupport {
        let tried = errno.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)));
        DeviceSupport::choose(tried, legacy, enclosed)
    }

    #[test]
    fn what_the_kernel_lacks_is_told_with_what_it_leads_to() {
        assert_eq!(choose(None, true, false).control, DeviceControl::Bpf);
        assert_eq!(choose(Some(libc::EPERM), true, true).control, DeviceControl::Enclosing);
        let legacy = choose(Some(libc::EINVAL), true, false);
        assert_eq!(legacy.control, DeviceControl::Legacy);
        let reason = legacy.reason.unwrap();
        assert!(
            reason.contains("Invalid argument") && reason.contains("instead"),
            "{reason}"
        );
        let none = choose(Some(libc::ENOSYS), false, false);
        assert_eq!(none.control, DeviceControl::Legacy);
        let reason = none.reason.unwrap();
        assert!(reason.contains("no container can be started"), "{reason}");
        assert_eq!(choose(Some(libc::EPERM), true, false).control, DeviceControl::Legacy);
    }
}

//! The container's cgroups: made, limited, entered, watched and removed from outside.
//!
//! The container's own tree is one of the unified hierarchy, delegated to its root. Limits are set there by the controllers that
//! the machine has on it, and on the legacy hierarchies by those that are still mounted so.

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use hutch_container::{CGROUP_PARENT, ContainerSpec, DeviceRule, Fault, FaultKind, Limits};
use hutch_sys::bpf;
use hutch_sys::cgroup::{Hierarchies, remove_tree};
use rustix::fs::{Mode, OFlags, open};

use crate::fault::{At, Result};

/// Controllers that limits need.
const CONTROLLERS: [&str; 4] = ["cpu", "cpuset", "memory", "pids"];

/// The cgroup below the container's own in which programs run that were begun from outside. A leaf of its own because the
/// container's manager may turn on controllers for its children, after which its root can't hold processes.
const GUESTS: &str = ".hutch";

/// The cgroups of one container.
pub(crate) struct Cgroup {
    unified: PathBuf,
    directory: OwnedFd,
    guests: OwnedFd,
    /// Where each legacy controller has the container's cgroup.
    legacy: Vec<(&'static str, PathBuf)>,
}

impl Cgroup {
    /// Makes them, or takes those that are there.
    pub(crate) fn make(spec: &ContainerSpec) -> Result<Self> {
        let hierarchies = Hierarchies::find();
        let root = hierarchies.unified().ok_or_else(|| {
            Fault::new(
                FaultKind::Unsupported,
                "looking for",
                "cgroup v2",
                "the unified hierarchy is not mounted",
            )
        })?;
        let parent = root.join(CGROUP_PARENT);
        make_directory(&parent)?;
        turn_on_controllers(root)?;
        turn_on_controllers(&parent)?;
        let unified = parent.join(&spec.cgroup);
        make_directory(&unified)?;
        let open_directory = |path: &Path| {
            open(
                path,
                OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .at("opening", path)
        };
        let guests = unified.join(GUESTS);
        make_directory(&guests)?;
        let mut this = Self {
            directory: open_directory(&unified)?,
            guests: open_directory(&guests)?,
            unified,
            legacy: Vec::new(),
        };
        match this.fill(spec, hierarchies) {
            Ok(()) => Ok(this),
            Err(fault) => {
                // Nobody is in them: that they can't be removed is not to be feared, and no reason to hide the first fault.
                drop(this.remove());
                Err(fault)
            }
        }
    }

    fn fill(&mut self, spec: &ContainerSpec, hierarchies: &Hierarchies) -> Result<()> {
        self.delegate(spec)?;
        self.make_legacy(spec, hierarchies)?;
        self.restrict_devices(spec)?;
        self.set_limits(&spec.limits, &Limits::default())
    }

    /// Gives the tree to the container's root (the kernel's `admin-guide/cgroup-v2`, "Model of Delegation"): the directory to make
    /// children in, and these three files. What limits it stays the host's.
    fn delegate(&self, spec: &ContainerSpec) -> Result<()> {
        let Some(map) = &spec.idmap else { return Ok(()) };
        for dir in [&self.unified, &self.unified.join(GUESTS)] {
            for file in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
                let path = if file.is_empty() { dir.clone() } else { dir.join(file) };
                chown(&path, map.host_uid(0), map.host_gid(0)).at("delegating", &path)?;
            }
        }
        Ok(())
    }

    fn make_legacy(&mut self, spec: &ContainerSpec, hierarchies: &Hierarchies) -> Result<()> {
        for controller in CONTROLLERS {
            let Some(root) = hierarchies.legacy(controller) else {
                continue;
            };
            let parent = root.join(CGROUP_PARENT);
            let dir = parent.join(&spec.cgroup);
            for dir in [&parent, &dir] {
                make_directory(dir)?;
                if controller == "cpuset" {
                    inherit_cpuset(dir)?;
                }
            }
            self.legacy.push((controller, dir));
        }
        Ok(())
    }

    fn restrict_devices(&self, spec: &ContainerSpec) -> Result<()> {
        let rule = |rule: &DeviceRule| bpf::DeviceRule {
            block: rule.block,
            major: rule.major,
            minor: rule.minor,
            read: rule.read,
            write: rule.write,
            mknod: rule.mknod,
        };
        let rules: Vec<_> = DeviceRule::DEFAULTS.iter().chain(&spec.devices).map(rule).collect();
        match bpf::restrict_devices(self.directory.as_fd(), &rules) {
            // Inside another container no node can be made, and none be opened that its keeper does not allow.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) && in_user_namespace() => Ok(()),
            done => done.at("restricting the devices of", &self.unified),
        }
    }

    /// The directory for `CLONE_INTO_CGROUP`.
    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// The same for programs begun from outside.
    pub(crate) fn guests(&self) -> BorrowedFd<'_> {
        self.guests.as_fd()
    }

    /// Moves this process into the container's own cgroup.
    pub(crate) fn enter_unified(&self) -> Result<()> {
        self.write("cgroup.procs", "0")
    }

    /// Moves this process into the legacy cgroups. The first such move costs the kernel a grace period of several
    /// milliseconds, which is why a container's programs are begun by a process that is inside already.
    pub(crate) fn enter_legacy(&self) -> Result<()> {
        for (_, dir) in &self.legacy {
            let path = dir.join("cgroup.procs");
            fs::write(&path, "0").at("entering", &path)?;
        }
        Ok(())
    }

    /// The file that signals when the last process is gone (`EPOLLPRI`).
    pub(crate) fn events(&self) -> Result<fs::File> {
        let path = self.unified.join("cgroup.events");
        fs::File::open(&path).at("opening", path)
    }

    pub(crate) fn kill(&self) -> Result<()> {
        self.write("cgroup.kill", "1")
    }

    pub(crate) fn freeze(&self, frozen: bool) -> Result<()> {
        self.write("cgroup.freeze", if frozen { "1" } else { "0" })
    }

    fn write(&self, file: &str, value: &str) -> Result<()> {
        let path = self.unified.join(file);
        fs::write(&path, value).at("writing", path)
    }

    /// Makes the tree as it was at first: PID 1 of a reboot must find no children, and no controllers turned on for them.
    pub(crate) fn clear(&mut self, spec: &ContainerSpec) -> Result<()> {
        for entry in fs::read_dir(&self.unified).at("reading", &self.unified)? {
            let entry = entry.at("reading", &self.unified)?;
            if entry.file_type().at("reading", entry.path())?.is_dir() {
                remove_tree(&entry.path()).at("removing", entry.path())?;
            }
        }
        let path = self.unified.join("cgroup.subtree_control");
        let on = fs::read_to_string(&path).at("reading", &path)?;
        for controller in on.split_whitespace() {
            fs::write(&path, format!("-{controller}")).at("writing", &path)?;
        }
        let guests = self.unified.join(GUESTS);
        make_directory(&guests)?;
        self.guests = open(
            &guests,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .at("opening", guests)?;
        self.delegate(spec)
    }

    /// Removes them. No process may be left.
    pub(crate) fn remove(&self) -> Result<()> {
        for dir in [&self.unified]
            .into_iter()
            .chain(self.legacy.iter().map(|(_, dir)| dir))
        {
            remove_tree(dir).at("removing", dir)?;
        }
        Ok(())
    }

    /// Sets every limit in which the two differ.
    pub(crate) fn set_limits(&self, new: &Limits, old: &Limits) -> Result<()> {
        for (controller, settings) in [
            ("cpu", cpu_settings as fn(&Limits, bool) -> Vec<Setting>),
            ("cpuset", cpuset_settings),
            ("memory", memory_settings),
            ("pids", pids_settings),
        ] {
            let legacy = self
                .legacy
                .iter()
                .find(|(name, _)| *name == controller)
                .map(|(_, dir)| dir.as_path());
            let dir = legacy.unwrap_or(&self.unified);
            let (wanted, had) = (settings(new, legacy.is_some()), settings(old, legacy.is_some()));
            let changed: Vec<_> = wanted
                .iter()
                .zip(&had)
                .filter(|(a, b)| a.value != b.value)
                .map(|(a, _)| a)
                .collect();
            if !changed.is_empty() {
                apply(dir, controller, &changed)?;
            }
        }
        Ok(())
    }
}

/// A file of a cgroup and what it is to hold.
struct Setting {
    file: &'static str,
    value: String,
    /// A kernel may lack it, by its configuration; without a limit that is as well.
    optional: bool,
}

fn setting(file: &'static str, value: String) -> Setting {
    Setting {
        file,
        value,
        optional: false,
    }
}

/// Writes the settings. When one of two that bound each other is refused (memory and memory with swap on v1: the second may not be
/// under the first at any time), they are written the other way round.
fn apply(dir: &Path, controller: &str, settings: &[&Setting]) -> Result<()> {
    let write = |setting: &&Setting| -> io::Result<()> {
        let mut file = match fs::OpenOptions::new().write(true).open(dir.join(setting.file)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && setting.optional => return Ok(()),
            opened => opened?,
        };
        file.write_all(setting.value.as_bytes())
    };
    if controller == "memory" && settings.iter().try_for_each(write).is_err() {
        for setting in settings.iter().rev() {
            write(setting).at("limiting", dir.join(setting.file))?;
        }
    }
    for setting in settings {
        write(setting).at("limiting", dir.join(setting.file))?;
    }
    Ok(())
}

fn cpu_settings(limits: &Limits, legacy: bool) -> Vec<Setting> {
    let quota = limits.cpu_quota;
    let weight = u64::from(limits.cpu_weight.unwrap_or(100));
    if !legacy {
        let max = quota.map_or("max 100000".to_owned(), |q| format!("{} {}", q.quota_us, q.period_us));
        return vec![setting("cpu.max", max), setting("cpu.weight", weight.to_string())];
    }
    let period = quota.map_or(100_000, |q| q.period_us);
    let quota = quota.map_or("-1".to_owned(), |q| q.quota_us.to_string());
    // The kernel takes 2 shares at least.
    let shares = (weight * 1024 / 100).max(2);
    vec![
        setting("cpu.cfs_period_us", period.to_string()),
        setting("cpu.cfs_quota_us", quota),
        setting("cpu.shares", shares.to_string()),
    ]
}

fn cpuset_settings(limits: &Limits, legacy: bool) -> Vec<Setting> {
    // No limit is written as nothing on v2, and as all there are on v1.
    let all = || {
        if legacy {
            fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default()
        } else {
            "\n".to_owned()
        }
    };
    vec![setting(
        "cpuset.cpus",
        limits.cpu_set.as_ref().map_or_else(all, ToString::to_string),
    )]
}

fn memory_settings(limits: &Limits, legacy: bool) -> Vec<Setting> {
    let bytes = |limit: Option<u64>, none: &str| limit.map_or(none.to_owned(), |bytes| bytes.to_string());
    if !legacy {
        return vec![
            setting("memory.max", bytes(limits.memory, "max")),
            setting("memory.high", bytes(limits.memory_soft, "max")),
            Setting {
                file: "memory.swap.max",
                value: bytes(limits.swap, "max"),
                optional: true,
            },
        ];
    }
    let both = limits
        .memory
        .zip(limits.swap)
        .map(|(memory, swap)| memory.saturating_add(swap));
    vec![
        setting("memory.limit_in_bytes", bytes(limits.memory, "-1")),
        setting("memory.soft_limit_in_bytes", bytes(limits.memory_soft, "-1")),
        Setting {
            file: "memory.memsw.limit_in_bytes",
            value: bytes(both, "-1"),
            optional: true,
        },
    ]
}

fn pids_settings(limits: &Limits, _legacy: bool) -> Vec<Setting> {
    vec![setting(
        "pids.max",
        limits.processes.map_or("max".to_owned(), |count| count.to_string()),
    )]
}

/// Whether this is not the machine's own user namespace, which has all ids.
fn in_user_namespace() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().ne(["0", "0", "4294967295"])
}

fn make_directory(path: &Path) -> Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error).at("making", path),
        _ => Ok(()),
    }
}

/// Lets the cgroups below `dir` have the controllers that are here and not on yet.
fn turn_on_controllers(dir: &Path) -> Result<()> {
    let read = |file: &str| fs::read_to_string(dir.join(file)).at("reading", dir.join(file));
    let (here, on) = (read("cgroup.controllers")?, read("cgroup.subtree_control")?);
    let has = |list: &str, name: &str| list.split_whitespace().any(|one| one == name);
    for controller in CONTROLLERS {
        if has(&here, controller) && !has(&on, controller) {
            let path = dir.join("cgroup.subtree_control");
            fs::write(&path, format!("+{controller}")).at("turning on controllers in", path)?;
        }
    }
    Ok(())
}

/// A new legacy cpuset is empty and can hold nobody (`cpuset(7)`): it begins with what its parent has.
fn inherit_cpuset(dir: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let path = dir.join(file);
        if fs::read_to_string(&path).at("reading", &path)?.trim().is_empty() {
            let parent = dir.parent().unwrap_or(dir).join(file);
            let value = fs::read_to_string(&parent).at("reading", parent)?;
            fs::write(&path, value).at("writing", &path)?;
        }
    }
    Ok(())
}

/// Takes the keeper itself out of the cgroup of the service that its daemon is, lest stopping that kills it, in the hierarchies
/// that service managers go by.
pub(crate) fn leave_service() -> Result<()> {
    let own = fs::read_to_string("/proc/self/cgroup").at("reading", "/proc/self/cgroup")?;
    for line in own.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let root = match controllers {
            "" => Hierarchies::find().unified(),
            named if named.starts_with("name=") => Hierarchies::find().legacy(named),
            _ => None,
        };
        let Some(root) = root else { continue };
        // At the root there is no service to leave.
        if path != "/" && !path.starts_with("/hutch.keepers") {
            let dir = root.join("hutch.keepers");
            make_directory(&dir)?;
            fs::write(dir.join("cgroup.procs"), "0").at("entering", dir)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hutch_container::CpuQuota;

    fn text(settings: &[Setting]) -> Vec<String> {
        settings.iter().map(|s| format!("{}={}", s.file, s.value)).collect()
    }

    #[test]
    fn limits_in_both_versions() {
        let limits = Limits {
            cpu_quota: Some(CpuQuota {
                quota_us: 25_000,
                period_us: 50_000,
            }),
            cpu_weight: Some(50),
            memory: Some(1 << 20),
            swap: Some(1 << 19),
            processes: Some(9),
            ..Limits::default()
        };
        assert_eq!(
            text(&cpu_settings(&limits, false)),
            ["cpu.max=25000 50000", "cpu.weight=50"]
        );
        assert_eq!(
            text(&cpu_settings(&limits, true)),
            ["cpu.cfs_period_us=50000", "cpu.cfs_quota_us=25000", "cpu.shares=512"]
        );
        assert_eq!(
            text(&memory_settings(&limits, true)),
            [
                "memory.limit_in_bytes=1048576",
                "memory.soft_limit_in_bytes=-1",
                "memory.memsw.limit_in_bytes=1572864"
            ]
        );
        assert_eq!(text(&pids_settings(&Limits::default(), false)), ["pids.max=max"]);
    }
}

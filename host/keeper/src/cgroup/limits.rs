//! What limits become: files of the controllers, in both versions.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use hutch_container::{Fault, FaultKind, Limits};

use crate::fault::{At, Result};

/// What a controller is to hold for limits; the second argument says whether it is a legacy one.
type Settings = fn(&Limits, bool) -> Vec<Setting>;

/// Every controller that limits need.
pub(super) const SETTINGS: [(&str, Settings); 4] = [
    ("cpu", cpu_settings),
    ("cpuset", cpuset_settings),
    ("memory", memory_settings),
    ("pids", pids_settings),
];

/// Writes what differs between two lists of the same settings.
pub(super) fn change(dir: &Path, controller: &str, new: &[Setting], old: &[Setting]) -> Result<()> {
    let pairs = new.iter().zip(old);
    let changed: Vec<&Setting> = pairs.filter(|(a, b)| a.value != b.value).map(|(a, _)| a).collect();
    if changed.is_empty() {
        return Ok(());
    }
    apply(dir, controller, &changed)
}

/// A file of a cgroup and what it is to hold.
pub(super) struct Setting {
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
    let write_all = |setting: &&Setting| match write(setting) {
        // Version 1 takes no limit that it can't keep (`memory.limit_in_bytes`, cgroup-v1/memory.rst 5.1 and its EBUSY).
        Err(error) if controller == "memory" && error.raw_os_error() == Some(libc::EBUSY) => Err(Fault::new(
            FaultKind::State,
            "limiting",
            "its memory",
            "more than that is in use",
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound && dir.is_dir() => Err(Fault::new(
            FaultKind::Unsupported,
            "limiting",
            format!("what the controller `{controller}` counts"),
            "this machine gives its containers no such controller",
        )),
        written => written.at("limiting", dir.join(setting.file)),
    };
    if controller == "memory" && settings.iter().try_for_each(write).is_err() {
        settings.iter().rev().try_for_each(write_all)?;
    }
    settings.iter().try_for_each(write_all)
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
    // No limit is all there are, because a cpuset that holds processes can't be emptied in either version (`validate_change` in
    // kernel/cgroup/cpuset.c, ENOSPC). Version 2 takes those that are not plugged in yet as well, and uses them once they are.
    let all = || {
        let which = if legacy { "online" } else { "possible" };
        let all = fs::read_to_string(format!("/sys/devices/system/cpu/{which}")).unwrap_or_default();
        all.trim().to_owned()
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

//! Configuration keys of instances: which there are, what they may hold and what they mean.
//!
//! A key that has no effect here is refused rather than kept, so that nobody relies on it; keys under `user.`, `image.` and
//! `environment.` are the caller's own text. Those under `volatile.` are `instances::volatile`'s.

pub(crate) mod syscalls;

use std::collections::BTreeMap;

use hutch_api::Config;
use hutch_container::{CpuQuota, CpuSet, Limits};

use crate::Core;
use crate::error::{Error, Result};
use crate::instances::volatile;

/// A checker says what is wrong with a value.
type Check = fn(&str) -> std::result::Result<(), String>;

/// How long snapshots stay that are made without an end of their own.
pub(crate) const SNAPSHOTS_EXPIRY: &str = "snapshots.expiry";

/// Keys with the check of their value.
const KEYS: &[(&str, Check)] = &[
    ("boot.autostart", boolean),
    ("boot.autostart.delay", delay),
    ("boot.autostart.priority", number),
    ("cloud-init.network-config", any),
    ("cloud-init.user-data", any),
    ("cloud-init.vendor-data", any),
    ("limits.cpu", cpus),
    ("limits.cpu.allowance", allowance),
    ("limits.cpu.priority", cpu_priority),
    ("limits.memory", memory),
    ("limits.memory.enforce", enforce),
    ("limits.memory.swap", swap),
    ("limits.processes", processes),
    ("security.idmap.isolated", isolated),
    ("security.nesting", boolean),
    ("security.privileged", boolean),
    ("security.protection.delete", boolean),
    ("security.syscalls.allow", syscalls::allowed),
    ("security.syscalls.blacklist", syscalls::denied),
    ("security.syscalls.blacklist_compat", boolean),
    ("security.syscalls.blacklist_default", boolean),
    ("security.syscalls.deny", syscalls::denied),
    ("security.syscalls.deny_compat", boolean),
    ("security.syscalls.deny_default", boolean),
    ("security.syscalls.intercept.mknod", boolean),
    ("security.syscalls.intercept.setxattr", boolean),
    ("security.syscalls.intercept.sysinfo", boolean),
    ("security.syscalls.whitelist", syscalls::allowed),
    (SNAPSHOTS_EXPIRY, expiry),
];

/// Bytes of memory without which nothing starts: the kernel's own for a process and its pages, and a shell.
const LEAST_MEMORY: u64 = 2 << 20;

/// Beginnings of keys that hold whatever their owner puts there.
const FREE: &[&str] = &["user.", "image.", "environment."];

/// Checks an instance's or a profile's configuration.
///
/// # Errors
/// [`Error::Invalid`] with the key, its value and what it may be.
pub fn check(config: &Config) -> Result<()> {
    for (key, value) in config {
        if key.len() > 512 || value.len() > 1024 * 1024 {
            return Err(Error::invalid(format!("Configuration key {key:.64?} is too long")));
        }
        if let Some(prefix) = FREE.iter().find(|prefix| key.starts_with(**prefix)) {
            if key.len() == prefix.len() {
                return Err(Error::invalid(format!(
                    "Invalid configuration key {key:?}: there is nothing after the dot"
                )));
            }
            if *prefix == "environment." && (key.contains('=') || key.contains('\0') || value.contains('\0')) {
                return Err(Error::invalid(format!(
                    "Invalid configuration key {key:?}: not the name of a variable"
                )));
            }
            continue;
        }
        if volatile::is_volatile(key) {
            volatile::check(key, value)?;
            continue;
        }
        if let Some(limit) = key.strip_prefix("limits.kernel.") {
            rlimit(limit, value)?;
            continue;
        }
        if let Some(why) = syscalls::refused(key) {
            return Err(Error::invalid(format!("Configuration key {key} can't be used: {why}")));
        }
        let Some((_, check)) = KEYS.iter().find(|(name, _)| name == key) else {
            return Err(Error::invalid(format!("Unknown configuration key: {key}")));
        };
        if !value.is_empty() {
            check(value).map_err(|why| Error::invalid(format!("Invalid value {value:?} for {key}: {why}")))?;
        }
    }
    syscalls::together(config).map_err(Error::invalid)
}

impl Core {
    /// Checks an instance's or a profile's configuration, also against what the machine has.
    ///
    /// # Errors
    /// [`Error::Invalid`] as of [`check`] and [`limits`].
    pub(crate) fn check_config(&self, config: &Config) -> Result<()> {
        check(config)?;
        limits(config, self.machine.memory_bytes, &self.machine.cpus).map(drop)
    }

    /// [`Core::check_config`] for a profile, which can't have what is one instance's.
    ///
    /// # Errors
    /// [`Error::Invalid`], also for keys under `volatile.` and `image.`.
    pub(crate) fn check_profile_config(&self, config: &Config) -> Result<()> {
        // The words are LXD's.
        if config.keys().any(|key| volatile::is_volatile(key)) {
            return Err(Error::invalid("Volatile keys can only be set on instances"));
        }
        if config.keys().any(|key| key.starts_with("image.")) {
            return Err(Error::invalid("Image keys can only be set on instances"));
        }
        self.check_config(config)
    }
}

/// A configuration without the keys that have no value: that is how clients take a key out.
pub fn pruned(mut config: BTreeMap<String, String>) -> BTreeMap<String, String> {
    config.retain(|_, value| !value.is_empty());
    config
}

/// Whether the key is set to a true value (`true`, `1`, `yes`, `on`).
pub fn is_true(config: &Config, key: &str) -> bool {
    config.get(key).is_some_and(|value| parse_bool(value) == Some(true))
}

/// Reads a truth value as LXD does.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" | "" => Some(false),
        _ => None,
    }
}

/// Reads a size: a number with an optional unit of 1000 (`kB`, `MB`, …) or 1024 (`KiB`, `MiB`, …).
pub fn parse_size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let factor: u64 = match text[digits..].trim() {
        "" | "B" => 1,
        "kB" | "k" | "K" => 1_000,
        "MB" | "M" => 1_000_000,
        "GB" | "G" => 1_000_000_000,
        "TB" | "T" => 1_000_000_000_000,
        "PB" => 1_000_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "PiB" => 1 << 50,
        _ => return None,
    };
    number.checked_mul(factor)
}

/// A machine's processors in the order in which an instance takes as many as it may have. Each instance begins elsewhere, and always at
/// the same place, so that those that have few processors do not share the first.
pub fn processors_for(instance: &uuid::Uuid, online: &[u32]) -> Vec<u32> {
    let mut order = online.to_vec();
    if let Ok(count) = u128::try_from(order.len())
        && count > 0
    {
        // Ids are random.
        order.rotate_left(usize::try_from(instance.as_u128() % count).unwrap_or_default());
    }
    order
}

/// The limits that a configuration asks for, on a machine with `total_memory` bytes and processors `online`. Of these the first are taken
/// when a number of them is asked for: all, when that is more than there are.
///
/// # Errors
/// [`Error::Invalid`] for values that [`check`] would refuse, and for processors that the machine has not.
pub fn limits(config: &Config, total_memory: u64, online: &[u32]) -> Result<Limits> {
    let mut limits = Limits::default();
    let set = |key: &str| config.get(key).filter(|value| !value.is_empty());
    let bad = |key: &str, value: &str| Error::invalid(format!("Invalid value {value:?} for {key}"));
    if let Some(value) = set("limits.cpu") {
        if let Ok(count) = value.parse::<usize>() {
            // A number of processors and not their set: as many as there are, at most.
            let count = count.min(online.len());
            if count < online.len() {
                let chosen = online
                    .iter()
                    .take(count)
                    .map(u32::to_string)
                    .collect::<Vec<_>>()
                    .join(",");
                limits.cpu_set = Some(chosen.parse::<CpuSet>().map_err(|_| bad("limits.cpu", value))?);
            }
        } else {
            let set = value.parse::<CpuSet>().map_err(|_| bad("limits.cpu", value))?;
            if let Some(missing) = set.cpus().iter().find(|cpu| !online.contains(cpu)) {
                return Err(Error::invalid(format!(
                    "Invalid value {value:?} for limits.cpu: this machine has no processor {missing}, but {}",
                    CpuSet::new(online.iter().copied())
                )));
            }
            limits.cpu_set = Some(set);
        }
    }
    if let Some(value) = set("limits.cpu.allowance") {
        match parse_allowance(value).ok_or_else(|| bad("limits.cpu.allowance", value))? {
            Allowance::Share(percent) => limits.cpu_weight = Some(u32::from(percent)),
            Allowance::Time { quota_us, period_us } => limits.cpu_quota = Some(CpuQuota { quota_us, period_us }),
        }
    }
    if let Some(value) = set("limits.cpu.priority") {
        let priority: u32 = value.parse().map_err(|_| bad("limits.cpu.priority", value))?;
        // 0 to 10 around the kernel's default weight of 100; it moves a share only by its last tenth.
        limits.cpu_weight = Some(
            limits
                .cpu_weight
                .unwrap_or(100)
                .saturating_add(priority)
                .saturating_sub(10)
                .max(1),
        );
    }
    if let Some(value) = set("limits.memory") {
        let bytes = parse_memory(value, total_memory).ok_or_else(|| bad("limits.memory", value))?;
        if config.get("limits.memory.enforce").is_some_and(|mode| mode == "soft") {
            limits.memory_soft = Some(bytes);
        } else {
            limits.memory = Some(bytes);
            match config.get("limits.memory.swap").map(String::as_str) {
                Some(value) if parse_bool(value) == Some(false) && value != "0" => limits.swap = Some(0),
                Some(value) if parse_bool(value).is_none() => limits.swap = parse_size(value),
                _ => {}
            }
        }
    }
    if let Some(value) = set("limits.processes") {
        limits.processes = Some(value.parse().map_err(|_| bad("limits.processes", value))?);
    }
    Ok(limits)
}

enum Allowance {
    Share(u8),
    Time { quota_us: u64, period_us: u64 },
}

fn parse_allowance(text: &str) -> Option<Allowance> {
    if let Some(percent) = text.strip_suffix('%') {
        let percent: u8 = percent.parse().ok()?;
        return (1..=100).contains(&percent).then_some(Allowance::Share(percent));
    }
    let (quota, period) = text.split_once('/')?;
    let quota: u64 = quota.trim().strip_suffix("ms")?.parse().ok()?;
    let period: u64 = period.trim().strip_suffix("ms")?.parse().ok()?;
    (quota > 0 && (1..=1000).contains(&period)).then_some(Allowance::Time {
        quota_us: quota.checked_mul(1000)?,
        period_us: period * 1000,
    })
}

fn parse_memory(text: &str, total: u64) -> Option<u64> {
    match text.strip_suffix('%') {
        Some(percent) => {
            let percent: u64 = percent.parse().ok()?;
            (1..=100).contains(&percent).then(|| total / 100 * percent)
        }
        None => parse_size(text).filter(|bytes| *bytes > 0),
    }
}

fn rlimit(name: &str, value: &str) -> Result<()> {
    const NAMES: [&str; 14] = [
        "as",
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rtprio",
        "sigpending",
        "stack",
    ];
    if !NAMES.contains(&name) {
        return Err(Error::invalid(format!(
            "Unknown configuration key: limits.kernel.{name}"
        )));
    }
    if !value.is_empty() && parse_rlimit(value).is_none() {
        return Err(Error::invalid(format!(
            "Invalid value {value:?} for limits.kernel.{name}: it must be a number, SOFT:HARD, or unlimited"
        )));
    }
    Ok(())
}

/// Soft and hard limit of a `limits.kernel.*` key.
pub fn parse_rlimit(text: &str) -> Option<(Option<u64>, Option<u64>)> {
    let one = |part: &str| {
        if part == "unlimited" {
            Some(None)
        } else {
            part.parse().ok().map(Some)
        }
    };
    match text.split_once(':') {
        Some((soft, hard)) => Some((one(soft)?, one(hard)?)),
        None => one(text).map(|both| (both, both)),
    }
}

fn any(_: &str) -> std::result::Result<(), String> {
    Ok(())
}

fn boolean(value: &str) -> std::result::Result<(), String> {
    parse_bool(value)
        .map(drop)
        .ok_or_else(|| "it must be true or false".to_owned())
}

/// Every instance has a range of ids of its own.
fn isolated(value: &str) -> std::result::Result<(), String> {
    match parse_bool(value) {
        Some(true) => Ok(()),
        _ => Err("it must be true: every instance has ids of its own here".to_owned()),
    }
}

fn number(value: &str) -> std::result::Result<(), String> {
    value
        .parse::<i64>()
        .map(drop)
        .map_err(|_| "it must be a whole number".to_owned())
}

fn expiry(value: &str) -> std::result::Result<(), String> {
    crate::instances::expiry::after(value, time::OffsetDateTime::now_utc())
        .map(drop)
        .ok_or_else(|| "it must be a time such as 30M, 12H, 7d, 4w, 6m or 1y, or several of them".to_owned())
}

/// Seconds for which the start of the others waits.
fn delay(value: &str) -> std::result::Result<(), String> {
    match value.parse::<u32>() {
        Ok(0..=3600) => Ok(()),
        _ => Err("it must be 0 to 3600 seconds".to_owned()),
    }
}

fn processes(value: &str) -> std::result::Result<(), String> {
    match value.parse::<u64>() {
        Ok(count) if count > 0 => Ok(()),
        _ => Err("it must be a whole number above 0".to_owned()),
    }
}

fn cpu_priority(value: &str) -> std::result::Result<(), String> {
    match value.parse::<u8>() {
        Ok(0..=10) => Ok(()),
        _ => Err("it must be 0 to 10".to_owned()),
    }
}

fn cpus(value: &str) -> std::result::Result<(), String> {
    match value.parse::<u32>() {
        Ok(0) => Err("it must be at least one processor".to_owned()),
        Ok(_) => Ok(()),
        Err(_) => value.parse::<CpuSet>().map(drop).map_err(|_| {
            "it must be a number of processors or a set with the lower number first, such as 0-2,5".to_owned()
        }),
    }
}

fn allowance(value: &str) -> std::result::Result<(), String> {
    parse_allowance(value)
        .map(drop)
        .ok_or_else(|| "it must be a share from 1% to 100% or a time such as 25ms/100ms".to_owned())
}

fn memory(value: &str) -> std::result::Result<(), String> {
    match parse_memory(value, 100) {
        Some(bytes) if value.ends_with('%') || bytes >= LEAST_MEMORY => Ok(()),
        _ => Err(format!(
            "it must be a size of at least {}MiB or a share from 1% to 100%",
            LEAST_MEMORY >> 20
        )),
    }
}

fn enforce(value: &str) -> std::result::Result<(), String> {
    if matches!(value, "hard" | "soft") {
        Ok(())
    } else {
        Err("it must be hard or soft".to_owned())
    }
}

fn swap(value: &str) -> std::result::Result<(), String> {
    if parse_bool(value).is_some() || parse_size(value).is_some() {
        Ok(())
    } else {
        Err("it must be true, false or a size".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(entries: &[(&str, &str)]) -> Config {
        entries
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn unknown_and_bad_keys_are_named() {
        for (key, value, expected) in [
            ("limits.cpus", "1", "Unknown configuration key: limits.cpus"),
            ("limits.memory", "lots", "limits.memory"),
            ("limits.cpu", "0", "at least one"),
            ("boot.autostart", "maybe", "true or false"),
            ("boot.autostart.delay", "-1", "0 to 3600"),
            (
                "migration.stateful",
                "true",
                "Unknown configuration key: migration.stateful",
            ),
            ("foolimits.kernel.nofile", "1", "Unknown configuration key: foolimits"),
            (
                "limits.cpu.allowance",
                "99999999999999999ms/100ms",
                "limits.cpu.allowance",
            ),
            ("limits.cpu.allowance", "0%", "1% to 100%"),
            ("limits.memory", "1", "at least 2MiB"),
            ("limits.memory", "200%", "1% to 100%"),
            ("user.", "x", "nothing after the dot"),
            ("limits.kernel.bogus", "1", "limits.kernel.bogus"),
        ] {
            let message = check(&config(&[(key, value)])).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        check(&config(&[
            ("user.x", "y"),
            ("limits.memory", "50%"),
            ("limits.kernel.nofile", "1024:unlimited"),
        ]))
        .unwrap();
    }

    #[test]
    fn keys_without_a_value_are_taken_out() {
        assert_eq!(
            pruned(config(&[("user.x", ""), ("user.y", " ")])),
            config(&[("user.y", " ")])
        );
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("256MiB"), Some(256 << 20));
        assert_eq!(parse_size("1GB"), Some(1_000_000_000));
        assert_eq!(parse_size("7"), Some(7));
        for text in [
            "",
            "MiB",
            "-1",
            "1XB",
            "99999999999999999999",
            "18446744073709551615KiB",
        ] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn limits_follow_the_machine() {
        let limits = limits(
            &config(&[
                ("limits.cpu", "2"),
                ("limits.memory", "50%"),
                ("limits.processes", "100"),
                ("limits.cpu.allowance", "25ms/100ms"),
            ]),
            1 << 30,
            &[0, 1, 2, 3],
        )
        .unwrap();
        assert_eq!(limits.cpu_set.unwrap().to_string(), "0-1");
        assert_eq!(limits.memory, Some((1u64 << 30) / 100 * 50));
        assert_eq!(limits.processes, Some(100));
        assert_eq!(limits.cpu_quota.unwrap().quota_us, 25_000);
    }

    #[test]
    fn processors_that_the_machine_has_not_are_named() {
        let limits = |cpus| limits(&config(&[("limits.cpu", cpus)]), 1 << 30, &[0, 1, 4]);
        let message = limits("1-4").unwrap_err().to_string();
        assert!(
            message.contains("no processor 2") && message.contains("0-1,4"),
            "{message}"
        );
        assert_eq!(limits("0,4").unwrap().cpu_set.unwrap().to_string(), "0,4");
    }
}

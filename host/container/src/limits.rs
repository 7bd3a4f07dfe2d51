//! Resource limits of a container, in the kernel's terms and independent of the cgroup version.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Limits that are set on the container's cgroup, from outside. `None` always means: no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Processor time per period (`cpu.max`, v1 `cpu.cfs_quota_us`).
    pub cpu_quota: Option<CpuQuota>,
    /// Share of the processor under contention, 1 to 10000, 100 is the kernel's default (`cpu.weight`; v1
    /// `cpu.shares` gets `weight * 1024 / 100`, since both defaults mean the same).
    pub cpu_weight: Option<u32>,
    /// Processors that may be used (`cpuset.cpus`).
    pub cpu_set: Option<CpuSet>,
    /// Bytes of memory that can't be exceeded (`memory.max`, v1 `memory.limit_in_bytes`).
    pub memory: Option<u64>,
    /// Bytes above which memory is reclaimed first (`memory.high`, v1 `memory.soft_limit_in_bytes`).
    pub memory_soft: Option<u64>,
    /// Bytes of swap, without the memory (`memory.swap.max`; v1 `memory.memsw.limit_in_bytes` gets the sum and thus
    /// needs `memory`). Ignored by a kernel without swap accounting.
    pub swap: Option<u64>,
    /// Processes and threads (`pids.max`).
    pub processes: Option<u64>,
}

/// So much processor time in every period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CpuQuota {
    /// Microseconds of processor time, at least 1000; may exceed the period on several processors.
    pub quota_us: u64,
    /// Length of the period in microseconds, 1000 to 1000000.
    pub period_us: u64,
}

/// A set of processor numbers, in the list format of `cpuset(7)`: `0-2,5`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuSet(Vec<u32>);

impl CpuSet {
    /// Highest processor number that is taken; the kernel's own limit is 8191 (`CONFIG_NR_CPUS`).
    pub const MAX: u32 = 8191;

    /// The set of these processors.
    #[must_use]
    pub fn new(cpus: impl IntoIterator<Item = u32>) -> Self {
        let mut list: Vec<u32> = cpus.into_iter().collect();
        list.sort_unstable();
        list.dedup();
        Self(list)
    }

    /// The processors, ascending.
    #[must_use]
    pub fn cpus(&self) -> &[u32] {
        &self.0
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_slice();
        let mut comma = "";
        while let [first, ..] = *rest {
            let run = rest
                .iter()
                .zip(first..)
                .take_while(|(have, want)| **have == *want)
                .count();
            match run {
                1 => write!(f, "{comma}{first}")?,
                _ => write!(f, "{comma}{first}-{}", rest[run - 1])?,
            }
            comma = ",";
            rest = &rest[run..];
        }
        Ok(())
    }
}

/// A list of processors that can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a list of processors such as `0-2,5`")]
pub struct BadCpuSet(String);

impl FromStr for CpuSet {
    type Err = BadCpuSet;

    fn from_str(text: &str) -> Result<Self, BadCpuSet> {
        let bad = || BadCpuSet(text.chars().take(64).collect());
        let number = |part: &str| -> Result<u32, BadCpuSet> {
            let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            digits
                .then(|| part.parse().ok())
                .flatten()
                .filter(|n| *n <= Self::MAX)
                .ok_or_else(bad)
        };
        let mut list = Vec::new();
        for part in text.trim().split(',') {
            match part.split_once('-') {
                None => list.push(number(part)?),
                Some((first, last)) => {
                    let (first, last) = (number(first)?, number(last)?);
                    if first > last || list.len() > Self::MAX as usize {
                        return Err(bad());
                    }
                    list.extend(first..=last);
                }
            }
        }
        Ok(Self::new(list))
    }
}

impl Serialize for CpuSet {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CpuSet {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl Limits {
    /// The controllers of cgroups that they need (`cgroups(7)`).
    pub const CONTROLLERS: [&str; 4] = ["cpu", "cpuset", "memory", "pids"];

    /// Which limits can't be set on this machine, for the operator to read, if there are any.
    #[must_use]
    pub fn unavailable() -> Option<String> {
        let lacking = hutch_sys::cgroup::Hierarchies::find().lacking(&Self::CONTROLLERS);
        (!lacking.is_empty()).then(|| {
            format!(
                "this machine gives its containers no cgroup controllers for {}: limits that need them are refused (`cgroup_disable` on \
                 the kernel's command line takes them away, and so do processes in /sys/fs/cgroup/cgroup.procs of a container that \
                 this daemon runs in)",
                lacking.join(", ")
            )
        })
    }

    /// Says which value the kernel would refuse.
    ///
    /// # Errors
    /// A sentence that names the limit and its bounds.
    pub fn check(&self) -> Result<(), String> {
        if let Some(CpuQuota { quota_us, period_us }) = self.cpu_quota
            && (quota_us < 1000 || !(1000..=1_000_000).contains(&period_us) || quota_us > period_us * 8192)
        {
            return Err(format!(
                "cpu quota of {quota_us} us in {period_us} us: the period is 1000 to 1000000, the quota at least 1000"
            ));
        }
        if let Some(weight) = self.cpu_weight
            && !(1..=10_000).contains(&weight)
        {
            return Err(format!("cpu weight {weight} is not 1 to 10000"));
        }
        if self.cpu_set.as_ref().is_some_and(|set| set.cpus().is_empty()) {
            return Err("the set of processors is empty".to_owned());
        }
        if self.processes == Some(0) {
            return Err("a limit of 0 processes can't hold a container".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_sets_round_trip() {
        for (text, canonical) in [
            ("0", "0"),
            ("0-2,5", "0-2,5"),
            ("5,1,0", "0-1,5"),
            ("3,3", "3"),
            ("0-1,2-4", "0-4"),
        ] {
            assert_eq!(text.parse::<CpuSet>().unwrap().to_string(), canonical);
        }
        for text in [
            "",
            "-",
            "1-",
            "2-1",
            "a",
            "+1",
            "1,,2",
            "99999",
            "0-8191,0-8191,0-8191",
            "1 2",
        ] {
            assert!(text.parse::<CpuSet>().is_err(), "{text}");
        }
    }

    #[test]
    fn limits_are_checked() {
        assert_eq!(Limits::default().check(), Ok(()));
        let quota = |quota_us, period_us| Limits {
            cpu_quota: Some(CpuQuota { quota_us, period_us }),
            ..Limits::default()
        };
        assert!(quota(25_000, 100_000).check().is_ok());
        assert!(quota(25_000, 100).check().is_err());
        assert!(quota(1, 100_000).check().is_err());
        assert!(
            Limits {
                cpu_weight: Some(0),
                ..Limits::default()
            }
            .check()
            .is_err()
        );
        assert!(
            Limits {
                processes: Some(0),
                ..Limits::default()
            }
            .check()
            .is_err()
        );
    }
}

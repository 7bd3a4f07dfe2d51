//! What a daemon's work leaves on the machine: compared before and after, nothing may be left over.

use crate::daemon::Daemon;
use anyhow::{Result, bail};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Directory below each cgroup hierarchy in which Hutch's containers have theirs.
const CGROUP_PARENT: &str = "hutch";

/// All that can be left over, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftovers(BTreeSet<String>);

impl Leftovers {
    /// Looks at what there is now.
    ///
    /// # Errors
    /// When something can't be listed.
    pub fn look(daemon: &Daemon) -> Result<Self> {
        let sandbox = daemon.sandbox();
        let mut found = BTreeSet::new();
        found.extend(
            sandbox
                .mounts()
                .iter()
                .map(|place| format!("mount {}", place.display())),
        );
        found.extend(
            sandbox
                .interfaces()?
                .into_iter()
                .map(|name| format!("interface {name}")),
        );
        found.extend(
            sandbox
                .filter_tables()?
                .into_iter()
                .map(|name| format!("filter {name}")),
        );
        for pid in sandbox.processes() {
            if pid != daemon.pid().unwrap_or(0) {
                found.extend(cgroups_of(pid));
            }
        }
        found.extend(files(&daemon.state_dir())?);
        Ok(Self(found))
    }

    /// Looks until nothing has changed for a second, to begin a comparison with.
    ///
    /// # Errors
    /// When something can't be listed, or there is no rest.
    pub fn settled(daemon: &Daemon) -> Result<Self> {
        let begun = Instant::now();
        let mut before = Self::look(daemon)?;
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let now = Self::look(daemon)?;
            if now == before {
                return Ok(now);
            }
            if begun.elapsed() > Duration::from_secs(15) {
                bail!("things go on changing: {before:?}, then {now:?}");
            }
            before = now;
        }
    }

    /// Fails with every difference between this and what there is now. The kernel takes a network namespace apart, and the host
    /// discards files, after the answer: that has a few seconds.
    ///
    /// # Errors
    /// When they differ.
    pub fn compare_with_now(&self, daemon: &Daemon) -> Result<()> {
        let begun = Instant::now();
        loop {
            let result = self.compare(&Self::look(daemon)?);
            if result.is_ok() || begun.elapsed() > Duration::from_secs(10) {
                return result;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn compare(&self, after: &Self) -> Result<()> {
        let new: Vec<&String> = after.0.difference(&self.0).collect();
        let gone: Vec<&String> = self.0.difference(&after.0).collect();
        if !new.is_empty() || !gone.is_empty() {
            bail!("left over: {new:#?}; lost: {gone:#?}");
        }
        Ok(())
    }
}

/// The containers whose cgroups a process is in. Which of a container's own it is does not matter: a keeper's helpers come and go
/// with the commands that are run in it.
fn cgroups_of(pid: i32) -> Vec<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.splitn(3, ':').nth(2))
        .filter_map(|path| path.strip_prefix(&format!("/{CGROUP_PARENT}/")))
        .filter_map(|path| path.split('/').next())
        .map(|name| format!("cgroup /{CGROUP_PARENT}/{name} with processes"))
        .collect()
}

/// The parts of the state directory whose content is an account of objects. Databases, caches and logs change by themselves.
fn files(state: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for part in [
        "images",
        "pools",
        "storage-pools",
        "networks",
        "instances",
        "services",
        "run",
    ] {
        let directory = state.join(part);
        if directory.is_dir() {
            walk(&directory, 3, &mut found)?;
        }
    }
    Ok(found)
}

fn walk(directory: &Path, depth: u32, found: &mut Vec<String>) -> Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path: PathBuf = entry?.path();
        found.push(format!("file {}", path.display()));
        if depth > 0 && path.is_dir() && !path.is_symlink() {
            walk(&path, depth - 1, found)?;
        }
    }
    Ok(())
}

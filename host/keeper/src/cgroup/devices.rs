//! What devices the container may use, told to the kernel in either way.

use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use hutch_container::{ContainerSpec, DeviceRule, Fault, FaultKind};
use hutch_sys::bpf;
use hutch_sys::cgroup::remove_tree;

use super::{CONTAINER, make_directory};
use crate::fault::{At, Result};

/// The legacy controller (the kernel's `admin-guide/cgroup-v1/devices`).
pub(super) const CONTROLLER: &str = "devices";

/// What may be used, the rest being refused.
fn rules(spec: &ContainerSpec) -> impl Iterator<Item = &DeviceRule> {
    DeviceRule::DEFAULTS.iter().chain(&spec.devices)
}

/// By a program on the cgroup of the unified hierarchy.
pub(super) fn restrict_by_program(cgroup: BorrowedFd<'_>, spec: &ContainerSpec) -> io::Result<()> {
    let rule = |rule: &DeviceRule| bpf::DeviceRule {
        block: rule.block,
        major: rule.major,
        minor: rule.minor,
        read: rule.read,
        write: rule.write,
        mknod: rule.mknod,
    };
    bpf::restrict_devices(cgroup, &rules(spec).map(rule).collect::<Vec<_>>())
}

/// By a cgroup of the legacy hierarchy. Returns the one below it that is for the processes: the root of a privileged container may
/// mount the hierarchy and write to the lists of the cgroup that its tree begins with, and gets no more by that than the one above has.
pub(super) fn restrict_by_controller(dir: &Path, spec: &ContainerSpec) -> Result<PathBuf> {
    // The list of one that has others below can't be emptied any more, so one that is left over is of no use.
    remove_tree(dir).at("removing", dir)?;
    make_directory(dir)?;
    let write = |file: &str, line: &str| {
        let path = dir.join(file);
        fs::write(&path, line).at("writing", path)
    };
    write("devices.deny", "a")?;
    for rule in rules(spec) {
        write("devices.allow", &line(rule))?;
    }
    let processes = dir.join(CONTAINER);
    make_directory(&processes)?;
    Ok(processes)
}

/// A rule as the controller reads it: type, numbers, access.
fn line(rule: &DeviceRule) -> String {
    let number = |number: Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
    let access: String = [(rule.read, 'r'), (rule.write, 'w'), (rule.mknod, 'm')]
        .into_iter()
        .filter_map(|(allowed, letter)| allowed.then_some(letter))
        .collect();
    let kind = if rule.block { 'b' } else { 'c' };
    format!("{kind} {}:{} {access}", number(rule.major), number(rule.minor))
}

/// The daemon chose the controller because the kernel can't do it otherwise.
pub(super) fn no_controller() -> Fault {
    let cause =
        "the kernel takes no BPF program for the devices of a cgroup, and this controller is not mounted either";
    Fault::new(
        FaultKind::Unsupported,
        "looking for",
        "the cgroup controller devices",
        cause,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_written_as_the_controller_reads_them() {
        let lines: Vec<String> = DeviceRule::DEFAULTS.iter().map(line).collect();
        assert_eq!(lines[..3], ["c *:* m", "b *:* m", "c 1:3 rwm"]);
        assert!(lines.contains(&"c 136:* rwm".to_owned()));
    }
}

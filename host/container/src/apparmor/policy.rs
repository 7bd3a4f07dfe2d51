//! What AppArmor refuses containers (`apparmor.d(5)`).
//!
//! There is one profile for each kind of container, not one for each container: what tells containers apart are their namespaces, ids and
//! cgroups. A profile is a second fence before what belongs to the whole machine, for the case that the first, a read-only mount or a
//! missing capability, falls: the root of a privileged container can mount `/proc/sys` and `/sys` writable again. It goes by paths, so it
//! is none against a privileged root who sets out to get around it. Nobody inside can load profiles of his own (`CAP_MAC_ADMIN` is
//! dropped), which is why there are no policy namespaces.

use std::fmt::Write as _;

/// The kinds of container that have a profile each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) privileged: bool,
    pub(super) nesting: bool,
}

impl Kind {
    pub(super) const ALL: [Self; 4] = [
        Self::new(false, false),
        Self::new(false, true),
        Self::new(true, false),
        Self::new(true, true),
    ];

    pub(super) const fn new(privileged: bool, nesting: bool) -> Self {
        Self { privileged, nesting }
    }

    /// The profile's name. With the policy's fingerprint, so that a daemon of another version loads its own beside, and containers that
    /// an older one started keep theirs.
    pub(super) fn profile(self) -> String {
        let kind = if self.privileged { "privileged" } else { "unprivileged" };
        let nesting = if self.nesting { "-nesting" } else { "" };
        format!("hutch-{kind}{nesting}-{}", fingerprint())
    }
}

/// Of the rules of all kinds.
pub(super) fn fingerprint() -> String {
    let rules: String = Kind::ALL.map(rules).concat();
    format!("{:08x}", crate::hash(rules.as_bytes()) >> 32)
}

/// All profiles, as `apparmor_parser(8)` reads them. Rules are of the features of version 3.0, which leaves out what later kernels ask
/// for besides (user namespaces, rings): that is not refused.
pub(super) fn text() -> String {
    let mut text = "abi <abi/3.0>,\n".to_owned();
    for kind in Kind::ALL {
        let (name, rules) = (kind.profile(), rules(kind));
        // Descriptors that are handed in have paths that lead nowhere in the container.
        // Writing into a string can't fail.
        let _ = writeln!(
            text,
            "profile {name} flags=(attach_disconnected,mediate_deleted) {{\n{rules}}}"
        );
    }
    text
}

/// Everything, but for what follows.
const ALLOWED: &str = "  capability,\n  dbus,\n  file,\n  mount,\n  network,\n  pivot_root,\n  ptrace,\n  remount,\n  signal,\n  umount,\n  unix,\n";

/// What nobody inside has any business with, not to read either.
const HIDDEN: [&str; 12] = [
    "/proc/acpi/**",
    "/proc/kcore",
    "/proc/kmem",
    "/proc/latency_stats",
    "/proc/mem",
    "/proc/sched_debug",
    "/proc/scsi/**",
    "/proc/sysrq-trigger",
    "/sys/firmware/{efi,dmi}/**",
    "/sys/kernel/debug/**",
    "/sys/kernel/security/**",
    "/sys/kernel/tracing/**",
];

/// What has namespaces below `/proc/sys`, and may be written.
const OWN_SETTINGS: [&str; 9] = [
    "fs/mqueue/",
    "kernel/domainname",
    "kernel/hostname",
    "kernel/msg",
    "kernel/random/",
    "kernel/sem",
    "kernel/shm",
    "net/",
    "user/",
];

/// The same below `/sys`.
const OWN_DEVICES: [&str; 3] = ["devices/virtual/net/", "fs/cgroup/", "fs/fuse/"];

/// File systems that are the whole machine's. Of a user namespace the kernel lets none of them be mounted.
const OF_THE_MACHINE: &str =
    "binfmt_misc,bpf,configfs,debugfs,devtmpfs,efivarfs,pstore,resctrl,securityfs,selinuxfs,smackfs,tracefs";

fn rules(kind: Kind) -> String {
    let mut rules = ALLOWED.to_owned();
    let mut deny = |rule: String| {
        // Writing into a string can't fail.
        let _ = writeln!(rules, "  deny {rule},");
    };
    for path in HIDDEN {
        deny(format!("{path} rwklx"));
    }
    // The whole ones that those of containers inside are measured by.
    deny("/dev/.hutch/** wkl".to_owned());
    for pattern in all_but("/proc/sys/", &OWN_SETTINGS) {
        deny(format!("{pattern} wkl"));
    }
    for pattern in all_but("/sys/", &OWN_DEVICES) {
        deny(format!("{pattern} wkl"));
    }
    if kind.privileged {
        deny(format!("mount fstype=({OF_THE_MACHINE})"));
        if !kind.nesting {
            // Whole ones of its own would have what is covered and read-only in these, under names that no rule knows. A
            // service manager makes some for its services.
            for (kind, places) in [("proc", ["proc/", "run/systemd/"]), ("sysfs", ["run/systemd/", "sys/"])] {
                for pattern in all_but("/", &places) {
                    deny(format!("mount fstype={kind} -> {pattern}"));
                }
            }
        }
    }
    rules
}

/// Patterns for everything below `base` that begins with none of `prefixes`: the language has no other way to say "but".
fn all_but(base: &str, prefixes: &[&str]) -> Vec<String> {
    let mut heads: Vec<&str> = prefixes
        .iter()
        .flat_map(|prefix| (0..prefix.len()).map(|end| &prefix[..end]))
        .collect();
    heads.sort_unstable();
    heads.dedup();
    let pattern = |head: &str| {
        let mut next: Vec<char> = prefixes
            .iter()
            .filter_map(|prefix| prefix.strip_prefix(head)?.chars().next())
            .collect();
        next.sort_unstable();
        next.dedup();
        // In a class a `-` would be a range.
        let next: String = next.into_iter().collect();
        format!("{base}{head}[^{next}]**")
    };
    heads.into_iter().map(pattern).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_else_has_a_pattern() {
        assert_eq!(all_but("/", &["ab", "ac/"]), ["/[^a]**", "/a[^bc]**", "/ac[^/]**"]);
        for prefix in OWN_SETTINGS.iter().chain(&OWN_DEVICES) {
            assert!(!prefix.contains(['-', ']', '^']), "{prefix} is none for a class");
        }
    }

    #[test]
    fn each_kind_has_a_profile_of_its_own() {
        let names = Kind::ALL.map(Kind::profile);
        for (at, name) in names.iter().enumerate() {
            assert!(!names[..at].contains(name), "{name}");
            assert!(text().contains(&format!("profile {name} flags=")));
        }
    }
}

//! Who a process inside is, and what it may not do.

use std::collections::HashSet;

use hutch_container::{ContainerSpec, Fault, FaultKind, SeccompPolicy};
use hutch_sys::seccomp::{self, Instruction, Refusal};
use rustix::thread::{CapabilitySet, capabilities, remove_capability_from_bounding_set, set_capabilities};

use super::apparmor::Profile;
use crate::fault::{At, Result};

/// Capabilities that act on the whole machine, which no container has: the clock, kernel modules, raw input and output, and the
/// security modules' policy. Distributions' services look for the first three to know what is not theirs to do.
const DROPPED: CapabilitySet = CapabilitySet::SYS_TIME
    .union(CapabilitySet::SYS_MODULE)
    .union(CapabilitySet::SYS_RAWIO)
    .union(CapabilitySet::MAC_ADMIN)
    .union(CapabilitySet::MAC_OVERRIDE);

/// Takes these ids, real, effective and saved.
pub(crate) fn become_user(uid: u32, gid: u32, groups: &[u32]) -> Result<()> {
    use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
    let groups: Vec<Gid> = groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    setgroups(&groups).at("setting", "the groups")?;
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    setresgid(gid, gid, gid).at("taking", format!("group {gid}"))?;
    setresuid(uid, uid, uid).at("taking", format!("user {uid}"))
}

/// Drops capabilities, refuses system calls and goes under the container's profile, for good.
pub(crate) fn confine(spec: &ContainerSpec, profile: Option<Profile<'_>>) -> Result<()> {
    for capability in DROPPED.iter() {
        remove_capability_from_bounding_set(capability).at("dropping", format!("{capability:?}"))?;
    }
    let filter = filter(&spec.seccomp, spec.idmap.is_none())?;
    seccomp::install(&filter).at("installing", "the system call filter")?;
    let mut sets = capabilities(None).at("reading", "the capabilities")?;
    for set in [&mut sets.effective, &mut sets.permitted, &mut sets.inheritable] {
        set.remove(DROPPED);
    }
    // What root executes gets its capabilities by being root; none is to be inherited beside.
    sets.inheritable = CapabilitySet::empty();
    set_capabilities(None, sets).at("dropping", "capabilities")?;
    profile.map_or(Ok(()), Profile::enter)
}

const REFUSED: u16 = 1;
const MISSING: u16 = 38;
const DENIED: u16 = 13;

/// Refused in every container: handles that lead out of it (the answer is as from a kernel without them, so that programs have
/// another way), the machine's kernel, and unmounting by force, which breaks the host's mounts of the same file system.
const ALWAYS: [Refusal; 7] = [
    refusal("open_by_handle_at", MISSING),
    refusal("init_module", MISSING),
    refusal("finit_module", MISSING),
    refusal("delete_module", MISSING),
    refusal("kexec_load", MISSING),
    refusal("kexec_file_load", MISSING),
    // MNT_FORCE (umount(2)).
    Refusal {
        bits: Some((1, 1)),
        ..refusal("umount2", DENIED)
    },
];

const fn refusal(call: &'static str, errno: u16) -> Refusal {
    Refusal {
        call,
        errno,
        bits: None,
    }
}

/// Refused in privileged ones besides, where no user namespace keeps them from the host.
const PRIVILEGED: [Refusal; 6] = [
    refusal("acct", REFUSED),
    refusal("lookup_dcookie", REFUSED),
    refusal("perf_event_open", REFUSED),
    refusal("quotactl", REFUSED),
    refusal("swapoff", REFUSED),
    refusal("swapon", REFUSED),
];

fn filter(policy: &SeccompPolicy, privileged: bool) -> Result<Vec<Instruction>> {
    let mut refusals = Vec::new();
    for name in &policy.deny {
        let unknown = || {
            Fault::new(
                FaultKind::Invalid,
                "filtering",
                name,
                "not a system call that can be refused",
            )
        };
        let call = seccomp::call_name(name).ok_or_else(unknown)?;
        refusals.push(Refusal {
            call,
            errno: MISSING,
            bits: None,
        });
    }
    if !policy.without_defaults {
        refusals.extend(ALWAYS);
        refusals.extend(PRIVILEGED.into_iter().filter(|_| privileged));
    }
    let mut seen = HashSet::new();
    refusals.retain(|refusal| seen.insert(refusal.call));
    Ok(seccomp::compile(&refusals))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_a_number() {
        for refusal in ALWAYS.iter().chain(&PRIVILEGED) {
            assert!(seccomp::call_name(refusal.call).is_some(), "{}", refusal.call);
        }
        let policy = SeccompPolicy {
            without_defaults: false,
            deny: vec!["no_such_call".to_owned()],
        };
        assert_eq!(filter(&policy, false).unwrap_err().object, "no_such_call");
    }
}

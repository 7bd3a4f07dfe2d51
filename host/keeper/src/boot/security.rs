//! Who a process inside is, and what it may not do.

use std::os::fd::OwnedFd;

use hutch_container::syscalls::BEGINNING;
use hutch_container::{ContainerSpec, Fault, FaultKind, Intercept, SeccompPolicy, SyscallVerdict};
use hutch_sys::seccomp::{self, Condition, Instruction, Rule, Verdict};
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

/// Drops capabilities and puts this process under the system call filter and the container's profile, for good. Where calls are intercepted, returns the
/// descriptor on which they are told. What follows in the end is a program of the container's: [`limit_to_allowed`] is to be called
/// before that.
pub(crate) fn confine(spec: &ContainerSpec, profile: Option<Profile<'_>>) -> Result<Option<OwnedFd>> {
    drop_capabilities()?;
    let intercept = intercepted(spec);
    let filter = filter(&spec.seccomp, spec.idmap.is_none(), intercept)?;
    let listener = if intercept.any() {
        seccomp::install_with_listener(&filter).map(Some)
    } else {
        seccomp::install(&filter).map(|()| None)
    };
    let listener = listener.at("installing", "the system call filter")?;
    release_capabilities()?;
    profile.map_or(Ok(()), Profile::enter)?;
    Ok(listener)
}

/// The same for the keeper's own programs inside, of which no calls are intercepted.
pub(crate) fn confine_own(spec: &ContainerSpec, profile: Option<Profile<'_>>) -> Result<()> {
    drop_capabilities()?;
    let filter = filter(&spec.seccomp, spec.idmap.is_none(), Intercept::default())?;
    seccomp::install(&filter).at("installing", "the system call filter")?;
    release_capabilities()?;
    profile.map_or(Ok(()), Profile::enter)
}

/// What is intercepted in this container: nothing in a privileged one.
pub(crate) fn intercepted(spec: &ContainerSpec) -> Intercept {
    if spec.idmap.is_some() {
        spec.seccomp.intercept
    } else {
        Intercept::default()
    }
}

/// Ends this process, and all that it starts, at any call that the specification's list does not allow, if it has one.
pub(crate) fn limit_to_allowed(spec: &ContainerSpec) -> Result<()> {
    let Some(allowed) = &spec.seccomp.allow else {
        return Ok(());
    };
    let names = BEGINNING.into_iter().chain(allowed.iter().map(String::as_str));
    let rules = names
        .map(|name| rule(name, Verdict::Allow))
        .collect::<Result<Vec<_>>>()?;
    let filter = seccomp::compile(&rules, Verdict::Kill, spec.seccomp.without_compat);
    seccomp::install(&filter).at("installing", "the filter of allowed system calls")
}

fn drop_capabilities() -> Result<()> {
    for capability in DROPPED.iter() {
        remove_capability_from_bounding_set(capability).at("dropping", format!("{capability:?}"))?;
    }
    Ok(())
}

fn release_capabilities() -> Result<()> {
    let mut sets = capabilities(None).at("reading", "the capabilities")?;
    for set in [&mut sets.effective, &mut sets.permitted, &mut sets.inheritable] {
        set.remove(DROPPED);
    }
    // What root executes gets its capabilities by being root; none is to be inherited beside.
    sets.inheritable = CapabilitySet::empty();
    set_capabilities(None, sets).at("dropping", "capabilities")
}

const REFUSED: u16 = 1;
const MISSING: u16 = 38;
const DENIED: u16 = 13;

/// Refused in every container: handles that lead out of it (the answer is as from a kernel without them, so that programs have
/// another way), the machine's kernel, and unmounting by force, which breaks the host's mounts of the same file system.
const ALWAYS: [Rule; 7] = [
    refusal("open_by_handle_at", MISSING),
    refusal("init_module", MISSING),
    refusal("finit_module", MISSING),
    refusal("delete_module", MISSING),
    refusal("kexec_load", MISSING),
    refusal("kexec_file_load", MISSING),
    // MNT_FORCE (umount(2)).
    Rule {
        when: Some(Condition {
            argument: 1,
            mask: 1,
            value: 1,
        }),
        ..refusal("umount2", DENIED)
    },
];

const fn refusal(call: &'static str, errno: u16) -> Rule {
    Rule {
        call,
        verdict: Verdict::Errno(errno),
        when: None,
    }
}

/// Refused in privileged ones besides, where no user namespace keeps them from the host.
const PRIVILEGED: [Rule; 6] = [
    refusal("acct", REFUSED),
    refusal("lookup_dcookie", REFUSED),
    refusal("perf_event_open", REFUSED),
    refusal("quotactl", REFUSED),
    refusal("swapoff", REFUSED),
    refusal("swapon", REFUSED),
];

/// Character devices (`S_IFMT` and `S_IFCHR` of `inode(7)`), by the argument that has the mode.
const MKNOD: [Rule; 2] = [character_device("mknod", 1), character_device("mknodat", 2)];

const fn character_device(call: &'static str, argument: u32) -> Rule {
    Rule {
        call,
        verdict: Verdict::Notify,
        when: Some(Condition {
            argument,
            mask: libc::S_IFMT,
            value: libc::S_IFCHR,
        }),
    }
}

/// With a value of one byte, as that of the only attribute that matters has.
const SETXATTR: [Rule; 3] = [
    short_value("setxattr"),
    short_value("lsetxattr"),
    short_value("fsetxattr"),
];

const fn short_value(call: &'static str) -> Rule {
    Rule {
        call,
        verdict: Verdict::Notify,
        when: Some(Condition {
            argument: 3,
            mask: u32::MAX,
            value: 1,
        }),
    }
}

const SYSINFO: [Rule; 1] = [Rule {
    call: "sysinfo",
    verdict: Verdict::Notify,
    when: None,
}];

fn filter(policy: &SeccompPolicy, privileged: bool, intercept: Intercept) -> Result<Vec<Instruction>> {
    let mut rules = Vec::new();
    // With a list of what is allowed, that list is all that refuses anything.
    let listed = policy.allow.is_some();
    for known in policy.rules.iter().filter(|_| !listed) {
        let verdict = match known.verdict {
            SyscallVerdict::Allow => Verdict::Allow,
            SyscallVerdict::Errno(errno) => Verdict::Errno(errno),
            SyscallVerdict::Kill => Verdict::Kill,
        };
        rules.push(rule(&known.call, verdict)?);
    }
    let intercepted = [
        (intercept.mknod, &MKNOD[..]),
        (intercept.setxattr, &SETXATTR),
        (intercept.sysinfo, &SYSINFO),
    ];
    rules.extend(intercepted.iter().filter(|(on, _)| *on).flat_map(|(_, rules)| *rules));
    if !policy.without_defaults && !listed {
        rules.extend(ALWAYS);
        rules.extend(PRIVILEGED.into_iter().filter(|_| privileged));
    }
    Ok(seccomp::compile(&rules, Verdict::Allow, policy.without_compat))
}

fn rule(name: &str, verdict: Verdict) -> Result<Rule> {
    let unknown = || Fault::new(FaultKind::Invalid, "filtering", name, "no system call of this machine");
    let call = seccomp::call_name(name).ok_or_else(unknown)?;
    let when = None;
    Ok(Rule { call, verdict, when })
}

#[cfg(test)]
mod tests {
    use hutch_container::SyscallRule;

    use super::*;

    #[test]
    fn every_rule_has_a_number() {
        let all = [&ALWAYS[..], &PRIVILEGED, &MKNOD, &SETXATTR, &SYSINFO];
        for rule in all.into_iter().flatten() {
            assert!(seccomp::call_name(rule.call).is_some(), "{}", rule.call);
        }
        let policy = SeccompPolicy {
            rules: vec![SyscallRule {
                call: "no_such_call".to_owned(),
                verdict: SyscallVerdict::Kill,
            }],
            ..SeccompPolicy::default()
        };
        let refused = filter(&policy, false, Intercept::default()).unwrap_err();
        assert_eq!(refused.object, "no_such_call");
    }
}

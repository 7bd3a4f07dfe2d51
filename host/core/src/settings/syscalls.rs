//! Keys under `security.syscalls.`: which system calls an instance may make, and which are carried out for it.

use hutch_api::Config;
use hutch_container::{BadSyscalls, Intercept, SeccompPolicy, SyscallRule, SyscallVerdict};

use super::{is_true, parse_bool};

type Checked = std::result::Result<(), String>;

const PREFIX: &str = "security.syscalls.";

/// A list of calls that are refused. One without more ends the process that makes it, as in LXC's policies.
pub(super) fn denied(value: &str) -> Checked {
    deny(value).map(drop).map_err(|error| error.to_string())
}

/// A list of the calls that may be made.
pub(super) fn allowed(value: &str) -> Checked {
    allow(value).map(drop)
}

fn deny(value: &str) -> std::result::Result<Vec<SyscallRule>, BadSyscalls> {
    SyscallRule::parse_list(value, SyscallVerdict::Kill)
}

fn allow(value: &str) -> std::result::Result<Vec<String>, String> {
    let rules = SyscallRule::parse_list(value, SyscallVerdict::Allow).map_err(|error| error.to_string())?;
    if let Some(rule) = rules.iter().find(|rule| rule.verdict != SyscallVerdict::Allow) {
        return Err(format!(
            "{} can only be allowed by a list of what is allowed",
            rule.call
        ));
    }
    Ok(rules.into_iter().map(|rule| rule.call).collect())
}

/// Why a key that LXD or Incus has is not taken here; `None` for all others.
pub(super) fn refused(key: &str) -> Option<&'static str> {
    let rest = key.strip_prefix(PREFIX)?.strip_prefix("intercept.")?;
    match rest.split('.').next()? {
        "mount" => Some(
            "no instance here has a block device to mount, and a file system in the hands of whoever wrote it would be the \
             kernel's to read",
        ),
        "bpf" => Some("programs for the machine's kernel are not loaded for an instance"),
        "sched_setscheduler" => {
            Some("processes of an instance get no precedence over the machine's own; see limits.cpu.priority")
        }
        _ => None,
    }
}

/// What no configuration can have at the same time.
pub(super) fn together(config: &Config) -> Checked {
    let set = |name: &str| {
        let key = format!("{PREFIX}{name}");
        config.get(&key).is_some_and(|value| !value.is_empty()).then_some(key)
    };
    let allow = ["allow", "whitelist"].into_iter().find_map(set);
    let deny = [
        "deny",
        "deny_compat",
        "deny_default",
        "blacklist",
        "blacklist_compat",
        "blacklist_default",
    ]
    .into_iter()
    .find_map(set);
    match (allow, deny) {
        (Some(allow), Some(deny)) => Err(format!(
            "{allow} and {deny} can't be used together: a list of what is allowed refuses all else"
        )),
        _ => Ok(()),
    }
}

/// The value of a key, or of the name that it had before; an empty one counts as none.
fn value<'a>(config: &'a Config, name: &str, former: &str) -> Option<&'a str> {
    let get = |name: &str| config.get(&format!("{PREFIX}{name}")).filter(|value| !value.is_empty());
    get(name).or_else(|| get(former)).map(String::as_str)
}

/// What a configuration asks for. Where it comes from several profiles and lists what is allowed, what it refuses says nothing more.
///
/// # Errors
/// For values that [`super::check`] would refuse.
pub(crate) fn policy(config: &Config) -> std::result::Result<SeccompPolicy, String> {
    let flag = |name, former| value(config, name, former).and_then(parse_bool);
    let rules = value(config, "deny", "blacklist").map_or_else(|| Ok(Vec::new()), deny);
    let intercepted = |name: &str| is_true(config, &format!("{PREFIX}intercept.{name}"));
    Ok(SeccompPolicy {
        without_defaults: flag("deny_default", "blacklist_default") == Some(false),
        without_compat: flag("deny_compat", "blacklist_compat") == Some(true),
        rules: rules.map_err(|error| error.to_string())?,
        allow: value(config, "allow", "whitelist").map(allow).transpose()?,
        intercept: Intercept {
            mknod: intercepted("mknod"),
            setxattr: intercepted("setxattr"),
            sysinfo: intercepted("sysinfo"),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use super::*;

    fn config(entries: &[(&str, &str)]) -> Config {
        let entry = |(key, value): &(&str, &str)| (format!("{PREFIX}{key}"), (*value).to_owned());
        entries.iter().map(entry).collect()
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (entries, expected) in [
            (
                &[("deny", "keyctll errno 38")][..],
                "there is no system call \"keyctll\"",
            ),
            (
                &[("allow", "read\nwritev2")],
                "line 2: there is no system call \"writev2\"",
            ),
            (&[("allow", "read kill")], "read can only be allowed"),
            (&[("whitelist", "x")], "security.syscalls.whitelist"),
            (&[("deny_compat", "perhaps")], "true or false"),
            (&[("intercept.mknod", "2")], "true or false"),
            (
                &[("intercept.mount.allowed", "ext4")],
                "no instance here has a block device",
            ),
            (
                &[("intercept.mount", "true")],
                "security.syscalls.intercept.mount can't be used",
            ),
            (&[("intercept.bpf.devices", "true")], "not loaded"),
            (&[("intercept.chmod", "true")], "Unknown configuration key"),
            (
                &[("allow", "read"), ("deny", "write")],
                "security.syscalls.allow and security.syscalls.deny can't be used together",
            ),
        ] {
            let message = check(&config(entries)).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn keys_and_their_former_names_make_a_policy() {
        let all = config(&[
            ("deny", "keyctl errno 38\nbpf"),
            ("deny_default", "false"),
            ("blacklist_compat", "true"),
            ("intercept.sysinfo", "true"),
            ("intercept.mknod", "false"),
        ]);
        check(&all).unwrap();
        let policy = policy(&all).unwrap();
        assert_eq!(policy.rules.len(), 2);
        assert_eq!(policy.rules[1].verdict, SyscallVerdict::Kill);
        assert!(policy.without_defaults && policy.without_compat && policy.allow.is_none());
        assert!(policy.intercept.sysinfo && !policy.intercept.mknod);
        assert_eq!(super::policy(&config(&[])).unwrap(), SeccompPolicy::default());
        let allowed = super::policy(&config(&[("whitelist", "read\nwrite")])).unwrap().allow;
        assert_eq!(allowed, Some(vec!["read".to_owned(), "write".to_owned()]));
    }
}

//! Which system calls a container may make, and which are carried out for it.

use hutch_sys::seccomp;
use serde::{Deserialize, Serialize};

/// A container's system calls. Whatever is said here, capabilities and namespaces decide what a call may do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeccompPolicy {
    /// Leaves out the built-in list: kernel modules, kexec, `open_by_handle_at`, unmounting by force, and in privileged containers also
    /// swap, quota, process accounting and performance events. Only for instances whose operator says so.
    pub without_defaults: bool,
    /// Refuses every call of the processor's 32-bit ABI with `ENOSYS`.
    pub without_compat: bool,
    /// What becomes of these calls; the first rule for a call decides, before the built-in list.
    pub rules: Vec<SyscallRule>,
    /// Ends every process that makes a call which is not among these. The built-in list does not apply then, nor do
    /// [`SeccompPolicy::rules`]. [`crate::syscalls::BEGINNING`] is allowed always.
    pub allow: Option<Vec<String>>,
    /// Calls that the keeper answers.
    pub intercept: Intercept,
}

/// Calls that the keeper carries out, or answers, for an unprivileged container, whose own powers would not do. A privileged one makes
/// them itself, and nothing is intercepted there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intercept {
    /// `mknod` and `mknodat` of character devices that are safe to have.
    pub mknod: bool,
    /// `setxattr`, `lsetxattr` and `fsetxattr` of `trusted.overlay.opaque`.
    pub setxattr: bool,
    /// `sysinfo`, which tells the container's limits and use instead of the machine's.
    pub sysinfo: bool,
}

impl Intercept {
    /// Whether anything is intercepted.
    #[must_use]
    pub fn any(self) -> bool {
        self.mknod || self.setxattr || self.sysinfo
    }
}

/// What becomes of one call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyscallRule {
    /// Its name in `syscalls(2)`.
    pub call: String,
    /// What becomes of it.
    pub verdict: SyscallVerdict,
}

/// What may become of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SyscallVerdict {
    /// The kernel carries it out.
    Allow,
    /// It returns this error (`errno(3)`); with 0 it seems to succeed, and does nothing.
    Errno(u16),
    /// The process ends by `SIGSYS`.
    Kill,
}

/// The largest number of an error that a call can return (`MAX_ERRNO` of the kernel).
const LAST_ERRNO: u16 = 4095;

/// What the keeper's own code needs between a list of allowed calls and the program that is begun under it.
pub const BEGINNING: [&str; 17] = [
    "brk",
    "close",
    "execve",
    "exit",
    "exit_group",
    "madvise",
    "mmap",
    "mprotect",
    "mremap",
    "munmap",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sendmsg",
    "setgroups",
    "setresgid",
    "setresuid",
    "write",
];

/// A list of calls that can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct BadSyscalls {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
}

impl SyscallRule {
    /// Reads a list with a call on each line, as LXC's policies have them (`lxc.container.conf(5)`, "SECCOMP CONFIGURATION"): a name,
    /// and after it `allow`, `kill` or `errno NUMBER`; of a name alone becomes what `otherwise` says. What follows a `#` is a
    /// remark. Conditions on arguments, sections of architectures and other actions are refused.
    ///
    /// # Errors
    /// The first line that can't be read, or names no call of this machine.
    pub fn parse_list(text: &str, otherwise: SyscallVerdict) -> Result<Vec<Self>, BadSyscalls> {
        let mut rules = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.split('#').next().unwrap_or_default();
            let words: Vec<&str> = line.split_whitespace().collect();
            if !words.is_empty() {
                let rule = Self::parse(&words, otherwise).map_err(|what| BadSyscalls { line: number, what })?;
                rules.push(rule);
            }
        }
        Ok(rules)
    }

    fn parse(words: &[&str], otherwise: SyscallVerdict) -> Result<Self, String> {
        let (name, action) = (words[0], &words[1..]);
        if name.starts_with('[') {
            return Err(format!(
                "sections such as {name:?} can't be used: a rule is for every architecture"
            ));
        }
        let Some(call) = seccomp::call_name(name) else {
            return Err(format!("there is no system call {:?}", shortened(name)));
        };
        let verdict = match action {
            [] => otherwise,
            ["allow"] => SyscallVerdict::Allow,
            ["kill"] => SyscallVerdict::Kill,
            ["errno", number] => match number.parse::<u16>() {
                Ok(errno) if errno <= LAST_ERRNO => SyscallVerdict::Errno(errno),
                _ => {
                    return Err(format!(
                        "{:?} is not an error from 0 to {LAST_ERRNO}",
                        shortened(number)
                    ));
                }
            },
            words if words.iter().any(|word| word.starts_with('[')) => {
                return Err(format!("conditions on the arguments of {call} can't be used"));
            }
            words => {
                return Err(format!(
                    "{:?} is not what can become of {call}: allow, kill or errno NUMBER",
                    shortened(&words.join(" "))
                ));
            }
        };
        Ok(Self {
            call: call.to_owned(),
            verdict,
        })
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}

impl SeccompPolicy {
    /// Checks that every name is that of a call.
    ///
    /// # Errors
    /// A sentence with the first name that is not, or the error that is none.
    pub fn check(&self) -> Result<(), String> {
        for rule in &self.rules {
            if let SyscallVerdict::Errno(errno) = rule.verdict
                && errno > LAST_ERRNO
            {
                return Err(format!("{errno} for {} is not an error", rule.call.escape_debug()));
            }
        }
        let names = self
            .rules
            .iter()
            .map(|rule| &rule.call)
            .chain(self.allow.iter().flatten());
        for name in names {
            if seccomp::call_name(name).is_none() {
                return Err(format!("there is no system call `{}`", name.escape_debug()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_lxc_reads_them() {
        let read = |text| SyscallRule::parse_list(text, SyscallVerdict::Kill);
        let rule = |call: &str, verdict| SyscallRule {
            call: call.to_owned(),
            verdict,
        };
        assert_eq!(
            read("keyctl errno 38\n\n  bpf # none of that\nptrace allow\nreboot kill"),
            Ok(vec![
                rule("keyctl", SyscallVerdict::Errno(38)),
                rule("bpf", SyscallVerdict::Kill),
                rule("ptrace", SyscallVerdict::Allow),
                rule("reboot", SyscallVerdict::Kill),
            ])
        );
        assert_eq!(read(""), Ok(Vec::new()));
        for (text, expected) in [
            ("read\nkeyctll errno 38", "line 2: there is no system call \"keyctll\""),
            ("keyctl errno", "line 1: \"errno\" is not what can become of keyctl"),
            ("keyctl errno 4096", "not an error from 0 to 4095"),
            ("keyctl errno -1", "not an error"),
            ("mount notify", "\"notify\" is not what"),
            (
                "mount errno 1 [3,0,SCMP_CMP_EQ]",
                "conditions on the arguments of mount",
            ),
            ("[all]\nmount", "sections such as \"[all]\""),
        ] {
            let message = read(text).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn what_a_program_begins_with_are_calls() {
        for name in BEGINNING {
            assert!(seccomp::call_name(name).is_some(), "{name}");
        }
    }

    #[test]
    fn policies_with_unknown_names_are_refused() {
        let policy = SeccompPolicy {
            allow: Some(vec!["read".to_owned(), "rread".to_owned()]),
            ..SeccompPolicy::default()
        };
        assert!(policy.check().unwrap_err().contains("`rread`"));
        assert_eq!(SeccompPolicy::default().check(), Ok(()));
    }
}

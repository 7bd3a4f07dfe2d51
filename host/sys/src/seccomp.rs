//! System call filters (`seccomp(2)`) with a verdict on each call by name, in every ABI of the processor.
//!
//! A filter library is no help here: those at hand kill a process that uses another ABI than the filter's, which is every
//! 32-bit program in a container, and set `no_new_privs`, which takes `sudo` away.

mod calls;
pub mod notify;

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use calls::{CALLS, Numbers};

/// One instruction of classic BPF, `struct sock_filter` of `linux/filter.h`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    code: u16,
    if_true: u8,
    if_false: u8,
    value: u32,
}

const LOAD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_ABOVE_OR_EQUAL: u16 = 0x35;
const JUMP_ALWAYS: u16 = 0x05;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;

/// `struct seccomp_data`: the call's number, the ABI, and the low words of the arguments on a little-endian machine.
const AT_NUMBER: u32 = 0;
const AT_ARCH: u32 = 4;
const fn at_argument(index: u32) -> u32 {
    16 + 8 * index
}

#[cfg(target_arch = "x86_64")]
const NATIVE_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const NATIVE_ARCH: u32 = 0xc000_00b7;
/// The 32-bit ABI of the same processor.
#[cfg(target_arch = "x86_64")]
const COMPAT_ARCH: u32 = 0x4000_0003;
#[cfg(target_arch = "aarch64")]
const COMPAT_ARCH: u32 = 0x4000_0028;

/// Calls of x32, the third ABI of x86-64, carry this bit in their number and are refused.
#[cfg(target_arch = "x86_64")]
const X32_BIT: Option<u32> = Some(0x4000_0000);
#[cfg(target_arch = "aarch64")]
const X32_BIT: Option<u32> = None;

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The kernel carries it out.
    Allow,
    /// It returns this error.
    Errno(u16),
    /// The process that makes it ends by `SIGSYS`.
    Kill,
    /// It waits for whoever holds the filter's listener ([`install_with_listener`]).
    Notify,
}

impl Verdict {
    /// The filter's return value (`seccomp(2)`).
    const fn value(self) -> u32 {
        match self {
            Self::Allow => 0x7fff_0000,
            Self::Errno(errno) => 0x0005_0000 | errno as u32,
            Self::Kill => 0x8000_0000,
            Self::Notify => 0x7fc0_0000,
        }
    }
}

/// What the low word of an argument has to be: `argument & mask == value`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    /// Which argument, counted from 0.
    pub argument: u32,
    /// The bits that are looked at.
    pub mask: u32,
    /// What they have to be.
    pub value: u32,
}

/// What becomes of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// The call's name in `syscalls(2)`.
    pub call: &'static str,
    /// What becomes of it.
    pub verdict: Verdict,
    /// Only of calls with such an argument.
    pub when: Option<Condition>,
}

/// The name as this module holds it, of a call that this machine's processor has in either ABI.
#[must_use]
pub fn call_name(name: &str) -> Option<&'static str> {
    let place = CALLS.binary_search_by(|call| call.name.cmp(name)).ok()?;
    let call = &CALLS[place];
    (call.native().is_some() || call.compat().is_some()).then_some(call.name)
}

/// Which call this is, by the ABI (`AUDIT_ARCH_*`) and the number in it.
#[must_use]
pub fn name_of(arch: u32, number: u32) -> Option<&'static str> {
    let find = |number_of: fn(&Numbers) -> Option<u32>| {
        let call = CALLS.iter().find(|call| number_of(call) == Some(number));
        call.map(|call| call.name)
    };
    match arch {
        NATIVE_ARCH => find(Numbers::native),
        COMPAT_ARCH => find(Numbers::compat),
        _ => None,
    }
}

/// Whether a call that came by this ABI (`AUDIT_ARCH_*`) has structures of the 32-bit ABI.
#[must_use]
pub fn is_compat(arch: u32) -> bool {
    arch == COMPAT_ARCH
}

/// A filter in which the first rule that fits a call decides, and `otherwise` of those that none fits. Rules for calls that
/// [`call_name`] does not know are left out. With `without_compat` every call of the 32-bit ABI returns `ENOSYS`.
#[must_use]
pub fn compile(rules: &[Rule], otherwise: Verdict, without_compat: bool) -> Vec<Instruction> {
    let find = |rule: &Rule| CALLS.iter().find(|call| call.name == rule.call);
    let native = rules.iter().filter_map(|rule| Some((*rule, find(rule)?.native()?)));
    let native = block(native, otherwise);
    let compat = if without_compat {
        vec![one(RETURN, 0, 0, MISSING)]
    } else {
        let compat = rules.iter().filter_map(|rule| Some((*rule, find(rule)?.compat()?)));
        block(compat, otherwise)
    };
    let mut filter = vec![
        one(LOAD, 0, 0, AT_ARCH),
        // Over the compat block, whose length may be more than a conditional jump reaches.
        one(JUMP_EQUAL, 2, 0, NATIVE_ARCH),
        one(JUMP_EQUAL, 2, 0, COMPAT_ARCH),
        one(RETURN, 0, 0, MISSING),
        one(JUMP_ALWAYS, 0, 0, u32::try_from(compat.len()).unwrap_or_default()),
    ];
    filter.extend(compat);
    if let Some(bit) = X32_BIT {
        filter.push(one(LOAD, 0, 0, AT_NUMBER));
        // -1 is not a call of x32 but what a tracer sets to skip one.
        filter.push(one(JUMP_EQUAL, 2, 0, u32::MAX));
        filter.push(one(JUMP_ABOVE_OR_EQUAL, 0, 1, bit));
        filter.push(one(RETURN, 0, 0, MISSING));
    }
    filter.extend(native);
    filter
}

/// The verdict on what there is not: `ENOSYS`.
const MISSING: u32 = Verdict::Errno(38).value();

const fn one(code: u16, if_true: u8, if_false: u8, value: u32) -> Instruction {
    Instruction {
        code,
        if_true,
        if_false,
        value,
    }
}

/// The tests of one ABI, ending with what becomes of all other calls.
fn block(rules: impl Iterator<Item = (Rule, u32)>, otherwise: Verdict) -> Vec<Instruction> {
    let mut block = vec![one(LOAD, 0, 0, AT_NUMBER)];
    for (rule, number) in rules {
        let verdict = one(RETURN, 0, 0, rule.verdict.value());
        match rule.when {
            None => block.extend([one(JUMP_EQUAL, 0, 1, number), verdict]),
            Some(Condition { argument, mask, value }) => block.extend([
                one(JUMP_EQUAL, 0, 5, number),
                one(LOAD, 0, 0, at_argument(argument)),
                one(AND, 0, 0, mask),
                one(JUMP_EQUAL, 0, 1, value),
                verdict,
                one(LOAD, 0, 0, AT_NUMBER),
            ]),
        }
    }
    block.push(one(RETURN, 0, 0, otherwise.value()));
    block
}

/// `struct sock_fprog` of `linux/filter.h`.
#[repr(C)]
struct Program {
    length: u16,
    filter: *const Instruction,
}

/// Puts this process under the filter, for good, with all that it starts. Needs `CAP_SYS_ADMIN` in the user namespace and
/// leaves `no_new_privs` as it is.
///
/// # Errors
/// Those of `seccomp(2)`.
pub fn install(filter: &[Instruction]) -> io::Result<()> {
    set(filter, 0).map(drop)
}

/// The same for a filter with [`Verdict::Notify`]: returns the descriptor on which such calls are told ([`notify`]). Signals that
/// do not kill leave a call alone that has been taken from there (Linux 5.19), so that none is carried out twice.
///
/// # Errors
/// Those of `seccomp(2)`: `EBUSY` when this process is under a filter with a listener already.
pub fn install_with_listener(filter: &[Instruction]) -> io::Result<OwnedFd> {
    const NEW_LISTENER: libc::c_uint = 1 << 3;
    const WAIT_KILLABLE_RECV: libc::c_uint = 1 << 5;
    let listener = set(filter, NEW_LISTENER | WAIT_KILLABLE_RECV)?;
    // SAFETY: the kernel has just made it, close-on-exec, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(listener) })
}

fn set(filter: &[Instruction], flags: libc::c_uint) -> io::Result<i32> {
    const SECCOMP_SET_MODE_FILTER: libc::c_uint = 1;
    let length = u16::try_from(filter.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = Program {
        length,
        filter: filter.as_ptr(),
    };
    // SAFETY: the structure and the instructions, as many as it says, live past the call, which copies them.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a filter on a call, as the kernel would.
    fn run(filter: &[Instruction], arch: u32, number: u32, arguments: [u32; 6]) -> u32 {
        let mut accumulator = 0;
        let mut at = 0;
        loop {
            let Instruction {
                code,
                if_true,
                if_false,
                value,
            } = filter[at];
            at += 1;
            let jump = |yes: bool| usize::from(if yes { if_true } else { if_false });
            match code {
                LOAD if value == AT_NUMBER => accumulator = number,
                LOAD if value == AT_ARCH => accumulator = arch,
                LOAD => accumulator = arguments[(value as usize - 16) / 8],
                JUMP_EQUAL => at += jump(accumulator == value),
                JUMP_ABOVE_OR_EQUAL => at += jump(accumulator >= value),
                AND => accumulator &= value,
                JUMP_ALWAYS => at += value as usize,
                RETURN => return value,
                other => panic!("operation {other:#x}"),
            }
        }
    }

    fn rule(call: &'static str, verdict: Verdict) -> Rule {
        let when = None;
        Rule { call, verdict, when }
    }

    fn native(number: i64) -> u32 {
        u32::try_from(number).unwrap()
    }

    const ALLOW: u32 = Verdict::Allow.value();
    const fn errno(errno: u16) -> u32 {
        Verdict::Errno(errno).value()
    }

    #[test]
    fn calls_are_refused_in_each_abi() {
        let forced = Condition {
            argument: 1,
            mask: 3,
            value: 1,
        };
        let rules = [
            rule("open_by_handle_at", Verdict::Errno(38)),
            Rule {
                when: Some(forced),
                ..rule("umount2", Verdict::Errno(13))
            },
            rule("kexec_file_load", Verdict::Kill),
            rule("sysinfo", Verdict::Notify),
            rule("sysinfo", Verdict::Kill),
        ];
        let filter = compile(&rules, Verdict::Allow, false);
        let run = |number: i64, flags| run(&filter, NATIVE_ARCH, native(number), [0, flags, 0, 0, 0, 0]);
        assert_eq!(run(libc::SYS_open_by_handle_at, 0), errno(38));
        assert_eq!(run(libc::SYS_umount2, 1), errno(13));
        assert_eq!(run(libc::SYS_umount2, 5), errno(13));
        assert_eq!(run(libc::SYS_umount2, 2), ALLOW);
        assert_eq!(run(libc::SYS_umount2, 3), ALLOW);
        assert_eq!(run(libc::SYS_kexec_file_load, 0), Verdict::Kill.value());
        assert_eq!(run(libc::SYS_sysinfo, 0), Verdict::Notify.value());
        assert_eq!(run(libc::SYS_read, 0), ALLOW);
        assert_eq!(super::tests::run(&filter, 99, 0, [0; 6]), errno(38));
    }

    #[test]
    fn a_list_of_what_is_allowed_refuses_the_rest() {
        let filter = compile(&[rule("read", Verdict::Allow)], Verdict::Kill, true);
        let run = |arch, number| run(&filter, arch, number, [0; 6]);
        assert_eq!(run(NATIVE_ARCH, native(libc::SYS_read)), ALLOW);
        assert_eq!(run(NATIVE_ARCH, native(libc::SYS_write)), Verdict::Kill.value());
        assert_eq!(run(COMPAT_ARCH, 3), errno(38));
    }

    #[test]
    fn names_have_the_numbers_of_this_processor() {
        for (name, number) in [
            ("mknodat", libc::SYS_mknodat),
            ("fsetxattr", libc::SYS_fsetxattr),
            ("sysinfo", libc::SYS_sysinfo),
            ("umount2", libc::SYS_umount2),
            ("io_uring_setup", libc::SYS_io_uring_setup),
            ("execve", libc::SYS_execve),
        ] {
            assert_eq!(name_of(NATIVE_ARCH, native(number)), Some(name));
            assert_eq!(call_name(name), Some(name));
        }
        assert_eq!(call_name("no_such_call"), None);
        assert!(CALLS.windows(2).all(|pair| pair[0].name < pair[1].name));
        assert!(call_name("sync_file_range2").is_none() || cfg!(target_arch = "aarch64"));
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn compat_abis_of_x86_64() {
        let filter = compile(&[rule("open_by_handle_at", Verdict::Errno(38))], Verdict::Allow, false);
        assert_eq!(run(&filter, COMPAT_ARCH, 342, [0; 6]), errno(38));
        assert_eq!(run(&filter, COMPAT_ARCH, 3, [0; 6]), ALLOW);
        assert_eq!(run(&filter, NATIVE_ARCH, 0x4000_0001, [0; 6]), errno(38));
        assert_eq!(run(&filter, NATIVE_ARCH, u32::MAX, [0; 6]), ALLOW);
        assert_eq!(name_of(COMPAT_ARCH, 14), Some("mknod"));
    }

    #[test]
    fn a_filter_works_in_a_process() {
        let filter = compile(&[rule("acct", Verdict::Errno(77))], Verdict::Allow, false);
        // SAFETY: the child makes system calls only.
        let forked = unsafe { crate::process::fork(0, None) }.unwrap();
        let crate::process::Forked::Parent { pidfd, .. } = forked else {
            if install(&filter).is_err() {
                crate::process::exit(2);
            }
            // SAFETY: a null path asks for accounting to be switched off; the filter answers first.
            let result = unsafe { libc::syscall(libc::SYS_acct, std::ptr::null::<libc::c_char>()) };
            let refused = result == -1 && io::Error::last_os_error().raw_os_error() == Some(77);
            crate::process::exit(i32::from(!refused));
        };
        let mut watched = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut watched, None).unwrap();
        assert_eq!(
            crate::process::reap(&pidfd).unwrap(),
            Some(crate::process::End::Code(0))
        );
    }
}

//! System call filters (`seccomp(2)`) that refuse some calls and let all others through, in every ABI of the processor.
//!
//! A filter library is no help here: those at hand kill a process that uses another ABI than the filter's, which is every
//! 32-bit program in a container, and set `no_new_privs`, which takes `sudo` away.

use std::io;

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
const JUMP_BITS: u16 = 0x45;
const RETURN: u16 = 0x06;

const RET_ALLOW: u32 = 0x7fff_0000;
const RET_ERRNO: u32 = 0x0005_0000;

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

/// What is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The call's name in `syscalls(2)`.
    pub call: &'static str,
    /// The error that it returns.
    pub errno: u16,
    /// Refused only when these bits are set in the low word of this argument (counted from 0).
    pub bits: Option<(u32, u32)>,
}

/// A call's number in the native and in the 32-bit ABI.
#[derive(Debug, Clone, Copy)]
struct Numbers {
    name: &'static str,
    native: i64,
    /// In the 32-bit ABI; -1 where it has none.
    compat: i64,
}

macro_rules! calls {
    ($($name:literal $symbol:ident $i386:literal $arm:literal;)*) => {
        [$(Numbers {
            name: $name,
            native: libc::$symbol as i64,
            compat: if cfg!(target_arch = "x86_64") { $i386 } else { $arm },
        },)*]
    };
}

/// The calls that may be refused: those that concern the whole machine or give power over it. Numbers of the 32-bit ABIs are
/// from the kernel's `syscall_32.tbl` and arm's `syscall.tbl`.
const CALLS: [Numbers; 33] = calls! {
    "acct" SYS_acct 51 51;
    "add_key" SYS_add_key 286 309;
    "adjtimex" SYS_adjtimex 124 124;
    "bpf" SYS_bpf 357 386;
    "clock_adjtime" SYS_clock_adjtime 343 372;
    "clock_settime" SYS_clock_settime 264 262;
    "delete_module" SYS_delete_module 129 129;
    "finit_module" SYS_finit_module 350 379;
    "init_module" SYS_init_module 128 128;
    "io_uring_enter" SYS_io_uring_enter 426 426;
    "io_uring_register" SYS_io_uring_register 427 427;
    "io_uring_setup" SYS_io_uring_setup 425 425;
    "kexec_file_load" SYS_kexec_file_load -1 401;
    "kexec_load" SYS_kexec_load 283 347;
    "keyctl" SYS_keyctl 288 311;
    "lookup_dcookie" SYS_lookup_dcookie 253 249;
    "mount" SYS_mount 21 21;
    "name_to_handle_at" SYS_name_to_handle_at 341 370;
    "nfsservctl" SYS_nfsservctl 169 169;
    "open_by_handle_at" SYS_open_by_handle_at 342 371;
    "perf_event_open" SYS_perf_event_open 336 364;
    "personality" SYS_personality 136 136;
    "pivot_root" SYS_pivot_root 217 218;
    "ptrace" SYS_ptrace 26 26;
    "quotactl" SYS_quotactl 131 131;
    "reboot" SYS_reboot 88 88;
    "request_key" SYS_request_key 287 310;
    "settimeofday" SYS_settimeofday 79 79;
    "swapoff" SYS_swapoff 115 115;
    "swapon" SYS_swapon 87 87;
    "syslog" SYS_syslog 103 103;
    "umount2" SYS_umount2 52 52;
    "userfaultfd" SYS_userfaultfd 374 388;
};

/// The name as this module holds it, when the call is one that may be refused.
#[must_use]
pub fn call_name(name: &str) -> Option<&'static str> {
    CALLS.iter().find(|call| call.name == name).map(|call| call.name)
}

/// A filter for these refusals. The first that fits a call decides; names that [`call_name`] does not know are left out.
#[must_use]
pub fn compile(refusals: &[Refusal]) -> Vec<Instruction> {
    let find = |refusal: &Refusal| CALLS.iter().find(|call| call.name == refusal.call);
    let native = block(refusals.iter().filter_map(|r| Some((*r, find(r)?.native))));
    let compat = block(refusals.iter().filter_map(|r| Some((*r, find(r)?.compat))));
    let one = |code, if_true, if_false, value| Instruction {
        code,
        if_true,
        if_false,
        value,
    };
    let mut filter = vec![
        one(LOAD, 0, 0, AT_ARCH),
        // Over the compat block, whose length may be more than a conditional jump reaches.
        one(JUMP_EQUAL, 2, 0, NATIVE_ARCH),
        one(JUMP_EQUAL, 2, 0, COMPAT_ARCH),
        one(RETURN, 0, 0, RET_ERRNO | libc::ENOSYS.cast_unsigned()),
        one(JUMP_ALWAYS, 0, 0, u32::try_from(compat.len()).unwrap_or_default()),
    ];
    filter.extend(compat);
    if let Some(bit) = X32_BIT {
        filter.push(one(LOAD, 0, 0, AT_NUMBER));
        // -1 is not a call of x32 but what a tracer sets to skip one.
        filter.push(one(JUMP_EQUAL, 2, 0, u32::MAX));
        filter.push(one(JUMP_ABOVE_OR_EQUAL, 0, 1, bit));
        filter.push(one(RETURN, 0, 0, RET_ERRNO | libc::ENOSYS.cast_unsigned()));
    }
    filter.extend(native);
    filter
}

const JUMP_ALWAYS: u16 = 0x05;

/// The tests of one ABI, ending with "allow".
fn block(refusals: impl Iterator<Item = (Refusal, i64)>) -> Vec<Instruction> {
    let one = |code, if_true, if_false, value| Instruction {
        code,
        if_true,
        if_false,
        value,
    };
    let mut block = vec![one(LOAD, 0, 0, AT_NUMBER)];
    for (refusal, number) in refusals {
        let Ok(number) = u32::try_from(number) else { continue };
        let verdict = one(RETURN, 0, 0, RET_ERRNO | u32::from(refusal.errno));
        match refusal.bits {
            None => block.extend([one(JUMP_EQUAL, 0, 1, number), verdict]),
            Some((argument, bits)) => block.extend([
                one(JUMP_EQUAL, 0, 4, number),
                one(LOAD, 0, 0, at_argument(argument)),
                one(JUMP_BITS, 0, 1, bits),
                verdict,
                one(LOAD, 0, 0, AT_NUMBER),
            ]),
        }
    }
    block.push(one(RETURN, 0, 0, RET_ALLOW));
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
    const SECCOMP_SET_MODE_FILTER: libc::c_uint = 1;
    let length = u16::try_from(filter.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = Program {
        length,
        filter: filter.as_ptr(),
    };
    // SAFETY: the structure and the instructions, as many as it says, live past the call, which copies them.
    match unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &raw const program) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
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
                JUMP_BITS => at += jump(accumulator & value != 0),
                JUMP_ALWAYS => at += value as usize,
                RETURN => return value,
                other => panic!("operation {other:#x}"),
            }
        }
    }

    #[test]
    fn calls_are_refused_in_each_abi() {
        let refuse = |call, errno, bits| Refusal { call, errno, bits };
        let filter = compile(&[
            refuse("open_by_handle_at", 38, None),
            refuse("umount2", 13, Some((1, 1))),
            refuse("kexec_file_load", 1, None),
        ]);
        let native = |number: i64, flags| {
            run(
                &filter,
                NATIVE_ARCH,
                u32::try_from(number).unwrap(),
                [0, flags, 0, 0, 0, 0],
            )
        };
        assert_eq!(native(libc::SYS_open_by_handle_at, 0), RET_ERRNO | 38);
        assert_eq!(native(libc::SYS_umount2, 1), RET_ERRNO | 13);
        assert_eq!(native(libc::SYS_umount2, 2), RET_ALLOW);
        assert_eq!(native(libc::SYS_kexec_file_load, 0), RET_ERRNO | 1);
        assert_eq!(native(libc::SYS_read, 0), RET_ALLOW);
        assert_eq!(run(&filter, 99, 0, [0; 6]), RET_ERRNO | 38);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn compat_abis_of_x86_64() {
        let filter = compile(&[Refusal {
            call: "open_by_handle_at",
            errno: 38,
            bits: None,
        }]);
        assert_eq!(run(&filter, COMPAT_ARCH, 342, [0; 6]), RET_ERRNO | 38);
        assert_eq!(run(&filter, COMPAT_ARCH, 3, [0; 6]), RET_ALLOW);
        assert_eq!(run(&filter, NATIVE_ARCH, 0x4000_0001, [0; 6]), RET_ERRNO | 38);
        assert_eq!(run(&filter, NATIVE_ARCH, u32::MAX, [0; 6]), RET_ALLOW);
    }

    #[test]
    fn a_filter_works_in_a_process() {
        let filter = compile(&[Refusal {
            call: "acct",
            errno: 77,
            bits: None,
        }]);
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

//! Which devices the processes of a cgroup may use, on the unified hierarchy: a BPF program that the kernel asks at every
//! `open(2)` and `mknod(2)` of a device node (`BPF_PROG_TYPE_CGROUP_DEVICE`, the kernel's `admin-guide/cgroup-v2`).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Which nodes a rule is about. `None` fits every number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceRule {
    /// Block instead of character devices.
    pub block: bool,
    /// Major number.
    pub major: Option<u32>,
    /// Minor number.
    pub minor: Option<u32>,
    /// Reading is allowed.
    pub read: bool,
    /// Writing is allowed.
    pub write: bool,
    /// Making a node is allowed.
    pub mknod: bool,
}

/// One instruction, `struct bpf_insn` of `linux/bpf.h`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u8,
    /// Destination in the low four bits, source in the high ones.
    registers: u8,
    offset: i16,
    immediate: i32,
}

// Operations of `linux/bpf_common.h` and `linux/bpf.h` that are used below.
const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xbf;
const MOVE_IMMEDIATE: u8 = 0xb7;
const AND_IMMEDIATE: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_NOT_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
/// Programs further down the tree are asked as well: a container can add its own and not undo this one.
const BPF_F_ALLOW_MULTI: u32 = 2;

const DEV_BLOCK: i32 = 1;
const DEV_CHAR: i32 = 2;
const ACCESS_MKNOD: i32 = 1;
const ACCESS_READ: i32 = 2;
const ACCESS_WRITE: i32 = 4;

const fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: to | (from << 4),
        offset,
        immediate,
    }
}

/// The program: allow what some rule allows whole, refuse the rest. `struct bpf_cgroup_dev_ctx` is three words: access in the
/// high half of the first and type in the low one, major, minor.
fn assemble(rules: &[DeviceRule]) -> Vec<Instruction> {
    let mut program = vec![
        instruction(LOAD_WORD, 2, 1, 0, 0),
        instruction(MOVE, 3, 2, 0, 0),
        instruction(AND_IMMEDIATE, 2, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, 3, 0, 0, 16),
        instruction(LOAD_WORD, 4, 1, 4, 0),
        instruction(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules {
        let access = i32::from(rule.mknod) * ACCESS_MKNOD
            + i32::from(rule.read) * ACCESS_READ
            + i32::from(rule.write) * ACCESS_WRITE;
        let mut tests = vec![(2, if rule.block { DEV_BLOCK } else { DEV_CHAR })];
        tests.extend(rule.major.map(|major| (4, major.cast_signed())));
        tests.extend(rule.minor.map(|minor| (5, minor.cast_signed())));
        let mut body: Vec<Instruction> = Vec::new();
        body.extend(
            tests
                .iter()
                .map(|(register, value)| instruction(JUMP_NOT_EQUAL, *register, 0, 0, *value)),
        );
        // What is asked for beyond what the rule allows must be nothing.
        body.push(instruction(MOVE, 6, 3, 0, 0));
        body.push(instruction(AND_IMMEDIATE, 6, 0, 0, !access));
        body.push(instruction(JUMP_NOT_EQUAL, 6, 0, 0, 0));
        body.push(instruction(MOVE_IMMEDIATE, 0, 0, 0, 1));
        body.push(instruction(EXIT, 0, 0, 0, 0));
        let length = body.len();
        for (at, one) in body
            .iter_mut()
            .enumerate()
            .filter(|(_, one)| one.code == JUMP_NOT_EQUAL)
        {
            // To the instruction after this rule; a rule has eight at most.
            one.offset = i16::try_from(length - at - 1).unwrap_or_default();
        }
        program.append(&mut body);
    }
    program.push(instruction(MOVE_IMMEDIATE, 0, 0, 0, 0));
    program.push(instruction(EXIT, 0, 0, 0, 0));
    program
}

/// The part of `union bpf_attr` that loading a program uses.
#[repr(C)]
struct LoadAttributes {
    program_type: u32,
    instructions: u32,
    code: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// The part that attaching one uses.
#[repr(C)]
struct AttachAttributes {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

/// Lets the processes of `cgroup`, a directory of the unified hierarchy, and of those below use the devices of `rules` and no
/// others. The program goes with the cgroup.
///
/// # Errors
/// Those of `bpf(2)`: `ENOSYS` or `EINVAL` from a kernel without `CONFIG_CGROUP_BPF`, `EPERM` without `CAP_SYS_ADMIN`.
pub fn restrict_devices(cgroup: BorrowedFd<'_>, rules: &[DeviceRule]) -> io::Result<()> {
    let program = assemble(rules);
    // It calls no helper of the kernel that would ask for more.
    let license = c"Apache-2.0";
    let load = LoadAttributes {
        program_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        instructions: u32::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?,
        code: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    let loaded = bpf(BPF_PROG_LOAD, &load)?;
    // SAFETY: the kernel has made this descriptor for us (close-on-exec, as all of bpf(2)).
    let loaded = unsafe { OwnedFd::from_raw_fd(loaded) };
    let attach = AttachAttributes {
        target: cgroup.as_raw_fd().cast_unsigned(),
        program: loaded.as_raw_fd().cast_unsigned(),
        attach_type: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
    };
    bpf(BPF_PROG_ATTACH, &attach).map(drop)
}

fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<i32> {
    // SAFETY: the attributes are one of the two structures above, whose size is given and whose pointers live past the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    i32::try_from(result)
        .ok()
        .filter(|fd| *fd >= 0)
        .ok_or_else(io::Error::last_os_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program on a context, as the kernel would.
    fn run(program: &[Instruction], context: [u32; 3]) -> u64 {
        let mut registers = [0_u64; 11];
        let mut at = 0;
        loop {
            let Instruction {
                code,
                registers: r,
                offset,
                immediate,
            } = program[at];
            let (to, from) = (usize::from(r & 15), usize::from(r >> 4));
            let immediate = i64::from(immediate).cast_unsigned();
            at += 1;
            match code {
                LOAD_WORD => registers[to] = u64::from(context[usize::try_from(offset).unwrap() / 4]),
                MOVE => registers[to] = registers[from],
                MOVE_IMMEDIATE => registers[to] = immediate,
                AND_IMMEDIATE => registers[to] &= immediate,
                SHIFT_RIGHT => registers[to] >>= immediate,
                JUMP_NOT_EQUAL if registers[to] != immediate => at += usize::try_from(offset).unwrap(),
                JUMP_NOT_EQUAL => {}
                EXIT => return registers[0],
                other => panic!("operation {other:#x}"),
            }
        }
    }

    #[test]
    fn rules_decide() {
        let rule = |major, minor, read, write, mknod| DeviceRule {
            block: false,
            major,
            minor,
            read,
            write,
            mknod,
        };
        let program = assemble(&[
            rule(None, None, false, false, true),
            rule(Some(1), Some(3), true, true, false),
        ]);
        let ask =
            |kind: i32, access: i32, major, minor| run(&program, [(access << 16 | kind).cast_unsigned(), major, minor]);
        assert_eq!(ask(DEV_CHAR, ACCESS_READ | ACCESS_WRITE, 1, 3), 1);
        assert_eq!(ask(DEV_CHAR, ACCESS_MKNOD, 7, 7), 1);
        assert_eq!(ask(DEV_CHAR, ACCESS_MKNOD | ACCESS_READ, 1, 3), 0);
        assert_eq!(ask(DEV_CHAR, ACCESS_READ, 1, 5), 0);
        assert_eq!(ask(DEV_BLOCK, ACCESS_READ, 1, 3), 0);
        assert_eq!(ask(DEV_BLOCK, ACCESS_MKNOD, 1, 3), 0);
    }
}

//! The system calls that a worker may make once its code is in memory: to read and write what it has open, to wait, and to
//! have memory, none of it executable or shared. Anything else ends it.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// What may be called with any arguments.
const ALLOWED: &[libc::c_long] = &[
    // What it has open: the socket, its standard error, the event loop. No descriptor can be passed by them.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_sendto,
    libc::SYS_close,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_ppoll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    // Memory; with the rules below.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    // Time, and waiting for the other thread.
    libc::SYS_futex,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_sched_yield,
    libc::SYS_restart_syscall,
    libc::SYS_getrandom,
    // A guest's faults arrive as signals, and so does the end after a panic.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_tgkill,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// What fails without ending it, because a guest may have it tried: WASI makes a socket before it asks whether it may be
/// connected.
const REFUSED: &[libc::c_long] = &[libc::SYS_socket];

/// The part of mmap(2)'s flags that says whether memory is shared (`MAP_TYPE` of `linux/mman.h`, which the `libc` crate lacks).
const MAP_TYPE: u64 = 0x0f;

/// Installs the filter in all threads of this process.
pub(crate) fn install() -> Result<(), String> {
    let filters = || -> Result<[BpfProgram; 2], seccompiler::BackendError> { Ok([refusing()?, allowing()?]) };
    for filter in filters().map_err(|error| error.to_string())? {
        seccompiler::apply_filter_all_threads(&filter).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// What is not on a list kills the process.
fn allowing() -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for &call in ALLOWED.iter().chain(REFUSED) {
        rules.insert(call, Vec::new());
    }
    // The third argument of both is the protection, and the fourth of mmap the flags (mmap(2), mprotect(2)). No memory is made
    // executable, and none is shared: that is not counted as the process's own.
    let exec = u64::from(libc::PROT_EXEC.unsigned_abs());
    let private = u64::from(libc::MAP_PRIVATE.unsigned_abs());
    let plain = || SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(exec), 0);
    let own = SeccompCondition::new(3, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(MAP_TYPE), private)?;
    rules.insert(libc::SYS_mmap, vec![SeccompRule::new(vec![plain()?, own])?]);
    rules.insert(libc::SYS_mprotect, vec![SeccompRule::new(vec![plain()?])?]);
    let arch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, arch)?.try_into()
}

/// What fails, whatever another filter says (seccomp(2): the least permissive answer counts).
fn refusing() -> Result<BpfProgram, seccompiler::BackendError> {
    let rules = REFUSED.iter().map(|&call| (call, Vec::new())).collect();
    let refused = SeccompAction::Errno(libc::EACCES.unsigned_abs());
    let arch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, SeccompAction::Allow, refused, arch)?.try_into()
}

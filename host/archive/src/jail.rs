//! Confines the process that reads an archive, so that a fault in a decompressor or in this crate gives away nothing:
//! empty namespaces, the target directory as root and nothing above it, limits, few capabilities and few system calls.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};
use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use crate::error::{Errno, Error, Result};

/// Memory that the process may allocate, in bytes: the decompressor's own bound, lists of names and buffers.
const MEMORY: u64 = 1 << 30;
/// Seconds of computing after which something is wrong: `xz` unpacks a hundred gigabytes in a third of it.
const CPU_SECONDS: u64 = 3600;
/// The same for rendering templates: a megabyte or two as a rule, in a moment.
const RENDERING_MEMORY: u64 = 128 << 20;
const RENDERING_SECONDS: u64 = 10;
/// Descriptors that may be open at a time.
const FILES: u64 = 64;

/// What is needed to write files with any owner and mode, and nothing that reaches beyond the tree: no CAP_MKNOD, since
/// device nodes are never made.
const TO_UNPACK: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETFCAP);

/// What is needed to read all files of a tree.
const TO_READ: CapabilitySet = CapabilitySet::DAC_READ_SEARCH;

/// What the process is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose<'a> {
    /// Reading only: no file can be opened.
    Inspect,
    /// Writing below the working directory, which becomes the root directory.
    Unpack,
    /// Reading a tree, which becomes the root directory: the first of these directories with all others below it as layers of
    /// an overlay, uppermost first.
    Pack(&'a [PathBuf]),
    /// Rendering templates: no file can be opened, and there is less to spend.
    Render,
}

/// Confines this process, which has one thread. There is no way back.
pub(crate) fn enter(purpose: Purpose<'_>) -> Result<()> {
    let (memory, seconds) = match purpose {
        Purpose::Render => (RENDERING_MEMORY, RENDERING_SECONDS),
        _ => (MEMORY, CPU_SECONDS),
    };
    limit(Resource::Data, memory)?;
    limit(Resource::Cpu, seconds)?;
    limit(Resource::Nofile, FILES)?;
    limit(Resource::Core, 0)?;
    let namespaces =
        CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
    nix::sched::unshare(namespaces).map_err(|e| failed("namespaces", Errno(e as i32)))?;
    let root = |e: rustix::io::Errno| failed("changing the root directory", e.into());
    let (keep, calls) = match purpose {
        Purpose::Inspect | Purpose::Render => {
            become_nobody().map_err(|e| failed("changing the user", Errno(e as i32)))?;
            (CapabilitySet::empty(), &[][..])
        }
        Purpose::Unpack => {
            make_cwd_the_root(MountFlags::empty()).map_err(root)?;
            (TO_UNPACK, UNPACKING)
        }
        Purpose::Pack(layers) => {
            enter_layers(layers).map_err(root)?;
            make_cwd_the_root(MountFlags::RDONLY).map_err(root)?;
            (TO_READ, PACKING)
        }
    };
    drop_capabilities(keep).map_err(|e| failed("capabilities", e.into()))?;
    rustix::thread::set_no_new_privs(true).map_err(|e| failed("no_new_privs", e.into()))?;
    // The second would not let the first be installed.
    for filter in [no_clone3(), filter(calls)] {
        let filter = filter.map_err(|e| Error::Process(format!("its system call filter is invalid: {e}")))?;
        seccompiler::apply_filter(&filter)
            .map_err(|e| Error::Process(format!("its system call filter is refused: {e}")))?;
    }
    Ok(())
}

fn failed(step: &str, source: Errno) -> Error {
    Error::Jail {
        step: step.to_owned(),
        source,
    }
}

fn limit(resource: Resource, most: u64) -> Result<()> {
    let wanted = Rlimit {
        current: Some(most),
        maximum: Some(most),
    };
    rustix::process::setrlimit(resource, wanted).map_err(|e| failed("resource limits", e.into()))
}

/// Makes the working directory the root of the mount namespace, without devices and set-uid programs, and leaves nothing
/// else mounted. A copy of its mount is put onto it because pivot_root(2) wants a mount point, and entered by its descriptor:
/// by name it might be another directory by now. Stacking the old root onto the new one saves a directory to put it into
/// (pivot_root(2), "pivot_root(".", ".")").
fn make_cwd_the_root(more: MountFlags) -> rustix::io::Result<()> {
    // Nothing that is mounted here may appear elsewhere; what enter_layers mounted is in the same namespace already.
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let here = rustix::mount::open_tree(CWD, ".", flags)?;
    rustix::mount::move_mount(&here, "", CWD, ".", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    rustix::process::fchdir(&here)?;
    let flags = MountFlags::BIND | MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC | more;
    rustix::mount::mount_remount(".", flags, "")?;
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir(Path::new("/"))
}

/// Goes into the tree that layers make up, uppermost first. Several are mounted as a read-only overlay on top of the first,
/// where nobody but this process sees it. They are named by descriptors, because their own names may hold what separates
/// layers, or be too many for the one page that options may take (mount(2)).
fn enter_layers(layers: &[PathBuf]) -> rustix::io::Result<()> {
    let [top, below @ ..] = layers else {
        return Err(rustix::io::Errno::INVAL);
    };
    if !below.is_empty() {
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private)?;
        let fds = layers
            .iter()
            .map(|layer| open_layer(layer))
            .collect::<rustix::io::Result<Vec<_>>>()?;
        let names: Vec<String> = fds
            .iter()
            .map(|fd| format!("/proc/self/fd/{}", fd.as_raw_fd()))
            .collect();
        // The marks of deleted directories are those of unprivileged overlays (overlayfs.rst, "userxattr").
        let options =
            CString::new(format!("lowerdir={},userxattr", names.join(":"))).map_err(|_| rustix::io::Errno::INVAL)?;
        let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
        let onto = names.first().ok_or(rustix::io::Errno::INVAL)?;
        rustix::mount::mount(c"overlay", onto.as_str(), c"overlay", flags, options.as_c_str())?;
    }
    // Opened anew where an overlay lies on it now.
    rustix::process::fchdir(open_layer(top)?)
}

/// Opens a directory without following a symbolic link anywhere on the way: layers are named by drivers and filled by
/// containers, whose links must not lead out of the pool.
fn open_layer(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let plain = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(CWD, path, flags, Mode::empty(), plain)
}

/// The user "nobody" of every distribution (the kernel's overflow id).
fn become_nobody() -> nix::Result<()> {
    const NOBODY: u32 = 65534;
    let (uid, gid) = (nix::unistd::Uid::from_raw(NOBODY), nix::unistd::Gid::from_raw(NOBODY));
    nix::unistd::setgroups(&[])?;
    nix::unistd::setresgid(gid, gid, gid)?;
    nix::unistd::setresuid(uid, uid, uid)
}

/// Keeps `keep` and gives up everything else, also for programs that could be executed. The bounding set is left as it is
/// where the user can't change it any more, which does not matter once no_new_privs is set.
fn drop_capabilities(keep: CapabilitySet) -> rustix::io::Result<()> {
    let sets = CapabilitySets {
        effective: keep,
        permitted: keep,
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::clear_ambient_capability_set()?;
    rustix::thread::set_capabilities(None, sets)
}

/// System calls that reading, decompressing in a thread and reporting take.
const READING: &[libc::c_long] = &[
    libc::SYS_read,
    libc::SYS_pread64,
    libc::SYS_readv,
    libc::SYS_lseek,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_fcntl,
    libc::SYS_dup,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigreturn,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_tgkill,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_clock_gettime,
    libc::SYS_restart_syscall,
];

/// System calls that writing a tree takes beyond them.
const UNPACKING: &[libc::c_long] = &[
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_mkdirat,
    libc::SYS_symlinkat,
    libc::SYS_linkat,
    libc::SYS_unlinkat,
    libc::SYS_mknodat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_utimensat,
    libc::SYS_fsetxattr,
    libc::SYS_ftruncate,
    libc::SYS_pwrite64,
    libc::SYS_syncfs,
];

/// System calls that reading a tree takes beyond them.
const PACKING: &[libc::c_long] = &[
    libc::SYS_openat2,
    libc::SYS_getdents64,
    libc::SYS_newfstatat,
    libc::SYS_readlinkat,
    libc::SYS_flistxattr,
    libc::SYS_fgetxattr,
];

/// Everything that is not listed fails with EPERM; what no part of the C library tries is not worth a signal.
fn filter(more: &[libc::c_long]) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for &call in READING.iter().chain(more) {
        rules.insert(call, Vec::new());
    }
    // A thread, but no process and no namespace.
    let thread = libc::CLONE_THREAD as u64;
    let is_thread = SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(thread), thread)?;
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![is_thread])?]);
    rules.insert(libc::SYS_clone3, Vec::new());
    let denied = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    SeccompFilter::new(rules, denied, SeccompAction::Allow, std::env::consts::ARCH.try_into()?)?.try_into()
}

/// Makes clone3 look as if the kernel did not have it: its flags are in memory, where a filter can't look, and the C library
/// then uses clone. What fails in one filter fails, whatever another says (seccomp(2)).
fn no_clone3() -> Result<BpfProgram, seccompiler::BackendError> {
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let absent = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    SeccompFilter::new(rules, SeccompAction::Allow, absent, std::env::consts::ARCH.try_into()?)?.try_into()
}

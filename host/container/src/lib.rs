//! What a container is, and the client of its keeper.
//!
//! A container is described by a [`ContainerSpec`] and held by a keeper, a small process of its own (`hutch-keeper`), which
//! outlives the daemon. [`Runtime`] starts keepers and finds those that live; [`Keeper`] talks to one. The same program keeps
//! helper services ([`ServiceSpec`]) and opens the files of stopped containers ([`Runtime::files`]).
#![allow(
    unsafe_code,
    reason = "this crate is one of those that may: it spawns keepers with chosen descriptors"
)]

mod apparmor;
mod client;
mod connection;
mod devices;
mod error;
mod exec;
mod files;
mod idmap;
mod limits;
mod link;
mod place;
pub mod protocol;
mod runtime;
mod services;
mod spec;
mod state;
mod stats;
pub mod syscalls;

pub use apparmor::AppArmorSupport;
pub use client::{Exec, Keeper};
pub use devices::{DeviceControl, DeviceSupport};
pub use error::{Error, Fault, FaultKind};
pub use exec::{ExecSpec, ExecStdio, MAX_EXEC_BYTES};
pub use files::FilesHandle;
pub use idmap::{IdMap, IdRange};
pub use limits::{BadCpuSet, CpuQuota, CpuSet, Limits};
pub use runtime::{AdoptOutcome, Adopted, LateKeepers, Runtime};
pub use services::{SERVICE_VERSION, Service, ServiceSpec, ServiceState};
pub use spec::{
    BadSpec, ConsoleSpec, ContainerSpec, DeviceRule, Mount, NewFile, Rlimit, RootFs, SPEC_VERSION, check_file_name,
};
pub use state::{ContainerState, DiskUse, ExecInfo, Exit, ExitKind, ExitStatus, KeeperEvent, MemoryUse, Stats, Usage};
pub use syscalls::{BadSyscalls, Intercept, SeccompPolicy, SyscallRule, SyscallVerdict};

/// Directory below the root of each cgroup hierarchy in which containers have theirs.
pub const CGROUP_PARENT: &str = "hutch";

/// FNV-1a: where a short name is all that is wanted of a text's content.
pub(crate) fn hash(text: &[u8]) -> u64 {
    text.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

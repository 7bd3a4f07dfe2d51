//! The states and events of a container, as its keeper tells them.

use serde::{Deserialize, Serialize};

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum ContainerState {
    /// Namespaces and cgroup exist, PID 1 does not.
    Created,
    /// PID 1 runs, or is being restarted after a reboot from inside.
    Running {
        /// PID 1 as the host numbers it; changes on a reboot.
        pid: u32,
        /// How often the container has rebooted itself.
        reboots: u32,
        /// Whether it is frozen.
        frozen: bool,
    },
    /// PID 1 has ended and the cgroup is empty.
    Ended(Exit),
    /// The keeper is gone and what it held has been killed.
    Lost,
}

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Why.
    pub kind: ExitKind,
    /// How PID 1 ended.
    pub status: ExitStatus,
}

/// Why a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitKind {
    /// From inside, by halting or switching off (`reboot(2)`), or PID 1 returned 0.
    Halted,
    /// By [`crate::Keeper::kill`].
    Killed,
    /// PID 1 failed or was killed from elsewhere.
    Crashed,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitStatus {
    /// It returned this.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

impl ExitStatus {
    /// As a shell shows it: the code, or 128 and the signal's number.
    #[must_use]
    pub fn shell_code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

/// What happens to a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum KeeperEvent {
    /// PID 1 has executed its program.
    Started {
        /// PID 1 on the host.
        pid: u32,
    },
    /// The container rebooted itself and PID 1 has executed its program again.
    Rebooted {
        /// The new PID 1 on the host.
        pid: u32,
    },
    /// PID 1 has ended and no process is left.
    Exited(Exit),
    /// A process begun by [`crate::Keeper::exec`] has ended.
    ExecExited {
        /// Its id.
        id: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// The keeper has gone without being released. Its container has been killed.
    KeeperLost,
}

/// A process begun by [`crate::Keeper::exec`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecInfo {
    /// Its id, as the daemon gave it.
    pub id: String,
    /// Its process id on the host; meaningless once it has ended.
    pub pid: u32,
    /// How it ended; `None` while it runs.
    pub status: Option<ExitStatus>,
}

/// What a container uses, read from its cgroup. `None`: the kernel does not count it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Processor time since it was made, in nanoseconds.
    pub cpu_ns: Option<u64>,
    /// Bytes of memory, page cache included.
    pub memory: Option<u64>,
    /// The most bytes that it has used.
    pub memory_peak: Option<u64>,
    /// Its limit in bytes; `None` when there is none.
    pub memory_limit: Option<u64>,
    /// Bytes of swap.
    pub swap: Option<u64>,
    /// The most bytes of swap that it has used.
    pub swap_peak: Option<u64>,
    /// Processes and threads.
    pub processes: Option<u64>,
}

/// What a container uses in more detail: [`Stats`], and what only metrics tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// What its state shows.
    pub stats: Stats,
    /// Processor time in programs, in nanoseconds.
    pub cpu_user_ns: Option<u64>,
    /// Processor time in the kernel, in nanoseconds.
    pub cpu_system_ns: Option<u64>,
    /// What its memory is used for; `None` where the kernel does not count it.
    pub memory: Option<MemoryUse>,
    /// How often a process was killed because there was no memory left for the container.
    pub oom_kills: Option<u64>,
    /// What went to and from disks; empty where the kernel does not count it.
    pub disks: Vec<DiskUse>,
}

/// What the memory of a container is used for, in bytes; what the kernel does not tell is 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Memory of programs.
    pub anonymous: u64,
    /// Page cache.
    pub cached: u64,
    /// Shared memory and `tmpfs`.
    pub shared: u64,
    /// Files that are mapped.
    pub mapped: u64,
    /// Page cache that is to be written.
    pub dirty: u64,
    /// Page cache that is being written.
    pub writeback: u64,
    /// Memory of programs that was used lately.
    pub active_anonymous: u64,
    /// Memory of programs that was not.
    pub inactive_anonymous: u64,
    /// Page cache that was used lately.
    pub active_file: u64,
    /// Page cache that was not.
    pub inactive_file: u64,
    /// What can't be reclaimed.
    pub unevictable: u64,
}

/// What went to and from one disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskUse {
    /// The device's major number.
    pub major: u32,
    /// The device's minor number.
    pub minor: u32,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

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

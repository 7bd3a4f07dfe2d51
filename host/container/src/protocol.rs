//! The language between daemon and keeper.
//!
//! One `SOCK_SEQPACKET` connection per daemon, each packet one JSON document of at most [`MAX_PACKET`] bytes, file
//! descriptors beside it (`SCM_RIGHTS`). The daemon sends [`Packet`]s, the keeper answers each with a [`Reply`] of the same
//! number, in any order, and sends [`Reply::Event`]s between them. Packets that a keeper does not know are answered with a
//! fault of kind `unsupported`, fields that a daemon does not know are ignored: so each side may be the newer one.

use serde::{Deserialize, Serialize};

use crate::error::Fault;
use crate::exec::ExecSpec;
use crate::limits::Limits;
use crate::services::ServiceState;
use crate::spec::Mount;
use crate::state::{ContainerState, ExecInfo, KeeperEvent};

/// Version of this language. The daemon says its own in [`Request::Hello`], the keeper answers with its own.
pub const PROTOCOL_VERSION: u32 = 1;

/// Most bytes of one packet.
pub const MAX_PACKET: usize = 128 * 1024;

/// Most descriptors with one packet.
pub const MAX_FDS: usize = 4;

/// The descriptor on which a keeper finds its specification, a sealed memfd.
pub const SPEC_FD: i32 = 3;

/// The descriptor on which a keeper finds its listening socket.
pub const LISTEN_FD: i32 = 4;

/// The descriptor that a keeper holds open for its whole life without using it, where it is given one: the lock of the id
/// range of its container. Nothing that it starts gets it.
pub const HELD_FD: i32 = 5;

/// A request with its number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Packet {
    /// Chosen by the daemon, repeated in the reply.
    pub id: u64,
    /// What to do.
    pub request: Request,
}

/// What a daemon asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Request {
    /// The first packet. Answered by [`Answer::Hello`], with descriptors of the keeper's process and, for a container, its
    /// network namespace.
    Hello {
        /// [`PROTOCOL_VERSION`] of the daemon.
        version: u32,
    },
    /// Start PID 1; answered when it has executed its program.
    Start,
    /// Run a program; with three descriptors, or none and a terminal's size. Answered by [`Answer::Exec`].
    Exec {
        /// The program.
        spec: ExecSpec,
        /// Columns and rows of a terminal to make.
        pty: Option<(u16, u16)>,
    },
    /// Send a signal to a program.
    ExecSignal {
        /// Its id.
        id: String,
        /// The signal's number.
        signal: i32,
    },
    /// Forget how a program ended.
    ExecForget {
        /// Its id.
        id: String,
    },
    /// Ask PID 1 to halt.
    Shutdown,
    /// Ask PID 1 to reboot.
    Reboot,
    /// Kill every process.
    Kill,
    /// Freeze, or thaw.
    Freeze {
        /// Whether to freeze.
        frozen: bool,
    },
    /// Freeze, file servers as well, until a [`Request::Freeze`] says otherwise or the asker's connection ends, which makes the
    /// container what it was.
    Hold,
    /// A stream of the console; answered with its descriptor.
    Console,
    /// Set the console's size.
    ConsoleResize {
        /// Columns.
        cols: u16,
        /// Rows.
        rows: u16,
    },
    /// The console's log; answered with a memfd.
    ConsoleLog,
    /// Empty the console's log.
    ConsoleClear,
    /// An SFTP stream; answered with its descriptor.
    Sftp,
    /// Replace the limits.
    SetLimits {
        /// The new ones.
        limits: Limits,
    },
    /// Replace what is mounted besides the root, now and at each reboot.
    SetMounts {
        /// All of it, in order.
        mounts: Vec<Mount>,
    },
    /// The end is recorded: clean up and exit.
    Release,
    /// Send a signal to a service's program.
    ServiceSignal {
        /// The signal's number.
        signal: i32,
    },
    /// Stop a service.
    ServiceStop,
}

/// What a keeper sends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// It is done.
    Done {
        /// The request's number.
        id: u64,
        /// With this result.
        answer: Answer,
    },
    /// It failed.
    Failed {
        /// The request's number.
        id: u64,
        /// Why.
        fault: Fault,
    },
    /// Something happened.
    Event(KeeperEvent),
    /// A service changed.
    Service(ServiceState),
}

/// Results.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Answer {
    /// Nothing to say.
    Nothing,
    /// To [`Request::Hello`].
    Hello(Hello),
    /// To [`Request::Exec`].
    Exec {
        /// The process on the host.
        pid: u32,
    },
}

/// A keeper introduces itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// Its [`PROTOCOL_VERSION`].
    pub version: u32,
    /// The container's or service's id.
    pub id: String,
    /// Its process id.
    pub pid: u32,
    /// The container, or `None` for a service.
    pub container: Option<ContainerState>,
    /// The programs in the container.
    pub execs: Vec<ExecInfo>,
    /// The service, or `None` for a container.
    pub service: Option<ServiceState>,
}

#[cfg(test)]
#[path = "protocol_tests.rs"]
mod tests;

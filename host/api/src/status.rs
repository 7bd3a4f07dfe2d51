//! The numbers that the API uses for states of operations and instances.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A state's number; its [`Display`](fmt::Display) is the text beside it on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StatusCode(pub u16);

impl StatusCode {
    /// An operation exists and has not begun.
    pub const CREATED: Self = Self(100);
    /// Started.
    pub const STARTED: Self = Self(101);
    /// An instance is stopped.
    pub const STOPPED: Self = Self(102);
    /// An instance or operation runs.
    pub const RUNNING: Self = Self(103);
    /// An operation is being cancelled.
    pub const CANCELLING: Self = Self(104);
    /// Waiting for its turn.
    pub const PENDING: Self = Self(105);
    /// An instance starts.
    pub const STARTING: Self = Self(106);
    /// An instance stops.
    pub const STOPPING: Self = Self(107);
    /// An instance's start is taken back.
    pub const ABORTING: Self = Self(108);
    /// An instance is being frozen.
    pub const FREEZING: Self = Self(109);
    /// An instance is frozen.
    pub const FROZEN: Self = Self(110);
    /// An instance was thawed.
    pub const THAWED: Self = Self(111);
    /// An instance is in a state that it can't be used in.
    pub const ERROR: Self = Self(112);
    /// An instance is ready, as it says itself.
    pub const READY: Self = Self(113);
    /// An operation succeeded.
    pub const SUCCESS: Self = Self(200);
    /// An operation failed.
    pub const FAILURE: Self = Self(400);
    /// An operation was cancelled.
    pub const CANCELLED: Self = Self(401);

    /// Whether an operation with this state is over.
    pub fn is_final(self) -> bool {
        self.0 >= 200
    }

    /// The text; empty for a number that nobody has given a meaning.
    pub fn name(self) -> &'static str {
        match self {
            Self::CREATED => "Operation created",
            Self::STARTED => "Started",
            Self::STOPPED => "Stopped",
            Self::RUNNING => "Running",
            Self::CANCELLING => "Cancelling",
            Self::PENDING => "Pending",
            Self::STARTING => "Starting",
            Self::STOPPING => "Stopping",
            Self::ABORTING => "Aborting",
            Self::FREEZING => "Freezing",
            Self::FROZEN => "Frozen",
            Self::THAWED => "Thawed",
            Self::ERROR => "Error",
            Self::READY => "Ready",
            Self::SUCCESS => "Success",
            Self::FAILURE => "Failure",
            Self::CANCELLED => "Cancelled",
            _ => "",
        }
    }
}

impl fmt::Display for StatusCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

crate::wire::null_is_default!(StatusCode);

//! How a call went wrong: what was seen where the guest ran, and what that means for the caller and for the plugin.

use hutch_driver::DriverError;
use serde::{Deserialize, Serialize};
use wasmtime::Trap;

use crate::bindings::host::types::Error as GuestError;
use crate::code::MAX_TRANSFER;
use crate::functions::HostFault;
use crate::log::one_line;
use crate::plugin::Plugin;
use crate::state::CallState;

/// What wasmtime says of a transfer beyond the bound, for which it has no type of its own.
const TOO_MUCH_DATA: &str = "fuel allocated for hostcalls has been exhausted";
/// Bounds of an error that a guest makes up.
const MAX_CODE: usize = 128;
pub(crate) const MAX_MESSAGE: usize = 2048;
const MAX_DETAILS: usize = 16;

/// What was seen where the guest ran. A worker tells it of its own plugin, so it decides nothing but how that plugin is
/// blamed.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Fault {
    /// A function of the host failed that has no other way to say so.
    Host(GuestError),
    /// It ran for too long.
    Time,
    /// It wanted more memory than it may have.
    Memory,
    /// It trapped.
    Trap(String),
    /// It ended its program with this status.
    Exit(i32),
    /// There was no place for an instance.
    Full,
    /// It passed more to the host at once than it may, or answered with more.
    TooMuch,
    /// It answered with what can't be read.
    Unreadable(String),
    /// The process that it ran in is gone.
    #[serde(skip)]
    Worker(Lost),
}

/// What became of a worker in the middle of a call.
#[derive(Debug)]
pub(crate) struct Lost {
    /// What happened, for the caller.
    pub(crate) reason: String,
    /// Whether this counts as a fault of the plugin's. A worker's end counts once, however many calls it was in.
    pub(crate) blame: bool,
}

impl Fault {
    /// What an error of wasmtime's means.
    pub(crate) fn of(error: &wasmtime::Error, state: &CallState) -> Self {
        if let Some(HostFault(error)) = error.downcast_ref() {
            return Self::Host(GuestError {
                code: error.code.clone(),
                message: error.message.clone(),
                retryable: error.retryable,
                details: error.details.clone(),
            });
        }
        if state.clock.exceeded() {
            return Self::Time;
        }
        if state.room.refused {
            return Self::Memory;
        }
        if let Some(trap) = error.downcast_ref::<Trap>() {
            let what = trap.to_string();
            return Self::Trap(what.strip_prefix("wasm trap: ").unwrap_or(&what).to_owned());
        }
        if let Some(exit) = error.downcast_ref::<wasmtime_wasi::I32Exit>() {
            return Self::Exit(exit.0);
        }
        if error.is::<wasmtime::PoolConcurrencyLimitError>() {
            return Self::Full;
        }
        // Without the frames of the guest's code, which wasmtime puts before the cause.
        let cause = error.root_cause().to_string();
        if cause.contains(TOO_MUCH_DATA) {
            return Self::TooMuch;
        }
        Self::Unreadable(cause)
    }
}

/// How a call failed, and whether the plugin is to blame in a way that counts towards its quarantine.
pub(crate) struct Failure {
    pub(crate) error: DriverError,
    pub(crate) fault: bool,
}

impl Failure {
    pub(crate) fn fault(code: &str, message: String) -> Self {
        Self {
            error: DriverError::new(code, message),
            fault: true,
        }
    }

    pub(crate) fn plain(error: DriverError) -> Self {
        Self { error, fault: false }
    }
}

/// An error of a guest's, cut to a size that fits into a message whatever it is, and that is more than anybody gets to see.
pub(crate) fn cut(mut error: GuestError) -> GuestError {
    let cut = |text: &mut String| text.truncate(text.floor_char_boundary(2 * MAX_MESSAGE));
    cut(&mut error.code);
    cut(&mut error.message);
    error.details.truncate(MAX_DETAILS);
    for (key, value) in &mut error.details {
        cut(key);
        cut(value);
    }
    error
}

impl Plugin {
    /// What a fault means for the caller of `function` and for the plugin.
    pub(crate) fn classify(&self, function: &str, fault: Fault) -> Failure {
        let limits = &self.manifest.limits;
        let retryable = |message: String| DriverError {
            retryable: true,
            ..DriverError::new("unavailable", one_line(&message, MAX_MESSAGE))
        };
        match fault {
            Fault::Host(error) => Failure::plain(self.guest_error(error)),
            Fault::Time => {
                let time = limits.cpu_time.0.as_secs_f32();
                Failure::fault("timeout", format!("{function} was stopped after running for {time} s"))
            }
            Fault::Memory => {
                let memory = limits.memory.0 >> 10;
                let message = format!("{function} needs more memory than the {memory} KiB that it has");
                Failure::fault("limit", message)
            }
            Fault::Trap(what) => {
                let what = one_line(&what, MAX_MESSAGE);
                Failure::fault("trap", format!("{function} crashed: {what}"))
            }
            Fault::Exit(status) => Failure::fault("trap", format!("{function} ended the program with status {status}")),
            Fault::Full => Failure::plain(retryable(format!("{function}: all places for instances are taken"))),
            Fault::TooMuch => {
                let most = MAX_TRANSFER >> 20;
                let message = format!("{function} passed or answered more than {most} MiB at once");
                Failure::fault("limit", message)
            }
            Fault::Unreadable(what) => {
                let message = format!("{function} gave an answer that can't be read: {what}");
                Failure::fault("internal", one_line(&message, MAX_MESSAGE))
            }
            Fault::Worker(Lost { reason, blame }) => Failure {
                error: retryable(format!("{function} did not end: {reason}")),
                fault: blame,
            },
        }
    }

    /// An error that a guest answered with, as far as it can be trusted: bounded, and on one line.
    pub(crate) fn guest_error(&self, error: GuestError) -> DriverError {
        let code_fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-./_".contains(c);
        let code = if error.code.is_empty() || error.code.len() > MAX_CODE || !error.code.chars().all(code_fits) {
            "internal".to_owned()
        } else {
            error.code
        };
        let details = error.details.into_iter().take(MAX_DETAILS);
        DriverError {
            retryable: error.retryable,
            details: details
                .map(|(key, value)| (one_line(&key, 64), one_line(&value, 512)))
                .collect(),
            ..DriverError::new(code, one_line(&error.message, MAX_MESSAGE))
        }
    }
}

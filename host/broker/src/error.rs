//! Making [`DriverError`]s of what the operating system says.

use std::io;

use hutch_driver::DriverError;
use rustix::io::Errno;

/// The code of `hutch:host/types.error` that tells a driver what an error of the operating system means.
pub fn code_of(errno: Errno) -> &'static str {
    match errno {
        Errno::NOENT => "not-found",
        Errno::EXIST | Errno::NOTEMPTY => "already-exists",
        Errno::NOSPC | Errno::DQUOT => "no-space",
        Errno::BUSY | Errno::TXTBSY => "in-use",
        Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOTTY => "unsupported",
        Errno::INVAL | Errno::NAMETOOLONG | Errno::NOTDIR | Errno::ISDIR | Errno::LOOP | Errno::XDEV => "invalid",
        _ => "io",
    }
}

/// The error for a failed system call: `what` says what could not be done to which object, as the beginning of a sentence.
pub(crate) fn os(what: impl std::fmt::Display, errno: Errno) -> DriverError {
    let mut error = DriverError::new(code_of(errno), format!("{what}: {}", describe(errno)));
    error.retryable = matches!(
        errno,
        Errno::INTR | Errno::AGAIN | Errno::BUSY | Errno::TXTBSY | Errno::MFILE | Errno::NFILE
    );
    error
}

/// Like [`os`], for an error of the standard library.
pub(crate) fn io(what: impl std::fmt::Display, error: &io::Error) -> DriverError {
    match error.raw_os_error() {
        Some(raw) => os(what, Errno::from_raw_os_error(raw)),
        None => DriverError::new("io", format!("{what}: {}", lower(&error.to_string()))),
    }
}

/// An argument that can't be.
pub(crate) fn invalid(message: impl Into<String>) -> DriverError {
    DriverError::new("invalid", message)
}

/// A fault of the host's own.
pub(crate) fn internal(message: impl Into<String>) -> DriverError {
    DriverError::new("internal", message)
}

/// The caller's operation was cancelled.
pub(crate) fn cancelled(what: impl std::fmt::Display) -> DriverError {
    DriverError::new("cancelled", format!("{what}: cancelled"))
}

/// `EACCES` reads as `permission denied`, without the number that the standard library adds.
fn describe(errno: Errno) -> String {
    let text = io::Error::from(errno).to_string();
    lower(text.split(" (os error").next().unwrap_or_default())
}

fn lower(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map(|c| c.to_lowercase().chain(chars).collect())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_disks_and_quotas_are_no_space() {
        assert_eq!(os("can't write a", Errno::NOSPC).code, "no-space");
        assert_eq!(os("can't write a", Errno::DQUOT).code, "no-space");
        assert_eq!(
            os("can't write a", Errno::NOSPC).message,
            "can't write a: no space left on device"
        );
    }
}

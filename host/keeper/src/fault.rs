//! Saying which step failed on what.

use std::io;

use hutch_container::Fault;

/// Results in the keeper.
pub(crate) type Result<T> = std::result::Result<T, Fault>;

/// Turns a failed system call into a fault.
pub(crate) trait At<T> {
    /// `step` as a verb in its -ing form, `object` what it was done to.
    fn at(self, step: &str, object: impl AsRef<std::path::Path>) -> Result<T>;
}

impl<T, E: Into<io::Error>> At<T> for std::result::Result<T, E> {
    fn at(self, step: &str, object: impl AsRef<std::path::Path>) -> Result<T> {
        self.map_err(|error| {
            let error: io::Error = error.into();
            let object = object.as_ref().display().to_string();
            match error.raw_os_error() {
                Some(errno) => Fault::system(step, object, errno),
                None => Fault::new(hutch_container::FaultKind::System, step, object, error.to_string()),
            }
        })
    }
}

//! Files in the directory of a service, which is worked on like a root.

use hutch_driver::DriverError;
use rustix::fs::{AtFlags, unlinkat};
use rustix::io::Errno;

use super::ops::{list_dir, make_dir, read_file, write_file};
use super::tree::OpenRoot;
use crate::error::os;

/// They are not flushed to the disk: a driver writes them anew when the machine has
/// come up, and then it is what makes the service start.
impl OpenRoot {
    /// Replaces a file. Directories above it that are missing are made, open to programs that have given up root.
    pub(crate) fn write_service_file(&self, path: &str, data: &[u8]) -> Result<(), DriverError> {
        match write_file(self, path, data, 0o644, false) {
            Err(e) if e.is("not-found") => {}
            other => return other,
        }
        let (above, _) = path.rsplit_once('/').unwrap_or_default();
        let ends = above.match_indices('/').map(|(at, _)| at).chain([above.len()]);
        for end in ends {
            make_dir(self, above.get(..end).unwrap_or_default(), 0o755)?;
        }
        write_file(self, path, data, 0o644, false)
    }

    /// The bytes of a file; `None` where there is none.
    pub(crate) fn read_service_file(&self, path: &str) -> Result<Option<Vec<u8>>, DriverError> {
        read_file(self, path)
    }

    /// Removes a file. What is not there succeeds.
    pub(crate) fn remove_service_file(&self, path: &str) -> Result<(), DriverError> {
        let place = match self.place(path) {
            Err(e) if e.is("not-found") => return Ok(()),
            other => other?,
        };
        match unlinkat(&place.parent, place.name.as_str(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(os(format_args!("can't remove {}", self.describe(path)), e)),
        }
    }

    /// Names of the files in a directory, in order; none where it is not there.
    pub(crate) fn list_service_files(&self, path: &str) -> Result<Vec<String>, DriverError> {
        match list_dir(self, path, None, u32::MAX) {
            Ok(entries) => Ok(entries
                .into_iter()
                .filter(|entry| entry.kind == "file")
                .map(|entry| entry.name)
                .collect()),
            Err(e) if e.is("not-found") => Ok(Vec::new()),
            Err(e) => Err(e),
        }
    }
}

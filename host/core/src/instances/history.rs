//! What happened to an instance, line by line, in the log that clients show (`incus info --show-log`): when it was made, started
//! and ended, and why a start failed.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use hutch_api::Timestamp;
use hutch_container::{ContainerState, Exit, ExitKind, ExitStatus};

use crate::error::{Error, Result};
use crate::instances::owner::Owner;
use crate::pools::make_private_dir;

/// The file's name, which LXD's and Incus's clients ask for.
const FILE: &str = "lxc.log";
/// Where the older half of a long history is.
const OLDER: &str = "lxc.log.old";
/// Bytes after which a new file is begun.
const MOST: u64 = 128 << 10;

impl Owner {
    /// Writes a line. An instance goes on without it where the disk takes none.
    pub(crate) fn note(&self, what: &str) {
        let dir = self.core.log_dir(&self.record.project, &self.record.name);
        if let Err(error) = append(&dir, what) {
            tracing::warn!(
                instance = self.record.name,
                error = error.report(),
                "the instance's log could not be written"
            );
        }
    }
}

/// How a container ended, in words.
pub(super) fn end(state: &ContainerState) -> String {
    let ContainerState::Ended(Exit { kind, status }) = state else {
        return "ended: its keeper was lost".to_owned();
    };
    let how = match status {
        ExitStatus::Code(code) => format!("PID 1 returned {code}"),
        ExitStatus::Signal(signal) => format!("signal {signal} ended PID 1"),
    };
    match kind {
        ExitKind::Halted => format!("halted: {how}"),
        ExitKind::Killed => "killed".to_owned(),
        ExitKind::Crashed => format!("crashed: {how}"),
    }
}

fn append(dir: &Path, what: &str) -> Result<()> {
    make_private_dir(dir)?;
    let path = dir.join(FILE);
    let failed = || format!("writing {}", path.display());
    if path.metadata().is_ok_and(|found| found.len() > MOST) {
        std::fs::rename(&path, dir.join(OLDER)).map_err(Error::io(failed()))?;
    }
    // One write for a line, so that no reader finds half of it.
    let line = format!("{} {}\n", Timestamp::now(), what.escape_debug());
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .and_then(|mut file| file.write_all(line.as_bytes()))
        .map_err(Error::io(failed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_history_is_kept_in_two_halves() {
        let dir = tempfile::tempdir().unwrap();
        let long = "x".repeat(4096);
        for _ in 0..80 {
            append(dir.path(), &long).unwrap();
        }
        append(dir.path(), "one\nline \u{1b}[31m").unwrap();
        let log = std::fs::read_to_string(dir.path().join(FILE)).unwrap();
        assert!(log.ends_with("Z one\\nline \\u{1b}[31m\n"), "{log}");
        let size = |name| dir.path().join(name).metadata().unwrap().len();
        assert!(size(FILE) <= MOST + 5000 && size(OLDER) <= MOST + 5000);
    }
}

//! Files that are written before PID 1 begins.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use hutch_container::{ContainerSpec, Fault, FaultKind, NewFile};
use rustix::fs::{FileType, Mode, OFlags, fstat, ftruncate, open};

use crate::fault::{At, Result};

/// Writes them. The process's root being the container's, and nothing mounted there yet, whatever the paths go through stays inside.
pub(super) fn write(spec: &ContainerSpec, reboot: bool) -> Result<()> {
    let wanted = spec.files.iter().filter(|file| file.every_boot || !reboot);
    wanted.into_iter().try_for_each(|file| {
        write_one(file).map_err(|mut fault| {
            fault.object = format!("{} ({})", fault.object, file.origin);
            fault
        })
    })
}

fn write_one(file: &NewFile) -> Result<()> {
    let path = file.path.as_path();
    if file.create_only && fs::symlink_metadata(path).is_ok() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).at("making", parent)?;
    }
    // The image may have anything there: a pipe without a reader must not hold the boot up, and a device must not be written.
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = open(path, flags, Mode::from_raw_mode(0o644)).at("writing", path)?;
    if FileType::from_raw_mode(fstat(&opened).at("looking at", path)?.st_mode) != FileType::RegularFile {
        return Err(not_a_file(path));
    }
    ftruncate(&opened, 0).at("writing", path)?;
    File::from(opened)
        .write_all(file.content.as_bytes())
        .at("writing", path)
}

fn not_a_file(path: &Path) -> Fault {
    Fault::new(
        FaultKind::Invalid,
        "writing",
        path.display().to_string(),
        "it is not a regular file",
    )
}

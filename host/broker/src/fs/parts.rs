//! Files larger than one request: written piece by piece beside their place, and put there as a whole.

use std::os::unix::fs::FileExt as _;

use hutch_driver::DriverError;
use rustix::fs::{FileType, Mode, OFlags, fchmod, fstat, ftruncate, openat, renameat};
use rustix::io::Errno;

use super::ops::exists;
use super::quota;
use super::tree::{self, OpenRoot};
use crate::error::{invalid, os};

/// Bytes of one piece.
const MAX_PART: usize = 1 << 20;
/// Bytes of a file that is made of pieces: a zone of the largest size fits, a volume's content should not pass through a driver.
const MAX_WHOLE: u64 = 512 << 20;

/// What the file holds from `offset` on becomes `data`.
pub(super) fn write_part(root: &OpenRoot, path: &str, offset: u64, data: &[u8], mode: u32) -> Result<(), DriverError> {
    root.require_writable()?;
    if data.len() > MAX_PART || offset.saturating_add(data.len() as u64) > MAX_WHOLE {
        let message = format!(
            "can't write {} bytes at {offset}: a part has at most {MAX_PART} bytes, and a file {MAX_WHOLE}",
            data.len()
        );
        return Err(DriverError::new("limit", message));
    }
    if mode & !0o7777 != 0 {
        return Err(invalid(format!("{mode:#o} is not the mode of a file")));
    }
    let place = root.place(path)?;
    let what = || format!("can't write {}", root.describe(path));
    // Without O_NONBLOCK the opening of a fifo would wait for a reader.
    let create = if offset == 0 { OFlags::CREATE } else { OFlags::empty() };
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | create;
    let fd = openat(&place.parent, place.name.as_str(), flags, Mode::RUSR | Mode::WUSR).map_err(|e| os(what(), e))?;
    let stat = fstat(&fd).map_err(|e| os(what(), e))?;
    // What is written in place is changed under all of its names.
    if !FileType::from_raw_mode(stat.st_mode).is_file() || stat.st_nlink != 1 {
        return Err(invalid(format!(
            "{} is not a regular file with one name",
            root.describe(path)
        )));
    }
    let length = u64::try_from(stat.st_size).unwrap_or(0);
    if offset > length {
        return Err(invalid(format!(
            "{} has {length} bytes: nothing can be written at {offset}",
            root.describe(path)
        )));
    }
    ftruncate(&fd, offset).map_err(|e| os(what(), e))?;
    let file = std::fs::File::from(fd);
    file.write_all_at(data, offset)
        .map_err(|e| crate::error::io(what(), &e))?;
    fchmod(&file, Mode::from_raw_mode(mode)).map_err(|e| os(what(), e))
}

/// The file `source` takes the place of the file `to`, after it was flushed to the disk.
pub(super) fn replace_file(root: &OpenRoot, source: &str, to: &str) -> Result<(), DriverError> {
    root.require_writable()?;
    let what = || format!("can't put {} in the place of {to:?}", root.describe(source));
    let to_place = root.place(to)?;
    let opened = tree::open_beneath(&root.fd, source, OFlags::RDONLY | OFlags::NONBLOCK);
    let fd = match opened {
        Err(Errno::NOENT) if exists(&to_place).map_err(|e| os(what(), e))? => return Ok(()),
        other => other.map_err(|e| os(what(), e))?,
    };
    let stat = fstat(&fd).map_err(|e| os(what(), e))?;
    if !FileType::from_raw_mode(stat.st_mode).is_file() {
        return Err(invalid(format!("{} is not a regular file", root.describe(source))));
    }
    let file = std::fs::File::from(fd);
    file.sync_data().map_err(|e| crate::error::io(what(), &e))?;
    let from = root.place(source)?;
    let rename = || {
        renameat(
            &from.parent,
            from.name.as_str(),
            &to_place.parent,
            to_place.name.as_str(),
        )
    };
    match rename() {
        // The directory belongs to a project, in which the file has to be before it can be moved there.
        Err(Errno::XDEV) => {
            quota::adopt(&to_place.parent, rustix::fd::AsFd::as_fd(&file)).map_err(|e| crate::error::io(what(), &e))?;
            rename()
        }
        other => other,
    }
    .map_err(|e| os(what(), e))
}

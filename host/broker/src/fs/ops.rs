//! Single files and directories below a root.

use std::collections::BTreeMap;
use std::io::Write as _;

use hutch_driver::DriverError;
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, Stat, fchmod, fstat, mkdirat, openat, renameat, renameat_with,
    statat, unlinkat,
};
use rustix::io::Errno;

use super::tree::{self, OpenRoot, check_path};
use super::{quota, trash};
use crate::error::{invalid, os};
use crate::{DirEntry, FileInfo, Space};

/// Largest file that `read-file` and `write-file` handle, in bytes.
const MAX_FILE: usize = 1 << 20;
/// Most entries that one `list-dir` answers.
const MAX_ENTRIES: usize = 10_000;

fn kind(mode: u32) -> &'static str {
    match FileType::from_raw_mode(mode) {
        FileType::RegularFile => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symlink",
        _ => "other",
    }
}

fn info(stat: &Stat) -> FileInfo {
    FileInfo {
        kind: kind(stat.st_mode).to_owned(),
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mode: stat.st_mode & 0o7777,
        modified: stat.st_mtime,
    }
}

pub(super) fn stat(root: &OpenRoot, path: &str) -> Result<Option<FileInfo>, DriverError> {
    if path.is_empty() {
        let stat = fstat(&root.fd).map_err(|e| os(format_args!("can't look at {}", root.describe(path)), e))?;
        return Ok(Some(info(&stat)));
    }
    let place = match root.place(path) {
        Err(e) if e.is("not-found") => return Ok(None),
        other => other?,
    };
    match statat(&place.parent, place.name.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(info(&stat))),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(os(format_args!("can't look at {}", root.describe(path)), e)),
    }
}

/// Directories above the last one are made with mode 0700: what lies deeper is reached by those only who may pass here.
pub(super) fn make_dir(root: &OpenRoot, path: &str, mode: u32) -> Result<(), DriverError> {
    root.require_writable()?;
    check_path(path)?;
    if mode & !0o7777 != 0 {
        return Err(invalid(format!("{mode:#o} is not the mode of a directory")));
    }
    let fail = |e| os(format_args!("can't make the directory {}", root.describe(path)), e);
    let mut at = openat(
        &root.fd,
        ".",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(fail)?;
    let mut rest = path.split('/').filter(|c| !c.is_empty()).peekable();
    while let Some(name) = rest.next() {
        let bits = if rest.peek().is_some() { 0o700 } else { mode };
        let made = match mkdirat(&at, name, Mode::from_raw_mode(bits)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(e) => return Err(fail(e)),
        };
        let open = if made { OFlags::RDONLY } else { OFlags::PATH };
        at = tree::open_beneath(&at, name, open | OFlags::DIRECTORY).map_err(fail)?;
        if made {
            // The daemon's umask does not count.
            fchmod(&at, Mode::from_raw_mode(bits)).map_err(fail)?;
        }
    }
    Ok(())
}

pub(super) fn list_dir(
    root: &OpenRoot,
    path: &str,
    after: Option<&str>,
    limit: u32,
) -> Result<Vec<DirEntry>, DriverError> {
    check_path(path)?;
    let fail = |e| os(format_args!("can't list {}", root.describe(path)), e);
    let limit = usize::try_from(limit).unwrap_or(MAX_ENTRIES).min(MAX_ENTRIES);
    let dir = root.open_dir(path).map_err(fail)?;
    // Only the first `limit` names are kept, so that a directory of any size needs bounded memory.
    let mut first: BTreeMap<String, FileType> = BTreeMap::new();
    for entry in Dir::read_from(&dir).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        // A name that is not UTF-8 can't have been made by a driver, and no driver could address it.
        let Ok(name) = entry.file_name().to_str() else { continue };
        let own = name == "." || name == ".." || (path.is_empty() && name.starts_with(tree::RESERVED));
        if own || after.is_some_and(|after| name <= after) {
            continue;
        }
        if first.len() < limit || first.last_key_value().is_some_and(|(last, _)| name < last.as_str()) {
            first.insert(name.to_owned(), entry.file_type());
            if first.len() > limit {
                first.pop_last();
            }
        }
    }
    let mut entries = Vec::with_capacity(first.len());
    for (name, file_type) in first {
        let kind = if file_type == FileType::Unknown {
            match statat(&dir, name.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => kind(stat.st_mode),
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(fail(e)),
            }
        } else {
            kind(file_type.as_raw_mode())
        };
        entries.push(DirEntry {
            name,
            kind: kind.to_owned(),
        });
    }
    Ok(entries)
}

pub(super) fn read_file(root: &OpenRoot, path: &str) -> Result<Option<Vec<u8>>, DriverError> {
    check_path(path)?;
    let fail = |e| os(format_args!("can't read {}", root.describe(path)), e);
    // Without O_NONBLOCK the opening of a fifo would wait for a writer.
    let fd = match tree::open_beneath(&root.fd, path, OFlags::RDONLY | OFlags::NONBLOCK) {
        Err(Errno::NOENT) => return Ok(None),
        other => other.map_err(fail)?,
    };
    let stat = fstat(&fd).map_err(fail)?;
    if !FileType::from_raw_mode(stat.st_mode).is_file() {
        return Err(invalid(format!("{} is not a regular file", root.describe(path))));
    }
    let mut data = Vec::new();
    std::io::Read::read_to_end(
        &mut std::io::Read::take(std::fs::File::from(fd), MAX_FILE as u64 + 1),
        &mut data,
    )
    .map_err(|e| crate::error::io(format_args!("can't read {}", root.describe(path)), &e))?;
    if data.len() > MAX_FILE {
        return Err(DriverError::new(
            "limit",
            format!(
                "{} is larger than the {MAX_FILE} bytes that can be read",
                root.describe(path)
            ),
        ));
    }
    Ok(Some(data))
}

/// Removes what can be removed at once, and says whether that was so.
pub(super) fn remove_plain(place: &tree::Place) -> Result<bool, Errno> {
    match unlinkat(&place.parent, place.name.as_str(), AtFlags::empty()) {
        Ok(()) => return Ok(true),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(e),
    }
    match unlinkat(&place.parent, place.name.as_str(), AtFlags::REMOVEDIR) {
        Ok(()) => Ok(true),
        // An immutable file is for the removal that can deal with it.
        Err(Errno::NOTEMPTY | Errno::EXIST | Errno::PERM | Errno::NOTDIR) => Ok(false),
        Err(e) => Err(e),
    }
}

/// The file is written and, with `sync`, flushed to the disk under another name first, so that after a crash, then of the
/// machine too, it holds the old bytes or the new ones.
pub(super) fn write_file(root: &OpenRoot, path: &str, data: &[u8], mode: u32, sync: bool) -> Result<(), DriverError> {
    root.require_writable()?;
    if data.len() > MAX_FILE {
        return Err(DriverError::new(
            "limit",
            format!("can't write {} bytes: at most {MAX_FILE} are allowed", data.len()),
        ));
    }
    if mode & !0o7777 != 0 {
        return Err(invalid(format!("{mode:#o} is not the mode of a file")));
    }
    let place = root.place(path)?;
    let trash = trash::open_trash(root)?;
    let name = trash::fresh_name();
    let what = || format!("can't write {}", root.describe(path));
    let written = openat(
        &trash,
        name.as_str(),
        OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC,
        Mode::RUSR | Mode::WUSR,
    )
    .map_err(|e| os(what(), e))
    .and_then(|fd| {
        let mut file = std::fs::File::from(fd);
        file.write_all(data).map_err(|e| crate::error::io(what(), &e))?;
        fchmod(&file, Mode::from_raw_mode(mode)).map_err(|e| os(what(), e))?;
        if sync {
            file.sync_data().map_err(|e| crate::error::io(what(), &e))?;
        }
        let rename = || renameat(&trash, name.as_str(), &place.parent, place.name.as_str());
        match rename() {
            // The directory belongs to a project, in which the file has to be before it can be moved there.
            Err(Errno::XDEV) => {
                quota::adopt(&place.parent, rustix::fd::AsFd::as_fd(&file))
                    .map_err(|e| crate::error::io(what(), &e))?;
                rename()
            }
            other => other,
        }
        .map_err(|e| os(what(), e))
    });
    if written.is_err() {
        // Whether this succeeds or not, the trash is emptied when the root is next opened.
        let _ = unlinkat(&trash, name.as_str(), AtFlags::empty());
    }
    written
}

pub(super) fn rename(root: &OpenRoot, source: &str, to: &str) -> Result<(), DriverError> {
    root.require_writable()?;
    let what = || format!("can't rename {} to {to:?}", root.describe(source));
    let to_place = root.place(to)?;
    let from_place = match root.place(source) {
        Err(e) if e.is("not-found") => None,
        other => Some(other?),
    };
    let renamed = from_place.map_or(Err(Errno::NOENT), |from| {
        let (name, to_name) = (from.name.as_str(), to_place.name.as_str());
        trash::despite_flags(&from, false, || {
            match renameat_with(&from.parent, name, &to_place.parent, to_name, RenameFlags::NOREPLACE) {
                // Few file systems lack the flag (rename(2)); there the core's lock on the object has to do.
                Err(Errno::INVAL) if exists(&to_place)? => Err(Errno::EXIST),
                Err(Errno::INVAL) => renameat(&from.parent, name, &to_place.parent, to_name),
                other => other,
            }
        })
    });
    match renamed {
        Err(Errno::NOENT) if exists(&to_place).map_err(|e| os(what(), e))? => Ok(()),
        other => other.map_err(|e| os(what(), e)),
    }
}

pub(super) fn exists(place: &tree::Place) -> Result<bool, Errno> {
    match statat(&place.parent, place.name.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(e) => Err(e),
    }
}

pub(super) fn space(root: &OpenRoot) -> Result<Space, DriverError> {
    let stat = rustix::fs::fstatvfs(&root.fd)
        .map_err(|e| os(format_args!("can't ask for the space of {}", root.describe("")), e))?;
    // As df(1) counts: what is kept for root (`f_bfree` less `f_bavail`, statvfs(3)) is not in use.
    let used_blocks = stat.f_blocks.saturating_sub(stat.f_bfree);
    Ok(Space {
        total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
        used_bytes: used_blocks.saturating_mul(stat.f_frsize),
        total_inodes: stat.f_files,
        used_inodes: stat.f_files.saturating_sub(stat.f_ffree),
    })
}

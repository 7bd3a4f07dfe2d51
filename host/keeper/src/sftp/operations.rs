//! What the requests do.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, ReadDir};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, RenameFlags, Timespec, Timestamps, chmodat, renameat_with, utimensat};

use super::packet::Attributes;

/// Files and directories open at a time.
const MOST_HANDLES: usize = 1024;

/// Entries in one answer to a reading of a directory.
const MOST_ENTRIES: usize = 100;

const FLAG_READ: u32 = 1;
const FLAG_WRITE: u32 = 2;
const FLAG_APPEND: u32 = 4;
const FLAG_CREATE: u32 = 8;
const FLAG_TRUNCATE: u32 = 16;
const FLAG_EXCLUSIVE: u32 = 32;

/// What a request ended with, when it is not an answer of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// All went well.
    None,
    /// There is no more to read.
    End,
    /// The packet is not what its type says.
    BadMessage,
    /// The request is unknown.
    Unsupported,
    /// The handle is.
    BadHandle,
    /// The system says no.
    System(i32),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::System(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

impl From<rustix::io::Errno> for Failure {
    fn from(error: rustix::io::Errno) -> Self {
        Self::System(error.raw_os_error())
    }
}

impl Failure {
    /// The code in the draft's section 7.
    pub(super) fn code(self) -> u32 {
        match self {
            Self::None => 0,
            Self::End => 1,
            Self::System(libc::ENOENT | libc::ENOTDIR | libc::ELOOP) => 2,
            Self::System(libc::EACCES | libc::EPERM | libc::EROFS) => 3,
            Self::System(_) | Self::BadHandle => 4,
            Self::BadMessage => 5,
            Self::Unsupported => 8,
        }
    }

    pub(super) fn text(self) -> String {
        match self {
            Self::None => "ok".to_owned(),
            Self::End => "end of file".to_owned(),
            Self::BadMessage => "bad message".to_owned(),
            Self::Unsupported => "operation not supported".to_owned(),
            Self::BadHandle => "no such handle".to_owned(),
            Self::System(errno) => hutch_container::Fault::system("", "", errno).cause,
        }
    }
}

type Result<T> = std::result::Result<T, Failure>;

enum Handle {
    File(File),
    Directory(ReadDir),
}

/// One entry of a directory.
pub(super) struct Entry {
    pub(super) name: Vec<u8>,
    pub(super) long_name: Vec<u8>,
    pub(super) attributes: Attributes,
}

/// The open handles.
pub(super) struct Server {
    handles: Vec<Option<Handle>>,
}

fn path(bytes: &[u8]) -> &Path {
    // The draft: an empty name is the directory that one begins in, which is the root.
    let bytes = if bytes.is_empty() { b"/" } else { bytes };
    Path::new(OsStr::from_bytes(bytes))
}

impl Server {
    pub(super) fn new() -> Self {
        Self { handles: Vec::new() }
    }

    fn insert(&mut self, handle: Handle) -> Result<u32> {
        let place = match self.handles.iter().position(Option::is_none) {
            Some(place) => place,
            None if self.handles.len() >= MOST_HANDLES => return Err(Failure::System(libc::EMFILE)),
            None => {
                self.handles.push(None);
                self.handles.len() - 1
            }
        };
        self.handles[place] = Some(handle);
        u32::try_from(place).map_err(|_| Failure::BadHandle)
    }

    fn place(&mut self, name: &[u8]) -> Result<&mut Option<Handle>> {
        let number = u32::from_be_bytes(name.try_into().map_err(|_| Failure::BadHandle)?);
        self.handles
            .get_mut(number as usize)
            .filter(|place| place.is_some())
            .ok_or(Failure::BadHandle)
    }

    fn file(&mut self, name: &[u8]) -> Result<&File> {
        match self.place(name)? {
            Some(Handle::File(file)) => Ok(file),
            _ => Err(Failure::BadHandle),
        }
    }

    pub(super) fn open(&mut self, name: &[u8], flags: u32, attributes: &Attributes) -> Result<u32> {
        let has = |flag| flags & flag != 0;
        let mut options = OpenOptions::new();
        options
            .read(has(FLAG_READ))
            .write(has(FLAG_WRITE))
            .append(has(FLAG_APPEND))
            .create(has(FLAG_CREATE))
            .truncate(has(FLAG_TRUNCATE) && !has(FLAG_APPEND))
            .create_new(has(FLAG_CREATE) && has(FLAG_EXCLUSIVE))
            .mode(attributes.permissions.unwrap_or(0o644) & 0o7777)
            // A pipe that nobody has open must not hold the server up.
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
        let file = options.open(path(name))?;
        self.insert(Handle::File(file))
    }

    pub(super) fn close(&mut self, name: &[u8]) -> Result<()> {
        *self.place(name)? = None;
        Ok(())
    }

    pub(super) fn read(&mut self, name: &[u8], offset: u64, length: u32) -> Result<Vec<u8>> {
        let mut data = vec![0; length as usize];
        let read = self.file(name)?.read_at(&mut data, offset)?;
        if read == 0 {
            return Err(Failure::End);
        }
        data.truncate(read);
        Ok(data)
    }

    pub(super) fn write(&mut self, name: &[u8], offset: u64, data: &[u8]) -> Result<()> {
        Ok(self.file(name)?.write_all_at(data, offset)?)
    }

    pub(super) fn lstat(&self, name: &[u8]) -> Result<Attributes> {
        Ok((&fs::symlink_metadata(path(name))?).into())
    }

    pub(super) fn stat(&self, name: &[u8]) -> Result<Attributes> {
        Ok((&fs::metadata(path(name))?).into())
    }

    pub(super) fn fstat(&mut self, name: &[u8]) -> Result<Attributes> {
        Ok((&self.file(name)?.metadata()?).into())
    }

    /// Sets what is given, of the file that a link leads to or, with `follow` false, of the link.
    pub(super) fn set(&self, name: &[u8], attributes: &Attributes, follow: bool) -> Result<()> {
        let path = path(name);
        let flags = if follow {
            AtFlags::empty()
        } else {
            AtFlags::SYMLINK_NOFOLLOW
        };
        if let Some(size) = attributes.size {
            OpenOptions::new()
                .write(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(path)?
                .set_len(size)?;
        }
        if let Some((uid, gid)) = attributes.owner {
            // Before the mode: changing the owner takes set-user-id bits away.
            match follow {
                true => std::os::unix::fs::chown(path, Some(uid), Some(gid))?,
                false => std::os::unix::fs::lchown(path, Some(uid), Some(gid))?,
            }
        }
        if let Some(mode) = attributes.permissions {
            chmodat(CWD, path, Mode::from_raw_mode(mode & 0o7777), flags)?;
        }
        if let Some(times) = attributes.times {
            utimensat(CWD, path, &timestamps(times), flags)?;
        }
        Ok(())
    }

    pub(super) fn set_open(&mut self, name: &[u8], attributes: &Attributes) -> Result<()> {
        let file = self.file(name)?;
        if let Some(size) = attributes.size {
            file.set_len(size)?;
        }
        if let Some((uid, gid)) = attributes.owner {
            std::os::unix::fs::fchown(file, Some(uid), Some(gid))?;
        }
        if let Some(mode) = attributes.permissions {
            file.set_permissions(fs::Permissions::from_mode(mode & 0o7777))?;
        }
        if let Some(times) = attributes.times {
            rustix::fs::futimens(file, &timestamps(times))?;
        }
        Ok(())
    }

    pub(super) fn open_directory(&mut self, name: &[u8]) -> Result<u32> {
        let directory = fs::read_dir(path(name))?;
        self.insert(Handle::Directory(directory))
    }

    pub(super) fn read_directory(&mut self, name: &[u8]) -> Result<Vec<Entry>> {
        let Some(Handle::Directory(directory)) = self.place(name)? else {
            return Err(Failure::BadHandle);
        };
        let mut entries = Vec::new();
        for entry in directory.take(MOST_ENTRIES) {
            let entry = entry?;
            // One that has gone since is left out.
            let Ok(metadata) = entry.metadata() else { continue };
            let name = entry.file_name().into_vec();
            let long_name = [long_name(&metadata).into_bytes(), name.clone()].concat();
            entries.push(Entry {
                name,
                long_name,
                attributes: (&metadata).into(),
            });
        }
        if entries.is_empty() {
            Err(Failure::End)
        } else {
            Ok(entries)
        }
    }

    pub(super) fn remove(&self, name: &[u8]) -> Result<()> {
        Ok(fs::remove_file(path(name))?)
    }

    pub(super) fn remove_directory(&self, name: &[u8]) -> Result<()> {
        Ok(fs::remove_dir(path(name))?)
    }

    pub(super) fn make_directory(&self, name: &[u8], attributes: &Attributes) -> Result<()> {
        let mode = attributes.permissions.unwrap_or(0o755) & 0o7777;
        Ok(fs::DirBuilder::new().mode(mode).create(path(name))?)
    }

    /// The absolute name, without links as far as it exists.
    pub(super) fn real_path(&self, name: &[u8]) -> Result<Vec<u8>> {
        let path = Path::new("/").join(path(name));
        let real = match fs::canonicalize(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => plain(&path),
            real => real?,
        };
        Ok(real.into_os_string().into_vec())
    }

    pub(super) fn read_link(&self, name: &[u8]) -> Result<Vec<u8>> {
        Ok(fs::read_link(path(name))?.into_os_string().into_vec())
    }

    /// Renames; onto another file with `replace` only.
    pub(super) fn rename(&self, from: &[u8], to: &[u8], replace: bool) -> Result<()> {
        let flags = if replace {
            RenameFlags::empty()
        } else {
            RenameFlags::NOREPLACE
        };
        Ok(renameat_with(CWD, path(from), CWD, path(to), flags)?)
    }

    pub(super) fn symlink(&self, target: &[u8], link: &[u8]) -> Result<()> {
        Ok(std::os::unix::fs::symlink(OsStr::from_bytes(target), path(link))?)
    }

    pub(super) fn link(&self, from: &[u8], to: &[u8]) -> Result<()> {
        Ok(fs::hard_link(path(from), path(to))?)
    }

    pub(super) fn sync(&mut self, name: &[u8]) -> Result<()> {
        Ok(self.file(name)?.sync_all()?)
    }

    /// The eleven numbers of OpenSSH's `statvfs` (its PROTOCOL, 4.3).
    pub(super) fn file_system(&self, name: &[u8]) -> Result<[u64; 11]> {
        let stat = rustix::fs::statvfs(path(name))?;
        Ok([
            stat.f_bsize,
            stat.f_frsize,
            stat.f_blocks,
            stat.f_bfree,
            stat.f_bavail,
            stat.f_files,
            stat.f_ffree,
            stat.f_favail,
            stat.f_fsid,
            // Read-only and without set-user-id, as POSIX numbers them.
            stat.f_flag.bits() & 3,
            stat.f_namemax,
        ])
    }
}

fn timestamps((accessed, modified): (u32, u32)) -> Timestamps {
    let time = |seconds: u32| Timespec {
        tv_sec: seconds.into(),
        tv_nsec: 0,
    };
    Timestamps {
        last_access: time(accessed),
        last_modification: time(modified),
    }
}

/// A path without `.` and `..`, by its letters alone.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::from("/");
    for part in path.components() {
        match part {
            std::path::Component::Normal(name) => plain.push(name),
            std::path::Component::ParentDir => drop(plain.pop()),
            _ => {}
        }
    }
    plain
}

/// What `ls -l` would show before the name, for people who list with a client that prints it.
fn long_name(metadata: &fs::Metadata) -> String {
    let mode = metadata.mode();
    let kind = match mode & libc::S_IFMT {
        libc::S_IFDIR => 'd',
        libc::S_IFLNK => 'l',
        libc::S_IFCHR => 'c',
        libc::S_IFBLK => 'b',
        libc::S_IFIFO => 'p',
        libc::S_IFSOCK => 's',
        _ => '-',
    };
    let bits: String = (0..9)
        .rev()
        .map(|bit| {
            if mode >> bit & 1 == 1 {
                ['x', 'w', 'r'][bit % 3]
            } else {
                '-'
            }
        })
        .collect();
    let (year, month, day) = date(metadata.mtime().div_euclid(86_400));
    format!(
        "{kind}{bits} {:3} {:8} {:8} {:8} {year}-{month:02}-{day:02} ",
        metadata.nlink(),
        metadata.uid(),
        metadata.gid(),
        metadata.size()
    )
}

/// The date of a day since 1970, in the Gregorian calendar: counted in eras of 400 years that begin on the first of March.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right() {
        assert_eq!(date(0), (1970, 1, 1));
        assert_eq!(date(-1), (1969, 12, 31));
        assert_eq!(date(11_016), (2000, 2, 29));
        assert_eq!(date(20_514), (2026, 3, 2));
    }

    #[test]
    fn paths_are_made_plain() {
        assert_eq!(plain(Path::new("/a/./b/../../../c")), Path::new("/c"));
        assert_eq!(Server::new().real_path(b".").unwrap(), b"/");
    }
}

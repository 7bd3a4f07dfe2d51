//! A directory mounted over itself, so that whoever comes by its path meets a mount that honours neither set-user-id programs nor
//! device nodes, whatever the file system that it is on is mounted with.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatVfsMountFlags, StatxFlags, fstatvfs, openat2, statx};
use rustix::mount::{MoveMountFlags, UnmountFlags, move_mount, unmount};

use crate::mount::{Flags, clone_open, set_attributes};

/// Makes sure that the directory, which is absolute and has no symbolic link on the way, is reached by a mount that is `nosuid` and
/// `nodev` (`mount(8)`), and all that is mounted below it likewise. One that is already, by the operator's choice or an earlier cover,
/// is left as it is. The mount stays when this process ends.
///
/// # Errors
/// `ELOOP` for a link on the way, and those of `open_tree(2)`, `mount_setattr(2)` and `move_mount(2)`.
pub fn cover(directory: &Path) -> io::Result<()> {
    let open = openat2(
        CWD,
        directory,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    )?;
    let wanted = StatVfsMountFlags::NOSUID | StatVfsMountFlags::NODEV;
    if fstatvfs(&open)?.f_flag.contains(wanted) {
        return Ok(());
    }
    let tree = clone_open(open.as_fd())?;
    set_attributes(
        tree.as_fd(),
        true,
        Flags::NO_SUID.and(Flags::NO_DEVICES),
        Flags::none(),
        None,
    )?;
    // On the directory that was opened, and not on what may be at its path by now.
    let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(&tree, "", &open, "", empty)?)
}

/// Takes the cover off again. A directory without one, or that is not there, is left as it is, and so is what somebody else has mounted
/// there. What is in use goes on being used.
///
/// # Errors
/// Those of `umount(2)`, and of reading `/proc/self/mountinfo`.
pub fn uncover(directory: &Path) -> io::Result<()> {
    let found = match statx(CWD, directory, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::MNT_ID) {
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(()),
        found => found?,
    };
    let table = fs::read("/proc/self/mountinfo")?;
    if is_cover(&table, found.stx_mnt_id, directory) {
        unmount(directory, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
    }
    Ok(())
}

/// One line of `/proc/PID/mountinfo` (`proc_pid_mountinfo(5)`), as far as it matters here.
struct Entry<'a> {
    id: u64,
    parent: u64,
    device: &'a [u8],
    /// Where in its file system the mount begins.
    root: PathBuf,
    place: PathBuf,
    options: &'a [u8],
}

impl<'a> Entry<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ');
        let number = |field: &[u8]| std::str::from_utf8(field).ok()?.parse().ok();
        Some(Self {
            id: number(fields.next()?)?,
            parent: number(fields.next()?)?,
            device: fields.next()?,
            root: unescape(fields.next()?),
            place: unescape(fields.next()?),
            options: fields.next()?,
        })
    }

    fn has(&self, option: &str) -> bool {
        self.options
            .split(|byte| *byte == b',')
            .any(|one| one == option.as_bytes())
    }
}

/// Blanks and the like are `\040` and the like there, in octal.
fn unescape(text: &[u8]) -> PathBuf {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..3).filter(|_| *first == b'\\');
        let code = code.and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 8).ok());
        plain.push(code.unwrap_or(*first));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    PathBuf::from(std::ffi::OsString::from_vec(plain))
}

/// Whether the mount `id` is what [`cover`] makes of `directory`: it shows, without set-user-id programs and devices, the very directory
/// that it hides.
fn is_cover(table: &[u8], id: u64, directory: &Path) -> bool {
    let entries: Vec<Entry<'_>> = table.split(|byte| *byte == b'\n').filter_map(Entry::parse).collect();
    let numbered = |id| entries.iter().find(|entry| entry.id == id);
    let Some(own) = numbered(id) else { return false };
    let Some(hidden) = numbered(own.parent) else {
        return false;
    };
    let Ok(below) = directory.strip_prefix(&hidden.place) else {
        return false;
    };
    // An empty rest would end the path with a slash.
    let same = if below.as_os_str().as_bytes().is_empty() {
        hidden.root.clone()
    } else {
        hidden.root.join(below)
    };
    own.place == directory
        && own.device == hidden.device
        && own.root == same
        && ["nosuid", "nodev"].iter().all(|option| own.has(option))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_hides_itself_is_a_cover() {
        let table = b"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
            30 22 8:17 / /srv/disk rw,nosuid,nodev shared:2 - ext4 /dev/sdb1 rw\n\
            31 30 8:17 / /srv/disk rw,nosuid,nodev shared:2 - ext4 /dev/sdb1 rw\n\
            32 22 8:1 /var/my\\040pool /var/my\\040pool rw,nosuid,nodev - ext4 /dev/sda1 rw\n\
            33 22 8:1 /var/other /var/pool rw,nosuid,nodev - ext4 /dev/sda1 rw\n\
            34 22 8:1 /var/lax /var/lax rw,nodev - ext4 /dev/sda1 rw\n\
            35 22 0:40 /@/srv/tree /srv/tree rw,nosuid,nodev - btrfs /dev/sdc rw\n\
            36 22 0:40 /@ /srv rw - btrfs /dev/sdc rw\n\
            37 36 0:40 /@/pool /srv/pool rw,nosuid,nodev - btrfs /dev/sdc rw\n\
            junk\n";
        let covers = |id, path: &str| is_cover(table, id, Path::new(path));
        assert!(covers(31, "/srv/disk"), "over a disk that is mounted there");
        assert!(!covers(30, "/srv/disk"), "the disk itself");
        assert!(covers(32, "/var/my pool"));
        assert!(!covers(32, "/var"));
        assert!(!covers(33, "/var/pool"), "another directory");
        assert!(!covers(34, "/var/lax"), "set-user-id programs are honoured");
        assert!(!covers(35, "/srv/tree"), "another file system");
        assert!(covers(37, "/srv/pool"), "in a subvolume");
        assert!(!covers(99, "/srv/pool"));
    }

    /// As root, because mounts are made here.
    #[test]
    fn a_directory_is_covered_once_and_uncovered() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let pool = dir.path().canonicalize().unwrap().join("a pool");
        fs::create_dir_all(pool.join("below")).unwrap();
        let mounts = || {
            let table = fs::read("/proc/self/mountinfo").unwrap();
            let entries = table.split(|byte| *byte == b'\n').filter_map(Entry::parse);
            entries.filter(|entry| entry.place.starts_with(&pool)).count()
        };
        uncover(&pool).unwrap();
        for _ in 0..2 {
            cover(&pool).unwrap();
            assert_eq!(mounts(), 1);
        }
        let flags = rustix::fs::statvfs(pool.join("below")).unwrap().f_flag;
        assert!(flags.contains(StatVfsMountFlags::NOSUID | StatVfsMountFlags::NODEV));
        assert!(fs::remove_dir_all(&pool).is_err(), "the directory of a mount can't go");
        for _ in 0..2 {
            uncover(&pool).unwrap();
            assert_eq!(mounts(), 0);
        }
        fs::remove_dir(&pool).unwrap();
        uncover(&pool).unwrap();
        std::os::unix::fs::symlink("/", &pool).unwrap();
        assert_eq!(cover(&pool).unwrap_err().raw_os_error(), Some(libc::ELOOP));
        uncover(&pool).unwrap();
    }
}

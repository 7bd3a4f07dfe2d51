//! Where the cgroup hierarchies are mounted, and getting rid of a cgroup with all that is in it.

use std::ffi::{CStr, CString};
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

/// The mounted cgroup hierarchies of this machine. It may have the unified one (v2), legacy ones (v1) with one or more
/// controllers each, or both (`cgroups(7)`, "hybrid").
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hierarchies {
    unified: Option<PathBuf>,
    /// Controllers, or `name=…` for a hierarchy without, and where it is mounted.
    legacy: Vec<(Vec<String>, PathBuf)>,
}

impl Hierarchies {
    /// What is mounted in this process's mount namespace; looked up once, since nothing remounts them.
    #[must_use]
    pub fn find() -> &'static Self {
        static FOUND: OnceLock<Hierarchies> = OnceLock::new();
        FOUND.get_or_init(|| Self::parse(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default()))
    }

    /// Reads the format of `/proc/PID/mountinfo` (`proc_pid_mountinfo(5)`). Only mounts of a hierarchy's root count, the
    /// first of each.
    #[must_use]
    pub fn parse(mountinfo: &str) -> Self {
        const KNOWN: [&str; 12] = [
            "cpu",
            "cpuacct",
            "cpuset",
            "memory",
            "devices",
            "freezer",
            "blkio",
            "pids",
            "net_cls",
            "net_prio",
            "perf_event",
            "hugetlb",
        ];
        let mut found = Self::default();
        for line in mountinfo.lines() {
            let Some((before, after)) = line.split_once(" - ") else {
                continue;
            };
            let mut before = before.split(' ').skip(3);
            let (Some(root), Some(at)) = (before.next(), before.next()) else {
                continue;
            };
            let mut after = after.split(' ');
            let (Some(kind), Some(options)) = (after.next(), after.nth(1)) else {
                continue;
            };
            if root != "/" {
                continue;
            }
            match kind {
                "cgroup2" if found.unified.is_none() => found.unified = Some(at.into()),
                "cgroup" => {
                    let is_one = |o: &&str| KNOWN.contains(o) || o.starts_with("name=");
                    let names: Vec<String> = options.split(',').filter(is_one).map(str::to_owned).collect();
                    if !found.legacy.iter().any(|(have, _)| *have == names) {
                        found.legacy.push((names, at.into()));
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// Where the unified hierarchy is.
    #[must_use]
    pub fn unified(&self) -> Option<&Path> {
        self.unified.as_deref()
    }

    /// Where the legacy hierarchy with this controller (or `name=…`) is.
    #[must_use]
    pub fn legacy(&self, controller: &str) -> Option<&Path> {
        self.legacy
            .iter()
            .find(|(names, _)| names.iter().any(|n| n == controller))
            .map(|(_, at)| at.as_path())
    }

    /// Every hierarchy's root.
    pub fn roots(&self) -> impl Iterator<Item = &Path> {
        self.unified
            .iter()
            .chain(self.legacy.iter().map(|(_, at)| at))
            .map(PathBuf::as_path)
    }

    /// Those of these controllers that cgroups made here can't have: the kernel lacks them or was told not to use them, or
    /// processes in the root of the unified hierarchy are in the way ([`is_occupied`]).
    #[must_use]
    pub fn lacking<'c>(&self, controllers: &[&'c str]) -> Vec<&'c str> {
        let listed = |file: &str| {
            let path = self.unified().map(|root| root.join(file));
            path.and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default()
        };
        let (here, on) = (listed("cgroup.controllers"), listed("cgroup.subtree_control"));
        let has = |list: &str, name: &str| list.split_whitespace().any(|one| one == name);
        let free = self
            .unified()
            .is_some_and(|root| is_occupied(root).is_ok_and(|occupied| !occupied));
        let lacks = |name: &&str| self.legacy(name).is_none() && !has(&on, name) && !(free && has(&here, name));
        controllers.iter().copied().filter(lacks).collect()
    }

    /// Kills every process in the cgroup `parent/name` of the unified hierarchy (`cgroup.kill`), waits until they are gone, and
    /// removes the cgroups of that name in every hierarchy with those below. What is not there is no error. Blocks as long as
    /// the processes take to die.
    ///
    /// # Errors
    /// What the kernel says, such as `EBUSY` for a legacy cgroup that holds a process from elsewhere.
    pub fn kill_and_remove(&self, parent: &str, name: &str) -> io::Result<()> {
        if let Some(root) = self.unified() {
            let dir = root.join(parent).join(name);
            match fs::write(dir.join("cgroup.kill"), "1") {
                Ok(()) => match wait_empty(&dir) {
                    Err(error) if is_gone(&error) => {}
                    other => other?,
                },
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        for root in self.roots() {
            remove_tree(&root.join(parent).join(name))?;
        }
        Ok(())
    }
}

/// Whether processes in a cgroup of the unified hierarchy keep controllers from those below it (the kernel's
/// `admin-guide/cgroup-v2`, "No Internal Process Constraint"). The machine's own root, which has no `cgroup.type`, is exempt; the
/// root that a container sees is not, and every init but systemd stays in it.
///
/// # Errors
/// What reading `cgroup.procs` says.
pub fn is_occupied(dir: &Path) -> io::Result<bool> {
    if !dir.join("cgroup.type").exists() {
        return Ok(false);
    }
    Ok(!fs::read_to_string(dir.join("cgroup.procs"))?.is_empty())
}

/// Whether an error says that the cgroup was removed, by somebody else perhaps: a file of one that was is `ENODEV` to who
/// has it open.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

/// Waits until no process is in the cgroup or below it: `cgroup.events` signals each change (the kernel's
/// `admin-guide/cgroup-v2`, "populated notification").
fn wait_empty(dir: &Path) -> io::Result<()> {
    let mut events = match fs::File::open(dir.join("cgroup.events")) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    loop {
        let mut text = String::new();
        io::Seek::rewind(&mut events)?;
        events.read_to_string(&mut text)?;
        if !text.lines().any(|line| line == "populated 1") {
            return Ok(());
        }
        // A daemon's threads are interrupted by the ends of its children.
        rustix::io::retry_on_intr(|| poll(&mut [PollFd::from_borrowed_fd(events.as_fd(), PollFlags::PRI)], None))?;
    }
}

/// Removes a cgroup and those below it, deepest first. One that is not there is no error. It holds two descriptors however deep
/// they are, and needs no path: whoever made them may have made them deeper than a path can be long.
///
/// # Errors
/// `EBUSY` when a process is in one of them.
pub fn remove_tree(dir: &Path) -> io::Result<()> {
    match fs::remove_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if Errno::from_io_error(&error).is_some_and(is_full) => {}
        other => return other,
    }
    remove_below(open(rustix::fs::CWD, dir)?)?;
    match fs::remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Both a process and a cgroup below are `EBUSY` (other file systems say `ENOTEMPTY`); which it is shows when those below are gone.
fn is_full(error: Errno) -> bool {
    matches!(error, Errno::BUSY | Errno::NOTEMPTY)
}

fn open(at: impl AsFd, path: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, path, flags, Mode::empty())
}

/// Removes what is below: down to a cgroup without children, and from there up again.
fn remove_below(top: OwnedFd) -> io::Result<()> {
    let mut current = top;
    // From the top to where it is.
    let mut names: Vec<CString> = Vec::new();
    loop {
        match child_of(&current)? {
            Some(child) => match remove_one(&current, &child) {
                Ok(()) => {}
                Err(error) if is_full(error) => match open(&current, &child) {
                    Ok(below) => {
                        current = below;
                        names.push(child);
                    }
                    // Somebody else removes them, too.
                    Err(Errno::NOENT) => {}
                    Err(error) => return Err(error.into()),
                },
                Err(error) => return Err(error.into()),
            },
            None => {
                let Some(name) = names.pop() else { return Ok(()) };
                current = open(&current, c"..")?;
                // It has no children any more: what keeps it is a process.
                remove_one(&current, &name)?;
            }
        }
    }
}

fn remove_one(at: &OwnedFd, name: &CStr) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(at, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The name of some child.
fn child_of(cgroup: &OwnedFd) -> rustix::io::Result<Option<CString>> {
    for entry in Dir::read_from(cgroup)? {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type() == FileType::Directory && name != c"." && name != c".." {
            return Ok(Some(name.to_owned()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_goes_that_is_deeper_than_a_path_can_be_long() {
        let top = std::env::temp_dir().join(format!("hutch-cgroup-{}", std::process::id()));
        fs::create_dir(&top).unwrap();
        let name = "d".repeat(200);
        let mut current = open(rustix::fs::CWD, &top).unwrap();
        for _ in 0..60 {
            for name in [name.as_str(), "beside"] {
                rustix::fs::mkdirat(&current, name, Mode::RWXU).unwrap();
            }
            current = open(&current, name.as_str()).unwrap();
        }
        // What is no cgroup stays, and is told.
        rustix::fs::openat(&current, "file", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
        let refused = remove_tree(&top).unwrap_err();
        assert!(Errno::from_io_error(&refused).is_some_and(is_full), "{refused}");
        rustix::fs::unlinkat(&current, "file", AtFlags::empty()).unwrap();
        remove_tree(&top).unwrap();
        assert!(!top.exists());
        remove_tree(&top).unwrap();
    }

    #[test]
    fn controllers_that_nothing_can_have_are_told() {
        let root = std::env::temp_dir().join(format!("hutch-controllers-{}", std::process::id()));
        fs::create_dir(&root).unwrap();
        let write = |file: &str, text: &str| fs::write(root.join(file), text).unwrap();
        write("cgroup.controllers", "cpuset cpu pids\n");
        write("cgroup.subtree_control", "cpu\n");
        write("cgroup.procs", "1\n");
        let hierarchies = Hierarchies {
            unified: Some(root.clone()),
            legacy: vec![(vec!["memory".to_owned()], "/sys/fs/cgroup/memory".into())],
        };
        let lacking = || hierarchies.lacking(&["cpu", "memory", "pids", "io"]);
        assert_eq!(lacking(), ["io"], "the machine's own root may hold processes");
        write("cgroup.type", "domain\n");
        assert_eq!(lacking(), ["pids", "io"], "what is on stays on");
        write("cgroup.procs", "");
        assert_eq!(lacking(), ["io"]);
        assert_eq!(Hierarchies::default().lacking(&["cpu"]), ["cpu"]);
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn mountinfo_is_read() {
        let text = "30 22 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
                    31 22 0:27 / /sys/fs/cgroup/systemd rw - cgroup none rw,xattr,name=systemd\n\
                    32 22 0:28 /sub /mnt rw - cgroup cgroup rw,memory\n\
                    33 22 0:29 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw,nsdelegate\n\
                    junk\n";
        let found = Hierarchies::parse(text);
        assert_eq!(found.unified(), Some(Path::new("/sys/fs/cgroup/unified")));
        assert_eq!(found.legacy("cpuacct"), Some(Path::new("/sys/fs/cgroup/cpu,cpuacct")));
        assert_eq!(found.legacy("name=systemd"), Some(Path::new("/sys/fs/cgroup/systemd")));
        assert_eq!(found.legacy("memory"), None);
        assert_eq!(found.roots().count(), 3);
    }
}

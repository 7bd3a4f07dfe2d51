//! Who makes a call: its memory, its powers, and what it sees.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use hutch_sys::process;
use hutch_sys::seccomp::notify::{self, Answer, Notification};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstat, openat, openat2};
use rustix::process::{
    DumpableBehavior, Signal, chroot, fchdir, set_dumpable_behavior, set_parent_process_death_signal,
};
use rustix::thread::{CapabilitySet, LinkNameSpaceType, capabilities, move_into_link_name_space, set_capabilities};

use crate::boot::security;
use crate::fault::{At, Result};

/// What a call is told that is not carried out here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal(pub(super) Answer);

/// Something is odd about the call or its caller: the kernel is to say what, as it would without the filter.
pub(super) const AS_EVER: Refusal = Refusal(Answer::Continue);

/// The call fails with this error.
pub(super) const fn errno(errno: i32) -> Refusal {
    Refusal(Answer::Errno(errno))
}

/// What comes of a step in a helper.
pub(super) type Step<T> = std::result::Result<T, Refusal>;

/// The longest path with the zero byte after it (`PATH_MAX`).
const LONGEST_PATH: usize = 4096;

/// Bytes of a `/proc/PID/status`, of which 65,536 groups take most.
const LONGEST_STATUS: u64 = 1 << 20;

/// Prepares a process that has just been forked from the keeper for work in which it meets what is the container's, with these descriptors of
/// the keeper's and no others.
pub(super) fn prepare(needed: &[BorrowedFd<'_>]) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).at("tying to", "the keeper")?;
    // The container's root must not look into this process, which has memory of the host's.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).at("protecting", "the process")?;
    // Whoever is at the other ends of the keeper's sockets must see them close with the keeper.
    process::close_others(needed).at("closing", "descriptors")?;
    std::fs::write("/proc/self/oom_score_adj", "0").at("writing", "/proc/self/oom_score_adj")
}

/// The thread that makes a call and waits for its answer.
pub(super) struct Target<'a> {
    listener: BorrowedFd<'a>,
    /// The call's number there.
    id: u64,
    directory: OwnedFd,
}

/// What a thread may do, with ids as whoever read this numbers them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Powers {
    /// As which it makes files.
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    pub(super) umask: u32,
    /// In its own user namespace.
    pub(super) effective: CapabilitySet,
}

impl<'a> Target<'a> {
    /// The caller.
    pub(super) fn open(listener: BorrowedFd<'a>, call: &Notification) -> Step<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(CWD, format!("/proc/{}", call.pid), flags, Mode::empty()).map_err(|_| AS_EVER)?;
        let target = Self {
            listener,
            id: call.id,
            directory,
        };
        target.require_waiting()?;
        Ok(target)
    }

    /// To be asked after anything was opened or read by the caller's number: as long as the call waits, it is the caller's. It can become
    /// another program's under an open directory: where another thread executes one, that gets the number of the first thread, which
    /// is gone from the listener before (`execve(2)`, "Effect on process attributes").
    fn require_waiting(&self) -> Step<()> {
        match notify::is_waiting(self.listener, self.id) {
            true => Ok(()),
            false => Err(AS_EVER),
        }
    }

    /// Opens something of the caller's in `/proc`. Its links may lead to what has no path, and nothing waits there.
    pub(super) fn file(&self, name: &str, flags: OFlags) -> Step<OwnedFd> {
        let file = openat(&self.directory, name, flags | OFlags::CLOEXEC, Mode::empty()).map_err(|_| AS_EVER)?;
        self.require_waiting()?;
        Ok(file)
    }

    /// A string of the caller's memory, without the zero byte that ends it; copied once.
    pub(super) fn string(&self, address: u64) -> Step<Vec<u8>> {
        let memory = File::from(self.file("mem", OFlags::RDONLY)?);
        let mut bytes = vec![0; LONGEST_PATH];
        // What follows the string may not be mapped: then less is read.
        let length = memory.read_at(&mut bytes, address).map_err(|_| AS_EVER)?;
        let end = bytes[..length].iter().position(|byte| *byte == 0).ok_or(AS_EVER)?;
        bytes.truncate(end);
        Ok(bytes)
    }

    /// One byte of the caller's memory.
    pub(super) fn byte(&self, address: u64) -> Step<u8> {
        let memory = File::from(self.file("mem", OFlags::RDONLY)?);
        let mut byte = [0];
        memory.read_exact_at(&mut byte, address).map_err(|_| AS_EVER)?;
        Ok(byte[0])
    }

    /// Writes to the caller's memory. Private pages that are read-only take it as well (`proc_pid_mem(5)`): they are the caller's.
    pub(super) fn write(&self, address: u64, bytes: &[u8]) -> Step<()> {
        let memory = File::from(self.file("mem", OFlags::RDWR)?);
        memory.write_all_at(bytes, address).map_err(|_| errno(libc::EFAULT))
    }

    /// What the caller may do; ids are those of this process's user namespace at the time.
    pub(super) fn powers(&self) -> Step<Powers> {
        let status = File::from(self.file("status", OFlags::RDONLY)?);
        let mut text = String::with_capacity(4096);
        status
            .take(LONGEST_STATUS)
            .read_to_string(&mut text)
            .map_err(|_| AS_EVER)?;
        // What it says is found out when it is read.
        self.require_waiting()?;
        Powers::parse(&text).ok_or(AS_EVER)
    }

    /// Refuses a caller that is in another user namespace than the container's own, in which its capabilities count, or has not
    /// this one.
    pub(super) fn require(&self, userns: BorrowedFd<'_>, capability: CapabilitySet) -> Step<()> {
        let place = |fd: BorrowedFd<'_>| fstat(fd).map(|found| (found.st_dev, found.st_ino)).map_err(|_| AS_EVER);
        let own = self.file("ns/user", OFlags::RDONLY)?;
        if place(own.as_fd())? != place(userns)? || !self.powers()?.effective.contains(capability) {
            return Err(AS_EVER);
        }
        Ok(())
    }

    /// The directory from which a call's relative paths begin.
    pub(super) fn base(&self, descriptor: i32) -> Step<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        if descriptor == libc::AT_FDCWD {
            return self.file("cwd", flags);
        }
        if descriptor < 0 {
            return Err(AS_EVER);
        }
        self.file(&format!("fd/{descriptor}"), flags)
    }

    /// Takes this process where the caller is, as the root of the container with all of its capabilities: into the container's user namespace and
    /// the caller's mount namespace, root and `base`, its working directory.
    pub(super) fn enter(&self, userns: BorrowedFd<'_>, base: &OwnedFd) -> Step<()> {
        let odd = |_| AS_EVER;
        let mounts = self.file("ns/mnt", OFlags::RDONLY)?;
        let root = self.file("root", OFlags::PATH | OFlags::DIRECTORY)?;
        move_into_link_name_space(userns, Some(LinkNameSpaceType::User)).map_err(odd)?;
        move_into_link_name_space(mounts.as_fd(), Some(LinkNameSpaceType::Mount)).map_err(odd)?;
        security::become_user(0, 0, &[]).map_err(|_| AS_EVER)?;
        fchdir(&root).and_then(|()| chroot(".")).map_err(odd)?;
        fchdir(base).map_err(odd)
    }

    /// Gives this process, which is the container's root, no more powers over files than the caller has. Returns what gives it all back.
    pub(super) fn as_caller(&self) -> Step<FullPowers> {
        let odd = |_| AS_EVER;
        let powers = self.powers()?;
        let full = capabilities(None).map_err(odd)?;
        let groups: Vec<_> = powers
            .groups
            .iter()
            .map(|gid| nix::unistd::Gid::from_raw(*gid))
            .collect();
        nix::unistd::setgroups(&groups).map_err(|_| AS_EVER)?;
        nix::unistd::setfsgid(nix::unistd::Gid::from_raw(powers.gid));
        nix::unistd::setfsuid(nix::unistd::Uid::from_raw(powers.uid));
        let mut sets = full;
        sets.effective = powers.effective & full.permitted;
        set_capabilities(None, sets).map_err(odd)?;
        rustix::process::umask(Mode::from_raw_mode(powers.umask));
        Ok(FullPowers(full.permitted))
    }
}

/// The capabilities that a process has besides those in effect.
pub(super) struct FullPowers(CapabilitySet);

impl FullPowers {
    /// Puts them into effect.
    pub(super) fn take(self) -> Step<()> {
        let mut sets = capabilities(None).map_err(|_| AS_EVER)?;
        sets.effective = self.0;
        set_capabilities(None, sets).map_err(|_| AS_EVER)
    }
}

/// Opens what a path leads to from the working directory, in this process's root. It goes through no link of `/proc`, which are about this
/// process and not about the caller; the kernel goes on with those.
pub(super) fn resolve(path: &[u8], flags: OFlags) -> Step<OwnedFd> {
    let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
    openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS).map_err(|_| AS_EVER)
}

impl Powers {
    /// Reads a `/proc/PID/status` (`proc_pid_status(5)`).
    fn parse(text: &str) -> Option<Self> {
        let line = |name: &str| {
            let rest = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            rest.map(str::split_whitespace)
        };
        // Real, effective, saved, of the file system.
        let id = |name| line(name)?.nth(3)?.parse().ok();
        Some(Self {
            uid: id("Uid")?,
            gid: id("Gid")?,
            groups: line("Groups")?.map(|gid| gid.parse().ok()).collect::<Option<_>>()?,
            umask: u32::from_str_radix(line("Umask")?.next()?, 8).ok()?,
            effective: CapabilitySet::from_bits_retain(u64::from_str_radix(line("CapEff")?.next()?, 16).ok()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_are_read() {
        let text = "Name:\tUid:\nUmask:\t0027\nTgid:\t7\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t9 10 \nCapEff:\t0000000008000000\n";
        let expected = Powers {
            uid: 4,
            gid: 8,
            groups: vec![9, 10],
            umask: 0o27,
            effective: CapabilitySet::MKNOD,
        };
        assert_eq!(Powers::parse(text), Some(expected));
        assert_eq!(Powers::parse("Uid:\t1\t2\t3\n"), None);
    }
}

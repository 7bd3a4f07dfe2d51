//! Archives made here, and trees to unpack them into.
#![allow(dead_code, reason = "every test binary uses a part of it")]

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use hutch_archive::{Content, Error, Inspection, Limits, Progress, Report, Unpacker};

pub(crate) fn unpacker() -> Unpacker {
    with_limits(Limits::default())
}

pub(crate) fn with_limits(limits: Limits) -> Unpacker {
    Unpacker::with_program(PathBuf::from(env!("CARGO_BIN_EXE_hutch-unpack-image")), limits)
}

pub(crate) fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    file
}

pub(crate) fn directory(path: &Path) -> OwnedFd {
    File::open(path).unwrap().into()
}

fn go_on(_: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

pub(crate) fn unpack(archive: &File, content: Content, target: &Path) -> Result<Report, Error> {
    unpacker().unpack(archive, content, &directory(target), false, &mut go_on)
}

pub(crate) fn inspect(archive: &File, content: Content) -> Result<Inspection, Error> {
    unpacker().inspect(archive, content, &mut go_on)
}

/// Builds tar archives entry by entry, with names that the `tar` crate would refuse to write.
pub(crate) struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    pub(crate) fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    pub(crate) fn raw(mut self, name: &str, kind: tar::EntryType, link: &str, data: &[u8]) -> Self {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(data.len() as u64);
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }

    pub(crate) fn file(self, name: &str, data: &[u8]) -> Self {
        self.raw(name, tar::EntryType::Regular, "", data)
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        self.raw(name, tar::EntryType::Directory, "", b"")
    }

    pub(crate) fn symlink(self, name: &str, to: &str) -> Self {
        self.raw(name, tar::EntryType::Symlink, to, b"")
    }

    pub(crate) fn hardlink(self, name: &str, to: &str) -> Self {
        self.raw(name, tar::EntryType::Link, to, b"")
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }

    pub(crate) fn done(self) -> File {
        file(&self.bytes())
    }
}

pub(crate) const METADATA: &[u8] = b"architecture: x86_64\ncreation_date: 1700000000\nproperties: {os: Test}\n\
    templates: {/etc/hostname: {when: [create], template: hostname.tpl}}\n";

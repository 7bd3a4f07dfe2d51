//! The broker's answers.

use hutch_driver::zone::{Change, RecordSet};
use serde::{Deserialize, Serialize};

/// What a function answers: one variant per shape. [`crate::Request::response_shape`] says which belongs to which function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Response {
    /// Nothing but that it succeeded.
    Unit,
    /// Yes or no.
    Bool(bool),
    /// Bytes, or that there are none.
    Bytes(Option<Vec<u8>>),
    /// A text, or that there is none. `system.architecture` always has one.
    Text(Option<String>),
    /// Texts.
    Strings(Vec<String>),
    /// Of `fs.stat`; `None` where nothing is there.
    FileInfo(Option<FileInfo>),
    /// Of `fs.list-dir`.
    DirEntries(Vec<DirEntry>),
    /// Of `fs.space`.
    Space(Space),
    /// Bytes; `None` where that is not known.
    Size(Option<u64>),
    /// Of `link.get`; `None` where there is no such interface.
    LinkInfo(Option<LinkInfo>),
    /// Of `service.status`; `None` where there is no such service.
    ServiceStatus(Option<ServiceStatus>),
    /// Of `command.run`.
    CommandOutput(CommandOutput),
    /// Of `http.get`.
    HttpResponse(HttpResponse),
    /// Of `records.version`.
    Version(u64),
    /// Of `records.page`.
    RecordSets(Vec<RecordSet>),
    /// Of `records.changes`; `None` where what changed is not known.
    Changes(Option<Vec<Change>>),
}

/// What is at a place in a tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileInfo {
    /// `file`, `directory`, `symlink`, `other`.
    pub kind: String,
    /// In bytes.
    pub size: u64,
    /// Permission bits, with set-id and sticky bits.
    pub mode: u32,
    /// Seconds since 1970.
    pub modified: i64,
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirEntry {
    /// Its name.
    pub name: String,
    /// As in [`FileInfo::kind`].
    pub kind: String,
}

/// How full a root's file system is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// Bytes in all.
    pub total_bytes: u64,
    /// Bytes that are in use or kept back for the superuser.
    pub used_bytes: u64,
    /// Inodes in all; 0 where the file system makes them as they are needed.
    pub total_inodes: u64,
    /// Inodes in use.
    pub used_inodes: u64,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkInfo {
    /// Its name.
    pub name: String,
    /// The kernel's word for what it is (`bridge`, `veth`, …); empty for hardware.
    pub kind: String,
    /// The MAC address in lower case; empty where it has none.
    pub hwaddr: String,
    /// In bytes.
    pub mtu: u32,
    /// Whether it is set up (whether a carrier is there is another matter).
    pub up: bool,
    /// The interface that it is a port of.
    pub master: Option<String>,
    /// With prefix lengths.
    pub addresses: Vec<String>,
}

/// How a service fares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Whether its program runs now.
    pub running: bool,
    /// The program's process.
    pub pid: Option<u32>,
    /// How often it was started again because it ended.
    pub restarts: u32,
    /// How it last ended: its exit status, or minus the signal.
    pub last_exit: Option<i32>,
}

/// What a program left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandOutput {
    /// Exit status; above 128 the signal that ended it.
    pub status: i32,
    /// The last 256 KiB.
    pub stdout: Vec<u8>,
    /// The last 256 KiB.
    pub stderr: Vec<u8>,
}

/// What a server answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpResponse {
    /// The status of the last answer, after redirections.
    pub status: u16,
    /// Headers with names in lower case; those that are not text are left out.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

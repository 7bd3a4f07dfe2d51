//! Keeping the keeper's program out of a privileged container's reach.
//!
//! The processes that a keeper forks into a container are, until they execute a program there, the keeper's own program, which
//! `/proc/PID/exe` leads to. To the root of a privileged container, which is the host's, that file is writable once nobody executes
//! it (CVE-2019-5736 was this). So such a keeper runs from a copy of its program that nobody can write to: a sealed memfd.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Seek};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use hutch_container::ContainerSpec;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

/// Whether this process has to become a copy: for a privileged container, unless it is one.
pub(crate) fn is_needed(spec: &[u8]) -> bool {
    // What can't be parsed is refused later, with a reason.
    let privileged = serde_json::from_slice::<ContainerSpec>(spec).is_ok_and(|spec| spec.idmap.is_none());
    let copy = std::fs::read_link("/proc/self/exe")
        .is_ok_and(|path| path.as_os_str().as_encoded_bytes().starts_with(b"/memfd:"));
    privileged && !copy
}

/// Executes a sealed copy of this program with the same arguments and descriptors. Returns only when that fails.
pub(crate) fn execute_copy(spec: &mut File) -> io::Result<()> {
    spec.rewind()?;
    let memfd = memfd_create("hutch-keeper", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut copy = File::from(memfd);
    io::copy(&mut File::open("/proc/self/exe")?, &mut copy)?;
    let copy = OwnedFd::from(copy);
    fcntl_add_seals(
        &copy,
        SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
    )?;
    let invalid = |_| io::Error::from_raw_os_error(libc::EINVAL);
    let path = CString::new(format!("/proc/self/fd/{}", copy.as_raw_fd())).map_err(invalid)?;
    let arguments: Vec<CString> = std::env::args_os()
        .map(|word| CString::new(word.into_vec()))
        .collect::<Result<_, _>>()
        .map_err(invalid)?;
    Err(hutch_sys::process::execute(&path, &arguments, &[]))
}

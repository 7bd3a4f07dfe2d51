//! System calls that no library offers, and the kernel's files that several crates read.
#![allow(
    unsafe_code,
    reason = "this is one of the crates that may: it makes raw system calls"
)]

pub mod bpf;
pub mod cgroup;
pub mod command;
pub mod cover;
pub mod memory;
pub mod mount;
pub mod process;
pub mod quota;
pub mod seccomp;
pub mod spawn;
pub mod sysinfo;
pub mod timer;

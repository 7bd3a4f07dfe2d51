//! The process that holds one container, or one helper service, and lives on without the daemon that started it.
//!
//! Single-threaded, without async and without plugins: it is the one process that may safely fork, and there is one per container,
//! so that what it costs counts. It is started by `hutch-container`, which also has the language that it speaks.
#![allow(
    unsafe_code,
    reason = "this is one of the crates that may: it forks, and works on raw descriptors"
)]

mod boot;
mod cgroup;
mod clients;
mod console;
mod container;
mod exec;
mod fault;
mod files;
mod guest;
mod hold;
mod intercept;
mod namespaces;
mod reactor;
mod sealed;
mod service;
mod sftp;
mod wire;

use std::io::Read;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};

use hutch_container::protocol::{HELD_FD, LISTEN_FD, SPEC_FD};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let role = arguments.next().unwrap_or_default();
    let known = ["container", "service", "files"].contains(&role.as_str());
    let given = [SPEC_FD, LISTEN_FD].iter().all(|fd| is_open(*fd));
    if !known || !given {
        eprintln!("hutch-keeper is started by hutchd, which hands it what it holds on descriptors 3 and 4");
        std::process::exit(2);
    }
    // SAFETY: both are open, and nothing else in this process owns them.
    let (spec, socket) = unsafe { (OwnedFd::from_raw_fd(SPEC_FD), OwnedFd::from_raw_fd(LISTEN_FD)) };
    let mut spec = std::fs::File::from(spec);
    let mut text = Vec::new();
    let read = spec.read_to_end(&mut text);
    if role == "container"
        && sealed::is_needed(&text)
        && let Err(error) = sealed::execute_copy(&mut spec)
    {
        eprintln!("hutch-keeper can't protect itself from a privileged container: {error}");
        std::process::exit(1);
    }
    // It can't fail on an open descriptor.
    let _ = rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC);
    drop(spec);
    if is_open(HELD_FD) {
        // SAFETY: it is open, and as a borrowed descriptor it stays so until this process ends, which is its purpose.
        let held = unsafe { BorrowedFd::borrow_raw(HELD_FD) };
        let _ = rustix::io::fcntl_setfd(held, rustix::io::FdFlags::CLOEXEC);
    }
    hutch_sys::process::block_signals(true);
    // Whatever else the daemon was started with.
    // SAFETY: nothing in this process has opened anything from 6 up yet.
    unsafe { libc::syscall(libc::SYS_close_range, HELD_FD + 1, u32::MAX, 0) };
    // What is made here and by programs inside is not to depend on how the daemon was started.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let code = match (read, role.as_str()) {
        (Ok(_), "container") => hold::container(&text, socket),
        (Ok(_), "service") => hold::service(&text, &arguments.next().unwrap_or_default(), socket),
        (Ok(_), _) => files::serve(&text, socket),
        (Err(_), _) => 1,
    };
    std::process::exit(code);
}

fn is_open(fd: i32) -> bool {
    // SAFETY: F_GETFD only asks, and an unused number is an answer.
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}

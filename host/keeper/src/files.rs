//! The files of a container that does not run.

use std::os::fd::{AsFd, OwnedFd};

use hutch_container::{ContainerSpec, Fault};

pub(crate) fn serve(_text: &[u8], _socket: OwnedFd) -> i32 {
    let _: Option<(ContainerSpec, Fault)> = None;
    let _ = _socket.as_fd();
    1
}

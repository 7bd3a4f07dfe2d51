//! What a keeper does with packets that no daemon of this version sends.

mod common;

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use common::{Lab, run};
use hutch_container::{ContainerState, ExitStatus};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    SocketAddrUnix, SocketFlags, SocketType,
};

fn connect(lab: &Lab, id: &str) -> OwnedFd {
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    let path = lab.dir.path().join(format!("run/{id}.keeper.sock"));
    rustix::net::connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    socket
}

fn send(socket: &OwnedFd, text: &[u8], fds: usize) {
    let null = std::fs::File::open("/dev/null").unwrap();
    let borrowed = vec![null.as_fd(); fds];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if fds > 0 {
        assert!(control.push(SendAncillaryMessage::ScmRights(&borrowed)));
    }
    // A keeper that has hung up is one of the answers.
    let _ = rustix::net::sendmsg(socket, &[IoSlice::new(text)], &mut control, SendFlags::NOSIGNAL);
}

/// The answer, empty at the end of the connection.
fn receive(socket: &OwnedFd) -> String {
    let mut buffer = vec![0; 1 << 17];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    match rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut buffer)],
        &mut control,
        RecvFlags::empty(),
    ) {
        Ok(message) => String::from_utf8_lossy(&buffer[..message.bytes]).into_owned(),
        Err(_) => String::new(),
    }
}

#[tokio::test]
async fn strange_packets_are_answered_or_end_their_connection_alone() {
    let lab = Lab::new();
    let spec = lab.busybox("strange");
    let keeper = lab.start(&spec).await;
    // From a newer daemon: an unknown request, and one with an unknown field.
    let socket = connect(&lab, &spec.id);
    send(&socket, br#"{"id":7,"request":{"do":"levitate","height":3}}"#, 0);
    let answer = receive(&socket);
    assert!(
        answer.contains(r#""id":7"#) && answer.contains("unsupported"),
        "{answer}"
    );
    send(
        &socket,
        br#"{"id":8,"request":{"do":"console-clear","colour":"red"},"later":1}"#,
        0,
    );
    assert!(receive(&socket).contains(r#"{"done":{"id":8"#));
    // Descriptors that nobody asked for are closed.
    for _ in 0..50 {
        send(&socket, br#"{"id":9,"request":{"do":"console-clear"}}"#, 4);
        receive(&socket);
    }
    let open = std::fs::read_dir(format!("/proc/{}/fd", keeper.keeper_pid()))
        .unwrap()
        .count();
    assert!(open < 40, "{open} descriptors");
    // Programs without their descriptors, ids that are paths, signals that are none.
    for (text, expected) in [
        (
            r#"{"do":"exec","spec":{"id":"x","command":["true"],"env":[],"cwd":null,"uid":0,"gid":0,"groups":[]},"pty":null}"#,
            "0 descriptors",
        ),
        (
            r#"{"do":"exec","spec":{"id":"../x","command":["true"],"env":[],"cwd":null,"uid":0,"gid":0,"groups":[]},"pty":[1,1]}"#,
            "invalid",
        ),
        (r#"{"do":"exec-signal","id":"nobody","signal":9999}"#, "not-found"),
        (r#"{"do":"start"}"#, "started already"),
        (r#"{"do":"release"}"#, "the container runs"),
        (r#"{"do":"service-stop"}"#, "unsupported"),
        (r#"{"do":"set-limits","limits":{"processes":0}}"#, "0 processes"),
    ] {
        send(&socket, format!(r#"{{"id":1,"request":{text}}}"#).as_bytes(), 0);
        let answer = receive(&socket);
        assert!(
            answer.contains(expected) && answer.contains("failed"),
            "{text}: {answer}"
        );
    }
    // Not JSON, too many descriptors, too long: the connection may end, the keeper does not.
    for (text, fds) in [
        (&b"not json"[..], 0),
        (b"{}", 60),
        (&vec![b' '; 200_000][..], 0),
        (b"{\"id\":-1}", 0),
    ] {
        send(&connect(&lab, &spec.id), text, fds);
    }
    // More connections than it takes.
    let many: Vec<OwnedFd> = (0..100).map(|_| connect(&lab, &spec.id)).collect();
    drop(many);
    assert_eq!(run(&keeper, &["true"]).await.0, ExitStatus::Code(0));
    assert!(matches!(keeper.state(), ContainerState::Running { .. }));
    lab.stop(&keeper).await;
}

//! Both ends of websockets in one process: a client's, and what an operation gives.

use std::convert::Infallible;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::FromRequestParts;
use futures_util::SinkExt;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio_tungstenite::WebSocketStream;

use super::*;
use crate::websocket::Handshake;

type Client = WebSocketStream<UnixStream>;

/// A client's websocket, whose other end `socket` is.
async fn connected(socket: Socket) -> Client {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let socket = Arc::new(Mutex::new(Some(socket)));
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let socket = socket.lock().unwrap().take().unwrap();
        async move {
            let (mut parts, _) = request.into_parts();
            let handshake = Handshake::from_request_parts(&mut parts, &()).await.unwrap();
            Ok::<_, Infallible>(handshake.answer(|websocket| run(websocket, socket)))
        }
    });
    let server = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(theirs), service);
    tokio::spawn(server.with_upgrades());
    tokio_tungstenite::client_async("ws://hutch/", ours).await.unwrap().0
}

async fn received(client: &mut Client) -> Message {
    tokio::time::timeout(Duration::from_secs(10), client.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap()
}

/// What arrives up to the empty text, after which the websocket is closed.
async fn output_of(client: &mut Client) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        match received(client).await {
            Message::Binary(bytes) => all.extend_from_slice(&bytes),
            Message::Text(text) => {
                assert_eq!(text.as_str(), "");
                assert!(matches!(received(client).await, Message::Close(_)));
                return all;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn output_comes_whole_and_then_its_end() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let (_over, seen) = watch::channel(false);
    let mut client = connected(Socket::Output(reader.into(), seen)).await;
    let sent: Vec<u8> = (0..1_000_000_u32).map(|i| (i % 253) as u8).collect();
    let copy = sent.clone();
    let writing = std::thread::spawn(move || writer.write_all(&copy).unwrap());
    assert!(output_of(&mut client).await == sent);
    writing.join().unwrap();
}

#[tokio::test]
async fn a_process_that_is_over_ends_its_output_though_others_hold_it() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let (over, seen) = watch::channel(false);
    let mut client = connected(Socket::Output(reader.into(), seen)).await;
    writer.write_all(b"last words").unwrap();
    over.send_replace(true);
    assert_eq!(output_of(&mut client).await, b"last words");
    drop(writer);
}

#[tokio::test]
async fn a_client_that_wants_no_more_ends_the_pipe() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let (_over, seen) = watch::channel(false);
    let mut client = connected(Socket::Output(reader.into(), seen)).await;
    client.close(None).await.unwrap();
    while client.next().await.is_some() {}
    let broken = tokio::task::spawn_blocking(move || {
        // The descriptor goes soon after the goodbye; a full pipe would block for ever if it didn't.
        (0..1000).any(|_| writer.write_all(&[0; 4096]).is_err())
    });
    assert!(
        tokio::time::timeout(Duration::from_secs(10), broken)
            .await
            .unwrap()
            .unwrap()
    );
}

#[tokio::test]
async fn input_ends_with_the_empty_text() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut client = connected(Socket::Input(writer.into())).await;
    client.send(Message::Binary(Bytes::from_static(b"one "))).await.unwrap();
    client.send(Message::Text("two".into())).await.unwrap();
    client.send(Message::Text("".into())).await.unwrap();
    let read = tokio::task::spawn_blocking(move || {
        let mut all = String::new();
        reader.read_to_string(&mut all).unwrap();
        all
    });
    assert_eq!(read.await.unwrap(), "one two");
}

#[tokio::test]
async fn input_that_nobody_reads_is_closed() {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut client = connected(Socket::Input(writer.into())).await;
    drop(reader);
    assert!(matches!(received(&mut client).await, Message::Close(_)));
}

#[tokio::test]
async fn a_stream_goes_both_ways() {
    let (mut console, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut client = connected(Socket::Stream(theirs.into())).await;
    client.send(Message::Binary(Bytes::from_static(b"ls\r"))).await.unwrap();
    // Having no more to say is not having gone.
    client.send(Message::Text("".into())).await.unwrap();
    let echo = tokio::task::spawn_blocking(move || {
        let mut typed = [0; 3];
        console.read_exact(&mut typed).unwrap();
        console.write_all(b"bin dev\r\n").unwrap();
        typed
    });
    assert_eq!(&echo.await.unwrap(), b"ls\r");
    assert_eq!(output_of(&mut client).await, b"bin dev\r\n");
}

#[tokio::test]
async fn commands_arrive_and_nonsense_does_not() {
    let (sender, mut commands) = mpsc::channel(4);
    let (over, seen) = watch::channel(false);
    let mut client = connected(Socket::Control(sender, seen)).await;
    for text in [
        r#"{"command":"window-resize","args":{"width":"80","height":24}}"#,
        "nonsense",
        r#"{"command":"signal","signal":15}"#,
    ] {
        client.send(Message::Text(text.into())).await.unwrap();
    }
    let resize = commands.recv().await.unwrap();
    assert_eq!(
        (resize.args["width"].as_str(), resize.args["height"].as_str()),
        ("80", "24")
    );
    assert_eq!(commands.recv().await.unwrap().signal, 15);
    over.send_replace(true);
    assert!(matches!(received(&mut client).await, Message::Close(_)));
    assert_eq!(commands.recv().await, None);
}

#[tokio::test]
async fn only_a_client_that_vanishes_takes_its_process_along() {
    for (clean, wanted) in [(true, None), (false, Some(SIGKILL))] {
        let (sender, mut commands) = mpsc::channel(4);
        let (_over, seen) = watch::channel(false);
        let mut client = connected(Socket::Control(sender, seen)).await;
        if clean {
            client.close(None).await.unwrap();
        }
        drop(client);
        let command = tokio::time::timeout(Duration::from_secs(10), commands.recv())
            .await
            .unwrap();
        assert_eq!(command.map(|command| command.signal), wanted);
    }
}

//! A small HTTP server on loopback whose answers a test writes byte by byte.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// What a request gets.
pub(crate) struct Answer {
    /// Head and body as they go over the wire.
    pub(crate) bytes: Vec<u8>,
    /// Whether the connection stays open afterwards, with nothing more coming.
    pub(crate) hang: bool,
}

impl Answer {
    pub(crate) fn new(status: &str, headers: &str, body: &[u8]) -> Self {
        let mut bytes = format!(
            "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
            body.len()
        )
        .into_bytes();
        bytes.extend_from_slice(body);
        Self { bytes, hang: false }
    }

    /// Cuts what would be sent down to its first `length` bytes, body and head together.
    pub(crate) fn cut_body(mut self, keep: usize) -> Self {
        let head = self.bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        self.bytes.truncate(head + keep);
        self
    }
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    /// Heads of the requests so far, in lower case.
    pub(crate) requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn seen(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

/// Serves on a port of its own. `answer` gets the request's path and its head in lower case.
pub(crate) async fn serve(answer: impl Fn(&str, &str) -> Answer + Send + Sync + 'static) -> Server {
    // The namespace of the test is new.
    let up = std::process::Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status()
        .unwrap();
    assert!(up.success());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server {
        address: listener.local_addr().unwrap(),
        requests: Arc::default(),
    };
    let (requests, answer) = (Arc::clone(&server.requests), Arc::new(answer));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (requests, answer) = (Arc::clone(&requests), Arc::clone(&answer));
            tokio::spawn(async move {
                let mut head = Vec::new();
                let mut buffer = [0; 4096];
                while !head.windows(4).any(|w| w == b"\r\n\r\n") {
                    match stream.read(&mut buffer).await {
                        Ok(got) if got > 0 => head.extend_from_slice(&buffer[..got]),
                        _ => return,
                    }
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                let lower = head.to_lowercase();
                requests.lock().unwrap().push(lower.clone());
                let answer = answer(&path, &lower);
                // A client may hang up in the middle, which some tests are about.
                let _ = stream.write_all(&answer.bytes).await;
                if answer.hang {
                    std::future::pending::<()>().await;
                }
            });
        }
    });
    server
}

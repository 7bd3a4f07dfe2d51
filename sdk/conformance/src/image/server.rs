//! A server that does not answer as a source expects.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::case::{Outcome, Stop};

/// What it answers every request with.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mood {
    /// 404 and no body.
    Empty,
    /// 500 with a page for people.
    Broken,
    /// 200 with bytes that are neither text nor anything else.
    Garbage,
    /// 200 with an empty body.
    Silent,
    /// 200 with brackets that are opened and never closed.
    Deep,
    /// A redirection to a place that was not granted.
    Elsewhere,
    /// The connection is closed in the middle of the body.
    Cut,
}

impl Mood {
    pub(super) const ALL: [Self; 7] = [
        Self::Empty,
        Self::Broken,
        Self::Garbage,
        Self::Silent,
        Self::Deep,
        Self::Elsewhere,
        Self::Cut,
    ];

    fn answer(self) -> Vec<u8> {
        let plain = |status: &str, body: &[u8]| {
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            [head.as_bytes(), body].concat()
        };
        match self {
            Self::Empty => plain("404 Not Found", b""),
            Self::Broken => plain("500 Internal Server Error", b"<html>out of order</html>"),
            Self::Garbage => plain("200 OK", &[0xff, 0xfe, 0, 0x80].repeat(500)),
            Self::Silent => plain("200 OK", b""),
            Self::Deep => plain("200 OK", "[{\"a\":".repeat(20_000).as_bytes()),
            Self::Elsewhere => {
                b"HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                    .to_vec()
            }
            Self::Cut => b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nConnection: close\r\n\r\n{\"images\":".to_vec(),
        }
    }
}

/// A running server. It ends with this.
pub(super) struct Server {
    pub(super) url: String,
    task: JoinHandle<()>,
}

impl Server {
    pub(super) async fn start(mood: Mood) -> Outcome<Self> {
        let failed = |error: std::io::Error| Stop::Fail(format!("can't serve on the loopback interface: {error}"));
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(failed)?;
        let url = format!("http://{}", listener.local_addr().map_err(failed)?);
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                // A request without a body ends with an empty line (RFC 9112, section 2.1).
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) if head.len() < 16384 => head.push(byte),
                        _ => break,
                    }
                }
                // Whoever went away needs no answer.
                let _ = stream.write_all(&mood.answer()).await;
                let _ = stream.shutdown().await;
            }
        });
        Ok(Self { url, task })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

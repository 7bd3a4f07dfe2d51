//! A web server in a sandbox's network, which can be told to serve badly.

use crate::sandbox::Sandbox;
use anyhow::{Context, Result};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

/// A request as it came: the path, of `Range: bytes=N-` the N, and two headers as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The path, with its slash.
    pub path: String,
    /// The first byte that is wanted.
    pub from: Option<usize>,
    /// The header `Authorization`.
    pub authorization: Option<String>,
    /// The header `Host`.
    pub host: Option<String>,
}

/// What is answered.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The whole content; empty and `missing` for a 404.
    pub body: Vec<u8>,
    /// There is no such page.
    pub missing: bool,
    /// Who asks has to prove it: a 401.
    pub denied: bool,
    /// Further lines of the answer's head, each without its end.
    pub headers: Vec<String>,
    /// It is at this address now.
    pub moved: Option<String>,
    /// How many bytes are sent of what was promised before the connection is closed.
    pub cut: Option<usize>,
    /// Whether a part is sent to who asks for one. A server need not (RFC 9110, section 14.2).
    pub ranges: bool,
}

type Asks = Arc<Mutex<Vec<Asked>>>;

/// The server; it ends with the test program.
#[derive(Debug)]
pub struct Web {
    /// `http://127.0.0.1:PORT`.
    pub address: String,
    asked: Asks,
}

impl Web {
    /// Serves what `page` answers, in the sandbox's network.
    ///
    /// # Errors
    /// When the network can't be entered or has no free port.
    pub fn serve(sandbox: &Sandbox, page: impl Fn(&Asked) -> Page + Send + Sync + 'static) -> Result<Self> {
        let listener = std::thread::scope(|scope| {
            // A thread of its own, which stays in that network until it ends.
            let bound = scope.spawn(|| -> Result<TcpListener> {
                sandbox.enter_network()?;
                TcpListener::bind("127.0.0.1:0").context("can't listen")
            });
            bound
                .join()
                .map_err(|_| anyhow::anyhow!("the thread that listens panicked"))?
        })?;
        let address = format!("http://{}", listener.local_addr()?);
        let asked: Asks = Arc::default();
        let (noted, page) = (Arc::clone(&asked), Arc::new(page));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (noted, page) = (Arc::clone(&noted), Arc::clone(&page));
                // A client that breaks off is what some tests are about.
                std::thread::spawn(move || answer(stream, &noted, page.as_ref()));
            }
        });
        Ok(Self { address, asked })
    }

    /// All requests so far, in the order in which they came.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn answer(stream: TcpStream, noted: &Asks, page: &dyn Fn(&Asked) -> Page) -> Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let (mut from, mut authorization, mut host) = (None, None, None);
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = header.split_once(':') {
            match name.to_ascii_lowercase().as_str() {
                "authorization" => authorization = Some(value.trim().to_owned()),
                "host" => host = Some(value.trim().to_owned()),
                _ => {}
            }
        }
        if let Some(range) = header.to_ascii_lowercase().strip_prefix("range: bytes=") {
            from = range.split('-').next().and_then(|first| first.trim().parse().ok());
        }
    }
    let asked = Asked {
        path,
        from,
        authorization,
        host,
    };
    noted.lock().unwrap_or_else(PoisonError::into_inner).push(asked.clone());
    let page = page(&asked);
    let first = asked.from.filter(|first| page.ranges && *first < page.body.len());
    let (status, range) = match first {
        _ if page.denied => ("401 Unauthorized", String::new()),
        _ if page.missing => ("404 Not Found", String::new()),
        _ if let Some(address) = &page.moved => ("302 Found", format!("Location: {address}\r\n")),
        Some(first) => (
            "206 Partial Content",
            format!(
                "Content-Range: bytes {first}-{}/{}\r\n",
                page.body.len() - 1,
                page.body.len()
            ),
        ),
        None => ("200 OK", String::new()),
    };
    let body = &page.body[first.unwrap_or(0)..];
    let more: String = page.headers.iter().map(|line| format!("{line}\r\n")).collect();
    let mut stream = reader.into_inner();
    write!(
        stream,
        "HTTP/1.1 {status}\r\n{range}{more}ETag: \"one\"\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    stream.write_all(&body[..page.cut.unwrap_or(body.len()).min(body.len())])?;
    Ok(())
}

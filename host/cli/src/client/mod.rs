//! The daemon's REST API over its unix socket.

mod operation;
mod path;
pub(crate) mod websocket;

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hutch_api::envelope::Envelope;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, ETAG, HOST, IF_MATCH, USER_AGENT};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use rustix::fs::{Mode, OFlags};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::UnixStream;

pub(crate) use operation::{Operation, Progress, outcome};
pub(crate) use path::{ApiPath, decode, query_string};
pub(crate) use websocket::WebSocket;

use crate::error::{Error, Result};

/// The bytes that a socket's address has room for, with the zero at its end (unix(7)).
const SUN_PATH: usize = 108;

/// How long a connection may have waited to be used again: a daemon closes those that wait for long, as while the user edits.
const MAX_IDLE: Duration = Duration::from_secs(2);

/// The body of a request: whole, or streamed from a file.
pub(crate) type Body = BoxBody<Bytes, std::io::Error>;

/// A body without content.
pub(crate) fn empty_body() -> Body {
    whole_body(Bytes::new())
}

/// A body that is in memory.
pub(crate) fn whole_body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// A name as a header's value: what a header can't hold becomes an underscore.
pub(crate) fn header_text(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '_' })
        .collect()
}

/// An object and the tag that an `If-Match` for it needs.
pub(crate) struct Tagged<T> {
    /// The object.
    pub(crate) value: T,
    /// The tag, as the header had it.
    pub(crate) etag: Option<String>,
}

/// What a request led to.
pub(crate) enum Answer {
    /// It is done. The answer's metadata.
    Done(Value),
    /// It goes on as an operation.
    Operation(Operation),
}

/// A connection that waits for the next request.
struct Idle {
    sender: SendRequest<Body>,
    since: Instant,
}

/// One daemon, in one project.
pub(crate) struct Client {
    socket: PathBuf,
    project: String,
    idle: Mutex<Option<Idle>>,
}

impl Client {
    /// A client of the daemon at `socket`. Nothing is sent yet.
    pub(crate) fn new(socket: PathBuf, project: String) -> Self {
        Self {
            socket,
            project,
            idle: Mutex::new(None),
        }
    }

    /// The socket's path.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// The project that requests are about.
    pub(crate) fn project(&self) -> &str {
        &self.project
    }

    async fn stream(&self) -> Result<UnixStream> {
        let failed = |source| Error::Connect {
            path: self.socket.clone(),
            source,
        };
        if self.socket.as_os_str().len() < SUN_PATH {
            return UnixStream::connect(&self.socket).await.map_err(failed);
        }
        // A longer path is reached by a short one through the directory's descriptor.
        let (Some(directory), Some(name)) = (self.socket.parent(), self.socket.file_name()) else {
            return Err(failed(std::io::ErrorKind::InvalidInput.into()));
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(directory, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
        let path = Path::new("/proc/self/fd")
            .join(directory.as_raw_fd().to_string())
            .join(name);
        UnixStream::connect(path).await.map_err(failed)
    }

    async fn sender(&self) -> Result<SendRequest<Body>> {
        let idle = self.idle.lock().ok().and_then(|mut idle| idle.take());
        if let Some(Idle { mut sender, since }) = idle
            && since.elapsed() < MAX_IDLE
            && sender.ready().await.is_ok()
        {
            return Ok(sender);
        }
        let (sender, connection) = http1::handshake(TokioIo::new(self.stream().await?)).await?;
        // Its failures reach the request that is under way.
        tokio::spawn(connection);
        Ok(sender)
    }

    /// The path with the client's project, where it is not the default and no other is named.
    fn in_project(&self, path: ApiPath) -> ApiPath {
        if self.project.is_empty() || self.project == "default" || path.has("project") || path.has("all-projects") {
            path
        } else {
            let project = self.project.clone();
            path.query("project", &project)
        }
    }

    /// Sends a request with headers of its own, and gives the answer as it comes. Refusals are errors.
    pub(crate) async fn raw(
        &self,
        method: Method,
        path: ApiPath,
        headers: &[(&str, String)],
        body: Body,
    ) -> Result<Response<Incoming>> {
        let (response, _) = self.exchange(method, path, headers, body).await?;
        if response.status().is_client_error() || response.status().is_server_error() {
            let status = response.status().as_u16();
            let bytes = response.into_body().collect().await?.to_bytes();
            return Err(refusal(status, &bytes));
        }
        Ok(response)
    }

    /// What is no envelope but a file, as a whole.
    pub(crate) async fn file(&self, path: ApiPath) -> Result<Vec<u8>> {
        let answer = self.raw(Method::GET, path, &[], empty_body()).await?;
        Ok(answer.into_body().collect().await?.to_bytes().into())
    }

    async fn exchange(
        &self,
        method: Method,
        path: ApiPath,
        headers: &[(&str, String)],
        body: Body,
    ) -> Result<(Response<Incoming>, SendRequest<Body>)> {
        let mut request = Request::builder()
            .method(method)
            .uri(self.in_project(path).to_string())
            .header(HOST, "hutch")
            .header(USER_AGENT, concat!("hutch/", env!("CARGO_PKG_VERSION")));
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request
            .body(body)
            .map_err(|error| Error::usage(format!("cannot be sent: {error}")))?;
        let mut sender = self.sender().await?;
        let response = sender.send_request(request).await?;
        Ok((response, sender))
    }

    /// Sends a request whose answer is an envelope, and reads it all.
    async fn envelope(
        &self,
        method: Method,
        path: ApiPath,
        headers: &[(&str, String)],
        body: Body,
    ) -> Result<(Envelope, Option<String>)> {
        let request = format!("{method} {path}");
        let (response, sender) = self.exchange(method, path, headers, body).await?;
        let status = response.status();
        let etag = response
            .headers()
            .get(ETAG)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        let bytes = response.into_body().collect().await?.to_bytes();
        if let Ok(mut idle) = self.idle.lock() {
            let since = Instant::now();
            *idle = Some(Idle { sender, since });
        }
        if status.is_client_error() || status.is_server_error() {
            return Err(refusal(status.as_u16(), &bytes));
        }
        let envelope: Envelope = serde_json::from_slice(&bytes).map_err(|source| Error::Answer { request, source })?;
        if envelope.kind == "error" {
            return Err(Error::Server {
                status: envelope.error_code,
                message: envelope.error,
            });
        }
        Ok((envelope, etag))
    }

    /// An object.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: ApiPath) -> Result<T> {
        Ok(self.get_tagged(path).await?.value)
    }

    /// An object and its tag.
    pub(crate) async fn get_tagged<T: DeserializeOwned>(&self, path: ApiPath) -> Result<Tagged<T>> {
        let request = format!("GET {path}");
        let (envelope, etag) = self.envelope(Method::GET, path, &[], empty_body()).await?;
        let value = serde_json::from_value(envelope.metadata.unwrap_or_default())
            .map_err(|source| Error::Answer { request, source })?;
        Ok(Tagged { value, etag })
    }

    /// Sends a change.
    pub(crate) async fn send<T: Serialize + ?Sized>(
        &self,
        method: Method,
        path: ApiPath,
        body: &T,
        etag: Option<String>,
    ) -> Result<Answer> {
        let bytes = serde_json::to_vec(body).map_err(|source| Error::Json {
            what: format!("the body of {method} {path}"),
            source,
        })?;
        let mut headers = vec![(CONTENT_TYPE.as_str(), "application/json".to_owned())];
        headers.extend(etag.map(|etag| (IF_MATCH.as_str(), etag)));
        self.send_body(method, path, &headers, whole_body(bytes)).await
    }

    /// Sends a change whose body is not JSON.
    pub(crate) async fn send_body(
        &self,
        method: Method,
        path: ApiPath,
        headers: &[(&str, String)],
        body: Body,
    ) -> Result<Answer> {
        let (envelope, _) = self.envelope(method, path, headers, body).await?;
        let metadata = envelope.metadata.unwrap_or_default();
        Ok(match envelope.kind.as_str() {
            "async" => Answer::Operation(Operation::new(envelope.operation, metadata)),
            _ => Answer::Done(metadata),
        })
    }

    /// Sends a change and waits until it is done. What comes back is the operation's own metadata, or the answer's.
    pub(crate) async fn change<T: Serialize + ?Sized>(
        &self,
        method: Method,
        path: ApiPath,
        body: &T,
        progress: &Progress,
    ) -> Result<Value> {
        let answer = self.send(method, path, body, None).await?;
        self.finish(answer, progress).await
    }

    /// Removes an object and waits until it is gone.
    pub(crate) async fn remove(&self, path: ApiPath, progress: &Progress) -> Result<Value> {
        let answer = self.send_body(Method::DELETE, path, &[], empty_body()).await?;
        self.finish(answer, progress).await
    }

    /// Waits until what an answer stands for is done.
    pub(crate) async fn finish(&self, answer: Answer, progress: &Progress) -> Result<Value> {
        match answer {
            Answer::Done(metadata) => Ok(metadata),
            Answer::Operation(operation) => operation.wait(self, progress).await,
        }
    }

    /// Opens a websocket.
    pub(crate) async fn websocket(&self, path: ApiPath) -> Result<WebSocket> {
        let path = self.in_project(path);
        WebSocket::open(self.stream().await?, &path).await
    }
}

/// A refusal in the daemon's own words, or the HTTP status where there are none.
fn refusal(status: u16, body: &[u8]) -> Error {
    let message = serde_json::from_slice::<Envelope>(body)
        .map(|envelope| envelope.error)
        .unwrap_or_default();
    let message = if message.is_empty() {
        format!("the daemon answered with HTTP status {status}")
    } else {
        message
    };
    Error::Server { status, message }
}

#[cfg(test)]
mod tests;

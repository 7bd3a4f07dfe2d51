//! A client of the REST API over a unix socket: HTTP/1.1 (RFC 9112), written for tests.
//!
//! It blocks, keeps one connection open, and does no more than it is asked, so that what is measured is the daemon.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long an operation may take unless [`Client::patience`] says otherwise.
const PATIENCE: Duration = Duration::from_secs(60);

/// How much longer than an operation the answer about it may take.
const MARGIN: Duration = Duration::from_secs(30);

/// An HTTP answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers; names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, decoded from chunks.
    pub body: Vec<u8>,
}

impl Answer {
    /// The first header of a name, given in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// When it is not JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("not JSON: {}", String::from_utf8_lossy(&self.body)))
    }

    /// The text in the envelope's `error`, or else the body.
    #[must_use]
    pub fn error(&self) -> String {
        self.json()
            .ok()
            .and_then(|envelope| envelope["error"].as_str().map(str::to_owned))
            .unwrap_or_else(|| String::from_utf8_lossy(&self.body).into_owned())
    }
}

/// A client of one daemon.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    connection: Option<BufReader<UnixStream>>,
    patience: Duration,
}

impl Client {
    /// A client of the daemon that serves `socket`. Nothing is connected yet.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_path_buf(),
            connection: None,
            patience: PATIENCE,
        }
    }

    /// The same, but for operations that may take longer.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The daemon's socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// A new connection to the daemon.
    ///
    /// # Errors
    /// When nobody answers at the socket.
    pub fn connect(&self) -> Result<UnixStream> {
        let stream =
            UnixStream::connect(&self.socket).with_context(|| format!("can't connect to {}", self.socket.display()))?;
        stream.set_read_timeout(Some(self.patience + MARGIN))?;
        stream.set_write_timeout(Some(self.patience + MARGIN))?;
        Ok(stream)
    }

    /// Sends a request and reads the whole answer, whatever its status.
    ///
    /// # Errors
    /// When the connection breaks or what comes back is not HTTP.
    pub fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Answer> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => BufReader::new(self.connect()?),
        };
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nHost: unix\r\nContent-Length: {}\r\n",
            body.len()
        );
        for (name, value) in headers {
            write!(head, "{name}: {value}\r\n")?;
        }
        head.push_str("\r\n");
        let mut request = head.into_bytes();
        request.extend_from_slice(body);
        let stream = connection.get_mut();
        stream
            .write_all(&request)
            .with_context(|| format!("{method} {path}: can't send"))?;
        let answer = read_answer(&mut connection, method).with_context(|| format!("{method} {path}"))?;
        if answer.header("connection") != Some("close") {
            self.connection = Some(connection);
        }
        Ok(answer)
    }

    /// Sends a JSON body, or none for `null`.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub fn request(&mut self, method: &str, path: &str, body: &Value) -> Result<Answer> {
        if body.is_null() {
            return self.send(method, path, &[], b"");
        }
        self.send(
            method,
            path,
            &[("Content-Type", "application/json")],
            &serde_json::to_vec(body)?,
        )
    }

    /// The metadata of an object or list.
    ///
    /// # Errors
    /// When the answer is not a success.
    pub fn get(&mut self, path: &str) -> Result<Value> {
        self.sync("GET", path, &Value::Null)
    }

    /// Sends a request that is answered at once, and returns the metadata.
    ///
    /// # Errors
    /// When the answer is not a success, with the daemon's message.
    pub fn sync(&mut self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let answer = self.request(method, path, body)?;
        let mut envelope = succeeded(method, path, &answer)?;
        ensure!(
            envelope["type"] == "sync",
            "{method} {path} was answered with {}",
            envelope["type"]
        );
        Ok(envelope["metadata"].take())
    }

    /// Sends a request that begins an operation, and returns the operation as it was when answered.
    ///
    /// # Errors
    /// When the answer is not an operation.
    pub fn begin(&mut self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let answer = self.request(method, path, body)?;
        begun(method, path, &answer)
    }

    /// Waits until an operation has ended, and returns it.
    ///
    /// # Errors
    /// When it failed, with its error.
    pub fn wait(&mut self, operation: &Value) -> Result<Value> {
        let ended = self.end_of(operation)?;
        if ended["status_code"] != 200 {
            bail!(
                "{}: {}",
                ended["description"].as_str().unwrap_or("operation"),
                ended["err"].as_str().unwrap_or("?")
            );
        }
        Ok(ended)
    }

    /// Waits until an operation has ended in whatever way, and returns it.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn end_of(&mut self, operation: &Value) -> Result<Value> {
        let id = operation["id"].as_str().context("an operation without id")?;
        let path = format!("/1.0/operations/{id}/wait?timeout={}", self.patience.as_secs());
        let mut envelope = self.request("GET", &path, &Value::Null)?.json()?;
        if envelope["type"] == "error" {
            // Incus answers so for an operation that failed; the operation itself says more.
            envelope = self
                .request("GET", &format!("/1.0/operations/{id}"), &Value::Null)?
                .json()?;
        }
        let ended = envelope["metadata"].take();
        let code = ended["status_code"].as_i64().unwrap_or_default();
        ensure!(
            code >= 200,
            "{} did not end in {} s",
            ended["description"],
            self.patience.as_secs()
        );
        Ok(ended)
    }

    /// Sends a request that begins an operation, and waits for its end.
    ///
    /// # Errors
    /// When the request is refused or the operation fails.
    pub fn run(&mut self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let operation = self.begin(method, path, body)?;
        self.wait(&operation).with_context(|| format!("{method} {path}"))
    }

    /// Does what must fail, at once or in its operation, and returns the status code and the message.
    ///
    /// # Errors
    /// When it succeeds, or the daemon is gone.
    pub fn refused(&mut self, method: &str, path: &str, body: &Value) -> Result<(u16, String)> {
        let answer = self.request(method, path, body)?;
        if answer.status >= 400 {
            let envelope = answer.json()?;
            ensure!(
                envelope["type"] == "error",
                "an error without the envelope's type: {envelope}"
            );
            ensure!(
                envelope["error_code"] == answer.status,
                "the envelope and the status differ: {envelope}"
            );
            return Ok((answer.status, answer.error()));
        }
        ensure!(answer.status == 202, "{method} {path} succeeded with {}", answer.status);
        let operation = begun(method, path, &answer)?;
        let ended = self.end_of(&operation)?;
        ensure!(
            ended["status_code"] == 400,
            "{method} {path} should have failed: {ended}"
        );
        Ok((400, ended["err"].as_str().unwrap_or_default().to_owned()))
    }

    /// Uploads a unified image and returns its fingerprint.
    ///
    /// # Errors
    /// When it can't be read or is refused.
    pub fn import_image(&mut self, file: &Path, alias: Option<&str>) -> Result<String> {
        let content = std::fs::read(file).with_context(|| format!("can't read {}", file.display()))?;
        // An image of two files is exported as a form, and taken as one: its first line is the boundary (RFC 2046, 5.1.1).
        let boundary = content
            .strip_prefix(b"--")
            .and_then(|rest| rest.split(|byte| *byte == b'\r').next())
            .and_then(|line| std::str::from_utf8(line).ok());
        let kind = match boundary {
            Some(boundary) => format!("multipart/form-data; boundary={boundary}"),
            None => "application/octet-stream".to_owned(),
        };
        let answer = self.send("POST", "/1.0/images", &[("Content-Type", kind.as_str())], &content)?;
        let operation = begun("POST", "/1.0/images", &answer)?;
        let ended = self.wait(&operation)?;
        let fingerprint = ended["metadata"]["fingerprint"]
            .as_str()
            .context("an import that tells no fingerprint")?
            .to_owned();
        if let Some(alias) = alias {
            let body = serde_json::json!({ "name": alias, "target": fingerprint });
            self.sync("POST", "/1.0/images/aliases", &body)?;
        }
        Ok(fingerprint)
    }
}

fn succeeded(method: &str, path: &str, answer: &Answer) -> Result<Value> {
    if !(200..300).contains(&answer.status) {
        bail!("{method} {path}: {}: {}", answer.status, answer.error());
    }
    answer.json()
}

fn begun(method: &str, path: &str, answer: &Answer) -> Result<Value> {
    let mut envelope = succeeded(method, path, answer)?;
    ensure!(
        envelope["type"] == "async",
        "{method} {path} was answered with {}",
        envelope["type"]
    );
    Ok(envelope["metadata"].take())
}

/// Reads an answer from its first line to the end of its body.
///
/// # Errors
/// When it is cut off or not HTTP.
pub fn read_answer(connection: &mut BufReader<UnixStream>, method: &str) -> Result<Answer> {
    let status_line = line(connection)?;
    let status = status_line
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1))
        .and_then(|code| code.parse().ok())
        .with_context(|| format!("not an HTTP answer: {status_line:?}"))?;
    let mut headers = Vec::new();
    loop {
        let header = line(connection)?;
        if header.is_empty() {
            break;
        }
        let (name, value) = header
            .split_once(':')
            .with_context(|| format!("not a header: {header:?}"))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut answer = Answer {
        status,
        headers,
        body: Vec::new(),
    };
    if method != "HEAD" && status != 204 && status != 304 && status != 101 {
        answer.body = read_body(connection, &answer)?;
    }
    Ok(answer)
}

fn read_body(connection: &mut BufReader<UnixStream>, answer: &Answer) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    if answer.header("transfer-encoding") == Some("chunked") {
        loop {
            let size_line = line(connection)?;
            let digits = size_line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(digits, 16).with_context(|| format!("not a chunk: {size_line:?}"))?;
            let begin = body.len();
            body.resize(begin + size, 0);
            connection.read_exact(&mut body[begin..])?;
            line(connection)?;
            if size == 0 {
                return Ok(body);
            }
        }
    }
    if let Some(length) = answer.header("content-length") {
        body.resize(length.parse().context("not a length")?, 0);
        connection.read_exact(&mut body)?;
    } else {
        connection.read_to_end(&mut body)?;
    }
    Ok(body)
}

fn line(connection: &mut BufReader<UnixStream>) -> Result<String> {
    let mut text = String::new();
    let length = connection.read_line(&mut text)?;
    ensure!(length > 0, "the daemon closed the connection");
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

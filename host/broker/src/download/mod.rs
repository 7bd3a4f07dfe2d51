//! Fetching large files for the core: with resumption, a checksum on the way, and nothing half-done under the final name.

mod part;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use hutch_driver::{Cancel, DriverError, Progress};
use reqwest::header::{ACCEPT_ENCODING, CONTENT_RANGE, ETAG, HeaderMap, HeaderValue, IF_RANGE, LAST_MODIFIED, RANGE};
use reqwest::{Response, StatusCode, Url};
use sha2::{Digest as _, Sha256};

use self::part::{Part, PartFiles, Version, Writer, remove};
use crate::Subject;
use crate::error::{cancelled, internal, invalid, io};
use crate::fs::tree::blocking;
pub use crate::http::document;
use crate::http::{failure, follow, parse, read_headers};

/// How often a broken transfer is taken up again without anything having come since.
const TRIES: u32 = 3;
/// Before it is taken up again, doubled each time.
const PAUSE: Duration = Duration::from_secs(1);

/// What is to be fetched.
#[derive(Clone, Debug)]
pub struct DownloadRequest {
    /// Where it is.
    pub url: String,
    /// The directory for it, which exists, on the file system where it will stay.
    pub dir: PathBuf,
    /// Lower-case hexadecimal; `None` where whoever asks checks by other means.
    pub sha256: Option<String>,
    /// How large it is, where that is known.
    pub size: Option<u64>,
    /// How large it may be, in bytes.
    pub limit: u64,
    /// Headers for the server of the address. One that proves who asks (`authorization`) does not go on to other servers.
    pub headers: Vec<(String, String)>,
}

/// The plugin that named a file. The host fetches nothing for it that it could not fetch itself: the machine's network reaches
/// more than a plugin may, and so do redirections.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// The plugin.
    pub subject: &'a Subject,
    /// The server that the caller named, if any; see [`hutch_driver::Call::origin`].
    pub origin: Option<&'a str>,
}

/// A file that was fetched whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Downloaded {
    /// Where it is: in the directory asked for, under its checksum's name. The caller moves or removes it.
    pub path: PathBuf,
    /// Of its content, in lower-case hexadecimal.
    pub sha256: String,
    /// In bytes.
    pub size: u64,
}

/// Fetches a file into `request.dir`, from where `asker` may fetch, also after redirections.
///
/// While it is being fetched it is called `<name>.part`, with `<name>.part.json` beside it that tells of which version it is
/// a part, where the name is the checksum or, without one, one made of the address. When a transfer breaks it goes on where
/// it stopped, if the server can do that and still has the same version; also in a later call and after a restart of the
/// daemon. Two calls for the same file wait for each other. Progress is in bytes.
///
/// # Errors
/// `not-requested` and `not-granted` for an address that the plugin may not fetch; `not-found` where the server says so; `unavailable`, `timeout` and `io` where it can't be reached or breaks off again and
/// again, which may be repeated; `limit` for a file larger than allowed; `invalid` for one of another size or checksum than
/// said; `no-space`; of these nothing is kept; `cancelled`, after which a later call goes on.
pub async fn download(
    request: &DownloadRequest,
    asker: Asker<'_>,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Downloaded, DriverError> {
    let url = parse(&request.url)?;
    asker.may_fetch(&url)?;
    if let Some(sum) = &request.sha256
        && (sum.len() != 64 || !sum.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)))
    {
        return Err(invalid(format!(
            "{sum:?} is not a SHA-256 checksum in lower-case hexadecimal"
        )));
    }
    if request.size.is_some_and(|size| size > request.limit) {
        return Err(too_large(&url, request.limit));
    }
    let name = request
        .sha256
        .clone()
        .unwrap_or_else(|| format!("url-{}", hex::encode(Sha256::digest(url.as_str().as_bytes()))));
    let turn = turn_for(request.dir.join(&name));
    let _turn = turn.lock().await;
    let transfer = Transfer {
        request,
        asker,
        url,
        files: PartFiles::new(&request.dir, &name),
        progress,
        cancel,
    };
    let done = transfer.run().await;
    if done.as_ref().is_err_and(|e| e.is("no-space")) {
        // The room is needed, by others too.
        transfer.files.discard().await;
    }
    done
}

/// Removes what broken downloads left in `dir` and nobody has gone on with for `age`: for the core when it starts.
///
/// # Errors
/// `io` where the directory can't be read or a file can't be removed.
pub async fn remove_parts(dir: &Path, age: Duration) -> Result<(), DriverError> {
    let dir = dir.to_owned();
    blocking(move || {
        let fail = |e| io(format_args!("can't list {}", dir.display()), &e);
        for entry in std::fs::read_dir(&dir).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let is_part = entry
                .file_name()
                .to_str()
                .is_some_and(|name| name.ends_with(".part") || name.ends_with(".part.json"));
            // A clock that was set back makes a file of the future, which is young.
            let old = entry
                .metadata()
                .and_then(|meta| meta.modified())
                .is_ok_and(|at| at.elapsed().is_ok_and(|since| since >= age));
            if is_part && old {
                remove(&entry.path())?;
            }
        }
        Ok(())
    })
    .await
}

/// One at a time may write a file.
fn turn_for(path: PathBuf) -> Arc<tokio::sync::Mutex<()>> {
    static TURNS: Mutex<Option<HashMap<PathBuf, Arc<tokio::sync::Mutex<()>>>>> = Mutex::new(None);
    let mut turns = TURNS.lock().unwrap_or_else(PoisonError::into_inner);
    let turns = turns.get_or_insert_default();
    turns.retain(|_, turn| Arc::strong_count(turn) > 1);
    Arc::clone(turns.entry(path).or_default())
}

impl Asker<'_> {
    /// Whether it may fetch this.
    pub(crate) fn may_fetch(&self, url: &Url) -> Result<(), DriverError> {
        self.subject.granter().http(self.origin, url)
    }
}

struct Transfer<'a> {
    request: &'a DownloadRequest,
    asker: Asker<'a>,
    url: Url,
    files: PartFiles,
    progress: &'a dyn Progress,
    cancel: &'a Cancel,
}

/// How one attempt ended that did not fail for good.
enum Attempt {
    Complete(Part),
    /// The transfer broke, with what is there.
    Broken(Part, DriverError),
}

impl Transfer<'_> {
    async fn run(&self) -> Result<Downloaded, DriverError> {
        let mut part = self.files.read(self.url.as_str()).await?;
        let mut fruitless = 0;
        let part = loop {
            let before = part.length;
            match self.attempt(part).await? {
                Attempt::Complete(part) => break part,
                Attempt::Broken(now, error) => {
                    fruitless = if now.length > before { 1 } else { fruitless + 1 };
                    if fruitless >= TRIES {
                        return Err(error);
                    }
                    tokio::select! {
                        () = tokio::time::sleep(PAUSE * (1 << (fruitless - 1))) => {}
                        () = self.cancel.cancelled() => return Err(self.cancelled()),
                    }
                    part = now;
                }
            }
        };
        self.check(&part).await?;
        self.files.keep(&self.request.dir, &part).await
    }

    fn cancelled(&self) -> DriverError {
        cancelled(format_args!("can't fetch {}", self.url))
    }

    async fn attempt(&self, part: Part) -> Result<Attempt, DriverError> {
        let mut headers = read_headers(&self.request.headers)?;
        headers.extend(headers_for(&part)?);
        let answer = tokio::select! {
            answer = follow(&self.url, &headers, self.cancel, |next| self.asker.may_fetch(next)) => answer,
            () = self.cancel.cancelled() => return Err(self.cancelled()),
        };
        let answer = match answer {
            Err(e) if e.retryable => return Ok(Attempt::Broken(part, e)),
            other => other?,
        };
        match answer.status() {
            StatusCode::PARTIAL_CONTENT if range_start(&answer) == Some(part.length) => {
                self.receive(answer, part, false).await
            }
            StatusCode::OK => {
                let version = Version {
                    url: self.url.to_string(),
                    validator: validator(&answer),
                };
                self.receive(answer, Part::empty(version), true).await
            }
            // What is there is all that there is, or of another file: its size and checksum tell.
            StatusCode::RANGE_NOT_SATISFIABLE if part.length > 0 => Ok(Attempt::Complete(part)),
            StatusCode::NOT_FOUND | StatusCode::GONE => Err(DriverError::new(
                "not-found",
                format!("{} is not there ({})", self.url, answer.status()),
            )),
            status => {
                let mut error =
                    DriverError::new("unavailable", format!("the server answers {status} for {}", self.url));
                error.retryable = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
                if error.retryable {
                    Ok(Attempt::Broken(part, error))
                } else {
                    Err(error)
                }
            }
        }
    }

    /// Adds what comes to the part. Everything that has come is written before this returns, so that no byte is fetched twice.
    async fn receive(&self, answer: Response, part: Part, afresh: bool) -> Result<Attempt, DriverError> {
        let rest = answer.content_length();
        let total = rest.map(|rest| part.length.saturating_add(rest)).or(self.request.size);
        if total.is_some_and(|total| total > self.request.limit) {
            self.files.discard().await;
            return Err(too_large(&self.url, self.request.limit));
        }
        self.progress.report("bytes fetched", part.length, total);
        let mut writer = self.files.open(part, afresh).await?;
        let broken = self.pump(answer, &mut writer, total).await;
        let part = writer.finish().await?;
        self.progress.report("bytes fetched", part.length, total);
        match broken {
            Ok(()) if total.is_some_and(|total| part.length < total) => {
                let total = total.unwrap_or_default();
                let mut error = DriverError::new(
                    "io",
                    format!("{} broke off after {} of {total} bytes", self.url, part.length),
                );
                error.retryable = true;
                Ok(Attempt::Broken(part, error))
            }
            Ok(()) => Ok(Attempt::Complete(part)),
            Err(error) if error.retryable => Ok(Attempt::Broken(part, error)),
            Err(error) => {
                if !error.is("cancelled") {
                    self.files.discard().await;
                }
                Err(error)
            }
        }
    }

    /// Moves the answer's bytes to the writer, up to the end or to more of them than there may be.
    async fn pump(&self, answer: Response, writer: &mut Writer, total: Option<u64>) -> Result<(), DriverError> {
        let most = self.request.size.unwrap_or(self.request.limit);
        let mut pieces = answer.bytes_stream();
        loop {
            let piece = tokio::select! {
                piece = pieces.next() => piece,
                () = self.cancel.cancelled() => return Err(self.cancelled()),
            };
            let Some(piece) = piece else { return Ok(()) };
            let piece = piece.map_err(|e| failure(&self.url, &e))?;
            if writer.length() + piece.len() as u64 > most {
                return Err(match self.request.size {
                    Some(size) => invalid(format!(
                        "{} is larger than the {size} bytes that it should have",
                        self.url
                    )),
                    None => too_large(&self.url, most),
                });
            }
            if writer.add(&piece).await? {
                self.progress.report("bytes fetched", writer.length(), total);
            }
        }
    }

    /// Whether what is there is what was asked for. If not, it is removed.
    async fn check(&self, part: &Part) -> Result<(), DriverError> {
        let sha256 = part.sha256();
        let wrong = match (self.request.size, &self.request.sha256) {
            (Some(size), _) if size != part.length => {
                format!("{} has {} bytes and should have {size}", self.url, part.length)
            }
            (_, Some(wanted)) if *wanted != sha256 => {
                format!("{} has the checksum {sha256} and should have {wanted}", self.url)
            }
            _ => return Ok(()),
        };
        self.files.discard().await;
        Err(invalid(wrong))
    }
}

/// Asks for what comes after the part, if it can be gone on with, and for the bytes as they are.
fn headers_for(part: &Part) -> Result<HeaderMap, DriverError> {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let validator = part
        .version
        .validator
        .as_deref()
        .and_then(|validator| HeaderValue::from_str(validator).ok());
    if let Some(validator) = validator.filter(|_| part.length > 0) {
        let range = HeaderValue::from_str(&format!("bytes={}-", part.length));
        headers.insert(RANGE, range.map_err(|e| internal(e.to_string()))?);
        headers.insert(IF_RANGE, validator);
    }
    Ok(headers)
}

/// What says that the server still has the same version: weak entity tags don't (RFC 9110, 13.1.5).
fn validator(answer: &Response) -> Option<String> {
    let header = |name| {
        answer
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned)
    };
    header(ETAG)
        .filter(|tag| !tag.starts_with("W/"))
        .or_else(|| header(LAST_MODIFIED))
}

/// Where a part of a file begins: `bytes 100-199/200`.
fn range_start(answer: &Response) -> Option<u64> {
    let text = answer.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    text.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

fn too_large(url: &Url, limit: u64) -> DriverError {
    DriverError::new(
        "limit",
        format!("{url} is larger than the {limit} bytes that are allowed"),
    )
}

//! Fetching large files for the core: with resumption, a checksum on the way, and nothing half-done under the final name.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use hutch_driver::{Cancel, DriverError, Progress};
use reqwest::header::{ACCEPT_ENCODING, CONTENT_RANGE, ETAG, HeaderMap, HeaderValue, IF_RANGE, LAST_MODIFIED, RANGE};
use reqwest::{Response, StatusCode, Url};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::{cancelled, internal, invalid, io};
use crate::fs::tree::blocking;
use crate::http::{failure, follow, parse};

/// How often a broken transfer is taken up again without anything having come since.
const TRIES: u32 = 3;
/// Before it is taken up again, doubled each time.
const PAUSE: Duration = Duration::from_secs(1);
/// Bytes that are collected before they are written: a write is a task on another thread.
const BATCH: usize = 1 << 20;

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

/// Fetches a file into `request.dir`.
///
/// While it is being fetched it is called `<name>.part`, with `<name>.part.json` beside it that tells of which version it is
/// a part, where the name is the checksum or, without one, one made of the address. When a transfer breaks it goes on where
/// it stopped, if the server can do that and still has the same version; also in a later call and after a restart of the
/// daemon. Two calls for the same file wait for each other. Progress is in bytes.
///
/// # Errors
/// `not-found` where the server says so; `unavailable`, `timeout` and `io` where it can't be reached or breaks off again and
/// again, which may be repeated; `limit` for a file larger than allowed; `invalid` for one of another size or checksum than
/// said; `no-space`; of these nothing is kept; `cancelled`, after which a later call goes on.
pub async fn download(
    request: &DownloadRequest,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Downloaded, DriverError> {
    let url = parse(&request.url)?;
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
        url,
        part: request.dir.join(format!("{name}.part")),
        progress,
        cancel,
    };
    let done = transfer.run().await;
    if done.as_ref().is_err_and(|e| e.is("no-space")) {
        // The room is needed, by others too.
        transfer.discard().await;
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

/// Of which version a part is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Version {
    url: String,
    /// A strong entity tag, or the time of the last change (RFC 9110, 13.1.5).
    validator: Option<String>,
}

/// A part with what is known of it: how long it is and the state of its checksum.
#[derive(Clone)]
struct Part {
    version: Version,
    length: u64,
    hash: Sha256,
}

struct Transfer<'a> {
    request: &'a DownloadRequest,
    url: Url,
    part: PathBuf,
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
        let mut part = self.read_part().await?;
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
        self.finish(part).await
    }

    fn cancelled(&self) -> DriverError {
        cancelled(format_args!("can't fetch {}", self.url))
    }

    fn version_path(&self) -> PathBuf {
        let mut path = self.part.clone().into_os_string();
        path.push(".json");
        path.into()
    }

    /// What an earlier attempt left, if it is of the same address and can be gone on with.
    async fn read_part(&self) -> Result<Part, DriverError> {
        let (path, version_path, url) = (self.part.clone(), self.version_path(), self.url.to_string());
        blocking(move || {
            let none = Part {
                version: Version {
                    url: url.clone(),
                    validator: None,
                },
                length: 0,
                hash: Sha256::new(),
            };
            let Ok(text) = std::fs::read(&version_path) else {
                return Ok(none);
            };
            let version: Version = match serde_json::from_slice(&text) {
                Ok(version) => version,
                Err(_) => return Ok(none),
            };
            if version.url != url || version.validator.is_none() {
                return Ok(none);
            }
            let fail = |e| io(format_args!("can't read {}", path.display()), &e);
            let mut file = match std::fs::File::open(&path) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(none),
                other => other.map_err(fail)?,
            };
            let (mut hash, mut length, mut buffer) = (Sha256::new(), 0, vec![0; 256 << 10]);
            loop {
                let got = file.read(&mut buffer).map_err(fail)?;
                if got == 0 {
                    return Ok(Part { version, length, hash });
                }
                length += got as u64;
                hash.update(buffer.get(..got).unwrap_or_default());
            }
        })
        .await
    }

    async fn attempt(&self, part: Part) -> Result<Attempt, DriverError> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if part.length > 0
            && let Some(validator) = part
                .version
                .validator
                .as_deref()
                .and_then(|v| HeaderValue::from_str(v).ok())
        {
            headers.insert(
                RANGE,
                HeaderValue::from_str(&format!("bytes={}-", part.length)).map_err(|e| internal(e.to_string()))?,
            );
            headers.insert(IF_RANGE, validator);
        }
        let answer = tokio::select! {
            answer = follow(&self.url, &headers, self.cancel, |_| Ok(())) => answer,
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
                self.receive(
                    answer,
                    Part {
                        version,
                        length: 0,
                        hash: Sha256::new(),
                    },
                    true,
                )
                .await
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
        let total = answer
            .content_length()
            .map(|rest| part.length.saturating_add(rest))
            .or(self.request.size);
        let most = self.request.size.unwrap_or(self.request.limit);
        if total.is_some_and(|total| total > self.request.limit) {
            self.discard().await;
            return Err(too_large(&self.url, self.request.limit));
        }
        let writer = self.open(&part, afresh).await?;
        let mut writer = Writer {
            file: Some(writer),
            part,
            waiting: Vec::new(),
        };
        self.progress.report("bytes fetched", writer.part.length, total);
        let mut pieces = answer.bytes_stream();
        let broken = loop {
            let piece = tokio::select! {
                piece = pieces.next() => piece,
                () = self.cancel.cancelled() => {
                    writer.flush(&self.part).await?;
                    return Err(self.cancelled());
                }
            };
            match piece {
                None => break None,
                Some(Err(e)) => break Some(failure(&self.url, &e)),
                Some(Ok(piece)) => {
                    if writer.part.length + (writer.waiting.len() + piece.len()) as u64 > most {
                        self.discard().await;
                        return Err(match self.request.size {
                            Some(size) => invalid(format!(
                                "{} is larger than the {size} bytes that it should have",
                                self.url
                            )),
                            None => too_large(&self.url, self.request.limit),
                        });
                    }
                    writer.waiting.extend_from_slice(&piece);
                    if writer.waiting.len() >= BATCH {
                        writer.flush(&self.part).await?;
                        self.progress.report("bytes fetched", writer.part.length, total);
                    }
                }
            }
        };
        writer.flush(&self.part).await?;
        let part = writer.part;
        self.progress.report("bytes fetched", part.length, total);
        let short = total.is_some_and(|total| part.length < total);
        match broken {
            Some(error) => Ok(Attempt::Broken(part, error)),
            None if short => {
                let mut error = DriverError::new(
                    "io",
                    format!(
                        "{} broke off after {} of {} bytes",
                        self.url,
                        part.length,
                        total.unwrap_or_default()
                    ),
                );
                error.retryable = true;
                Ok(Attempt::Broken(part, error))
            }
            None => Ok(Attempt::Complete(part)),
        }
    }

    async fn open(&self, part: &Part, afresh: bool) -> Result<std::fs::File, DriverError> {
        let (path, version_path, version, length) = (
            self.part.clone(),
            self.version_path(),
            part.version.clone(),
            part.length,
        );
        blocking(move || {
            let fail = |e| io(format_args!("can't write {}", path.display()), &e);
            if afresh {
                // First the note goes: a part with the note of another version would be gone on with wrongly.
                for result in [std::fs::remove_file(&version_path), std::fs::remove_file(&path)] {
                    match result {
                        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(fail(e)),
                        _ => {}
                    }
                }
            }
            let file = std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(&path)
                .map_err(fail)?;
            file.set_len(length).map_err(fail)?;
            if afresh {
                let text = serde_json::to_vec(&version).map_err(|e| internal(e.to_string()))?;
                std::fs::write(&version_path, text).map_err(fail)?;
            }
            Ok(file)
        })
        .await
    }

    /// Checks what is there and gives it its final name.
    async fn finish(&self, part: Part) -> Result<Downloaded, DriverError> {
        let sha256 = hex::encode(part.hash.finalize());
        if let Some(size) = self.request.size
            && size != part.length
        {
            self.discard().await;
            return Err(invalid(format!(
                "{} has {} bytes and should have {size}",
                self.url, part.length
            )));
        }
        if let Some(wanted) = &self.request.sha256
            && *wanted != sha256
        {
            self.discard().await;
            return Err(invalid(format!(
                "{} has the checksum {sha256} and should have {wanted}",
                self.url
            )));
        }
        let (part_path, version_path) = (self.part.clone(), self.version_path());
        let path = self.request.dir.join(&sha256);
        let size = part.length;
        blocking(move || {
            let fail = |e| io(format_args!("can't keep {}", path.display()), &e);
            std::fs::File::open(&part_path)
                .and_then(|file| file.sync_data())
                .map_err(fail)?;
            std::fs::rename(&part_path, &path).map_err(fail)?;
            // A note without its part says nothing.
            let _ = std::fs::remove_file(&version_path);
            Ok(Downloaded { path, sha256, size })
        })
        .await
    }

    /// Removes what is of no use any more.
    async fn discard(&self) {
        let paths = [self.part.clone(), self.version_path()];
        let removed = blocking(move || {
            for path in &paths {
                remove(path)?;
            }
            Ok(())
        });
        if let Err(e) = removed.await {
            tracing::warn!("can't remove a part of {}: {e}", self.url);
        }
    }
}

fn remove(path: &Path) -> Result<(), DriverError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(io(format_args!("can't remove {}", path.display()), &e))
        }
        _ => Ok(()),
    }
}

struct Writer {
    /// `None` only while it is on the thread that writes.
    file: Option<std::fs::File>,
    part: Part,
    waiting: Vec<u8>,
}

impl Writer {
    /// Writes what has come and counts it in, on a thread that may block.
    async fn flush(&mut self, path: &Path) -> Result<(), DriverError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let Some(mut file) = self.file.take() else {
            return Err(internal("a download's file is in use"));
        };
        let (bytes, mut part, path) = (std::mem::take(&mut self.waiting), self.part.clone(), path.to_owned());
        let (file, part, mut bytes) = blocking(move || {
            file.write_all(&bytes)
                .map_err(|e| io(format_args!("can't write {}", path.display()), &e))?;
            part.hash.update(&bytes);
            part.length += bytes.len() as u64;
            Ok((file, part, bytes))
        })
        .await?;
        bytes.clear();
        (self.file, self.part, self.waiting) = (Some(file), part, bytes);
        Ok(())
    }
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

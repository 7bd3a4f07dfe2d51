//! What of a file has come so far: the part itself and a note beside it that tells of which version it is.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use hutch_driver::DriverError;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Downloaded;
use crate::error::{internal, io};
use crate::fs::tree::blocking;

/// Bytes that are collected before they are written: a write is a task on another thread.
const BATCH: usize = 1 << 20;

/// Of which version a part is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Version {
    /// The address.
    pub(super) url: String,
    /// A strong entity tag, or the time of the last change (RFC 9110, 13.1.5). Without one a part can't be gone on with.
    pub(super) validator: Option<String>,
}

/// How much of a version is there, and the state of its checksum.
#[derive(Clone)]
pub(super) struct Part {
    pub(super) version: Version,
    /// In bytes.
    pub(super) length: u64,
    hash: Sha256,
}

impl Part {
    /// Nothing yet.
    pub(super) fn empty(version: Version) -> Self {
        Self {
            version,
            length: 0,
            hash: Sha256::new(),
        }
    }

    /// Its checksum in lower-case hexadecimal.
    pub(super) fn sha256(&self) -> String {
        hex::encode(self.hash.clone().finalize())
    }
}

/// The files of a part.
#[derive(Clone, Debug)]
pub(super) struct PartFiles {
    path: PathBuf,
    note: PathBuf,
}

impl PartFiles {
    /// Of the download `name` in `dir`.
    pub(super) fn new(dir: &Path, name: &str) -> Self {
        Self {
            path: dir.join(format!("{name}.part")),
            note: dir.join(format!("{name}.part.json")),
        }
    }

    /// What an earlier attempt left of `url`, if it can be gone on with, else nothing. It is read for its checksum.
    pub(super) async fn read(&self, url: &str) -> Result<Part, DriverError> {
        let (files, url) = (self.clone(), url.to_owned());
        blocking(move || {
            let noted = std::fs::read(&files.note)
                .ok()
                .and_then(|text| serde_json::from_slice::<Version>(&text).ok());
            let usable = |version: &Version| version.url == url && version.validator.is_some();
            let Some(version) = noted.filter(usable) else {
                return Ok(Part::empty(Version { url, validator: None }));
            };
            let mut part = Part::empty(version);
            let fail = |e| io(format_args!("can't read {}", files.path.display()), &e);
            let mut file = match std::fs::File::open(&files.path) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(part),
                other => other.map_err(fail)?,
            };
            let mut buffer = vec![0; 256 << 10];
            loop {
                let got = file.read(&mut buffer).map_err(fail)?;
                if got == 0 {
                    return Ok(part);
                }
                part.length += got as u64;
                part.hash.update(buffer.get(..got).unwrap_or_default());
            }
        })
        .await
    }

    /// Opens the files for what comes after `part`; `afresh` begins them again.
    pub(super) async fn open(&self, part: Part, afresh: bool) -> Result<Writer, DriverError> {
        let files = self.clone();
        blocking(move || {
            let fail = |e| io(format_args!("can't write {}", files.path.display()), &e);
            if afresh {
                // First the note goes: a part with the note of another version would be gone on with wrongly.
                remove(&files.note)?;
                remove(&files.path)?;
            }
            let file = std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(&files.path)
                .map_err(fail)?;
            file.set_len(part.length).map_err(fail)?;
            if afresh {
                let text = serde_json::to_vec(&part.version).map_err(|e| internal(e.to_string()))?;
                std::fs::write(&files.note, text).map_err(fail)?;
            }
            Ok(Writer {
                file: Some(file),
                part,
                waiting: Vec::new(),
                path: files.path,
            })
        })
        .await
    }

    /// Gives what is complete its final name in `dir`, on the disk.
    pub(super) async fn keep(&self, dir: &Path, part: &Part) -> Result<Downloaded, DriverError> {
        let (files, sha256, size) = (self.clone(), part.sha256(), part.length);
        let path = dir.join(&sha256);
        blocking(move || {
            let fail = |e| io(format_args!("can't keep {}", path.display()), &e);
            std::fs::File::open(&files.path)
                .and_then(|file| file.sync_data())
                .map_err(fail)?;
            std::fs::rename(&files.path, &path).map_err(fail)?;
            // A note without its part says nothing.
            let _ = std::fs::remove_file(&files.note);
            Ok(Downloaded { path, sha256, size })
        })
        .await
    }

    /// Removes what is of no use any more.
    pub(super) async fn discard(&self) {
        let files = self.clone();
        if let Err(e) = blocking(move || remove(&files.note).and(remove(&files.path))).await {
            tracing::warn!("a part of a download stays: {e}");
        }
    }
}

/// Removes a file. What is not there succeeds.
pub(super) fn remove(path: &Path) -> Result<(), DriverError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(io(format_args!("can't remove {}", path.display()), &e))
        }
        _ => Ok(()),
    }
}

/// Adds to a part.
pub(super) struct Writer {
    /// `None` only while it is on the thread that writes.
    file: Option<std::fs::File>,
    part: Part,
    waiting: Vec<u8>,
    path: PathBuf,
}

impl Writer {
    /// Bytes that are there or wait to be written.
    pub(super) fn length(&self) -> u64 {
        self.part.length + self.waiting.len() as u64
    }

    /// Adds bytes, and says whether they were many enough to be written.
    pub(super) async fn add(&mut self, bytes: &[u8]) -> Result<bool, DriverError> {
        self.waiting.extend_from_slice(bytes);
        if self.waiting.len() < BATCH {
            return Ok(false);
        }
        self.flush().await.map(|()| true)
    }

    /// Writes what waits and ends.
    pub(super) async fn finish(mut self) -> Result<Part, DriverError> {
        self.flush().await?;
        Ok(self.part)
    }

    /// Writes what has come and counts it in, on a thread that may block.
    async fn flush(&mut self) -> Result<(), DriverError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let Some(mut file) = self.file.take() else {
            return Err(internal("a download's file is in use"));
        };
        let (bytes, mut part, path) = (std::mem::take(&mut self.waiting), self.part.clone(), self.path.clone());
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

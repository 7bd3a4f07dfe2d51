//! The store of plugins: their files by the SHA-256 of their content, below `plugins/sha256/` in the state directory, each
//! with a record of what was found out about it.
//!
//! A plugin is loaded from here and never from where it was found, so that a file that is exchanged under a running daemon
//! changes nothing (the next start sees another digest).

use std::fs::{DirBuilder, File};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::binary::{self, BinaryError, Inspected, MAX_FILE};
use crate::manifest::Manifest;
use crate::quarantine::Quarantine;
use crate::versions;

/// The version of the record's format.
const RECORD_FORMAT: u32 = 1;
const WASM: &str = "plugin.wasm";
const RECORD: &str = "record.json";
const QUARANTINE: &str = "quarantine.json";

/// Why a file could not be taken in.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It can't be read, or the store can't be written.
    #[error("can't use {path}", path = path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It is no plugin of this host.
    #[error("{path} is not a plugin for this host", path = path.display())]
    NotAPlugin {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: BinaryError,
    },
    /// The store has no plugin of this digest.
    #[error("no plugin with the digest sha256:{0} is stored")]
    Unknown(String),
    /// What is called a digest is none.
    #[error("{0:?} is not a SHA-256 digest in lower-case hexadecimal")]
    Digest(String),
    /// The stored record was written by a newer version.
    #[error("the record of sha256:{digest} has format {format}, and this version reads up to {RECORD_FORMAT}")]
    Newer {
        /// The plugin.
        digest: String,
        /// The record's format.
        format: u32,
    },
    /// The file's content is not what its name says.
    #[error("the stored file of sha256:{0} was changed: its content has another digest")]
    Changed(String),
}

/// A plugin in the store.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    /// SHA-256 of the file in lower-case hexadecimal.
    pub(crate) digest: String,
    /// Its manifest.
    pub(crate) manifest: Manifest,
    /// The optional interfaces that it exports.
    pub(crate) abilities: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    format: u32,
    /// The versions of the interfaces of the host that found it out: another one may refuse it, or see more in it.
    host: String,
    size: u64,
    manifest: String,
    abilities: Vec<String>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct FileStore {
    directory: PathBuf,
}

impl FileStore {
    /// Opens the store in `directory`, which is made if it is missing.
    pub(crate) fn open(directory: PathBuf) -> Result<Self, FileError> {
        let store = Self { directory };
        let path = store.directory.clone();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(io(&path))?;
        store.remove_leftovers();
        Ok(store)
    }

    /// Where the file of `digest` is.
    pub(crate) fn wasm(&self, digest: &str) -> PathBuf {
        self.directory.join(digest).join(WASM)
    }

    /// Takes in the file at `path`, unless it is stored already.
    pub(crate) fn add(&self, path: &Path) -> Result<Stored, FileError> {
        self.add_bytes(path, &read(path)?)
    }

    /// Takes in a file that is in memory, unless it is stored already. `path` is what errors call it.
    pub(crate) fn add_bytes(&self, path: &Path, bytes: &[u8]) -> Result<Stored, FileError> {
        let digest = digest_of(bytes);
        match self.get(&digest) {
            Ok(stored) => return Ok(stored),
            Err(FileError::Unknown(_)) => {}
            Err(error) => return Err(error),
        }
        let inspected = inspect(path, bytes)?;
        self.put(&digest, bytes, &inspected)?;
        Ok(Stored {
            digest,
            manifest: inspected.manifest,
            abilities: inspected.abilities,
        })
    }

    /// Finds the plugin of `digest`.
    pub(crate) fn get(&self, digest: &str) -> Result<Stored, FileError> {
        if !is_digest(digest) {
            return Err(FileError::Digest(digest.to_owned()));
        }
        let path = self.directory.join(digest).join(RECORD);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return self.restore(digest),
            Err(source) => return Err(FileError::Io { path, source }),
        };
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        if let Ok(Format { format }) = serde_json::from_slice(&text)
            && format > RECORD_FORMAT
        {
            return Err(FileError::Newer {
                digest: digest.to_owned(),
                format,
            });
        }
        let record = serde_json::from_slice::<Record>(&text).ok();
        let record = record.filter(|record| record.host == versions::all());
        let manifest = record
            .as_ref()
            .and_then(|record| Manifest::parse(record.manifest.as_bytes()).ok());
        match (record, manifest) {
            (Some(record), Some(manifest)) => Ok(Stored {
                digest: digest.to_owned(),
                manifest,
                abilities: record.abilities,
            }),
            // Older, or damaged, or of another host: the file itself says it all again.
            _ => self.restore(digest),
        }
    }

    /// Whether the stored file is what its name says. Asked before it is compiled.
    pub(crate) fn verify(&self, digest: &str) -> Result<(), FileError> {
        self.read(digest).map(drop)
    }

    /// Whether an earlier run of the daemon left the plugin of `digest` in quarantine.
    pub(crate) fn quarantine(&self, digest: &str) -> Option<Quarantine> {
        match std::fs::read(self.directory.join(digest).join(QUARANTINE)) {
            Ok(text) => Some(Quarantine::from_bytes(&text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => Some(Quarantine::unreadable(&error.to_string())),
        }
    }

    /// Records that the stored plugin of `digest` is in quarantine, or no longer is. Durable when it returns.
    pub(crate) fn set_quarantine(&self, digest: &str, quarantine: Option<&Quarantine>) -> Result<(), FileError> {
        let directory = self.directory.join(digest);
        let path = directory.join(QUARANTINE);
        match quarantine {
            Some(quarantine) => {
                let temporary = path.with_extension("new");
                write(&temporary, &quarantine.to_bytes())?;
                std::fs::rename(&temporary, &path).map_err(io(&path))?;
            }
            None => match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(&path)(error)),
                _ => {}
            },
        }
        File::open(&directory)
            .and_then(|directory| directory.sync_all())
            .map_err(io(&directory))
    }

    /// Makes the record of a stored file anew.
    fn restore(&self, digest: &str) -> Result<Stored, FileError> {
        let path = self.wasm(digest);
        let bytes = match read(&path) {
            Err(FileError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Err(FileError::Unknown(digest.to_owned()));
            }
            other => other?,
        };
        if digest_of(&bytes) != digest {
            return Err(FileError::Changed(digest.to_owned()));
        }
        let inspected = inspect(&path, &bytes)?;
        let record = self.directory.join(digest).join(RECORD);
        write(&record, &record_text(bytes.len(), &inspected))?;
        Ok(Stored {
            digest: digest.to_owned(),
            manifest: inspected.manifest,
            abilities: inspected.abilities,
        })
    }

    /// Stores a file: in a directory that appears complete under its digest or not at all.
    fn put(&self, digest: &str, bytes: &[u8], inspected: &Inspected) -> Result<(), FileError> {
        // Two may take in the same file at once.
        static TURN: AtomicU64 = AtomicU64::new(0);
        let turn = TURN.fetch_add(1, Ordering::Relaxed);
        let temporary = self.directory.join(format!(".{digest}-{}-{turn}", std::process::id()));
        DirBuilder::new()
            .mode(0o700)
            .create(&temporary)
            .map_err(io(&temporary))?;
        let put = write(&temporary.join(WASM), bytes)
            .and_then(|()| write(&temporary.join(RECORD), &record_text(bytes.len(), inspected)))
            .and_then(|()| std::fs::rename(&temporary, self.directory.join(digest)).map_err(io(&temporary)))
            .and_then(|()| {
                File::open(&self.directory)
                    .and_then(|d| d.sync_all())
                    .map_err(io(&self.directory))
            });
        if put.is_err() {
            // The error that is told is the first one.
            let _ = std::fs::remove_dir_all(&temporary);
            if self.wasm(digest).exists() {
                // Somebody was quicker, and what lies there is complete.
                return Ok(());
            }
        }
        put
    }

    /// The digests of all that is stored.
    pub(crate) fn digests(&self) -> Result<Vec<String>, FileError> {
        let entries = std::fs::read_dir(&self.directory).map_err(io(&self.directory))?;
        let names = entries.flatten().map(|entry| entry.file_name());
        Ok(names
            .filter_map(|name| name.into_string().ok())
            .filter(|name| is_digest(name))
            .collect())
    }

    /// Removes the plugin of `digest` with all that was recorded of it: whole, or not at all.
    pub(crate) fn remove(&self, digest: &str) -> Result<(), FileError> {
        let (path, gone) = (
            self.directory.join(digest),
            self.directory.join(format!(".{digest}-gone")),
        );
        match std::fs::rename(&path, &gone) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(io(&path))?,
        }
        std::fs::remove_dir_all(&gone).map_err(io(&gone))
    }

    /// The file of `digest`, once its content was found to be what its name says.
    pub(crate) fn read(&self, digest: &str) -> Result<Vec<u8>, FileError> {
        let bytes = read(&self.wasm(digest))?;
        if digest_of(&bytes) == digest {
            Ok(bytes)
        } else {
            Err(FileError::Changed(digest.to_owned()))
        }
    }

    /// Removes what a killed daemon left half-written.
    fn remove_leftovers(&self) {
        let Ok(entries) = std::fs::read_dir(&self.directory) else {
            return;
        };
        for entry in entries.flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(b".")
                && let Err(error) = std::fs::remove_dir_all(entry.path())
            {
                tracing::warn!(path = %entry.path().display(), %error, "can't remove a half-written plugin");
            }
        }
    }
}

/// SHA-256 of a file's content in lower-case hexadecimal: what a plugin is called by.
pub fn digest_of(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn record_text(size: usize, inspected: &Inspected) -> Vec<u8> {
    let record = Record {
        format: RECORD_FORMAT,
        host: versions::all(),
        size: size as u64,
        manifest: inspected.manifest_text.clone(),
        abilities: inspected.abilities.clone(),
    };
    // A record holds numbers and texts, which always can be written.
    serde_json::to_vec(&record).unwrap_or_default()
}

fn inspect(path: &Path, bytes: &[u8]) -> Result<Inspected, FileError> {
    binary::inspect(bytes).map_err(|source| FileError::NotAPlugin {
        path: path.to_owned(),
        source,
    })
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError::Io { path, source }
}

/// Reads a file of at most [`MAX_FILE`] bytes.
fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    let file = File::open(path).map_err(io(path))?;
    let size = file.metadata().map_err(io(path))?.len();
    let too_large = |size| FileError::NotAPlugin {
        path: path.to_owned(),
        source: BinaryError::TooLarge(size),
    };
    if size > MAX_FILE {
        return Err(too_large(size));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(io(path))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(too_large(bytes.len() as u64));
    }
    Ok(bytes)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(io(path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(io(path))
}

//! The registry: which plugins were installed by command, and what was decided about them and about the bundled ones. One
//! file, `plugins/registry.json` in the state directory, replaced whole by each change: a daemon that is killed finds the old
//! one or the new one.
//!
//! What it refers to is written before it: a digest that is in the registry is in the store.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use hutch_broker::Permissions;
use hutch_driver::Options;
use serde::{Deserialize, Serialize};

use crate::fault;

/// The version of the file's format. Since 2 a held version says what else the operator has to agree to, since 3 what
/// was agreed to when it came.
const FORMAT: u32 = 3;
const FILE: &str = "registry.json";

/// Why the registry can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// A file can't be worked with.
    #[error("can't use {path}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A newer version of the daemon wrote it.
    #[error("{path} has format {format}, and this version reads format {FORMAT}", path = path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: u32,
    },
    /// It is damaged.
    #[error("{path} can't be read", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
}

/// Who answers for a plugin's file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", tag = "kind")]
pub enum Provenance {
    /// A publisher whom the operator trusts signed it.
    Signed {
        /// The publisher's name in the trust file, as it was then.
        publisher: String,
        /// The id of the key, 16 hexadecimal digits.
        key: String,
    },
    /// A local file without a signature: its author's, or one that was looked at.
    Dev,
    /// Nobody, and the operator let it pass.
    Unsigned,
}

/// One file that a plugin is or was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Version {
    /// SHA-256 of the file in lower-case hexadecimal.
    pub digest: String,
    /// The version in its manifest.
    pub version: String,
    /// Where it came from, for people: a file's name, an address.
    pub source: String,
    /// Who answers for it.
    pub provenance: Provenance,
    /// The publisher's signature of it, as minisign writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// The operator's settings for it.
    pub config: Options,
    /// When it was taken in, in seconds since 1970-01-01 00:00 UTC.
    pub taken_in: u64,
}

impl Version {
    /// Whether a publisher answers for it.
    pub(crate) fn is_signed(&self) -> bool {
        matches!(self.provenance, Provenance::Signed { .. })
    }
}

/// Why an upgrade may not be what the operator means, whatever it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DoubtKind {
    /// Somebody else answers for it than for the version in use, or nobody does.
    Publisher,
    /// It is older than the version in use.
    Downgrade,
}

/// One such reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Doubt {
    /// Of which kind.
    pub kind: DoubtKind,
    /// In words: a clause that goes on from the version's name.
    pub reason: String,
}

/// A version that waits for the operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Held {
    /// The version.
    pub version: Version,
    /// What is new in its requests: its plugin was never asked to be granted that.
    pub more: Permissions,
    /// What else the operator was told that has to be agreed to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub doubts: Vec<Doubt>,
    /// What it is taken in despite of: that was agreed to when it came.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub despite: Vec<DoubtKind>,
}

/// What is decided about one plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Record {
    /// The plugin's id.
    pub id: String,
    /// The version in use; none where that is the bundled one.
    pub active: Option<Version>,
    /// The version before it, for a rollback; none where there was none or it was the bundled one.
    pub previous: Option<Version>,
    /// A version that waits for a grant.
    pub held: Option<Held>,
    /// Whether it is in service.
    pub enabled: bool,
    /// What it may do; none where that is what comes with a bundled plugin.
    pub grants: Option<Permissions>,
    /// When it was installed, in seconds since 1970-01-01 00:00 UTC.
    pub installed_at: u64,
    /// When this record was last changed, the same way.
    pub changed_at: u64,
}

impl Record {
    /// The record of a plugin about which nothing was decided yet.
    pub(crate) fn new(id: &str) -> Self {
        let now = now();
        Self {
            id: id.to_owned(),
            active: None,
            previous: None,
            held: None,
            enabled: true,
            grants: None,
            installed_at: now,
            changed_at: now,
        }
    }

    /// The digests that it refers to.
    pub(crate) fn digests(&self) -> impl Iterator<Item = &str> {
        let held = self.held.as_ref().map(|held| &held.version);
        let versions = [self.active.as_ref(), self.previous.as_ref(), held];
        versions.into_iter().flatten().map(|version| version.digest.as_str())
    }

    /// Whether it says nothing that would not be so without it.
    fn is_empty(&self) -> bool {
        self.enabled && self.digests().next().is_none() && self.grants.is_none()
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    format: u32,
    plugins: Vec<Record>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Registry {
    path: PathBuf,
    records: Vec<Record>,
}

impl Registry {
    /// Reads the registry in `directory`, which exists. Without a file it is empty.
    pub(crate) fn open(directory: &Path) -> Result<Self, RegistryError> {
        let path = directory.join(FILE);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self {
                    path,
                    records: Vec::new(),
                });
            }
            Err(source) => return Err(RegistryError::Io { path, source }),
        };
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        match serde_json::from_slice(&text) {
            Ok(Format { format }) if format > FORMAT => return Err(RegistryError::Newer { path, format }),
            _ => {}
        }
        match serde_json::from_slice::<Content>(&text) {
            Ok(content) => Ok(Self {
                path,
                records: content.plugins,
            }),
            Err(source) => Err(RegistryError::Damaged { path, source }),
        }
    }

    /// What is decided, in the order in which it was first.
    pub(crate) fn records(&self) -> &[Record] {
        &self.records
    }

    /// What is decided about the plugin `id`.
    pub(crate) fn get(&self, id: &str) -> Option<&Record> {
        self.records.iter().find(|record| record.id == id)
    }

    /// Writes `record` in the place of the one with its id, or behind the others; a record that says nothing goes. `change`
    /// names the change for tests that kill the daemon. It lasts when this returns. Blocks.
    ///
    /// # Errors
    /// When it can't be written; then nothing has changed.
    pub(crate) fn put(&mut self, change: &str, mut record: Record) -> Result<(), RegistryError> {
        record.changed_at = now();
        let mut records = self.records.clone();
        let at = records.iter().position(|other| other.id == record.id);
        match (at, record.is_empty()) {
            (Some(at), true) => drop(records.remove(at)),
            (Some(at), false) => records[at] = record,
            (None, true) => {}
            (None, false) => records.push(record),
        }
        self.write(change, records)
    }

    /// Forgets what was decided about the plugin `id`. As [`Registry::put`].
    pub(crate) fn remove(&mut self, change: &str, id: &str) -> Result<(), RegistryError> {
        let mut records = self.records.clone();
        records.retain(|record| record.id != id);
        self.write(change, records)
    }

    fn write(&mut self, change: &str, records: Vec<Record>) -> Result<(), RegistryError> {
        let content = Content {
            format: FORMAT,
            plugins: records,
        };
        // Texts, numbers and maps with texts as keys, which always can be written.
        let text = serde_json::to_vec_pretty(&content).map_err(|source| RegistryError::Damaged {
            path: self.path.clone(),
            source,
        })?;
        replace(&self.path, &text, || fault::point(change, "written")).map_err(|source| RegistryError::Io {
            path: self.path.clone(),
            source,
        })?;
        self.records = content.plugins;
        fault::point(change, "registered");
        Ok(())
    }
}

/// Replaces the file at `path`, so that it has the old content or the new one whatever happens. `between` is called when the
/// new one is on disk and not in its place yet.
pub(crate) fn replace(path: &Path, content: &[u8], between: impl FnOnce()) -> std::io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    between();
    std::fs::rename(&temporary, path)?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

/// Seconds since 1970-01-01 00:00 UTC.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(digest: char) -> Version {
        Version {
            digest: digest.to_string().repeat(64),
            version: "1.0.0".to_owned(),
            source: "x.wasm".to_owned(),
            provenance: Provenance::Dev,
            signature: None,
            config: Options::from([("a".to_owned(), "1".to_owned())]),
            taken_in: 1,
        }
    }

    #[test]
    fn what_was_written_is_read() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut registry = Registry::open(directory.path()).expect("none yet");
        assert!(registry.records().is_empty());
        let record = Record {
            active: Some(version('a')),
            held: Some(Held {
                version: version('b'),
                more: Permissions {
                    link: true,
                    ..Permissions::default()
                },
                doubts: vec![Doubt {
                    kind: DoubtKind::Downgrade,
                    reason: "is older".to_owned(),
                }],
                despite: vec![DoubtKind::Publisher],
            }),
            enabled: false,
            ..Record::new("org.example.a")
        };
        registry.put("test", record).expect("written");
        registry.put("test", Record::new("org.example.b")).expect("written");
        let read = Registry::open(directory.path()).expect("there");
        assert_eq!(read.records(), registry.records());
        assert_eq!(read.records().len(), 1, "a record that says nothing is none");
        assert_eq!(
            read.get("org.example.a").map(|record| record.digests().count()),
            Some(2)
        );
        registry.remove("test", "org.example.a").expect("written");
        assert!(Registry::open(directory.path()).expect("there").records().is_empty());
    }

    #[test]
    fn what_an_earlier_version_wrote_is_read() {
        let directory = tempfile::tempdir().expect("a directory");
        let held = serde_json::json!({ "version": version('b'), "more": {} });
        let record = serde_json::json!({
            "id": "org.example.a", "active": version('a'), "previous": null, "held": held, "enabled": true, "grants": null,
            "installed-at": 1, "changed-at": 1,
        });
        let content = serde_json::json!({ "format": 1, "plugins": [record] });
        std::fs::write(directory.path().join(FILE), content.to_string()).expect("written");
        let registry = Registry::open(directory.path()).expect("read");
        let held = registry.get("org.example.a").and_then(|record| record.held.as_ref());
        assert_eq!(held.map(|held| held.doubts.len()), Some(0));
    }

    #[test]
    fn what_is_newer_or_damaged_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        for (text, why) in [
            (r#"{"format":4,"plugins":{}}"#, "has format 4"),
            (r#"{"format":1,"plugins":[],"more":1}"#, "can't be read"),
            (r#"{"format":1,"plu"#, "can't be read"),
            ("", "can't be read"),
        ] {
            std::fs::write(directory.path().join(FILE), text).expect("written");
            let error = Registry::open(directory.path()).expect_err(text).to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}

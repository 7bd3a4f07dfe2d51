//! The daemon's state: a small ordered key-value store with transactions.
//!
//! The core sees only [`Store`]. On one machine it is [`SqliteStore`]; a cluster puts etcd behind the same trait, which is why
//! the operations are those that both have: reads of one key and of a prefix, and a transaction that compares versions
//! before it writes.
//!
//! **What lasts.** A transaction that was answered survives the death of the process at any instruction. After a loss of
//! power the store is consistent, and the newest transactions (those since the last checkpoint that reached the disk) may
//! be missing as a whole, newest first; [`Store::sync`] makes everything answered so far last through that, too.

mod sqlite;

use async_trait::async_trait;

pub use sqlite::SqliteStore;

/// A value and how often its key was written: `version` rises with every write of the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The bytes that were put.
    pub value: Vec<u8>,
    /// At least 1; never used twice for one key while it exists.
    pub version: u64,
}

/// A condition of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key is not there.
    Absent(String),
    /// The key was last written with this version.
    Version(String, u64),
}

/// A write of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Sets a key.
    Put(String, Vec<u8>),
    /// Removes a key; one that is not there is no error.
    Delete(String),
}

/// Conditions and writes that happen together or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// All must hold.
    pub compare: Vec<Compare>,
    /// Done in order.
    pub write: Vec<Write>,
}

impl Transaction {
    /// A transaction without conditions or writes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the condition that `key` is not there.
    #[must_use]
    pub fn absent(mut self, key: impl Into<String>) -> Self {
        self.compare.push(Compare::Absent(key.into()));
        self
    }

    /// Adds a write of `value` as JSON.
    ///
    /// # Errors
    /// [`StoreError::Encode`] when the value has no JSON form, which is a fault of the program.
    pub fn put<T: serde::Serialize>(mut self, key: impl Into<String>, value: &T) -> Result<Self, StoreError> {
        let key = key.into();
        let bytes = serde_json::to_vec(value).map_err(|source| StoreError::Encode {
            key: key.clone(),
            source,
        })?;
        self.write.push(Write::Put(key, bytes));
        Ok(self)
    }

    /// Adds the removal of `key`.
    #[must_use]
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.write.push(Write::Delete(key.into()));
        self
    }
}

/// Whether a transaction's conditions held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Committed,
    /// Nothing was done.
    Conflict,
}

/// Why the store could not answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database could not be opened or refused a statement.
    #[error("state database {path}: {action}")]
    Sqlite {
        /// The database file.
        path: String,
        /// What was being done.
        action: &'static str,
        /// SQLite's reason.
        #[source]
        source: rusqlite::Error,
    },
    /// A group of changes was taken back as a whole; each of its callers hears it.
    #[error("state database {path}: the change was not committed: {reason}")]
    Commit {
        /// The database file.
        path: String,
        /// SQLite's reason, in words because several callers share it.
        reason: String,
    },
    /// The database was written by a newer version of the daemon.
    #[error(
        "state database {path} has schema {found}, and this version knows {known}: start the version that wrote it"
    )]
    Newer {
        /// The database file.
        path: String,
        /// Its schema.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// A value could not be written as JSON.
    #[error("encoding the value of {key}")]
    Encode {
        /// The key.
        key: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A value is not what was expected.
    #[error("decoding the value of {key}")]
    Decode {
        /// The key.
        key: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The store's thread is gone: the daemon is going down.
    #[error("the state database is closed")]
    Closed,
}

/// An ordered key-value store with transactions.
#[async_trait]
pub trait Store: Send + Sync {
    /// The entry of one key.
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError>;
    /// All entries whose key begins with `prefix`, in the order of their keys (bytewise).
    async fn range(&self, prefix: &str) -> Result<Vec<(String, Entry)>, StoreError>;
    /// Does a transaction.
    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError>;
    /// Returns once everything answered so far would survive a loss of power.
    async fn sync(&self) -> Result<(), StoreError>;
    /// As [`Store::sync`], and nothing is asked or changed any more: all that comes later is [`StoreError::Closed`].
    async fn close(&self) -> Result<(), StoreError>;
}

/// Reads all values below `prefix` as JSON, with the rest of each key.
///
/// # Errors
/// [`StoreError`]; one value that can't be decoded fails the whole, because leaving out an object would lose it.
pub async fn load<T: serde::de::DeserializeOwned>(
    store: &dyn Store,
    prefix: &str,
) -> Result<Vec<(String, T)>, StoreError> {
    let mut out = Vec::new();
    for (key, entry) in store.range(prefix).await? {
        let value = serde_json::from_slice(&entry.value).map_err(|source| StoreError::Decode {
            key: key.clone(),
            source,
        })?;
        out.push((key[prefix.len()..].to_owned(), value));
    }
    Ok(out)
}

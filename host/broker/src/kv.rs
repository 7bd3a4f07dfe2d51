//! `hutch:host/kv`: a bounded store for each plugin, in one SQLite file.
//!
//! One thread writes. It takes everything that is waiting into one transaction, so that many writers at once pay for one
//! flush to the disk (invariant 6: commits are grouped), and answers after the commit. Readers have a connection of their own
//! and see what is committed. The file is in WAL mode with full synchronisation: what was answered survives a lost power
//! supply.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use hutch_driver::DriverError;
use rusqlite::{Connection, OptionalExtension as _, params};
use tokio::sync::{mpsc, oneshot};

use crate::error::{internal, invalid, io};
use crate::fs::tree::blocking;
use crate::{CallContext, Request, Response};

/// Version of the file's layout, in `user_version`.
const SCHEMA: i64 = 1;
/// Longest key, in bytes (`wit/host`).
const MAX_KEY: usize = 512;
/// Most keys that one call answers.
const MAX_KEYS: u32 = 10_000;
/// What a key and a value take beside their bytes, counted against the limit so that empty ones are not free.
const OVERHEAD: u64 = 64;
/// Most writes in one transaction, so that none waits long.
const MAX_GROUP: usize = 256;

/// A change, and where its answer goes.
struct Write {
    plugin: String,
    limit: u64,
    change: Change,
    answer: oneshot::Sender<Result<bool, DriverError>>,
}

enum Change {
    Set {
        key: String,
        value: Vec<u8>,
    },
    CompareAndSet {
        key: String,
        expected: Option<Vec<u8>>,
        value: Vec<u8>,
    },
    Delete {
        key: String,
    },
    Forget,
}

/// The stores of all plugins.
#[derive(Debug)]
pub(crate) struct Store {
    writes: mpsc::UnboundedSender<Write>,
    reader: Arc<Mutex<Connection>>,
    used: Arc<Used>,
}

/// Bytes that each plugin's store holds, for whoever may not wait for the file. What was answered is counted.
#[derive(Debug, Default)]
struct Used(Mutex<HashMap<String, u64>>);

impl Used {
    /// Reads those of all plugins.
    fn load(&self, db: &Connection) -> rusqlite::Result<()> {
        let mut statement = db.prepare("SELECT plugin, bytes FROM used")?;
        let rows = statement.query_map([], |row| {
            let bytes: i64 = row.get(1)?;
            Ok((row.get(0)?, u64::try_from(bytes).unwrap_or(0)))
        })?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = rows.collect::<Result<_, _>>()?;
        Ok(())
    }

    /// Reads those of the plugins of `group`, which has just been written.
    fn refresh(&self, db: &Connection, group: &[Write]) -> rusqlite::Result<()> {
        for write in group {
            let bytes = used(db, &write.plugin)?;
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match bytes {
                0 => drop(all.remove(&write.plugin)),
                bytes => drop(all.insert(write.plugin.clone(), bytes)),
            }
        }
        Ok(())
    }
}

impl Store {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// `io` where it can't be opened; `unavailable` where a newer version wrote it.
    pub(crate) async fn open(path: &Path) -> Result<Self, DriverError> {
        let path = path.to_owned();
        blocking(move || {
            if let Some(parent) = path.parent() {
                let mut builder = std::fs::DirBuilder::new();
                std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
                builder
                    .recursive(true)
                    .create(parent)
                    .map_err(|e| io(format_args!("can't make {}", parent.display()), &e))?;
            }
            let fail = |e| sql(&format!("can't open {}", path.display()), &e);
            let writer = connect(&path).map_err(fail)?;
            prepare(&writer, &path)?;
            let reader = Arc::new(Mutex::new(connect(&path).map_err(fail)?));
            let used = Arc::new(Used::default());
            used.load(&writer).map_err(fail)?;
            let counted = Arc::clone(&used);
            let (writes, receiver) = mpsc::unbounded_channel();
            std::thread::Builder::new()
                .name("hutch-kv".to_owned())
                .spawn(move || run(writer, receiver, &counted))
                .map_err(|e| io("can't start the thread of the key-value store", &e))?;
            Ok(Self { writes, reader, used })
        })
        .await
    }

    /// Does a `kv` request.
    pub(crate) async fn call(&self, cx: &CallContext, request: Request) -> Result<Response, DriverError> {
        match request {
            Request::KvGet { key } => self
                .read(cx, move |db, plugin| get(db, plugin, &key))
                .await
                .map(Response::Bytes),
            Request::KvKeys { prefix, after, limit } => self
                .read(cx, move |db, plugin| {
                    keys(db, plugin, &prefix, after.as_deref(), limit.min(MAX_KEYS))
                })
                .await
                .map(Response::Strings),
            Request::KvSet { key, value } => self.write(cx, Change::Set { key, value }).await.map(|_| Response::Unit),
            Request::KvCompareAndSet { key, expected, value } => self
                .write(cx, Change::CompareAndSet { key, expected, value })
                .await
                .map(Response::Bool),
            Request::KvDelete { key } => self.write(cx, Change::Delete { key }).await.map(|_| Response::Unit),
            other => Err(internal(format!("{} is not a function of kv", other.function()))),
        }
    }

    /// Bytes that a plugin's store holds.
    pub(crate) fn used(&self, plugin: &str) -> u64 {
        let used = self.used.0.lock().unwrap_or_else(PoisonError::into_inner);
        used.get(plugin).copied().unwrap_or(0)
    }

    /// Removes everything of a plugin's.
    ///
    /// # Errors
    /// `io` where the file can't be written.
    pub(crate) async fn forget(&self, plugin: &str) -> Result<(), DriverError> {
        self.submit(plugin, u64::MAX, Change::Forget).await.map(drop)
    }

    async fn read<T: Send + 'static>(
        &self,
        cx: &CallContext,
        work: impl FnOnce(&Connection, &str) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, DriverError> {
        let (reader, plugin) = (Arc::clone(&self.reader), cx.subject.plugin.clone());
        blocking(move || {
            let db = reader.lock().unwrap_or_else(PoisonError::into_inner);
            work(&db, &plugin).map_err(|e| sql("can't read the key-value store", &e))
        })
        .await
    }

    async fn write(&self, cx: &CallContext, change: Change) -> Result<bool, DriverError> {
        let limit = cx.subject.limits.kv_bytes;
        match &change {
            Change::Set { key, value } | Change::CompareAndSet { key, value, .. } => {
                // SQLite's functions on texts end at a zero byte.
                if key.is_empty() || key.len() > MAX_KEY || key.contains('\0') {
                    return Err(invalid(format!(
                        "a key has 1 to {MAX_KEY} bytes, none of them zero: {:?} does not",
                        key.chars().take(40).collect::<String>()
                    )));
                }
                if cost(key, value) > limit {
                    return Err(full(&cx.subject.plugin, limit));
                }
            }
            Change::Delete { .. } | Change::Forget => {}
        }
        self.submit(&cx.subject.plugin, limit, change).await
    }

    async fn submit(&self, plugin: &str, limit: u64, change: Change) -> Result<bool, DriverError> {
        let gone = || internal("the thread of the key-value store is gone");
        let (answer, result) = oneshot::channel();
        self.writes
            .send(Write {
                plugin: plugin.to_owned(),
                limit,
                change,
                answer,
            })
            .map_err(|_| gone())?;
        result.await.map_err(|_| gone())?
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let db = Connection::open(path)?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    // KiB, negative; the daemon's memory is a promise.
    db.pragma_update(None, "cache_size", -256)?;
    db.busy_timeout(std::time::Duration::from_secs(10))?;
    Ok(db)
}

fn prepare(db: &Connection, path: &Path) -> Result<(), DriverError> {
    let fail = |e| sql(&format!("can't prepare {}", path.display()), &e);
    let version: i64 = db
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(fail)?;
    if version > SCHEMA {
        return Err(DriverError::new(
            "unavailable",
            format!(
                "{} was written by a newer version (layout {version}, known up to {SCHEMA})",
                path.display()
            ),
        ));
    }
    if version == 0 {
        let script = format!(
            "BEGIN IMMEDIATE;
             CREATE TABLE IF NOT EXISTS kv (plugin TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (plugin, key)) WITHOUT ROWID;
             CREATE TABLE IF NOT EXISTS used (plugin TEXT PRIMARY KEY, bytes INTEGER NOT NULL) WITHOUT ROWID;
             PRAGMA user_version = {SCHEMA};
             COMMIT;"
        );
        db.execute_batch(&script).map_err(fail)?;
    }
    Ok(())
}

fn run(mut db: Connection, mut writes: mpsc::UnboundedReceiver<Write>, used: &Used) {
    while let Some(first) = writes.blocking_recv() {
        let mut group = vec![first];
        while group.len() < MAX_GROUP
            && let Ok(next) = writes.try_recv()
        {
            group.push(next);
        }
        let results = commit(&mut db, &group);
        if let Err(error) = used.refresh(&db, &group) {
            tracing::warn!(%error, "the sizes of plugins' stores are those of before");
        }
        for (index, write) in group.into_iter().enumerate() {
            let result = match &results {
                Ok(results) => results
                    .get(index)
                    .cloned()
                    .unwrap_or_else(|| Err(internal("a write has no result"))),
                Err(e) => Err(sql("can't write the key-value store", e)),
            };
            // Whoever asked may have gone away; the write stays.
            let _ = write.answer.send(result);
        }
    }
}

/// All writes in one transaction. One that is refused by its limit changes nothing and does not hinder the others; an error
/// of the database fails all.
fn commit(db: &mut Connection, group: &[Write]) -> rusqlite::Result<Vec<Result<bool, DriverError>>> {
    let transaction = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let mut results = Vec::with_capacity(group.len());
    for write in group {
        results.push(apply(&transaction, write)?);
    }
    transaction.commit()?;
    Ok(results)
}

fn apply(db: &Connection, write: &Write) -> rusqlite::Result<Result<bool, DriverError>> {
    let plugin = write.plugin.as_str();
    match &write.change {
        Change::Set { key, value } => {
            let old = get(db, plugin, key)?;
            put(db, write, key, old.as_deref(), value)
        }
        Change::CompareAndSet { key, expected, value } => {
            let old = get(db, plugin, key)?;
            if &old == expected {
                put(db, write, key, old.as_deref(), value)
            } else {
                Ok(Ok(false))
            }
        }
        Change::Delete { key } => {
            if let Some(old) = get(db, plugin, key)? {
                db.prepare_cached("DELETE FROM kv WHERE plugin = ?1 AND key = ?2")?
                    .execute(params![plugin, key])?;
                set_used(db, plugin, used(db, plugin)?.saturating_sub(cost(key, &old)))?;
            }
            Ok(Ok(true))
        }
        Change::Forget => {
            db.execute("DELETE FROM kv WHERE plugin = ?1", [plugin])?;
            db.execute("DELETE FROM used WHERE plugin = ?1", [plugin])?;
            Ok(Ok(true))
        }
    }
}

fn put(
    db: &Connection,
    write: &Write,
    key: &str,
    old: Option<&[u8]>,
    value: &[u8],
) -> rusqlite::Result<Result<bool, DriverError>> {
    let plugin = write.plugin.as_str();
    let before = used(db, plugin)?;
    let after = before
        .saturating_sub(old.map_or(0, |old| cost(key, old)))
        .saturating_add(cost(key, value));
    // A store that is over a limit that was lowered may still shrink.
    if after > write.limit && after > before {
        return Ok(Err(full(plugin, write.limit)));
    }
    db.prepare_cached(
        "INSERT INTO kv (plugin, key, value) VALUES (?1, ?2, ?3) ON CONFLICT (plugin, key) DO UPDATE SET value = ?3",
    )?
    .execute(params![plugin, key, value])?;
    set_used(db, plugin, after)?;
    Ok(Ok(true))
}

fn get(db: &Connection, plugin: &str, key: &str) -> rusqlite::Result<Option<Vec<u8>>> {
    db.prepare_cached("SELECT value FROM kv WHERE plugin = ?1 AND key = ?2")?
        .query_row([plugin, key], |row| row.get(0))
        .optional()
}

fn keys(db: &Connection, plugin: &str, prefix: &str, after: Option<&str>, limit: u32) -> rusqlite::Result<Vec<String>> {
    // substr counts characters in TEXT, and so does length: no LIKE, in which the prefix would need escaping.
    db.prepare_cached(
        "SELECT key FROM kv WHERE plugin = ?1 AND key >= ?2 AND substr(key, 1, length(?2)) = ?2 AND (?3 IS NULL OR key > ?3)
         ORDER BY key LIMIT ?4",
    )?
    .query_map(params![plugin, prefix, after, limit], |row| row.get(0))?
    .collect()
}

fn used(db: &Connection, plugin: &str) -> rusqlite::Result<u64> {
    let bytes: Option<i64> = db
        .prepare_cached("SELECT bytes FROM used WHERE plugin = ?1")?
        .query_row([plugin], |row| row.get(0))
        .optional()?;
    Ok(bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0))
}

fn set_used(db: &Connection, plugin: &str, bytes: u64) -> rusqlite::Result<()> {
    db.prepare_cached("INSERT INTO used (plugin, bytes) VALUES (?1, ?2) ON CONFLICT (plugin) DO UPDATE SET bytes = ?2")?
        .execute(params![plugin, i64::try_from(bytes).unwrap_or(i64::MAX)])
        .map(drop)
}

fn cost(key: &str, value: &[u8]) -> u64 {
    OVERHEAD + key.len() as u64 + value.len() as u64
}

fn full(plugin: &str, limit: u64) -> DriverError {
    DriverError::new(
        "limit",
        format!(
            "the key-value store of {plugin} may hold {limit} bytes, which are used up (`kv-bytes` under [limits] in its manifest)"
        ),
    )
}

fn sql(what: &str, error: &rusqlite::Error) -> DriverError {
    let code = match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => "no-space",
        _ => "io",
    };
    DriverError::new(code, format!("{what}: {error}"))
}

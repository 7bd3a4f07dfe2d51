//! The store of a single machine: one SQLite file in WAL mode, owned by one thread.
//!
//! Commits are grouped: the thread takes every request that waits, does them inside one SQLite transaction and answers all
//! after its commit, so that a hundred launches at once cost a few commits.

use std::path::Path;
use std::sync::mpsc;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::oneshot;

use crate::{Compare, Entry, Outcome, Store, StoreError, Transaction, Write};

/// The schema that this version writes. Schemas are upgraded in [`upgrade`]; a newer one is refused.
const SCHEMA: u32 = 1;
/// How many requests share a commit at most, so that the first of them does not wait without bound.
const GROUP: usize = 256;

enum Request {
    Get(String, oneshot::Sender<Result<Option<Entry>, StoreError>>),
    Range(String, oneshot::Sender<Result<Vec<(String, Entry)>, StoreError>>),
    Commit(Transaction, oneshot::Sender<Result<Outcome, StoreError>>),
    Sync(oneshot::Sender<Result<(), StoreError>>),
    Close(oneshot::Sender<Result<(), StoreError>>),
}

/// See the module. Dropping it lets the thread finish what it was asked and close the file.
#[derive(Debug)]
pub struct SqliteStore {
    requests: mpsc::Sender<Request>,
}

impl SqliteStore {
    /// Opens the database at `path`, making it or upgrading its schema.
    ///
    /// # Errors
    /// [`StoreError::Newer`] for a database of a newer version, [`StoreError::Sqlite`] for one that can't be opened.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let name = path.display().to_string();
        let fail = |action| {
            let path = name.clone();
            move |source| StoreError::Sqlite { path, action, source }
        };
        let db = Connection::open(path).map_err(fail("opening"))?;
        // The daemon is the only user; the exclusive lock also refuses a second daemon on the same state.
        db.pragma_update(None, "locking_mode", "EXCLUSIVE")
            .map_err(fail("locking"))?;
        db.pragma_update(None, "journal_mode", "WAL")
            .map_err(fail("setting the journal mode"))?;
        db.pragma_update(None, "synchronous", "NORMAL")
            .map_err(fail("setting synchronous"))?;
        upgrade(&db, &name)?;
        db.set_prepared_statement_cache_capacity(16);
        let (requests, inbox) = mpsc::channel();
        std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || Worker { db, name }.run(&inbox))
            .map_err(|_| StoreError::Closed)?;
        Ok(Self { requests })
    }

    async fn ask<T>(
        &self,
        make: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Request,
    ) -> Result<T, StoreError> {
        let (answer, wait) = oneshot::channel();
        self.requests.send(make(answer)).map_err(|_| StoreError::Closed)?;
        wait.await.map_err(|_| StoreError::Closed)?
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let key = key.to_owned();
        self.ask(|answer| Request::Get(key, answer)).await
    }

    async fn range(&self, prefix: &str) -> Result<Vec<(String, Entry)>, StoreError> {
        let prefix = prefix.to_owned();
        self.ask(|answer| Request::Range(prefix, answer)).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        self.ask(|answer| Request::Commit(transaction, answer)).await
    }

    async fn sync(&self) -> Result<(), StoreError> {
        self.ask(Request::Sync).await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.ask(Request::Close).await
    }
}

fn upgrade(db: &Connection, name: &str) -> Result<(), StoreError> {
    let fail = |source| StoreError::Sqlite {
        path: name.to_owned(),
        action: "upgrading the schema",
        source,
    };
    let found: u32 = db
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(fail)?;
    if found > SCHEMA {
        return Err(StoreError::Newer {
            path: name.to_owned(),
            found,
            known: SCHEMA,
        });
    }
    if found == 0 {
        db.execute_batch(
            "BEGIN;
             CREATE TABLE entry (key TEXT PRIMARY KEY NOT NULL, value BLOB NOT NULL, version INTEGER NOT NULL) WITHOUT ROWID;
             PRAGMA user_version = 1;
             COMMIT;",
        )
        .map_err(fail)?;
    }
    Ok(())
}

struct Worker {
    db: Connection,
    name: String,
}

/// An answer that is sent once the group it belongs to is committed.
type Deferred = (oneshot::Sender<Result<Outcome, StoreError>>, Outcome);

impl Worker {
    fn run(mut self, inbox: &mpsc::Receiver<Request>) {
        while let Ok(first) = inbox.recv() {
            let mut group = vec![first];
            while group.len() < GROUP {
                match inbox.try_recv() {
                    Ok(next) => group.push(next),
                    Err(_) => break,
                }
            }
            if let Some(closed) = self.serve(group) {
                drop(closed.send(self.close()));
                return;
            }
        }
    }

    /// Answers a group. Reads see the writes before them in the same group. Either all changes of the group last that are answered
    /// as committed, or none of them is answered so and none lasts. Returns who waits for the store's end.
    fn serve(&mut self, group: Vec<Request>) -> Option<oneshot::Sender<Result<(), StoreError>>> {
        let writes = group.iter().any(|r| matches!(r, Request::Commit(..)));
        // Why nothing of the group can be committed.
        let mut broken = None;
        if writes && let Err(error) = self.sql("beginning", "BEGIN IMMEDIATE") {
            tracing::error!(%error, "the state database refuses to write");
            broken = Some(error.to_string());
        }
        let mut deferred: Vec<Deferred> = Vec::new();
        let mut syncs = Vec::new();
        let mut close = None;
        for request in group {
            match request {
                Request::Get(key, answer) => drop(answer.send(self.get(&key))),
                Request::Range(prefix, answer) => drop(answer.send(self.range(&prefix))),
                Request::Sync(answer) => syncs.push(answer),
                Request::Close(answer) => close = Some(answer),
                Request::Commit(transaction, answer) => {
                    let applied = match &broken {
                        Some(reason) => Err(self.not_committed(reason)),
                        None => self.apply(&transaction, &mut broken),
                    };
                    match applied {
                        Ok(outcome) => deferred.push((answer, outcome)),
                        Err(error) => drop(answer.send(Err(error))),
                    }
                }
            }
        }
        if writes {
            self.finish(deferred, broken);
        }
        for answer in syncs {
            drop(answer.send(self.sql("checkpointing", "PRAGMA wal_checkpoint(FULL)")));
        }
        close
    }

    /// Puts everything into the file and closes it; with the last connection's end the log of changes goes.
    fn close(self) -> Result<(), StoreError> {
        // The end alone would not tell that this failed.
        self.sql("checkpointing", "PRAGMA wal_checkpoint(TRUNCATE)")?;
        let Self { db, name: path } = self;
        db.close().map_err(|(_, source)| StoreError::Sqlite {
            path,
            action: "closing",
            source,
        })
    }

    fn finish(&self, deferred: Vec<Deferred>, broken: Option<String>) {
        let committed = match broken {
            Some(reason) => Err(reason),
            None => self.sql("committing", "COMMIT").map_err(|error| error.to_string()),
        };
        let reason = match committed {
            Ok(()) => {
                for (answer, outcome) in deferred {
                    drop(answer.send(Ok(outcome)));
                }
                return;
            }
            Err(reason) => reason,
        };
        tracing::error!(reason, "a group of changes could not be committed");
        // After some errors SQLite has done so by itself.
        if !self.db.is_autocommit()
            && let Err(error) = self.sql("rolling back", "ROLLBACK")
        {
            tracing::error!(%error, "nor rolled back");
        }
        for (answer, _) in deferred {
            drop(answer.send(Err(self.not_committed(&reason))));
        }
    }

    fn not_committed(&self, reason: &str) -> StoreError {
        StoreError::Commit {
            path: self.name.clone(),
            reason: reason.to_owned(),
        }
    }

    /// One transaction as a savepoint of the group, so that its failure takes back nothing else. Where that can't be had, because
    /// SQLite took back the whole group (the disk is full or failing; "Response To Errors Within A Transaction" in its
    /// documentation of transactions), `broken` says why: what came after would be committed at once, each on its own.
    fn apply(&self, transaction: &Transaction, broken: &mut Option<String>) -> Result<Outcome, StoreError> {
        for compare in &transaction.compare {
            let holds = match compare {
                Compare::Absent(key) => self.get(key)?.is_none(),
                Compare::Version(key, version) => self.get(key)?.is_some_and(|entry| entry.version == *version),
            };
            if !holds {
                return Ok(Outcome::Conflict);
            }
        }
        let written = self
            .sql("beginning a change", "SAVEPOINT change")
            .and_then(|()| transaction.write.iter().try_for_each(|write| self.write(write)))
            .and_then(|()| self.sql("ending a change", "RELEASE change"));
        let Err(error) = written else {
            return Ok(Outcome::Committed);
        };
        let taken_back = self
            .sql("taking back a change", "ROLLBACK TO change")
            .and_then(|()| self.sql("taking back a change", "RELEASE change"));
        if taken_back.is_err() {
            *broken = Some(error.to_string());
        }
        Err(error)
    }

    fn write(&self, write: &Write) -> Result<(), StoreError> {
        let result = match write {
            Write::Put(key, value) => self
                .db
                .prepare_cached(
                    "INSERT INTO entry (key, value, version) VALUES (?1, ?2, 1)
                 ON CONFLICT (key) DO UPDATE SET value = excluded.value, version = version + 1",
                )
                .and_then(|mut statement| statement.execute(params![key, value])),
            Write::Delete(key) => self
                .db
                .prepare_cached("DELETE FROM entry WHERE key = ?1")
                .and_then(|mut statement| statement.execute(params![key])),
        };
        result.map(drop).map_err(|source| self.error("writing", source))
    }

    fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.db
            .prepare_cached("SELECT value, version FROM entry WHERE key = ?1")
            .and_then(|mut statement| {
                statement
                    .query_row([key], |row| {
                        Ok(Entry {
                            value: row.get(0)?,
                            version: row.get::<_, i64>(1)?.cast_unsigned(),
                        })
                    })
                    .optional()
            })
            .map_err(|source| self.error("reading", source))
    }

    fn range(&self, prefix: &str) -> Result<Vec<(String, Entry)>, StoreError> {
        // The end of the range: no key that begins with the prefix sorts after it.
        let end = format!("{prefix}\u{10ffff}");
        self.db
            .prepare_cached("SELECT key, value, version FROM entry WHERE key >= ?1 AND key < ?2 ORDER BY key")
            .and_then(|mut statement| {
                statement
                    .query_map([prefix, &end], |row| {
                        Ok((
                            row.get(0)?,
                            Entry {
                                value: row.get(1)?,
                                version: row.get::<_, i64>(2)?.cast_unsigned(),
                            },
                        ))
                    })?
                    .collect()
            })
            .map_err(|source| self.error("reading", source))
    }

    fn sql(&self, action: &'static str, statement: &str) -> Result<(), StoreError> {
        self.db
            .execute_batch(statement)
            .map_err(|source| self.error(action, source))
    }

    fn error(&self, action: &'static str, source: rusqlite::Error) -> StoreError {
        StoreError::Sqlite {
            path: self.name.clone(),
            action,
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load;

    /// A worker that does what it is asked in the test's thread.
    fn worker() -> Worker {
        let db = Connection::open_in_memory().unwrap();
        upgrade(&db, "memory").unwrap();
        let name = "memory".to_owned();
        Worker { db, name }
    }

    /// What the worker answers to changes that come at the same moment.
    fn commit_together(
        worker: &mut Worker,
        changes: impl IntoIterator<Item = Transaction>,
    ) -> Vec<Result<Outcome, StoreError>> {
        let (group, answers): (Vec<_>, Vec<_>) = changes
            .into_iter()
            .map(|change| {
                let (answer, wait) = oneshot::channel();
                (Request::Commit(change, answer), wait)
            })
            .unzip();
        worker.serve(group);
        answers.into_iter().map(|wait| wait.blocking_recv().unwrap()).collect()
    }

    fn put(key: &str, length: usize) -> Transaction {
        Transaction::new().put(key, &"x".repeat(length)).unwrap()
    }

    #[test]
    fn what_is_answered_as_failed_has_not_happened_when_the_disk_is_full() {
        let mut worker = worker();
        let pages: u32 = worker.db.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
        worker.db.pragma_update(None, "max_page_count", pages + 4).unwrap();
        let answers = commit_together(&mut worker, [put("before", 1), put("large", 1 << 20), put("after", 1)]);
        for (answer, key) in answers.iter().zip(["before", "large", "after"]) {
            let there = worker.get(key).unwrap().is_some();
            assert_eq!(
                answer.is_ok(),
                there,
                "{key} is there: {there}; it was answered {answer:?}"
            );
        }
        assert!(answers.iter().any(Result::is_err), "{answers:?}");
        assert!(worker.db.is_autocommit());
        // And it goes on.
        assert!(
            commit_together(&mut worker, [put("small", 1)])
                .iter()
                .all(Result::is_ok)
        );
        assert!(worker.get("small").unwrap().is_some());
    }

    #[test]
    fn nothing_is_written_where_a_group_cannot_begin() {
        let mut worker = worker();
        // A transaction cannot begin in another.
        worker.db.execute_batch("BEGIN").unwrap();
        let answers = commit_together(&mut worker, [put("a", 1), put("b", 1)]);
        assert!(
            answers
                .iter()
                .all(|answer| matches!(answer, Err(StoreError::Commit { .. }))),
            "{answers:?}"
        );
        assert_eq!((worker.get("a").unwrap(), worker.get("b").unwrap()), (None, None));
        assert!(commit_together(&mut worker, [put("a", 1)]).iter().all(Result::is_ok));
    }

    #[test]
    fn a_change_that_cannot_be_written_takes_back_nothing_but_itself() {
        let mut worker = worker();
        worker
            .db
            .execute_batch(
                "CREATE TRIGGER refuse BEFORE INSERT ON entry WHEN new.key = 'refused' BEGIN SELECT RAISE(ABORT, 'no'); END",
            )
            .unwrap();
        let refused = put("with", 1).put("refused", &1).unwrap();
        let answers = commit_together(&mut worker, [put("before", 1), refused, put("after", 1)]);
        assert!(
            answers[0].is_ok() && answers[1].is_err() && answers[2].is_ok(),
            "{answers:?}"
        );
        let there = ["before", "with", "refused", "after"].map(|key| worker.get(key).unwrap().is_some());
        assert_eq!(there, [true, false, false, true]);
    }

    fn open() -> (tempfile::TempDir, SqliteStore) {
        let dir = tempfile::tempdir().expect("a directory");
        let store = SqliteStore::open(&dir.path().join("state.db")).expect("a store");
        (dir, store)
    }

    #[tokio::test]
    async fn what_was_committed_is_read_back_in_order() {
        let (_dir, store) = open();
        let change = Transaction::new()
            .put("a/2", &2)
            .unwrap()
            .put("a/1", &1)
            .unwrap()
            .put("b", &3)
            .unwrap();
        assert_eq!(store.commit(change).await.unwrap(), Outcome::Committed);
        let all: Vec<(String, u32)> = load(&store, "a/").await.unwrap();
        assert_eq!(all, [("1".to_owned(), 1), ("2".to_owned(), 2)]);
    }

    #[tokio::test]
    async fn a_condition_that_fails_leaves_everything_as_it_was() {
        let (_dir, store) = open();
        store.commit(Transaction::new().put("k", &1).unwrap()).await.unwrap();
        let change = Transaction::new()
            .absent("k")
            .put("k", &2)
            .unwrap()
            .put("other", &2)
            .unwrap();
        assert_eq!(store.commit(change).await.unwrap(), Outcome::Conflict);
        assert_eq!(store.get("k").await.unwrap().unwrap().value, b"1");
        assert_eq!(store.get("other").await.unwrap(), None);
    }

    #[tokio::test]
    async fn versions_rise_with_every_write() {
        let (_dir, store) = open();
        for expected in 1..=3 {
            store
                .commit(Transaction::new().put("k", &expected).unwrap())
                .await
                .unwrap();
            assert_eq!(store.get("k").await.unwrap().unwrap().version, expected);
        }
    }

    #[tokio::test]
    async fn concurrent_claims_of_one_key_have_one_winner() {
        let (_dir, store) = open();
        let store = std::sync::Arc::new(store);
        let claims = (0..64).map(|i| {
            let store = std::sync::Arc::clone(&store);
            tokio::spawn(async move {
                store
                    .commit(Transaction::new().absent("name").put("name", &i).unwrap())
                    .await
                    .unwrap()
            })
        });
        let mut won = 0;
        for claim in claims.collect::<Vec<_>>() {
            won += u32::from(claim.await.unwrap() == Outcome::Committed);
        }
        assert_eq!(won, 1);
    }

    #[tokio::test]
    async fn a_newer_schema_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        Connection::open(&path)
            .unwrap()
            .pragma_update(None, "user_version", 99)
            .unwrap();
        let error = SqliteStore::open(&path).unwrap_err();
        assert!(matches!(error, StoreError::Newer { found: 99, .. }), "{error}");
    }

    #[tokio::test]
    async fn a_closed_store_is_one_file_and_takes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&dir.path().join("state.db")).unwrap();
        store.commit(Transaction::new().put("k", &"v").unwrap()).await.unwrap();
        store.close().await.unwrap();
        assert!(matches!(store.get("k").await, Err(StoreError::Closed)));
        assert!(matches!(store.close().await, Err(StoreError::Closed)));
        let files = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(files, 1, "more than the file itself is left");
        let again = SqliteStore::open(&dir.path().join("state.db")).unwrap();
        assert_eq!(again.get("k").await.unwrap().unwrap().value, b"\"v\"");
    }

    #[tokio::test]
    async fn what_was_answered_survives_the_store() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let store = SqliteStore::open(&path).unwrap();
        store.commit(Transaction::new().put("k", &"v").unwrap()).await.unwrap();
        store.sync().await.unwrap();
        // A copy of the files as they are stands for the state that a killed process leaves.
        for file in ["state.db", "state.db-wal"] {
            if dir.path().join(file).exists() {
                std::fs::copy(dir.path().join(file), dir.path().join(file.replace("state", "copy"))).unwrap();
            }
        }
        let copy = SqliteStore::open(&dir.path().join("copy.db")).unwrap();
        assert_eq!(copy.get("k").await.unwrap().unwrap().value, b"\"v\"");
    }
}

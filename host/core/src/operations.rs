//! Operations: changes that clients wait for, watch and cancel.
//!
//! An operation is written to the store when it begins and when it ends, so that its id, its result and the waiting for
//! it survive a restart of the daemon. Ended ones are kept for a day and listed for a few seconds, as clients expect.

mod sockets;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hutch_api::operation::{self, Operation as ApiOperation};
use hutch_api::{StatusCode, Timestamp};
use hutch_driver::{Cancel, Progress};
use hutch_store::{Store, Transaction};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::watch;

use crate::auth;
use crate::error::{Error, Result};
use crate::events::Events;
use crate::records::key;

pub use sockets::{Socket, Sockets};

/// How long the result of an operation can be asked for.
const KEEP: Duration = Duration::from_secs(24 * 3600);
/// How long an ended operation stays in listings.
const LISTED: Duration = Duration::from_secs(5);
/// How many ended operations are kept at most.
const KEPT: usize = 10_000;

/// What an operation is about when it begins.
#[derive(Clone, Debug, Default)]
pub struct NewOperation {
    /// `task` or `websocket`.
    pub class: &'static str,
    /// For people: `Creating instance`.
    pub description: String,
    /// The project.
    pub project: String,
    /// Kinds of objects and the paths of those concerned.
    pub resources: BTreeMap<String, Vec<String>>,
    /// What clients see from the start.
    pub metadata: Map<String, Value>,
    /// Whether it may be cancelled.
    pub cancellable: bool,
}

impl NewOperation {
    /// A task on one object: `NewOperation::task("default", "Starting instance", "instances", "/1.0/instances/c1")`.
    pub fn task(project: &str, description: &str, kind: &str, path: String) -> Self {
        Self {
            class: operation::TASK,
            description: description.to_owned(),
            project: project.to_owned(),
            resources: BTreeMap::from([(kind.to_owned(), vec![path])]),
            ..Self::default()
        }
    }

    /// The same, cancellable.
    #[must_use]
    pub fn cancellable(mut self) -> Self {
        self.cancellable = true;
        self
    }

    /// The same, about one more object.
    #[must_use]
    pub fn also(mut self, kind: &str, path: String) -> Self {
        self.resources.entry(kind.to_owned()).or_default().push(path);
        self
    }
}

/// What the store holds of an operation.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Stored {
    v: u32,
    project: String,
    operation: ApiOperation,
}

struct Changing {
    status: StatusCode,
    updated: Timestamp,
    metadata: Map<String, Value>,
    err: String,
    may_cancel: bool,
    ended: Option<Instant>,
}

/// An operation. Everybody holds it by [`Arc`]; only the task that does its work changes it.
pub struct Operation {
    id: String,
    project: String,
    class: String,
    description: String,
    created: Timestamp,
    resources: Mutex<BTreeMap<String, Vec<String>>>,
    changing: Mutex<Changing>,
    over: watch::Sender<bool>,
    cancel: Cancel,
    cancelled: watch::Sender<bool>,
    sockets: Mutex<Option<Arc<Sockets>>>,
    events: Arc<Events>,
}

impl std::fmt::Debug for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Operation")
            .field("id", &self.id)
            .field("description", &self.description)
            .finish_non_exhaustive()
    }
}

impl Operation {
    /// The id, a UUID.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// `/1.0/operations/ID`.
    pub fn path(&self) -> String {
        format!("/1.0/operations/{}", self.id)
    }

    /// The project.
    pub fn project(&self) -> &str {
        &self.project
    }

    /// The state that it is in.
    pub fn status(&self) -> StatusCode {
        self.changing().status
    }

    /// The message of a failure, empty otherwise.
    pub fn err(&self) -> String {
        self.changing().err.clone()
    }

    /// As clients see it.
    pub fn render(&self) -> ApiOperation {
        let changing = self.changing();
        ApiOperation {
            id: self.id.clone(),
            class: self.class.clone(),
            description: self.description.clone(),
            created_at: self.created,
            updated_at: changing.updated,
            status: changing.status.to_string(),
            status_code: changing.status,
            resources: self.resources.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            metadata: changing.metadata.clone(),
            may_cancel: changing.may_cancel,
            err: changing.err.clone(),
            location: "none".to_owned(),
        }
    }

    /// Waits until it is over, or for `timeout`.
    pub async fn wait(&self, timeout: Option<Duration>) {
        let mut over = self.over.subscribe();
        let ended = over.wait_for(|over| *over);
        match timeout {
            Some(timeout) => drop(tokio::time::timeout(timeout, ended).await),
            None => drop(ended.await),
        }
    }

    /// Asks for it to be given up. It is over once what was begun is taken back.
    ///
    /// # Errors
    /// [`Error::Invalid`] for one that can't be cancelled.
    pub fn cancel(&self) -> Result<()> {
        {
            let mut changing = self.changing();
            if changing.status.is_final() || !changing.may_cancel {
                return Err(Error::invalid("This operation can't be cancelled"));
            }
            changing.status = StatusCode::CANCELLING;
            changing.updated = Timestamp::now();
        }
        self.cancel.cancel();
        self.cancelled.send_replace(true);
        self.tell();
        Ok(())
    }

    /// What drivers and long loops look at.
    pub fn cancel_flag(&self) -> Cancel {
        self.cancel.clone()
    }

    /// Returns once [`Operation::cancel`] was called.
    pub async fn cancelled(&self) {
        let mut cancelled = self.cancelled.subscribe();
        // The sender lives in self.
        let _ = cancelled.wait_for(|cancelled| *cancelled).await;
    }

    /// Sets a key of the metadata and tells the listeners.
    pub fn set_metadata(&self, key: &str, value: Value) {
        {
            let mut changing = self.changing();
            changing.metadata.insert(key.to_owned(), value);
            changing.updated = Timestamp::now();
        }
        self.tell();
    }

    /// Adds an object that turned out to be concerned.
    pub fn add_resource(&self, kind: &str, path: String) {
        let mut resources = self.resources.lock().unwrap_or_else(PoisonError::into_inner);
        resources.entry(kind.to_owned()).or_default().push(path);
    }

    /// Its websockets.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an operation without.
    pub fn sockets(&self) -> Result<Arc<Sockets>> {
        self.sockets
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .ok_or_else(|| Error::invalid("This operation has no websockets"))
    }

    fn changing(&self) -> MutexGuard<'_, Changing> {
        // A panic elsewhere can't leave the fields half-changed: each change is a plain assignment.
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        self.events.operation(&self.project, &self.render());
    }
}

impl Progress for Operation {
    fn report(&self, stage: &str, done: u64, total: Option<u64>) {
        let text = match total {
            Some(total) if total > 0 => format!("{stage}: {}%", done.saturating_mul(100) / total),
            _ if done > 0 => format!("{stage}: {done}"),
            _ => stage.to_owned(),
        };
        // The listeners hear of it when what people read changes, not with every block of bytes.
        let key = match stage {
            _ if stage.contains("download") => "download_progress",
            // Stock clients show every key that ends so.
            _ if stage.contains("copied") => "fs_progress",
            _ => "progress",
        };
        let seen = { self.changing().metadata.get(key).and_then(Value::as_str) == Some(text.as_str()) };
        if !seen {
            self.set_metadata(key, Value::String(text));
        }
    }
}

/// All operations of the daemon.
pub struct Operations {
    store: Arc<dyn Store>,
    events: Arc<Events>,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    by_id: HashMap<String, Arc<Operation>>,
    ended: VecDeque<(Instant, String)>,
}

impl Operations {
    /// Operations that are kept in `store` and told to `events`.
    pub fn new(store: Arc<dyn Store>, events: Arc<Events>) -> Self {
        Self {
            store,
            events,
            table: Mutex::default(),
        }
    }

    /// All that run or have just ended.
    pub fn list(&self, project: Option<&str>) -> Vec<Arc<Operation>> {
        let table = self.table();
        let mut list: Vec<Arc<Operation>> = table
            .by_id
            .values()
            .filter(|operation| project.is_none_or(|project| operation.project == project))
            .filter(|operation| operation.changing().ended.is_none_or(|ended| ended.elapsed() < LISTED))
            .cloned()
            .collect();
        list.sort_by(|a, b| a.created.cmp(&b.created).then_with(|| a.id.cmp(&b.id)));
        list
    }

    /// One of them, also for a day after its end.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn get(&self, id: &str) -> Result<Arc<Operation>> {
        self.table()
            .by_id
            .get(id)
            .cloned()
            .ok_or_else(|| Error::missing("Operation", id))
    }

    /// Begins an operation whose work is `work`, in a task of its own.
    ///
    /// # Errors
    /// The store's, before anything was begun.
    pub async fn begin<F, W>(self: &Arc<Self>, new: NewOperation, work: W) -> Result<Arc<Operation>>
    where
        W: FnOnce(Arc<Operation>) -> F + Send + 'static,
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let operation = self.open(new, None).await?;
        self.run(&operation, work);
        Ok(operation)
    }

    /// Begins an operation that clients connect to.
    ///
    /// # Errors
    /// The store's.
    pub async fn begin_with_sockets<F, W>(
        self: &Arc<Self>,
        new: NewOperation,
        sockets: Arc<Sockets>,
        work: W,
    ) -> Result<Arc<Operation>>
    where
        W: FnOnce(Arc<Operation>) -> F + Send + 'static,
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let operation = self.open(new, Some(sockets)).await?;
        self.run(&operation, work);
        Ok(operation)
    }

    fn run<F, W>(self: &Arc<Self>, operation: &Arc<Operation>, work: W)
    where
        W: FnOnce(Arc<Operation>) -> F + Send + 'static,
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let (all, operation) = (Arc::clone(self), Arc::clone(operation));
        let caller = auth::current();
        tokio::spawn(async move {
            // A panic in the work ends the operation, and not silently.
            let result = match tokio::spawn(auth::on_behalf_of(caller, work(Arc::clone(&operation)))).await {
                Ok(result) => result,
                Err(error) => Err(Error::Io {
                    action: "the daemon's own fault".to_owned(),
                    source: std::io::Error::other(error.to_string()),
                }),
            };
            all.end(&operation, result).await;
        });
    }

    async fn open(&self, new: NewOperation, sockets: Option<Arc<Sockets>>) -> Result<Arc<Operation>> {
        let now = Timestamp::now();
        let operation = Arc::new(Operation {
            id: uuid::Uuid::new_v4().to_string(),
            project: new.project,
            class: if new.class.is_empty() {
                operation::TASK.to_owned()
            } else {
                new.class.to_owned()
            },
            description: new.description,
            created: now,
            resources: Mutex::new(new.resources),
            changing: Mutex::new(Changing {
                status: StatusCode::RUNNING,
                updated: now,
                metadata: new.metadata,
                err: String::new(),
                may_cancel: new.cancellable,
                ended: None,
            }),
            over: watch::Sender::new(false),
            cancel: Cancel::default(),
            cancelled: watch::Sender::new(false),
            sockets: Mutex::new(sockets),
            events: Arc::clone(&self.events),
        });
        self.save(&operation).await?;
        self.table().by_id.insert(operation.id.clone(), Arc::clone(&operation));
        operation.tell();
        Ok(operation)
    }

    async fn end(&self, operation: &Arc<Operation>, result: Result<()>) {
        {
            let mut changing = operation.changing();
            changing.status = match &result {
                Ok(()) => StatusCode::SUCCESS,
                Err(error) if error.is_cancelled() => StatusCode::CANCELLED,
                Err(_) => StatusCode::FAILURE,
            };
            if let Err(error) = &result {
                changing.err = error.report();
                tracing::info!(
                    operation = operation.id,
                    description = operation.description,
                    error = changing.err,
                    "operation failed"
                );
            }
            changing.updated = Timestamp::now();
            changing.may_cancel = false;
            changing.ended = Some(Instant::now());
        }
        operation.sockets.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Err(error) = self.save(operation).await {
            tracing::error!(
                operation = operation.id,
                error = error.report(),
                "the result of an operation could not be kept"
            );
        }
        operation.tell();
        operation.over.send_replace(true);
        self.forget_old(operation).await;
    }

    async fn save(&self, operation: &Operation) -> Result<()> {
        let stored = Stored {
            v: 1,
            project: operation.project.clone(),
            operation: operation.render(),
        };
        self.store
            .commit(Transaction::new().put(key::operation(&operation.id), &stored)?)
            .await?;
        Ok(())
    }

    async fn forget_old(&self, ended: &Operation) {
        let mut forget = Transaction::new();
        {
            let mut table = self.table();
            table.ended.push_back((Instant::now(), ended.id.clone()));
            while table.ended.len() > KEPT || table.ended.front().is_some_and(|(at, _)| at.elapsed() > KEEP) {
                let Some((_, id)) = table.ended.pop_front() else { break };
                table.by_id.remove(&id);
                forget = forget.delete(key::operation(&id));
            }
        }
        if !forget.write.is_empty()
            && let Err(error) = self.store.commit(forget).await
        {
            tracing::warn!(%error, "old operations could not be forgotten");
        }
    }

    /// Brings back what the store has of the daemon's last run. What had not ended failed, unless `resumed` names it: its
    /// end is awaited elsewhere (a command that still runs in an instance).
    ///
    /// # Errors
    /// The store's.
    pub async fn restore(self: &Arc<Self>, resumed: &[String]) -> Result<()> {
        let mut change = Transaction::new();
        let mut old: Vec<(String, Stored)> = hutch_store::load(self.store.as_ref(), "operation/").await?;
        old.sort_by_key(|a| a.1.operation.updated_at);
        let excess = old.len().saturating_sub(KEPT);
        for (id, _) in old.drain(..excess) {
            change = change.delete(key::operation(&id));
        }
        let mut restored = Vec::new();
        for (id, mut stored) in old {
            let over = stored.operation.status_code.is_final();
            if !over && !resumed.contains(&id) {
                stored.operation.status_code = StatusCode::FAILURE;
                stored.operation.status = StatusCode::FAILURE.to_string();
                stored.operation.err =
                    "the daemon was restarted while this ran; what was begun has been finished or taken back"
                        .to_owned();
                change = change.put(key::operation(&id), &stored)?;
            }
            restored.push(self.bring_back(stored));
        }
        self.store.commit(change).await?;
        for operation in restored {
            operation.tell();
        }
        Ok(())
    }

    fn bring_back(&self, stored: Stored) -> Arc<Operation> {
        let api = stored.operation;
        let over = api.status_code.is_final();
        // Ended before this run: the age for listings is unknown, and they were seen.
        let ended = over.then(|| Instant::now().checked_sub(LISTED).unwrap_or_else(Instant::now));
        let operation = Arc::new(Operation {
            id: api.id,
            project: stored.project,
            class: api.class,
            description: api.description,
            created: api.created_at,
            resources: Mutex::new(api.resources),
            changing: Mutex::new(Changing {
                status: api.status_code,
                updated: api.updated_at,
                metadata: api.metadata,
                err: api.err,
                may_cancel: false,
                ended,
            }),
            over: watch::Sender::new(over),
            cancel: Cancel::default(),
            cancelled: watch::Sender::new(false),
            sockets: Mutex::new(None),
            events: Arc::clone(&self.events),
        });
        let mut table = self.table();
        table.by_id.insert(operation.id.clone(), Arc::clone(&operation));
        if over {
            table.ended.push_back((Instant::now(), operation.id.clone()));
        }
        operation
    }

    /// Goes on with an operation that [`Operations::restore`] left running.
    pub fn resume<F, W>(self: &Arc<Self>, operation: &Arc<Operation>, work: W)
    where
        W: FnOnce(Arc<Operation>) -> F + Send + 'static,
        F: Future<Output = Result<()>> + Send + 'static,
    {
        self.run(operation, work);
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! The owner of an instance: the one task that changes it.

use std::collections::BTreeSet;
use std::sync::Arc;

use hutch_api::Timestamp;
use hutch_container::{ContainerState, FilesHandle, Keeper, KeeperEvent};
use hutch_store::Transaction;
use serde_json::{Map, Value};
use tokio::sync::{broadcast, mpsc};

use crate::error::{Error, Result};
use crate::idrange::IdRange;
use crate::instances::state::Probe;
use crate::instances::stop::Stopping;
use crate::instances::view::View;
use crate::instances::{Instance, Job, history};
use crate::journal::Open;
use crate::profiles::with_project;
use crate::records::{InstanceRecord, SnapshotRecord, key};
use crate::{Core, auth};

/// See the module.
pub struct Owner {
    pub(crate) core: Arc<Core>,
    pub(crate) instance: Arc<Instance>,
    pub(crate) record: Arc<InstanceRecord>,
    pub(crate) snapshots: Vec<Arc<SnapshotRecord>>,
    pub(crate) keeper: Option<Keeper>,
    pub(crate) probe: Option<Arc<Probe>>,
    pub(crate) events: Option<broadcast::Receiver<KeeperEvent>>,
    pub(crate) ids: Option<IdRange>,
    pub(crate) started_at: Timestamp,
    /// Why it can't be reached, which may be over when the daemon starts again.
    pub(crate) broken: Option<String>,
    /// What was begun with it and is not over: until then nothing else is.
    pub(crate) unfinished: Option<String>,
    /// What is done with it from elsewhere: until then nothing else is.
    pub(crate) busy: Option<String>,
    /// The pool that it is being moved to.
    pub(crate) moving_to: Option<String>,
    /// A refresh that failed when the records said already what it is to become.
    pub(crate) half_renewed: Option<Open>,
    /// A renaming, to this name, that failed and could not be taken back yet.
    pub(crate) half_renamed: Option<(Open, String)>,
    /// Snapshots that failed and could not be taken back: the volume may have them, and no record does. What is left of them at
    /// the next start goes when the pool is cleaned up.
    pub(crate) spoilt_snapshots: BTreeSet<String>,
    /// As it was when a profile changed that it could not follow because of these two.
    pub(crate) behind: Option<Arc<View>>,
    /// Stops that were asked for.
    pub(crate) stops: Vec<Stopping>,
    /// While there is one the container is to come back: an ephemeral instance is not deleted when it ends.
    pub(crate) restarts: Vec<Open>,
    /// The opened files of the stopped instance: its root must not be mounted twice.
    pub(crate) files: Option<FilesHandle>,
    /// The root was used since it was last let go.
    pub(crate) root_used: bool,
    /// It is being made, and nobody else may do anything with it.
    pub(crate) creating: bool,
    pub(crate) deleted: bool,
}

enum Turn {
    Job(Job),
    Idle,
    Ended(ContainerState),
    Event(KeeperEvent),
}

impl Owner {
    pub(crate) fn new(core: Arc<Core>, instance: Arc<Instance>) -> Self {
        let view = instance.view();
        Self {
            record: Arc::clone(&view.record),
            snapshots: view.snapshots.clone(),
            core,
            instance,
            keeper: None,
            probe: None,
            events: None,
            ids: None,
            started_at: Timestamp::NEVER,
            broken: None,
            unfinished: None,
            busy: None,
            moving_to: None,
            half_renewed: None,
            half_renamed: None,
            spoilt_snapshots: BTreeSet::new(),
            behind: None,
            stops: Vec::new(),
            restarts: Vec::new(),
            files: None,
            root_used: false,
            creating: view.creating,
            deleted: false,
        }
    }

    /// Does jobs until the instance is deleted. Who asked for one has its answer before the root is let go.
    pub(crate) async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        while !self.deleted {
            match self.next(&mut jobs).await {
                Turn::Job(job) => {
                    job(&mut self).await;
                    self.catch_up().await;
                }
                Turn::Ended(state) => self.ended(state).await,
                Turn::Event(KeeperEvent::Rebooted { .. }) => {
                    self.started_at = Timestamp::now();
                    self.publish();
                    self.tell("instance-restarted");
                }
                Turn::Event(_) => {}
                Turn::Idle => return,
            }
            self.let_root_go().await;
        }
    }

    async fn next(&mut self, jobs: &mut mpsc::Receiver<Job>) -> Turn {
        let keeper = self.keeper.clone();
        let ended = async {
            match keeper {
                Some(keeper) => keeper.ended().await,
                None => std::future::pending().await,
            }
        };
        let events = &mut self.events;
        let event = async {
            match events {
                Some(events) => loop {
                    match events.recv().await {
                        Ok(event) => return event,
                        Err(broadcast::error::RecvError::Lagged(_)) => {}
                        Err(broadcast::error::RecvError::Closed) => return std::future::pending().await,
                    }
                },
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            state = ended => Turn::Ended(state),
            job = jobs.recv() => job.map_or(Turn::Idle, Turn::Job),
            event = event => Turn::Event(event),
        }
    }

    /// Shows the current state to everybody.
    pub(crate) fn publish(&self) {
        let mut view = View::stopped(&self.core, Arc::clone(&self.record), self.snapshots.clone());
        view.keeper.clone_from(&self.keeper);
        view.probe.clone_from(&self.probe);
        view.started_at = self.started_at;
        view.broken = self.trouble().map(str::to_owned);
        view.creating = self.creating;
        view.moving_to.clone_from(&self.moving_to);
        self.instance.publish(view);
        if self.snapshots.iter().any(|snapshot| !snapshot.expires_at.is_never()) {
            self.core.expiry.look();
        }
    }

    /// The instance's path, as events have it.
    pub(crate) fn path(&self) -> String {
        with_project(format!("/1.0/instances/{}", self.record.name), &self.record.project)
    }

    /// An event about the instance.
    pub(crate) fn tell(&self, action: &str) {
        self.tell_more(action, Map::new());
    }

    /// An event about the instance, with what else is to be known of it.
    pub(crate) fn tell_more(&self, action: &str, context: Map<String, Value>) {
        self.core
            .events
            .lifecycle(&self.record.project, action, &self.path(), context);
    }

    /// The transaction that writes a record.
    pub(crate) fn write(record: &InstanceRecord) -> Result<Transaction> {
        Ok(Transaction::new().put(key::instance(&record.project, &record.name), record)?)
    }

    /// The keeper of a running container, or the message that clients look for.
    pub(crate) fn require_running(&self) -> Result<Keeper> {
        self.keeper
            .clone()
            .ok_or_else(|| Error::invalid("Instance is not running"))
    }

    /// Closes the files of the stopped instance, if somebody had opened them.
    pub(crate) async fn close_files(&mut self) {
        let Some(files) = self.files.take() else { return };
        if let Err(error) = files.close().await {
            tracing::warn!(instance = self.record.name, %error, "closing the files of a stopped instance");
        }
        self.instance.hold(None);
    }

    /// The container has ended by itself or was killed.
    async fn ended(&mut self, state: ContainerState) {
        let Some(keeper) = self.keeper.take() else { return };
        // An earlier daemon may have started it.
        self.use_root();
        self.probe = None;
        tracing::info!(instance = self.record.name, ?state, "the container has ended");
        self.events = None;
        if state == ContainerState::Lost
            && let Err(error) = self.core.runtime.clean_lost(keeper.id()).await
        {
            tracing::error!(instance = self.record.name, %error, "what a lost keeper left can't be cleaned up");
            self.broken = Some(format!(
                "its keeper was lost, and what it left can't be cleaned up: {error}"
            ));
        }
        let (forced, caller) = self.end_wanted();
        let waiting = self.after_end(&keeper).await;
        let action = if forced {
            "instance-stopped"
        } else {
            "instance-shutdown"
        };
        auth::on_behalf_of(caller, async { self.tell(action) }).await;
        self.note(&history::end(&state));
        if self.record.ephemeral
            && self.restarts.is_empty()
            && let Err(error) = self.delete("").await
        {
            tracing::error!(
                instance = self.record.name,
                error = error.report(),
                "an ephemeral instance could not be deleted"
            );
        }
        for answer in waiting {
            // Whoever asked may have gone.
            let _ = answer.send(());
        }
    }
}

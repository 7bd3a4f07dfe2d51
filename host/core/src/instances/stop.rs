//! Stopping and restarting.
//!
//! A stop is written into the journal before the container is asked, and struck out with the record of its end, so that a
//! daemon that starts meanwhile goes on with it. A restart has an entry of its own around that, which tells the end of a
//! container that is to come back from the end of one that is not.

use std::sync::Arc;
use std::time::Duration;

use hutch_container::{ContainerState, Keeper};
use hutch_store::Transaction;
use tokio::sync::oneshot;

use crate::auth::{self, Caller};
use crate::error::{Error, Result};
use crate::instances::Instance;
use crate::instances::owner::Owner;
use crate::instances::start::{self, POWER};
use crate::journal::{Entry, Open};
use crate::operations::Operation;
use crate::records::InstanceRecord;

/// How long a clean stop may take when the caller does not say.
const SHUTDOWN: Duration = Duration::from_secs(600);

/// A stop that was begun.
pub(crate) struct Stopping {
    open: Open,
    force: bool,
    /// Who asked for it; one that an earlier daemon began is nobody's.
    caller: Option<Caller>,
    /// Told once the container has ended; a stop that an earlier daemon began has nobody to tell.
    answer: Option<oneshot::Sender<()>>,
}

/// Stops an instance; returns once it has ended.
pub(crate) async fn stop(
    instance: &Arc<Instance>,
    operation: &str,
    force: bool,
    timeout: Option<Duration>,
) -> Result<()> {
    let operation = operation.to_owned();
    let begun = instance
        .ask(move |owner| Box::pin(async move { owner.begin_stop(&operation, force).await }))
        .await?;
    let Some((open, ended)) = begun else { return Ok(()) };
    let limit = timeout.unwrap_or(SHUTDOWN);
    match tokio::time::timeout(limit, ended).await {
        // It is told when all is over; an error tells that the owner is gone, and the instance with it.
        Ok(Ok(()) | Err(_)) => Ok(()),
        Err(_) => {
            instance
                .ask(move |owner| Box::pin(async move { owner.give_up_stop(&open).await }))
                .await?;
            let name = instance.name();
            Err(Error::Timeout(format!(
                "Instance {name:?} did not stop within {} seconds: see its console, or stop it with --force",
                limit.as_secs()
            )))
        }
    }
}

/// Stops an instance and starts it again.
pub(crate) async fn restart(
    instance: &Arc<Instance>,
    operation: &Arc<Operation>,
    force: bool,
    timeout: Option<Duration>,
) -> Result<()> {
    let open = begin_restart(instance, operation).await?;
    let result = match stop(instance, operation.id(), force, timeout).await {
        Ok(()) => start::start(instance, operation).await,
        Err(error) => Err(error),
    };
    end_restart(instance, open).await?;
    result?;
    instance
        .ask(|owner| {
            Box::pin(async move {
                owner.tell("instance-restarted");
                Ok(())
            })
        })
        .await
}

/// From here to [`end_restart`] a container that ends is started again, also by the next daemon.
pub(crate) async fn begin_restart(instance: &Arc<Instance>, operation: &Arc<Operation>) -> Result<Open> {
    let operation = operation.id().to_owned();
    instance
        .ask(move |owner| Box::pin(async move { owner.begin_restart(&operation).await }))
        .await
}

/// See [`begin_restart`].
pub(crate) async fn end_restart(instance: &Arc<Instance>, open: Open) -> Result<()> {
    instance
        .ask(move |owner| Box::pin(async move { owner.end_restart(open).await }))
        .await
}

/// Goes on with a restart that an earlier daemon began. Its stop, if that was interrupted, is under way already.
pub(crate) async fn finish_restart(instance: &Arc<Instance>, open: Open) -> Result<()> {
    let entry = open.clone();
    let stopping = instance
        .ask(move |owner| {
            Box::pin(async move {
                owner.resume(&entry, false).await?;
                Ok(owner.keeper.clone().filter(|_| !owner.stops.is_empty()))
            })
        })
        .await?;
    if let Some(keeper) = stopping {
        keeper.ended().await;
    }
    instance
        .ask_for_root(move |owner| {
            Box::pin(async move {
                let started = match owner.keeper {
                    None => owner.start("").await,
                    Some(_) => Ok(()),
                };
                owner.end_restart(open).await?;
                started
            })
        })
        .await
}

impl Owner {
    /// Asks the container to end, or kills it; the answer comes when it has. Nothing if there is nothing to end.
    async fn begin_stop(&mut self, operation: &str, force: bool) -> Result<Option<(Open, oneshot::Receiver<()>)>> {
        let Some(keeper) = self.keeper.clone() else {
            // Clients stop by force whatever is not shown as stopped before they delete it (`incus delete --force`): an instance that is
            // shown as broken, and whose container is known not to run, must not be refused that.
            if force && self.broken.is_none() && self.trouble().is_some() {
                return Ok(None);
            }
            return Err(self.not_running("stop it"));
        };
        let entry = Entry::InstanceStop {
            project: self.record.project.clone(),
            name: self.record.name.clone(),
            force,
        };
        let open = self.core.journal.begin(operation, entry).await?;
        let (answer, ended) = oneshot::channel();
        self.stops.push(Stopping {
            open: open.clone(),
            force,
            caller: auth::current(),
            answer: Some(answer),
        });
        match self.ask_to_end(&keeper, force).await {
            Ok(()) => {
                self.core.journal.step(&open, "asked");
                Ok(Some((open, ended)))
            }
            Err(error) => {
                self.give_up_stop(&open).await?;
                Err(error)
            }
        }
    }

    /// Why nothing can be ended that runs.
    fn not_running(&self, what: &str) -> Error {
        match &self.broken {
            // It may run all the same.
            Some(why) => self.unusable(what, why),
            None => Error::invalid("The instance is already stopped"),
        }
    }

    async fn ask_to_end(&self, keeper: &Keeper, force: bool) -> Result<()> {
        let asked = if force {
            keeper.kill().await
        } else {
            ask_to_halt(keeper).await
        };
        match asked {
            // It may have ended while it was asked; then there is nothing to be refused.
            Err(_) if matches!(keeper.state(), ContainerState::Ended(_) | ContainerState::Lost) => Ok(()),
            other => other.map_err(Error::container(format!("stopping instance {}", self.record.name))),
        }
    }

    /// Nobody waits for this stop any longer; whether the container ends later is its own business.
    async fn give_up_stop(&mut self, open: &Open) -> Result<()> {
        let before = self.stops.len();
        self.stops.retain(|stopping| stopping.open != *open);
        if self.stops.len() == before {
            return Ok(());
        }
        self.core.journal.done(open.clone(), Transaction::new()).await
    }

    /// Goes on with a stop that an earlier daemon began.
    pub(crate) async fn finish_stop(&mut self, open: &Open, force: bool) -> Result<()> {
        self.resume(open, false).await?;
        let Some(keeper) = self.keeper.clone() else {
            let record = self.with_power("STOPPED");
            self.core.journal.done(open.clone(), Self::write(&record)?).await?;
            self.record = Arc::new(record);
            self.publish();
            return Ok(());
        };
        self.stops.push(Stopping {
            open: open.clone(),
            force,
            caller: None,
            answer: None,
        });
        self.ask_to_end(&keeper, force).await
    }

    async fn begin_restart(&mut self, operation: &str) -> Result<Open> {
        if self.keeper.is_none() {
            return Err(self.not_running("restart it"));
        }
        let entry = Entry::InstanceRestart {
            project: self.record.project.clone(),
            name: self.record.name.clone(),
        };
        let open = self.core.journal.begin(operation, entry).await?;
        self.restarts.push(open.clone());
        Ok(open)
    }

    async fn end_restart(&mut self, open: Open) -> Result<()> {
        self.restarts.retain(|begun| *begun != open);
        self.core.journal.done(open, Transaction::new()).await
    }

    /// Whether the end of the container that is coming was asked for by force, and who asked first; nobody for one that comes by
    /// itself.
    pub(crate) fn end_wanted(&self) -> (bool, Option<Caller>) {
        let forced = self.stops.iter().any(|stopping| stopping.force);
        (forced, self.stops.iter().find_map(|stopping| stopping.caller.clone()))
    }

    /// The record with another word about what the instance was last seen doing.
    pub(crate) fn with_power(&self, power: &str) -> InstanceRecord {
        let mut record = InstanceRecord::clone(&self.record);
        record.config.insert(POWER.to_owned(), power.to_owned());
        record
    }

    /// The container has ended: what it had is given back, and the record says so. Those who are to be told are returned.
    pub(crate) async fn after_end(&mut self, keeper: &Keeper) -> Vec<oneshot::Sender<()>> {
        self.save_console(keeper).await;
        self.disconnect(keeper).await;
        self.ids = None;
        self.instance.hold(None);
        self.started_at = hutch_api::Timestamp::NEVER;
        let record = self.with_power("STOPPED");
        let stops = std::mem::take(&mut self.stops);
        let open: Vec<Open> = stops.iter().map(|stopping| stopping.open.clone()).collect();
        let recorded = match Self::write(&record) {
            Ok(change) => self.core.journal.all_done(&open, change).await,
            Err(error) => Err(error),
        };
        if let Err(error) = recorded {
            tracing::error!(
                instance = self.record.name,
                error = error.report(),
                "the end of a container could not be recorded"
            );
        }
        self.record = Arc::new(record);
        self.publish();
        stops.into_iter().filter_map(|stopping| stopping.answer).collect()
    }
}

/// A frozen container hears nothing, so it is thawed first.
async fn ask_to_halt(keeper: &Keeper) -> std::result::Result<(), hutch_container::Error> {
    if matches!(keeper.state(), ContainerState::Running { frozen: true, .. }) {
        keeper.thaw().await?;
    }
    keeper.shutdown().await
}

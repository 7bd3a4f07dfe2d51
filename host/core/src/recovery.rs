//! What the daemon does with what its last run left: running containers are adopted, interrupted changes are finished or
//! taken back, pools and networks are brought up.

mod late;

use std::collections::HashMap;
use std::sync::Arc;

use hutch_api::Timestamp;
use hutch_container::{AdoptOutcome, Adopted, ContainerState, Keeper, LateKeepers};
use hutch_driver::EventStream;
use hutch_store::Transaction;

use crate::Core;
use crate::error::{Error, Result};
use crate::images;
use crate::instances::owner::Owner;
use crate::instances::spec::host_id;
use crate::instances::{Instance, settle, start, stop};
use crate::journal::{Entry, Open};
use crate::networks::Network;
use crate::operations::NewOperation;
use crate::pools::Pool;
use crate::profiles::with_project;

/// How long the first answer waits for interrupted changes. A driver that hangs must not keep the daemon from starting.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// See the module. When this returns the state of every instance is known; what needs pools and networks goes on in the
/// background.
pub(crate) async fn recover(core: &Arc<Core>) -> Result<()> {
    // Before anything is brought up, so that nothing is missed that drivers tell while instances start.
    tokio::spawn(follow_drivers(Arc::clone(core), core.drivers.events()));
    let Keepers { adopted, broken, late } = adopt(core).await?;
    let commands: Vec<String> = adopted
        .values()
        .flat_map(|(_, keeper)| keeper.list_execs())
        .map(|exec| exec.id)
        .collect();
    core.operations.restore(&commands).await?;
    for (_, keeper) in adopted.values() {
        resume_execs(core, keeper).await;
    }
    for (instance, why) in broken {
        instance
            .ask(move |owner| Box::pin(async move { owner.set_broken(Some(why)) }))
            .await?;
    }
    let interrupted = core.journal.interrupted().await?;
    for (instance, keeper) in adopted.into_values() {
        let restarts = late::restarts_of(&instance, &interrupted);
        instance
            .ask(move |owner| Box::pin(async move { owner.adopt(keeper, restarts) }))
            .await?;
    }
    for (_, _, entry) in &interrupted {
        core.close_deleted_pool(entry);
        core.close_deleted_network(entry);
        if let Some((project, name, why)) = settle::interrupted(entry)
            && let Ok(instance) = core.instances.get(project, name)
        {
            let hold = |owner: &mut Owner| owner.set_unfinished(Some(why));
            instance
                .ask(move |owner| {
                    Box::pin(async move {
                        hold(owner);
                        Ok(())
                    })
                })
                .await?;
        }
    }
    let all: Arc<[Entry]> = interrupted.iter().map(|(_, _, entry)| entry.clone()).collect();
    let (held, interrupted) = late::hold_back(core, &late, interrupted);
    tokio::spawn(late::follow(Arc::clone(core), late, held));
    // Pools and networks that were not finished must be gone before the others are brought up, and what is to be started
    // again comes when everything else about it is settled.
    let (infrastructure, rest): (Vec<_>, Vec<_>) = interrupted
        .into_iter()
        .partition(|(_, _, entry)| entry.is_infrastructure());
    let (restarts, rest): (Vec<_>, Vec<_>) = rest
        .into_iter()
        .partition(|(_, _, entry)| matches!(entry, Entry::InstanceRestart { .. }));
    let mut work = Unfinished {
        all,
        infrastructure,
        rest,
        restarts,
        pools: core.pools.list(),
        networks: core.networks.list(),
    };
    if !core.is_prepared() {
        // A new daemon answers once it has what clients take for granted.
        work.bring_up(core).await;
        if let Err(error) = core.prepare().await {
            tracing::error!(error = error.report(), "the first pool and network could not be made");
        }
    }
    // Nobody is to see, or to build on, what is half changed: the first answer waits for it, which costs nothing when nothing
    // was interrupted.
    let interrupted = !(work.rest.is_empty() && work.restarts.is_empty());
    let (settle, settled) = tokio::sync::oneshot::channel();
    let background = Arc::clone(core);
    tokio::spawn(async move { work.finish(&background, settle).await });
    if interrupted && tokio::time::timeout(PATIENCE, settled).await.is_err() {
        tracing::error!("interrupted changes take long to finish; requests are served meanwhile");
    }
    Ok(())
}

/// What is done while requests are answered already: everything that needs drivers.
struct Unfinished {
    /// Every change that was interrupted, also those that wait for a keeper.
    all: Arc<[Entry]>,
    infrastructure: Vec<(Open, String, Entry)>,
    rest: Vec<(Open, String, Entry)>,
    restarts: Vec<(Open, String, Entry)>,
    /// Those that the store had. What a request makes meanwhile is ready from the beginning.
    pools: Vec<Arc<Pool>>,
    networks: Vec<Arc<Network>>,
}

impl Unfinished {
    async fn bring_up(&mut self, core: &Arc<Core>) {
        for (open, _, entry) in std::mem::take(&mut self.infrastructure) {
            report(entry.clone(), self.infrastructure(core, &open, &entry).await);
        }
        let mut up = tokio::task::JoinSet::new();
        for pool in self.pools.drain(..) {
            let (core, unfinished) = (Arc::clone(core), Arc::clone(&self.all));
            up.spawn(async move { core.bring_up_pool(&pool, &unfinished).await });
        }
        for network in self.networks.drain(..) {
            let core = Arc::clone(core);
            up.spawn(async move { core.bring_up_network(&network).await });
        }
        while up.join_next().await.is_some() {}
    }

    async fn infrastructure(&self, core: &Arc<Core>, open: &Open, entry: &Entry) -> Result<()> {
        match entry {
            Entry::PoolCreate { .. } => core.recover_pool_create(open, entry).await,
            Entry::PoolDelete { name } => core.recover_pool_delete(open, name, &self.pools).await,
            Entry::NetworkCreate { .. } => core.recover_network_create(open, entry).await,
            Entry::NetworkDelete { project, name } => {
                core.recover_network_delete(open, (project, name), &self.networks).await
            }
            _ => Ok(()),
        }
    }

    async fn finish(mut self, core: &Arc<Core>, settle: tokio::sync::oneshot::Sender<()>) {
        self.bring_up(core).await;
        for (open, operation, entry) in self.rest {
            report(entry.clone(), object(core, &open, &operation, &entry).await);
        }
        let mut restarts = tokio::task::JoinSet::new();
        for (open, operation, entry) in self.restarts {
            let core = Arc::clone(core);
            restarts.spawn(async move { report(entry.clone(), object(&core, &open, &operation, &entry).await) });
        }
        // A container may take its time to halt, or never do: nothing else waits for that.
        tokio::spawn(async move {
            while restarts.join_next().await.is_some() {}
            // Whoever waited for it may have lost patience.
            let _ = settle.send(());
        });
        autostart(core).await;
    }
}

/// What became of the keepers of this daemon's instances.
#[derive(Default)]
struct Keepers {
    /// Those that live, by the instances' names.
    adopted: HashMap<(String, String), (Arc<Instance>, Keeper)>,
    /// Instances whose containers may run and can't be reached, with the reason.
    broken: Vec<(Arc<Instance>, String)>,
    /// Those that have not answered.
    late: LateKeepers,
}

async fn adopt(core: &Arc<Core>) -> Result<Keepers> {
    let by_id: HashMap<String, Arc<Instance>> = core
        .instances
        .list(None)
        .into_iter()
        .map(|instance| (host_id(&instance.view().record), instance))
        .collect();
    let Adopted { found, late } = core
        .runtime
        .adopt()
        .await
        .map_err(Error::container("looking for running containers"))?;
    let mut keepers = Keepers::default();
    for (id, outcome) in found {
        match (by_id.get(&id), outcome) {
            (Some(instance), AdoptOutcome::Adopted(keeper)) => {
                let at = (instance.project(), instance.name());
                keepers.adopted.insert(at, (Arc::clone(instance), keeper));
            }
            (None, AdoptOutcome::Adopted(keeper)) => end_stray(&id, keeper).await,
            (Some(instance), AdoptOutcome::Failed(error)) => {
                tracing::error!(id, %error, "a keeper can't be talked to; its container is left alone");
                keepers.broken.push((Arc::clone(instance), unreachable(&error)));
            }
            (_, outcome) => note_adoption(&id, &outcome),
        }
    }
    for id in late.ids() {
        tracing::error!(
            id,
            "a keeper does not answer; its container is left alone until it does"
        );
        if let Some(instance) = by_id.get(id) {
            keepers.broken.push((Arc::clone(instance), SILENT.to_owned()));
        }
    }
    keepers.late = late;
    Ok(keepers)
}

/// Why an instance can't be used whose keeper has not answered.
const SILENT: &str = "its keeper, the process that holds it, does not answer: it is stopped, or waits for a disk";

fn unreachable(error: &hutch_container::Error) -> String {
    format!("its keeper, the process that holds it, can't be talked to: {error}")
}

fn note_adoption(id: &str, outcome: &AdoptOutcome) {
    match outcome {
        AdoptOutcome::Dead => {
            tracing::info!(id, "a keeper was lost while the daemon was away; it is cleaned up");
        }
        AdoptOutcome::Failed(error) => {
            tracing::error!(id, %error, "a keeper that belongs to no instance can't be talked to");
        }
        outcome => tracing::error!(id, ?outcome, "a keeper is in a state that this daemon does not know"),
    }
}

/// Ends a container whose instance is gone.
async fn end_stray(id: &str, keeper: Keeper) {
    tracing::warn!(id, "a container that belongs to no instance is ended");
    if let Err(error) = keeper.kill().await {
        tracing::debug!(id, %error, "it had ended");
    }
    if let Err(error) = keeper.release().await {
        tracing::warn!(id, %error, "its keeper could not be released");
    }
}

/// Takes commands up again that run, and forgets those whose operation is over.
async fn resume_execs(core: &Arc<Core>, keeper: &Keeper) {
    for exec in keeper.list_execs() {
        match core.operations.get(&exec.id) {
            Ok(operation) if !operation.status().is_final() => core.resume_exec(&operation, keeper.clone()),
            _ => drop(keeper.forget_exec(&exec.id).await),
        }
    }
}

fn report(entry: Entry, result: Result<()>) {
    match result {
        Ok(()) => tracing::info!(?entry, "an interrupted change was finished or taken back"),
        // While a pool or driver can't be used the entry stays, and the next start tries again.
        Err(error) => tracing::error!(
            ?entry,
            error = error.report(),
            "an interrupted change could not be finished"
        ),
    }
}

async fn object(core: &Arc<Core>, open: &Open, operation: &str, entry: &Entry) -> Result<()> {
    let strike = || core.journal.done(open.clone(), Transaction::new());
    match entry {
        // A volume that no record names was removed when its pool was cleaned up.
        Entry::InstanceCreate { .. } | Entry::InstanceMove { .. } | Entry::InstanceLeave { .. } => strike().await,
        Entry::InstanceDelete { project, name } => {
            let open = open.clone();
            continue_with(core, project, name, strike, move |owner| {
                Box::pin(async move { owner.finish_delete(&open).await })
            })
            .await
        }
        Entry::InstanceRename {
            project,
            name,
            new_name,
        } => {
            let Ok(instance) = core.instances.get(project, name) else {
                return strike().await;
            };
            let (open, new_name) = (open.clone(), new_name.clone());
            instance
                .ask(move |owner| Box::pin(async move { owner.finish_rename(&open, &new_name).await }))
                .await
        }
        Entry::InstanceRebuild { project, name, rebuilt } => {
            let (open, rebuilt) = (open.clone(), rebuilt.clone());
            continue_with(core, project, name, strike, move |owner| {
                Box::pin(async move { owner.finish_rebuild(&open, *rebuilt).await })
            })
            .await
        }
        Entry::InstanceUpdate { project, name, tried } => {
            let (open, tried) = (open.clone(), tried.clone());
            continue_with(core, project, name, strike, move |owner| {
                Box::pin(async move { owner.finish_update(&open, tried.as_deref()).await })
            })
            .await
        }
        Entry::InstanceStart { project, name } => {
            let open = open.clone();
            continue_with(core, project, name, strike, move |owner| {
                Box::pin(async move { owner.finish_start(&open).await })
            })
            .await
        }
        Entry::InstanceStop { project, name, force } => {
            let (open, force) = (open.clone(), *force);
            continue_with(core, project, name, strike, move |owner| {
                Box::pin(async move { owner.finish_stop(&open, force).await })
            })
            .await
        }
        Entry::InstanceRestart { project, name } => match core.instances.get(project, name) {
            Ok(instance) => stop::finish_restart(&instance, open.clone()).await,
            Err(_) => strike().await,
        },
        Entry::SnapshotCreate { .. } | Entry::InstanceRefresh { .. } => strike().await,
        Entry::InstanceRenew { project, name, renewal } => {
            let (open, operation, renewal) = (open.clone(), operation.to_owned(), renewal.clone());
            continue_with(core, project, name, strike, move |owner| {
                Box::pin(async move { owner.finish_renew(&operation, &open, renewal).await })
            })
            .await
        }
        Entry::SnapshotDelete {
            project,
            name,
            snapshot,
        } => {
            let (open, snapshot) = (open.clone(), snapshot.clone());
            continue_with(core, project, name, strike, move |owner| {
                Box::pin(async move { owner.finish_delete_snapshot(&open, &snapshot).await })
            })
            .await
        }
        Entry::SnapshotRename {
            project,
            name,
            snapshot,
            new_name,
        } => {
            let (open, snapshot, new_name) = (open.clone(), snapshot.clone(), new_name.clone());
            continue_with(core, project, name, strike, move |owner| {
                Box::pin(async move { owner.finish_rename_snapshot(&open, &snapshot, &new_name).await })
            })
            .await
        }
        Entry::SnapshotRestore {
            project,
            name,
            snapshot,
        } => {
            let (open, snapshot) = (open.clone(), snapshot.clone());
            continue_with(core, project, name, strike, move |owner| {
                Box::pin(async move { owner.finish_restore(&open, &snapshot).await })
            })
            .await
        }
        Entry::ImageImport { .. } | Entry::ImageDelete { .. } | Entry::ImageUnpack { .. } => {
            images::recover(core, open, entry).await
        }
        _ => Ok(()),
    }
}

/// Has the owner go on; an instance that is gone has nothing to go on with.
async fn continue_with<J, S, F>(core: &Arc<Core>, project: &str, name: &str, strike: S, job: J) -> Result<()>
where
    J: for<'a> FnOnce(&'a mut Owner) -> crate::instances::Answer<'a, ()> + Send + 'static,
    S: FnOnce() -> F,
    F: Future<Output = Result<()>>,
{
    match core.instances.get(project, name) {
        Ok(instance) => match instance.ask(job).await {
            // The snapshot is gone already: what was to be done is done.
            Err(error) if error.is_not_found() => strike().await,
            other => other,
        },
        Err(_) => strike().await,
    }
}

impl Owner {
    /// Says why the instance can't be used, or that it can.
    fn set_broken(&mut self, why: Option<String>) -> Result<()> {
        self.broken = why;
        self.publish();
        Ok(())
    }

    /// Takes over a container that an earlier daemon started.
    fn adopt(&mut self, keeper: Keeper, restarts: Vec<Open>) -> Result<()> {
        self.restarts = restarts;
        self.events = Some(keeper.events());
        self.probe = Some(Arc::default());
        self.started_at = self.record.last_used_at;
        self.keeper = Some(keeper);
        self.publish();
        Ok(())
    }

    /// A start was interrupted: a container whose PID 1 runs stays, anything less is taken back.
    async fn finish_start(&mut self, open: &Open) -> Result<()> {
        self.resume(open, false).await?;
        let running = self
            .keeper
            .as_ref()
            .is_some_and(|keeper| matches!(keeper.state(), ContainerState::Running { .. }));
        if !running {
            self.take_back_start().await;
            return self.core.journal.done(open.clone(), Transaction::new()).await;
        }
        let mut record = crate::records::InstanceRecord::clone(&self.record);
        record.last_used_at = Timestamp::now();
        record.config.remove(crate::instances::templates::PENDING);
        record
            .config
            .insert("volatile.last_state.power".to_owned(), "RUNNING".to_owned());
        self.core.journal.done(open.clone(), Self::write(&record)?).await?;
        self.record = Arc::new(record);
        self.publish();
        Ok(())
    }
}

/// Starts what is to be started with the daemon ([`View::starts_with_daemon`](crate::instances::view::View)). Higher priorities first.
async fn autostart(core: &Arc<Core>) {
    let number = |config: &hutch_api::Config, key: &str| {
        config.get(key).and_then(|value| value.parse::<i64>().ok()).unwrap_or(0)
    };
    let mut wanted: Vec<_> = core
        .instances
        .list(None)
        .into_iter()
        .filter(|instance| {
            let view = instance.view();
            view.starts_with_daemon() && view.keeper.is_none()
        })
        .collect();
    wanted.sort_by_key(|instance| std::cmp::Reverse(number(&instance.view().config, "boot.autostart.priority")));
    for instance in wanted {
        let view = instance.view();
        let path = with_project(format!("/1.0/instances/{}", view.record.name), &view.record.project);
        let new = NewOperation::task(&view.record.project, "Starting instance", "instances", path);
        let target = Arc::clone(&instance);
        let begun = core
            .operations
            .begin(
                new,
                move |operation| async move { start::start(&target, &operation).await },
            )
            .await;
        match begun {
            Ok(operation) => operation.wait(None).await,
            Err(error) => tracing::error!(
                instance = instance.name(),
                error = error.report(),
                "it could not be started with the daemon"
            ),
        }
        let delay = u64::try_from(number(&view.config, "boot.autostart.delay")).unwrap_or(0);
        if delay > 0 {
            tokio::time::sleep(std::time::Duration::from_secs(delay)).await;
        }
    }
}

/// Follows what drivers report until the daemon goes down.
async fn follow_drivers(core: Arc<Core>, mut events: Box<dyn EventStream>) {
    while let Some(event) = events.next().await {
        match (event.family.as_str(), event.topic.as_str()) {
            ("network", "leases") => core.leases_changed(&event.project, &event.object).await,
            _ => tracing::debug!(?event, "nobody follows this event"),
        }
    }
}

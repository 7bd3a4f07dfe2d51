//! Keepers that do not answer when the daemon starts, and may later.

use std::collections::HashMap;
use std::sync::Arc;

use hutch_container::{AdoptOutcome, LateKeepers};

use super::{end_stray, note_adoption, object, report, resume_execs, unreachable};
use crate::Core;
use crate::error::Result;
use crate::instances::Instance;
use crate::instances::owner::Owner;
use crate::instances::spec::host_id;
use crate::journal::{Entry, Open};
use crate::pools::OpenPool;

/// Changes that were interrupted, oldest first, with the operation that they belong to.
pub(super) type Interrupted = Vec<(Open, String, Entry)>;

/// Parts what was interrupted into that of instances whose keepers are silent, by the containers' ids, and all else. What such a
/// container does nobody knows, so nothing is finished or taken back before its keeper has answered.
pub(super) fn hold_back(
    core: &Core,
    late: &LateKeepers,
    interrupted: Interrupted,
) -> (HashMap<String, Interrupted>, Interrupted) {
    let mut held: HashMap<String, Interrupted> = late.ids().map(|id| (id.to_owned(), Vec::new())).collect();
    let mut others = Vec::new();
    for one in interrupted {
        let instance = one.2.instance();
        let instance = instance.and_then(|(project, name)| core.instances.get(project, name).ok());
        let wait = instance.and_then(|instance| held.get_mut(&host_id(&instance.view().record)));
        wait.unwrap_or(&mut others).push(one);
    }
    (held, others)
}

/// Takes over the containers whose keepers answer after all, and goes on with what was interrupted with them.
pub(super) async fn follow(core: Arc<Core>, mut late: LateKeepers, mut held: HashMap<String, Interrupted>) {
    while let Some((id, outcome)) = late.next().await {
        let mut list = core.instances.list(None).into_iter();
        let instance = list.find(|instance| host_id(&instance.view().record) == id);
        let (broken, keeper) = match (&instance, outcome) {
            (None, AdoptOutcome::Adopted(keeper)) => {
                end_stray(&id, keeper).await;
                continue;
            }
            (Some(_), AdoptOutcome::Adopted(keeper)) => {
                tracing::info!(id, "a keeper answers at last");
                resume_execs(&core, &keeper).await;
                (None, Some(keeper))
            }
            (Some(_), AdoptOutcome::Failed(error)) => (Some(unreachable(&error)), None),
            (_, outcome) => {
                note_adoption(&id, &outcome);
                (None, None)
            }
        };
        let Some(instance) = instance else { continue };
        let settled = broken.is_none();
        let interrupted = held.remove(&id).unwrap_or_default();
        let restarts = restarts_of(&instance, &interrupted);
        let taken = instance.ask(move |owner| {
            Box::pin(async move {
                owner.set_broken(broken)?;
                keeper.map_or(Ok(()), |keeper| owner.adopt(keeper, restarts))
            })
        });
        match taken.await {
            // A pool that hangs, or a container that does not halt, holds up nothing but this.
            Ok(()) if settled => drop(tokio::spawn(go_on(Arc::clone(&core), instance, interrupted))),
            // What was interrupted stays in the journal: the next start of the daemon may reach the keeper.
            Ok(()) => {}
            Err(error) => tracing::error!(id, error = error.report(), "the container could not be taken over"),
        }
    }
}

/// What the start of the daemon could not do with an instance before its keeper answered.
async fn go_on(core: Arc<Core>, instance: Arc<Instance>, interrupted: Interrupted) {
    let claim = async {
        let pool = core.open_pool(&instance.view().record.pool).await?;
        instance
            .ask(move |owner| Box::pin(async move { owner.claim_root(&pool).await }))
            .await
    };
    let finish = async {
        // A restart comes when everything else is settled, its own stop among it.
        let is_restart = |entry: &Entry| matches!(entry, Entry::InstanceRestart { .. });
        let (restarts, rest): (Vec<_>, Vec<_>) = interrupted.into_iter().partition(|(_, _, entry)| is_restart(entry));
        for (open, operation, entry) in rest.into_iter().chain(restarts) {
            report(entry.clone(), object(&core, &open, &operation, &entry).await);
        }
    };
    let (claimed, ()) = tokio::join!(claim, finish);
    match claimed {
        Ok(()) => {}
        // It was deleted, as it was to be.
        Err(error) if error.is_not_found() => {}
        Err(error) => tracing::warn!(
            instance = instance.name(),
            error = error.report(),
            "nothing keeps the root of a container that was taken over from being another's"
        ),
    }
}

/// The interrupted restarts of one instance.
pub(super) fn restarts_of(instance: &Instance, interrupted: &[(Open, String, Entry)]) -> Vec<Open> {
    let view = instance.view();
    interrupted
        .iter()
        .filter(|(_, _, entry)| {
            matches!(entry, Entry::InstanceRestart { project, name }
                if (project, name) == (&view.record.project, &view.record.name))
        })
        .map(|(open, _, _)| open.clone())
        .collect()
}

impl Owner {
    /// Claims the tree of a container that an earlier daemon started and that was taken over when its pool was up already.
    async fn claim_root(&mut self, pool: &OpenPool) -> Result<()> {
        if self.keeper.is_some() {
            // Its own earlier claim would be in the way.
            self.instance.hold(None);
            let (_, claim) = pool.root_of(&self.core, &self.record).await?;
            self.instance.hold(Some(claim));
        }
        Ok(())
    }
}

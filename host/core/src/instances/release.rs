//! Letting a root go that nobody uses: for drivers whose volumes have their home elsewhere.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hutch_driver::Cancel;

use crate::error::{Error, Result};
use crate::instances::Instance;
use crate::instances::owner::Owner;
use crate::pools::{OpenPool, instance_volume};

/// An instance's root being let go, and those for whom that is given up: it may take as long as sending all of the root elsewhere.
#[derive(Debug, Default)]
pub(crate) struct Release(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// How many do not wait.
    urgent: usize,
    /// What ends it.
    under_way: Option<Cancel>,
}

/// Until this is dropped the root is not let go.
#[derive(Debug)]
pub(crate) struct Urgent<'a>(&'a Release);

impl Release {
    /// Gives up to let the root go, as it is about to be used or removed.
    pub(crate) fn give_up(&self) -> Urgent<'_> {
        let mut state = self.state();
        state.urgent += 1;
        if let Some(cancel) = &state.under_way {
            cancel.cancel();
        }
        Urgent(self)
    }

    /// Begins to let it go, unless somebody is in the way.
    fn begin(&self) -> Option<Cancel> {
        let mut state = self.state();
        if state.urgent > 0 {
            return None;
        }
        let cancel = Cancel::default();
        state.under_way = Some(cancel.clone());
        Some(cancel)
    }

    fn end(&self) {
        self.state().under_way = None;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Urgent<'_> {
    fn drop(&mut self) {
        self.0.state().urgent -= 1;
    }
}

impl Owner {
    /// Has the driver send home what was written to the root, where it wants to know that nobody uses it any more. What that fails with
    /// is told, and made up for when the container ends the next time, or the daemon starts: the container has ended whatever becomes of
    /// this. It is given up for those who do not wait ([`Release::give_up`]).
    pub(crate) async fn release_root(&self) {
        // One that was not up yet since the daemon began asks again when it is; of one that is away nothing can be let go.
        let Some(pool) = self.core.ready_pool(&self.record.pool) else {
            return;
        };
        let Some(cancel) = self.instance.release.begin() else {
            return;
        };
        let released = self.release_from(&pool, &cancel).await;
        self.instance.release.end();
        if let Err(error) = released {
            if cancel.is_cancelled() {
                tracing::debug!(
                    instance = self.record.name,
                    error = error.report(),
                    "the root is wanted, and not let go"
                );
                return;
            }
            tracing::warn!(
                instance = self.record.name,
                error = error.report(),
                "the root of an instance was not let go"
            );
            self.note(&format!("its root was not let go: {}", error.report()));
        }
    }

    async fn release_from(&self, pool: &OpenPool, cancel: &Cancel) -> Result<()> {
        if !pool.driver.info().can("release") {
            return Ok(());
        }
        let action = format!("letting go of the root of instance {}", self.record.name);
        let mut call = pool.call(None);
        call.cancel = cancel.clone();
        pool.driver
            .release(&call, &pool.reference(), &instance_volume(&self.record))
            .await
            .map_err(Error::driver(action))
    }

    /// Whether nobody uses the root, as far as is known, nor is about to.
    pub(crate) fn is_unused(&self) -> bool {
        let quiet = self.keeper.is_none() && self.files.is_none() && self.busy.is_none();
        quiet && self.restarts.is_empty() && !self.creating && !self.deleted && self.trouble().is_none()
    }
}

/// Lets go of the instances' roots that nobody uses, each when its owner comes to it.
pub(crate) fn release_unused(instances: Vec<Arc<Instance>>) {
    for instance in instances {
        tokio::spawn(async move {
            let release = instance.ask(|owner| {
                Box::pin(async move {
                    if owner.is_unused() {
                        owner.release_root().await;
                    }
                    Ok(())
                })
            });
            // An instance that is gone has no root.
            drop(release.await);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::Release;

    #[test]
    fn who_wants_the_root_does_not_wait_for_it_to_go() {
        let release = Release::default();
        let cancel = release.begin().expect("nobody wants it");
        assert!(!cancel.is_cancelled());
        let (first, second) = (release.give_up(), release.give_up());
        assert!(cancel.is_cancelled());
        release.end();
        drop(first);
        assert!(release.begin().is_none(), "somebody still wants it");
        drop(second);
        let again = release.begin().expect("nobody wants it any more");
        assert!(!again.is_cancelled());
        release.end();
        drop(release.give_up());
        assert!(!again.is_cancelled(), "it had ended before");
    }
}

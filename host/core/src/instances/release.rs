//! Letting a root go that nobody uses: for drivers whose volumes have their home elsewhere.
//!
//! Whoever has a driver bring out an instance's root, to run it, to open its files, or to make something else of it, says so
//! ([`Owner::use_root`]). After each of the owner's jobs it is seen whether anybody still uses it ([`Owner::let_root_go`]), so that it goes
//! however that job ended. There is no entry in the journal: when the daemon starts, all roots are let go that nobody uses.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hutch_driver::Cancel;

use crate::error::{Error, Result};
use crate::instances::owner::Owner;
use crate::instances::{Answer, Instance};
use crate::pools::{OpenPool, instance_volume};

/// What tests call the points at which they end the daemon.
const FAULT: &str = "root-release";

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
struct Urgent(Arc<Release>);

impl Release {
    /// Gives up to let the root go, as it is about to be used or removed.
    fn give_up(self: &Arc<Self>) -> Urgent {
        let mut state = self.state();
        state.urgent += 1;
        if let Some(cancel) = &state.under_way {
            cancel.cancel();
        }
        drop(state);
        Urgent(Arc::clone(self))
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

impl Drop for Urgent {
    fn drop(&mut self) {
        self.0.state().urgent -= 1;
    }
}

impl Instance {
    /// [`Instance::ask`] for a job that uses the root, or removes it: letting it go is given up for that.
    pub(crate) async fn ask_for_root<T, J>(&self, job: J) -> Result<T>
    where
        T: Send + 'static,
        J: for<'a> FnOnce(&'a mut Owner) -> Answer<'a, T> + Send + 'static,
    {
        let urgent = self.release.give_up();
        self.ask(move |owner| {
            Box::pin(async move {
                // As long as the job, and no longer: right after it the owner sees whether the root can go.
                let _urgent = urgent;
                job(owner).await
            })
        })
        .await
    }
}

impl Owner {
    /// Says that the root is about to be used, and is to be let go when nobody does any more.
    pub(crate) fn use_root(&mut self) {
        self.root_used = true;
    }

    /// Has the driver send home what was written to the root, where that was used and is not any more, and the driver wants to know.
    /// What that fails with is told, and made up for when the root was used the next time, or the daemon starts: whatever it was used
    /// for is over all the same. It is given up for those who do not wait ([`Instance::ask_for_root`]), and begun again after them.
    pub(crate) async fn let_root_go(&mut self) {
        if !self.root_used || !self.is_unused() {
            return;
        }
        // A pool that was not up yet since the daemon began asks again when it is; of one that is away nothing can be let go.
        let Some(pool) = self.core.ready_pool(&self.record.pool) else {
            return;
        };
        let Some(cancel) = self.instance.release.begin() else {
            return;
        };
        let released = self.release_from(&pool, &cancel).await;
        self.instance.release.end();
        let name = &self.record.name;
        match released {
            Err(error) if cancel.is_cancelled() => {
                let error = error.report();
                tracing::debug!(instance = name, error, "the root is wanted, and not let go");
                return;
            }
            Err(error) => {
                let error = error.report();
                tracing::warn!(instance = name, error, "the root of an instance was not let go");
                self.note(&format!("its root was not let go: {error}"));
            }
            Ok(()) => {}
        }
        self.root_used = false;
    }

    async fn release_from(&self, pool: &OpenPool, cancel: &Cancel) -> Result<()> {
        if !pool.driver.info().can("release") {
            return Ok(());
        }
        let action = format!("letting go of the root of instance {}", self.record.name);
        let mut call = pool.call(None);
        call.cancel = cancel.clone();
        self.core.journal.point(FAULT, "begin");
        pool.driver
            .release(&call, &pool.reference(), &instance_volume(&self.record))
            .await
            .map_err(Error::driver(action))?;
        self.core.journal.point(FAULT, "released");
        Ok(())
    }

    /// Whether nobody uses the root, as far as is known, nor is about to.
    fn is_unused(&self) -> bool {
        let quiet = self.keeper.is_none() && self.files.is_none() && self.busy.is_none();
        quiet && self.restarts.is_empty() && !self.creating && !self.deleted && self.trouble().is_none()
    }
}

/// Lets go of the instances' roots that nobody uses, each when its owner comes to it: who used them before the daemon began is not
/// known.
pub(crate) fn release_unused(instances: Vec<Arc<Instance>>) {
    for instance in instances {
        tokio::spawn(async move {
            let release = instance.ask(|owner| {
                Box::pin(async move {
                    owner.use_root();
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
    use std::sync::Arc;

    use super::Release;

    #[test]
    fn who_wants_the_root_does_not_wait_for_it_to_go() {
        let release = Arc::new(Release::default());
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

//! Letting a root go that nobody uses: for drivers whose volumes have their home elsewhere.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::instances::Instance;
use crate::instances::owner::Owner;
use crate::pools::{OpenPool, instance_volume};

impl Owner {
    /// Has the driver send home what was written to the root, where it wants to know that nobody uses it any more. What that fails with
    /// is told, and made up for when the pool is opened again: the container has ended whatever becomes of this.
    pub(crate) async fn release_root(&self) {
        // One that is being brought up, or can't be used, asks again when that is over.
        let Some(pool) = self.core.ready_pool(&self.record.pool) else {
            return;
        };
        if let Err(error) = self.release_from(&pool).await {
            tracing::warn!(
                instance = self.record.name,
                error = error.report(),
                "the root of an instance was not let go"
            );
            self.note(&format!("its root was not let go: {}", error.report()));
        }
    }

    async fn release_from(&self, pool: &OpenPool) -> Result<()> {
        if !pool.driver.info().can("release") {
            return Ok(());
        }
        let action = format!("letting go of the root of instance {}", self.record.name);
        pool.driver
            .release(&pool.call(None), &pool.reference(), &instance_volume(&self.record))
            .await
            .map_err(Error::driver(action))
    }

    /// Whether nobody uses the root, as far as is known.
    fn is_unused(&self) -> bool {
        let quiet = self.keeper.is_none() && self.files.is_none() && self.busy.is_none();
        quiet && !self.creating && !self.deleted && self.trouble().is_none()
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

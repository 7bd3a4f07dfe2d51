//! Bringing networks up after a start of the daemon, and when what was in the way is gone.

use std::sync::Arc;

use super::{Network, turn};
use crate::Core;
use crate::error::{Error, Result};
use crate::pools::Readiness;

impl Core {
    /// Whether this very network is there, and not another of its name, or none.
    pub(super) fn has_network(&self, network: &Network) -> bool {
        let record = network.record();
        let found = self.networks.get(&(record.project.clone(), record.name.clone()));
        found.is_some_and(|found| std::ptr::eq(Arc::as_ptr(&found), network))
    }

    /// Brings a network up after a start of the daemon, but for one that is gone by now, or going: its interface would be
    /// nobody's.
    pub(crate) async fn bring_up_network(&self, network: &Network) {
        let _turn = network.turn.lock().await;
        if self.has_network(network) && network.readiness() == Readiness::Opening {
            self.start_and_clean(network).await;
        }
    }

    /// Brings a network up that could not be, or finishes its deletion if that was interrupted: what was in the way may be gone.
    /// What comes of it is shown with the network.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn retry_network(&self, network: &Network) -> Result<()> {
        let record = network.record();
        let _name = self.turns.take(&turn(&record.name)).await;
        let _turn = network.turn.lock().await;
        if !self.has_network(network) || !matches!(network.readiness(), Readiness::Unavailable(_)) {
            return Ok(());
        }
        let deletions = self.open_network_deletions(&record).await?;
        if deletions.is_empty() {
            self.start_and_clean(network).await;
        } else if let Err(error) = self.finish_interrupted_network(network, &deletions).await {
            let name = record.name.as_str();
            tracing::error!(
                network = name,
                error = error.report(),
                "the network could not be deleted yet"
            );
        }
        Ok(())
    }

    /// Starts a network and removes what belongs to no instance. The caller has its turn.
    async fn start_and_clean(&self, network: &Network) {
        let record = network.record();
        let (project, name) = (record.project.as_str(), record.name.as_str());
        let result = async {
            let open = self.network_with_driver(network.record())?;
            open.driver
                .start(&open.call(), &open.reference())
                .await
                .map_err(Error::driver(format!("starting network {name}")))?;
            let nics = self.instances.nics(self, project, name, true);
            let mut call = open.call();
            call.links.extend(nics.iter().map(|nic| nic.host_name.clone()));
            let removed = open
                .driver
                .reconcile(&call, &open.reference(), &nics)
                .await
                .map_err(Error::driver(format!("cleaning up network {name}")))?;
            for what in removed {
                tracing::info!(network = name, what, "removed what belonged to nothing");
            }
            Ok::<_, Error>(())
        };
        match result.await {
            Ok(()) => drop(network.readiness.send_replace(Readiness::Ready)),
            Err(error) => {
                tracing::error!(network = name, error = error.report(), "the network is unavailable");
                network.readiness.send_replace(Readiness::Unavailable(error.report()));
            }
        }
    }
}

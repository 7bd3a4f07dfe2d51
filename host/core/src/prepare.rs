//! The first pool, network and profile, so that a new daemon can launch something without any set-up.

use std::sync::{Arc, PoisonError};

use hutch_api::network::NetworksPost;
use hutch_api::profile::ProfilePut;
use hutch_api::storage::StoragePoolsPost;
use hutch_store::Transaction;

use crate::error::{Error, Result};
use crate::records::key;
use crate::{Core, DEFAULT_PROJECT, profiles};

/// The name of the first pool.
const POOL: &str = "default";
/// The names tried for the first network: several daemons of one machine take different ones.
const BRIDGES: std::ops::Range<u32> = 0..64;

impl Core {
    /// Whether the first pool, network and profile were made, in this run or an earlier one.
    pub(crate) fn is_prepared(&self) -> bool {
        self.server.read().unwrap_or_else(PoisonError::into_inner).prepared
    }

    /// Makes what a new daemon begins with, by the drivers that the operator's configuration puts first. Once; what the
    /// operator removes stays removed.
    ///
    /// # Errors
    /// The store's. A pool or network that can't be made is left out and logged: the daemon is of use without.
    pub(crate) async fn prepare(self: &Arc<Self>) -> Result<()> {
        // Which driver comes first is known only when all have been looked at.
        self.drivers.settled().await;
        let pool = self.first_pool().await;
        let network = self.first_network().await;
        let current = self.profile(DEFAULT_PROJECT, profiles::DEFAULT)?;
        let mut put: ProfilePut = current.value.to_put();
        let device = |entries: &[(&str, &str)]| {
            entries
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect()
        };
        if pool {
            put.devices
                .entry("root".to_owned())
                .or_insert_with(|| device(&[("type", "disk"), ("path", "/"), ("pool", POOL)]));
        }
        if let Some(network) = &network {
            put.devices
                .entry("eth0".to_owned())
                .or_insert_with(|| device(&[("type", "nic"), ("network", network), ("name", "eth0")]));
        }
        self.profile_update(DEFAULT_PROJECT, profiles::DEFAULT, put, None)
            .await?;
        let record = crate::records::ServerRecord {
            prepared: pool && network.is_some(),
            ..self.server.read().unwrap_or_else(PoisonError::into_inner).clone()
        };
        self.store.commit(Transaction::new().put(key::SERVER, &record)?).await?;
        *self.server.write().unwrap_or_else(PoisonError::into_inner) = record;
        Ok(())
    }

    async fn first_pool(&self) -> bool {
        if self.pools.get(&POOL.to_owned()).is_some() {
            return true;
        }
        match self
            .pool_create(StoragePoolsPost {
                name: POOL.to_owned(),
                ..StoragePoolsPost::default()
            })
            .await
        {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(error = error.report(), "the first storage pool could not be made");
                false
            }
        }
    }

    async fn first_network(&self) -> Option<String> {
        if let Some(network) = self.networks.list().first() {
            return Some(network.record().name.clone());
        }
        for number in BRIDGES {
            let name = format!("hutchbr{number}");
            match self
                .network_create(
                    DEFAULT_PROJECT,
                    NetworksPost {
                        name: name.clone(),
                        ..NetworksPost::default()
                    },
                )
                .await
            {
                Ok(()) => return Some(name),
                // Another daemon's.
                Err(Error::Conflict(_)) => {}
                Err(error) => {
                    tracing::error!(
                        error = error.report(),
                        network = name,
                        "the first network could not be made"
                    );
                    return None;
                }
            }
        }
        None
    }
}

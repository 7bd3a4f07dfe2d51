//! Taking back a network that was not finished.

use std::sync::Arc;

use hutch_store::Transaction;

use super::turn;
use crate::Core;
use crate::error::{Error, Result};
use crate::journal::{Entry, Open};
use crate::records::{NetworkRecord, RECORD_VERSION};

impl Core {
    /// Takes back a network that could not be made. If that fails, too, its entry stays in the journal, and the next start of the
    /// daemon or the next network of this name tries again.
    pub(super) async fn give_network_up(&self, entry: Open, record: &NetworkRecord) -> Result<()> {
        match self.undo_network_create(record).await {
            Ok(()) => self.journal.done(entry, Transaction::new()).await,
            Err(error) => {
                tracing::warn!(
                    network = record.name,
                    error = error.report(),
                    "a network that was not finished could not be taken back"
                );
                Ok(())
            }
        }
    }

    /// Takes back what earlier creations of a network of this name left, in whatever project, when they could not be taken back.
    /// The caller has the name's turn.
    pub(super) async fn finish_network_undo(&self, wanted: &str) -> Result<()> {
        for (open, _, entry) in self.journal.interrupted().await? {
            if let Some(record) = unfinished(&entry)
                && record.name == wanted
            {
                self.undo_network_create(&record).await.map_err(|error| {
                    let why = error.report();
                    Error::Unavailable(format!(
                        "an earlier network {wanted}, which was not finished, can't be removed yet: {why}"
                    ))
                })?;
                self.journal.done(open, Transaction::new()).await?;
            }
        }
        Ok(())
    }

    /// Takes back a network whose creation was interrupted, after a start of the daemon.
    pub(crate) async fn recover_network_create(&self, open: &Open, entry: &Entry) -> Result<()> {
        if let Some(record) = unfinished(entry) {
            let _turn = self.turns.take(&turn(&record.name)).await;
            // A request that made one of this name has taken this one back before.
            if !self.network_is_known(&record.name) {
                self.undo_network_create(&record).await?;
            }
        }
        self.journal.done(open.clone(), Transaction::new()).await
    }

    async fn undo_network_create(&self, record: &NetworkRecord) -> Result<()> {
        let open = self.network_with_driver(Arc::new(record.clone()))?;
        open.driver
            .stop(&open.call(), &open.reference())
            .await
            .map_err(Error::driver("stopping the network"))
    }
}

/// The network of an interrupted creation.
fn unfinished(entry: &Entry) -> Option<NetworkRecord> {
    let Entry::NetworkCreate {
        project,
        name,
        driver,
        config,
    } = entry
    else {
        return None;
    };
    Some(NetworkRecord {
        v: RECORD_VERSION,
        project: project.clone(),
        name: name.clone(),
        driver: driver.clone(),
        description: String::new(),
        config: config.clone(),
    })
}

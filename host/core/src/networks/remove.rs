//! The end of a network, or of its name.

use std::sync::Arc;

use hutch_api::network::NetworkPost;
use hutch_store::Transaction;

use super::{Network, network_path, turn};
use crate::error::{Error, Result};
use crate::events;
use crate::journal::{Entry, Open};
use crate::pools::Readiness;
use crate::records::{NetworkRecord, key};
use crate::{Core, names};

/// Why a network that is going can't be used.
const GOING: &str = "it is being deleted";

impl Core {
    /// Gives a network that nothing uses another name, which its interface has, too.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`] for one that is used, [`Error::Conflict`], and the driver's.
    pub async fn network_rename(&self, project: &str, name: &str, post: NetworkPost) -> Result<()> {
        names::network(&post.name)?;
        let _turns = self.turns.take_two(&turn(name), &turn(&post.name)).await;
        let network = self.find_network(project, name)?;
        let _turn = network.turn.lock().await;
        let old = network.record();
        self.finish_network_undo(&post.name).await?;
        if self.network_is_known(&post.name) || self.machine.link(&post.name).await?.is_some() {
            return Err(Error::Conflict(format!("Network {:?} already exists", post.name)));
        }
        let readiness = self.close_network(&network, "renamed").await?;
        // Until the record is written a restart brings the old one up again, afterwards the new one.
        if let Err(error) = self.finish_network_delete(&old).await {
            network.readiness.send_replace(readiness);
            return Err(error);
        }
        let record = NetworkRecord {
            name: post.name,
            ..NetworkRecord::clone(&old)
        };
        let at = (record.project.clone(), record.name.clone());
        let change = Transaction::new()
            .delete(key::network(&old.project, name))
            .put(key::network(&record.project, &record.name), &record)?;
        self.store.commit(change).await?;
        self.networks.remove(&(old.project.clone(), name.to_owned()));
        let renamed = Arc::new(Network::new(record));
        self.networks.insert(at.clone(), Arc::clone(&renamed));
        let open = self.network_with_driver(renamed.record())?;
        let started = open.driver.start(&open.call(), &open.reference()).await;
        let action = format!("starting network {}", at.1);
        match started.map_err(Error::driver(action)) {
            Ok(()) => {
                renamed.readiness.send_replace(Readiness::Ready);
                self.events.lifecycle(
                    &at.0,
                    "network-renamed",
                    &network_path(&open.record),
                    events::context([("old_name", name.into())]),
                );
                Ok(())
            }
            Err(error) => {
                renamed.readiness.send_replace(Readiness::Unavailable(error.report()));
                Err(error)
            }
        }
    }

    /// Deletes a network that nothing uses.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`] for one that is used, and the driver's.
    pub async fn network_delete(&self, project: &str, name: &str) -> Result<()> {
        let _turns = self.turns.take(&turn(name)).await;
        let network = self.find_network(project, name)?;
        let _turn = network.turn.lock().await;
        let record = network.record();
        let readiness = self.close_network(&network, "deleted").await?;
        if let Err(error) = self.delete_network_and_record(&record).await {
            network.readiness.send_replace(readiness);
            return Err(error);
        }
        self.networks.remove(&(record.project.clone(), name.to_owned()));
        self.events.lifecycle(
            &record.project,
            "network-deleted",
            &network_path(&record),
            serde_json::Map::new(),
        );
        Ok(())
    }

    /// Whether any project has a network of this name, which is its interface's, too.
    pub(super) fn network_is_known(&self, name: &str) -> bool {
        self.networks.list().iter().any(|network| network.record().name == name)
    }

    /// Makes sure that nobody uses a network or begins to, because it is being `changed`. Answers with how ready it was.
    async fn close_network(&self, network: &Network, changed: &str) -> Result<Readiness> {
        let _guard = self.changes.lock().await;
        let record = network.record();
        if let Some(user) = self.network_users(&record).first() {
            return Err(Error::invalid(format!("Network {:?} is in use by {user}", record.name)));
        }
        Ok(network
            .readiness
            .send_replace(Readiness::Unavailable(format!("it is being {changed}"))))
    }

    /// Takes a network down, then deletes its record. A deletion that failed is told to the caller and over with: it must not go
    /// on after the next start of the daemon, when there may be another network of this name.
    async fn delete_network_and_record(&self, record: &Arc<NetworkRecord>) -> Result<()> {
        let entry = Entry::NetworkDelete {
            project: record.project.clone(),
            name: record.name.clone(),
        };
        let entry = self.journal.begin("", entry).await?;
        if let Err(error) = self.finish_network_delete(record).await {
            return self.journal.unless_failed(entry, Err(error)).await;
        }
        self.journal.step(&entry, "network");
        // With one that was interrupted and could not be finished: it would take another network of this name for this one.
        let entries = self.open_network_deletions(record).await?;
        self.forget_network(&entries, record).await
    }

    /// Shows the network as going whose deletion `entry` was interrupted, so that nobody begins to use it.
    pub(crate) fn close_deleted_network(&self, entry: &Entry) {
        if let Entry::NetworkDelete { project, name } = entry
            && let Some(network) = self.networks.get(&(project.clone(), name.clone()))
        {
            network.readiness.send_replace(Readiness::Unavailable(GOING.to_owned()));
        }
    }

    /// Goes on with the deletion of a network that was interrupted, after a start of the daemon, which found `loaded`. A network
    /// that a request deleted meanwhile, or another that was made of its name, is none of it.
    ///
    /// # Errors
    /// The driver's, whereupon the network stays closed, and the store's.
    pub(crate) async fn recover_network_delete(
        &self,
        open: &Open,
        (project, name): (&str, &str),
        loaded: &[Arc<Network>],
    ) -> Result<()> {
        let _name = self.turns.take(&turn(name)).await;
        let found = loaded.iter().find(|network| {
            let record = network.record();
            record.project == project && record.name == name
        });
        match found {
            Some(network) if self.has_network(network) => {
                let _turn = network.turn.lock().await;
                self.finish_interrupted_network(network, std::slice::from_ref(open))
                    .await
            }
            _ => self.journal.done(open.clone(), Transaction::new()).await,
        }
    }

    /// Deletes a network whose deletions `entries` were interrupted. The caller has its turns.
    pub(super) async fn finish_interrupted_network(&self, network: &Network, entries: &[Open]) -> Result<()> {
        let record = network.record();
        if let Err(error) = self.finish_network_delete(&record).await {
            let why = format!("{GOING}, which could not be finished yet: {}", error.report());
            network.readiness.send_replace(Readiness::Unavailable(why));
            return Err(error);
        }
        self.forget_network(entries, &record).await?;
        self.networks.remove(&(record.project.clone(), record.name.clone()));
        Ok(())
    }

    /// The deletions of this network that are in the journal.
    pub(super) async fn open_network_deletions(&self, record: &NetworkRecord) -> Result<Vec<Open>> {
        let entries = self.journal.interrupted().await?.into_iter();
        let of_the_network = entries.filter(|(_, _, entry)| {
            matches!(entry, Entry::NetworkDelete { project, name }
                if (project, name) == (&record.project, &record.name))
        });
        Ok(of_the_network.map(|(open, ..)| open).collect())
    }

    async fn forget_network(&self, entries: &[Open], record: &NetworkRecord) -> Result<()> {
        let change = Transaction::new().delete(key::network(&record.project, &record.name));
        self.journal.all_done(entries, change).await
    }

    /// Takes a network down; its record stays.
    async fn finish_network_delete(&self, record: &Arc<NetworkRecord>) -> Result<()> {
        let open = self.network_with_driver(Arc::clone(record))?;
        open.driver
            .stop(&open.call(), &open.reference())
            .await
            .map_err(Error::driver(format!("deleting network {}", record.name)))
    }
}

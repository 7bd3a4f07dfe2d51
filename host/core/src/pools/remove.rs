//! The end of a pool.

use std::path::Path;
use std::sync::Arc;

use hutch_store::Transaction;

use super::mark::{self, Owner};
use super::{PLACES, Pool, Readiness, image_volume, turn};
use crate::Core;
use crate::error::{Error, Result};
use crate::journal::{Entry, Open};
use crate::records::{PoolRecord, key};

/// Why a pool that is going can't be used.
const GOING: &str = "it is being deleted";

impl Core {
    /// Deletes a pool that holds no instance; volumes of images go with it.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`] for one that is used, and the driver's.
    pub async fn pool_delete(&self, name: &str) -> Result<()> {
        // Before the turn is taken: whoever brings the pool up needs it.
        self.find_pool(name)?.settled().await;
        let _turn = self.turns.take(&turn(name)).await;
        let pool = self.find_pool(name)?;
        let readiness = pool.readiness();
        {
            let _guard = self.changes.lock().await;
            let used = self.pool_users(name);
            if let Some(user) = used.first() {
                return Err(Error::invalid(format!("Storage pool {name:?} is in use by {user}")));
            }
            // Nobody begins to use it from here on.
            pool.set_ready(Readiness::Unavailable(GOING.to_owned()));
        }
        let deleted = self.delete_pool_and_record(&pool.record()).await;
        if let Err(error) = deleted {
            pool.set_ready(readiness);
            return Err(error);
        }
        self.pools.remove(&name.to_owned());
        let path = format!("/1.0/storage-pools/{name}");
        self.events.lifecycle(
            crate::DEFAULT_PROJECT,
            "storage-pool-deleted",
            &path,
            serde_json::Map::new(),
        );
        Ok(())
    }

    /// Deletes what a pool holds, then its record. A deletion that failed is told to the caller and over with: it must not go on
    /// after the next start of the daemon, when there may be another pool of this name.
    async fn delete_pool_and_record(&self, record: &Arc<PoolRecord>) -> Result<()> {
        let name = record.name.as_str();
        let entry = self
            .journal
            .begin("", Entry::PoolDelete { name: name.to_owned() })
            .await?;
        if let Err(error) = self.finish_pool_delete(record).await {
            return self.journal.unless_failed(entry, Err(error)).await;
        }
        self.journal.step(&entry, "pool");
        // With one that was interrupted and could not be finished: it would take another pool of this name for this one.
        let entries = self.open_pool_deletions(name).await?;
        self.forget_pool(&entries, name).await
    }

    /// Shows the pool as going whose deletion `entry` was interrupted, so that nobody begins to use it.
    pub(crate) fn close_deleted_pool(&self, entry: &Entry) {
        if let Entry::PoolDelete { name } = entry
            && let Ok(pool) = self.find_pool(name)
        {
            pool.set_ready(Readiness::Unavailable(GOING.to_owned()));
        }
    }

    /// Goes on with the deletion of a pool that was interrupted, after a start of the daemon, which found `loaded`. A pool that
    /// a request deleted meanwhile, or another that was made of its name, is none of it.
    ///
    /// # Errors
    /// The driver's, whereupon the pool stays closed, and the store's.
    pub(crate) async fn recover_pool_delete(&self, open: &Open, name: &str, loaded: &[Arc<Pool>]) -> Result<()> {
        let _turn = self.turns.take(&turn(name)).await;
        match loaded.iter().find(|pool| pool.record().name == name) {
            Some(pool) if self.has_pool(pool) => self.finish_interrupted_pool(pool, std::slice::from_ref(open)).await,
            _ => self.journal.done(open.clone(), Transaction::new()).await,
        }
    }

    /// Deletes a pool whose deletions `entries` were interrupted. The caller has its turn.
    pub(super) async fn finish_interrupted_pool(&self, pool: &Pool, entries: &[Open]) -> Result<()> {
        let record = pool.record();
        if let Err(error) = self.finish_pool_delete(&record).await {
            let why = format!("{GOING}, which could not be finished yet: {}", error.report());
            pool.set_ready(Readiness::Unavailable(why));
            return Err(error);
        }
        self.forget_pool(entries, &record.name).await?;
        self.pools.remove(&record.name);
        Ok(())
    }

    /// The deletions of this pool that are in the journal.
    pub(super) async fn open_pool_deletions(&self, wanted: &str) -> Result<Vec<Open>> {
        let entries = self.journal.interrupted().await?.into_iter();
        let of_the_pool = entries.filter(|(_, _, entry)| matches!(entry, Entry::PoolDelete { name } if name == wanted));
        Ok(of_the_pool.map(|(open, ..)| open).collect())
    }

    async fn forget_pool(&self, entries: &[Open], name: &str) -> Result<()> {
        let change = Transaction::new().delete(key::pool(name));
        let change = self.images.forget_pool(change, name)?;
        self.journal.all_done(entries, change).await
    }

    /// Removes everything of a pool but its record.
    async fn finish_pool_delete(&self, record: &Arc<PoolRecord>) -> Result<()> {
        let action = format!("deleting storage pool {}", record.name);
        let open = self.pool_with_driver(Arc::clone(record))?;
        let call = open.call(None);
        match mark::owner(&open.root, record, &self.state_dir)? {
            Owner::Pool => {}
            Owner::Missing => return Ok(()),
            Owner::Other(why) => {
                tracing::warn!(
                    pool = record.name,
                    why,
                    "nothing is removed from the directory of a deleted pool"
                );
                return Ok(());
            }
        }
        for fingerprint in self.images.volumes(&record.name) {
            open.driver
                .delete(&call, &open.reference(), &image_volume(&fingerprint))
                .await
                .map_err(Error::driver(&action))?;
        }
        open.driver
            .delete_pool(&call, &open.reference())
            .await
            .map_err(Error::driver(&action))?;
        self.remove_pool_dir(&open.root, record, false).await
    }

    /// Lets a pool's directory go when its driver has removed what it had there. One of the daemon's own goes with whatever is
    /// left; of one that the operator named only the mark, and the directory itself if it was `made` for the pool. Of one that
    /// does not bear the pool's mark nothing.
    pub(super) async fn remove_pool_dir(&self, root: &Path, record: &PoolRecord, made: bool) -> Result<()> {
        let action = format!("removing {}", root.display());
        if mark::owner(root, record, &self.state_dir)? == Owner::Pool {
            self.roots.release(root).await.map_err(Error::driver(&action))?;
        }
        let own = self.is_own_place(root);
        let (root, record, daemon) = (root.to_owned(), record.clone(), self.state_dir.clone());
        tokio::task::spawn_blocking(move || mark::unmark(&root, &record, &daemon, made || own, own))
            .await
            .map_err(|error| Error::io(action)(std::io::Error::other(error)))?
    }

    pub(super) fn is_own_place(&self, root: &Path) -> bool {
        root.starts_with(self.state_dir.join(PLACES))
    }
}

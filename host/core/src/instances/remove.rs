//! The end of an instance.

use std::sync::Arc;

use hutch_store::Transaction;

use crate::error::{Error, Result};
use crate::instances::owner::Owner;
use crate::journal::{Entry, Open};
use crate::pools::{OpenPool, instance_volume};
use crate::records::key;

impl Owner {
    /// Deletes the stopped instance with everything that belongs to it; the owner ends.
    pub(crate) async fn delete(&mut self, operation: &str) -> Result<()> {
        if self.keeper.is_some() {
            return Err(Error::invalid("Instance is running"));
        }
        self.take_renaming_back().await?;
        if self.half_renewed.is_none() {
            self.require_stopped("delete it")?;
        }
        self.close_files().await;
        let pool = self.core.open_pool(&self.record.pool).await?;
        let entry = Entry::InstanceDelete {
            project: self.record.project.clone(),
            name: self.record.name.clone(),
        };
        let entry = match self.half_renewed.clone() {
            // A refresh that failed half-way is not gone on with any more.
            Some(refresh) => {
                let journal = &self.core.journal;
                journal.turn(refresh, operation, entry, Transaction::new()).await?
            }
            None => self.core.journal.begin(operation, entry).await?,
        };
        self.half_renewed = None;
        self.set_unfinished(None);
        self.delete_whole(&pool, entry).await
    }

    /// Goes on with a deletion that was interrupted.
    pub(crate) async fn finish_delete(&mut self, entry: &Open) -> Result<()> {
        self.resume(entry, true).await?;
        let pool = self.core.open_pool(&self.record.pool).await?;
        self.set_unfinished(None);
        self.delete_whole(&pool, entry.clone()).await
    }

    async fn delete_whole(&mut self, pool: &OpenPool, entry: Open) -> Result<()> {
        if let Err(error) = self.delete_volume_and_records(pool, &entry).await {
            let why = format!(
                "deleting it failed, and something of it may be gone; delete it once more ({})",
                error.report()
            );
            self.break_off(entry, why).await;
            return Err(error);
        }
        self.core.instances.remove(&self.record.project, &self.record.name);
        self.tell("instance-deleted");
        self.deleted = true;
        Ok(())
    }

    /// Everything between the journal's entry and its end.
    async fn delete_volume_and_records(&self, pool: &OpenPool, entry: &Open) -> Result<()> {
        let core = Arc::clone(&self.core);
        let (project, name) = (&self.record.project, &self.record.name);
        let action = format!("deleting the volume of instance {name}");
        pool.driver
            .delete(&pool.call(None), &pool.reference(), &instance_volume(&self.record))
            .await
            .map_err(Error::driver(action))?;
        core.journal.step(entry, "volume");
        // Before the name is free: the next instance of this name has logs of its own.
        core.remove_logs(project, name);
        let mut change = Transaction::new()
            .delete(key::instance(project, name))
            .delete(key::templates(&self.record.id));
        for snapshot in &self.snapshots {
            change = change.delete(key::snapshot(project, name, &snapshot.name));
        }
        core.journal.done(entry.clone(), change).await
    }
}

//! Another name for an instance.

use std::sync::Arc;

use hutch_driver::storage::VolumeRef;
use hutch_store::Transaction;

use crate::error::{Error, Result};
use crate::events;
use crate::instances::owner::Owner;
use crate::instances::settle::left_as_it_was;
use crate::instances::templates;
use crate::journal::{Entry, Open};
use crate::pools::{OpenPool, instance_volume};
use crate::records::{InstanceRecord, SnapshotRecord, key, volume_name};

impl Owner {
    /// Gives the stopped instance another name.
    pub(crate) async fn rename(&mut self, operation: &str, new_name: &str) -> Result<()> {
        self.require_stopped("rename it")?;
        self.close_files().await;
        let (project, name) = (self.record.project.clone(), self.record.name.clone());
        let pool = self.core.open_pool(&self.record.pool).await?;
        // The new name is held from here on; the old one until the record is written.
        self.core
            .instances
            .enter(&project, new_name, Arc::clone(&self.instance))?;
        let entry = Entry::InstanceRename {
            project: project.clone(),
            name,
            new_name: new_name.to_owned(),
        };
        match self.core.journal.begin(operation, entry).await {
            Ok(entry) => self.rename_whole(&pool, entry, new_name).await,
            Err(error) => {
                self.core.instances.remove(&project, new_name);
                Err(error)
            }
        }
    }

    /// Goes on with a renaming that was interrupted.
    pub(crate) async fn finish_rename(&mut self, entry: &Open, new_name: &str) -> Result<()> {
        self.resume(entry, true).await?;
        let pool = self.core.open_pool(&self.record.pool).await?;
        self.core
            .instances
            .enter(&self.record.project, new_name, Arc::clone(&self.instance))?;
        self.set_unfinished(None);
        self.rename_whole(&pool, entry.clone(), new_name).await
    }

    /// Renames, or takes it back. The new name is in the table of instances already.
    async fn rename_whole(&mut self, pool: &OpenPool, entry: Open, new_name: &str) -> Result<()> {
        let (project, name) = (self.record.project.clone(), self.record.name.clone());
        let Err(error) = self.rename_volume_and_records(pool, &entry, new_name).await else {
            self.core.instances.remove(&project, &name);
            self.tell_more("instance-renamed", events::context([("old_name", name.into())]));
            return Ok(());
        };
        if left_as_it_was(&error) {
            self.core.instances.remove(&project, new_name);
            return self.core.journal.unless_failed(entry, Err(error)).await;
        }
        self.core.move_logs(&project, new_name, &name);
        if let Err(second) = self.rename_volume_back(pool, new_name).await
            && !left_as_it_was(&second)
        {
            // Either name may be the volume's: the entry stays and keeps both from being taken for another's.
            tracing::error!(
                instance = name,
                error = second.report(),
                "a renaming could not be taken back"
            );
            self.set_unfinished(Some(format!(
                "renaming it to {new_name} failed and could not be taken back; delete it, or have the next start of the daemon finish it \
                 ({})",
                second.report()
            )));
            self.half_renamed = Some((entry, new_name.to_owned()));
            return Err(error);
        }
        self.core.instances.remove(&project, new_name);
        self.core.journal.unless_failed(entry, Err(error)).await
    }

    /// Takes a renaming back that could not be when it failed, so that the instance can be deleted.
    ///
    /// # Errors
    /// The driver's, if it still can't be taken back.
    pub(super) async fn take_renaming_back(&mut self) -> Result<()> {
        let Some((entry, new_name)) = self.half_renamed.clone() else {
            return Ok(());
        };
        let pool = self.core.open_pool(&self.record.pool).await?;
        match self.rename_volume_back(&pool, &new_name).await {
            Err(error) if !left_as_it_was(&error) => return Err(error),
            _ => {}
        }
        self.core.journal.done(entry, Transaction::new()).await?;
        self.core.instances.remove(&self.record.project, &new_name);
        self.half_renamed = None;
        self.set_unfinished(None);
        Ok(())
    }

    /// Everything between the journal's entry and its end.
    async fn rename_volume_and_records(&mut self, pool: &OpenPool, entry: &Open, new_name: &str) -> Result<()> {
        let core = Arc::clone(&self.core);
        let old = Arc::clone(&self.record);
        pool.driver
            .rename(
                &pool.call(None),
                &pool.reference(),
                &instance_volume(&old),
                &volume_name(&old.project, new_name),
            )
            .await
            .map_err(Error::driver(format!("renaming the volume of instance {}", old.name)))?;
        core.journal.step(entry, "volume");
        let mut record = InstanceRecord {
            name: new_name.to_owned(),
            ..InstanceRecord::clone(&old)
        };
        if core.kept_templates(&old.id).await?.is_some() {
            templates::defer(&mut record, "rename");
        }
        let mut change = Transaction::new().delete(key::instance(&old.project, &old.name));
        change = change.put(key::instance(&record.project, &record.name), &record)?;
        let mut snapshots = Vec::new();
        for snapshot in &self.snapshots {
            let mut moved = SnapshotRecord::clone(snapshot);
            new_name.clone_into(&mut moved.instance.name);
            change = change.delete(key::snapshot(&old.project, &old.name, &moved.name));
            change = change.put(key::snapshot(&record.project, &record.name, &moved.name), &moved)?;
            snapshots.push(Arc::new(moved));
        }
        // Before the old name is free: the next instance of that name has logs of its own.
        core.move_logs(&old.project, &old.name, new_name);
        core.journal.done(entry.clone(), change).await?;
        self.record = Arc::new(record);
        self.snapshots = snapshots;
        self.publish();
        Ok(())
    }

    /// A renaming failed, and the volume may have either name: back to the one that the record has.
    async fn rename_volume_back(&self, pool: &OpenPool, new_name: &str) -> Result<()> {
        let old = &self.record;
        let renamed = VolumeRef {
            name: volume_name(&old.project, new_name),
            ..instance_volume(old)
        };
        let name = volume_name(&old.project, &old.name);
        pool.driver
            .rename(&pool.call(None), &pool.reference(), &renamed, &name)
            .await
            .map_err(Error::driver(format!(
                "taking back the renaming of instance {}",
                old.name
            )))
    }
}

//! Making an instance what a snapshot of it is.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::events;
use crate::instances::owner::Owner;
use crate::instances::{Instance, create, devices, start, stop};
use crate::journal::{Entry, Open};
use crate::pools::{OpenPool, instance_volume};
use crate::records::{InstanceRecord, SnapshotRecord};
use crate::{Core, Operation};

impl Core {
    /// Makes an instance what a snapshot is; a running one is stopped for it and started again.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub(crate) async fn snapshot_restore(
        self: &Arc<Self>,
        project: &str,
        name: &str,
        source: &str,
    ) -> Result<Arc<Operation>> {
        // Clients write INSTANCE/SNAPSHOT.
        let snapshot = source.rsplit('/').next().unwrap_or(source).to_owned();
        self.snapshot(project, name, &snapshot)?;
        let instance = self.instances.get(project, name)?;
        let new = self.snapshot_operation(project, name, "Restoring snapshot");
        let checked = snapshot.clone();
        let work = move |operation: Arc<Operation>| async move {
            let id = operation.id().to_owned();
            let restore = |instance: Arc<Instance>| async move {
                instance
                    .ask(move |owner| Box::pin(async move { owner.restore(&id, &snapshot).await }))
                    .await
            };
            if instance.view().keeper.is_none() {
                return restore(instance).await;
            }
            // What can't be restored is no reason to stop anything.
            let wanted = checked;
            instance
                .ask(move |owner| Box::pin(async move { owner.check_restore(&wanted).await }))
                .await?;
            let open = stop::begin_restart(&instance, &operation).await?;
            let result = match stop::stop(&instance, operation.id(), true, None).await {
                Ok(()) => {
                    let restored = restore(Arc::clone(&instance)).await;
                    // What was running runs again, restored or not.
                    let started = start::start(&instance, &operation).await;
                    restored.and(started)
                }
                Err(error) => Err(error),
            };
            stop::end_restart(&instance, open).await?;
            result
        };
        self.operations.begin(new, work).await
    }
}

impl Owner {
    async fn restore(&mut self, operation: &str, name: &str) -> Result<()> {
        self.require_stopped("restore a snapshot")?;
        self.check_restore(name).await?;
        let pool = self.core.open_pool(&self.record.pool).await?;
        pool.require("snapshot")?;
        self.close_files().await;
        let entry = Entry::SnapshotRestore {
            project: self.record.project.clone(),
            name: self.record.name.clone(),
            snapshot: name.to_owned(),
        };
        let entry = self.core.journal.begin(operation, entry).await?;
        self.restore_whole(&pool, entry, name).await
    }

    /// Goes on with a restoring that was interrupted.
    pub(crate) async fn finish_restore(&mut self, entry: &Open, name: &str) -> Result<()> {
        self.resume(entry, true).await?;
        let pool = self.core.open_pool(&self.record.pool).await?;
        self.set_unfinished(None);
        self.restore_whole(&pool, entry.clone(), name).await
    }

    /// Checks that a snapshot can be restored: that it is whole, and that all is still there that the instance would refer to.
    async fn check_restore(&self, name: &str) -> Result<()> {
        let snapshot = self.whole_snapshot(name)?;
        let _guard = self.core.changes.lock().await;
        self.restored(&snapshot).map(drop)
    }

    /// The record as it is once `snapshot` is restored. The caller holds [`Core::changes`].
    ///
    /// # Errors
    /// Those of [`Core::check_references`], and [`Error::Invalid`] without the root disk that the instance has.
    fn restored(&self, snapshot: &SnapshotRecord) -> Result<InstanceRecord> {
        let mut record = InstanceRecord::clone(&self.record);
        record.config.clone_from(&snapshot.instance.config);
        record.devices.clone_from(&snapshot.instance.devices);
        record.profiles.clone_from(&snapshot.instance.profiles);
        record.description.clone_from(&snapshot.instance.description);
        record.plain = snapshot.instance.plain;
        record.broken = None;
        record
            .config
            .insert("volatile.last_state.power".to_owned(), "STOPPED".to_owned());
        self.core.check_references(&record, Some(&self.instance.view()))?;
        let (_, expanded) = self.core.expand(&record);
        create::check_root(&expanded, &record)?;
        devices::complete_volatile(&mut record.config, &expanded);
        Ok(record)
    }

    async fn restore_whole(&mut self, pool: &OpenPool, entry: Open, name: &str) -> Result<()> {
        let snapshot = self.find_snapshot(name)?;
        match self.restore_volume_and_record(pool, &entry, &snapshot).await {
            Ok(()) => {
                self.tell_more("instance-restored", events::context([("snapshot", name.into())]));
                Ok(())
            }
            Err(error) => {
                let why = format!(
                    "restoring snapshot {name} failed, and its root may be neither the old one nor the snapshot's; restore a \
                     snapshot once more, or delete it ({})",
                    error.report()
                );
                self.break_off(entry, why).await;
                Err(error)
            }
        }
    }

    /// Everything between the journal's entry and its end.
    async fn restore_volume_and_record(
        &mut self,
        pool: &OpenPool,
        entry: &Open,
        snapshot: &SnapshotRecord,
    ) -> Result<()> {
        let core = Arc::clone(&self.core);
        let (call, volume, name) = (pool.call(None), instance_volume(&self.record), &snapshot.name);
        pool.driver
            .snapshot_restore(&call, &pool.reference(), &volume, name)
            .await
            .map_err(Error::driver(format!("restoring snapshot {}/{name}", self.record.name)))?;
        core.journal.step(entry, "volume");
        // What the snapshot refers to may have been deleted meanwhile.
        let _guard = core.changes.lock().await;
        let record = self.restored(snapshot)?;
        core.journal.done(entry.clone(), Self::write(&record)?).await?;
        self.record = Arc::new(record);
        self.publish();
        Ok(())
    }
}

//! Snapshots of instances.

use std::sync::Arc;

use hutch_api::Timestamp;
use hutch_api::instance::{InstanceSnapshot, InstanceSnapshotPost, InstanceSnapshotPut, InstanceSnapshotsPost};
use hutch_container::{ContainerState, Keeper};
use hutch_store::Transaction;
use serde_json::json;

use crate::error::{Error, Result};
use crate::instances::expiry;
use crate::instances::owner::Owner;
use crate::instances::settle::left_as_it_was;
use crate::journal::{Entry, Open};
use crate::operations::NewOperation;
use crate::pools::{OpenPool, instance_volume};
use crate::profiles::with_project;
use crate::records::{InstanceRecord, RECORD_VERSION, SnapshotRecord, key};
use crate::{Core, Operation, Tagged, check_etag, etag, names};

impl Core {
    /// The snapshots of an instance, oldest first.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn snapshots(&self, project: &str, name: &str) -> Result<Vec<InstanceSnapshot>> {
        let view = self.instances.get(project, name)?.view();
        Ok(view
            .snapshots
            .iter()
            .map(|snapshot| self.render_snapshot(snapshot))
            .collect())
    }

    /// One snapshot.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn snapshot(&self, project: &str, name: &str, snapshot: &str) -> Result<Tagged<InstanceSnapshot>> {
        let view = self.instances.get(project, name)?.view();
        let record = view
            .snapshots
            .iter()
            .find(|record| record.name == snapshot)
            .ok_or_else(|| Error::missing("Snapshot", snapshot))?;
        Ok(Tagged {
            etag: etag(&json!([record.expires_at])),
            value: self.render_snapshot(record),
        })
    }

    /// Makes a snapshot; one of a running instance freezes it for that moment.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`], [`Error::Conflict`].
    pub async fn snapshot_create(
        self: &Arc<Self>,
        project: &str,
        name: &str,
        post: InstanceSnapshotsPost,
    ) -> Result<Arc<Operation>> {
        let instance = self.instances.get(project, name)?;
        if post.stateful {
            return Err(Error::invalid("Snapshots of containers can't hold their running state"));
        }
        if !post.name.is_empty() {
            names::object("snapshot", &post.name)?;
        }
        let now = time::OffsetDateTime::now_utc();
        let expires_at = match post.expires_at {
            Some(at) => at,
            None => expiry::of_instance(&instance.view().config, now)?,
        };
        if expires_at.get().is_some_and(|at| at <= now) {
            return Err(Error::invalid("The snapshot would be expired already"));
        }
        let new = self.snapshot_operation(project, name, "Snapshotting instance");
        let work = move |operation: Arc<Operation>| async move {
            let id = operation.id().to_owned();
            instance
                .ask(move |owner| Box::pin(async move { owner.snapshot(&id, &post.name, expires_at).await }))
                .await
        };
        self.operations.begin(new, work).await
    }

    /// Renames a snapshot.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`], [`Error::Conflict`].
    pub async fn snapshot_rename(
        self: &Arc<Self>,
        project: &str,
        name: &str,
        snapshot: &str,
        post: InstanceSnapshotPost,
    ) -> Result<Arc<Operation>> {
        self.snapshot(project, name, snapshot)?;
        if post.migration || post.target.is_some() {
            return Err(Error::invalid(
                "Snapshots can only be renamed: moving them to other servers is not available",
            ));
        }
        names::object("snapshot", &post.name)?;
        let instance = self.instances.get(project, name)?;
        let new = self.snapshot_operation(project, name, "Renaming snapshot");
        let snapshot = snapshot.to_owned();
        let work = move |operation: Arc<Operation>| async move {
            let id = operation.id().to_owned();
            instance
                .ask(move |owner| Box::pin(async move { owner.rename_snapshot(&id, &snapshot, &post.name).await }))
                .await
        };
        self.operations.begin(new, work).await
    }

    /// Changes when a snapshot may go.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Changed`].
    pub async fn snapshot_update(
        self: &Arc<Self>,
        project: &str,
        name: &str,
        snapshot: &str,
        put: InstanceSnapshotPut,
        if_match: Option<&str>,
    ) -> Result<Arc<Operation>> {
        let current = self.snapshot(project, name, snapshot)?;
        check_etag(&json!([current.value.expires_at]), if_match)?;
        let instance = self.instances.get(project, name)?;
        let new = self.snapshot_operation(project, name, "Updating snapshot");
        let snapshot = snapshot.to_owned();
        let work = move |_| async move {
            let expires_at = put.expires_at.unwrap_or(Timestamp::NEVER);
            instance
                .ask(move |owner| Box::pin(async move { owner.expire_snapshot(&snapshot, expires_at).await }))
                .await
        };
        self.operations.begin(new, work).await
    }

    /// Deletes a snapshot.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn snapshot_delete(
        self: &Arc<Self>,
        project: &str,
        name: &str,
        snapshot: &str,
    ) -> Result<Arc<Operation>> {
        self.snapshot(project, name, snapshot)?;
        let instance = self.instances.get(project, name)?;
        let new = self.snapshot_operation(project, name, "Deleting snapshot");
        let snapshot = snapshot.to_owned();
        let work = move |operation: Arc<Operation>| async move {
            let id = operation.id().to_owned();
            instance
                .ask(move |owner| Box::pin(async move { owner.delete_snapshot(&id, &snapshot).await }))
                .await
        };
        self.operations.begin(new, work).await
    }

    pub(super) fn snapshot_operation(&self, project: &str, name: &str, description: &str) -> NewOperation {
        NewOperation::task(
            project,
            description,
            "instances",
            with_project(format!("/1.0/instances/{name}"), project),
        )
    }
}

impl Owner {
    pub(super) fn find_snapshot(&self, name: &str) -> Result<Arc<SnapshotRecord>> {
        self.snapshots
            .iter()
            .find(|record| record.name == name)
            .cloned()
            .ok_or_else(|| Error::missing("Snapshot", name))
    }

    /// A name that is free: `snap0`, `snap1`, …
    fn free_snapshot_name(&self) -> String {
        let highest = self
            .snapshots
            .iter()
            .filter_map(|record| record.name.strip_prefix("snap")?.parse::<u64>().ok())
            .max();
        format!("snap{}", highest.map_or(0, |number| number.saturating_add(1)))
    }

    async fn snapshot(&mut self, operation: &str, name: &str, expires_at: Timestamp) -> Result<()> {
        let name = if name.is_empty() {
            self.free_snapshot_name()
        } else {
            name.to_owned()
        };
        self.require_whole("make a snapshot")?;
        if self.find_snapshot(&name).is_ok() {
            return Err(Error::Conflict(format!("Snapshot {name:?} already exists")));
        }
        let pool = self.core.open_pool(&self.record.pool).await?;
        pool.require("snapshot")?;
        self.close_files().await;
        self.clear_spoilt(&pool, &name).await?;
        let entry = Entry::SnapshotCreate {
            project: self.record.project.clone(),
            name: self.record.name.clone(),
            snapshot: name.clone(),
        };
        let entry = self.core.journal.begin(operation, entry).await?;
        let (call, volume) = (pool.call(None), instance_volume(&self.record));
        let frozen = self.freeze_for_a_moment().await?;
        self.core.journal.step(&entry, "frozen");
        let live = self.keeper.is_some();
        let made = pool
            .driver
            .snapshot_create(&call, &pool.reference(), &volume, &name, live)
            .await;
        if let Some(keeper) = frozen {
            thaw_again(&keeper, &self.record.name).await;
        }
        self.core.journal.step(&entry, "volume");
        if let Err(error) = made {
            self.spoilt_snapshots.insert(name.clone());
            if let Err(error) = self.clear_spoilt(&pool, &name).await {
                let error = error.report();
                tracing::warn!(
                    instance = self.record.name,
                    error,
                    "a snapshot that failed could not be taken back"
                );
            }
            self.core.journal.done(entry, Transaction::new()).await?;
            return Err(Error::driver(format!("making snapshot {}/{name}", self.record.name))(
                error,
            ));
        }
        let record = SnapshotRecord {
            v: RECORD_VERSION,
            name: name.clone(),
            created_at: Timestamp::now(),
            expires_at,
            instance: InstanceRecord::clone(&self.record),
            broken: None,
        };
        let at = key::snapshot(&self.record.project, &self.record.name, &name);
        self.core
            .journal
            .done(entry, Transaction::new().put(at, &record)?)
            .await?;
        self.snapshots.push(Arc::new(record));
        self.publish();
        self.tell_snapshot("instance-snapshot-created", &name);
        Ok(())
    }

    /// Removes what is left of a snapshot of this name that failed, so that its content is not taken for the new one's.
    async fn clear_spoilt(&mut self, pool: &OpenPool, name: &str) -> Result<()> {
        if !self.spoilt_snapshots.contains(name) {
            return Ok(());
        }
        let (call, volume) = (pool.call(None), instance_volume(&self.record));
        let action = format!(
            "removing what is left of an earlier snapshot {}/{name}",
            self.record.name
        );
        let removed = pool
            .driver
            .snapshot_delete(&call, &pool.reference(), &volume, name)
            .await;
        removed.map_err(Error::driver(action))?;
        self.spoilt_snapshots.remove(name);
        Ok(())
    }

    /// Stops the writers of a running container, those of its files from outside as well, for as long as this daemon lives; answers
    /// with what [`thaw_again`] takes.
    pub(crate) async fn freeze_for_a_moment(&self) -> Result<Option<Held>> {
        let Some(keeper) = &self.keeper else { return Ok(None) };
        let paused = matches!(keeper.state(), ContainerState::Running { frozen: true, .. });
        keeper
            .hold()
            .await
            .map_err(Error::container(format!("freezing instance {}", self.record.name)))?;
        Ok(Some(Held {
            keeper: keeper.clone(),
            paused,
        }))
    }

    /// A snapshot that can be relied on.
    pub(crate) fn whole_snapshot(&self, name: &str) -> Result<Arc<SnapshotRecord>> {
        let snapshot = self.find_snapshot(name)?;
        match &snapshot.broken {
            Some(why) => Err(Error::Unavailable(format!(
                "Snapshot {}/{name} can't be used: {why}",
                self.record.name
            ))),
            None => Ok(snapshot),
        }
    }

    async fn rename_snapshot(&mut self, operation: &str, name: &str, new_name: &str) -> Result<()> {
        self.require_settled("rename a snapshot")?;
        self.find_snapshot(name)?;
        if self.find_snapshot(new_name).is_ok() {
            return Err(Error::Conflict(format!("Snapshot {new_name:?} already exists")));
        }
        let pool = self.core.open_pool(&self.record.pool).await?;
        let entry = Entry::SnapshotRename {
            project: self.record.project.clone(),
            name: self.record.name.clone(),
            snapshot: name.to_owned(),
            new_name: new_name.to_owned(),
        };
        let entry = self.core.journal.begin(operation, entry).await?;
        self.rename_snapshot_whole(&pool, entry, name, new_name).await
    }

    /// Goes on with a renaming that was interrupted.
    pub(crate) async fn finish_rename_snapshot(&mut self, entry: &Open, name: &str, new_name: &str) -> Result<()> {
        self.resume(entry, false).await?;
        let pool = self.core.open_pool(&self.record.pool).await?;
        self.set_unfinished(None);
        self.rename_snapshot_whole(&pool, entry.clone(), name, new_name).await
    }

    /// Renames, or takes it back.
    async fn rename_snapshot_whole(&mut self, pool: &OpenPool, entry: Open, name: &str, new_name: &str) -> Result<()> {
        let Err(error) = self.rename_snapshot_and_record(pool, &entry, name, new_name).await else {
            self.publish();
            self.tell_snapshot("instance-snapshot-renamed", new_name);
            return Ok(());
        };
        if !left_as_it_was(&error)
            && let Err(second) = self.rename_snapshot_of(pool, new_name, name).await
            && !left_as_it_was(&second)
        {
            // Either name may be the tree's: the entry stays and keeps both from being taken for another's.
            tracing::error!(
                instance = self.record.name,
                error = second.report(),
                "a renaming could not be taken back"
            );
            self.set_unfinished(Some(format!(
                "renaming snapshot {name} to {new_name} failed and could not be taken back; the next start of the daemon \
                 finishes it ({})",
                second.report()
            )));
            return Err(error);
        }
        self.core.journal.unless_failed(entry, Err(error)).await
    }

    /// Everything between the journal's entry and its end.
    async fn rename_snapshot_and_record(
        &mut self,
        pool: &OpenPool,
        entry: &Open,
        name: &str,
        new_name: &str,
    ) -> Result<()> {
        let old = self.find_snapshot(name)?;
        self.rename_snapshot_of(pool, name, new_name).await?;
        self.core.journal.step(entry, "volume");
        let record = SnapshotRecord {
            name: new_name.to_owned(),
            ..SnapshotRecord::clone(&old)
        };
        let (project, instance) = (&self.record.project, &self.record.name);
        let change = Transaction::new()
            .delete(key::snapshot(project, instance, name))
            .put(key::snapshot(project, instance, new_name), &record)?;
        self.core.journal.done(entry.clone(), change).await?;
        if let Some(snapshot) = self.snapshots.iter_mut().find(|snapshot| snapshot.name == name) {
            *snapshot = Arc::new(record);
        }
        Ok(())
    }

    async fn rename_snapshot_of(&self, pool: &OpenPool, name: &str, new_name: &str) -> Result<()> {
        let (call, volume) = (pool.call(None), instance_volume(&self.record));
        pool.driver
            .snapshot_rename(&call, &pool.reference(), &volume, name, new_name)
            .await
            .map_err(Error::driver(format!("renaming snapshot {}/{name}", self.record.name)))
    }

    async fn expire_snapshot(&mut self, name: &str, expires_at: Timestamp) -> Result<()> {
        let record = SnapshotRecord {
            expires_at,
            ..SnapshotRecord::clone(&*self.find_snapshot(name)?)
        };
        let at = key::snapshot(&self.record.project, &self.record.name, name);
        self.core.store.commit(Transaction::new().put(at, &record)?).await?;
        if let Some(snapshot) = self.snapshots.iter_mut().find(|snapshot| snapshot.name == name) {
            *snapshot = Arc::new(record);
        }
        self.publish();
        self.tell_snapshot("instance-snapshot-updated", name);
        Ok(())
    }

    pub(crate) async fn delete_snapshot(&mut self, operation: &str, name: &str) -> Result<()> {
        self.require_settled("delete a snapshot")?;
        self.find_snapshot(name)?;
        let pool = self.core.open_pool(&self.record.pool).await?;
        let entry = Entry::SnapshotDelete {
            project: self.record.project.clone(),
            name: self.record.name.clone(),
            snapshot: name.to_owned(),
        };
        let entry = self.core.journal.begin(operation, entry).await?;
        self.delete_snapshot_whole(&pool, entry, name).await
    }

    /// Goes on with a deletion that was interrupted.
    pub(crate) async fn finish_delete_snapshot(&mut self, entry: &Open, name: &str) -> Result<()> {
        self.resume(entry, false).await?;
        let pool = self.core.open_pool(&self.record.pool).await?;
        self.set_unfinished(None);
        self.delete_snapshot_whole(&pool, entry.clone(), name).await
    }

    async fn delete_snapshot_whole(&mut self, pool: &OpenPool, entry: Open, name: &str) -> Result<()> {
        self.find_snapshot(name)?;
        let (call, volume) = (pool.call(None), instance_volume(&self.record));
        let deleted = async {
            pool.driver
                .snapshot_delete(&call, &pool.reference(), &volume, name)
                .await
                .map_err(Error::driver(format!("deleting snapshot {}/{name}", self.record.name)))?;
            self.core.journal.step(&entry, "volume");
            let at = key::snapshot(&self.record.project, &self.record.name, name);
            let change = Transaction::new().delete(at);
            self.core.journal.done(entry.clone(), change).await
        };
        if let Err(error) = deleted.await {
            let why = format!(
                "deleting it failed, and something of it may be gone; delete it once more ({})",
                error.report()
            );
            self.break_off_snapshot(entry, name, why).await;
            return Err(error);
        }
        self.snapshots.retain(|snapshot| snapshot.name != name);
        self.publish();
        self.tell_snapshot("instance-snapshot-deleted", name);
        Ok(())
    }

    fn tell_snapshot(&self, action: &str, name: &str) {
        self.tell_more_of_snapshot(action, name, serde_json::Map::new());
    }

    fn tell_more_of_snapshot(&self, action: &str, name: &str, context: serde_json::Map<String, serde_json::Value>) {
        let path = with_project(
            format!("/1.0/instances/{}/snapshots/{name}", self.record.name),
            &self.record.project,
        );
        self.core.events.lifecycle(&self.record.project, action, &path, context);
    }
}

/// A container that is frozen for a moment.
pub(crate) struct Held {
    keeper: Keeper,
    /// It was frozen before, and its files could be changed from outside all the same.
    paused: bool,
}

/// Makes a container what it was before it was frozen for a moment.
pub(crate) async fn thaw_again(held: &Held, name: &str) {
    let done = match held.paused {
        true => held.keeper.freeze().await,
        false => held.keeper.thaw().await,
    };
    if let Err(error) = done {
        tracing::error!(instance = name, %error, "an instance that was frozen for a copy could not be let go");
    }
}

//! Moving an instance to another storage pool. It stays the same instance: its id, its addresses and its snapshots with their
//! times go with it.
//!
//! Everything is copied first, which a crash takes back; then the records name the new pool, and what is left in the old one
//! goes, which a crash does not stop.

use std::sync::Arc;

use hutch_api::instance::InstancePost;
use hutch_api::{Config, Devices};
use hutch_store::Transaction;

use crate::error::{Error, Result};
use crate::events;
use crate::instances::copying::{Copying, Extent, rehome};
use crate::instances::making::is_taken;
use crate::instances::owner::Owner;
use crate::instances::{create, devices, volatile};
use crate::journal::{Entry, Open};
use crate::operations::NewOperation;
use crate::pools::{OpenPool, instance_volume};
use crate::profiles::with_project;
use crate::records::{InstanceRecord, SnapshotRecord, key};
use crate::{Core, Operation, names, settings};

/// Where an instance goes, and what is to be different there.
#[derive(Clone, Debug)]
pub(crate) struct Destination {
    pool: String,
    /// Another name.
    name: Option<String>,
    config: Option<Config>,
    devices: Option<Devices>,
    profiles: Option<Vec<String>>,
    /// Its snapshots stay behind, and go with what is left there.
    alone: bool,
}

impl Core {
    /// Moves a stopped instance to another pool, and renames it where the request says so.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`], [`Error::Conflict`].
    pub(crate) async fn instance_relocate(
        self: &Arc<Self>,
        project: &str,
        name: &str,
        post: InstancePost,
    ) -> Result<Arc<Operation>> {
        let instance = self.instances.get(project, name)?;
        let view = instance.view();
        if view.keeper.is_some() {
            return Err(Error::invalid(format!(
                "Instance {name:?} is running: stop it first to move it to another storage pool"
            )));
        }
        let renamed = Some(&post.name).filter(|new| !new.is_empty() && *new != name);
        if let Some(new) = renamed {
            names::instance(new)?;
            if self.instances.get(project, new).is_ok() {
                return Err(Error::Conflict(format!("Instance {new:?} already exists")));
            }
        }
        self.pool(&post.pool)?;
        let destination = Destination {
            pool: post.pool.clone(),
            name: renamed.cloned(),
            config: post.config,
            devices: post.devices,
            profiles: post.profiles,
            alone: post.instance_only || post.container_only,
        };
        let record = destination.applied(&view.record);
        self.check_instance(project, &record.config, &record.devices, &record.profiles)
            .await?;
        devices::check_sources(&record.devices, &view.record.devices).await?;
        let path = with_project(format!("/1.0/instances/{name}"), project);
        let new = NewOperation::task(project, "Moving instance", "instances", path).cancellable();
        let work = move |operation: Arc<Operation>| async move {
            instance
                .ask_for_root(move |owner| Box::pin(async move { owner.relocate(destination, &operation).await }))
                .await
        };
        self.operations.begin(new, work).await
    }
}

impl Destination {
    /// The record with what is to be different but the pool.
    fn applied(&self, record: &InstanceRecord) -> InstanceRecord {
        let mut record = record.clone();
        if let Some(config) = &self.config {
            // The daemon's own keys are not the client's to change or to lose.
            let is_own = volatile::is_volatile;
            record.config.retain(|key, _| is_own(key));
            let given = config.iter().filter(|(key, value)| !is_own(key) && !value.is_empty());
            record
                .config
                .extend(given.map(|(key, value)| (key.clone(), value.clone())));
        }
        if let Some(devices) = &self.devices {
            record.devices.clone_from(devices);
        }
        if let Some(profiles) = &self.profiles {
            record.profiles.clone_from(profiles);
        }
        record
    }
}

impl Owner {
    async fn relocate(&mut self, destination: Destination, operation: &Arc<Operation>) -> Result<()> {
        const WHAT: &str = "move it to another storage pool";
        self.require_stopped(WHAT)?;
        self.require_whole(WHAT)?;
        if destination.pool == self.record.pool {
            return Err(Error::invalid(format!(
                "Instance {:?} is in storage pool {} already",
                self.record.name, self.record.pool
            )));
        }
        let extent = Extent {
            snapshot: None,
            snapshots: !destination.alone,
            newer: false,
        };
        let snapshots = self.check_copy(&extent)?;
        self.close_files().await;
        self.use_root();
        let moved = self.move_volume(&destination, &snapshots, operation).await;
        self.moving_to = None;
        self.publish();
        moved?;
        let context = [("storage-pool", destination.pool.into())];
        self.tell_more("instance-migrated", events::context(context));
        match destination.name {
            Some(name) => self.rename(operation.id(), &name).await,
            None => Ok(()),
        }
    }

    /// Holds the pool, copies to it, and lets go of the old one.
    async fn move_volume(
        &mut self,
        destination: &Destination,
        snapshots: &[Arc<SnapshotRecord>],
        operation: &Arc<Operation>,
    ) -> Result<()> {
        let core = Arc::clone(&self.core);
        let record = self.hold_pool(destination).await?;
        let (from, to) = (
            core.open_pool(&self.record.pool).await?,
            core.open_pool(&record.pool).await?,
        );
        let entry = Entry::InstanceMove {
            project: record.project.clone(),
            name: record.name.clone(),
            pool: record.pool.clone(),
        };
        let entry = core.journal.begin(operation.id(), entry).await?;
        let old = Arc::clone(&self.record);
        let copying = Copying::new(&core, (&from, &old), (&to, &record), operation);
        let made = match self.finish_undo(&to, &entry).await {
            Ok(()) => copying.root(None, false).await,
            Err(error) => Err(error),
        };
        // What is there already is not this move's to take back.
        let ours = !is_taken(&made);
        let moved = async {
            made?;
            core.journal.step(&entry, "root");
            for snapshot in snapshots {
                copying.snapshot(Some(&snapshot.name), false, &snapshot.name).await?;
            }
            core.journal.step(&entry, "volume");
            self.record_move(entry.clone(), record, snapshots, &to, operation).await
        };
        match moved.await {
            Ok(left) => {
                // Not before it is certain, also after a loss of power, that the instance is where it went.
                match core.store.sync().await {
                    Ok(()) => self.leave(&from, &old, left).await,
                    Err(error) => tracing::warn!(
                        instance = old.name,
                        pool = old.pool,
                        %error,
                        "the volume that an instance has left behind stays until the next start of the daemon"
                    ),
                }
                Ok(())
            }
            Err(error) => {
                if ours && let Err(second) = undo(&to, &old).await {
                    tracing::warn!(
                        instance = old.name,
                        error = second.report(),
                        "what was copied of an instance that was to be moved could not be removed; it is when that is tried again, or \
                         at the next start of the daemon"
                    );
                    return Err(error);
                }
                core.journal.unless_failed(entry, Err(error)).await
            }
        }
    }

    /// The record as it will be. From here on the pool is not deleted.
    async fn hold_pool(&mut self, destination: &Destination) -> Result<InstanceRecord> {
        let core = Arc::clone(&self.core);
        let _guard = core.changes.lock().await;
        let record = self.relocated(destination)?;
        self.moving_to = Some(record.pool.clone());
        self.publish();
        Ok(record)
    }

    /// The record in its new pool. The caller holds [`Core::changes`].
    fn relocated(&self, destination: &Destination) -> Result<InstanceRecord> {
        let core = &self.core;
        let mut record = destination.applied(&self.record);
        rehome(core, &mut record, &destination.pool);
        let (config, expanded) = core.expand(&record);
        record.plain = settings::is_true(&config, "security.nesting");
        devices::complete_volatile(&mut record.config, &expanded);
        create::check_root(&expanded, &record)?;
        core.check_references(&record, Some(&self.instance.view()))?;
        Ok(record)
    }

    /// The limit of the new volume, and the records. Answers with the entry by which the old volume goes.
    async fn record_move(
        &mut self,
        entry: Open,
        record: InstanceRecord,
        snapshots: &[Arc<SnapshotRecord>],
        to: &OpenPool,
        operation: &Arc<Operation>,
    ) -> Result<Open> {
        let core = Arc::clone(&self.core);
        let (_, expanded) = core.expand(&record);
        if let Some(size) = devices::root(&expanded)?.get("size").filter(|size| !size.is_empty()) {
            create::set_size(to, &record, Some(size)).await?;
        }
        let root = to.tree().path;
        let flushed = tokio::task::spawn_blocking(move || hutch_sys::mount::flush(&root)).await;
        let flushed = flushed.map_err(std::io::Error::other).and_then(|flushed| flushed);
        flushed.map_err(Error::io(format!(
            "writing storage pool {} to its disk",
            to.record.name
        )))?;
        let _guard = core.changes.lock().await;
        core.check_references(&record, Some(&self.instance.view()))?;
        let (project, name) = (&record.project, &record.name);
        let mut change = Self::write(&record)?;
        for gone in &self.snapshots {
            change = change.delete(key::snapshot(project, name, &gone.name));
        }
        let mut moved = Vec::new();
        for snapshot in snapshots {
            let mut snapshot = SnapshotRecord::clone(snapshot);
            snapshot.instance.plain = record.plain;
            rehome(&core, &mut snapshot.instance, &record.pool);
            change = change.put(key::snapshot(project, name, &snapshot.name), &snapshot)?;
            moved.push(Arc::new(snapshot));
        }
        let left = Entry::InstanceLeave {
            project: project.clone(),
            name: name.clone(),
            pool: self.record.pool.clone(),
        };
        let left = core.journal.turn(entry, operation.id(), left, change).await?;
        self.record = Arc::new(record);
        self.snapshots = moved;
        self.moving_to = None;
        self.publish();
        Ok(left)
    }

    /// Removes what the instance has left in its old pool. It has moved, whatever comes of this.
    async fn leave(&self, from: &OpenPool, old: &InstanceRecord, entry: Open) {
        let left = async {
            undo(from, old).await?;
            self.core.journal.step(&entry, "volume");
            self.core.journal.done(entry, Transaction::new()).await
        };
        if let Err(error) = left.await {
            tracing::warn!(
                instance = old.name,
                pool = old.pool,
                error = error.report(),
                "the volume that an instance has left behind could not be removed; it is at the next start of the daemon"
            );
        }
    }
}

/// Removes the volume that an instance of this record would have in a pool.
async fn undo(pool: &OpenPool, record: &InstanceRecord) -> Result<()> {
    let action = format!(
        "removing a volume of instance {} in storage pool {}",
        record.name, pool.record.name
    );
    pool.driver
        .delete(&pool.call(None), &pool.reference(), &instance_volume(record))
        .await
        .map_err(Error::driver(action))
}

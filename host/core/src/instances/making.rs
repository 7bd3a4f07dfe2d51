//! How an instance comes to be, from its claimed name to the record.
//!
//! The name and all that the instance refers to are claimed when it is asked for: it is in the table from then on, shown as
//! stopped, so that nobody else takes the name, and no pool, network, profile or project is deleted below it. Its owner fills it,
//! and everybody else is refused until that is done ([`crate::instances::Instance::ask`]).

use std::sync::Arc;

use hutch_store::Transaction;

use crate::error::{Error, Result};
use crate::events;
use crate::instances::copying::{self, Copying, Extent};
use crate::instances::create::{self, Source};
use crate::instances::owner::Owner;
use crate::instances::view::View;
use crate::instances::{self, Instance, devices, templates, volatile};
use crate::journal::{Entry, Open};
use crate::pools::{OpenPool, instance_volume};
use crate::records::{InstanceRecord, SnapshotRecord, TemplatesRecord, key};
use crate::{Caller, Core, Operation};

/// What an instance is to be filled with.
pub(super) struct Wanted {
    pub(super) caller: Caller,
    pub(super) source: Source,
    /// Whether the request left the profiles to the image.
    pub(super) profiles_of_image: bool,
}

/// An instance's volume, as it is to be made.
struct Content {
    source: Source,
    /// The image's fingerprint.
    image: Option<String>,
    /// What the instance keeps of its image's templates.
    templates: Option<TemplatesRecord>,
    /// The limit of the volume, as the root disk has it.
    size: Option<String>,
}

impl Core {
    /// Enters an instance that is to be made, with its name and all that it refers to.
    ///
    /// # Errors
    /// [`Error::Conflict`] for a name that is taken, and those of [`Core::check_references`].
    pub(super) async fn claim_instance(self: &Arc<Self>, record: InstanceRecord) -> Result<Arc<Instance>> {
        let _guard = self.changes.lock().await;
        self.check_references(&record, None)?;
        let (project, name) = (record.project.clone(), record.name.clone());
        let mut view = View::stopped(self, Arc::new(record), Vec::new());
        view.creating = true;
        instances::enter_new(self, &project, &name, view)
    }
}

impl Instance {
    /// Fills an instance that was claimed; without one it is gone again.
    pub(super) async fn make(&self, wanted: Wanted, operation: &Arc<Operation>) -> Result<()> {
        let operation = Arc::clone(operation);
        self.order(move |owner| Box::pin(async move { owner.make(wanted, operation).await }))
            .await
    }

    /// Gives up an instance that was claimed.
    pub(super) async fn abandon(&self) {
        let gone = self.order(|owner| {
            Box::pin(async move {
                owner.vanish();
                Ok(())
            })
        });
        // An owner that is gone has given it up already.
        drop(gone.await);
    }
}

impl Owner {
    async fn make(&mut self, wanted: Wanted, operation: Arc<Operation>) -> Result<()> {
        if let Err(error) = self.prepare_and_fill(wanted, &operation).await {
            self.vanish();
            return Err(error);
        }
        let record = &self.record;
        let context = events::context([
            ("type", record.kind.clone().into()),
            ("storage-pool", record.pool.clone().into()),
        ]);
        self.tell_more("instance-created", context);
        self.note("created");
        Ok(())
    }

    /// The instance was never finished: its name is free, and its owner ends.
    fn vanish(&mut self) {
        self.core.instances.remove(&self.record.project, &self.record.name);
        self.creating = false;
        self.publish();
        self.deleted = true;
    }

    async fn prepare_and_fill(&mut self, wanted: Wanted, operation: &Arc<Operation>) -> Result<()> {
        let core = Arc::clone(&self.core);
        let mut record = InstanceRecord::clone(&self.record);
        let image = match &wanted.source {
            Source::Image(source) => {
                let image = core
                    .image_for_instance(&wanted.caller, &record.project, source, operation)
                    .await?;
                if wanted.profiles_of_image && !image.profiles.is_empty() {
                    record.profiles.clone_from(&image.profiles);
                }
                record.architecture.clone_from(&image.architecture);
                for (key, value) in &image.properties {
                    let own = record.config.entry(format!("image.{key}"));
                    own.or_insert_with(|| value.clone());
                }
                let base = volatile::BASE_IMAGE.to_owned();
                record.config.insert(base, image.fingerprint.clone());
                Some(image.fingerprint.clone())
            }
            _ => None,
        };
        create::complete(&core, &mut record);
        let (_, expanded) = core.expand(&record);
        let size = devices::root(&expanded)?
            .get("size")
            .filter(|size| !size.is_empty())
            .cloned();
        let (templates, trigger) = match (&wanted.source, &image) {
            (Source::Copy { instance, .. }, _) => (core.kept_templates(&instance.view().record.id).await?, "copy"),
            (_, Some(image)) => (core.templates_for_instance(image)?, "create"),
            _ => (None, ""),
        };
        if templates.is_some() {
            templates::defer(&mut record, trigger);
        }
        self.claim(record).await?;
        let pool = core.open_pool(&self.record.pool).await?;
        // Held until the instance's volume is made: the image's must not be deleted meanwhile.
        let _image_volume = match &image {
            Some(image) => Some(core.ensure_image_volume(image, &pool, operation).await?),
            None => None,
        };
        if operation.cancel_flag().is_cancelled() {
            return Err(Error::Cancelled);
        }
        let content = Content {
            source: wanted.source,
            image,
            templates,
            size,
        };
        self.fill_and_record(&pool, content, operation).await
    }

    /// Refers to what has turned out meanwhile.
    async fn claim(&mut self, record: InstanceRecord) -> Result<()> {
        let core = Arc::clone(&self.core);
        let _guard = core.changes.lock().await;
        core.check_references(&record, Some(&self.instance.view()))?;
        self.record = Arc::new(record);
        self.publish();
        Ok(())
    }

    /// Volume and record, with their journal.
    async fn fill_and_record(&mut self, pool: &OpenPool, content: Content, operation: &Arc<Operation>) -> Result<()> {
        let core = Arc::clone(&self.core);
        let entry = Entry::InstanceCreate {
            project: self.record.project.clone(),
            name: self.record.name.clone(),
            pool: self.record.pool.clone(),
        };
        let entry = core.journal.begin(operation.id(), entry).await?;
        let filled = match self.finish_undo(pool, &entry).await {
            Ok(()) => self.fill(pool, &content, &entry, operation).await,
            Err(error) => Err(error),
        };
        // What is there already is not this creation's to take back.
        let ours = !is_taken(&filled);
        let made = async {
            let copied = filled?;
            core.journal.step(&entry, "volume");
            if let Some(size) = &content.size {
                create::set_size(pool, &self.record, Some(size)).await?;
            }
            self.record_creation(&entry, content.templates.as_ref(), &copied).await
        };
        let Err(error) = made.await else { return Ok(()) };
        if ours && let Err(second) = self.undo_create(pool).await {
            // The entry stays: by it the volume is known as nobody's when the name is asked for again, or the daemon starts.
            tracing::warn!(
                instance = self.record.name,
                error = second.report(),
                "the volume of an instance that was not finished could not be removed; it is when the name is taken again, or at the \
                 next start of the daemon"
            );
            return Err(error);
        }
        core.journal.unless_failed(entry, Err(error)).await
    }

    /// Takes back what an instance of this name has left in the pool that was never finished: a driver may take it for what it is
    /// asked to make. `own` is the entry of the one that is being made.
    pub(super) async fn finish_undo(&self, pool: &OpenPool, own: &Open) -> Result<()> {
        let core = &self.core;
        let wanted = (&self.record.project, &self.record.name, &pool.record.name);
        let is_left = |entry: &Entry| match entry {
            Entry::InstanceCreate { project, name, pool }
            | Entry::InstanceMove { project, name, pool }
            | Entry::InstanceLeave { project, name, pool } => (project, name, pool) == wanted,
            _ => false,
        };
        let mut left = core.journal.interrupted().await?;
        left.retain(|(open, _, entry)| open != own && is_left(entry));
        let left: Vec<Open> = left.into_iter().map(|(open, ..)| open).collect();
        if left.is_empty() {
            return Ok(());
        }
        self.undo_create(pool).await?;
        core.journal.all_done(&left, Transaction::new()).await
    }

    /// Writes the record, with what profiles have become meanwhile, and those of the snapshots that were `copied` with it, and
    /// shows that the instance is there.
    async fn record_creation(
        &mut self,
        entry: &Open,
        templates: Option<&TemplatesRecord>,
        copied: &[Arc<SnapshotRecord>],
    ) -> Result<()> {
        let core = Arc::clone(&self.core);
        let _guard = core.changes.lock().await;
        let mut record = InstanceRecord::clone(&self.record);
        let (_, expanded) = core.expand(&record);
        create::check_root(&expanded, &record)?;
        devices::complete_volatile(&mut record.config, &expanded);
        let mut change = Self::write(&record)?;
        if let Some(templates) = templates {
            change = change.put(key::templates(&record.id), templates)?;
        }
        let of_copy = |snapshot: &Arc<SnapshotRecord>| Arc::new(copying::of_copy(&core, snapshot, &record));
        let snapshots: Vec<_> = copied.iter().map(of_copy).collect();
        for snapshot in &snapshots {
            let at = key::snapshot(&record.project, &record.name, &snapshot.name);
            change = change.put(at, snapshot.as_ref())?;
        }
        core.journal.done(entry.clone(), change).await?;
        self.record = Arc::new(record);
        self.snapshots = snapshots;
        self.creating = false;
        self.publish();
        Ok(())
    }

    /// Makes the volume; answers with the source's snapshots that were copied into it.
    async fn fill(
        &self,
        pool: &OpenPool,
        content: &Content,
        entry: &Open,
        operation: &Arc<Operation>,
    ) -> Result<Vec<Arc<SnapshotRecord>>> {
        let record = &self.record;
        let (call, reference, volume) = (pool.call(Some(operation)), pool.reference(), instance_volume(record));
        let action = format!("creating the volume of instance {}", record.name);
        let made = match (&content.source, &content.image) {
            (Source::Image(_), Some(fingerprint)) => {
                let image = crate::pools::image_volume(fingerprint);
                pool.driver
                    .create_from_image(&call, &reference, &image, &volume, record.plain)
                    .await
            }
            (Source::Copy { instance, extent }, _) => {
                let (extent, entry) = (extent.clone(), entry.clone());
                let (target, operation) = (Arc::clone(record), Arc::clone(operation));
                return instance
                    .ask_for_root(move |owner| {
                        Box::pin(async move { owner.copy_to(&target, &extent, &entry, &operation).await })
                    })
                    .await;
            }
            _ => pool.driver.create(&call, &reference, &volume).await,
        };
        made.map_err(Error::driver(action)).map(|()| Vec::new())
    }

    /// Takes back the volume of an instance that was not finished.
    async fn undo_create(&self, pool: &OpenPool) -> Result<()> {
        let action = format!("removing the unfinished volume of instance {}", self.record.name);
        pool.driver
            .delete(&pool.call(None), &pool.reference(), &instance_volume(&self.record))
            .await
            .map_err(Error::driver(action))
    }

    /// Copies the volume for another instance; the owner does it, so that nothing else happens to the source meanwhile. Answers with
    /// the snapshots that were copied with it.
    async fn copy_to(
        &mut self,
        target: &InstanceRecord,
        extent: &Extent,
        entry: &Open,
        operation: &Arc<Operation>,
    ) -> Result<Vec<Arc<SnapshotRecord>>> {
        let snapshots = self.check_copy(extent)?;
        let core = Arc::clone(&self.core);
        let (from, to) = (
            core.open_pool(&self.record.pool).await?,
            core.open_pool(&target.pool).await?,
        );
        let record = Arc::clone(&self.record);
        let copying = Copying::new(&core, (&from, &record), (&to, target), operation);
        copying.require(!snapshots.is_empty())?;
        let of = extent.snapshot.as_deref();
        self.use_root();
        self.copy_quiet(of, |live| copying.root(of, live)).await?;
        core.journal.step(entry, "root");
        for snapshot in &snapshots {
            copying.snapshot(Some(&snapshot.name), false, &snapshot.name).await?;
        }
        Ok(snapshots)
    }
}

/// Whether the driver has a volume of that name already.
pub(super) fn is_taken<T>(filled: &Result<T>) -> bool {
    matches!(filled, Err(Error::Driver { source, .. }) if source.is("already-exists"))
}

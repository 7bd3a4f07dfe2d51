//! Giving an instance another root, of an image or an empty one, in the place of what it has.

use std::sync::Arc;

use hutch_api::instance::InstanceRebuildPost;

use crate::error::{Error, Result};
use crate::images::ImageRecord;
use crate::instances::owner::Owner;
use crate::instances::{create, devices, templates, volatile};
use crate::journal::{Entry, Open, Rebuilt};
use crate::operations::NewOperation;
use crate::pools::{OpenPool, image_volume, instance_volume};
use crate::profiles::with_project;
use crate::records::{InstanceRecord, key};
use crate::{Caller, Core, Operation, settings};

impl Core {
    /// Gives a stopped instance without snapshots a new root. It keeps its name, configuration, devices and addresses; what its old
    /// root held is gone.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`] for an instance that runs or has snapshots and for another source than an image or
    /// nothing; what fails later is the operation's error.
    pub async fn instance_rebuild(
        self: &Arc<Self>,
        caller: &Caller,
        project: &str,
        name: &str,
        post: InstanceRebuildPost,
    ) -> Result<Arc<Operation>> {
        let instance = self.instances.get(project, name)?;
        let source = match post.source.kind.as_str() {
            "image" => {
                // What is not there, or nobody provides, is told at once.
                self.image_choose(project, &post.source)?;
                Some(post.source)
            }
            "none" => None,
            other => {
                return Err(Error::invalid(format!(
                    "Unknown source type {other:?} to rebuild an instance from: image or none"
                )));
            }
        };
        let view = instance.view();
        check(view.keeper.is_some(), view.snapshots.len())?;
        let path = with_project(format!("/1.0/instances/{name}"), project);
        let new = NewOperation::task(project, "Rebuilding instance", "instances", path).cancellable();
        let (core, caller, project) = (Arc::clone(self), caller.clone(), project.to_owned());
        let work = move |operation: Arc<Operation>| async move {
            let image = match source {
                Some(source) => Some(core.image_for_instance(&caller, &project, &source, &operation).await?),
                None => None,
            };
            instance
                .ask(move |owner| Box::pin(async move { owner.rebuild(image, &operation).await }))
                .await
        };
        self.operations.begin(new, work).await
    }
}

/// The words are those that Incus's clients and tests know.
fn check(running: bool, snapshots: usize) -> Result<()> {
    if running {
        return Err(Error::invalid("Instance must be stopped to be rebuilt"));
    }
    if snapshots > 0 {
        return Err(Error::invalid(
            "An instance with snapshots can't be rebuilt: they are of the root that it has; delete them first",
        ));
    }
    Ok(())
}

impl Owner {
    async fn rebuild(&mut self, image: Option<Arc<ImageRecord>>, operation: &Arc<Operation>) -> Result<()> {
        check(self.keeper.is_some(), self.snapshots.len())?;
        self.require_settled("rebuild it")?;
        self.close_files().await;
        let core = Arc::clone(&self.core);
        let pool = core.open_pool(&self.record.pool).await?;
        // Held until the new volume is made: the image's must not be deleted meanwhile.
        let _image_volume = match &image {
            Some(image) => Some(core.ensure_image_volume(&image.fingerprint, &pool, operation).await?),
            None => None,
        };
        if operation.cancel_flag().is_cancelled() {
            return Err(Error::Cancelled);
        }
        let rebuilt = Rebuilt {
            record: self.rebuilt(image.as_deref())?,
            image: image.map(|image| image.fingerprint.clone()),
        };
        let entry = Entry::InstanceRebuild {
            project: self.record.project.clone(),
            name: self.record.name.clone(),
            rebuilt: Box::new(rebuilt.clone()),
        };
        let entry = core.journal.begin(operation.id(), entry).await?;
        self.rebuild_whole(&pool, entry, rebuilt).await
    }

    /// Goes on with a rebuilding that was interrupted.
    pub(crate) async fn finish_rebuild(&mut self, entry: &Open, rebuilt: Rebuilt) -> Result<()> {
        self.resume(entry, true).await?;
        let pool = self.core.open_pool(&self.record.pool).await?;
        self.set_unfinished(None);
        self.rebuild_whole(&pool, entry.clone(), rebuilt).await
    }

    /// The record as it is once the root is the image's, or empty.
    fn rebuilt(&self, image: Option<&ImageRecord>) -> Result<InstanceRecord> {
        let mut record = InstanceRecord::clone(&self.record);
        record.config.retain(|key, _| {
            !key.starts_with("image.") && ![volatile::BASE_IMAGE, templates::PENDING].contains(&key.as_str())
        });
        record.broken = None;
        if let Some(image) = image {
            record.architecture.clone_from(&image.architecture);
            for (key, value) in settings::pruned(image.properties.clone()) {
                record.config.insert(format!("image.{key}"), value);
            }
            let base = volatile::BASE_IMAGE.to_owned();
            record.config.insert(base, image.fingerprint.clone());
            if self.core.templates_for_instance(&image.fingerprint)?.is_some() {
                templates::defer(&mut record, "create");
            }
        }
        let (config, _) = self.core.expand(&record);
        record.plain = settings::is_true(&config, "security.nesting");
        Ok(record)
    }

    async fn rebuild_whole(&mut self, pool: &OpenPool, entry: Open, rebuilt: Rebuilt) -> Result<()> {
        let Err(error) = self.replace_volume_and_record(pool, &entry, rebuilt).await else {
            self.tell("instance-rebuilt");
            self.note("rebuilt");
            return Ok(());
        };
        let why = format!(
            "rebuilding it failed, and its old root is gone; rebuild it once more, or delete it ({})",
            error.report()
        );
        self.break_off(entry, why).await;
        Err(error)
    }

    /// Everything between the journal's entry and its end. Done again it comes to the same.
    async fn replace_volume_and_record(&mut self, pool: &OpenPool, entry: &Open, rebuilt: Rebuilt) -> Result<()> {
        let core = Arc::clone(&self.core);
        let Rebuilt { record, image } = rebuilt;
        let (call, reference, volume) = (pool.call(None), pool.reference(), instance_volume(&record));
        let action = format!("removing the old root of instance {}", record.name);
        let removed = pool.driver.delete(&call, &reference, &volume).await;
        removed.map_err(Error::driver(action))?;
        core.journal.step(entry, "removed");
        let made = match &image {
            Some(image) => {
                let image = image_volume(image);
                pool.driver
                    .create_from_image(&call, &reference, &image, &volume, record.plain)
                    .await
            }
            None => pool.driver.create(&call, &reference, &volume).await,
        };
        made.map_err(Error::driver(format!(
            "making the new root of instance {}",
            record.name
        )))?;
        core.journal.step(entry, "volume");
        let (_, expanded) = core.expand(&record);
        let size = devices::root(&expanded)?.get("size").filter(|size| !size.is_empty());
        if let Some(size) = size {
            create::set_size(pool, &record, Some(size)).await?;
        }
        let templates = match &image {
            Some(image) => core.templates_for_instance(image)?,
            None => None,
        };
        let at = key::templates(&record.id);
        let change = match templates {
            Some(templates) => Self::write(&record)?.put(at, &templates)?,
            None => Self::write(&record)?.delete(at),
        };
        core.journal.done(entry.clone(), change).await?;
        self.record = Arc::new(record);
        self.publish();
        Ok(())
    }
}

//! Making instances: from images, from other instances, or empty.

use std::sync::Arc;

use hutch_api::instance::{CONTAINER, InstancesPost, VIRTUAL_MACHINE};
use hutch_api::{Config, Devices, Timestamp};
use hutch_store::Transaction;

use crate::error::{Error, Result};
use crate::instances::owner::Owner;
use crate::instances::view::View;
use crate::instances::{self, Instance, devices, snapshots, start, templates};
use crate::journal::{Entry, Open};
use crate::operations::NewOperation;
use crate::pools::{OpenPool, instance_volume};
use crate::profiles::with_project;
use crate::records::{InstanceRecord, RECORD_VERSION, TemplatesRecord, key};
use crate::{Caller, Core, Operation, names, profiles, settings};

/// Where an instance's content comes from.
enum Source {
    /// An image; what it names is found or fetched by the operation.
    Image(Box<hutch_api::instance::InstanceSource>),
    /// Another instance, or one of its snapshots.
    Copy {
        instance: Arc<Instance>,
        snapshot: Option<String>,
    },
    /// Nothing.
    Empty,
}

/// What an instance is filled with.
struct Content {
    source: Source,
    /// The image's fingerprint.
    image: Option<String>,
    /// What the instance keeps of its image's templates.
    templates: Option<TemplatesRecord>,
}

impl Core {
    /// Makes an instance, and starts it where the request says so.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what can be seen to be wrong at once, [`Error::Conflict`] for a name that is taken.
    pub async fn instance_create(
        self: &Arc<Self>,
        caller: &Caller,
        project: &str,
        post: InstancesPost,
    ) -> Result<Arc<Operation>> {
        self.project_record(project)?;
        let mut post = post;
        if post.name.is_empty() {
            post.name = self.free_name(project);
        }
        names::instance(&post.name)?;
        if post.kind == VIRTUAL_MACHINE {
            return Err(Error::invalid(
                "This server runs containers only: virtual machines are not available",
            ));
        }
        if !post.kind.is_empty() && post.kind != CONTAINER {
            return Err(Error::invalid(format!("Unknown instance type {:?}", post.kind)));
        }
        if !post.instance_type.is_empty() {
            return Err(Error::invalid(format!(
                "Unknown instance size {:?}: give limits.cpu and limits.memory instead",
                post.instance_type
            )));
        }
        if self.instances.get(project, &post.name).is_ok() {
            return Err(Error::Conflict(format!("Instance {:?} already exists", post.name)));
        }
        let source = self.source(project, &post)?;
        let named = post
            .profiles
            .clone()
            .unwrap_or_else(|| vec![profiles::DEFAULT.to_owned()]);
        self.check_instance(project, &post.config, &post.devices, &named)
            .await?;
        let path = with_project(format!("/1.0/instances/{}", post.name), project);
        let new = NewOperation::task(project, "Creating instance", "instances", path).cancellable();
        let (core, caller, project) = (Arc::clone(self), caller.clone(), project.to_owned());
        let work = move |operation: Arc<Operation>| async move {
            let start = post.start;
            let instance = core.create(&caller, &project, post, source, &operation).await?;
            if start {
                start::start(&instance, &operation).await
            } else {
                Ok(())
            }
        };
        self.operations.begin(new, work).await
    }

    fn source(&self, project: &str, post: &InstancesPost) -> Result<Source> {
        let source = &post.source;
        match source.kind.as_str() {
            "image" => {
                // An alias that is not here, or a protocol that nobody provides, is told at once.
                self.image_choose(project, source)?;
                Ok(Source::Image(Box::new(source.clone())))
            }
            "none" => Ok(Source::Empty),
            "copy" => {
                let (name, snapshot) = match source.source.split_once('/') {
                    Some((name, snapshot)) => (name, Some(snapshot.to_owned())),
                    None => (source.source.as_str(), None),
                };
                let from = if source.project.is_empty() {
                    project
                } else {
                    &source.project
                };
                if source.refresh {
                    return Err(Error::invalid(
                        "An existing copy can't be refreshed: delete it and copy again",
                    ));
                }
                let instance = self.instances.get(from, name)?;
                if let Some(snapshot) = &snapshot {
                    self.snapshot(from, name, snapshot)?;
                }
                Ok(Source::Copy { instance, snapshot })
            }
            "migration" => Err(Error::invalid("Instances can't be received from other servers")),
            other => Err(Error::invalid(format!(
                "Unknown source type {other:?}: image, copy or none"
            ))),
        }
    }

    fn free_name(&self, project: &str) -> String {
        loop {
            let name = names::random_instance();
            let name = if self.instances.get(project, &name).is_err() {
                name
            } else {
                format!("{name}-{}", rand::random::<u16>())
            };
            if self.instances.get(project, &name).is_err() {
                return name;
            }
        }
    }

    async fn create(
        self: &Arc<Self>,
        caller: &Caller,
        project: &str,
        post: InstancesPost,
        source: Source,
        operation: &Arc<Operation>,
    ) -> Result<Arc<Instance>> {
        let mut record = self.new_record(project, &post);
        let image = match &source {
            Source::Image(wanted) => {
                let image = self.image_for_instance(caller, project, wanted, operation).await?;
                if post.profiles.is_none() && !image.profiles.is_empty() {
                    record.profiles.clone_from(&image.profiles);
                }
                record.architecture.clone_from(&image.architecture);
                for (key, value) in &image.properties {
                    record
                        .config
                        .entry(format!("image.{key}"))
                        .or_insert_with(|| value.clone());
                }
                record
                    .config
                    .insert("volatile.base_image".to_owned(), image.fingerprint.clone());
                Some(image)
            }
            Source::Copy { instance, snapshot } => {
                inherit(
                    &mut record,
                    &instance.view(),
                    snapshot.as_deref(),
                    post.profiles.is_none(),
                );
                None
            }
            Source::Empty => None,
        };
        let (config, expanded) = self.expand(&record);
        let root = devices::root(&expanded)?.clone();
        record.pool = root.get("pool").cloned().unwrap_or_default();
        record.plain = settings::is_true(&config, "security.nesting");
        devices::complete_volatile(&mut record.config, &expanded);
        let pool = self.open_pool(&record.pool).await?;
        // Held until the instance's volume is made: the image's must not be deleted meanwhile.
        let _image_volume = match &image {
            Some(image) => Some(self.ensure_image_volume(&image.fingerprint, &pool, operation).await?),
            None => None,
        };
        if operation.cancel_flag().is_cancelled() {
            return Err(Error::Cancelled);
        }
        let (templates, trigger) = match (&source, &image) {
            (Source::Copy { instance, .. }, _) => (self.kept_templates(&instance.view().record.id).await?, "copy"),
            (_, Some(image)) => (self.templates_for_instance(&image.fingerprint)?, "create"),
            _ => (None, ""),
        };
        if templates.is_some() {
            templates::defer(&mut record, trigger);
        }
        let content = Content {
            source,
            image: image.map(|image| image.fingerprint.clone()),
            templates,
        };
        let size = root.get("size").map(String::as_str);
        self.make(record, &pool, content, size, operation).await
    }

    fn new_record(&self, project: &str, post: &InstancesPost) -> InstanceRecord {
        let mut config = post.config.clone();
        config.retain(|key, value| !value.is_empty() && !key.starts_with("volatile."));
        let id = uuid::Uuid::new_v4();
        config.insert("volatile.uuid".to_owned(), id.to_string());
        config.insert("volatile.last_state.power".to_owned(), "STOPPED".to_owned());
        InstanceRecord {
            v: RECORD_VERSION,
            id,
            project: project.to_owned(),
            name: post.name.clone(),
            kind: CONTAINER.to_owned(),
            architecture: if post.architecture.is_empty() {
                self.machine.architecture.clone()
            } else {
                post.architecture.clone()
            },
            description: post.description.clone(),
            config,
            devices: post.devices.clone(),
            profiles: post
                .profiles
                .clone()
                .unwrap_or_else(|| vec![profiles::DEFAULT.to_owned()]),
            ephemeral: post.ephemeral,
            created_at: Timestamp::now(),
            last_used_at: Timestamp::NEVER,
            pool: String::new(),
            plain: false,
        }
    }

    /// Volume and record, with their journal. The name is held from the beginning.
    async fn make(
        self: &Arc<Self>,
        record: InstanceRecord,
        pool: &OpenPool,
        content: Content,
        size: Option<&str>,
        operation: &Arc<Operation>,
    ) -> Result<Arc<Instance>> {
        let (project, name) = (record.project.clone(), record.name.clone());
        let instance = instances::spawn(self, record.clone(), Vec::new());
        self.instances.enter(&project, &name, Arc::clone(&instance))?;
        let entry = Entry::InstanceCreate {
            project: project.clone(),
            name: name.clone(),
            pool: record.pool.clone(),
        };
        let made = async {
            let entry = self.journal.begin(operation.id(), entry).await?;
            let templates = content.templates.clone();
            let filled = self.fill(&record, pool, content, operation, &entry).await;
            let sized = match (&filled, size.filter(|size| !size.is_empty())) {
                (Ok(()), Some(size)) => set_size(pool, &record, Some(size)).await,
                _ => filled,
            };
            if let Err(error) = sized {
                self.undo_create(&record, pool).await;
                self.journal.done(entry, Transaction::new()).await?;
                return Err(error);
            }
            let mut change = Owner::write(&record)?;
            if let Some(templates) = &templates {
                change = change.put(key::templates(&record.id), templates)?;
            }
            self.journal.done(entry, change).await
        };
        if let Err(error) = made.await {
            self.instances.remove(&project, &name);
            // Its owner ends with the next job, which this is.
            let _ = instance
                .ask(|owner| Box::pin(async move { owner.forget().await }))
                .await;
            return Err(error);
        }
        let path = with_project(format!("/1.0/instances/{name}"), &project);
        self.events
            .lifecycle(&project, "instance-created", &path, None, serde_json::Map::new());
        Ok(instance)
    }

    async fn fill(
        &self,
        record: &InstanceRecord,
        pool: &OpenPool,
        content: Content,
        operation: &Arc<Operation>,
        entry: &Open,
    ) -> Result<()> {
        let (call, reference, volume) = (pool.call(Some(operation)), pool.reference(), instance_volume(record));
        let action = format!("creating the volume of instance {}", record.name);
        match (content.source, content.image) {
            (Source::Image(_), Some(fingerprint)) => {
                let image = crate::pools::image_volume(&fingerprint);
                pool.driver
                    .create_from_image(&call, &reference, &image, &volume, record.plain)
                    .await
                    .map_err(Error::driver(action))?;
            }
            (Source::Copy { instance, snapshot }, _) => {
                copy_volume(pool, &instance, snapshot, record, operation).await?;
            }
            _ => pool
                .driver
                .create(&call, &reference, &volume)
                .await
                .map_err(Error::driver(action))?,
        }
        self.journal.step(entry, "volume");
        Ok(())
    }

    /// Takes back an instance that was not finished.
    pub(crate) async fn undo_create(&self, record: &InstanceRecord, pool: &OpenPool) {
        let deleted = pool
            .driver
            .delete(&pool.call(None), &pool.reference(), &instance_volume(record))
            .await;
        if let Err(error) = deleted {
            tracing::warn!(instance = record.name, %error, "the volume of an instance that was not finished could not be removed");
        }
    }
}

impl Owner {
    /// The instance was never finished: its owner ends.
    async fn forget(&mut self) -> Result<()> {
        self.deleted = true;
        Ok(())
    }

    /// Copies the volume for another instance; the owner does it, so that nothing else happens to the source meanwhile.
    async fn copy_to(
        &mut self,
        target: InstanceRecord,
        snapshot: Option<String>,
        operation: Arc<Operation>,
    ) -> Result<()> {
        let pool = self.core.open_pool(&self.record.pool).await?;
        self.close_files().await;
        let live = self.keeper.is_some() && snapshot.is_none();
        let frozen = if live { self.freeze_for_a_moment().await? } else { None };
        let copied = pool
            .driver
            .copy(
                &pool.call(Some(&operation)),
                &pool.reference(),
                &instance_volume(&self.record),
                snapshot.as_deref(),
                &instance_volume(&target),
                live,
                target.plain,
            )
            .await;
        if let Some(keeper) = frozen {
            snapshots::thaw_again(&keeper, &self.record.name).await;
        }
        copied.map_err(Error::driver(format!(
            "copying the volume of instance {}",
            self.record.name
        )))
    }
}

async fn copy_volume(
    pool: &OpenPool,
    source: &Arc<Instance>,
    snapshot: Option<String>,
    target: &InstanceRecord,
    operation: &Arc<Operation>,
) -> Result<()> {
    let from = source.view().record.pool.clone();
    if from != target.pool {
        return Err(Error::invalid(format!(
            "Instance {:?} is in storage pool {from}, and copies into another pool ({}) are not available",
            source.name(),
            target.pool
        )));
    }
    pool.require("clone")?;
    let (target, operation) = (target.clone(), Arc::clone(operation));
    source
        .ask(move |owner| Box::pin(async move { owner.copy_to(target, snapshot, operation).await }))
        .await
}

/// A copy has what its source has, where the request does not say otherwise.
fn inherit(record: &mut InstanceRecord, source: &View, snapshot: Option<&str>, profiles: bool) {
    let of_snapshot = source
        .snapshots
        .iter()
        .find(|record| Some(record.name.as_str()) == snapshot);
    let from = of_snapshot.map_or(&*source.record, |snapshot| &snapshot.instance);
    for (key, value) in &from.config {
        if !key.starts_with("volatile.") || key == "volatile.base_image" {
            record.config.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    for (name, device) in &from.devices {
        record.devices.entry(name.clone()).or_insert_with(|| device.clone());
    }
    if profiles {
        record.profiles.clone_from(&from.profiles);
    }
}

/// Limits the volume of an instance, or lifts the limit.
pub(crate) async fn set_size(pool: &OpenPool, record: &InstanceRecord, size: Option<&str>) -> Result<()> {
    pool.require("quota")?;
    let bytes = size
        .map(|size| settings::parse_size(size).ok_or_else(|| Error::invalid(format!("Invalid size {size:?}"))))
        .transpose()?;
    pool.driver
        .set_quota(&pool.call(None), &pool.reference(), &instance_volume(record), bytes)
        .await
        .map_err(Error::driver(format!(
            "limiting the volume of instance {}",
            record.name
        )))
}

/// An instance stays in the pool that it was made in.
pub(crate) fn check_root(devices: &Devices, record: &InstanceRecord) -> Result<()> {
    let root = devices::root(devices)?;
    match root.get("pool") {
        Some(pool) if *pool == record.pool => Ok(()),
        _ => Err(Error::invalid(format!(
            "The root disk of instance {:?} is in storage pool {} and stays there",
            record.name, record.pool
        ))),
    }
}

/// What an image gives to an instance made from it.
#[derive(Clone, Debug, Default)]
pub struct ImageForInstance {
    /// The fingerprint.
    pub fingerprint: String,
    /// `x86_64`, `aarch64`.
    pub architecture: String,
    /// They become `image.*` keys.
    pub properties: Config,
    /// Profiles for instances whose maker names none.
    pub profiles: Vec<String>,
}

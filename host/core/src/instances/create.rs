//! Requests for new instances: from images, from other instances, or empty. `super::making` carries them out.

use std::sync::Arc;

use hutch_api::instance::{CONTAINER, InstancesPost, VIRTUAL_MACHINE};
use hutch_api::{Config, Devices, Timestamp};

use crate::error::{Error, Result};
use crate::instances::copying::Extent;
use crate::instances::making::Wanted;
use crate::instances::view::View;
use crate::instances::{Instance, devices, start, volatile};
use crate::operations::NewOperation;
use crate::pools::{OpenPool, instance_volume};
use crate::profiles::with_project;
use crate::records::{InstanceRecord, RECORD_VERSION};
use crate::{Caller, Core, Operation, images, names, profiles, settings};

/// Where an instance's content comes from.
pub(super) enum Source {
    /// An image; what it names is found or fetched by the operation.
    Image(Box<hutch_api::instance::InstanceSource>),
    /// Another instance, or one of its snapshots.
    Copy { instance: Arc<Instance>, extent: Extent },
    /// Nothing.
    Empty,
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
        if !post.architecture.is_empty() {
            post.architecture = images::architecture(&post.architecture)?;
        }
        if !post.instance_type.is_empty() {
            return Err(Error::invalid(format!(
                "Unknown instance size {:?}: give limits.cpu and limits.memory instead",
                post.instance_type
            )));
        }
        let exists = self.instances.get(project, &post.name).is_ok();
        if exists && !post.source.refresh {
            return Err(Error::Conflict(format!("Instance {:?} already exists", post.name)));
        }
        let source = match self.source(project, &post)? {
            // Without a copy to refresh, one is made.
            Source::Copy { instance, extent } if exists => {
                return self.instance_refresh(project, &post.name, instance, extent).await;
            }
            _ if exists => return Err(Error::Conflict(format!("Instance {:?} already exists", post.name))),
            source => source,
        };
        let named = post
            .profiles
            .clone()
            .unwrap_or_else(|| vec![profiles::DEFAULT.to_owned()]);
        self.check_instance(project, &post.config, &post.devices, &named)
            .await?;
        let mut record = self.new_record(project, &post);
        if let Source::Copy { instance, extent } = &source {
            let (view, profiles) = (instance.view(), post.profiles.is_none());
            inherit(&mut record, &view, extent.snapshot.as_deref(), profiles);
        }
        complete(self, &mut record);
        devices::check_sources(&self.expand(&record).1, &Devices::new()).await?;
        let instance = self.claim_instance(record).await?;
        let wanted = Wanted {
            caller: caller.clone(),
            source,
            profiles_of_image: post.profiles.is_none(),
        };
        let path = with_project(format!("/1.0/instances/{}", post.name), project);
        let new = NewOperation::task(project, "Creating instance", "instances", path).cancellable();
        let claimed = Arc::clone(&instance);
        let work = move |operation: Arc<Operation>| async move {
            instance.make(wanted, &operation).await?;
            if post.start {
                start::start(&instance, &operation).await
            } else {
                Ok(())
            }
        };
        let begun = self.operations.begin(new, work).await;
        if begun.is_err() {
            claimed.abandon().await;
        }
        begun
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
                let instance = self.instances.get(from, name)?;
                if let Some(snapshot) = &snapshot {
                    self.snapshot(from, name, snapshot)?;
                }
                let alone = source.instance_only || source.container_only;
                let extent = Extent {
                    snapshots: snapshot.is_none() && !alone,
                    newer: source.refresh_exclude_older,
                    snapshot,
                };
                Ok(Source::Copy { instance, extent })
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

    fn new_record(&self, project: &str, post: &InstancesPost) -> InstanceRecord {
        let mut config = post.config.clone();
        config.retain(|_, value| !value.is_empty());
        self.forget_others_identity(None, &mut config);
        volatile::of_request(&mut config);
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
            broken: None,
        }
    }
}

/// What follows from the configuration of an instance that is made: where its volume is to be, of what form, and the names and
/// addresses of its interfaces. Without a root disk it has no pool yet.
pub(super) fn complete(core: &Core, record: &mut InstanceRecord) {
    let (config, expanded) = core.expand(record);
    let root = devices::root(&expanded).ok();
    record.pool = root.and_then(|root| root.get("pool").cloned()).unwrap_or_default();
    record.plain = settings::is_true(&config, "security.nesting");
    devices::complete_volatile(&mut record.config, &expanded);
}

/// A copy has what its source has, where the request does not say otherwise.
fn inherit(record: &mut InstanceRecord, source: &View, snapshot: Option<&str>, profiles: bool) {
    let of_snapshot = source
        .snapshots
        .iter()
        .find(|record| Some(record.name.as_str()) == snapshot);
    let from = of_snapshot.map_or(&*source.record, |snapshot| &snapshot.instance);
    for (key, value) in &from.config {
        if !volatile::is_volatile(key) || key == volatile::BASE_IMAGE {
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

//! What everybody sees of an instance, and the listings made from it. Nothing here waits for an instance or a driver.

use std::sync::Arc;

use hutch_api::instance::{Instance as ApiInstance, InstanceFull, InstanceSnapshot};
use hutch_api::{Config, Devices, StatusCode, Timestamp};
use hutch_container::{ContainerState, Keeper};

use crate::error::Result;
use crate::instances::start::POWER;
use crate::instances::state::Probe;
use crate::projects::Feature;
use crate::records::{InstanceRecord, SnapshotRecord};
use crate::{Core, Tagged, etag, settings};

/// A state of an instance, published as a whole by its owner.
pub struct View {
    /// The record.
    pub record: Arc<InstanceRecord>,
    /// The project in which its profiles are.
    pub profile_project: String,
    /// Configuration with that of the profiles.
    pub config: Config,
    /// Devices with those of the profiles.
    pub devices: Devices,
    /// Snapshots, oldest first.
    pub snapshots: Vec<Arc<SnapshotRecord>>,
    /// The keeper, while the container runs.
    pub keeper: Option<Keeper>,
    /// What reads the container's interfaces, while it runs.
    pub probe: Option<Arc<Probe>>,
    /// When the container was started.
    pub started_at: Timestamp,
    /// Why the instance can't be used, if so.
    pub broken: Option<String>,
    /// The pool that it is being moved to, which stays.
    pub moving_to: Option<String>,
    /// It is being made: it is shown, and nothing can be done with it yet.
    pub creating: bool,
    /// As the API has it, but for the status.
    rendered: ApiInstance,
}

impl View {
    /// The view of a stopped instance.
    pub(crate) fn stopped(core: &Core, record: Arc<InstanceRecord>, snapshots: Vec<Arc<SnapshotRecord>>) -> Self {
        let (config, devices) = core.expand(&record);
        let rendered = ApiInstance {
            name: record.name.clone(),
            description: record.description.clone(),
            created_at: record.created_at,
            last_used_at: record.last_used_at,
            location: "none".to_owned(),
            kind: record.kind.clone(),
            project: record.project.clone(),
            architecture: record.architecture.clone(),
            ephemeral: record.ephemeral,
            profiles: record.profiles.clone(),
            config: record.config.clone(),
            devices: record.devices.clone(),
            expanded_config: config.clone(),
            expanded_devices: devices.clone(),
            ..ApiInstance::default()
        };
        let profile_project = core
            .scope(&record.project, Feature::Profiles)
            .unwrap_or_else(|_| record.project.clone());
        let broken = record.broken.clone();
        Self {
            record,
            profile_project,
            config,
            devices,
            snapshots,
            keeper: None,
            probe: None,
            started_at: Timestamp::NEVER,
            broken,
            moving_to: None,
            creating: false,
            rendered,
        }
    }

    /// Whether it is to be started with the daemon: `boot.autostart=true`, or it ran when the machine went down and that does not
    /// say otherwise.
    pub(crate) fn starts_with_daemon(&self) -> bool {
        match self.config.get("boot.autostart") {
            Some(value) => settings::parse_bool(value) == Some(true),
            None => self.record.config.get(POWER).is_some_and(|state| state == "RUNNING"),
        }
    }

    /// The state of the instance at this moment.
    pub fn status(&self) -> StatusCode {
        match self.keeper.as_ref().map(Keeper::state) {
            Some(ContainerState::Running { frozen: true, .. }) => StatusCode::FROZEN,
            Some(ContainerState::Running { .. }) => StatusCode::RUNNING,
            Some(ContainerState::Created) => StatusCode::STARTING,
            Some(ContainerState::Lost) => StatusCode::ERROR,
            _ if self.broken.is_some() => StatusCode::ERROR,
            Some(ContainerState::Ended(_)) | None => StatusCode::STOPPED,
        }
    }

    /// As the API shows it.
    pub fn render(&self) -> ApiInstance {
        let status = self.status();
        ApiInstance {
            status: status.to_string(),
            status_code: status,
            ..self.rendered.clone()
        }
    }

    /// The tag of what a client can change.
    pub fn etag(&self) -> String {
        etag(&self.rendered.etag_parts())
    }

    pub(crate) fn etag_parts(&self) -> serde_json::Value {
        self.rendered.etag_parts()
    }
}

impl Core {
    /// Names of a project's instances, or of all, with their project.
    pub fn instance_names(&self, project: Option<&str>) -> Vec<(String, String)> {
        let list = self.instances.list(project);
        list.iter()
            .map(|instance| {
                let view = instance.view();
                (view.record.project.clone(), view.record.name.clone())
            })
            .collect()
    }

    /// A project's instances, or all.
    pub fn instances(&self, project: Option<&str>) -> Vec<ApiInstance> {
        self.instances
            .list(project)
            .iter()
            .map(|instance| instance.view().render())
            .collect()
    }

    /// A project's instances, or all, with their state and snapshots.
    pub async fn instances_full(&self, project: Option<&str>) -> Vec<InstanceFull> {
        let views: Vec<Arc<View>> = self
            .instances
            .list(project)
            .iter()
            .map(|instance| instance.view())
            .collect();
        let states = self.states(&views).await;
        views
            .iter()
            .zip(states)
            .map(|(view, state)| self.full(view, state))
            .collect()
    }

    /// One instance.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`].
    pub fn instance(&self, project: &str, name: &str) -> Result<Tagged<ApiInstance>> {
        let view = self.instances.get(project, name)?.view();
        Ok(Tagged {
            value: view.render(),
            etag: view.etag(),
        })
    }

    /// One instance with its state and snapshots.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`].
    pub async fn instance_full(&self, project: &str, name: &str) -> Result<Tagged<InstanceFull>> {
        let view = self.instances.get(project, name)?.view();
        let state = self.states(std::slice::from_ref(&view)).await.pop().unwrap_or_default();
        Ok(Tagged {
            etag: view.etag(),
            value: self.full(&view, state),
        })
    }

    fn full(&self, view: &View, state: hutch_api::state::InstanceState) -> InstanceFull {
        InstanceFull {
            instance: view.render(),
            backups: Vec::new(),
            state,
            snapshots: view
                .snapshots
                .iter()
                .map(|snapshot| self.render_snapshot(snapshot))
                .collect(),
        }
    }

    pub(crate) fn render_snapshot(&self, snapshot: &SnapshotRecord) -> InstanceSnapshot {
        let instance = &snapshot.instance;
        let (expanded_config, expanded_devices) = self.expand(instance);
        InstanceSnapshot {
            name: snapshot.name.clone(),
            created_at: snapshot.created_at,
            expires_at: snapshot.expires_at,
            last_used_at: instance.last_used_at,
            architecture: instance.architecture.clone(),
            ephemeral: instance.ephemeral,
            profiles: instance.profiles.clone(),
            config: instance.config.clone(),
            devices: instance.devices.clone(),
            expanded_config,
            expanded_devices,
            ..InstanceSnapshot::default()
        }
    }
}

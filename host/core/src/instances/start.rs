//! Starting, freezing and deleting.

use std::sync::Arc;
use std::time::Duration;

use hutch_api::instance::{InstanceStatePut, InstancesPut};
use hutch_api::{Timestamp, operation};
use hutch_container::{ContainerSpec, ContainerState, Keeper};
use hutch_store::Transaction;

use crate::error::{Error, Result};
use crate::instances::owner::Owner;
use crate::instances::{Instance, devices, spec, stop, templates};
use crate::journal::{Entry, Open};
use crate::operations::NewOperation;
use crate::profiles::with_project;
use crate::records::InstanceRecord;
use crate::settings;
use crate::{Core, Operation};

/// What the instance was doing when its record was last written, for the next start of the daemon.
pub(crate) const POWER: &str = "volatile.last_state.power";

impl Core {
    /// Starts, stops, restarts, freezes or unfreezes an instance.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`] for an unknown action; what fails later is the operation's error.
    pub async fn instance_state_change(
        self: &Arc<Self>,
        project: &str,
        name: &str,
        put: InstanceStatePut,
    ) -> Result<Arc<Operation>> {
        let instance = self.instances.get(project, name)?;
        let description = check_action(&put)?;
        let path = with_project(format!("/1.0/instances/{name}"), project);
        let new = NewOperation::task(project, description, "instances", path);
        self.operations
            .begin(new, move |operation| async move {
                change(&instance, &put, &operation).await
            })
            .await
    }

    /// The same for all instances of a project that the action applies to.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an unknown action.
    pub async fn instances_state_change(self: &Arc<Self>, project: &str, put: InstancesPut) -> Result<Arc<Operation>> {
        let put = put.state.ok_or_else(|| Error::invalid("The request names no state"))?;
        let description = check_action(&put)?;
        let list = self.instances.list(Some(project));
        let mut new = NewOperation {
            class: operation::TASK,
            description: description.to_owned(),
            project: project.to_owned(),
            ..NewOperation::default()
        };
        for instance in &list {
            new = new.also(
                "instances",
                with_project(format!("/1.0/instances/{}", instance.name()), project),
            );
        }
        let work = move |operation: Arc<Operation>| async move {
            let mut failed = Vec::new();
            let mut tasks = tokio::task::JoinSet::new();
            for instance in list {
                let running = instance.view().keeper.is_some();
                let applies = if put.action == "start" { !running } else { running };
                if applies {
                    let (put, operation) = (put.clone(), Arc::clone(&operation));
                    tasks.spawn(async move {
                        let name = instance.name();
                        change(&instance, &put, &operation)
                            .await
                            .map_err(|error| format!("{name}: {}", error.report()))
                    });
                }
            }
            while let Some(result) = tasks.join_next().await {
                if let Ok(Err(error)) = result {
                    failed.push(error);
                }
            }
            if failed.is_empty() {
                Ok(())
            } else {
                Err(Error::invalid(failed.join("; ")))
            }
        };
        self.operations.begin(new, work).await
    }

    /// Deletes a stopped instance with its snapshots.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`] for one that runs or is protected.
    pub async fn instance_delete(self: &Arc<Self>, project: &str, name: &str) -> Result<Arc<Operation>> {
        let instance = self.instances.get(project, name)?;
        let view = instance.view();
        if view.keeper.is_some() {
            return Err(Error::invalid("Instance is running"));
        }
        if settings::is_true(&view.config, "security.protection.delete") {
            return Err(Error::invalid(format!(
                "Instance {name:?} is protected from deletion (security.protection.delete)"
            )));
        }
        let new = NewOperation::task(
            project,
            "Deleting instance",
            "instances",
            with_project(format!("/1.0/instances/{name}"), project),
        );
        let work = move |operation: Arc<Operation>| async move {
            let id = operation.id().to_owned();
            // What is about to be removed is not sent anywhere first.
            instance
                .ask_for_root(move |owner| Box::pin(async move { owner.delete(&id).await }))
                .await
        };
        self.operations.begin(new, work).await
    }
}

fn check_action(put: &InstanceStatePut) -> Result<&'static str> {
    if put.stateful {
        return Err(Error::invalid(
            "Containers can't be stopped or started with their state: leave out --stateful",
        ));
    }
    let description = match put.action.as_str() {
        "start" => "Starting instance",
        "stop" => "Stopping instance",
        "restart" => "Restarting instance",
        "freeze" => "Freezing instance",
        "unfreeze" => "Unfreezing instance",
        other => {
            return Err(Error::invalid(format!(
                "Unknown action {other:?}: start, stop, restart, freeze or unfreeze"
            )));
        }
    };
    Ok(description)
}

/// Does one action on one instance.
async fn change(instance: &Arc<Instance>, put: &InstanceStatePut, operation: &Arc<Operation>) -> Result<()> {
    let timeout = u64::try_from(put.timeout)
        .ok()
        .filter(|seconds| *seconds > 0)
        .map(Duration::from_secs);
    match put.action.as_str() {
        "start" => start(instance, operation).await,
        "stop" => stop::stop(instance, operation.id(), put.force, timeout).await,
        "restart" => stop::restart(instance, operation, put.force, timeout).await,
        "freeze" => {
            instance
                .ask(|owner| Box::pin(async move { owner.freeze().await }))
                .await
        }
        _ => instance.ask(|owner| Box::pin(async move { owner.thaw().await })).await,
    }
}

/// Starts an instance.
pub(crate) async fn start(instance: &Arc<Instance>, operation: &Arc<Operation>) -> Result<()> {
    let id = operation.id().to_owned();
    instance
        .ask_for_root(move |owner| Box::pin(async move { owner.start(&id).await }))
        .await
}

impl Owner {
    /// Starts the container.
    pub(crate) async fn start(&mut self, operation: &str) -> Result<()> {
        if self.keeper.is_some() {
            return Err(Error::invalid("The instance is already running"));
        }
        self.require_whole("start it")?;
        self.close_files().await;
        let entry = Entry::InstanceStart {
            project: self.record.project.clone(),
            name: self.record.name.clone(),
        };
        let entry = self.core.journal.begin(operation, entry).await?;
        match self.launch(&entry).await {
            Ok(record) => {
                self.core.journal.done(entry, Self::write(&record)?).await?;
                self.record = Arc::new(record);
                self.publish();
                self.tell("instance-started");
                self.note("started");
                Ok(())
            }
            Err(error) => {
                self.note(&format!("the start failed: {}", error.report()));
                self.take_back_start().await;
                self.core.journal.done(entry, Transaction::new()).await?;
                Err(error)
            }
        }
    }

    /// Everything between the journal's entry and its end.
    async fn launch(&mut self, entry: &Open) -> Result<InstanceRecord> {
        let core = Arc::clone(&self.core);
        let mut spec = self.specify().await?;
        spec.files = self.files_of_templates().await?;
        let name = self.record.name.clone();
        let lock = self
            .ids
            .as_ref()
            .map(|range| range.lock.try_clone().map(Into::into))
            .transpose();
        let lock = lock.map_err(Error::io("copying the lock of an id range"))?;
        let keeper = core
            .runtime
            .create(&spec, lock)
            .await
            .map_err(Error::container(format!("making the container of instance {name}")))?;
        self.events = Some(keeper.events());
        self.keeper = Some(keeper.clone());
        self.probe = Some(Arc::default());
        core.journal.step(entry, "keeper");
        self.attach_nics(&keeper).await?;
        core.journal.step(entry, "nics");
        keeper
            .start()
            .await
            .map_err(Error::container(format!("starting the container of instance {name}")))?;
        core.journal.step(entry, "init");
        self.started_at = Timestamp::now();
        let mut record = InstanceRecord::clone(&self.record);
        record.last_used_at = self.started_at;
        record.config.remove(templates::PENDING);
        record.config.insert(POWER.to_owned(), "RUNNING".to_owned());
        Ok(record)
    }

    /// The container's specification, to run it or to open its files.
    pub(crate) async fn specify(&mut self) -> Result<ContainerSpec> {
        let core = Arc::clone(&self.core);
        self.require_settled("open its files")?;
        let view = self.instance.view();
        let privileged = settings::is_true(&view.config, "security.privileged");
        if !privileged && self.ids.is_none() {
            self.ids = Some(core.ids.take()?);
        }
        let pool = core.open_pool(&self.record.pool).await?;
        self.use_root();
        // Its own earlier claim is no obstacle: the root is not mounted, or is about to be replaced.
        self.instance.hold(None);
        let (root, claim) = pool.root_of(&core, &self.record).await?;
        self.instance.hold(Some(claim));
        spec::build(&view, root, self.ids.as_ref().filter(|_| !privileged), &core.machine)
    }

    async fn attach_nics(&self, keeper: &Keeper) -> Result<()> {
        let view = self.instance.view();
        for nic in devices::nics(&self.record, &view.devices) {
            self.attach_nic(keeper, nic).await?;
        }
        Ok(())
    }

    /// Connects one interface to a container that has its namespace.
    pub(crate) async fn attach_nic(&self, keeper: &Keeper, mut nic: devices::Nic) -> Result<()> {
        let open = self.core.open_network(&self.record.project, &nic.network).await?;
        let netns = devices::nic_netns(keeper)?;
        nic.reference.netns.clone_from(&netns.id);
        let call = open.nic_call(&nic.reference, Some(netns));
        let action = format!(
            "connecting device {} of instance {} to network {}",
            nic.reference.device, self.record.name, nic.network
        );
        open.driver
            .attach(&call, &open.reference(), &nic.reference)
            .await
            .map_err(Error::driver(action))
    }

    /// Disconnects one interface: from the container that goes on running, or of one that has ended, whose interfaces went
    /// with its namespace.
    pub(crate) async fn detach_nic(&self, nic: &devices::Nic, running: Option<&Keeper>) -> Result<()> {
        let open = self.core.open_network(&self.record.project, &nic.network).await?;
        let netns = running.map(devices::nic_netns).transpose()?;
        let mut reference = nic.reference.clone();
        if let Some(netns) = &netns {
            reference.netns.clone_from(&netns.id);
        }
        let call = open.nic_call(&reference, netns);
        let action = format!(
            "disconnecting device {} of instance {}",
            reference.device, self.record.name
        );
        open.driver
            .detach(&call, &open.reference(), &reference)
            .await
            .map_err(Error::driver(action))
    }

    /// A start that failed leaves nothing.
    pub(crate) async fn take_back_start(&mut self) {
        self.events = None;
        self.probe = None;
        if let Some(keeper) = self.keeper.take() {
            if let Err(error) = keeper.kill().await {
                tracing::debug!(instance = self.record.name, %error, "there was nothing to kill");
            }
            self.disconnect(&keeper).await;
        }
        self.ids = None;
        self.instance.hold(None);
        self.started_at = Timestamp::NEVER;
        self.publish();
    }

    /// Interfaces, keeper and cgroup of a container that has ended go away.
    pub(crate) async fn disconnect(&self, keeper: &Keeper) {
        let view = self.instance.view();
        for nic in devices::nics(&self.record, &view.devices) {
            if let Err(error) = self.detach_nic(&nic, None).await {
                tracing::warn!(
                    instance = self.record.name,
                    error = error.report(),
                    "an interface could not be disconnected"
                );
            }
        }
        if let Err(error) = keeper.release().await {
            tracing::warn!(instance = self.record.name, %error, "the keeper could not be released");
        }
    }

    /// Stops all processes until [`Owner::thaw`].
    pub(crate) async fn freeze(&mut self) -> Result<()> {
        let keeper = self.require_running()?;
        if matches!(keeper.state(), ContainerState::Running { frozen: true, .. }) {
            return Err(Error::invalid("The instance is already frozen"));
        }
        keeper
            .freeze()
            .await
            .map_err(Error::container(format!("freezing instance {}", self.record.name)))?;
        self.publish();
        self.tell("instance-paused");
        Ok(())
    }

    /// Undoes [`Owner::freeze`].
    pub(crate) async fn thaw(&mut self) -> Result<()> {
        let keeper = self.require_running()?;
        if matches!(keeper.state(), ContainerState::Running { frozen: false, .. }) {
            return Err(Error::invalid("The instance is already running"));
        }
        keeper
            .thaw()
            .await
            .map_err(Error::container(format!("unfreezing instance {}", self.record.name)))?;
        self.publish();
        self.tell("instance-resumed");
        Ok(())
    }
}

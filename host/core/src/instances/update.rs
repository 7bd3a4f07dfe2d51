//! Changing an instance's configuration, also while it runs, and renaming it.

use std::collections::BTreeSet;
use std::sync::Arc;

use hutch_api::instance::{InstancePatch, InstancePost, InstancePut};
use hutch_api::{Config, Devices};

use crate::error::{Error, Result};
use crate::instances::owner::Owner;
use crate::instances::view::View;
use crate::instances::{create, devices, volatile};
use crate::journal::{Entry, Open, Tried};
use crate::operations::NewOperation;
use crate::profiles::with_project;
use crate::records::InstanceRecord;
use crate::{Core, Operation, check_etag, names, settings};

impl Core {
    /// Replaces an instance's configuration, or restores it to a snapshot where `put.restore` names one.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Changed`], [`Error::Invalid`].
    pub async fn instance_update(
        self: &Arc<Self>,
        project: &str,
        name: &str,
        put: InstancePut,
        if_match: Option<&str>,
    ) -> Result<Arc<Operation>> {
        let instance = self.instances.get(project, name)?;
        check_etag(&instance.view().etag_parts(), if_match)?;
        let path = with_project(format!("/1.0/instances/{name}"), project);
        if !put.restore.is_empty() {
            if put.stateful {
                return Err(Error::invalid(format!(
                    "Snapshot {:?} holds no running state that could be restored",
                    put.restore
                )));
            }
            return self.snapshot_restore(project, name, &put.restore).await;
        }
        self.check_instance(project, &put.config, &put.devices, &put.profiles)
            .await?;
        devices::check_sources(&put.devices, &instance.view().record.devices).await?;
        let if_match = if_match.map(str::to_owned);
        let new = NewOperation::task(project, "Updating instance", "instances", path);
        let work = move |_| async move {
            instance
                .ask(move |owner| Box::pin(async move { owner.update(put, if_match.as_deref()).await }))
                .await
        };
        self.operations.begin(new, work).await
    }

    /// Changes some of an instance's configuration.
    ///
    /// # Errors
    /// As [`Core::instance_update`].
    pub async fn instance_patch(
        self: &Arc<Self>,
        project: &str,
        name: &str,
        patch: InstancePatch,
        if_match: Option<&str>,
    ) -> Result<()> {
        let instance = self.instances.get(project, name)?;
        let view = instance.view();
        check_etag(&view.etag_parts(), if_match)?;
        let mut put = view.render().to_put();
        patch.apply(&mut put);
        if !put.restore.is_empty() {
            return Err(Error::invalid("A snapshot is restored by PUT"));
        }
        self.check_instance(project, &put.config, &put.devices, &put.profiles)
            .await?;
        devices::check_sources(&put.devices, &view.record.devices).await?;
        let seen = view.etag();
        instance
            .ask(move |owner| Box::pin(async move { owner.update(put, Some(&seen)).await }))
            .await
    }

    /// Checks what an instance is to have.
    pub(crate) async fn check_instance(
        &self,
        project: &str,
        config: &Config,
        devices: &Devices,
        profiles: &[String],
    ) -> Result<()> {
        self.check_config(config)?;
        devices::check(self, project, devices).await?;
        let mut seen = BTreeSet::new();
        for profile in profiles {
            if self.profile_record(project, profile).is_err() {
                return Err(Error::invalid(format!("Profile {profile:?} not found")));
            }
            if !seen.insert(profile) {
                return Err(Error::invalid(format!("Profile {profile:?} is named twice")));
            }
        }
        Ok(())
    }

    /// Renames a stopped instance, or moves it to another storage pool.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`], [`Error::Conflict`].
    pub async fn instance_rename(
        self: &Arc<Self>,
        project: &str,
        name: &str,
        post: InstancePost,
    ) -> Result<Arc<Operation>> {
        let instance = self.instances.get(project, name)?;
        if post.target.is_some() || !post.project.is_empty() && post.project != project {
            return Err(Error::invalid(
                "Instances can be renamed and moved to other storage pools; moving to other servers or projects is not available",
            ));
        }
        if !post.pool.is_empty() {
            return self.instance_relocate(project, name, post).await;
        }
        if post.migration {
            return Err(Error::invalid(
                "Instances can't be sent to other servers: without a pool to move to there is nothing to do",
            ));
        }
        names::instance(&post.name)?;
        if instance.view().keeper.is_some() {
            return Err(Error::invalid("Renaming of running instance not allowed"));
        }
        let new = NewOperation::task(
            project,
            "Renaming instance",
            "instances",
            with_project(format!("/1.0/instances/{name}"), project),
        );
        let work = move |operation: Arc<Operation>| async move {
            let id = operation.id().to_owned();
            instance
                .ask(move |owner| Box::pin(async move { owner.rename(&id, &post.name).await }))
                .await
        };
        self.operations.begin(new, work).await
    }
}

impl Owner {
    /// Takes a new configuration; what can change while the container runs does so at once.
    pub(crate) async fn update(&mut self, put: InstancePut, if_match: Option<&str>) -> Result<()> {
        self.require_settled("change it")?;
        let before = self.instance.view();
        check_etag(&before.etag_parts(), if_match)?;
        let mut record = InstanceRecord::clone(&self.record);
        if !put.architecture.is_empty() && put.architecture != record.architecture {
            return Err(Error::invalid("The architecture of an instance can't be changed"));
        }
        let mut config = put.config;
        self.core.forget_others_identity(Some(&record.config), &mut config);
        record.config = settings::pruned(volatile::keep(&record.config, config)?);
        record.devices = put.devices;
        record.description = put.description;
        record.ephemeral = put.ephemeral;
        record.profiles = put.profiles;
        self.apply(&before, record).await?;
        self.tell("instance-updated");
        Ok(())
    }

    /// A profile changed below the instance.
    ///
    /// # Errors
    /// Why container or volume did not follow. With an instance that nothing may be done with, they do once that is over.
    pub(crate) async fn profiles_changed(&mut self) -> Result<()> {
        let before = self.instance.view();
        let applied = match self.require_settled("follow its profiles") {
            Ok(()) => self.apply(&before, InstanceRecord::clone(&self.record)).await,
            Err(error) => {
                self.behind.get_or_insert(before);
                Err(error)
            }
        };
        // What the profile is now is shown, whether the container could take it or not.
        self.publish();
        applied
    }

    /// Follows the profiles that changed while nothing could be done with the instance, once something can.
    pub(crate) async fn catch_up(&mut self) {
        if self.deleted || self.behind.is_none() || self.require_settled("follow its profiles").is_err() {
            return;
        }
        let Some(before) = self.behind.take() else { return };
        let applied = self.apply(&before, InstanceRecord::clone(&self.record)).await;
        self.publish();
        if let Err(error) = applied {
            tracing::error!(
                instance = self.record.name,
                error = error.report(),
                "it can't follow the profiles that changed while nothing could be done with it"
            );
        }
    }

    async fn apply(&mut self, before: &View, mut record: InstanceRecord) -> Result<()> {
        let core = Arc::clone(&self.core);
        let (_, expanded) = core.expand(&record);
        devices::complete_volatile(&mut record.config, &expanded);
        let record = Arc::new(record);
        let after = View::stopped(&core, Arc::clone(&record), Vec::new());
        create::check_root(&after.devices, &self.record)?;
        if !self.is_live_change(before, &after)? {
            return self.record_update(before, record, None).await;
        }
        let entry = Entry::InstanceUpdate {
            project: record.project.clone(),
            name: record.name.clone(),
            tried: Some(Box::new(Tried {
                record: InstanceRecord::clone(&record),
                devices: after.devices.clone(),
            })),
        };
        let entry = core.journal.begin("", entry).await?;
        let changed = async {
            self.change_live(before, &after, &entry).await?;
            self.record_update(before, record, Some(&entry)).await
        };
        if let Err(error) = changed.await {
            self.take_back_live(before, &after).await;
            return core.journal.unless_failed(entry, Err(error)).await;
        }
        Ok(())
    }

    /// Writes the record and shows it, if all that it refers to is still there.
    async fn record_update(&mut self, before: &View, record: Arc<InstanceRecord>, entry: Option<&Open>) -> Result<()> {
        let core = Arc::clone(&self.core);
        let _guard = core.changes.lock().await;
        core.check_references(&record, Some(before))?;
        let change = Self::write(&record)?;
        match entry {
            Some(entry) => core.journal.done(entry.clone(), change).await?,
            None => drop(core.store.commit(change).await?),
        }
        self.record = record;
        self.publish();
        Ok(())
    }
}

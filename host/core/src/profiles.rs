//! Profiles: configuration and devices that instances share.

use std::sync::Arc;

use hutch_api::profile::{Profile, ProfilePatch, ProfilePost, ProfilePut, ProfilesPost};
use hutch_api::{Config, Devices};
use hutch_store::Transaction;

use crate::error::{Error, Result};
use crate::events;
use crate::instances::create::check_root;
use crate::projects::Feature;
use crate::records::{InstanceRecord, ProfileRecord, RECORD_VERSION, key};
use crate::{Core, DEFAULT_PROJECT, Tagged, check_etag, etag, instances, names, settings};

/// The profile that instances get when their maker names none.
pub const DEFAULT: &str = "default";

pub(crate) fn default_profile(project: &str) -> ProfileRecord {
    ProfileRecord {
        v: RECORD_VERSION,
        project: project.to_owned(),
        name: DEFAULT.to_owned(),
        description: "Default Hutch profile".to_owned(),
        config: Config::new(),
        devices: Devices::new(),
    }
}

/// The path of a profile, as `used_by` lists write it.
pub(crate) fn path(project: &str, name: &str) -> String {
    with_project(format!("/1.0/profiles/{name}"), project)
}

/// Adds the project to a path unless it is the default one.
pub(crate) fn with_project(path: String, project: &str) -> String {
    if project == DEFAULT_PROJECT {
        path
    } else {
        format!("{path}?project={project}")
    }
}

impl Core {
    /// All profiles, of one project or of all.
    pub fn profiles(&self, project: Option<&str>) -> Result<Vec<Profile>> {
        let scope = project
            .map(|project| self.scope(project, Feature::Profiles))
            .transpose()?;
        let list = self.profiles.list();
        let chosen = list
            .iter()
            .filter(|record| scope.as_ref().is_none_or(|scope| record.project == *scope));
        Ok(chosen.map(|record| self.render_profile(record)).collect())
    }

    /// One profile.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn profile(&self, project: &str, name: &str) -> Result<Tagged<Profile>> {
        let value = self.render_profile(&*self.profile_record(project, name)?);
        Ok(Tagged {
            etag: etag(&value.etag_parts()),
            value,
        })
    }

    pub(crate) fn profile_record(&self, project: &str, name: &str) -> Result<Arc<ProfileRecord>> {
        let scope = self.scope(project, Feature::Profiles)?;
        self.profiles
            .get(&(scope, name.to_owned()))
            .ok_or_else(|| Error::missing("Profile", name))
    }

    /// Makes a profile.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::Conflict`].
    pub async fn profile_create(&self, project: &str, post: ProfilesPost) -> Result<()> {
        names::object("profile", &post.name)?;
        let project = self.scope(project, Feature::Profiles)?;
        self.check_profile_config(&post.config)?;
        instances::devices::check(self, &project, &post.devices).await?;
        let _guard = self.changes.lock().await;
        let at = (project.clone(), post.name.clone());
        if self.profiles.get(&at).is_some() {
            return Err(Error::Conflict(format!("Profile {:?} already exists", post.name)));
        }
        self.check_devices_stay(&project, &post.devices, &Devices::new())?;
        let record = ProfileRecord {
            v: RECORD_VERSION,
            project,
            name: post.name,
            description: post.description,
            config: settings::pruned(post.config),
            devices: post.devices,
        };
        self.store_profile(record, "profile-created").await
    }

    /// Replaces a profile. Instances that use it take what can be changed while they run.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Changed`], [`Error::Invalid`] for one that would leave instances without their root disk, and
    /// for a change that running instances could not take, which are named: the profile is changed all the same.
    pub async fn profile_update(
        &self,
        project: &str,
        name: &str,
        put: ProfilePut,
        if_match: Option<&str>,
    ) -> Result<()> {
        self.check_profile_config(&put.config)?;
        instances::devices::check(self, project, &put.devices).await?;
        let old = {
            let _guard = self.changes.lock().await;
            let old = self.profile_record(project, name)?;
            check_etag(&self.render_profile(&old).etag_parts(), if_match)?;
            let record = ProfileRecord {
                description: put.description,
                config: settings::pruned(put.config),
                devices: put.devices,
                ..ProfileRecord::clone(&old)
            };
            self.check_devices_stay(project, &record.devices, &old.devices)?;
            self.check_roots(&record)?;
            self.store_profile(record, "profile-updated").await?;
            old
        };
        let users = self.instances.using_profile(&old.project, name);
        // One that is busy holds up no other.
        let changed = users.iter().map(|instance| async move {
            let result = instance.profiles_changed().await;
            result.map_err(|error| (instance.project(), instance.name(), error.report()))
        });
        let failed: Vec<String> = futures_util::future::join_all(changed)
            .await
            .into_iter()
            .filter_map(Result::err)
            .map(|(project, name, why)| format!("\n - Project: {project}, Instance: {name}: {why}"))
            .collect();
        if failed.is_empty() {
            return Ok(());
        }
        // The words are LXD's.
        Err(Error::invalid(format!(
            "The following instances failed to update (profile change still saved):{}",
            failed.concat()
        )))
    }

    /// Refuses a profile that would leave an instance without its root disk.
    fn check_roots(&self, profile: &ProfileRecord) -> Result<()> {
        for instance in self.instances.using_profile(&profile.project, &profile.name) {
            let record = Arc::clone(&instance.view().record);
            if record.pool.is_empty() {
                continue;
            }
            let had_root = check_root(&self.expand(&record).1, &record).is_ok();
            if had_root && check_root(&self.expand_with(&record, Some(profile)).1, &record).is_err() {
                return Err(Error::invalid(format!(
                    "At least one instance relies on this profile's root disk device: {}",
                    record.name
                )));
            }
        }
        Ok(())
    }

    /// Changes some of a profile.
    ///
    /// # Errors
    /// As [`Core::profile_update`].
    pub async fn profile_patch(
        &self,
        project: &str,
        name: &str,
        patch: ProfilePatch,
        if_match: Option<&str>,
    ) -> Result<()> {
        let current = self.profile(project, name)?;
        check_etag(&current.value.etag_parts(), if_match)?;
        let mut put = current.value.to_put();
        patch.apply(&mut put);
        self.profile_update(project, name, put, Some(&current.etag)).await
    }

    /// Renames a profile that nobody uses.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`], [`Error::Conflict`].
    pub async fn profile_rename(&self, project: &str, name: &str, post: ProfilePost) -> Result<()> {
        names::object("profile", &post.name)?;
        let _guard = self.changes.lock().await;
        let old = self.unused_profile(project, name)?;
        let at = (old.project.clone(), post.name.clone());
        if self.profiles.get(&at).is_some() {
            return Err(Error::Conflict(format!("Profile {:?} already exists", post.name)));
        }
        let record = ProfileRecord {
            name: post.name,
            ..ProfileRecord::clone(&old)
        };
        let change = Transaction::new()
            .delete(key::profile(&old.project, name))
            .put(key::profile(&record.project, &record.name), &record)?;
        self.store.commit(change).await?;
        self.profiles.remove(&(old.project.clone(), name.to_owned()));
        let path = path(&record.project, &record.name);
        let context = events::context([("old_name", name.into())]);
        self.events
            .lifecycle(&record.project, "profile-renamed", &path, context);
        self.profiles.insert(at, Arc::new(record));
        Ok(())
    }

    /// Deletes a profile that nobody uses.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`] for one that is used.
    pub async fn profile_delete(&self, project: &str, name: &str) -> Result<()> {
        let _guard = self.changes.lock().await;
        let old = self.unused_profile(project, name)?;
        self.store
            .commit(Transaction::new().delete(key::profile(&old.project, name)))
            .await?;
        self.profiles.remove(&(old.project.clone(), name.to_owned()));
        self.events.lifecycle(
            &old.project,
            "profile-deleted",
            &path(&old.project, name),
            serde_json::Map::new(),
        );
        Ok(())
    }

    fn unused_profile(&self, project: &str, name: &str) -> Result<Arc<ProfileRecord>> {
        let old = self.profile_record(project, name)?;
        if name == DEFAULT {
            return Err(Error::Forbidden(
                "The default profile can't be renamed or deleted".to_owned(),
            ));
        }
        if let Some(user) = self.instances.using_profile(&old.project, name).first() {
            return Err(Error::invalid(format!(
                "Profile {name:?} is in use by instance {:?}",
                user.name()
            )));
        }
        Ok(old)
    }

    async fn store_profile(&self, record: ProfileRecord, action: &str) -> Result<()> {
        self.store
            .commit(Transaction::new().put(key::profile(&record.project, &record.name), &record)?)
            .await?;
        self.events.lifecycle(
            &record.project,
            action,
            &path(&record.project, &record.name),
            serde_json::Map::new(),
        );
        self.profiles
            .insert((record.project.clone(), record.name.clone()), Arc::new(record));
        Ok(())
    }

    fn render_profile(&self, record: &ProfileRecord) -> Profile {
        Profile {
            name: record.name.clone(),
            description: record.description.clone(),
            config: record.config.clone(),
            devices: record.devices.clone(),
            used_by: self
                .instances
                .using_profile(&record.project, &record.name)
                .iter()
                .map(|instance| with_project(format!("/1.0/instances/{}", instance.name()), &instance.project()))
                .collect(),
            project: record.project.clone(),
        }
    }

    /// An instance's configuration and devices with those of its profiles below them, the later profile winning.
    pub(crate) fn expand(&self, record: &InstanceRecord) -> (Config, Devices) {
        self.expand_with(record, None)
    }

    /// The same, as it would be with `changed` for the profile of that project and name.
    fn expand_with(&self, record: &InstanceRecord, changed: Option<&ProfileRecord>) -> (Config, Devices) {
        let (mut config, mut devices) = (Config::new(), Devices::new());
        for name in &record.profiles {
            // A profile that is used can't be deleted; one that is missing all the same adds nothing.
            if let Ok(profile) = self.profile_record(&record.project, name) {
                let profile = match changed {
                    Some(new) if (&new.project, &new.name) == (&profile.project, &profile.name) => new,
                    _ => &*profile,
                };
                config.extend(profile.config.clone());
                devices.extend(profile.devices.clone());
            }
        }
        config.extend(record.config.clone());
        devices.extend(record.devices.clone());
        (config, devices)
    }
}

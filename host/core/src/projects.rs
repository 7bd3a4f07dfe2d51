//! Projects: name spaces for everything else.

use std::sync::Arc;

use hutch_api::Config;
use hutch_api::project::{Project, ProjectPatch, ProjectPost, ProjectPut, ProjectsPost};
use hutch_store::Transaction;

use crate::error::{Error, Result};
use crate::operations::NewOperation;
use crate::records::{ProfileRecord, ProjectRecord, RECORD_VERSION, key};
use crate::{Core, DEFAULT_PROJECT, Operation, Tagged, check_etag, etag, events, names, profiles, settings};

/// What a project can have of its own. Where it has not, it uses that of the default project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// Images and their aliases.
    Images,
    /// Networks.
    Networks,
    /// Profiles.
    Profiles,
}

impl Feature {
    /// The keys that switch features, with their value in a new project.
    pub const KEYS: [(&'static str, bool); 5] = [
        ("features.images", true),
        ("features.networks", false),
        ("features.profiles", true),
        ("features.storage.buckets", true),
        ("features.storage.volumes", true),
    ];

    fn key(self) -> &'static str {
        match self {
            Self::Images => "features.images",
            Self::Networks => "features.networks",
            Self::Profiles => "features.profiles",
        }
    }
}

pub(crate) fn default_project() -> ProjectRecord {
    ProjectRecord {
        v: RECORD_VERSION,
        name: DEFAULT_PROJECT.to_owned(),
        description: "Default Hutch project".to_owned(),
        config: Feature::KEYS
            .iter()
            .map(|(key, _)| ((*key).to_owned(), "true".to_owned()))
            .collect(),
    }
}

fn check(config: &Config) -> Result<()> {
    for (key, value) in config {
        let known = key.starts_with("user.") || Feature::KEYS.iter().any(|(name, _)| name == key);
        if !known {
            return Err(Error::invalid(format!("Unknown configuration key: {key}")));
        }
        if !key.starts_with("user.") && settings::parse_bool(value).is_none() {
            return Err(Error::invalid(format!(
                "Invalid value {value:?} for {key}: it must be true or false"
            )));
        }
    }
    Ok(())
}

fn check_name(name: &str) -> Result<()> {
    names::object("project", name)?;
    if name.contains('_') {
        return Err(Error::invalid(format!(
            "Invalid project name {name:?}: it must not hold _"
        )));
    }
    Ok(())
}

impl Core {
    /// The project in which objects of this kind lie for `project`.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn scope(&self, project: &str, feature: Feature) -> Result<String> {
        let record = self.project_record(project)?;
        let own = project == DEFAULT_PROJECT || settings::is_true(&record.config, feature.key());
        Ok(if own { project } else { DEFAULT_PROJECT }.to_owned())
    }

    pub(crate) fn project_record(&self, name: &str) -> Result<Arc<ProjectRecord>> {
        self.projects
            .get(&name.to_owned())
            .ok_or_else(|| Error::missing("Project", name))
    }

    /// All projects.
    pub fn projects(&self) -> Vec<Project> {
        self.projects
            .list()
            .iter()
            .map(|record| self.render_project(record))
            .collect()
    }

    /// One project.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn project(&self, name: &str) -> Result<Tagged<Project>> {
        let value = self.render_project(&*self.project_record(name)?);
        Ok(Tagged {
            etag: etag(&value.etag_parts()),
            value,
        })
    }

    /// Makes a project, with a default profile where it has profiles of its own.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a bad name or key, [`Error::Conflict`] for a name that is taken.
    pub async fn project_create(&self, post: ProjectsPost) -> Result<()> {
        check_name(&post.name)?;
        check(&post.config)?;
        let mut config = settings::pruned(post.config);
        for (key, value) in Feature::KEYS {
            config.entry(key.to_owned()).or_insert_with(|| value.to_string());
        }
        let _guard = self.changes.lock().await;
        if self.projects.get(&post.name).is_some() {
            return Err(Error::Conflict(format!("Project {:?} already exists", post.name)));
        }
        let record = ProjectRecord {
            v: RECORD_VERSION,
            name: post.name,
            description: post.description,
            config,
        };
        let mut change = Transaction::new().put(key::project(&record.name), &record)?;
        let mut profile = None;
        if settings::is_true(&record.config, Feature::Profiles.key()) {
            let default = profiles::default_profile(&record.name);
            change = change.put(key::profile(&default.project, &default.name), &default)?;
            profile = Some(default);
        }
        self.store.commit(change).await?;
        if let Some(profile) = profile {
            self.profiles
                .insert((profile.project.clone(), profile.name.clone()), Arc::new(profile));
        }
        let path = format!("/1.0/projects/{}", record.name);
        self.events
            .lifecycle(&record.name, "project-created", &path, serde_json::Map::new());
        self.projects.insert(record.name.clone(), Arc::new(record));
        Ok(())
    }

    /// Replaces a project's configuration.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Changed`], [`Error::Invalid`]; features can't be switched while the project is used.
    pub async fn project_update(&self, name: &str, put: ProjectPut, if_match: Option<&str>) -> Result<()> {
        check(&put.config)?;
        let _guard = self.changes.lock().await;
        let current = self.project(name)?;
        check_etag(&current.value.etag_parts(), if_match)?;
        let switched = Feature::KEYS
            .iter()
            .any(|(key, _)| settings::is_true(&put.config, key) != settings::is_true(&current.value.config, key));
        if switched && (name == DEFAULT_PROJECT || !self.project_users(name).is_empty()) {
            return Err(Error::invalid(
                "Features can only be changed on empty projects other than the default one",
            ));
        }
        let record = ProjectRecord {
            v: RECORD_VERSION,
            name: name.to_owned(),
            description: put.description,
            config: settings::pruned(put.config),
        };
        self.store
            .commit(Transaction::new().put(key::project(name), &record)?)
            .await?;
        self.projects.insert(name.to_owned(), Arc::new(record));
        let path = format!("/1.0/projects/{name}");
        self.events
            .lifecycle(name, "project-updated", &path, serde_json::Map::new());
        Ok(())
    }

    /// Changes some of a project's configuration.
    ///
    /// # Errors
    /// As [`Core::project_update`].
    pub async fn project_patch(&self, name: &str, patch: ProjectPatch, if_match: Option<&str>) -> Result<()> {
        let current = self.project(name)?;
        check_etag(&current.value.etag_parts(), if_match)?;
        let mut put = current.value.to_put();
        patch.apply(&mut put);
        self.project_update(name, put, Some(&current.etag)).await
    }

    /// Gives a project that holds nothing but its default profile another name.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Invalid`] for one that is used, [`Error::Conflict`] for a name that is taken.
    pub async fn project_rename(self: &Arc<Self>, name: &str, post: ProjectPost) -> Result<Arc<Operation>> {
        check_name(&post.name)?;
        self.project_record(name)?;
        let path = format!("/1.0/projects/{name}");
        let new = NewOperation::task(DEFAULT_PROJECT, "Renaming project", "projects", path);
        let (core, name) = (Arc::clone(self), name.to_owned());
        let work = move |_| async move { core.rename_project(&name, post.name).await };
        self.operations.begin(new, work).await
    }

    async fn rename_project(&self, name: &str, new_name: String) -> Result<()> {
        let _guard = self.changes.lock().await;
        let old = self.project_record(name)?;
        if name == DEFAULT_PROJECT {
            return Err(Error::Forbidden("The default project can't be renamed".to_owned()));
        }
        if self.projects.get(&new_name).is_some() {
            return Err(Error::Conflict(format!("Project {new_name:?} already exists")));
        }
        if let Some(user) = self.project_users(name).first() {
            return Err(Error::invalid(format!(
                "Only empty projects can be renamed, and {name:?} holds {user}"
            )));
        }
        let record = ProjectRecord {
            name: new_name.clone(),
            ..ProjectRecord::clone(&old)
        };
        let mut change = Transaction::new()
            .delete(key::project(name))
            .put(key::project(&new_name), &record)?;
        let default = (name.to_owned(), profiles::DEFAULT.to_owned());
        let profile = self.profiles.get(&default).map(|profile| ProfileRecord {
            project: new_name.clone(),
            ..ProfileRecord::clone(&profile)
        });
        if let Some(profile) = &profile {
            change = change
                .delete(key::profile(name, profiles::DEFAULT))
                .put(key::profile(&new_name, profiles::DEFAULT), profile)?;
        }
        self.store.commit(change).await?;
        if let Some(profile) = profile {
            self.profiles.remove(&default);
            self.profiles
                .insert((new_name.clone(), profile.name.clone()), Arc::new(profile));
        }
        self.projects.remove(&name.to_owned());
        self.projects.insert(new_name.clone(), Arc::new(record));
        let context = events::context([("old_name", name.into())]);
        let path = format!("/1.0/projects/{new_name}");
        self.events.lifecycle(&new_name, "project-renamed", &path, context);
        Ok(())
    }

    /// Deletes a project that holds nothing.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`] for one that is used.
    pub async fn project_delete(&self, name: &str) -> Result<()> {
        let _guard = self.changes.lock().await;
        self.project_record(name)?;
        if name == DEFAULT_PROJECT {
            return Err(Error::Forbidden("The default project can't be deleted".to_owned()));
        }
        let users = self.project_users(name);
        if let Some(user) = users.first() {
            return Err(Error::invalid(format!(
                "Project {name:?} is not empty: it holds {user}"
            )));
        }
        let mut change = Transaction::new().delete(key::project(name));
        for profile in self.profiles.list().iter().filter(|profile| profile.project == name) {
            change = change.delete(key::profile(name, &profile.name));
            self.profiles.remove(&(name.to_owned(), profile.name.clone()));
        }
        self.store.commit(change).await?;
        self.projects.remove(&name.to_owned());
        self.events.lifecycle(
            name,
            "project-deleted",
            &format!("/1.0/projects/{name}"),
            serde_json::Map::new(),
        );
        Ok(())
    }

    /// Paths of what lies in a project, but for its default profile.
    fn project_users(&self, name: &str) -> Vec<String> {
        let mut users: Vec<String> = self.instances.paths(name);
        users.extend(self.images.paths(name));
        users.extend(
            self.networks
                .list()
                .iter()
                .map(|network| network.record())
                .filter(|record| record.project == name)
                .map(|record| format!("/1.0/networks/{}", record.name)),
        );
        users.extend(
            self.profiles
                .list()
                .iter()
                .filter(|profile| profile.project == name && profile.name != profiles::DEFAULT)
                .map(|profile| format!("/1.0/profiles/{}", profile.name)),
        );
        users
    }

    fn render_project(&self, record: &ProjectRecord) -> Project {
        let mut used_by = self.project_users(&record.name);
        let default = (record.name.clone(), profiles::DEFAULT.to_owned());
        if self.profiles.get(&default).is_some() {
            used_by.push(profiles::path(&record.name, profiles::DEFAULT));
        }
        Project {
            name: record.name.clone(),
            description: record.description.clone(),
            config: record.config.clone(),
            used_by,
        }
    }
}

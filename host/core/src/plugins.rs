//! Plugins: listings, and the changes that the core has a say in because pools, networks and images depend on them.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use hutch_api::plugin::{Plugin, PluginHeld, PluginKey, PluginKeysPost, PluginLogLine, PluginOffer, PluginsPost};
use hutch_driver::{Cancel, DriverError, Progress};
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::journal::Entry;
use crate::operations::NewOperation;
use crate::pools::Readiness;
use crate::profiles::with_project;
use crate::uses::Change;
use crate::{Core, DEFAULT_PROJECT, Operation};

/// A file that a client sent to be a plugin.
#[derive(Debug)]
pub struct PluginFile {
    /// Its content.
    pub bytes: Vec<u8>,
    /// A minisign signature of it, where one came along.
    pub signature: Option<Vec<u8>>,
}

/// Where the core learns of plugins and has them changed; the plugin host implements it. Errors have the codes that
/// [`hutch_driver::DriverError`] lists.
#[async_trait]
pub trait PluginDirectory: Send + Sync {
    /// All plugins that there are, with their state.
    fn plugins(&self) -> Vec<Plugin>;
    /// The last lines that a plugin logged; `None` for an unknown one.
    fn logs(&self, id: &str) -> Option<Vec<PluginLogLine>>;
    /// The family of a plugin, and those of its drivers' names that nobody would provide without it.
    fn lost_with(&self, id: &str) -> (String, Vec<String>);
    /// The file of a plugin and its signature.
    async fn file(&self, id: &str) -> Result<PluginFile, DriverError>;
    /// Takes a file in, from the caller or from where `post` says, and finds out what it is. Nothing is decided by that.
    async fn examine(
        &self,
        post: &PluginsPost,
        file: Option<PluginFile>,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<PluginOffer, DriverError>;
    /// Makes an examined file a plugin, or another version of the plugin `upgrade`, which has to provide the names `needed`.
    /// Answers with what it waits for, if it is held.
    async fn take_in(
        &self,
        digest: &str,
        post: &PluginsPost,
        upgrade: Option<&str>,
        needed: Vec<String>,
    ) -> Result<Option<PluginHeld>, DriverError>;
    /// Takes a plugin into service, also out of quarantine, and loads one again that could not be loaded.
    async fn enable(&self, id: &str) -> Result<(), DriverError>;
    /// Takes a plugin out of service.
    async fn disable(&self, id: &str) -> Result<(), DriverError>;
    /// Gives a plugin more; answers with what a held version still waits for.
    async fn grant(&self, id: &str, names: &[String], needed: Vec<String>) -> Result<Option<PluginHeld>, DriverError>;
    /// Has a plugin granted exactly this, and answers with whether that is a change.
    async fn set_grants(&self, id: &str, names: &[String]) -> Result<bool, DriverError>;
    /// Takes away what a plugin was granted.
    async fn revoke(&self, id: &str, names: &[String]) -> Result<(), DriverError>;
    /// Goes back to the version before, which has to provide the names `needed`.
    async fn rollback(&self, id: &str, needed: Vec<String>) -> Result<(), DriverError>;
    /// Removes an installed plugin. Whether it is in use was asked before.
    async fn remove(&self, id: &str) -> Result<(), DriverError>;
    /// The publishers' keys.
    fn keys(&self) -> Vec<PluginKey>;
    /// Trusts a publisher's key.
    async fn trust(&self, post: PluginKeysPost) -> Result<PluginKey, DriverError>;
    /// Revokes a key by its id, or the keys of a publisher.
    async fn distrust(&self, which: &str) -> Result<(), DriverError>;
}

/// A daemon that has no plugins and takes none, for what runs a core with drivers of its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPlugins;

impl NoPlugins {
    fn none<T>() -> Result<T, DriverError> {
        Err(DriverError::new("not-found", "this daemon has no plugins"))
    }
}

#[async_trait]
impl PluginDirectory for NoPlugins {
    fn plugins(&self) -> Vec<Plugin> {
        Vec::new()
    }

    fn logs(&self, _: &str) -> Option<Vec<PluginLogLine>> {
        None
    }

    fn lost_with(&self, _: &str) -> (String, Vec<String>) {
        Default::default()
    }

    async fn file(&self, _: &str) -> Result<PluginFile, DriverError> {
        Self::none()
    }

    async fn examine(
        &self,
        _: &PluginsPost,
        _: Option<PluginFile>,
        _: &dyn Progress,
        _: &Cancel,
    ) -> Result<PluginOffer, DriverError> {
        Self::none()
    }

    async fn take_in(
        &self,
        _: &str,
        _: &PluginsPost,
        _: Option<&str>,
        _: Vec<String>,
    ) -> Result<Option<PluginHeld>, DriverError> {
        Self::none()
    }

    async fn enable(&self, _: &str) -> Result<(), DriverError> {
        Self::none()
    }

    async fn disable(&self, _: &str) -> Result<(), DriverError> {
        Self::none()
    }

    async fn grant(&self, _: &str, _: &[String], _: Vec<String>) -> Result<Option<PluginHeld>, DriverError> {
        Self::none()
    }

    async fn set_grants(&self, _: &str, _: &[String]) -> Result<bool, DriverError> {
        Self::none()
    }

    async fn revoke(&self, _: &str, _: &[String]) -> Result<(), DriverError> {
        Self::none()
    }

    async fn rollback(&self, _: &str, _: Vec<String>) -> Result<(), DriverError> {
        Self::none()
    }

    async fn remove(&self, _: &str) -> Result<(), DriverError> {
        Self::none()
    }

    fn keys(&self) -> Vec<PluginKey> {
        Vec::new()
    }

    async fn trust(&self, _: PluginKeysPost) -> Result<PluginKey, DriverError> {
        Self::none()
    }

    async fn distrust(&self, _: &str) -> Result<(), DriverError> {
        Self::none()
    }
}

impl Core {
    /// All plugins.
    pub fn plugins(&self) -> Vec<Plugin> {
        self.plugin_directory.plugins()
    }

    /// One plugin, by its id.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn plugin(&self, id: &str) -> Result<Plugin> {
        self.plugins()
            .into_iter()
            .find(|plugin| plugin.id == id)
            .ok_or_else(|| Error::missing("Plugin", id))
    }

    /// The last lines that a plugin logged.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn plugin_logs(&self, id: &str) -> Result<Vec<PluginLogLine>> {
        self.plugin_directory
            .logs(id)
            .ok_or_else(|| Error::missing("Plugin", id))
    }

    /// The file of a plugin, with its signature.
    ///
    /// # Errors
    /// [`Error::NotFound`], and when it can't be read.
    pub async fn plugin_file(&self, id: &str) -> Result<PluginFile> {
        self.plugin(id)?;
        let file = self.plugin_directory.file(id).await;
        file.map_err(Error::driver(format!("reading plugin {id}")))
    }

    /// Takes a plugin in, or another version of the plugin `upgrade`. The operation's metadata has `plugin`, what was found in the
    /// file, and after an upgrade `held`, whether it waits for a grant.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the plugin to be upgraded, [`Error::Invalid`] for a source that can't be; what is wrong with the
    /// file is found out by the operation.
    pub async fn plugin_take_in(
        self: &Arc<Self>,
        post: PluginsPost,
        file: Option<PluginFile>,
        upgrade: Option<String>,
    ) -> Result<Arc<Operation>> {
        let uploads = matches!(post.source.kind.as_str(), "upload" | "archive");
        if uploads != file.is_some() || !(uploads || matches!(post.source.kind.as_str(), "url" | "stored")) {
            return Err(Error::invalid(
                "source.kind is \"upload\" or \"archive\" with a file, or \"url\" or \"stored\" without one",
            ));
        }
        let (what, path) = match &upgrade {
            Some(id) => {
                self.plugin(id)?;
                ("Upgrading plugin", format!("/1.0/plugins/{id}"))
            }
            None => ("Installing plugin", "/1.0/plugins".to_owned()),
        };
        let about = NewOperation::task(DEFAULT_PROJECT, what, "plugins", path).cancellable();
        let core = Arc::clone(self);
        self.operations
            .begin(about, move |operation| async move {
                core.take_plugin_in(&post, file, upgrade.as_deref(), &operation).await
            })
            .await
    }

    async fn take_plugin_in(
        self: &Arc<Self>,
        post: &PluginsPost,
        file: Option<PluginFile>,
        upgrade: Option<&str>,
        operation: &Arc<Operation>,
    ) -> Result<()> {
        let action = || match upgrade {
            Some(id) => format!("upgrading plugin {id}"),
            None => "installing a plugin".to_owned(),
        };
        let digest = if post.source.kind == "stored" {
            post.source.digest.clone()
        } else {
            let offer = self
                .plugin_directory
                .examine(post, file, operation.as_ref(), &operation.cancel_flag())
                .await
                .map_err(Error::driver(action()))?;
            let digest = offer.digest.clone();
            operation.add_resource("plugins", format!("/1.0/plugins/{}", offer.id));
            operation.set_metadata("plugin", json!(offer));
            digest
        };
        if post.examine {
            return Ok(());
        }
        let change = upgrade.map(|id| self.change_of(id));
        let needed = change.as_ref().map_or_else(Vec::new, |change| self.needed(change));
        let held = self
            .plugin_directory
            .take_in(&digest, post, upgrade, needed)
            .await
            .map_err(Error::driver(action()))?;
        drop(change);
        operation.set_metadata("held", Value::Bool(held.is_some()));
        let held = held.unwrap_or_default();
        operation.set_metadata("missing", json!(held.missing));
        operation.set_metadata("doubts", json!(held.doubts));
        match upgrade {
            Some(id) => self.plugin_changed("plugin-upgraded", id).await,
            None => {
                let found = self.plugins().into_iter().find(|plugin| plugin.digest == digest);
                match found {
                    Some(plugin) => self.plugin_changed("plugin-installed", &plugin.id).await,
                    None => Ok(()),
                }
            }
        }
    }

    /// Takes a plugin into service, and brings up those of its pools and networks that could not be brought up without it.
    /// Returns when that is decided, one way or the other.
    ///
    /// # Errors
    /// [`Error::NotFound`], and when it can't be recorded.
    pub async fn plugin_enable(self: &Arc<Self>, id: &str) -> Result<()> {
        self.plugin(id)?;
        self.plugin_directory
            .enable(id)
            .await
            .map_err(Error::driver(format!("enabling plugin {id}")))?;
        self.plugin_changed("plugin-enabled", id).await
    }

    /// Takes a plugin out of service. What uses it is shown unavailable until it is enabled; containers run on.
    ///
    /// # Errors
    /// [`Error::NotFound`], and when it is not to be changed by command or can't be recorded.
    pub async fn plugin_disable(self: &Arc<Self>, id: &str) -> Result<()> {
        self.plugin(id)?;
        self.plugin_directory
            .disable(id)
            .await
            .map_err(Error::driver(format!("disabling plugin {id}")))?;
        self.tell_of_plugin("plugin-disabled", id);
        Ok(())
    }

    /// Gives a plugin more of what it requests. Answers with what a version that is held still waits for.
    ///
    /// # Errors
    /// [`Error::NotFound`], and for what it does not request.
    pub async fn plugin_grant(self: &Arc<Self>, id: &str, names: &[String]) -> Result<Option<PluginHeld>> {
        self.plugin(id)?;
        let change = self.change_of(id);
        let held = self
            .plugin_directory
            .grant(id, names, self.needed(&change))
            .await
            .map_err(Error::driver(format!("granting to plugin {id}")))?;
        drop(change);
        self.plugin_changed("plugin-granted", id).await?;
        Ok(held)
    }

    /// Has a plugin granted exactly this of what it requests.
    ///
    /// # Errors
    /// [`Error::NotFound`], and for what it does not request.
    pub async fn plugin_set_grants(self: &Arc<Self>, id: &str, names: &[String]) -> Result<()> {
        self.plugin(id)?;
        let changed = self
            .plugin_directory
            .set_grants(id, names)
            .await
            .map_err(Error::driver(format!("granting to plugin {id}")))?;
        match changed {
            true => self.plugin_changed("plugin-granted", id).await,
            false => Ok(()),
        }
    }

    /// Takes away what a plugin was granted.
    ///
    /// # Errors
    /// [`Error::NotFound`], and for what it was not granted.
    pub async fn plugin_revoke(self: &Arc<Self>, id: &str, names: &[String]) -> Result<()> {
        self.plugin(id)?;
        self.plugin_directory
            .revoke(id, names)
            .await
            .map_err(Error::driver(format!("revoking from plugin {id}")))?;
        self.tell_of_plugin("plugin-revoked", id);
        Ok(())
    }

    /// Goes back to the version of a plugin before the present one.
    ///
    /// # Errors
    /// [`Error::NotFound`], and when there is none or it lacks what is in use.
    pub async fn plugin_rollback(self: &Arc<Self>, id: &str) -> Result<()> {
        self.plugin(id)?;
        let change = self.change_of(id);
        self.plugin_directory
            .rollback(id, self.needed(&change))
            .await
            .map_err(Error::driver(format!("rolling plugin {id} back")))?;
        drop(change);
        self.plugin_changed("plugin-rolled-back", id).await
    }

    /// Removes an installed plugin.
    ///
    /// # Errors
    /// [`Error::NotFound`], and [`Error::Conflict`] with the names of the pools, networks and images that need it.
    pub async fn plugin_remove(self: &Arc<Self>, id: &str) -> Result<()> {
        self.plugin(id)?;
        let change = self.change_of(id);
        let (family, names) = self.plugin_directory.lost_with(id);
        // What is begun first, then the journal, then what is there: whatever is made meanwhile goes from one to the next.
        let mut users: Vec<(String, String)> = self
            .begun(&change)
            .into_iter()
            .filter(|(of, name)| *of == family && names.contains(name))
            .map(|(of, name)| (name.clone(), format!("what is being made on the {of} driver {name}")))
            .collect();
        for (_, _, entry) in self.journal.interrupted().await? {
            match entry {
                Entry::PoolCreate { name, driver, .. } if family == "storage" && names.contains(&driver) => {
                    users.push((driver, format!("/1.0/storage-pools/{name}")));
                }
                Entry::NetworkCreate {
                    project, name, driver, ..
                } if family == "network" && names.contains(&driver) => {
                    users.push((driver, with_project(format!("/1.0/networks/{name}"), &project)));
                }
                _ => {}
            }
        }
        users.extend(self.users_of(&family, &names));
        if family.is_empty() {
            users.extend(self.users_of_nothing());
        }
        if !users.is_empty() {
            let urls: BTreeSet<String> = users.into_iter().map(|(_, url)| url).collect();
            let urls: Vec<String> = urls.into_iter().collect();
            return Err(Error::Conflict(format!(
                "plugin {id} is in use by {}: remove these first",
                urls.join(", ")
            )));
        }
        self.plugin_directory
            .remove(id)
            .await
            .map_err(Error::driver(format!("removing plugin {id}")))?;
        drop(change);
        self.tell_of_plugin("plugin-removed", id);
        Ok(())
    }

    /// The publishers' keys, also those that were revoked.
    pub fn plugin_keys(&self) -> Vec<PluginKey> {
        self.plugin_directory.keys()
    }

    /// Trusts a publisher's key.
    ///
    /// # Errors
    /// When it is no key, or can't be recorded.
    pub async fn plugin_key_trust(&self, post: PluginKeysPost) -> Result<PluginKey> {
        let action = format!("trusting the key of {}", post.name);
        self.plugin_directory.trust(post).await.map_err(Error::driver(action))
    }

    /// Revokes a key by its id, or the keys of a publisher.
    ///
    /// # Errors
    /// When there is none, or it can't be recorded.
    pub async fn plugin_key_revoke(&self, which: &str) -> Result<()> {
        let done = self.plugin_directory.distrust(which).await;
        done.map_err(Error::driver(format!("revoking the key {which}")))
    }

    /// Has nothing be begun on a plugin's drivers while the plugin is changed.
    fn change_of(&self, id: &str) -> Change<'_> {
        let provides = self.plugin(id).map(|plugin| plugin.provides).unwrap_or_default();
        let drivers = provides
            .into_iter()
            .flat_map(|(family, names)| names.into_iter().map(move |name| (family.clone(), name)));
        self.uses.change(drivers.collect())
    }

    /// The drivers of a plugin on which something is being made.
    fn begun(&self, change: &Change<'_>) -> Vec<(String, String)> {
        let of = |family: &'static str| {
            let names = change.begun(family).into_iter();
            names.map(move |name| (family.to_owned(), name))
        };
        of("storage").chain(of("network")).chain(of("image")).collect()
    }

    /// The names of a plugin's drivers that are in use or about to be.
    fn needed(&self, change: &Change<'_>) -> Vec<String> {
        // What is begun before what is there, since the one becomes the other.
        let mut needed: BTreeSet<String> = self.begun(change).into_iter().map(|(_, name)| name).collect();
        for (family, name) in change.drivers() {
            let users = self.users_of(family, std::slice::from_ref(name));
            needed.extend(users.into_iter().map(|(name, _)| name));
        }
        needed.into_iter().collect()
    }

    /// What uses drivers that nobody provides: of a plugin whose file is damaged nobody knows what it provided.
    fn users_of_nothing(&self) -> Vec<(String, String)> {
        let lost = |family: &str, used: BTreeSet<String>| {
            let provided: Vec<String> = self.drivers.list(family).into_iter().map(|info| info.name).collect();
            let lost: Vec<String> = used.into_iter().filter(|name| !provided.contains(name)).collect();
            self.users_of(family, &lost)
        };
        let pools = self.pools.list().into_iter().map(|pool| pool.record().driver.clone());
        let networks = self
            .networks
            .list()
            .into_iter()
            .map(|network| network.record().driver.clone());
        let mut users = lost("storage", pools.collect());
        users.extend(lost("network", networks.collect()));
        users
    }

    /// What uses the drivers `names` of a family, each with the driver's name.
    fn users_of(&self, family: &str, names: &[String]) -> Vec<(String, String)> {
        let uses = |name: &String| names.contains(name);
        let mut users = Vec::new();
        match family {
            "storage" => {
                let pools = self.pools.list().into_iter().map(|pool| pool.record());
                users.extend(
                    pools
                        .filter(|pool| uses(&pool.driver))
                        .map(|pool| (pool.driver.clone(), format!("/1.0/storage-pools/{}", pool.name))),
                );
            }
            "network" => {
                let networks = self.networks.list().into_iter().map(|network| network.record());
                users.extend(networks.filter(|network| uses(&network.driver)).map(|network| {
                    let path = with_project(format!("/1.0/networks/{}", network.name), &network.project);
                    (network.driver.clone(), path)
                }));
            }
            "image" => users.extend(self.images.refreshed_from(names)),
            _ => {}
        }
        users
    }

    /// Tells of a change, and brings up what may be usable by it.
    async fn plugin_changed(self: &Arc<Self>, action: &str, id: &str) -> Result<()> {
        self.tell_of_plugin(action, id);
        let provides = |family: &str, name: &str| {
            let drivers = self.drivers.list(family);
            drivers.iter().any(|info| info.plugin == id && info.name == name)
        };
        let down = |readiness: Readiness| matches!(readiness, Readiness::Unavailable(_));
        for pool in self.pools.list() {
            if down(pool.readiness()) && provides("storage", &pool.record().driver) {
                self.retry_pool(&pool).await?;
            }
        }
        for network in self.networks.list() {
            if down(network.readiness()) && provides("network", &network.record().driver) {
                self.retry_network(&network).await?;
            }
        }
        Ok(())
    }

    fn tell_of_plugin(&self, action: &str, id: &str) {
        let path = format!("/1.0/plugins/{id}");
        self.events
            .lifecycle(DEFAULT_PROJECT, action, &path, serde_json::Map::new());
    }
}

//! The plugins, for listings.

use std::sync::Arc;

use async_trait::async_trait;
use hutch_api::plugin::{Plugin, PluginLogLine};
use hutch_driver::DriverError;

use crate::Core;
use crate::error::{Error, Result};
use crate::pools::Readiness;

/// Where the core learns of plugins; the plugin host implements it.
#[async_trait]
pub trait PluginDirectory: Send + Sync {
    /// All plugins that are configured, with their state.
    fn plugins(&self) -> Vec<Plugin>;
    /// The last lines that a plugin logged; `None` for an unknown one.
    fn logs(&self, id: &str) -> Option<Vec<PluginLogLine>>;
    /// Takes a plugin out of quarantine, and loads one again that could not be loaded.
    async fn enable(&self, id: &str) -> Result<(), DriverError>;
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

    /// Takes a plugin back into service, and brings up those of its pools and networks that could not be brought up without it.
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
}

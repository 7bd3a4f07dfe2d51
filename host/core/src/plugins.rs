//! The plugins, for listings.

use hutch_api::plugin::{Plugin, PluginLogLine};

use crate::Core;
use crate::error::{Error, Result};

/// Where the core learns of plugins; the plugin host implements it.
pub trait PluginDirectory: Send + Sync {
    /// All plugins that are configured, with their state.
    fn plugins(&self) -> Vec<Plugin>;
    /// The last lines that a plugin logged; `None` for an unknown one.
    fn logs(&self, id: &str) -> Option<Vec<PluginLogLine>>;
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
            .ok_or(Error::NotFound("Plugin"))
    }

    /// The last lines that a plugin logged.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn plugin_logs(&self, id: &str) -> Result<Vec<PluginLogLine>> {
        self.plugin_directory.logs(id).ok_or(Error::NotFound("Plugin"))
    }
}

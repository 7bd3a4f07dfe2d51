//! The daemon's configuration file.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use hutch_plugin::PluginConfig;
use serde::Deserialize;

/// What the operator can say in the file. `docs/configuration.md` explains each key.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Config {
    /// The plugins that are used, in the order in which they are preferred. Without this key those of
    /// `plugin-directory` are used, with what they request.
    pub(crate) plugin: Option<Vec<PluginConfig>>,
    /// Where the plugins lie that are used without further configuration.
    pub(crate) plugin_directory: Option<PathBuf>,
    /// The keeper's program.
    pub(crate) keeper: Option<PathBuf>,
}

impl Config {
    /// Reads the file; without one, the defaults.
    pub(crate) fn read(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else { return Ok(Self::default()) };
        let text =
            std::fs::read_to_string(path).with_context(|| format!("reading the configuration {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("the configuration {}", path.display()))
    }
}

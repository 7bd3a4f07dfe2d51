//! Which plugins a daemon loads: the operator's list, and the directory of those that come with it.

use std::path::PathBuf;

use hutch_broker::Permissions;
use hutch_driver::Options;
use serde::Deserialize;

use crate::compile::Compiler;
use crate::health::QuarantinePolicy;
use crate::worker::Workers;

/// One plugin in the daemon's configuration:
///
/// ```toml
/// [[plugin]]
/// path = "/opt/drivers/thing.wasm"   # or: digest = "sha256:…" of one that is in the store
/// grants = { fs = { roots = true } } # as [permissions] in a manifest; nothing where it is missing
/// config = { cache = "true" }        # what the plugin reads with config.get
/// worker = true                      # whether it runs in a process of its own; all do but those that come with the daemon
/// ```
///
/// The order of the list is the operator's order of preference.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PluginConfig {
    /// The plugin's file.
    #[serde(default)]
    pub path: Option<PathBuf>,
    /// The digest of a stored plugin, with or without `sha256:` before it. With a path: what the file's digest must be.
    #[serde(default)]
    pub digest: Option<String>,
    /// What the plugin may do. Where it is missing, a plugin of the bundled directory gets what it requests, and any other
    /// nothing.
    #[serde(default)]
    pub grants: Option<Permissions>,
    /// The plugin's settings, under the schema in its manifest.
    #[serde(default)]
    pub config: Options,
    /// Whether the plugin runs in a process of its own, without privileges. Where it is missing, a plugin of the bundled directory
    /// runs in the daemon and any other in such a process.
    #[serde(default)]
    pub worker: Option<bool>,
}

/// How a plugin host is set up.
#[derive(Clone, Debug)]
pub struct PluginHostOptions {
    /// The daemon's state directory. Plugins are stored below `plugins/`, compiled code below `cache/plugins/`.
    pub state_dir: PathBuf,
    /// The operator's list. Without one (`None`), all of `bundled` are loaded with the grants that they request.
    pub plugins: Option<Vec<PluginConfig>>,
    /// The directory of the plugins that come with the daemon: those are trusted with what they request.
    pub bundled: Option<PathBuf>,
    /// How compiling children are started.
    pub compiler: Compiler,
    /// How the processes are started that plugins run in.
    pub workers: Workers,
    /// When a plugin is taken out of service.
    pub quarantine: QuarantinePolicy,
}

impl PluginHostOptions {
    /// The set-up of a daemon without configuration.
    pub fn new(state_dir: PathBuf) -> Self {
        Self {
            state_dir,
            plugins: None,
            bundled: bundled_directory(),
            compiler: Compiler::default(),
            workers: Workers::default(),
            quarantine: QuarantinePolicy::default(),
        }
    }
}

/// The directory of the plugins that come with this program: `../plugins` beside the one that it lies in (a build tree),
/// or `../lib/hutch/plugins` (an installed tree).
pub fn bundled_directory() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    let prefix = program.parent()?.parent()?;
    ["plugins", "lib/hutch/plugins"]
        .iter()
        .map(|place| prefix.join(place))
        .find(|place| place.is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct File {
        plugin: Vec<PluginConfig>,
    }

    #[test]
    fn the_documented_example_is_read() {
        let file: File = toml::from_str(
            r#"
            [[plugin]]
            path = "/opt/drivers/thing.wasm"
            grants = { fs = { roots = true } }
            config = { cache = "true" }
            [[plugin]]
            digest = "sha256:00"
            "#,
        )
        .expect("valid");
        assert!(
            file.plugin[0]
                .grants
                .as_ref()
                .is_some_and(|grants| grants.fs.roots && !grants.link)
        );
        assert_eq!(file.plugin[0].config.get("cache").map(String::as_str), Some("true"));
        assert_eq!(file.plugin[1].grants, None);
        assert!(
            toml::from_str::<File>("[[plugin]]\npath = \"x\"\ngrant = {}").is_err(),
            "unknown fields are refused"
        );
    }
}

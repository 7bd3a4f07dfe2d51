//! From a line of the configuration to a plugin that can be called.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use hutch_broker::{Grants, Permissions, Subject, SubjectLimits};
use hutch_driver::Options;
use tokio::sync::{Semaphore, watch};
use wasmtime::component::Linker;

use crate::bindings::Everything;
use crate::code::Code;
use crate::compile::Cache;
use crate::config::{PluginConfig, PluginHostOptions};
use crate::export::Exports;
use crate::files::{FileStore, Stored};
use crate::health::Health;
use crate::plugin::{Phase, Place, Plugin, Ready, Shared, Standing};
use crate::state::CallState;
use crate::status::Origin;
use crate::sync::Mutex;
use crate::worker::{StartError, Supervisor};

/// A plugin to be loaded, before anything is known of it.
pub(crate) struct Candidate {
    /// The file that the configuration names, or empty.
    pub(crate) source: PathBuf,
    /// What is in it, or why it can't be a plugin.
    pub(crate) found: Result<Stored, String>,
    /// What the operator grants.
    pub(crate) grants: Option<Permissions>,
    /// The operator's settings.
    pub(crate) config: Options,
    /// Who lists it.
    pub(crate) origin: Origin,
    /// Whether its guests run in a process of their own.
    pub(crate) worker: bool,
}

/// What is to be loaded, in order.
pub(crate) fn candidates(options: &PluginHostOptions, files: &FileStore) -> Vec<Candidate> {
    if let Some(list) = &options.plugins {
        return list
            .iter()
            .map(|config| configured(config, Origin::Configuration, options.bundled.as_deref(), files))
            .collect();
    }
    let Some(directory) = &options.bundled else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = match std::fs::read_dir(directory) {
        Ok(entries) => entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| is_wasm(path))
            .collect(),
        Err(error) => {
            tracing::error!(directory = %directory.display(), %error, "can't read the directory of plugins");
            return Vec::new();
        }
    };
    paths.sort();
    let mut found: Vec<_> = paths
        .into_iter()
        .map(|path| {
            configured(
                &PluginConfig {
                    path: Some(path),
                    ..PluginConfig::default()
                },
                Origin::Bundled,
                Some(directory),
                files,
            )
        })
        .collect();
    found.sort_by_key(|candidate| {
        std::cmp::Reverse(candidate.found.as_ref().map_or(0, |stored| stored.manifest.prefer))
    });
    found
}

fn is_wasm(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "wasm")
}

/// Finds one plugin of the configuration.
fn configured(config: &PluginConfig, origin: Origin, bundled: Option<&Path>, files: &FileStore) -> Candidate {
    let wanted = config
        .digest
        .as_deref()
        .map(|digest| digest.strip_prefix("sha256:").unwrap_or(digest));
    let found = match (&config.path, wanted) {
        (Some(path), wanted) => files
            .add(path)
            .map_err(|error| with_causes(&error))
            .and_then(|stored| match wanted {
                Some(wanted) if wanted != stored.digest => Err(format!(
                    "its digest is sha256:{}, and the configuration wants sha256:{wanted}",
                    stored.digest
                )),
                _ => Ok(stored),
            }),
        (None, Some(digest)) => files.get(digest).map_err(|error| with_causes(&error)),
        (None, None) => Err("the configuration of a plugin names neither a path nor a digest".to_owned()),
    };
    let ours = config
        .path
        .as_deref()
        .and_then(Path::parent)
        .is_some_and(|parent| Some(parent) == bundled);
    let grants = config.grants.clone().or_else(|| {
        // Bundled plugins come with the daemon, from the same hands: they are granted what they request.
        found
            .as_ref()
            .ok()
            .filter(|_| ours)
            .map(|stored| stored.manifest.permissions.clone())
    });
    Candidate {
        source: config.path.clone().unwrap_or_default(),
        found,
        grants,
        config: config.config.clone(),
        origin,
        worker: config.worker.unwrap_or(!ours),
    }
}

/// An error with its causes, for a listing.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// Makes a plugin of what was found, or says why the configuration does not fit it.
pub(crate) fn make_plugin(
    stored: Stored,
    standing: Arc<Standing>,
    config: Options,
    shared: &Arc<Shared>,
) -> Result<Plugin, String> {
    let Stored {
        digest,
        manifest,
        abilities,
    } = stored;
    match &manifest.config.schema {
        Some(schema) => schema
            .validate(&config)
            .map_err(|reason| format!("its configuration is not valid: {reason}"))?,
        None if config.is_empty() => {}
        None => return Err("the configuration has settings for it, and it takes none".to_owned()),
    }
    let subject = Subject {
        plugin: manifest.id.clone(),
        version: manifest.version.clone(),
        digest: digest.clone(),
        family: manifest.family().to_owned(),
        grants: Grants {
            requested: manifest.permissions.clone(),
            granted: standing.granted.clone(),
        },
        limits: SubjectLimits {
            kv_bytes: manifest.limits.kv_bytes.0,
            http_timeout: SubjectLimits::default()
                .http_timeout
                .min(manifest.limits.call_timeout.0),
        },
        config,
    };
    let quarantined = shared.files.quarantine(&digest);
    if let Some(quarantine) = &quarantined {
        tracing::error!(plugin = manifest.id, "still in quarantine: {}", quarantine.reason);
    }
    let worker = !shared.in_daemon.contains(&digest);
    Ok(Plugin {
        shared: Arc::clone(shared),
        standing,
        turns: Semaphore::new(manifest.limits.concurrency as usize),
        digest,
        abilities,
        subject: Arc::new(subject),
        health: Arc::new(Health::new(quarantined)),
        phase: watch::Sender::new(Phase::Loading),
        loaded: Mutex::new(None),
        worker,
        manifest,
    })
}

/// Everything that a plugin may import: an empty WASI and `wit/host`.
pub(crate) fn linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<CallState>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    Everything::add_to_linker::<_, wasmtime::component::HasSelf<_>>(&mut linker, |state| state)?;
    Ok(linker)
}

/// What it takes to bring a plugin's code into memory.
pub(crate) struct Loader {
    pub(crate) files: Arc<FileStore>,
    pub(crate) cache: Cache,
    pub(crate) linker: Linker<CallState>,
    /// Compiling children at once.
    pub(crate) compilers: Semaphore,
}

impl Loader {
    /// Loads a plugin and tells those who wait for it.
    pub(crate) async fn load(self: Arc<Self>, plugin: Arc<Plugin>) {
        if let Err(reason) = self.bring_in(&plugin).await {
            tracing::error!(plugin = plugin.id(), "plugin can't be used: {reason}");
            plugin.phase.send_replace(Phase::Failed(reason.into()));
        }
    }

    /// Brings a plugin's code into memory, or says why that can't be done.
    pub(crate) async fn bring_in(&self, plugin: &Plugin) -> Result<(), String> {
        let ready = self.code(plugin).await?;
        *plugin.loaded.lock() = Some(SystemTime::now());
        plugin.phase.send_replace(Phase::Ready(Arc::new(ready)));
        Ok(())
    }

    /// Brings a plugin's code to where it runs. Code in the cache that can't be used there (it was made for another processor, say) is
    /// made again.
    async fn code(&self, plugin: &Plugin) -> Result<Ready, String> {
        let exports = Exports::of(plugin.manifest.family(), &plugin.abilities);
        let place = match self.place(plugin, &exports).await? {
            Some(place) => place,
            None => {
                self.compile(plugin).await?;
                self.place(plugin, &exports)
                    .await?
                    .ok_or("the code that was just compiled can't be used")?
            }
        };
        Ok(Ready { exports, place })
    }

    /// The plugin in its place; none where the cache has no code that can be used.
    async fn place(&self, plugin: &Plugin, exports: &Exports) -> Result<Option<Place>, String> {
        if !plugin.worker {
            let Some(component) = self.cache.get(plugin.shared.runtime.engine(), &plugin.digest) else {
                return Ok(None);
            };
            return Code::new(&self.linker, &component, exports).map(|code| Some(Place::Here(code)));
        }
        // Never mapped here: what the compiler made of a stranger's file is as little to be trusted as the file.
        let Some(code) = self.cache.file(&plugin.digest) else {
            return Ok(None);
        };
        let supervisor = Supervisor::new(code, plugin);
        match supervisor.begin().await {
            Ok(()) => Ok(Some(Place::Worker(supervisor))),
            Err(StartError::Code(reason)) => {
                tracing::warn!(plugin = plugin.id(), reason, "compiled code in the cache is not used");
                Ok(None)
            }
            Err(error) => Err(with_causes(&error)),
        }
    }

    /// Makes the plugin's code.
    async fn compile(&self, plugin: &Plugin) -> Result<(), String> {
        let _turn = self
            .compilers
            .acquire()
            .await
            .map_err(|_| "the plugin host is going down".to_owned())?;
        self.files.verify(&plugin.digest).map_err(|error| with_causes(&error))?;
        let started = std::time::Instant::now();
        let wasm = self.files.wasm(&plugin.digest);
        let made = self.cache.make(&plugin.digest, &wasm).await;
        made.map_err(|error| with_causes(&error))?;
        let ms = started.elapsed().as_millis();
        tracing::info!(plugin = plugin.id(), ms, "plugin compiled");
        Ok(())
    }
}

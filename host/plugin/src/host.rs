//! The plugin host: which plugins there are, how they get into service, and where the core finds their drivers.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use hutch_broker::{Broker, Permissions, Subject};
use hutch_driver::image::ImageDriver;
use hutch_driver::network::NetworkDriver;
use hutch_driver::storage::StorageDriver;
use hutch_driver::{DriverError, DriverEvent, DriverInfo, Drivers, EventStream};
use tokio::sync::{Semaphore, broadcast};

use crate::adapter::{ImageAdapter, NetworkAdapter, StorageAdapter};
use crate::compile::{Cache, CompileError};
use crate::config::PluginHostOptions;
use crate::engine::{MAX_INSTANCES, Runtime};
use crate::files::{FileError, FileStore};
use crate::load::{Candidate, Loader, candidates, linker, make_plugin};
use crate::log::LogLine;
use crate::plugin::{Phase, Plugin, Shared};
use crate::status::{PluginState, PluginStatus};

/// Compiling children at once. Each uses several processors.
const COMPILERS: usize = 2;

/// Why the plugin host could not be started. A plugin that can't be used is no reason: it is listed with what is wrong.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The engine could not be made.
    #[error("can't start the WebAssembly engine")]
    Engine(#[source] wasmtime::Error),
    /// The store of plugins can't be used.
    #[error("can't use the store of plugins")]
    Store(#[source] FileError),
    /// The cache of compiled code can't be used.
    #[error("can't use the cache of compiled plugins")]
    Cache(#[source] CompileError),
}

/// A file or digest of the configuration that did not become a plugin.
struct Refused {
    source: PathBuf,
    reason: String,
}

/// A plugin and where it came from.
struct Entry {
    plugin: Arc<Plugin>,
    source: PathBuf,
    /// Names of its manifest under which it is found. Others were taken.
    names: Vec<String>,
}

/// See the module's documentation.
pub struct PluginHost {
    entries: Vec<Entry>,
    refused: Vec<Refused>,
    events: broadcast::Sender<DriverEvent>,
    loader: Arc<Loader>,
}

impl PluginHost {
    /// Reads what is to be loaded and returns; code is compiled and mapped in the background, and calls wait for it.
    ///
    /// Must be called within a tokio runtime. `events` is the channel on which the broker reports what `watch` tells it.
    ///
    /// # Errors
    /// Only where no plugin could be loaded at all: the engine, the store or the cache can't be used.
    pub fn start(
        options: PluginHostOptions,
        broker: Arc<dyn Broker>,
        events: broadcast::Sender<DriverEvent>,
    ) -> Result<Arc<Self>, HostError> {
        let runtime = Runtime::new().map_err(HostError::Engine)?;
        let files = FileStore::open(options.state_dir.join("plugins/sha256")).map_err(HostError::Store)?;
        let files = Arc::new(files);
        let cache = Cache::open(
            options.state_dir.join("cache/plugins"),
            options.compiler.clone(),
            runtime.engine(),
        )
        .map_err(HostError::Cache)?;
        cache.tidy();
        let linker = linker(runtime.engine()).map_err(HostError::Engine)?;
        let shared = Arc::new(Shared {
            runtime,
            broker,
            files: Arc::clone(&files),
            lingering: Arc::default(),
            instances: Semaphore::new(MAX_INSTANCES as usize),
            quarantine: options.quarantine,
        });
        let loader = Arc::new(Loader {
            files,
            cache,
            linker,
            compilers: Semaphore::new(COMPILERS),
        });
        let mut host = Self {
            entries: Vec::new(),
            refused: Vec::new(),
            events,
            loader,
        };
        for candidate in candidates(&options, &host.loader.files) {
            host.take(candidate, &shared);
        }
        for entry in &host.entries {
            tokio::spawn(Arc::clone(&host.loader).load(Arc::clone(&entry.plugin)));
        }
        Ok(Arc::new(host))
    }

    /// Makes a plugin of a candidate, or remembers why not.
    fn take(&mut self, candidate: Candidate, shared: &Arc<Shared>) {
        let source = candidate.source;
        let made = candidate.found.and_then(|stored| {
            let id = &stored.manifest.id;
            if let Some(other) = self.entries.iter().find(|entry| entry.plugin.id() == id) {
                let version = &other.plugin.manifest.version;
                return Err(format!(
                    "a plugin with the id {id} is loaded already (version {version})"
                ));
            }
            make_plugin(stored, candidate.grants, candidate.config, shared)
        });
        match made {
            Ok(plugin) => {
                let names = self.free_names(&plugin);
                self.entries.push(Entry {
                    plugin: Arc::new(plugin),
                    source,
                    names,
                });
            }
            Err(reason) => {
                tracing::error!(source = %source.display(), "plugin not loaded: {reason}");
                self.refused.push(Refused { source, reason });
            }
        }
    }

    /// The names of a plugin that nobody before it provides.
    fn free_names(&self, plugin: &Plugin) -> Vec<String> {
        let family = plugin.manifest.family();
        let (free, taken): (Vec<_>, Vec<_>) = plugin
            .manifest
            .names()
            .iter()
            .cloned()
            .partition(|name| self.find(family, name).is_none());
        for name in taken {
            tracing::warn!(
                plugin = plugin.id(),
                family,
                name,
                "the name is provided by an earlier plugin"
            );
        }
        free
    }

    fn find(&self, family: &str, name: &str) -> Option<&Entry> {
        self.entries
            .iter()
            .find(|entry| entry.plugin.manifest.family() == family && entry.names.iter().any(|own| own == name))
    }

    /// The plugin that provides `name`, or an error that says what there is instead.
    fn resolve(&self, family: &str, name: &str) -> Result<Arc<Plugin>, DriverError> {
        if let Some(entry) = self.find(family, name) {
            let plugin = &entry.plugin;
            plugin.in_service()?;
            return Ok(Arc::clone(plugin));
        }
        let known: Vec<_> = self.list(family).into_iter().map(|info| info.name).collect();
        let mut message = match known.as_slice() {
            [] => format!("no plugin provides the {family} driver {name:?}, or any other"),
            names => format!(
                "no plugin provides the {family} driver {name:?}; there are {}",
                names.join(", ")
            ),
        };
        for refused in &self.refused {
            message.push_str(&format!(
                "; {} was not loaded: {}",
                refused.source.display(),
                refused.reason
            ));
        }
        Err(DriverError::new("not-found", message))
    }

    /// All plugins in the order of the configuration, then the files that could not be loaded.
    pub fn plugins(&self) -> Vec<PluginStatus> {
        self.entries
            .iter()
            .map(status)
            .chain(self.refused.iter().map(refused_status))
            .collect()
    }

    /// The plugin with this id.
    pub fn plugin(&self, id: &str) -> Option<PluginStatus> {
        self.entries.iter().find(|entry| entry.plugin.id() == id).map(status)
    }

    /// The plugin with this id as the broker sees it, for what the host does on its behalf.
    ///
    /// # Errors
    /// `not-found`.
    pub fn subject(&self, id: &str) -> Result<Arc<Subject>, DriverError> {
        let entry = self.entries.iter().find(|entry| entry.plugin.id() == id);
        entry
            .map(|entry| Arc::clone(&entry.plugin.subject))
            .ok_or_else(|| DriverError::new("not-found", format!("there is no plugin {id}")))
    }

    /// The last lines that the plugin logged, oldest first.
    pub fn logs(&self, id: &str) -> Option<Vec<LogLine>> {
        self.entries
            .iter()
            .find(|entry| entry.plugin.id() == id)
            .map(|entry| entry.plugin.log.lines())
    }

    /// Takes a plugin out of quarantine, and loads one again whose code could not be compiled or mapped (a full disk, a
    /// machine without memory). Returns before the code is there; calls wait for it.
    ///
    /// # Errors
    /// `not-found`, where there is no such plugin, and `io`, where its quarantine can't be struck off the disk: it is back in
    /// service then, and would be in quarantine again after the next start.
    pub async fn enable(&self, id: &str) -> Result<(), DriverError> {
        let entry = self
            .entries
            .iter()
            .find(|entry| entry.plugin.id() == id)
            .ok_or_else(|| DriverError::new("not-found", format!("there is no plugin {id:?}")))?;
        let plugin = &entry.plugin;
        plugin.health.lift();
        let again = plugin.phase.send_if_modified(|phase| {
            let failed = matches!(phase, Phase::Failed(_));
            if failed {
                *phase = Phase::Loading;
            }
            failed
        });
        if again {
            tokio::spawn(Arc::clone(&self.loader).load(Arc::clone(plugin)));
        }
        plugin.keep_health().await
    }

    /// Waits until every plugin can be called or has failed. Calls need not: they wait for their own plugin.
    pub async fn settled(&self) {
        for entry in &self.entries {
            let mut phase = entry.plugin.phase.subscribe();
            // The sender lives in the plugin, which lives in the entry.
            let _ = phase.wait_for(|phase| !matches!(phase, Phase::Loading)).await;
        }
    }
}

impl Drivers for PluginHost {
    fn storage(&self, name: &str) -> Result<Arc<dyn StorageDriver>, DriverError> {
        Ok(Arc::new(StorageAdapter::new(self.resolve("storage", name)?, name)))
    }

    fn network(&self, name: &str) -> Result<Arc<dyn NetworkDriver>, DriverError> {
        Ok(Arc::new(NetworkAdapter::new(self.resolve("network", name)?, name)))
    }

    fn image(&self, name: &str) -> Result<Arc<dyn ImageDriver>, DriverError> {
        Ok(Arc::new(ImageAdapter::new(self.resolve("image", name)?, name)))
    }

    fn list(&self, family: &str) -> Vec<DriverInfo> {
        self.entries
            .iter()
            .filter(|entry| entry.plugin.manifest.family() == family)
            .flat_map(|entry| entry.names.iter().map(|name| entry.plugin.info(name)))
            .collect()
    }

    fn settled(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(PluginHost::settled(self))
    }

    fn events(&self) -> Box<dyn EventStream> {
        Box::new(Events(self.events.subscribe()))
    }
}

struct Events(broadcast::Receiver<DriverEvent>);

#[async_trait::async_trait]
impl EventStream for Events {
    async fn next(&mut self) -> Option<DriverEvent> {
        loop {
            match self.0.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(lost)) => {
                    tracing::warn!(
                        lost,
                        "driver events came faster than they were taken; the oldest are lost"
                    );
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

fn status(entry: &Entry) -> PluginStatus {
    let plugin = &entry.plugin;
    let manifest = &plugin.manifest;
    let quarantined = plugin.health.quarantined();
    let (state, reason) = match (&*plugin.phase.borrow(), &quarantined) {
        (Phase::Failed(reason), _) => (PluginState::Failed, reason.to_string()),
        (_, Some(quarantine)) => (PluginState::Quarantined, quarantine.reason.clone()),
        (Phase::Loading, None) => (PluginState::Loading, String::new()),
        (Phase::Ready(_), None) => (PluginState::Enabled, taken_names(entry)),
    };
    PluginStatus {
        id: manifest.id.clone(),
        version: manifest.version.clone(),
        license: manifest.license.clone(),
        description: manifest.description.clone(),
        digest: plugin.digest.clone(),
        source: entry.source.clone(),
        state,
        reason,
        family: manifest.family().to_owned(),
        provides: manifest.names().to_vec(),
        abilities: plugin.abilities.clone(),
        requested: plugin.subject.grants.requested.clone(),
        granted: plugin.subject.grants.granted.clone(),
        limits: manifest.limits.clone(),
        config: manifest.config.clone(),
        options: manifest.options.clone(),
        metrics: plugin.counters.snapshot(),
        loaded_at: *plugin.loaded.lock(),
        quarantined_at: quarantined.map(|quarantine| quarantine.since),
    }
}

fn taken_names(entry: &Entry) -> String {
    let taken: Vec<_> = entry
        .plugin
        .manifest
        .names()
        .iter()
        .filter(|name| !entry.names.contains(name))
        .map(String::as_str)
        .collect();
    if taken.is_empty() {
        String::new()
    } else {
        format!("provided by an earlier plugin: {}", taken.join(", "))
    }
}

fn refused_status(refused: &Refused) -> PluginStatus {
    PluginStatus {
        id: String::new(),
        version: String::new(),
        license: String::new(),
        description: String::new(),
        digest: String::new(),
        source: refused.source.clone(),
        state: PluginState::Failed,
        reason: refused.reason.clone(),
        family: String::new(),
        provides: Vec::new(),
        abilities: Vec::new(),
        requested: Permissions::default(),
        granted: Permissions::default(),
        limits: crate::manifest::Limits::default(),
        config: crate::manifest::Section::default(),
        options: crate::manifest::Section::default(),
        metrics: crate::health::PluginMetrics::default(),
        loaded_at: None,
        quarantined_at: None,
    }
}

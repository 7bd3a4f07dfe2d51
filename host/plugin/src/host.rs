//! The plugin host: which plugins there are, how they get into service, and where the core finds their drivers.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use arc_swap::ArcSwap;
use hutch_broker::{Broker, Permissions, Subject};
use hutch_driver::image::ImageDriver;
use hutch_driver::network::NetworkDriver;
use hutch_driver::storage::StorageDriver;
use hutch_driver::zone::ZoneDriver;
use hutch_driver::{DriverError, DriverEvent, DriverInfo, Drivers, EventStream};
use tokio::sync::{Semaphore, broadcast};

use crate::adapter::{ImageAdapter, NetworkAdapter, StorageAdapter, ZoneAdapter};
use crate::change::ChangeError;
use crate::compile::{Cache, CompileError};
use crate::config::PluginHostOptions;
use crate::doubt::doubts_of_held;
use crate::engine::{MAX_INSTANCES, Runtime};
use crate::fetch;
use crate::files::{FileError, FileStore};
use crate::load::{Candidate, Loader, candidates, linker};
use crate::log::LogLine;
use crate::plugin::{Phase, Plugin, Shared, Slot};
use crate::registry::{Record, Registry, RegistryError};
use crate::staged::Staged;
use crate::status::{PluginState, PluginStatus};
use crate::sync::Mutex;
use crate::table::{Entry, Refused, Sources, Table};
use crate::trust::{Trust, TrustError};

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
    /// The registry can't be used. Without it nobody knows what was granted.
    #[error("can't use the registry of plugins")]
    Registry(#[source] RegistryError),
    /// The publishers' keys can't be used. Without them nobody knows whom to believe.
    #[error("can't use the publishers' keys")]
    Trust(#[source] TrustError),
    /// The cache of compiled code can't be used.
    #[error("can't use the cache of compiled plugins")]
    Cache(#[source] CompileError),
}

/// See the module's documentation.
pub struct PluginHost {
    /// What there is now.
    pub(crate) table: ArcSwap<Table>,
    /// What was decided by command. Whoever changes anything holds it: one change at a time.
    pub(crate) registry: Arc<tokio::sync::Mutex<Registry>>,
    /// What the configuration or the bundled directory gives, in order.
    pub(crate) bases: Vec<Candidate>,
    /// Whose signatures are believed.
    pub(crate) trust: Mutex<Trust>,
    /// Where files lie that are being fetched.
    pub(crate) incoming: PathBuf,
    /// Files that are being taken in.
    pub(crate) staged: Arc<Staged>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) loader: Arc<Loader>,
    events: broadcast::Sender<DriverEvent>,
}

impl PluginHost {
    /// Reads what is to be loaded and returns; code is compiled and mapped in the background, and calls wait for it.
    ///
    /// Must be called within a tokio runtime. `events` is the channel on which the broker reports what `watch` tells it.
    ///
    /// # Errors
    /// Only where no plugin could be loaded at all: the engine, the store, the registry or the cache can't be used.
    pub fn start(
        options: PluginHostOptions,
        broker: Arc<dyn Broker>,
        events: broadcast::Sender<DriverEvent>,
    ) -> Result<Arc<Self>, HostError> {
        let runtime = Runtime::new(MAX_INSTANCES).map_err(HostError::Engine)?;
        let files = FileStore::open(options.state_dir.join("plugins/sha256")).map_err(HostError::Store)?;
        let files = Arc::new(files);
        let registry = Registry::open(&options.state_dir.join("plugins")).map_err(HostError::Registry)?;
        let trust = Trust::open(&options.state_dir.join("plugins")).map_err(HostError::Trust)?;
        let incoming = options.state_dir.join("plugins/incoming");
        fetch::empty(&incoming).map_err(HostError::Store)?;
        let cache = Cache::open(
            options.state_dir.join("cache/plugins"),
            options.compiler.clone(),
            runtime.engine(),
        )
        .map_err(HostError::Cache)?;
        cache.tidy();
        let linker = linker(runtime.engine()).map_err(HostError::Engine)?;
        let (bases, records) = (candidates(&options, &files), registry.records().to_vec());
        let in_daemon = bases.iter().filter(|base| !base.worker);
        let shared = Arc::new(Shared {
            runtime,
            broker,
            files: Arc::clone(&files),
            lingering: Arc::default(),
            instances: Semaphore::new(MAX_INSTANCES as usize),
            quarantine: options.quarantine,
            workers: options.workers,
            in_daemon: in_daemon
                .filter_map(|base| base.found.as_ref().ok())
                .map(|stored| stored.digest.clone())
                .collect(),
        });
        let host = Arc::new(Self {
            table: ArcSwap::default(),
            registry: Arc::new(tokio::sync::Mutex::new(registry)),
            bases,
            trust: Mutex::new(trust),
            incoming,
            staged: Arc::default(),
            shared,
            loader: Arc::new(Loader {
                files,
                cache,
                linker,
                compilers: Semaphore::new(COMPILERS),
            }),
            events,
        });
        host.arrange(&records, &[]);
        let sweeping = Arc::clone(&host);
        tokio::spawn(async move { sweeping.sweep_all().await });
        Ok(host)
    }

    /// Makes the table of what was decided, and has it hold. `prepared` are plugins whose code is in memory already.
    pub(crate) fn arrange(&self, records: &[Record], prepared: &[Arc<Plugin>]) {
        let before = self.table.load();
        let (table, fresh) = Sources {
            bases: &self.bases,
            records,
            before: &before,
            prepared,
            files: &self.loader.files,
            shared: &self.shared,
        }
        .arrange();
        self.table.store(Arc::new(table));
        for plugin in fresh {
            tokio::spawn(Arc::clone(&self.loader).load(plugin));
        }
    }

    /// The plugin that provides `name`, or an error that says what there is instead.
    fn resolve(&self, family: &str, name: &str) -> Result<Arc<Slot>, DriverError> {
        let table = self.table.load();
        if let Some(entry) = table.find(family, name) {
            entry.slot.current().in_service()?;
            return Ok(Arc::clone(&entry.slot));
        }
        let known: Vec<_> = self.list(family).into_iter().map(|info| info.name).collect();
        let mut message = match known.as_slice() {
            [] => format!("no plugin provides the {family} driver {name:?}, or any other"),
            names => format!(
                "no plugin provides the {family} driver {name:?}; there are {}",
                names.join(", ")
            ),
        };
        for refused in &table.refused {
            message.push_str(&format!("; {} was not loaded: {}", refused.source, refused.reason));
        }
        Err(DriverError::new("not-found", message))
    }

    /// All plugins in the order in which they are preferred, then those that could not be loaded.
    pub fn plugins(&self) -> Vec<PluginStatus> {
        let table = self.table.load();
        let refused = table.refused.iter().map(refused_status);
        table.entries.iter().map(status).chain(refused).collect()
    }

    /// The plugin with this id.
    pub fn plugin(&self, id: &str) -> Option<PluginStatus> {
        self.table.load().entry(id).map(status)
    }

    /// The plugin with this id as the broker sees it, for what the host does on its behalf.
    ///
    /// # Errors
    /// `not-found`.
    pub fn subject(&self, id: &str) -> Result<Arc<Subject>, DriverError> {
        let table = self.table.load();
        let entry = table.entry(id);
        entry
            .map(|entry| Arc::clone(&entry.slot.current().subject))
            .ok_or_else(|| DriverError::new("not-found", format!("there is no plugin {id}")))
    }

    /// The names that would no longer be provided if the plugin were removed, by family; empty where one that came with the
    /// daemon provides them, too.
    pub fn lost_with(&self, id: &str) -> (String, Vec<String>) {
        let table = self.table.load();
        let Some(entry) = table.entry(id) else {
            return Default::default();
        };
        let bundled = self.bundled(id);
        let stays = |name: &String| bundled.as_ref().is_some_and(|b| b.manifest.names().contains(name));
        let names = entry.names.iter().filter(|name| !stays(name)).cloned().collect();
        (entry.slot.current().manifest.family().to_owned(), names)
    }

    /// The file of a plugin that is in use, with its signature if it has one, for `save`.
    ///
    /// # Errors
    /// When there is no such plugin, or its file was changed.
    pub async fn file(&self, id: &str) -> Result<(Vec<u8>, Option<String>), ChangeError> {
        let digest = self.slot(id)?.current().digest.clone();
        let registry = self.registry.lock().await;
        let active = registry.get(id).and_then(|record| record.active.as_ref());
        let signature = active.filter(|version| version.digest == digest);
        let signature = signature.and_then(|version| version.signature.clone());
        drop(registry);
        let files = Arc::clone(&self.loader.files);
        let bytes = tokio::task::spawn_blocking(move || files.read(&digest)).await??;
        Ok((bytes, signature))
    }

    /// The last lines that the plugin logged, oldest first.
    pub fn logs(&self, id: &str) -> Option<Vec<LogLine>> {
        let table = self.table.load();
        table.entry(id).map(|entry| entry.slot.standing.log.lines())
    }

    /// Waits until every plugin can be called or has failed. Calls need not: they wait for their own plugin.
    pub async fn settled(&self) {
        let table = self.table.load_full();
        for entry in &table.entries {
            let plugin = entry.slot.current();
            let mut phase = plugin.phase.subscribe();
            // The sender lives in the plugin, which lives as long as this.
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

    fn zone(&self, name: &str) -> Result<Arc<dyn ZoneDriver>, DriverError> {
        Ok(Arc::new(ZoneAdapter::new(self.resolve("zone", name)?, name)))
    }

    fn image(&self, name: &str) -> Result<Arc<dyn ImageDriver>, DriverError> {
        Ok(Arc::new(ImageAdapter::new(self.resolve("image", name)?, name)))
    }

    fn list(&self, family: &str) -> Vec<DriverInfo> {
        let table = self.table.load();
        let mut list = Vec::new();
        for entry in table.entries.iter().filter(|entry| entry.slot.standing.enabled()) {
            let plugin = entry.slot.current();
            if plugin.manifest.family() == family {
                list.extend(entry.names.iter().map(|name| plugin.info(name)));
            }
        }
        list
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
    let plugin = entry.slot.current();
    let manifest = &plugin.manifest;
    let quarantined = plugin.health.quarantined();
    let (state, reason) = match (&*plugin.phase.borrow(), &quarantined) {
        _ if !entry.slot.standing.enabled() => (PluginState::Disabled, String::new()),
        (Phase::Failed(reason), _) => (PluginState::Failed, reason.to_string()),
        (_, Some(quarantine)) => (PluginState::Quarantined, quarantine.reason.clone()),
        (Phase::Loading, None) => (PluginState::Loading, String::new()),
        (Phase::Ready(_), None) => (PluginState::Enabled, taken_names(entry, manifest.names())),
    };
    let process = match &*plugin.phase.borrow() {
        Phase::Ready(ready) => ready.place.process(),
        Phase::Loading | Phase::Failed(_) => None,
    };
    PluginStatus {
        id: manifest.id.clone(),
        version: manifest.version.clone(),
        license: manifest.license.clone(),
        description: manifest.description.clone(),
        digest: plugin.digest.clone(),
        source: entry.source.clone(),
        origin: entry.origin,
        record: entry.record.clone().map(|record| with_doubts(record, &plugin)),
        state,
        reason,
        family: manifest.family().to_owned(),
        provides: manifest.names().to_vec(),
        abilities: plugin.abilities.clone(),
        requested: plugin.subject.grants.requested.clone(),
        granted: Permissions::clone(&entry.slot.standing.granted.get()),
        limits: manifest.limits.clone(),
        config: manifest.config.clone(),
        options: manifest.options.clone(),
        recent_faults: plugin
            .health
            .counted(plugin.shared.quarantine, std::time::Instant::now()),
        metrics: entry.slot.standing.counters.snapshot(),
        process,
        loaded_at: *plugin.loaded.lock(),
        quarantined_at: quarantined.map(|quarantine| quarantine.since),
    }
}

/// The record with what there is to say against a held version in the place of what is in use now: when it began to wait, that may have
/// been another.
fn with_doubts(mut record: Record, present: &Plugin) -> Record {
    if let Some(held) = &mut record.held {
        held.doubts = doubts_of_held(present, record.active.as_ref(), held);
    }
    record
}

fn taken_names(entry: &Entry, names: &[String]) -> String {
    let taken: Vec<_> = names
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
        id: refused.id.clone(),
        version: String::new(),
        license: String::new(),
        description: String::new(),
        digest: String::new(),
        source: refused.source.clone(),
        origin: refused.origin,
        record: None,
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
        recent_faults: 0,
        metrics: crate::counters::PluginMetrics::default(),
        process: None,
        loaded_at: None,
        quarantined_at: None,
    }
}

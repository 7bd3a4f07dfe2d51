//! A plugin that is part of the running daemon: one version of it, and what lasts through its versions.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use hutch_broker::{Broker, Granted, Permissions, Subject};
use hutch_driver::{DriverError, DriverInfo};
use tokio::sync::{Semaphore, watch};

use crate::code::Code;
use crate::counters::Counters;
use crate::engine::Runtime;
use crate::export::Exports;
use crate::files::FileStore;
use crate::health::{Health, QuarantinePolicy};
use crate::lingering::Lingering;
use crate::log::PluginLog;
use crate::manifest::Manifest;
use crate::sync::Mutex;
use crate::worker::{Supervisor, Workers};

/// What all plugins of a host share.
pub(crate) struct Shared {
    pub(crate) runtime: Runtime,
    pub(crate) broker: Arc<dyn Broker>,
    /// Where the plugins' files are, and the records of quarantines.
    pub(crate) files: Arc<FileStore>,
    pub(crate) lingering: Arc<Lingering>,
    /// Places in the engine's pool.
    pub(crate) instances: Semaphore,
    pub(crate) quarantine: QuarantinePolicy,
    /// How the processes of plugins are started.
    pub(crate) workers: Workers,
    /// The digests of those that run in this process: the ones that come with it, unless the configuration says otherwise.
    pub(crate) in_daemon: BTreeSet<String>,
}

/// A plugin that can be called.
pub(crate) struct Ready {
    pub(crate) exports: Exports,
    pub(crate) place: Place,
}

/// Where a plugin's guests run.
pub(crate) enum Place {
    /// In this process.
    Here(Code),
    /// In a process of the plugin's own.
    Worker(Supervisor),
}

impl Place {
    /// The process id of the worker, where it is one.
    pub(crate) fn process(&self) -> Option<u32> {
        match self {
            Self::Here(_) => None,
            Self::Worker(worker) => Some(worker.pid()),
        }
    }
}

/// How far a plugin is on its way into service.
#[derive(Clone)]
pub(crate) enum Phase {
    /// It is being compiled, or its code is being mapped.
    Loading,
    /// It can be called.
    Ready(Arc<Ready>),
    /// It can't be used, and why.
    Failed(Arc<str>),
}

/// What is one plugin's, whichever version of it is in use. A call that goes on in the version before sees it, too.
pub(crate) struct Standing {
    pub(crate) log: Arc<PluginLog>,
    pub(crate) counters: Arc<Counters>,
    /// What it may do.
    pub(crate) granted: Granted,
    enabled: AtomicBool,
    gone: AtomicBool,
}

impl Standing {
    pub(crate) fn new(id: &str) -> Self {
        Self {
            log: Arc::new(PluginLog::new(id)),
            counters: Arc::default(),
            granted: Granted::default(),
            enabled: AtomicBool::new(true),
            gone: AtomicBool::new(false),
        }
    }

    /// Whether the operator wants it in service.
    pub(crate) fn enabled(&self) -> bool {
        self.enabled.load(Ordering::Acquire)
    }

    /// Whether the plugin was removed. Calls that go on get nothing from the host any more, so that they leave nothing behind.
    pub(crate) fn gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Has it be so.
    pub(crate) fn leave(&self) {
        self.decide(false, &Permissions::default());
        self.gone.store(true, Ordering::Release);
    }

    /// Has what was decided hold from the next call and the next host function on.
    pub(crate) fn decide(&self, enabled: bool, granted: &Permissions) {
        self.granted.set(granted.clone());
        self.enabled.store(enabled, Ordering::Release);
    }
}

/// A plugin's place in the daemon. Whoever has it reaches the version that is in use at that moment, so that an upgrade happens
/// between two calls: what runs ends in the version that it began in, which goes with the last of its calls.
pub(crate) struct Slot {
    pub(crate) standing: Arc<Standing>,
    current: ArcSwap<Plugin>,
}

impl Slot {
    pub(crate) fn new(plugin: Arc<Plugin>) -> Self {
        Self {
            standing: Arc::clone(&plugin.standing),
            current: ArcSwap::new(plugin),
        }
    }

    /// The version that is in use now.
    pub(crate) fn current(&self) -> Arc<Plugin> {
        self.current.load_full()
    }

    /// Has all calls from now on go to `plugin`.
    pub(crate) fn switch(&self, plugin: Arc<Plugin>) {
        self.current.store(plugin);
    }
}

/// One version of a plugin.
pub(crate) struct Plugin {
    pub(crate) shared: Arc<Shared>,
    pub(crate) standing: Arc<Standing>,
    pub(crate) manifest: Manifest,
    pub(crate) digest: String,
    pub(crate) abilities: Vec<String>,
    pub(crate) subject: Arc<Subject>,
    pub(crate) health: Arc<Health>,
    /// Calls at once, as its manifest limits them.
    pub(crate) turns: Semaphore,
    pub(crate) phase: watch::Sender<Phase>,
    /// Whether its guests run in a process of their own.
    pub(crate) worker: bool,
    /// When its code was last brought into memory.
    pub(crate) loaded: Mutex<Option<SystemTime>>,
}

impl Plugin {
    /// The plugin's id.
    pub(crate) fn id(&self) -> &str {
        &self.manifest.id
    }

    /// Who provides the driver `name`.
    pub(crate) fn info(&self, name: &str) -> DriverInfo {
        DriverInfo {
            name: name.to_owned(),
            plugin: self.manifest.id.clone(),
            version: self.manifest.version.clone(),
            abilities: self.abilities.clone(),
        }
    }

    /// The plugin's code, once it is there. Loading comes to an end by itself: the compiler has a time of its own.
    pub(crate) async fn ready(&self) -> Result<Arc<Ready>, DriverError> {
        self.in_service()?;
        let mut phase = self.phase.subscribe();
        let loaded = phase.wait_for(|phase| !matches!(phase, Phase::Loading)).await;
        match loaded.as_deref() {
            Ok(Phase::Ready(ready)) => Ok(Arc::clone(ready)),
            Ok(Phase::Failed(reason)) => Err(self.unavailable(reason)),
            Ok(Phase::Loading) | Err(_) => Err(self.unavailable("the plugin host is going down")),
        }
    }

    /// Lets go of its process, where it has one of its own: it is out of service.
    pub(crate) fn rest(&self) {
        let ready = match &*self.phase.borrow() {
            Phase::Ready(ready) => Some(Arc::clone(ready)),
            Phase::Loading | Phase::Failed(_) => None,
        };
        if let Some(Place::Worker(worker)) = ready.as_deref().map(|ready| &ready.place) {
            worker.rest();
        }
    }

    /// Why the plugin can't be called, as far as that is known now: one that is being loaded may turn out either way.
    pub(crate) fn in_service(&self) -> Result<(), DriverError> {
        if !self.standing.enabled() {
            return Err(self.unavailable(&format!(
                "it is disabled; `hutch plugin enable {}` takes it into service",
                self.id()
            )));
        }
        if let Some(quarantine) = self.health.quarantined() {
            return Err(self.unavailable(&format!(
                "it is in quarantine ({}); `hutch plugin enable {}` takes it back into service",
                quarantine.reason,
                self.id()
            )));
        }
        match &*self.phase.borrow() {
            Phase::Failed(reason) => Err(self.unavailable(reason)),
            Phase::Loading | Phase::Ready(_) => Ok(()),
        }
    }

    pub(crate) fn unavailable(&self, reason: &str) -> DriverError {
        DriverError::new("unavailable", reason).from_plugin(self.id(), &self.manifest.version)
    }
}

//! A plugin that is part of the running daemon.

use std::sync::Arc;
use std::time::SystemTime;

use hutch_broker::{Broker, Subject};
use hutch_driver::{DriverError, DriverInfo};
use tokio::sync::{Semaphore, watch};
use wasmtime::component::InstancePre;

use crate::engine::Runtime;
use crate::export::Exports;
use crate::files::FileStore;
use crate::health::{Counters, Health, QuarantinePolicy};
use crate::lingering::Lingering;
use crate::log::PluginLog;
use crate::manifest::Manifest;
use crate::state::CallState;
use crate::sync::Mutex;

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
}

/// A plugin whose code is in memory.
pub(crate) struct Ready {
    pub(crate) pre: InstancePre<CallState>,
    pub(crate) exports: Exports,
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

/// See the module's documentation.
pub(crate) struct Plugin {
    pub(crate) shared: Arc<Shared>,
    pub(crate) manifest: Manifest,
    pub(crate) digest: String,
    pub(crate) abilities: Vec<String>,
    pub(crate) subject: Arc<Subject>,
    pub(crate) log: Arc<PluginLog>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) health: Arc<Health>,
    /// Calls at once, as its manifest limits them.
    pub(crate) turns: Semaphore,
    pub(crate) phase: watch::Sender<Phase>,
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

    /// Why the plugin can't be called, as far as that is known now: one that is being loaded may turn out either way.
    pub(crate) fn in_service(&self) -> Result<(), DriverError> {
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

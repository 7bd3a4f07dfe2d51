//! One plugin's worker: started when it is needed, and started anew when it has ended.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Workers;
use super::client::Client;
use super::protocol::{Failed, Hello, Outcome, Sender, VERSION, decode, encode};
use crate::bindings::host::types::Error as GuestError;
use crate::counters::Used;
use crate::desk::HostDesk;
use crate::export::Export;
use crate::harm::{Fault, Lost};
use crate::health::Health;
use crate::plugin::{Plugin, Standing};
use crate::sync::Mutex;

/// Bytes that a worker may write to before it runs anything: its program, the engine, buffers for the longest messages.
const BASE_MEMORY: u64 = 192 << 20;
/// The same for each call at once, beyond the guest's linear memory: its stack, its tables.
const CALL_MEMORY: u64 = 8 << 20;

/// Why there is no worker.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// The process can't be started.
    #[error("its process can't be started")]
    Process(#[source] io::Error),
    /// The code is not for this machine or this version, and should be made again.
    #[error("its process can't use the code: {0}")]
    Code(String),
    /// The plugin does not fit its world.
    #[error("{0}")]
    Plugin(String),
    /// A process without all of its walls runs nothing.
    #[error(
        "its process can't be confined: {0}; `worker = false` in its configuration lets it run in the daemon, with all that the daemon may do"
    )]
    Walls(String),
    /// The process ended or spoke nonsense.
    #[error("its process {0}")]
    Lost(String),
    /// The plugin was taken out of service meanwhile.
    #[error("the plugin is out of service")]
    Resting,
}

impl From<Failed> for StartError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Code(why) => Self::Code(why),
            Failed::Plugin(why) => Self::Plugin(why),
            Failed::Walls(why) => Self::Walls(why),
            Failed::Machine(why) => Self::Process(io::Error::other(why)),
        }
    }
}

/// See the module's documentation.
pub(crate) struct Supervisor {
    plugin: String,
    workers: Workers,
    code: File,
    memory: u64,
    hello: Hello,
    running: Mutex<Option<Arc<Client>>>,
    /// Held by whoever starts one. Apart from what runs, so that nobody who lets go of that waits for a start.
    starting: tokio::sync::Mutex<()>,
    /// The process id of the last one that was started.
    pid: AtomicU32,
    /// Whether the operator wants the plugin in service, and where it is counted that one is started anew.
    standing: Arc<Standing>,
    /// Whether the plugin is in quarantine.
    health: Arc<Health>,
}

impl Supervisor {
    /// For `plugin`, whose code is in the file `code`.
    pub(crate) fn new(code: File, plugin: &Plugin) -> Self {
        let limits = &plugin.manifest.limits;
        // Read and then copied to where it is executed.
        let code_memory = code.metadata().map_or(0, |meta| meta.len()) * 2;
        let calls = u64::from(limits.concurrency) * (limits.memory.0 + CALL_MEMORY);
        Self {
            plugin: plugin.id().to_owned(),
            workers: plugin.shared.workers.clone(),
            memory: BASE_MEMORY + code_memory + calls,
            code,
            hello: Hello {
                version: VERSION,
                family: plugin.manifest.family().to_owned(),
                abilities: plugin.abilities.clone(),
                memory: limits.memory.0,
                cpu_time: limits.cpu_time.0,
                concurrency: limits.concurrency,
            },
            running: Mutex::default(),
            starting: tokio::sync::Mutex::default(),
            pid: AtomicU32::new(0),
            standing: Arc::clone(&plugin.standing),
            health: Arc::clone(&plugin.health),
        }
    }

    /// Starts the first worker, which tells whether the code can be used. It is let go of at once where the plugin is out of service.
    ///
    /// # Errors
    /// See [`StartError`].
    pub(crate) async fn begin(&self) -> Result<(), StartError> {
        let _starting = self.starting.lock().await;
        match self.start().await {
            Ok(_) | Err(StartError::Resting) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The worker, started anew where it has ended or was let go of; none of a plugin that is out of service.
    async fn client(&self) -> Result<Arc<Client>, StartError> {
        if let Some(client) = self.running()? {
            return Ok(client);
        }
        let _starting = self.starting.lock().await;
        // Another call may have started it, and the plugin may have been taken out of service.
        if let Some(client) = self.running()? {
            return Ok(client);
        }
        self.start().await
    }

    /// The worker that runs.
    fn running(&self) -> Result<Option<Arc<Client>>, StartError> {
        let mut running = self.running.lock();
        self.in_service()?;
        if running.as_ref().is_some_and(|client| client.is_over()) {
            *running = None;
            self.standing.counters.restart();
        }
        Ok(running.clone())
    }

    async fn start(&self) -> Result<Arc<Client>, StartError> {
        let code = self.code.try_clone().map_err(StartError::Process)?;
        let client = Client::start(&self.plugin, &self.workers, code, self.memory, &self.hello).await?;
        self.pid.store(client.pid(), Ordering::Relaxed);
        let mut running = self.running.lock();
        // Whoever takes a plugin out of service lets go of its worker after that, under this lock: this one is either seen there, or
        // not kept.
        self.in_service()?;
        Ok(Arc::clone(running.insert(Arc::new(client))))
    }

    fn in_service(&self) -> Result<(), StartError> {
        match self.standing.enabled() && self.health.quarantined().is_none() {
            true => Ok(()),
            false => Err(StartError::Resting),
        }
    }

    /// Lets go of the worker of a plugin that was taken out of service. It ends with the last call that it is in. Waits for nothing:
    /// a worker that is being started meanwhile is let go of by whoever starts it.
    pub(crate) fn rest(&self) {
        drop(self.running.lock().take());
    }

    /// The process id of the worker, or of the last one where it has ended and was not needed since.
    pub(crate) fn pid(&self) -> u32 {
        self.pid.load(Ordering::Relaxed)
    }

    /// Calls `export` in the worker. What its guest asks for is asked at `desk`. Answers also with what it says that the guest used.
    pub(crate) async fn call<P: Serialize, T: DeserializeOwned>(
        &self,
        export: &Export<P, T>,
        params: P,
        desk: Arc<HostDesk>,
    ) -> (Result<Result<T, GuestError>, Fault>, Used) {
        let mut used = Used::default();
        let outcome = self.outcome(export, params, desk, &mut used).await;
        (outcome, used)
    }

    async fn outcome<P: Serialize, T: DeserializeOwned>(
        &self,
        export: &Export<P, T>,
        params: P,
        desk: Arc<HostDesk>,
        used: &mut Used,
    ) -> Result<Result<T, GuestError>, Fault> {
        let unreadable = |error: postcard::Error| Fault::Unreadable(error.to_string());
        // No guest has run until the worker is ready and has got the call: what goes wrong before is the host's.
        let own = |reason: String| Fault::Worker(Lost { reason, blame: false });
        let params = encode(&params).map_err(|error| own(format!("its parameters can't be written: {error}")))?;
        let lost = |error: StartError| match error {
            StartError::Plugin(reason) => Fault::Worker(Lost { reason, blame: true }),
            error => own(crate::load::with_causes(&error)),
        };
        let client = self.client().await.map_err(lost)?;
        let outcome;
        (outcome, *used) = client.call(export.name, params, &desk).await.map_err(Fault::Worker)?;
        match outcome {
            Outcome::Answer(bytes) => decode(&bytes, Sender::Worker).map_err(unreadable),
            Outcome::Fault(fault) => Err(fault),
            // Only what nobody waits for is cancelled.
            Outcome::Cancelled => Err(Fault::Unreadable("that it was cancelled".to_owned())),
        }
    }
}

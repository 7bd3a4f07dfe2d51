//! One plugin's worker: started when it is needed, and started anew when it has ended.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;

use super::Workers;
use super::client::Client;
use super::protocol::{Failed, Hello, Outcome, VERSION, decode, encode};
use crate::bindings::host::types::Error as GuestError;
use crate::counters::{Counters, Used};
use crate::desk::HostDesk;
use crate::export::Export;
use crate::harm::{Fault, Lost};
use crate::plugin::Plugin;

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
}

impl From<Failed> for StartError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Code(why) => Self::Code(why),
            Failed::Plugin(why) => Self::Plugin(why),
            Failed::Walls(why) => Self::Walls(why),
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
    /// The process id of the last one that was started.
    pid: AtomicU32,
    /// Where it is counted that one is started anew.
    counters: Arc<Counters>,
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
            running: Mutex::new(None),
            pid: AtomicU32::new(0),
            counters: Arc::clone(&plugin.standing.counters),
        }
    }

    /// Starts the worker, unless it runs.
    ///
    /// # Errors
    /// See [`StartError`].
    pub(crate) async fn begin(&self) -> Result<(), StartError> {
        self.client().await.map(drop)
    }

    async fn client(&self) -> Result<Arc<Client>, StartError> {
        let mut running = self.running.lock().await;
        if let Some(client) = running.as_ref().filter(|client| !client.is_over()) {
            return Ok(Arc::clone(client));
        }
        if running.take().is_some() {
            self.counters.restart();
        }
        let code = self.code.try_clone().map_err(StartError::Process)?;
        let client = Client::start(&self.plugin, &self.workers, code, self.memory, &self.hello).await?;
        self.pid.store(client.pid(), Ordering::Relaxed);
        Ok(Arc::clone(running.insert(Arc::new(client))))
    }

    /// Lets go of the worker, which ends with the last call that it is in. The next call starts another.
    pub(crate) async fn rest(&self) {
        drop(self.running.lock().await.take());
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
            Outcome::Answer(bytes) => decode(&bytes).map_err(unreadable),
            Outcome::Fault(fault) => Err(fault),
            // Only what nobody waits for is cancelled.
            Outcome::Cancelled => Err(Fault::Unreadable("that it was cancelled".to_owned())),
        }
    }
}

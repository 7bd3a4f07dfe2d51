//! One call of a plugin: an instance of its own, made for the call and dropped with it.
//!
//! Warm instances, for the paths where even that is too slow, are a matter of the families that need them (datagrams of a
//! zone, a watched database); they will stand beside [`Plugin::call`] and share everything below it.

use std::sync::Arc;
use std::time::Duration;

use hutch_broker::CallContext;
use hutch_driver::{Call, DriverError};
use tokio::time::Instant;
use tracing::Instrument;
use wasmtime::component::{ComponentNamedList, ComponentType, Lift, Lower};
use wasmtime::{Store, Trap};

use crate::bindings::host::types::Error as GuestError;
use crate::export::{Answer, Export, Exports};
use crate::functions::HostFault;
use crate::health::QuarantinePolicy;
use crate::log::{CallLog, one_line};
use crate::plugin::{Plugin, Ready};
use crate::state::{Bounds, CallState, GuestClock, on_tick};

/// How long a call may go on after its host functions were given up, so that the guest can tidy up and say why it failed.
const GRACE: Duration = Duration::from_secs(2);
/// Bytes that a guest may pass to the host in one function, and answer with. Strings that overlap in its memory count as
/// often as they are named.
const MAX_TRANSFER: usize = 16 << 20;
/// What wasmtime says of a transfer beyond that, for which it has no type of its own.
const TOO_MUCH_DATA: &str = "fuel allocated for hostcalls has been exhausted";
/// Handles of component-model resources that an instance may hold: streams and the like, of which it needs a few.
const MAX_HANDLES: usize = 1024;
/// Bounds of an error that a guest makes up.
const MAX_CODE: usize = 128;
const MAX_MESSAGE: usize = 2048;
const MAX_DETAILS: usize = 16;

/// How a call failed, and whether the plugin is to blame in a way that counts towards its quarantine.
struct Failure {
    error: DriverError,
    fault: bool,
}

impl Failure {
    fn fault(code: &str, message: String) -> Self {
        Self {
            error: DriverError::new(code, message),
            fault: true,
        }
    }

    fn plain(error: DriverError) -> Self {
        Self { error, fault: false }
    }
}

impl Plugin {
    /// Calls a function of the plugin for `call`. `target` names what it works on, finer than the call's object where
    /// parts of the object can be worked on side by side; `pick` chooses the function; `check` makes of its answer what the
    /// core gets to see, or says what is wrong with it.
    pub(crate) async fn call<P, T, U>(
        &self,
        call: &Call,
        target: String,
        pick: impl for<'e> FnOnce(&'e Exports) -> Option<&'e Export<P, T>> + Send,
        params: P,
        check: impl FnOnce(T) -> Result<U, String> + Send,
    ) -> Result<U, DriverError>
    where
        P: ComponentNamedList + Lower + Send + Sync + 'static,
        T: ComponentType + Lift + Send + Sync + 'static,
    {
        let started = std::time::Instant::now();
        let log = Arc::new(CallLog::new(Arc::clone(&self.standing.log), &call.object));
        let span = tracing::debug_span!(
            "plugin call",
            plugin = self.id(),
            project = call.project,
            object = call.object,
            operation = call.operation,
            function = tracing::field::Empty,
        );
        let outcome = self
            .run(call, target.into(), pick, params, check, &log)
            .instrument(span)
            .await;
        let outcome = match outcome {
            Ok(answer) => Ok(answer),
            Err(failure) => Err(self.blame(failure, &log).await),
        };
        self.standing.counters.call(started.elapsed(), outcome.as_ref().err());
        outcome
    }

    async fn run<P, T, U>(
        &self,
        call: &Call,
        target: Arc<str>,
        pick: impl for<'e> FnOnce(&'e Exports) -> Option<&'e Export<P, T>> + Send,
        params: P,
        check: impl FnOnce(T) -> Result<U, String> + Send,
        log: &Arc<CallLog>,
    ) -> Result<U, Failure>
    where
        P: ComponentNamedList + Lower + Send + Sync + 'static,
        T: ComponentType + Lift + Send + Sync + 'static,
    {
        let limits = &self.manifest.limits;
        let ready = self.ready().await.map_err(Failure::plain)?;
        let deadline = Instant::now() + limits.call_timeout.0;
        let export = pick(&ready.exports).ok_or_else(|| {
            let message = format!("{} has no such ability", self.id());
            Failure::plain(DriverError::new("unsupported", message))
        })?;
        tracing::Span::current().record("function", export.name);
        let _turn = self
            .turn(&target, export.name, deadline)
            .await
            .map_err(Failure::plain)?;

        let clock = Arc::new(GuestClock::new(limits.cpu_time.0));
        let bounds = Bounds {
            memory: usize::try_from(limits.memory.0).unwrap_or(usize::MAX),
            deadline,
        };
        let cx = self.context(call, log);
        let cancel = CancelOnDrop(cx.call.cancel.clone());
        let lingering = Arc::clone(&self.shared.lingering);
        let broker = Arc::clone(&self.shared.broker);
        let state = CallState::new(Arc::new(cx), broker, lingering, target, Arc::clone(&clock), bounds);
        let mut store = new_store(self.shared.runtime.engine(), state);
        let guest = self
            .shared
            .runtime
            .ticking(&clock, Box::pin(guest(&ready, export, &mut store, params)));
        let outcome = tokio::time::timeout_at(deadline + GRACE, guest).await;
        drop(cancel);
        self.standing.counters.denied(store.data().denials);
        match outcome {
            Ok(Ok((Ok(answer),))) => check(answer).map_err(|reason| {
                let message = format!("{} gave an invalid answer: {reason}", export.name);
                Failure::fault("internal", one_line(&message, MAX_MESSAGE))
            }),
            Ok(Ok((Err(error),))) => Err(Failure::plain(self.guest_error(error))),
            Ok(Err(error)) => Err(self.classify(export.name, &error, store.data())),
            Err(_) => {
                let time = limits.call_timeout.0.as_secs_f32();
                let message = format!("{} did not end within {time} s", export.name);
                Err(Failure::plain(DriverError {
                    retryable: true,
                    ..DriverError::new("timeout", message)
                }))
            }
        }
    }

    pub(crate) fn context(&self, call: &Call, log: &Arc<CallLog>) -> CallContext {
        let mut call = call.clone();
        // Of its own, so that what is left of a call that ended can be told to stop without the operation being cancelled.
        call.cancel = call.cancel.child();
        CallContext {
            subject: Arc::clone(&self.subject),
            call,
            log: Arc::clone(log) as _,
            metrics: Arc::clone(&self.standing.counters) as _,
        }
    }

    /// Waits until the plugin and the engine have room for a call, and until nothing of an earlier one works on `target`.
    async fn turn(&self, target: &str, function: &str, deadline: Instant) -> Result<Turn<'_>, DriverError> {
        let busy = |what: String| DriverError {
            retryable: true,
            ..DriverError::new("timeout", what)
        };
        while let Some((earlier, mut done)) = self.shared.lingering.on(target) {
            // The channel says nothing but that it is closed.
            if tokio::time::timeout_at(deadline, done.changed()).await.is_err() {
                return Err(busy(format!(
                    "{function} has to wait for {earlier} of an earlier call, which has not ended yet"
                )));
            }
        }
        let turns = async { (self.turns.acquire().await, self.shared.instances.acquire().await) };
        match tokio::time::timeout_at(deadline, turns).await {
            Ok((Ok(plugin), Ok(engine))) => Ok(Turn {
                _plugin: plugin,
                _engine: engine,
            }),
            Ok(_) => Err(DriverError::new("unavailable", "the plugin host is going down")),
            Err(_) => Err(busy(format!(
                "{function} did not get its turn: too many calls of {} at once",
                self.id()
            ))),
        }
    }

    /// What an error of wasmtime's means.
    fn classify(&self, function: &str, error: &wasmtime::Error, state: &CallState) -> Failure {
        if let Some(HostFault(error)) = error.downcast_ref() {
            return Failure::plain(error.clone());
        }
        let limits = &self.manifest.limits;
        if state.clock.exceeded() {
            let time = limits.cpu_time.0.as_secs_f32();
            return Failure::fault("timeout", format!("{function} was stopped after running for {time} s"));
        }
        let trap = error.downcast_ref::<Trap>();
        if state.room.refused {
            let memory = limits.memory.0 >> 10;
            return Failure::fault(
                "limit",
                format!("{function} needs more memory than the {memory} KiB that it has"),
            );
        }
        if let Some(trap) = trap {
            let what = trap.to_string();
            let what = what.strip_prefix("wasm trap: ").unwrap_or(&what);
            return Failure::fault("trap", format!("{function} crashed: {what}"));
        }
        if let Some(exit) = error.downcast_ref::<wasmtime_wasi::I32Exit>() {
            return Failure::fault("trap", format!("{function} ended the program with status {}", exit.0));
        }
        if error.is::<wasmtime::PoolConcurrencyLimitError>() {
            let message = format!("{function}: all places for instances are taken");
            return Failure::plain(DriverError {
                retryable: true,
                ..DriverError::new("unavailable", message)
            });
        }
        // Without the frames of the guest's code, which wasmtime puts before the cause.
        let cause = error.root_cause().to_string();
        if cause.contains(TOO_MUCH_DATA) {
            let most = MAX_TRANSFER >> 20;
            return Failure::fault(
                "limit",
                format!("{function} passed or answered more than {most} MiB at once"),
            );
        }
        let message = format!("{function} gave an answer that can't be read: {cause}");
        Failure::fault("internal", one_line(&message, MAX_MESSAGE))
    }

    /// An error that a guest answered with, as far as it can be trusted: bounded, and on one line.
    fn guest_error(&self, error: GuestError) -> DriverError {
        let code_fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-./_".contains(c);
        let code = if error.code.is_empty() || error.code.len() > MAX_CODE || !error.code.chars().all(code_fits) {
            "internal".to_owned()
        } else {
            error.code
        };
        let details = error.details.into_iter().take(MAX_DETAILS);
        DriverError {
            retryable: error.retryable,
            details: details
                .map(|(key, value)| (one_line(&key, 64), one_line(&value, 512)))
                .collect(),
            ..DriverError::new(code, one_line(&error.message, MAX_MESSAGE))
        }
    }

    /// Names the plugin and its last words, and counts a fault.
    async fn blame(&self, failure: Failure, log: &CallLog) -> DriverError {
        let mut error = failure.error.from_plugin(self.id(), &self.manifest.version);
        error.log = log.last_lines();
        if failure.fault {
            tracing::warn!(plugin = self.id(), code = error.code, "{}", error.message);
            self.fault(&error.message).await;
        }
        error
    }

    /// Counts a fault. The one that ends in quarantine returns when that is on disk.
    async fn fault(&self, what: &str) {
        let policy: QuarantinePolicy = self.shared.quarantine;
        if !self.health.fault(policy, what, std::time::Instant::now()) {
            return;
        }
        tracing::error!(plugin = self.id(), "quarantined: {what}");
        if let Err(error) = self.keep_health().await {
            tracing::error!(
                plugin = self.id(),
                error = error.message,
                "the quarantine will be forgotten when the daemon ends"
            );
        }
    }

    /// Brings the record of the plugin's quarantine up to date.
    ///
    /// # Errors
    /// `io`, when it can't be written.
    pub(crate) async fn keep_health(&self) -> Result<(), DriverError> {
        let (health, files, digest) = (
            Arc::clone(&self.health),
            Arc::clone(&self.shared.files),
            self.digest.clone(),
        );
        let kept = tokio::task::spawn_blocking(move || health.keep(&files, &digest)).await;
        let failed = |why: String| DriverError::new("io", format!("recording the state of {}: {why}", self.id()));
        match kept {
            Ok(kept) => kept.map_err(|error| failed(crate::load::with_causes(&error))),
            Err(error) => Err(failed(error.to_string())),
        }
    }
}

struct Turn<'a> {
    _plugin: tokio::sync::SemaphorePermit<'a>,
    _engine: tokio::sync::SemaphorePermit<'a>,
}

/// Tells what is left of a call that it is over.
struct CancelOnDrop(hutch_driver::Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

fn new_store(engine: &wasmtime::Engine, state: CallState) -> Store<CallState> {
    let mut store = Store::new(engine, state);
    store.limiter(|state| &mut state.room);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(on_tick);
    store.set_hostcall_fuel(MAX_TRANSFER);
    store.set_max_component_handles(MAX_HANDLES);
    store
}

async fn guest<P, T>(
    ready: &Ready,
    export: &Export<P, T>,
    store: &mut Store<CallState>,
    params: P,
) -> wasmtime::Result<Answer<T>>
where
    P: ComponentNamedList + Lower + Send + Sync + 'static,
    T: ComponentType + Lift + Send + Sync + 'static,
{
    let instance = ready.pre.instantiate_async(&mut *store).await?;
    let function = instance.get_typed_func::<P, Answer<T>>(&mut *store, &export.index)?;
    function.call_async(store, params).await
}

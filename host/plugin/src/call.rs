//! One call of a plugin: an instance of its own, made for the call and dropped with it.
//!
//! Warm instances, for the paths where even that is too slow, are a matter of the families that need them (datagrams of a
//! zone, a watched database); they will stand beside [`Plugin::call`] and share everything below it.

use std::sync::Arc;
use std::time::Duration;

use hutch_broker::CallContext;
use hutch_driver::{Call, DriverError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::AcquireError;
use tokio::time::Instant;
use tracing::Instrument;
use wasmtime::component::{ComponentNamedList, ComponentType, Lift, Lower};

use crate::bindings::host::types::Error as GuestError;
use crate::code::Code;
use crate::counters::Used;
use crate::desk::HostDesk;
use crate::export::{Export, Exports};
use crate::harm::{Failure, Fault, MAX_MESSAGE};
use crate::health::QuarantinePolicy;
use crate::log::{CallLog, one_line};
use crate::plugin::{Place, Plugin};

/// How long a call may go on after its host functions were given up, so that the guest can tidy up and say why it failed.
const GRACE: Duration = Duration::from_secs(2);
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
        P: ComponentNamedList + Lower + Serialize + Send + Sync + 'static,
        T: ComponentType + Lift + DeserializeOwned + Send + Sync + 'static,
    {
        let started = std::time::Instant::now();
        let log = Arc::new(CallLog::new(Arc::clone(&self.standing.log), &call.object));
        let span = tracing::debug_span!(
            "plugin call",
            plugin = self.id(),
            version = self.manifest.version,
            family = self.manifest.family(),
            project = call.project,
            object = call.object,
            operation = call.operation,
            function = tracing::field::Empty,
        );
        let mut function = None;
        let outcome = self
            .run(call, target.into(), pick, params, check, &log, &mut function)
            .instrument(span.clone())
            .await;
        let outcome = match outcome {
            Ok(answer) => Ok(answer),
            Err(failure) => Err(self.blame(failure, &log).await),
        };
        match &outcome {
            Ok(_) => self.health.well(),
            Err(error) => tracing::debug!(parent: &span, code = error.code, "the call failed: {}", error.message),
        }
        let took = started.elapsed();
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        tracing::debug!(parent: &span, us, "the call ended");
        let counters = &self.standing.counters;
        counters.call(function, took, outcome.as_ref().err());
        outcome
    }

    #[expect(clippy::too_many_arguments, reason = "what a call is, and what becomes known of it")]
    async fn run<P, T, U>(
        &self,
        call: &Call,
        target: Arc<str>,
        pick: impl for<'e> FnOnce(&'e Exports) -> Option<&'e Export<P, T>> + Send,
        params: P,
        check: impl FnOnce(T) -> Result<U, String> + Send,
        log: &Arc<CallLog>,
        called: &mut Option<&'static str>,
    ) -> Result<U, Failure>
    where
        P: ComponentNamedList + Lower + Serialize + Send + Sync + 'static,
        T: ComponentType + Lift + DeserializeOwned + Send + Sync + 'static,
    {
        let limits = &self.manifest.limits;
        let ready = self.ready().await.map_err(Failure::plain)?;
        let deadline = Instant::now() + limits.call_timeout.0;
        let export = pick(&ready.exports).ok_or_else(|| {
            let message = format!("{} has no such ability", self.id());
            Failure::plain(DriverError::new("unsupported", message))
        })?;
        *called = Some(export.name);
        tracing::Span::current().record("function", export.name);
        let here = matches!(ready.place, Place::Here(_));
        let (counters, queued) = (&self.standing.counters, Instant::now());
        let turn = self.turn(&target, export.name, deadline, here).await;
        counters.queued(queued.elapsed());
        let _turn = turn.map_err(Failure::plain)?;
        // It may have been taken out of service while the call waited.
        self.in_service().map_err(Failure::plain)?;
        let _instance = counters.instance();

        let cx = self.context(call, log);
        let cancel = CancelOnDrop(cx.call.cancel.clone());
        let desk = Arc::new(HostDesk {
            cx: Arc::new(cx),
            broker: Arc::clone(&self.shared.broker),
            deadline,
            lingering: Arc::clone(&self.shared.lingering),
            target,
            standing: Arc::clone(&self.standing),
        });
        let outcome = match &ready.place {
            Place::Here(code) => {
                let guest = self.guest(code, export, params, Arc::clone(&desk));
                tokio::time::timeout_at(deadline + GRACE, guest).await
            }
            Place::Worker(worker) => {
                let guest = worker.call(export, params, Arc::clone(&desk));
                tokio::time::timeout_at(deadline + GRACE, guest).await
            }
        };
        drop(cancel);
        if let Ok((_, used)) = &outcome {
            counters.used(*used, limits.memory.0);
        }
        match outcome.map(|(outcome, _)| outcome) {
            Ok(Ok(Ok(answer))) => check(answer).map_err(|reason| {
                let message = format!("{} gave an invalid answer: {reason}", export.name);
                Failure::fault("internal", one_line(&message, MAX_MESSAGE))
            }),
            Ok(Ok(Err(error))) => Err(Failure::plain(DriverError {
                answered: true,
                ..self.guest_error(error)
            })),
            Ok(Err(fault)) => Err(self.classify(export.name, fault)),
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

    /// Runs the guest in this process.
    async fn guest<P, T>(
        &self,
        code: &Code,
        export: &Export<P, T>,
        params: P,
        desk: Arc<HostDesk>,
    ) -> (Result<Result<T, GuestError>, Fault>, Used)
    where
        P: ComponentNamedList + Lower + Send + Sync + 'static,
        T: ComponentType + Lift + Send + Sync + 'static,
    {
        let limits = &self.manifest.limits;
        let log = Arc::clone(&desk.cx.log);
        let memory = usize::try_from(limits.memory.0).unwrap_or(usize::MAX);
        code.call(
            &self.shared.runtime,
            export,
            params,
            desk,
            log,
            limits.cpu_time.0,
            memory,
        )
        .await
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

    /// Waits until the plugin, and the engine where it runs `here`, have room for a call, and until nothing of an earlier one works
    /// on `target`.
    async fn turn(&self, target: &str, function: &str, deadline: Instant, here: bool) -> Result<Turn<'_>, DriverError> {
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
        let turns = async {
            let plugin = self.turns.acquire().await?;
            let engine = match here {
                true => Some(self.shared.instances.acquire().await?),
                false => None,
            };
            Ok::<_, AcquireError>(Turn {
                _plugin: plugin,
                _engine: engine,
            })
        };
        match tokio::time::timeout_at(deadline, turns).await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_)) => Err(DriverError::new("unavailable", "the plugin host is going down")),
            Err(_) => Err(busy(format!(
                "{function} did not get its turn: too many calls of {} at once",
                self.id()
            ))),
        }
    }

    /// Names the plugin and its last words, and counts a fault.
    async fn blame(&self, failure: Failure, log: &CallLog) -> DriverError {
        let mut error = failure.error.from_plugin(self.id(), &self.manifest.version);
        error.log = log.last_lines();
        if failure.fault {
            tracing::warn!(plugin = self.id(), code = error.code, "{}", error.message);
            self.standing.counters.fault();
            self.fault(&error.message).await;
        }
        error
    }

    /// Counts a fault. The one that ends in quarantine returns when that is on disk, where it gets even if nobody waits for it.
    async fn fault(&self, what: &str) {
        let policy: QuarantinePolicy = self.shared.quarantine;
        if !self.health.fault(policy, what, std::time::Instant::now()) {
            return;
        }
        tracing::error!(plugin = self.id(), "quarantined: {what}");
        let (kept, plugin) = (self.keep_health(), self.id().to_owned());
        let told = tokio::spawn(async move {
            if let Err(error) = kept.await {
                let error = error.message;
                tracing::error!(plugin, error, "the quarantine will be forgotten when the daemon ends");
            }
        });
        self.rest();
        // It does nothing that could panic, and nobody cancels it.
        let _ = told.await;
    }

    /// Brings the record of the plugin's quarantine up to date. That begins at once and goes on if the returned future is dropped.
    ///
    /// # Errors
    /// `io`, when it can't be written.
    pub(crate) fn keep_health(&self) -> impl Future<Output = Result<(), DriverError>> + Send + use<> {
        let (health, files, digest) = (
            Arc::clone(&self.health),
            Arc::clone(&self.shared.files),
            self.digest.clone(),
        );
        let keeping = tokio::task::spawn_blocking(move || health.keep(&files, &digest));
        let id = self.id().to_owned();
        async move {
            let failed = |why: String| DriverError::new("io", format!("recording the state of {id}: {why}"));
            match keeping.await {
                Ok(kept) => kept.map_err(|error| failed(crate::load::with_causes(&error))),
                Err(error) => Err(failed(error.to_string())),
            }
        }
    }
}

struct Turn<'a> {
    _plugin: tokio::sync::SemaphorePermit<'a>,
    _engine: Option<tokio::sync::SemaphorePermit<'a>>,
}

/// Tells what is left of a call that it is over.
struct CancelOnDrop(hutch_driver::Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

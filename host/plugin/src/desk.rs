//! Where a guest's requests to the host go: the broker, asked no longer than the call has time.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hutch_broker::{Broker, CallContext, Request, Response};
use hutch_driver::DriverError;
use tokio::time::Instant;

use crate::lingering::{Lingering, Uninterruptible};
use crate::plugin::Standing;

/// The broker's answer, later.
pub(crate) type Answered<'a> = Pin<Box<dyn Future<Output = Result<Response, DriverError>> + Send + 'a>>;

/// Answers what the guest of one call asks.
pub(crate) trait Desk: Send + Sync {
    /// Does `request`, or says why not.
    fn ask(&self, request: Request) -> Answered<'_>;
}

/// The desk in the daemon, in front of the broker.
pub(crate) struct HostDesk {
    /// Whom the broker works for.
    pub(crate) cx: Arc<CallContext>,
    pub(crate) broker: Arc<dyn Broker>,
    /// When host functions are given up.
    pub(crate) deadline: Instant,
    /// Where host functions go on that could not be given up.
    pub(crate) lingering: Arc<Lingering>,
    /// What the call works on, as [`Lingering`] knows it.
    pub(crate) target: Arc<str>,
    /// Whose call it is.
    pub(crate) standing: Arc<Standing>,
}

impl HostDesk {
    /// Asks the broker, and waits no longer than the call has time.
    async fn answer(&self, request: Request) -> Result<Response, DriverError> {
        let (function, began) = (request.function(), std::time::Instant::now());
        if self.standing.gone() {
            return Err(DriverError::new("unavailable", "the plugin was removed"));
        }
        let about = tracing::enabled!(tracing::Level::DEBUG).then(|| request.about());
        // What only reaches over a network or waits for a program is given up by dropping it; what works on the machine's
        // own objects must come to its end.
        let interruptible = matches!(request.interface(), "http" | "command");
        let cx = Arc::clone(&self.cx);
        let broker = Arc::clone(&self.broker);
        let work = Box::pin(async move { broker.call(&cx, request).await });
        let answer = if interruptible {
            tokio::time::timeout_at(self.deadline, work).await
        } else {
            let lingering = Arc::clone(&self.lingering);
            let work = Uninterruptible::new(work, lingering, Arc::clone(&self.target), function);
            tokio::time::timeout_at(self.deadline, work).await
        };
        let answer = answer.unwrap_or_else(|_| {
            self.cx.call.cancel.cancel();
            Err(DriverError {
                retryable: true,
                ..DriverError::new("timeout", format!("{function} did not end within the time of the call"))
            })
        });
        self.standing
            .counters
            .host_call(function, began.elapsed(), answer.as_ref().err());
        trace(function, about.as_deref(), began.elapsed(), answer.as_ref().err());
        answer
    }
}

/// Tells of a function of the host in the log, in the span of the call that it belongs to: nothing of what was passed or answered.
/// Lines of a guest's own log are there already.
fn trace(function: &'static str, about: Option<&str>, took: Duration, error: Option<&DriverError>) {
    let Some(about) = about.filter(|_| function != "log.write") else {
        return;
    };
    let outcome = error.map_or("ok", |error| error.code.as_str());
    let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    tracing::debug!(target: "hutch_plugin::host_call", function, about, us, outcome);
}

impl Desk for HostDesk {
    fn ask(&self, request: Request) -> Answered<'_> {
        Box::pin(self.answer(request))
    }
}

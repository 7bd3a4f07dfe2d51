//! The broker that a driver under test speaks to: the real one, with the means to interfere.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::{Either, select};
use hutch_broker::{Broker, CallContext, Grants, Permissions, Request, Response};
use hutch_driver::DriverError;
use tokio::sync::watch;

/// The code of the error that [`Faults::failing_at`] gives: one that a driver has no answer to of its own.
pub const INJECTED: &str = "no-space";

/// A permission of a manifest that can be taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// `fs`.
    Fs,
    /// `link`.
    Link,
    /// `filter`.
    Filter,
    /// `service`.
    Service,
    /// `command`.
    Command,
    /// `http`.
    Http,
    /// `watch`.
    Watch,
    /// `system`.
    System,
    /// `records`.
    Records,
}

impl Permission {
    /// All there are.
    pub const ALL: [Self; 9] = [
        Self::Fs,
        Self::Link,
        Self::Filter,
        Self::Service,
        Self::Command,
        Self::Http,
        Self::Watch,
        Self::System,
        Self::Records,
    ];

    /// The interface of `hutch:host` that it opens, which is also its name in a manifest.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fs => "fs",
            Self::Link => "link",
            Self::Filter => "filter",
            Self::Service => "service",
            Self::Command => "command",
            Self::Http => "http",
            Self::Watch => "watch",
            Self::System => "system",
            Self::Records => "records",
        }
    }

    /// Whether `permissions` have any of it.
    pub fn is_in(self, permissions: &Permissions) -> bool {
        let mut without = permissions.clone();
        self.remove(&mut without);
        without != *permissions
    }

    /// Takes it out of `permissions`.
    pub fn remove(self, permissions: &mut Permissions) {
        let none = Permissions::default();
        match self {
            Self::Fs => permissions.fs = none.fs,
            Self::Link => permissions.link = none.link,
            Self::Filter => permissions.filter = none.filter,
            Self::Service => permissions.service = none.service,
            Self::Command => permissions.command = none.command,
            Self::Http => permissions.http = none.http,
            Self::Watch => permissions.watch = none.watch,
            Self::System => permissions.system = none.system,
            Self::Records => permissions.records = none.records,
        }
    }
}

/// What is to go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    Nothing,
    /// The answer to this effect, counted from 0, never reaches the driver.
    Kill(usize),
    /// This request, counted from 0, is answered with [`INJECTED`] and not carried out.
    Fail(usize),
    /// The operator has not granted this.
    Deny(Permission),
}

#[derive(Debug)]
struct State {
    plan: Plan,
    /// Requests that reach something, since the plan was made.
    requests: usize,
    /// Those of them that change something.
    effects: usize,
    /// Requests that were refused for the permission that was taken away.
    denied: Vec<&'static str>,
    /// The request at which the plan struck.
    struck: Option<&'static str>,
}

/// See the module's documentation.
pub struct Faults {
    inner: Arc<dyn Broker>,
    state: Mutex<State>,
    /// Whether the driver that is to be killed waits for an answer that will not come.
    reached: watch::Sender<bool>,
    /// Whether what waits may go on, because nobody listens any more.
    released: watch::Sender<bool>,
}

impl Faults {
    /// Interferes with nothing yet. `inner` does the work.
    pub fn new(inner: Arc<dyn Broker>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            state: Mutex::new(State {
                plan: Plan::Nothing,
                requests: 0,
                effects: 0,
                denied: Vec::new(),
                struck: None,
            }),
            reached: watch::Sender::new(false),
            released: watch::Sender::new(true),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, plan: Plan) {
        *self.state() = State {
            plan,
            requests: 0,
            effects: 0,
            denied: Vec::new(),
            struck: None,
        };
    }

    /// Runs a call of the driver's and ends it, as the death of the daemon would, once the host has done the effect of number
    /// `effect` (from 0). Answers with what the driver said, or with the request after which it was ended.
    pub async fn killed_after<T>(
        &self,
        effect: usize,
        call: impl Future<Output = T>,
    ) -> std::result::Result<T, &'static str> {
        self.begin(Plan::Kill(effect));
        self.reached.send_replace(false);
        self.released.send_replace(false);
        let mut reached = self.reached.subscribe();
        let ended = {
            let struck = Box::pin(reached.wait_for(|reached| *reached));
            match select(Box::pin(call), struck).await {
                Either::Left((answer, _)) => Some(answer),
                // The call's future ends here, and the driver's instance with it.
                Either::Right(_) => None,
            }
        };
        // What the plugin host keeps of the host function comes to its end, and the next call need not wait for it.
        self.released.send_replace(true);
        let struck = self.state().struck;
        self.begin(Plan::Nothing);
        match (ended, struck) {
            (Some(answer), _) => Ok(answer),
            (None, struck) => Err(struck.unwrap_or_default()),
        }
    }

    /// Runs a call of the driver's in which the host answers the request of number `request` (from 0) with the error
    /// [`INJECTED`]. The second answer is that request, or none where the driver made fewer.
    pub async fn failing_at<T>(&self, request: usize, call: impl Future<Output = T>) -> (T, Option<&'static str>) {
        self.begin(Plan::Fail(request));
        let answer = call.await;
        let struck = self.state().struck;
        self.begin(Plan::Nothing);
        (answer, struck)
    }

    /// Runs a call of the driver's without a permission. The second answer has the requests that were refused for it.
    pub async fn without<T>(&self, permission: Permission, call: impl Future<Output = T>) -> (T, Vec<&'static str>) {
        self.begin(Plan::Deny(permission));
        let answer = call.await;
        let denied = std::mem::take(&mut self.state().denied);
        self.begin(Plan::Nothing);
        (answer, denied)
    }

    /// Runs a call of the driver's and counts the requests that reach something and those of them that change something.
    pub async fn counted<T>(&self, call: impl Future<Output = T>) -> (T, usize, usize) {
        self.begin(Plan::Nothing);
        let answer = call.await;
        let state = self.state();
        (answer, state.requests, state.effects)
    }

    /// Whether the plan strikes this request before it is done.
    fn fails(&self, function: &'static str) -> bool {
        let mut state = self.state();
        let number = state.requests;
        state.requests += 1;
        let fails = state.plan == Plan::Fail(number);
        if fails {
            state.struck = Some(function);
        }
        fails
    }

    /// Whether the plan strikes this request after it was done.
    fn kills(&self, function: &'static str) -> bool {
        let mut state = self.state();
        let number = state.effects;
        state.effects += 1;
        let kills = state.plan == Plan::Kill(number);
        if kills {
            state.struck = Some(function);
        }
        kills
    }

    async fn denied(
        &self,
        cx: &CallContext,
        request: Request,
        permission: Permission,
    ) -> std::result::Result<Response, DriverError> {
        let mut subject = (*cx.subject).clone();
        let mut granted = Permissions::clone(&subject.grants.granted.get());
        permission.remove(&mut granted);
        // Of this request's own: the plugin's is shared by all calls.
        subject.grants = Grants::new(subject.grants.requested, granted);
        let poorer = CallContext {
            subject: Arc::new(subject),
            ..cx.clone()
        };
        let function = request.function();
        let answer = self.inner.call(&poorer, request).await;
        if answer.as_ref().is_err_and(|error| error.is("not-granted")) {
            self.state().denied.push(function);
        }
        answer
    }
}

#[async_trait::async_trait]
impl Broker for Faults {
    async fn call(&self, cx: &CallContext, request: Request) -> std::result::Result<Response, DriverError> {
        let function = request.function();
        // These reach nothing and can't fail in a way that a driver could see.
        if matches!(request.interface(), "log" | "metric" | "progress" | "config") {
            return self.inner.call(cx, request).await;
        }
        if self.fails(function) {
            let message = format!("the conformance suite had {function} fail");
            return Err(DriverError::new(INJECTED, message));
        }
        let plan = self.state().plan;
        if let Plan::Deny(permission) = plan {
            return self.denied(cx, request, permission).await;
        }
        let changes = changes(&request);
        let answer = self.inner.call(cx, request).await;
        if changes && self.kills(function) {
            let mut released = self.released.subscribe();
            self.reached.send_replace(true);
            // The sender lives as long as this does.
            let _ = released.wait_for(|released| *released).await;
            return Err(DriverError::new("cancelled", "the call was ended"));
        }
        answer
    }

    async fn forget(&self, plugin: &str) -> std::result::Result<(), DriverError> {
        self.inner.forget(plugin).await
    }
}

/// Whether a request may change something outside the driver.
fn changes(request: &Request) -> bool {
    !matches!(
        request.function(),
        "kv.get"
            | "kv.keys"
            | "fs.stat"
            | "fs.list-dir"
            | "fs.read-file"
            | "fs.features"
            | "fs.space"
            | "fs.usage"
            | "link.get"
            | "link.subnets-in-use"
            | "service.status"
            | "service.read-file"
            | "service.list-files"
            | "http.get"
            | "system.architecture"
            | "system.package-sources"
            | "records.version"
            | "records.page"
            | "records.changes"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permission_is_taken_away_whole_and_alone() {
        let all = Permissions {
            fs: hutch_broker::FsPermission {
                roots: true,
                paths: Vec::new(),
            },
            link: true,
            filter: true,
            service: vec!["some-daemon".into()],
            command: Vec::new(),
            http: vec!["origin".into()],
            watch: true,
            system: true,
            records: true,
        };
        for permission in Permission::ALL {
            let mut fewer = all.clone();
            permission.remove(&mut fewer);
            assert!(!permission.is_in(&fewer), "{permission:?}");
            let others = Permission::ALL.into_iter().filter(|other| *other != permission);
            for other in others {
                assert_eq!(other.is_in(&fewer), other.is_in(&all), "{permission:?} {other:?}");
            }
        }
        assert!(!Permission::Command.is_in(&all) && Permission::Http.is_in(&all));
    }
}

//! A plugin's code in this process's memory, and a call of it: an instance made for the call and dropped with it.

use std::sync::Arc;
use std::time::Duration;

use hutch_broker::LogSink;
use wasmtime::Store;
use wasmtime::component::{Component, ComponentNamedList, ComponentType, InstancePre, Lift, Linker, Lower};

use crate::bindings::host::types::Error as GuestError;
use crate::counters::Used;
use crate::desk::Desk;
use crate::engine::Runtime;
use crate::export::{Answer, Export, Exports, Indices};
use crate::harm::Fault;
use crate::state::{CallState, GuestClock, on_tick};

/// Bytes that a guest may pass to the host in one function, and answer with. Strings that overlap in its memory count as
/// often as they are named.
pub(crate) const MAX_TRANSFER: usize = 16 << 20;
/// Handles of component-model resources that an instance may hold: streams and the like, of which it needs a few.
const MAX_HANDLES: usize = 1024;

/// See the module's documentation.
pub(crate) struct Code {
    pre: InstancePre<CallState>,
    indices: Indices,
}

impl Code {
    /// Links a component and finds its functions.
    ///
    /// # Errors
    /// A sentence that says what does not fit.
    pub(crate) fn new(linker: &Linker<CallState>, component: &Component, exports: &Exports) -> Result<Self, String> {
        let pre = linker
            .instantiate_pre(component)
            .map_err(|error| format!("it can't be linked: {error:#}"))?;
        let indices = exports.find(&pre).map_err(|error| crate::load::with_causes(&error))?;
        Ok(Self { pre, indices })
    }

    /// Calls `export` in an instance of its own, whose requests go to `desk` and whose output to `log`. It may run for `time` and
    /// have `memory` bytes. Answers also with what it used.
    #[expect(clippy::too_many_arguments, reason = "what a call is and what it may use")]
    pub(crate) async fn call<P, T>(
        &self,
        runtime: &Runtime,
        export: &Export<P, T>,
        params: P,
        desk: Arc<dyn Desk>,
        log: Arc<dyn LogSink>,
        time: Duration,
        memory: usize,
    ) -> (Result<Result<T, GuestError>, Fault>, Used)
    where
        P: ComponentNamedList + Lower + Send + Sync + 'static,
        T: ComponentType + Lift + Send + Sync + 'static,
    {
        let clock = Arc::new(GuestClock::new(time));
        let state = CallState::new(desk, log, Arc::clone(&clock), memory);
        let mut store = new_store(runtime.engine(), state);
        let guest = Box::pin(self.guest(export, &mut store, params));
        let outcome = runtime.ticking(&clock, guest).await;
        let used = Used {
            guest_ns: clock.spent(),
            memory: store.data().room.taken as u64,
        };
        let outcome = match outcome {
            Ok((answer,)) => Ok(answer),
            Err(error) => Err(Fault::of(&error, store.data())),
        };
        (outcome, used)
    }

    async fn guest<P, T>(
        &self,
        export: &Export<P, T>,
        store: &mut Store<CallState>,
        params: P,
    ) -> wasmtime::Result<Answer<T>>
    where
        P: ComponentNamedList + Lower + Send + Sync + 'static,
        T: ComponentType + Lift + Send + Sync + 'static,
    {
        let index = self
            .indices
            .get(export.name)
            .ok_or_else(|| wasmtime::Error::msg("the function is not there"))?;
        let instance = self.pre.instantiate_async(&mut *store).await?;
        let function = instance.get_typed_func::<P, Answer<T>>(&mut *store, index)?;
        function.call_async(store, params).await
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

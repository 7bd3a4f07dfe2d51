//! What one instance holds while it lives: whom it works for, its bounds, and an empty WASI.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hutch_broker::LogSink;
use nix::time::{ClockId, clock_gettime};
use wasmtime::component::ResourceTable;
use wasmtime::{ResourceLimiter, StoreContextMut, UpdateDeadline};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

use crate::desk::Desk;
use crate::engine::MAX_TABLE;
use crate::stdio::LogStream;

/// Resources of WASI that one instance may hold. There is little that it could get hold of.
const MAX_RESOURCES: usize = 256;
/// The most random bytes in one answer of WASI.
const MAX_RANDOM: u64 = 64 << 10;

/// The data of a store.
pub(crate) struct CallState {
    /// Where the guest's requests go.
    pub(crate) desk: Arc<dyn Desk>,
    /// Where its standard output goes.
    log: Arc<dyn LogSink>,
    /// The guest's running time and its bound.
    pub(crate) clock: Arc<GuestClock>,
    /// What the guest may allocate and whether it wanted more.
    pub(crate) room: Room,
    // Made when it is first asked for: most calls don't use it, and it draws random numbers.
    wasi: Option<WasiCtx>,
    table: ResourceTable,
}

impl CallState {
    /// The state of a call whose guest may have `memory` bytes of linear memory.
    pub(crate) fn new(desk: Arc<dyn Desk>, log: Arc<dyn LogSink>, clock: Arc<GuestClock>, memory: usize) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_RESOURCES);
        Self {
            desk,
            log,
            clock,
            room: Room::new(memory),
            wasi: None,
            table,
        }
    }
}

impl WasiView for CallState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let log = &self.log;
        let wasi = self.wasi.get_or_insert_with(|| {
            WasiCtxBuilder::new()
                .stdout(LogStream::new(Arc::clone(log), hutch_broker::LogLevel::Info))
                .stderr(LogStream::new(Arc::clone(log), hutch_broker::LogLevel::Warn))
                .allow_tcp(false)
                .allow_udp(false)
                .allow_ip_name_lookup(false)
                .max_random_size(MAX_RANDOM)
                .build()
        });
        WasiCtxView {
            ctx: wasi,
            table: &mut self.table,
        }
    }
}

/// What a guest may allocate.
#[derive(Debug)]
pub(crate) struct Room {
    memory: usize,
    /// Bytes of all its linear memories, which do not shrink.
    pub(crate) taken: usize,
    /// Whether it was refused something.
    pub(crate) refused: bool,
}

impl Room {
    fn new(memory: usize) -> Self {
        Self {
            memory,
            taken: 0,
            refused: false,
        }
    }
}

impl ResourceLimiter for Room {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let fits = desired <= self.memory && maximum.is_none_or(|maximum| desired <= maximum);
        self.refused |= !fits;
        if fits {
            self.taken = self.taken.saturating_add(desired.saturating_sub(current));
        }
        Ok(fits)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let fits = desired <= MAX_TABLE && maximum.is_none_or(|maximum| desired <= maximum);
        self.refused |= !fits;
        Ok(fits)
    }
}

/// How long a guest has run: processor time of the thread that polls the call's future, while it polls it. Neither waiting for a
/// host function counts, nor that other threads had the processor, nor ticks of the epoch, which go by for everybody.
#[derive(Debug)]
pub(crate) struct GuestClock {
    limit: Duration,
    spent: AtomicU64,
    running_since: AtomicU64,
    exceeded: AtomicBool,
}

impl GuestClock {
    pub(crate) fn new(limit: Duration) -> Self {
        Self {
            limit,
            spent: AtomicU64::new(0),
            running_since: AtomicU64::new(0),
            exceeded: AtomicBool::new(false),
        }
    }

    /// The processor time of this thread, in nanoseconds. Every Linux has this clock (clock_gettime(2)); without it the time of the
    /// call alone would limit a guest.
    fn now() -> u64 {
        let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from);
        time.map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
    }

    /// The guest begins or goes on to run.
    pub(crate) fn enter(&self) {
        self.running_since.store(Self::now(), Ordering::Relaxed);
    }

    /// The guest waits or has ended.
    pub(crate) fn leave(&self) {
        let ran = Self::now().saturating_sub(self.running_since.load(Ordering::Relaxed));
        self.spent.fetch_add(ran, Ordering::Relaxed);
    }

    /// How long the guest has run, in nanoseconds.
    pub(crate) fn spent(&self) -> u64 {
        self.spent.load(Ordering::Relaxed)
    }

    /// Whether the guest was stopped for running too long.
    pub(crate) fn exceeded(&self) -> bool {
        self.exceeded.load(Ordering::Relaxed)
    }

    fn is_over(&self) -> bool {
        let running = Self::now().saturating_sub(self.running_since.load(Ordering::Relaxed));
        Duration::from_nanos(self.spent.load(Ordering::Relaxed).saturating_add(running)) > self.limit
    }
}

/// What happens when the epoch has moved on under a running guest: the other tasks of this thread get their turn, and a
/// guest that has used up its time is stopped.
pub(crate) fn on_tick(store: StoreContextMut<'_, CallState>) -> wasmtime::Result<UpdateDeadline> {
    let clock = &store.data().clock;
    if clock.is_over() {
        clock.exceeded.store(true, Ordering::Relaxed);
        return Ok(UpdateDeadline::Interrupt);
    }
    Ok(UpdateDeadline::Yield(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_running_time_counts() {
        let clock = GuestClock::new(Duration::from_secs(3600));
        clock.enter();
        clock.leave();
        let spent = clock.spent.load(Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(clock.spent.load(Ordering::Relaxed), spent);
        assert!(spent < 10_000_000, "{spent}");
        let short = GuestClock::new(Duration::ZERO);
        short.enter();
        std::thread::sleep(Duration::from_millis(1));
        assert!(short.is_over());
    }

    #[test]
    fn a_refusal_of_memory_is_remembered() {
        let mut room = Room::new(1 << 20);
        assert!(room.memory_growing(0, 1 << 20, None).expect("no trap"));
        assert!(!room.refused);
        assert!(!room.memory_growing(1 << 20, (1 << 20) + 1, None).expect("no trap"));
        assert!(room.refused);
        assert_eq!(room.taken, 1 << 20, "what was refused was not taken");
    }
}

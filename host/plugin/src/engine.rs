//! The one wasmtime engine of the process: how guests are compiled, how much room they get, and how they are stopped.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::thread::Thread;
use std::time::Duration;

use wasmtime::{Config, Engine, OptLevel, PoolingAllocationConfig, WasmBacktraceDetails};

use crate::state::GuestClock;

/// The most linear memory that any instance can have, and the address space that each slot of the pool reserves.
pub(crate) const MAX_MEMORY: usize = 64 << 20;
/// Elements that a table may have. The largest that a language's runtime is known to want is some 20,000.
pub(crate) const MAX_TABLE: usize = 32_768;
/// Instances at once, whatever the plugin. Calls beyond wait for their turn. No manifest may ask for more than a quarter
/// (`manifest::Limits::CAPS`), so that a plugin whose calls all hang leaves the others room. A place that is not in use costs
/// address space and nothing else.
pub(crate) const MAX_INSTANCES: u32 = 128;
/// Core instances, tables and memories of one component: a guest, its adapter and the shims between them.
pub(crate) const MAX_CORE_INSTANCES: u32 = 16;
pub(crate) const MAX_TABLES: u32 = 8;
pub(crate) const MAX_MEMORIES: u32 = 2;
/// How often a running guest is looked at.
pub(crate) const TICK: Duration = Duration::from_millis(10);

/// How much the compiler optimises.
const OPTIMISATION: OptLevel = OptLevel::Speed;

/// The part of the configuration that decides what machine code looks like. The process that compiles and the one that
/// runs must agree on it, or wasmtime refuses the code.
fn compile_config() -> Config {
    let mut config = Config::new();
    // Functions are called one at a time per instance; without this a call costs three to five times as much.
    config.concurrency_support(false);
    config.epoch_interruption(true);
    config.cranelift_opt_level(OPTIMISATION);
    config.wasm_backtrace_details(WasmBacktraceDetails::Disable);
    config.memory_reservation(MAX_MEMORY as u64);
    config.memory_reservation_for_growth(0);
    config.memory_guard_size(1 << 20);
    config.memory_may_move(false);
    config
}

/// The configuration of a process that runs guests, so many at once. It has no compiler: what that needs of memory is the child's.
fn run_config(instances: u32) -> Config {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        // As many as the instances can want together, so that the pool never runs out before their number does.
        .total_core_instances(instances * MAX_CORE_INSTANCES)
        .total_memories(instances * MAX_MEMORIES)
        .total_tables(instances * MAX_TABLES)
        .total_stacks(instances)
        .max_core_instances_per_component(MAX_CORE_INSTANCES)
        .max_memories_per_component(MAX_MEMORIES)
        .max_tables_per_component(MAX_TABLES)
        .max_memory_size(MAX_MEMORY)
        .table_elements(MAX_TABLE)
        // Pages of a slot that are cleared by hand instead of being given back to the kernel: a call touches a few, and
        // giving them back costs a system call and a fault for each.
        .linear_memory_keep_resident(128 << 10)
        .table_keep_resident(16 << 10)
        .async_stack_keep_resident(32 << 10)
        .max_unused_warm_slots(8);
    let mut config = compile_config();
    config.enable_compiler(false);
    config.allocation_strategy(pool);
    config
}

/// Makes an engine that can compile and not run. It reserves no pool, so that it fits into a small address space.
pub(crate) fn compiler() -> wasmtime::Result<Engine> {
    Engine::new(&compile_config())
}

/// A number that stands for the configuration: code compiled under one is not for another. The processor is not in it,
/// since wasmtime looks when it loads code whether this one has all that the code uses.
pub(crate) fn config_hash(engine: &Engine) -> u64 {
    use std::hash::{Hash, Hasher};
    // The hash need not be stable over releases of the standard library: a cache entry that is not found again is made
    // again.
    let mut hasher = std::hash::DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    // What only an engine with a compiler would hash.
    format!("{OPTIMISATION:?}").hash(&mut hasher);
    hasher.finish()
}

/// An engine and the thread that interrupts its guests.
pub(crate) struct Runtime {
    engine: Engine,
    ticker: Arc<Ticker>,
    thread: Thread,
}

impl Runtime {
    /// Makes the engine with a pool for so many instances at once and starts the thread, which sleeps as long as no guest runs.
    pub(crate) fn new(instances: u32) -> wasmtime::Result<Self> {
        let engine = Engine::new(&run_config(instances))?;
        let ticker = Arc::new(Ticker::default());
        let (tell, begun) = std::sync::mpsc::channel::<()>();
        let handle = std::thread::Builder::new().name("plugin-ticker".to_owned()).spawn({
            let engine = engine.weak();
            let ticker = Arc::clone(&ticker);
            move || {
                drop(tell);
                while ticker.wait_for_guest() {
                    std::thread::sleep(TICK);
                    match engine.upgrade() {
                        Some(engine) => engine.increment_epoch(),
                        None => return,
                    }
                }
            }
        })?;
        // What a thread asks of the kernel when it begins may not be asked for once a worker has its filter of system calls. The
        // channel says nothing but that it is closed.
        let _ = begun.recv();
        Ok(Self {
            engine,
            ticker,
            thread: handle.thread().clone(),
        })
    }

    /// The engine.
    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// A future that makes the ticker tick and `clock` go while it is being polled, which is while the guest runs. A
    /// guest that waits for a host function costs nothing.
    pub(crate) fn ticking<'a, F: Future>(&'a self, clock: &'a GuestClock, inner: Pin<Box<F>>) -> Ticking<'a, F> {
        Ticking {
            runtime: self,
            clock,
            inner,
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.ticker.ended.store(true, Ordering::SeqCst);
        self.thread.unpark();
    }
}

#[derive(Default)]
struct Ticker {
    running: AtomicUsize,
    asleep: AtomicBool,
    ended: AtomicBool,
}

impl Ticker {
    /// Sleeps until a guest runs. False once the runtime is gone.
    fn wait_for_guest(&self) -> bool {
        while self.running.load(Ordering::SeqCst) == 0 {
            // The order matters: a guest that starts after this store sees it and unparks this thread, and one that
            // started before is seen by the load.
            self.asleep.store(true, Ordering::SeqCst);
            if self.ended.load(Ordering::SeqCst) {
                return false;
            }
            if self.running.load(Ordering::SeqCst) == 0 {
                std::thread::park();
            }
            self.asleep.store(false, Ordering::SeqCst);
        }
        !self.ended.load(Ordering::SeqCst)
    }
}

/// See [`Runtime::ticking`].
pub(crate) struct Ticking<'a, F> {
    runtime: &'a Runtime,
    clock: &'a GuestClock,
    inner: Pin<Box<F>>,
}

impl<F: Future> Future for Ticking<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        struct Running<'a>(&'a AtomicUsize, &'a GuestClock);
        impl Drop for Running<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
                self.1.leave();
            }
        }
        let (runtime, clock) = (self.runtime, self.clock);
        clock.enter();
        runtime.ticker.running.fetch_add(1, Ordering::SeqCst);
        let _running = Running(&runtime.ticker.running, clock);
        if runtime.ticker.asleep.load(Ordering::SeqCst) {
            runtime.thread.unpark();
        }
        self.inner.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_engine_can_not_compile() {
        let component = b"\0asm\x0d\0\x01\0";
        let runtime = Runtime::new(MAX_INSTANCES).expect("an engine");
        assert!(runtime.engine().precompile_component(component).is_err());
        assert!(compiler().expect("a compiler").precompile_component(component).is_ok());
    }

    #[test]
    fn the_ticker_sleeps_without_guests_and_ends_with_the_runtime() {
        let runtime = Runtime::new(MAX_INSTANCES).expect("an engine");
        let ticker = Arc::clone(&runtime.ticker);
        let count = || Arc::strong_count(&ticker);
        assert_eq!(count(), 3, "the thread holds one");
        drop(runtime);
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while count() > 1 && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert_eq!(count(), 1, "the thread has ended");
    }
}

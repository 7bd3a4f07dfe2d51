//! What happened to a plugin since the daemon began, in numbers.
//!
//! How many numbers there are is bounded by construction: functions are those of the plugin's family and of `wit/host`, results are of a
//! list, and of the names that a plugin makes up for its own figures the first [`MAX_NAMES`] are counted apart.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hutch_broker::MetricSink;
use hutch_driver::DriverError;
use serde::{Deserialize, Serialize};

use crate::sync::Mutex;

/// Upper bounds of the buckets of call times, in microseconds. What is longer is in a bucket after the last.
pub const LATENCY_BOUNDS_US: [u64; 12] = [
    50, 100, 250, 500, 1_000, 2_500, 10_000, 50_000, 250_000, 1_000_000, 10_000_000, 60_000_000,
];

/// Names of a plugin's own, and codes of its errors, that are counted apart. A plugin can invent any number of them; the rest are
/// counted together, as `other`.
const MAX_NAMES: usize = 64;

/// The codes of errors that are told apart as the results of calls, besides `ok`: those that `hutch:host/types.error` names. Any other
/// is `other`, since guests make codes up.
const RESULTS: [&str; 15] = [
    "already-exists",
    "cancelled",
    "in-use",
    "internal",
    "invalid",
    "io",
    "limit",
    "no-space",
    "not-found",
    "not-granted",
    "not-requested",
    "timeout",
    "trap",
    "unavailable",
    "unsupported",
];

/// What a guest used in one call. A worker tells it of its own plugin: it decides nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Used {
    /// Processor time of the guest, in nanoseconds.
    pub(crate) guest_ns: u64,
    /// The most linear memory that it had at once, in bytes.
    pub(crate) memory: u64,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    traps: AtomicU64,
    timeouts: AtomicU64,
    faults: AtomicU64,
    restarts: AtomicU64,
    running: AtomicU64,
    queue_ns: AtomicU64,
    guest_ns: AtomicU64,
    memory_peak: AtomicU64,
    calls: Mutex<Calls>,
    host: Mutex<Host>,
    named: Mutex<Named>,
}

#[derive(Debug, Default)]
struct Calls {
    count: u64,
    total_ns: u64,
    buckets: [u64; LATENCY_BOUNDS_US.len() + 1],
    errors: BTreeMap<String, u64>,
    functions: BTreeMap<&'static str, FunctionMetrics>,
}

#[derive(Debug, Default)]
struct Host {
    functions: BTreeMap<&'static str, FunctionMetrics>,
    denied: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Default)]
struct Named {
    counts: BTreeMap<String, u64>,
    gauges: BTreeMap<String, i64>,
}

/// The calls of one function.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FunctionMetrics {
    /// Calls that ended.
    pub calls: u64,
    /// Their time altogether.
    pub total: Duration,
    /// How they ended: `ok`, the code of an error that the core knows, `other`.
    pub results: BTreeMap<&'static str, u64>,
}

impl FunctionMetrics {
    fn add(&mut self, took: Duration, result: &'static str) {
        self.calls += 1;
        self.total = self.total.saturating_add(took);
        *self.results.entry(result).or_default() += 1;
    }
}

/// The figures of one plugin, since the daemon began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PluginMetrics {
    /// Calls that ended.
    pub calls: u64,
    /// Failed calls by the code of their error.
    pub errors: BTreeMap<String, u64>,
    /// Calls that trapped.
    pub traps: u64,
    /// Calls that took too long.
    pub timeouts: u64,
    /// Faults that counted towards a quarantine.
    pub faults: u64,
    /// How often a process of its own was started in the place of one that had ended.
    pub restarts: u64,
    /// Instances that there are at this moment: one for each call that is being made.
    pub running: u64,
    /// Time of all calls together.
    pub total: Duration,
    /// Time that calls waited for their turn, together.
    pub queue: Duration,
    /// Processor time of its guests, together.
    pub guest: Duration,
    /// The most linear memory that one of its instances had, in bytes.
    pub memory_peak: u64,
    /// Calls by their time: as many as [`LATENCY_BOUNDS_US`] and one for what is longer.
    pub latency: Vec<u64>,
    /// Its functions that were called; `none` for calls that did not get as far as to a function.
    pub functions: BTreeMap<&'static str, FunctionMetrics>,
    /// The host's functions that it called.
    pub host_functions: BTreeMap<&'static str, FunctionMetrics>,
    /// Host functions that were refused for lack of a permission, by the permission's kind.
    pub denied: BTreeMap<&'static str, u64>,
    /// The plugin's own counters.
    pub counts: BTreeMap<String, u64>,
    /// The plugin's own gauges.
    pub gauges: BTreeMap<String, i64>,
}

impl Counters {
    /// Counts a call of `function` that ended.
    pub(crate) fn call(&self, function: Option<&'static str>, took: Duration, error: Option<&DriverError>) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let mut calls = self.calls.lock();
        calls.count += 1;
        calls.total_ns = calls.total_ns.saturating_add(nanos(took));
        let bucket = LATENCY_BOUNDS_US.partition_point(|bound| *bound < us);
        if let Some(bucket) = calls.buckets.get_mut(bucket) {
            *bucket += 1;
        }
        let name = function.unwrap_or("none");
        calls.functions.entry(name).or_default().add(took, result(error));
        let Some(error) = error else { return };
        match error.code.as_str() {
            "trap" => self.traps.fetch_add(1, Ordering::Relaxed),
            "timeout" => self.timeouts.fetch_add(1, Ordering::Relaxed),
            _ => 0,
        };
        *entry(&mut calls.errors, &error.code) += 1;
    }

    /// Counts a function of the host's that the plugin called.
    pub(crate) fn host_call(&self, function: &'static str, took: Duration, error: Option<&DriverError>) {
        let mut host = self.host.lock();
        host.functions.entry(function).or_default().add(took, result(error));
        if error.is_some_and(|error| error.is("not-requested") || error.is("not-granted")) {
            // Permissions are by interface.
            let kind = function.split_once('.').map_or(function, |(interface, _)| interface);
            *host.denied.entry(kind).or_default() += 1;
        }
    }

    /// Counts a fault.
    pub(crate) fn fault(&self) {
        self.faults.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a process that was started in the place of one that had ended.
    pub(crate) fn restart(&self) {
        self.restarts.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts what a call waited for its turn.
    pub(crate) fn queued(&self, waited: Duration) {
        self.queue_ns.fetch_add(nanos(waited), Ordering::Relaxed);
    }

    /// Counts what a guest used, which may not be more than `memory` bytes: who says more is not believed.
    pub(crate) fn used(&self, used: Used, memory: u64) {
        self.guest_ns.fetch_add(used.guest_ns, Ordering::Relaxed);
        self.memory_peak.fetch_max(used.memory.min(memory), Ordering::Relaxed);
    }

    /// Counts an instance for as long as the answer lives.
    pub(crate) fn instance(&self) -> Running<'_> {
        self.running.fetch_add(1, Ordering::Relaxed);
        Running(&self.running)
    }

    /// The figures of this moment.
    pub(crate) fn snapshot(&self) -> PluginMetrics {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut metrics = PluginMetrics {
            traps: of(&self.traps),
            timeouts: of(&self.timeouts),
            faults: of(&self.faults),
            restarts: of(&self.restarts),
            running: of(&self.running),
            queue: Duration::from_nanos(of(&self.queue_ns)),
            guest: Duration::from_nanos(of(&self.guest_ns)),
            memory_peak: of(&self.memory_peak),
            ..PluginMetrics::default()
        };
        {
            let calls = self.calls.lock();
            metrics.calls = calls.count;
            metrics.total = Duration::from_nanos(calls.total_ns);
            metrics.latency = calls.buckets.to_vec();
            metrics.errors = calls.errors.clone();
            metrics.functions = calls.functions.clone();
        }
        {
            let host = self.host.lock();
            metrics.host_functions = host.functions.clone();
            metrics.denied = host.denied.clone();
        }
        let named = self.named.lock();
        metrics.counts = named.counts.clone();
        metrics.gauges = named.gauges.clone();
        metrics
    }
}

/// An instance that is there.
#[derive(Debug)]
pub(crate) struct Running<'a>(&'a AtomicU64);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl MetricSink for Counters {
    fn count(&self, name: &str, delta: u64) {
        let mut named = self.named.lock();
        let count = entry(&mut named.counts, name);
        *count = count.saturating_add(delta);
    }

    fn gauge(&self, name: &str, value: i64) {
        *entry(&mut self.named.lock().gauges, name) = value;
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// How a call ended, as one of a few words.
fn result(error: Option<&DriverError>) -> &'static str {
    let Some(error) = error else { return "ok" };
    let known = RESULTS.iter().find(|known| error.is(known));
    known.copied().unwrap_or("other")
}

/// The entry of `name`, or the common one of all names beyond what is counted apart.
fn entry<'a, T: Default>(map: &'a mut BTreeMap<String, T>, name: &str) -> &'a mut T {
    let name = if map.contains_key(name) || map.len() < MAX_NAMES {
        name
    } else {
        "other"
    };
    map.entry(name.to_owned()).or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_a_plugin_invents_are_bounded() {
        let counters = Counters::default();
        for i in 0..1000 {
            counters.count(&format!("n{i}"), 1);
            counters.gauge(&format!("n{i}"), 1);
            let error = DriverError::new(format!("code-{i}"), "x");
            counters.call(Some("pool.validate"), Duration::ZERO, Some(&error));
        }
        let metrics = counters.snapshot();
        for names in [metrics.counts.len(), metrics.gauges.len(), metrics.errors.len()] {
            assert_eq!(names, MAX_NAMES + 1);
        }
        assert_eq!(metrics.counts.get("other"), Some(&(1000 - MAX_NAMES as u64)));
        let function = metrics.functions.get("pool.validate").expect("it was called");
        assert_eq!(function.results, BTreeMap::from([("other", 1000)]));
    }

    #[test]
    fn calls_fall_into_their_buckets() {
        let counters = Counters::default();
        counters.call(Some("a.b"), Duration::from_micros(50), None);
        counters.call(
            Some("a.b"),
            Duration::from_micros(51),
            Some(&DriverError::new("trap", "x")),
        );
        counters.call(None, Duration::from_secs(3600), Some(&DriverError::new("timeout", "x")));
        let metrics = counters.snapshot();
        assert_eq!((metrics.calls, metrics.traps, metrics.timeouts), (3, 1, 1));
        assert_eq!(metrics.latency[0], 1);
        assert_eq!(metrics.latency[1], 1);
        assert_eq!(metrics.latency.last(), Some(&1));
        assert_eq!(metrics.errors.get("trap"), Some(&1));
        let function = metrics.functions.get("a.b").expect("it was called");
        assert_eq!((function.calls, function.total), (2, Duration::from_micros(101)));
        assert_eq!(function.results, BTreeMap::from([("ok", 1), ("trap", 1)]));
        assert_eq!(metrics.functions.get("none").map(|function| function.calls), Some(1));
    }

    #[test]
    fn refusals_are_counted_by_permission() {
        let counters = Counters::default();
        counters.host_call("fs.stat", Duration::from_micros(2), None);
        for code in ["not-granted", "not-requested", "io"] {
            counters.host_call("link.get", Duration::from_micros(1), Some(&DriverError::new(code, "x")));
        }
        let metrics = counters.snapshot();
        assert_eq!(metrics.denied, BTreeMap::from([("link", 2)]));
        assert_eq!(metrics.host_functions.len(), 2);
    }

    #[test]
    fn what_a_worker_says_that_it_used_is_bounded() {
        let counters = Counters::default();
        let used = Used {
            guest_ns: 5,
            memory: u64::MAX,
        };
        counters.used(used, 1 << 20);
        assert_eq!(counters.snapshot().memory_peak, 1 << 20);
        let _one = counters.instance();
        assert_eq!(counters.snapshot().running, 1);
    }
}

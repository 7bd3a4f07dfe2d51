//! How a plugin fares: counters of its calls, and the quarantine that ends a series of faults.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use hutch_broker::MetricSink;
use hutch_driver::DriverError;
use serde::Serialize;

use crate::files::{FileError, FileStore};
use crate::quarantine::Quarantine;
use crate::sync::Mutex;

/// When a plugin is taken out of service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuarantinePolicy {
    /// Faults (traps, spent time, spent memory, unreadable answers) that end in quarantine.
    pub faults: usize,
    /// The time within which they have to happen. What is longer ago is forgotten.
    pub window: Duration,
}

impl Default for QuarantinePolicy {
    fn default() -> Self {
        Self {
            faults: 5,
            window: Duration::from_secs(600),
        }
    }
}

/// The faults of one plugin.
#[derive(Debug, Default)]
pub(crate) struct Health {
    faults: Mutex<Faults>,
    /// One writer of the quarantine's record at a time, so that the last one writes what is true last.
    keeping: Mutex<()>,
}

#[derive(Debug, Default)]
struct Faults {
    recent: VecDeque<Instant>,
    quarantined: Option<Quarantine>,
}

impl Health {
    /// The health of a plugin that an earlier run of the daemon left in quarantine, or did not.
    pub(crate) fn new(quarantined: Option<Quarantine>) -> Self {
        Self {
            faults: Mutex::new(Faults {
                recent: VecDeque::new(),
                quarantined,
            }),
            keeping: Mutex::default(),
        }
    }

    /// Since when and why the plugin is in quarantine, where it is.
    pub(crate) fn quarantined(&self) -> Option<Quarantine> {
        self.faults.lock().quarantined.clone()
    }

    /// Counts a fault. True if it is the one that ends in quarantine.
    pub(crate) fn fault(&self, policy: QuarantinePolicy, what: &str, now: Instant) -> bool {
        let mut faults = self.faults.lock();
        while faults
            .recent
            .front()
            .is_some_and(|at| now.duration_since(*at) > policy.window)
        {
            faults.recent.pop_front();
        }
        faults.recent.push_back(now);
        let count = faults.recent.len();
        if faults.quarantined.is_some() || count < policy.faults {
            return false;
        }
        faults.quarantined = Some(Quarantine {
            since: SystemTime::now(),
            reason: format!(
                "{count} faults within {} s, the last one: {what}",
                policy.window.as_secs()
            ),
        });
        true
    }

    /// Forgets all faults.
    pub(crate) fn lift(&self) {
        *self.faults.lock() = Faults::default();
    }

    /// Has the store say of the plugin `digest` what is true at this moment. Blocks.
    ///
    /// # Errors
    /// When the record can't be written or removed.
    pub(crate) fn keep(&self, files: &FileStore, digest: &str) -> Result<(), FileError> {
        let _turn = self.keeping.lock();
        files.set_quarantine(digest, self.quarantined().as_ref())
    }
}

/// Upper bounds of the buckets of call times, in microseconds. What is longer is in a bucket after the last.
pub const LATENCY_BOUNDS_US: [u64; 12] = [
    50, 100, 250, 500, 1_000, 2_500, 10_000, 50_000, 250_000, 1_000_000, 10_000_000, 60_000_000,
];

/// Codes and names of a plugin's own that are counted apart. A plugin can invent any number of them.
const MAX_NAMES: usize = 64;

/// What happened to a plugin's calls since the daemon began.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    calls: AtomicU64,
    traps: AtomicU64,
    timeouts: AtomicU64,
    denials: AtomicU64,
    total_us: AtomicU64,
    buckets: [AtomicU64; LATENCY_BOUNDS_US.len() + 1],
    named: Mutex<Named>,
}

#[derive(Debug, Default)]
struct Named {
    errors: BTreeMap<String, u64>,
    counts: BTreeMap<String, u64>,
    gauges: BTreeMap<String, i64>,
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
    /// Host functions that were refused for lack of a permission.
    pub denials: u64,
    /// Time of all calls together, in microseconds.
    pub total_us: u64,
    /// Calls by their time: as many as [`LATENCY_BOUNDS_US`] and one for what is longer.
    pub latency: Vec<u64>,
    /// The plugin's own counters.
    pub counts: BTreeMap<String, u64>,
    /// The plugin's own gauges.
    pub gauges: BTreeMap<String, i64>,
}

impl Counters {
    /// Counts a call that ended.
    pub(crate) fn call(&self, took: Duration, error: Option<&DriverError>) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.total_us.fetch_add(us, Ordering::Relaxed);
        let bucket = LATENCY_BOUNDS_US.partition_point(|bound| *bound < us);
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        let Some(error) = error else { return };
        match error.code.as_str() {
            "trap" => self.traps.fetch_add(1, Ordering::Relaxed),
            "timeout" => self.timeouts.fetch_add(1, Ordering::Relaxed),
            _ => 0,
        };
        *entry(&mut self.named.lock().errors, &error.code) += 1;
    }

    /// Counts refusals.
    pub(crate) fn denied(&self, count: u64) {
        self.denials.fetch_add(count, Ordering::Relaxed);
    }

    /// The figures of this moment.
    pub(crate) fn snapshot(&self) -> PluginMetrics {
        let named = self.named.lock();
        PluginMetrics {
            calls: self.calls.load(Ordering::Relaxed),
            errors: named.errors.clone(),
            traps: self.traps.load(Ordering::Relaxed),
            timeouts: self.timeouts.load(Ordering::Relaxed),
            denials: self.denials.load(Ordering::Relaxed),
            total_us: self.total_us.load(Ordering::Relaxed),
            latency: self
                .buckets
                .iter()
                .map(|bucket| bucket.load(Ordering::Relaxed))
                .collect(),
            counts: named.counts.clone(),
            gauges: named.gauges.clone(),
        }
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
    fn quarantine_follows_faults_in_a_row_and_not_old_ones() {
        let policy = QuarantinePolicy {
            faults: 3,
            window: Duration::from_secs(60),
        };
        let health = Health::default();
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        assert!(!health.fault(policy, "a", at(0)));
        assert!(!health.fault(policy, "b", at(1)));
        assert!(!health.fault(policy, "c", at(62)), "the first two are forgotten");
        assert!(!health.fault(policy, "d", at(63)));
        assert_eq!(health.quarantined(), None);
        assert!(health.fault(policy, "e", at(64)));
        assert_eq!(
            health.quarantined().map(|quarantine| quarantine.reason).as_deref(),
            Some("3 faults within 60 s, the last one: e")
        );
        assert!(!health.fault(policy, "f", at(65)), "it is told once");
        health.lift();
        assert_eq!(health.quarantined(), None);
        assert!(!health.fault(policy, "g", at(66)));
    }

    #[test]
    fn names_that_a_plugin_invents_are_bounded() {
        let counters = Counters::default();
        for i in 0..1000 {
            counters.count(&format!("n{i}"), 1);
        }
        let counts = counters.snapshot().counts;
        assert_eq!(counts.len(), MAX_NAMES + 1);
        assert_eq!(counts.get("other"), Some(&(1000 - MAX_NAMES as u64)));
    }

    #[test]
    fn calls_fall_into_their_buckets() {
        let counters = Counters::default();
        counters.call(Duration::from_micros(50), None);
        counters.call(Duration::from_micros(51), Some(&DriverError::new("trap", "x")));
        counters.call(Duration::from_secs(3600), Some(&DriverError::new("timeout", "x")));
        let metrics = counters.snapshot();
        assert_eq!((metrics.calls, metrics.traps, metrics.timeouts), (3, 1, 1));
        assert_eq!(metrics.latency[0], 1);
        assert_eq!(metrics.latency[1], 1);
        assert_eq!(metrics.latency.last(), Some(&1));
        assert_eq!(metrics.errors.get("trap"), Some(&1));
    }
}

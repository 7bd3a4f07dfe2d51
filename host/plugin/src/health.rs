//! How a plugin fares: its faults, and the quarantine that ends a series of them.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime};

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
    /// How long a plugin has to run well, with calls that succeed and without a fault, until all its faults are forgotten.
    pub healthy: Duration,
}

impl Default for QuarantinePolicy {
    fn default() -> Self {
        Self {
            faults: 5,
            window: Duration::from_secs(600),
            healthy: Duration::from_secs(300),
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
    /// Whether a call has succeeded since the last of them.
    well: bool,
    quarantined: Option<Quarantine>,
}

impl Faults {
    /// Forgets faults that are long ago, and all of a plugin that has run well since the last.
    fn forget(&mut self, policy: QuarantinePolicy, now: Instant) {
        let since = |at: &Instant| now.saturating_duration_since(*at);
        if self.well && self.recent.back().is_some_and(|last| since(last) >= policy.healthy) {
            self.recent.clear();
        }
        while self.recent.front().is_some_and(|at| since(at) > policy.window) {
            self.recent.pop_front();
        }
    }
}

impl Health {
    /// The health of a plugin that an earlier run of the daemon left in quarantine, or did not.
    pub(crate) fn new(quarantined: Option<Quarantine>) -> Self {
        Self {
            faults: Mutex::new(Faults {
                recent: VecDeque::new(),
                well: false,
                quarantined,
            }),
            keeping: Mutex::default(),
        }
    }

    /// Since when and why the plugin is in quarantine, where it is.
    pub(crate) fn quarantined(&self) -> Option<Quarantine> {
        self.faults.lock().quarantined.clone()
    }

    /// A call has succeeded.
    pub(crate) fn well(&self) {
        self.faults.lock().well = true;
    }

    /// How many faults count at this moment.
    pub(crate) fn counted(&self, policy: QuarantinePolicy, now: Instant) -> usize {
        let mut faults = self.faults.lock();
        faults.forget(policy, now);
        faults.recent.len()
    }

    /// Counts a fault. True if it is the one that ends in quarantine.
    pub(crate) fn fault(&self, policy: QuarantinePolicy, what: &str, now: Instant) -> bool {
        let mut faults = self.faults.lock();
        faults.forget(policy, now);
        faults.recent.push_back(now);
        faults.well = false;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quarantine_follows_faults_in_a_row_and_not_old_ones() {
        let policy = QuarantinePolicy {
            faults: 3,
            window: Duration::from_secs(60),
            healthy: Duration::from_secs(30),
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
    fn a_plugin_that_has_run_well_begins_anew() {
        let policy = QuarantinePolicy {
            faults: 3,
            window: Duration::from_secs(600),
            healthy: Duration::from_secs(300),
        };
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let health = Health::default();
        assert!(!health.fault(policy, "a", at(0)));
        assert!(!health.fault(policy, "b", at(1)));
        // Nobody has called it since: that is not to run well.
        assert_eq!(health.counted(policy, at(400)), 2);
        health.well();
        assert_eq!(health.counted(policy, at(300)), 2, "not for long enough");
        assert_eq!(health.counted(policy, at(301)), 0);
        assert!(!health.fault(policy, "c", at(302)));
        health.well();
        assert!(!health.fault(policy, "d", at(303)));
        assert!(
            health.fault(policy, "e", at(304)),
            "a call that succeeds in between is not enough"
        );
        health.lift();
        assert_eq!(health.counted(policy, at(305)), 0);
    }
}

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
}

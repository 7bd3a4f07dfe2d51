//! Files on their way into the registry: taken into the store and examined, and not decided about yet. As long as they are
//! here nobody removes them for not being referred to.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::registry::Version;
use crate::sync::Mutex;

/// How long a decision may take.
const PATIENCE: Duration = Duration::from_secs(900);
/// Files that may wait at once. The one that has waited longest makes room.
const MOST: usize = 64;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Staged(Mutex<HashMap<String, Item>>);

#[derive(Debug)]
struct Item {
    /// Changes that work on it.
    users: usize,
    /// What is known of it once it was examined.
    version: Option<Version>,
    /// Those who examined it and have not decided: several may at once, and one's decision leaves the others theirs.
    undecided: usize,
    since: Instant,
}

/// As long as it lives, its file stays.
pub(crate) struct Pin<'a> {
    staged: &'a Staged,
    digest: String,
}

impl Staged {
    /// Has the file of `digest` stay, whether it is there yet or not.
    pub(crate) fn pin(&self, digest: &str) -> Pin<'_> {
        let mut items = self.0.lock();
        let item = items.entry(digest.to_owned()).or_insert_with(|| Item {
            users: 0,
            version: None,
            undecided: 0,
            since: Instant::now(),
        });
        item.users += 1;
        Pin {
            staged: self,
            digest: digest.to_owned(),
        }
    }

    /// What was found out about the file of `digest`, if it was examined not long ago.
    pub(crate) fn version(&self, digest: &str) -> Option<Version> {
        let items = self.0.lock();
        let item = items.get(digest).filter(|item| item.since.elapsed() < PATIENCE)?;
        item.version.clone()
    }

    /// Does `work` unless the file of `digest` has to stay; who wants it meanwhile waits until that is done.
    pub(crate) fn unless_kept<T>(&self, digest: &str, work: impl FnOnce() -> T) -> Option<T> {
        let mut items = self.0.lock();
        items.retain(|_, item| item.users > 0 || item.since.elapsed() < PATIENCE);
        (!items.contains_key(digest)).then(work)
    }
}

impl Pin<'_> {
    /// The file was examined and waits for a decision. One that a publisher answers for stays so, when somebody else offers the same
    /// file without the signature: who decides was told of that one.
    pub(crate) fn examined(&self, version: Version) {
        let mut items = self.staged.0.lock();
        if let Some(item) = items.get_mut(&self.digest) {
            let before = item.version.take().filter(|_| item.since.elapsed() < PATIENCE);
            item.undecided = before.as_ref().map_or(0, |_| item.undecided) + 1;
            let signed = before.filter(|before| before.is_signed() && !version.is_signed());
            item.version = Some(signed.unwrap_or(version));
            item.since = Instant::now();
        }
        let waiting = items.iter().filter(|(_, item)| item.users == 0);
        let oldest = waiting
            .min_by_key(|(_, item)| item.since)
            .map(|(digest, _)| digest.clone());
        if let Some(oldest) = oldest
            && items.len() > MOST
        {
            items.remove(&oldest);
        }
    }

    /// One of those who examined the file has decided about it: the registry has it.
    pub(crate) fn decided(&self) {
        if let Some(item) = self.staged.0.lock().get_mut(&self.digest) {
            item.undecided = item.undecided.saturating_sub(1);
            if item.undecided == 0 {
                item.version = None;
            }
        }
    }
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        let mut items = self.staged.0.lock();
        if let Some(item) = items.get_mut(&self.digest) {
            item.users -= 1;
            if item.users == 0 && item.version.is_none() {
                items.remove(&self.digest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Provenance;

    fn version(digest: &str) -> Version {
        Version {
            digest: digest.to_owned(),
            version: "1.0.0".to_owned(),
            source: String::new(),
            provenance: Provenance::Dev,
            signature: None,
            config: hutch_driver::Options::new(),
            taken_in: 0,
        }
    }

    #[test]
    fn what_is_worked_on_or_waits_stays() {
        let staged = Staged::default();
        let kept = || staged.unless_kept("a", || ()).is_none();
        let (one, other) = (staged.pin("a"), staged.pin("a"));
        drop(one);
        assert!(kept());
        drop(other);
        assert!(!kept(), "it failed before it was examined");
        let pin = staged.pin("a");
        pin.examined(version("a"));
        drop(pin);
        assert_eq!(staged.version("a"), Some(version("a")));
        assert!(kept());
        let pin = staged.pin("a");
        pin.decided();
        drop(pin);
        assert!(!kept());
    }

    #[test]
    fn a_signed_file_is_not_made_unsigned_by_somebody_else() {
        let staged = Staged::default();
        let signed = Version {
            provenance: Provenance::Signed {
                publisher: "p".to_owned(),
                key: "k".to_owned(),
            },
            ..version("a")
        };
        staged.pin("a").examined(signed.clone());
        staged.pin("a").examined(version("a"));
        assert_eq!(staged.version("a"), Some(signed.clone()));
        staged.pin("b").examined(version("b"));
        staged.pin("b").examined(Version {
            digest: "b".to_owned(),
            ..signed
        });
        assert!(staged.version("b").is_some_and(|version| version.is_signed()));
    }

    #[test]
    fn who_decides_too_late_has_to_look_again() {
        let staged = Staged::default();
        staged.pin("a").examined(version("a"));
        let long_ago = Instant::now()
            .checked_sub(PATIENCE)
            .expect("a machine that has run for a while");
        staged.0.lock().get_mut("a").expect("it waits").since = long_ago;
        let _pin = staged.pin("a");
        assert_eq!(staged.version("a"), None);
    }

    #[test]
    fn who_examined_it_may_decide_after_another_did() {
        let staged = Staged::default();
        for _ in 0..2 {
            staged.pin("a").examined(version("a"));
        }
        for waits in [true, false] {
            assert_eq!(staged.version("a"), Some(version("a")));
            staged.pin("a").decided();
            assert_eq!(staged.version("a").is_some(), waits);
        }
        assert!(staged.unless_kept("a", || ()).is_some());
    }

    #[test]
    fn few_wait_at_once() {
        let staged = Staged::default();
        for i in 0..2 * MOST {
            let digest = i.to_string();
            staged.pin(&digest).examined(version(&digest));
        }
        assert_eq!(staged.0.lock().len(), MOST);
        assert!(staged.version("0").is_none());
    }
}

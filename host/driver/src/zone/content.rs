//! The content of a zone at one version, with the changes that led to it: what a call of a zone driver reads.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::sync::Arc;

use super::{Change, RecordSet, form};
use crate::DriverError;

/// Record sets of one page.
const MAX_PAGE: usize = 1000;
/// Bytes of names and values of one page. The first set of a page is always there, with [`form::MAX_SET_BYTES`] at most.
const MAX_PAGE_BYTES: usize = 1 << 20;
/// Record sets in all changes that are remembered together.
pub const MAX_CHANGED: usize = 10_000;
/// Record sets of one zone.
pub const MAX_SETS: usize = 1_000_000;

/// The place behind a record set.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Position {
    /// The set's name.
    pub name: String,
    /// Its type.
    pub kind: String,
}

/// A zone's content as it is at one version. It never changes, so that a call reads one version from its first page to its last
/// whatever happens meanwhile; [`Content::next`] makes another of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    zone: String,
    version: u64,
    /// In the order of [`order`], each name and type once.
    sets: Arc<Vec<RecordSet>>,
    /// Oldest first; each begins where the one before ended, and the last ends with `version`.
    changes: VecDeque<Arc<Change>>,
    /// Since when `changes` knows all.
    known_since: u64,
}

impl Content {
    /// The content of `zone` at `version`, which nothing led to. The sets may be in any order.
    ///
    /// # Errors
    /// `invalid` for a set that can't be in a zone, one that is there twice, or an alias beside other data; `limit` for more than
    /// [`MAX_SETS`].
    pub fn new(zone: &str, version: u64, sets: Vec<RecordSet>) -> Result<Self, DriverError> {
        Ok(Self {
            zone: zone.to_owned(),
            version,
            sets: Arc::new(checked(zone, sets)?),
            changes: VecDeque::new(),
            known_since: version,
        })
    }

    /// The content after this one: at `version` if `sets` are others, or `None` where they are the same.
    ///
    /// # Errors
    /// As [`Content::new`]; `invalid` for a version that is not above this one's.
    pub fn next(&self, version: u64, sets: Vec<RecordSet>) -> Result<Option<Self>, DriverError> {
        if version <= self.version {
            let message = format!("version {version} of zone {} is not after {}", self.zone, self.version);
            return Err(DriverError::new("invalid", message));
        }
        let sets = checked(&self.zone, sets)?;
        if *self.sets == sets {
            return Ok(None);
        }
        let (removed, added) = differences(&self.sets, &sets);
        let mut next = Self {
            zone: self.zone.clone(),
            version,
            sets: Arc::new(sets),
            changes: self.changes.clone(),
            known_since: self.known_since,
        };
        next.changes.push_back(Arc::new(Change {
            version,
            removed,
            added,
        }));
        let size = |change: &Change| change.removed.len() + change.added.len();
        let mut total: usize = next.changes.iter().map(|change| size(change)).sum();
        while total > MAX_CHANGED {
            let Some(oldest) = next.changes.pop_front() else { break };
            total -= size(&oldest);
            next.known_since = oldest.version;
        }
        Ok(Some(next))
    }

    /// The zone.
    pub fn zone(&self) -> &str {
        &self.zone
    }

    /// The version.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// All record sets, in canonical order.
    pub fn sets(&self) -> &[RecordSet] {
        &self.sets
    }

    /// `records.page`.
    ///
    /// # Errors
    /// `not-found`, retryable, for another version than this; `invalid` for a limit of 0, whose answer would look like the end.
    pub fn page(&self, version: u64, after: Option<&Position>, limit: u32) -> Result<&[RecordSet], DriverError> {
        if limit == 0 {
            return Err(DriverError::new("invalid", "a page of no record sets was asked for"));
        }
        if version != self.version {
            let message = format!(
                "version {version} of zone {} is gone: it is {}",
                self.zone, self.version
            );
            return Err(DriverError {
                retryable: true,
                ..DriverError::new("not-found", message)
            });
        }
        let begin = after.map_or(0, |after| {
            let before =
                |set: &RecordSet| order((&set.name, &set.kind), (&after.name, &after.kind)) != Ordering::Greater;
            self.sets.partition_point(before)
        });
        let rest = self.sets.get(begin..).unwrap_or_default();
        let most = usize::try_from(limit).unwrap_or(MAX_PAGE).min(MAX_PAGE);
        let mut bytes = 0;
        let page = rest.iter().take(most).take_while(|set| {
            bytes += set.name.len() + set.kind.len() + set.values.iter().map(String::len).sum::<usize>();
            bytes <= MAX_PAGE_BYTES
        });
        Ok(rest.get(..page.count()).unwrap_or_default())
    }

    /// `records.changes`: what led from version `since` to this one. None where that is not known.
    pub fn changes(&self, since: u64) -> Option<Vec<Change>> {
        let met = since == self.known_since || self.changes.iter().any(|change| change.version == since);
        met.then(|| {
            let later = self.changes.iter().filter(|change| change.version > since);
            later.map(|change| Change::clone(change)).collect()
        })
    }
}

/// The sets in their order, all checked.
fn checked(zone: &str, mut sets: Vec<RecordSet>) -> Result<Vec<RecordSet>, DriverError> {
    let invalid = |message: String| DriverError::new("invalid", message);
    form::check_zone_name(zone).map_err(invalid)?;
    if sets.len() > MAX_SETS {
        let message = format!("zone {zone} has {} record sets, and {MAX_SETS} are allowed", sets.len());
        return Err(DriverError::new("limit", message));
    }
    for set in &sets {
        form::check(zone, set).map_err(|reason| invalid(format!("zone {zone}: {reason}")))?;
    }
    sets.sort_by(|a, b| order((&a.name, &a.kind), (&b.name, &b.kind)));
    for pair in sets.windows(2) {
        let [one, other] = pair else { continue };
        if one.name != other.name {
            continue;
        }
        let name = &one.name;
        if one.kind == other.kind {
            return Err(invalid(format!("zone {zone} has two record sets {name} {}", one.kind)));
        }
        // Within a name the kinds are in order, but an alias is alone whatever comes before or after it.
        if [one, other].iter().any(|set| set.kind == "CNAME") {
            return Err(invalid(format!(
                "zone {zone}: {name} is an alias and has other records, too (RFC 1034 section 3.6.2)"
            )));
        }
    }
    Ok(sets)
}

/// The canonical order of names (RFC 4034 section 6.1): by their labels from the last to the first, so that a name comes right
/// before those below it; and then by kinds.
fn order((name, kind): (&str, &str), (other, other_kind): (&str, &str)) -> Ordering {
    labels(name).cmp(labels(other)).then_with(|| kind.cmp(other_kind))
}

/// The labels from the last to the first. The apex has none.
fn labels(name: &str) -> impl Iterator<Item = &str> {
    (name != "@").then(|| name.rsplit('.')).into_iter().flatten()
}

/// What is in `old` alone and what is in `new` alone; both are in order.
fn differences(old: &[RecordSet], new: &[RecordSet]) -> (Vec<RecordSet>, Vec<RecordSet>) {
    let (mut removed, mut added) = (Vec::new(), Vec::new());
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let side = match (old.peek(), new.peek()) {
            (None, None) => return (removed, added),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) => order((&a.name, &a.kind), (&b.name, &b.kind)),
        };
        let gone = if side == Ordering::Greater { None } else { old.next() };
        let come = if side == Ordering::Less { None } else { new.next() };
        if gone != come {
            removed.extend(gone.cloned());
            added.extend(come.cloned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, kind: &str, value: &str) -> RecordSet {
        RecordSet {
            name: name.into(),
            kind: kind.into(),
            ttl: 300,
            values: vec![value.into()],
        }
    }

    fn some() -> Vec<RecordSet> {
        [
            ("z", "A", "192.0.2.9"),
            ("a.b", "A", "192.0.2.2"),
            ("b", "TXT", "x"),
            ("b", "A", "192.0.2.1"),
            ("@", "MX", "10 b"),
            ("*.b", "A", "192.0.2.3"),
        ]
        .map(|(name, kind, value)| set(name, kind, value))
        .to_vec()
    }

    fn names(sets: &[RecordSet]) -> Vec<String> {
        sets.iter().map(|set| format!("{} {}", set.name, set.kind)).collect()
    }

    #[test]
    fn pages_follow_one_another_in_canonical_order() {
        let content = Content::new("example.org", 7, some()).unwrap();
        let mut read = Vec::new();
        let mut after = None;
        loop {
            let page = content.page(7, after.as_ref(), 2).unwrap();
            let Some(last) = page.last() else { break };
            assert!(page.len() <= 2);
            read.extend(names(page));
            after = Some(Position {
                name: last.name.clone(),
                kind: last.kind.clone(),
            });
        }
        assert_eq!(read, ["@ MX", "b A", "b TXT", "*.b A", "a.b A", "z A"]);
        let gone = content.page(6, None, 2).unwrap_err();
        assert!(gone.is("not-found") && gone.retryable);
        // A place that is no set's, as after one that was removed.
        let place = Position {
            name: "c".into(),
            kind: "A".into(),
        };
        assert_eq!(names(content.page(7, Some(&place), 10).unwrap()), ["z A"]);
    }

    #[test]
    fn a_page_is_bounded_in_sets_and_bytes() {
        let large = (0..100)
            .map(|n| set(&format!("n{n}"), "TXT", &"x".repeat(16 << 10)))
            .collect();
        let content = Content::new("example.org", 1, large).unwrap();
        assert_eq!(content.page(1, None, u32::MAX).unwrap().len(), 63);
        let many = (0..2000).map(|n| set(&format!("n{n}"), "A", "192.0.2.1")).collect();
        let content = Content::new("example.org", 1, many).unwrap();
        assert_eq!(content.page(1, None, u32::MAX).unwrap().len(), MAX_PAGE);
        assert!(content.page(1, None, 0).unwrap_err().is("invalid"));
    }

    #[test]
    fn changes_lead_from_one_version_to_another() {
        let first = Content::new("example.org", 5, some()).unwrap();
        assert_eq!(first.next(6, some()).unwrap(), None);
        assert!(first.next(5, Vec::new()).is_err());
        let mut sets = some();
        sets.remove(0);
        sets[0].ttl = 60;
        sets.push(set("new", "A", "192.0.2.7"));
        let second = first.next(8, sets).unwrap().unwrap();
        let changes = second.changes(5).unwrap();
        assert_eq!(changes.len(), 1);
        assert_eq!(names(&changes[0].removed), ["a.b A", "z A"]);
        assert_eq!(names(&changes[0].added), ["a.b A", "new A"]);
        let third = second.next(9, Vec::new()).unwrap().unwrap();
        assert_eq!(third.changes(5).unwrap().len(), 2);
        assert_eq!(third.changes(8).unwrap()[0].added, []);
        assert_eq!(third.changes(9).unwrap(), []);
        assert_eq!(third.changes(7), None);
        assert_eq!(third.changes(4), None);
        let many = |from: usize| {
            (from..from + 6000)
                .map(|n| set(&format!("n{n}"), "A", "192.0.2.1"))
                .collect()
        };
        let fourth = third.next(10, many(0)).unwrap().unwrap();
        assert!(fourth.changes(9).is_some());
        let fifth = fourth.next(11, many(6000)).unwrap().unwrap();
        assert_eq!((fifth.changes(10), fifth.changes(11)), (None, Some(Vec::new())));
    }

    #[test]
    fn an_alias_is_alone_and_nothing_is_there_twice() {
        for bad in [
            vec![set("b", "A", "192.0.2.1"), set("b", "A", "192.0.2.2")],
            vec![set("b", "CNAME", "a"), set("b", "A", "192.0.2.2")],
            vec![set("b", "CNAME", "a"), set("b", "TXT", "x")],
            vec![set("b\n", "A", "192.0.2.1")],
        ] {
            assert!(
                Content::new("example.org", 1, bad.clone()).unwrap_err().is("invalid"),
                "{bad:?}"
            );
        }
        assert!(Content::new("Example.org", 1, Vec::new()).is_err());
    }
}

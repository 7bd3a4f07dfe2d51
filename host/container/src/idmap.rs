//! User and group id maps of a user namespace (`user_namespaces(7)`).

use serde::{Deserialize, Serialize};

/// How the ids inside a container correspond to those of the host.
///
/// The same map is written to the user namespace (`/proc/PID/uid_map`, `gid_map`) and given to the id-mapped mounts of
/// the container's files, which is why files keep unshifted ids on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdMap {
    /// Ranges of user ids; at least one must contain the id 0 of the container. At most [`IdMap::MAX_RANGES`].
    pub uids: Vec<IdRange>,
    /// Ranges of group ids; as for users.
    pub gids: Vec<IdRange>,
}

/// One line of an id map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdRange {
    /// First id inside the container.
    pub inside: u32,
    /// The id of the host that it stands for.
    pub outside: u32,
    /// Number of consecutive ids, at least 1.
    pub count: u32,
}

impl IdMap {
    /// Most ranges that the kernel takes in one map since 4.15 (`user_namespaces(7)`).
    pub const MAX_RANGES: usize = 340;

    /// The map of a private range: users and groups 0 to `count - 1` of the container are `base` and up on the host.
    #[must_use]
    pub fn contiguous(base: u32, count: u32) -> Self {
        let range = IdRange {
            inside: 0,
            outside: base,
            count,
        };
        Self {
            uids: vec![range],
            gids: vec![range],
        }
    }

    /// The host's user id of the container's `uid`; `None` when it is not mapped.
    #[must_use]
    pub fn host_uid(&self, uid: u32) -> Option<u32> {
        translate(&self.uids, uid)
    }

    /// The host's group id of the container's `gid`; `None` when it is not mapped.
    #[must_use]
    pub fn host_gid(&self, gid: u32) -> Option<u32> {
        translate(&self.gids, gid)
    }

    /// Says what the kernel would refuse without saying why.
    ///
    /// # Errors
    /// A sentence: no range, too many, an empty one, one that wraps, two that overlap, or id 0 left unmapped.
    pub fn check(&self) -> Result<(), String> {
        check_ranges("user", &self.uids)?;
        check_ranges("group", &self.gids)
    }

    /// The text of `/proc/PID/uid_map` or `gid_map` for these ranges.
    #[must_use]
    pub fn proc_text(ranges: &[IdRange]) -> String {
        ranges
            .iter()
            .map(|r| format!("{} {} {}\n", r.inside, r.outside, r.count))
            .collect()
    }
}

fn translate(ranges: &[IdRange], id: u32) -> Option<u32> {
    ranges.iter().find_map(|r| {
        let offset = id.checked_sub(r.inside)?;
        (offset < r.count).then(|| r.outside.checked_add(offset))?
    })
}

fn check_ranges(kind: &str, ranges: &[IdRange]) -> Result<(), String> {
    if ranges.is_empty() || ranges.len() > IdMap::MAX_RANGES {
        return Err(format!(
            "{} {kind} id ranges, of 1 to {} that are possible",
            ranges.len(),
            IdMap::MAX_RANGES
        ));
    }
    for range in ranges {
        // The id 2^32 - 1 means "no change" to the kernel and can't be mapped.
        let fits = |first: u32| u64::from(first) + u64::from(range.count) <= u64::from(u32::MAX);
        if range.count == 0 || !fits(range.inside) || !fits(range.outside) {
            return Err(format!(
                "the {kind} id range {range:?} is empty or runs over the last id"
            ));
        }
    }
    let disjoint = |first: fn(&IdRange) -> u32| {
        let mut spans: Vec<_> = ranges.iter().map(|r| (first(r), r.count)).collect();
        spans.sort_unstable();
        spans
            .windows(2)
            .all(|pair| u64::from(pair[0].0) + u64::from(pair[0].1) <= u64::from(pair[1].0))
    };
    if !disjoint(|r| r.inside) || !disjoint(|r| r.outside) {
        return Err(format!("two {kind} id ranges overlap"));
    }
    if translate(ranges, 0).is_none() {
        return Err(format!("{kind} id 0 is not mapped"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contiguous_translates() {
        let map = IdMap::contiguous(1_000_000, 65_536);
        assert_eq!(map.host_uid(0), Some(1_000_000));
        assert_eq!(map.host_gid(65_535), Some(1_065_535));
        assert_eq!(map.host_uid(65_536), None);
        assert_eq!(map.check(), Ok(()));
        assert_eq!(IdMap::proc_text(&map.uids), "0 1000000 65536\n");
    }

    #[test]
    fn bad_maps_are_named() {
        let with = |uids: Vec<IdRange>| IdMap {
            uids,
            gids: vec![IdRange {
                inside: 0,
                outside: 9,
                count: 1,
            }],
        };
        let range = |inside, outside, count| IdRange { inside, outside, count };
        assert!(with(vec![]).check().unwrap_err().contains("0 user id ranges"));
        assert!(with(vec![range(0, 1, 0)]).check().unwrap_err().contains("empty"));
        assert!(
            with(vec![range(0, u32::MAX - 1, 2)])
                .check()
                .unwrap_err()
                .contains("last id")
        );
        assert!(
            with(vec![range(0, 10, 10), range(5, 100, 10)])
                .check()
                .unwrap_err()
                .contains("overlap")
        );
        assert!(
            with(vec![range(0, 10, 10), range(50, 15, 10)])
                .check()
                .unwrap_err()
                .contains("overlap")
        );
        assert!(with(vec![range(1, 10, 10)]).check().unwrap_err().contains("not mapped"));
    }
}

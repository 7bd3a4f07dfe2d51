//! Snapshots that go when their time has come.
//!
//! One task sleeps until the first of them is due. An owner that publishes a snapshot with an end wakes it ([`Expiry::look`]).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hutch_api::{Config, Timestamp};
use time::{Date, Month, OffsetDateTime};
use tokio::sync::Notify;
use tokio::task::{Id, JoinSet};

use crate::Core;
use crate::error::{Error, Result};
use crate::instances::owner::Owner;
use crate::operations::NewOperation;
use crate::profiles::with_project;
use crate::settings::SNAPSHOTS_EXPIRY;

/// After a deletion that failed, how long until it is tried again.
const AGAIN: Duration = Duration::from_secs(3600);

/// Wakes the task that deletes expired snapshots.
#[derive(Debug, Default)]
pub(crate) struct Expiry(Notify);

impl Expiry {
    /// A snapshot has an end that it had not.
    pub(crate) fn look(&self) {
        self.0.notify_one();
    }
}

/// A snapshot by its instance's project and name, and its own.
type At = (String, String, String);

/// Deletes snapshots when they are due, as long as the daemon runs.
pub(crate) fn start(core: &Arc<Core>) {
    let (core, expiry) = (Arc::downgrade(core), Arc::clone(&core.expiry));
    tokio::spawn(async move {
        let mut plan = Plan::default();
        let mut attempts: JoinSet<Result<()>> = JoinSet::new();
        loop {
            let Some(ends) = core.upgrade().map(|core| core.ends_of_snapshots()) else {
                return;
            };
            let first = plan.first(&ends);
            let rest = match first {
                // Negative when it is due already.
                Some((_, due)) => Duration::try_from(due - OffsetDateTime::now_utc()).unwrap_or_default(),
                None => Duration::MAX,
            };
            if let Some((at, _)) = first
                && rest.is_zero()
            {
                let Some(core) = core.upgrade() else { return };
                let of = at.clone();
                let task = attempts.spawn(async move { core.delete_expired(&of).await });
                plan.begin(at, task.id());
                continue;
            }
            tokio::select! {
                () = tokio::time::sleep(rest) => {}
                () = expiry.0.notified() => {}
                Some(done) = attempts.join_next_with_id() => {
                    let (id, result) = match done {
                        Ok((id, result)) => (id, result),
                        Err(lost) => (lost.id(), Err(Error::Unavailable(lost.to_string()))),
                    };
                    plan.end(id, result, OffsetDateTime::now_utc());
                }
            }
        }
    });
}

/// What has been tried, and is.
#[derive(Debug, Default)]
struct Plan {
    /// Deletions that failed, and when they are tried again.
    failed: HashMap<At, OffsetDateTime>,
    /// Deletions that go on. A pool that hangs holds up those of one instance, which waits for it anyway, and no other's.
    under_way: HashMap<Id, At>,
}

impl Plan {
    /// The snapshot whose turn is first, and when, of those with these ends. What failed is not tried before its time, and is
    /// forgotten with its snapshot.
    fn first(&mut self, ends: &HashMap<At, OffsetDateTime>) -> Option<(At, OffsetDateTime)> {
        self.failed.retain(|at, _| ends.contains_key(at));
        let is_busy = |at: &At| {
            self.under_way
                .values()
                .any(|(project, name, _)| (project, name) == (&at.0, &at.1))
        };
        let due = |at: &At, end: OffsetDateTime| self.failed.get(at).map_or(end, |again| end.max(*again));
        ends.iter()
            .filter(|(at, _)| !is_busy(at))
            .map(|(at, end)| (at.clone(), due(at, *end)))
            .min_by_key(|(_, due)| *due)
    }

    fn begin(&mut self, at: At, task: Id) {
        self.failed.remove(&at);
        self.under_way.insert(task, at);
    }

    fn end(&mut self, task: Id, result: Result<()>, now: OffsetDateTime) {
        let Some(at) = self.under_way.remove(&task) else { return };
        if let Err(error) = result {
            tracing::warn!(
                instance = at.1,
                snapshot = at.2,
                error = error.report(),
                "an expired snapshot could not be deleted"
            );
            self.failed.insert(at, now + AGAIN);
        }
    }
}

impl Core {
    /// All snapshots that have an end, with it.
    fn ends_of_snapshots(&self) -> HashMap<At, OffsetDateTime> {
        let mut ends = HashMap::new();
        for instance in self.instances.list(None) {
            let view = instance.view();
            for snapshot in &view.snapshots {
                if let Some(end) = snapshot.expires_at.get() {
                    let record = &view.record;
                    let at = (record.project.clone(), record.name.clone(), snapshot.name.clone());
                    ends.insert(at, end);
                }
            }
        }
        ends
    }

    async fn delete_expired(self: &Arc<Self>, at: &At) -> Result<()> {
        let (project, name, snapshot) = at.clone();
        let instance = self.instances.get(&project, &name)?;
        let path = with_project(format!("/1.0/instances/{name}"), &project);
        let new = NewOperation::task(&project, "Deleting expired snapshot", "instances", path);
        let work = move |operation: Arc<crate::Operation>| async move {
            let id = operation.id().to_owned();
            instance
                .ask(move |owner| Box::pin(async move { owner.delete_if_expired(&id, &snapshot).await }))
                .await
        };
        let operation = self.operations.begin(new, work).await?;
        operation.wait(None).await;
        match operation.render().err {
            why if why.is_empty() => Ok(()),
            why => Err(Error::Unavailable(why)),
        }
    }
}

impl Owner {
    /// Deletes a snapshot that is still due when its turn comes.
    async fn delete_if_expired(&mut self, operation: &str, name: &str) -> Result<()> {
        let now = OffsetDateTime::now_utc();
        let due = self
            .snapshots
            .iter()
            .any(|snapshot| snapshot.name == name && snapshot.expires_at.get().is_some_and(|at| at <= now));
        if due {
            self.delete_snapshot(operation, name).await
        } else {
            Ok(())
        }
    }
}

/// When a snapshot of an instance with this configuration goes that is taken `now`.
///
/// # Errors
/// [`Error::Invalid`] for a configuration that [`crate::settings::check`] would refuse.
pub(crate) fn of_instance(config: &Config, now: OffsetDateTime) -> Result<Timestamp> {
    let text = config.get(SNAPSHOTS_EXPIRY).map_or("", String::as_str);
    after(text, now).ok_or_else(|| Error::invalid(format!("Invalid value {text:?} for {SNAPSHOTS_EXPIRY}")))
}

/// When a snapshot that is taken at `from` goes, by a text such as `1d 12H`: minutes `M`, hours `H`, days `d`, weeks `w`, months
/// `m` and years `y`, together. Never for an empty one; `None` for what is no such text.
pub(crate) fn after(text: &str, from: OffsetDateTime) -> Option<Timestamp> {
    if text.trim().is_empty() {
        return Some(Timestamp::NEVER);
    }
    let mut at = from;
    for part in text.split_whitespace() {
        let (count, unit) = part.split_at_checked(part.len().checked_sub(1)?)?;
        let count: u32 = count
            .parse()
            .ok()
            .filter(|_| count.bytes().all(|c| c.is_ascii_digit()))?;
        let minutes = |minutes: i64| time::Duration::minutes(i64::from(count).saturating_mul(minutes));
        at = match unit {
            "M" => at.checked_add(minutes(1))?,
            "H" => at.checked_add(minutes(60))?,
            "d" => at.checked_add(minutes(24 * 60))?,
            "w" => at.checked_add(minutes(7 * 24 * 60))?,
            "m" => add_months(at, count)?,
            "y" => add_months(at, count.checked_mul(12)?)?,
            _ => return None,
        };
    }
    Some(Timestamp::from(at)).filter(|at| !at.is_never())
}

/// The same day of a later month, or its last one where it has no such day.
fn add_months(at: OffsetDateTime, months: u32) -> Option<OffsetDateTime> {
    let all = i64::from(at.year()) * 12 + i64::from(u8::from(at.month())) - 1 + i64::from(months);
    let year = i32::try_from(all / 12).ok()?;
    let month = Month::try_from(u8::try_from(all % 12 + 1).ok()?).ok()?;
    let day = at.day().min(month.length(year));
    Some(at.replace_date(Date::from_calendar_date(year, month, day).ok()?))
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[tokio::test]
    async fn a_deletion_that_failed_is_tried_again_when_the_snapshot_is_due() {
        let now = datetime!(2024-01-31 10:00 UTC);
        let at = |instance: &str, snapshot: &str| ("p".to_owned(), instance.to_owned(), snapshot.to_owned());
        let task = || tokio::spawn(async {}).id();
        let mut plan = Plan::default();
        let mut ends = HashMap::from([
            (at("c1", "s1"), now),
            (at("c1", "s2"), now + AGAIN * 2),
            (at("c2", "s"), now + AGAIN / 2),
        ]);
        assert_eq!(plan.first(&ends), Some((at("c1", "s1"), now)));
        let first = task();
        plan.begin(at("c1", "s1"), first);
        // Nothing else of an instance is tried meanwhile, and of others it is.
        assert_eq!(plan.first(&ends), Some((at("c2", "s"), now + AGAIN / 2)));
        ends.remove(&at("c2", "s"));
        assert_eq!(plan.first(&ends), None);
        plan.end(first, Err(Error::Unavailable("the pool is gone".to_owned())), now);
        assert_eq!(plan.first(&ends), Some((at("c1", "s1"), now + AGAIN)));
        // It has been given more time: nothing is due before that, at none of both moments.
        ends.insert(at("c1", "s1"), now + AGAIN * 3);
        assert_eq!(plan.first(&ends), Some((at("c1", "s2"), now + AGAIN * 2)));
        ends.remove(&at("c1", "s2"));
        assert_eq!(plan.first(&ends), Some((at("c1", "s1"), now + AGAIN * 3)));
        // An attempt that finds nothing to do leaves nothing behind.
        let second = task();
        plan.begin(at("c1", "s1"), second);
        plan.end(second, Ok(()), now + AGAIN);
        assert!(plan.failed.is_empty() && plan.under_way.is_empty());
        assert_eq!(plan.first(&ends), Some((at("c1", "s1"), now + AGAIN * 3)));
    }

    #[test]
    fn expiry_is_counted_by_the_calendar() {
        let from = datetime!(2024-01-31 10:00 UTC);
        for (text, expected) in [
            ("1M", datetime!(2024-01-31 10:01 UTC)),
            ("2H 1M", datetime!(2024-01-31 12:01 UTC)),
            ("1d", datetime!(2024-02-01 10:00 UTC)),
            ("1w", datetime!(2024-02-07 10:00 UTC)),
            ("1m", datetime!(2024-02-29 10:00 UTC)),
            ("11m", datetime!(2024-12-31 10:00 UTC)),
            ("1y 1m", datetime!(2025-02-28 10:00 UTC)),
        ] {
            assert_eq!(after(text, from), Some(Timestamp::from(expected)), "{text}");
        }
        assert_eq!(after(" ", from), Some(Timestamp::NEVER));
        for text in ["1", "d", "-1d", "+1d", "1x", "1d,2d", "4000000000y", "1.5d", "1ü"] {
            assert_eq!(after(text, from), None, "{text}");
        }
    }
}

//! Bringing a copy of an instance up to date: it gets the snapshots that it lacks, loses those that its source no longer has, and its
//! root becomes the source's.
//!
//! All that is new is copied into snapshots of the copy under names of the moment, which a crash or a failure takes back.
//! Then the records say what the copy is to be, and from here on a crash is gone on with, without the source.
//!
//! The copy's owner and the source's never wait for each other: the copy is marked as busy, then the source's owner copies.

use std::sync::Arc;

use hutch_api::Timestamp;
use hutch_store::Transaction;

use crate::error::{Error, Result};
use crate::events;
use crate::instances::copying::{Copying, Extent, of_copy};
use crate::instances::owner::Owner;
use crate::instances::volatile::BASE_IMAGE;
use crate::instances::{Instance, templates};
use crate::journal::{Entry, Open, Renewal};
use crate::operations::NewOperation;
use crate::pools::{OpenPool, instance_volume};
use crate::profiles::with_project;
use crate::records::{InstanceRecord, SnapshotRecord, TemplatesRecord, key};
use crate::{Core, Operation};

/// What tells a snapshot from another of its name.
type Age = (String, Timestamp);

/// A copy that is to be brought up to date.
struct Begun {
    entry: Open,
    record: Arc<InstanceRecord>,
    /// The snapshots that it has.
    has: Vec<Age>,
}

/// What was copied into it.
struct Staged {
    /// The snapshot that becomes its root.
    root: String,
    /// New snapshots, by the names that they have for the moment.
    added: Vec<(String, Arc<SnapshotRecord>)>,
    /// Its snapshots that the source does not have, or has as others.
    dropped: Vec<String>,
    /// The image that the content comes from.
    base_image: Option<String>,
    /// The templates of that image.
    templates: Option<TemplatesRecord>,
}

impl Core {
    /// Brings the copy `name` up to date with `source`.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`] for one that runs or is its own source.
    pub(super) async fn instance_refresh(
        self: &Arc<Self>,
        project: &str,
        name: &str,
        source: Arc<Instance>,
        extent: Extent,
    ) -> Result<Arc<Operation>> {
        let copy = self.instances.get(project, name)?;
        if Arc::ptr_eq(&copy, &source) {
            return Err(Error::invalid(format!(
                "Instance {name:?} can't be refreshed from itself"
            )));
        }
        if copy.view().keeper.is_some() {
            return Err(Error::invalid(format!(
                "Instance {name:?} is running: stop it first to refresh it"
            )));
        }
        let path = with_project(format!("/1.0/instances/{name}"), project);
        let new = NewOperation::task(project, "Refreshing instance", "instances", path).cancellable();
        let work = move |operation: Arc<Operation>| async move { refresh(&copy, &source, extent, operation).await };
        self.operations.begin(new, work).await
    }
}

async fn refresh(
    copy: &Arc<Instance>,
    source: &Arc<Instance>,
    extent: Extent,
    operation: Arc<Operation>,
) -> Result<()> {
    let (id, from) = (operation.id().to_owned(), source.name());
    let begun = copy
        .ask(move |owner| Box::pin(async move { owner.begin_refresh(&id, &from).await }))
        .await?;
    let entry = begun.entry.clone();
    let id = operation.id().to_owned();
    let staged = source
        .ask_for_root(move |owner| Box::pin(async move { owner.stage(&begun, &extent, &operation).await }))
        .await;
    copy.insist(move |owner| Box::pin(async move { owner.end_refresh(&id, entry, staged).await }))
        .await
}

/// What a copy lacks of its source's snapshots `own`, and which of those that it `has` the source does not have. One is the same
/// where name and time are. With `newer` what is no newer than the newest that stays is not missed.
fn compare(own: &[Arc<SnapshotRecord>], has: &[Age], newer: bool) -> (Vec<Arc<SnapshotRecord>>, Vec<String>) {
    let is = |snapshot: &SnapshotRecord, (name, at): &Age| snapshot.name == *name && snapshot.created_at == *at;
    let (stays, gone): (Vec<&Age>, Vec<&Age>) =
        has.iter().partition(|age| own.iter().any(|snapshot| is(snapshot, age)));
    let newest = stays.iter().map(|(_, at)| *at).max().filter(|_| newer);
    let missing = own
        .iter()
        .filter(|snapshot| !stays.iter().any(|age| is(snapshot, age)))
        .filter(|snapshot| newest.is_none_or(|newest| snapshot.created_at > newest));
    (
        missing.cloned().collect(),
        gone.into_iter().map(|(name, _)| name.clone()).collect(),
    )
}

impl Owner {
    /// Keeps everybody else from the copy until [`Owner::end_refresh`].
    async fn begin_refresh(&mut self, operation: &str, from: &str) -> Result<Begun> {
        const WHAT: &str = "refresh it";
        self.require_stopped(WHAT)?;
        self.require_whole(WHAT)?;
        self.close_files().await;
        let entry = Entry::InstanceRefresh {
            project: self.record.project.clone(),
            name: self.record.name.clone(),
        };
        let entry = self.core.journal.begin(operation, entry).await?;
        self.busy = Some(format!("it is being refreshed from {from}"));
        let age = |snapshot: &Arc<SnapshotRecord>| (snapshot.name.clone(), snapshot.created_at);
        Ok(Begun {
            entry,
            record: Arc::clone(&self.record),
            has: self.snapshots.iter().map(age).collect(),
        })
    }

    /// Copies what a copy of this instance lacks; what was copied is taken back if not all can be.
    async fn stage(&mut self, begun: &Begun, extent: &Extent, operation: &Arc<Operation>) -> Result<Staged> {
        let own = self.check_copy(extent)?;
        let core = Arc::clone(&self.core);
        let (from, to) = (
            core.open_pool(&self.record.pool).await?,
            core.open_pool(&begun.record.pool).await?,
        );
        let record = Arc::clone(&self.record);
        let mut copying = Copying::new(&core, (&from, &record), (&to, &begun.record), operation);
        copying.action = format!("refreshing instance {} from {}", begun.record.name, record.name);
        copying.require(true)?;
        let (missing, dropped) = match extent.snapshots {
            true => compare(&own, &begun.has, extent.newer),
            false => (Vec::new(), Vec::new()),
        };
        // No snapshot that is left over from another time may be taken for one of these.
        let moment = uuid::Uuid::new_v4().simple();
        let root = format!(".refresh-{moment}");
        let name = |(number, snapshot)| (format!("{root}-{number}"), snapshot);
        let added: Vec<(String, Arc<SnapshotRecord>)> = missing.into_iter().enumerate().map(name).collect();
        let of = extent.snapshot.as_deref();
        self.use_root();
        let copied = async {
            for (name, snapshot) in &added {
                copying.snapshot(Some(&snapshot.name), false, name).await?;
            }
            core.journal.step(&begun.entry, "snapshots");
            self.copy_quiet(of, |live| copying.snapshot(of, live, &root)).await?;
            core.journal.step(&begun.entry, "root");
            core.kept_templates(&record.id).await
        };
        match copied.await {
            Ok(templates) => Ok(Staged {
                root,
                added,
                dropped,
                base_image: record.config.get(BASE_IMAGE).cloned(),
                templates,
            }),
            Err(error) => {
                for name in added.iter().map(|(name, _)| name).chain([&root]) {
                    if let Err(second) = copying.drop_snapshot(name).await {
                        tracing::warn!(
                            instance = begun.record.name,
                            error = second.report(),
                            "what was copied for a refresh that failed goes at the next start of the daemon"
                        );
                    }
                }
                Err(error)
            }
        }
    }

    /// Makes the copy what was copied, or lets go of it as it was.
    async fn end_refresh(&mut self, operation: &str, entry: Open, staged: Result<Staged>) -> Result<()> {
        self.busy = None;
        let renewed = async {
            let staged = staged?;
            self.close_files().await;
            self.record_refresh(operation, entry.clone(), staged).await
        };
        match renewed.await {
            Ok((next, renewal)) => self.renew(operation, next, renewal).await,
            Err(error) => self.core.journal.unless_failed(entry, Err(error)).await,
        }
    }

    /// From here on the copy is what its source is, and only has to be made so.
    async fn record_refresh(&mut self, operation: &str, entry: Open, staged: Staged) -> Result<(Open, Renewal)> {
        let mut record = InstanceRecord::clone(&self.record);
        match staged.base_image {
            Some(image) => drop(record.config.insert(BASE_IMAGE.to_owned(), image)),
            None => drop(record.config.remove(BASE_IMAGE)),
        }
        let mut change = match &staged.templates {
            Some(templates) => {
                templates::defer(&mut record, "copy");
                Transaction::new().put(key::templates(&record.id), templates)?
            }
            None => Transaction::new().delete(key::templates(&record.id)),
        };
        change = change.put(key::instance(&record.project, &record.name), &record)?;
        let mut snapshots = self.snapshots.clone();
        snapshots.retain(|snapshot| !staged.dropped.contains(&snapshot.name));
        let added = staged
            .added
            .iter()
            .map(|(_, snapshot)| of_copy(&self.core, snapshot, &record));
        snapshots.extend(added.map(Arc::new));
        snapshots.sort_by_key(|snapshot| snapshot.created_at);
        let at = |name: &str| key::snapshot(&record.project, &record.name, name);
        for name in &staged.dropped {
            change = change.delete(at(name));
        }
        for snapshot in &snapshots {
            change = change.put(at(&snapshot.name), snapshot.as_ref())?;
        }
        // What an earlier failure has left under the name of a new one goes, too.
        let mut dropped = staged.dropped;
        for (_, snapshot) in &staged.added {
            if !dropped.contains(&snapshot.name) {
                dropped.push(snapshot.name.clone());
            }
        }
        let renewal = Renewal {
            dropped,
            added: staged
                .added
                .into_iter()
                .map(|(name, snapshot)| (name, snapshot.name.clone()))
                .collect(),
            root: staged.root,
        };
        let next = self.renewal_entry(&record, renewal.clone());
        let next = self.core.journal.turn(entry, operation, next, change).await?;
        self.record = Arc::new(record);
        self.snapshots = snapshots;
        self.publish();
        Ok((next, renewal))
    }

    fn renewal_entry(&self, record: &InstanceRecord, renewal: Renewal) -> Entry {
        Entry::InstanceRenew {
            project: record.project.clone(),
            name: record.name.clone(),
            renewal,
        }
    }

    /// Goes on with a refresh that was interrupted.
    pub(crate) async fn finish_renew(&mut self, operation: &str, entry: &Open, renewal: Renewal) -> Result<()> {
        self.resume(entry, true).await?;
        self.set_unfinished(None);
        self.renew(operation, entry.clone(), renewal).await
    }

    async fn renew(&mut self, operation: &str, entry: Open, mut renewal: Renewal) -> Result<()> {
        let mut entry = entry;
        let renewed = async {
            let pool = self.core.open_pool(&self.record.pool).await?;
            if !renewal.dropped.is_empty() {
                self.drop_old(&pool, &renewal.dropped).await?;
                self.core.journal.step(&entry, "dropped");
                // A new snapshot may get the name of one that went, and must not go by that.
                renewal.dropped.clear();
                let next = self.renewal_entry(&self.record, renewal.clone());
                entry = self
                    .core
                    .journal
                    .turn(entry.clone(), operation, next, Transaction::new())
                    .await?;
            }
            self.put_in_place(&pool, &entry, &renewal).await?;
            self.core.journal.done(entry.clone(), Transaction::new()).await
        };
        if let Err(error) = renewed.await {
            let why = format!(
                "refreshing it failed half-way; the next start of the daemon goes on with it, or delete it ({})",
                error.report()
            );
            self.half_renewed = Some(entry);
            self.set_unfinished(Some(why));
            return Err(error);
        }
        self.half_renewed = None;
        self.tell_more("instance-updated", events::context([("refreshed", true.into())]));
        Ok(())
    }

    async fn drop_old(&self, pool: &OpenPool, names: &[String]) -> Result<()> {
        for name in names {
            pool.driver
                .snapshot_delete(
                    &pool.call(None),
                    &pool.reference(),
                    &instance_volume(&self.record),
                    name,
                )
                .await
                .map_err(Error::driver(format!("deleting snapshot {}/{name}", self.record.name)))?;
        }
        Ok(())
    }

    async fn put_in_place(&self, pool: &OpenPool, entry: &Open, renewal: &Renewal) -> Result<()> {
        let (call, reference, volume) = (pool.call(None), pool.reference(), instance_volume(&self.record));
        for (name, new_name) in &renewal.added {
            pool.driver
                .snapshot_rename(&call, &reference, &volume, name, new_name)
                .await
                .map_err(Error::driver(format!(
                    "making snapshot {}/{new_name}",
                    self.record.name
                )))?;
        }
        self.core.journal.step(entry, "snapshots");
        pool.driver
            .replica_promote(&call, &reference, &volume, &renewal.root)
            .await
            .map_err(Error::driver(format!(
                "refreshing the root of instance {}",
                self.record.name
            )))?;
        self.core.journal.step(entry, "root");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshots(ages: &[(&str, i64)]) -> Vec<Arc<SnapshotRecord>> {
        let instance = serde_json::json!({
            "v": 1, "id": uuid::Uuid::nil(), "project": "default", "name": "c1", "kind": "container",
            "architecture": "x86_64", "description": "", "config": {}, "devices": {}, "profiles": [],
            "ephemeral": false, "created_at": Timestamp::NEVER, "last_used_at": Timestamp::NEVER, "pool": "", "plain": false,
        });
        let record = |(name, at): &(&str, i64)| {
            let at = time::OffsetDateTime::from_unix_timestamp(*at).unwrap();
            Arc::new(SnapshotRecord {
                v: 1,
                name: (*name).to_owned(),
                created_at: at.into(),
                expires_at: Timestamp::NEVER,
                instance: serde_json::from_value(instance.clone()).unwrap(),
                broken: None,
            })
        };
        ages.iter().map(record).collect()
    }

    fn compared(own: &[(&str, i64)], has: &[(&str, i64)], newer: bool) -> (Vec<String>, Vec<String>) {
        let has: Vec<Age> = snapshots(has)
            .iter()
            .map(|one| (one.name.clone(), one.created_at))
            .collect();
        let (missing, dropped) = compare(&snapshots(own), &has, newer);
        (missing.iter().map(|one| one.name.clone()).collect(), dropped)
    }

    #[test]
    fn another_snapshot_of_the_same_name_takes_its_place() {
        let own = [("kept", 10), ("same-name", 30), ("new", 40)];
        let (missing, dropped) = compared(&own, &[("kept", 10), ("same-name", 20), ("gone", 5)], false);
        assert_eq!(missing, ["same-name", "new"]);
        assert_eq!(dropped, ["same-name", "gone"]);
    }

    #[test]
    fn old_ones_can_be_left_out() {
        let own = [("old", 5), ("kept", 10), ("new", 40)];
        assert_eq!(compared(&own, &[("kept", 10)], true).0, ["new"]);
        assert_eq!(compared(&own, &[], true).0, ["old", "kept", "new"]);
        assert_eq!(compared(&own, &[("kept", 10)], false).0, ["old", "new"]);
    }
}

//! Copying what volumes hold to volumes of other instances: within a pool by its driver, between pools by the host.

use std::sync::Arc;

use hutch_driver::storage::{CopySource, VolumeRef};
use hutch_driver::{Call, DriverError, Root, TreePath};

use crate::error::{Error, Result};
use crate::instances::owner::Owner;
use crate::instances::{devices, snapshots, volatile};
use crate::pools::{OpenPool, ROOT, instance_volume};
use crate::records::{InstanceRecord, SnapshotRecord};
use crate::{Core, Operation};

/// The id of the source's pool in a copy between two.
const SOURCE: &str = "source";

/// What of an instance is copied.
#[derive(Clone, Debug)]
pub(super) struct Extent {
    /// Its snapshot instead of the instance.
    pub(super) snapshot: Option<String>,
    /// Its snapshots with it.
    pub(super) snapshots: bool,
    /// Only snapshots that are newer than those that a copy has that is refreshed.
    pub(super) newer: bool,
}

/// A copy of one volume to another.
pub(super) struct Copying<'a> {
    pub(super) core: &'a Core,
    pub(super) from: &'a OpenPool,
    pub(super) source: VolumeRef,
    pub(super) to: &'a OpenPool,
    pub(super) target: VolumeRef,
    /// As in [`InstanceRecord::plain`], of the target.
    pub(super) plain: bool,
    pub(super) operation: &'a Arc<Operation>,
    /// What is done, for errors: `copying instance c1`.
    pub(super) action: String,
}

impl<'a> Copying<'a> {
    /// A copy of `source`'s volume, in `from`, to that of `target`, in `to`.
    pub(super) fn new(
        core: &'a Core,
        (from, source): (&'a OpenPool, &InstanceRecord),
        (to, target): (&'a OpenPool, &InstanceRecord),
        operation: &'a Arc<Operation>,
    ) -> Self {
        Self {
            core,
            from,
            source: instance_volume(source),
            to,
            target: instance_volume(target),
            plain: target.plain,
            operation,
            action: format!("copying the volume of instance {}", source.name),
        }
    }

    /// Refuses what a driver can't do. Every copy but that of one root alone needs `replica`.
    pub(super) fn require(&self, replica: bool) -> Result<()> {
        if self.is_within() {
            self.to.require("clone")?;
        }
        if replica {
            self.to.require("replica")?;
        }
        Ok(())
    }

    fn is_within(&self) -> bool {
        self.from.record.name == self.to.record.name
    }

    /// Makes the target, with the content of the source or of its snapshot. `live` as in the driver's calls.
    pub(super) async fn root(&self, snapshot: Option<&str>, live: bool) -> Result<()> {
        self.stop_if_cancelled()?;
        let (call, pool, driver) = (self.call(), self.to.reference(), &self.to.driver);
        let failed = || Error::driver(&self.action);
        if self.is_within() {
            return driver
                .copy(&call, &pool, &self.source, snapshot, &self.target, live, self.plain)
                .await
                .map_err(failed());
        }
        let begun = driver.begin_fill(&call, &pool, &self.target, self.plain).await;
        let place = begun.map_err(failed())?;
        self.bring(snapshot, &place).await.map_err(not_taken)?;
        let ended = driver.end_fill(&call, &pool, &self.target, self.plain).await;
        ended.map_err(failed())
    }

    /// Makes a snapshot `name` of the target, which is there, with the content of the source or of its snapshot.
    pub(super) async fn snapshot(&self, snapshot: Option<&str>, live: bool, name: &str) -> Result<()> {
        self.stop_if_cancelled()?;
        let (call, pool, driver) = (self.call(), self.to.reference(), &self.to.driver);
        let failed = || Error::driver(&self.action);
        if self.is_within() {
            let source = CopySource {
                volume: &self.source,
                snapshot,
                live,
            };
            let copied = driver.replica_copy(&call, &pool, source, &self.target, name).await;
            return copied.map_err(failed()).map_err(not_taken);
        }
        let begun = driver.replica_begin_fill(&call, &pool, &self.target, name).await;
        let place = begun.map_err(failed()).map_err(not_taken)?;
        self.bring(snapshot, &place).await.map_err(not_taken)?;
        let ended = driver.replica_end_fill(&call, &pool, &self.target, name).await;
        ended.map_err(failed()).map_err(not_taken)
    }

    /// Takes back a snapshot of the target.
    pub(super) async fn drop_snapshot(&self, name: &str) -> Result<()> {
        self.to
            .driver
            .snapshot_delete(&self.to.call(None), &self.to.reference(), &self.target, name)
            .await
            .map_err(Error::driver(format!(
                "taking back a copy in storage pool {}",
                self.to.record.name
            )))
    }

    /// Has the host copy what the source or its snapshot shows to a place in the target's pool.
    async fn bring(&self, snapshot: Option<&str>, place: &TreePath) -> Result<()> {
        let failed = || Error::driver(&self.action);
        let (call, pool, driver) = (self.from.call(None), self.from.reference(), &self.from.driver);
        let plan = match snapshot {
            None => driver.mount(&call, &pool, &self.source).await,
            Some(name) => driver.snapshot_mount(&call, &pool, &self.source, name).await,
        };
        let mut plan = plan.map_err(failed())?;
        for tree in plan.layers.iter_mut().chain(&mut plan.upper).chain(&mut plan.work) {
            // Checks that the answer is inside the pool; the way there is then taken without following links.
            self.from.path(tree)?;
            SOURCE.clone_into(&mut tree.root);
        }
        self.to.path(place)?;
        let mut call = self.call();
        call.roots.push(Root {
            id: SOURCE.to_owned(),
            writable: false,
            ..self.from.tree()
        });
        debug_assert!(call.roots.iter().any(|root| root.id == ROOT));
        self.core.roots.copy(&call, &plan, place).await.map_err(failed())
    }

    fn call(&self) -> Call {
        self.to.call(Some(self.operation))
    }

    fn stop_if_cancelled(&self) -> Result<()> {
        match self.operation.cancel_flag().is_cancelled() {
            true => Err(Error::Cancelled),
            false => Ok(()),
        }
    }
}

/// What is in the way in a volume that was made a moment ago is no other instance's, but a driver's mistake.
fn not_taken(error: Error) -> Error {
    match error {
        Error::Driver { action, source } if source.is("already-exists") => Error::Driver {
            action,
            source: Box::new(DriverError {
                code: "internal".to_owned(),
                ..*source
            }),
        },
        other => other,
    }
}

impl Owner {
    /// Checks that what is to be copied can be relied on; answers with the snapshots that go with it.
    pub(super) fn check_copy(&self, extent: &Extent) -> Result<Vec<Arc<SnapshotRecord>>> {
        match &extent.snapshot {
            Some(snapshot) => drop(self.whole_snapshot(snapshot)?),
            None => self.require_whole("copy it")?,
        }
        if !extent.snapshots {
            return Ok(Vec::new());
        }
        let all = self.snapshots.iter();
        all.map(|snapshot| self.whole_snapshot(&snapshot.name)).collect()
    }

    /// Copies with `copy` while nobody writes to the instance, which is frozen if it runs and `snapshot` is none. `copy` is told
    /// whether it runs.
    pub(super) async fn copy_quiet<F>(
        &mut self,
        snapshot: Option<&str>,
        copy: impl FnOnce(bool) -> F + Send,
    ) -> Result<()>
    where
        F: Future<Output = Result<()>> + Send,
    {
        self.close_files().await;
        let live = self.keeper.is_some() && snapshot.is_none();
        let frozen = if live { self.freeze_for_a_moment().await? } else { None };
        let copied = copy(live).await;
        if let Some(keeper) = frozen {
            snapshots::thaw_again(&keeper, &self.record.name).await;
        }
        copied
    }
}

/// A snapshot of an instance as one of its copy: what was copied is the configuration and the content, and what tells the copy
/// from other instances (its id, the addresses of its interfaces) is its own.
pub(super) fn of_copy(core: &Core, snapshot: &SnapshotRecord, copy: &InstanceRecord) -> SnapshotRecord {
    let of_source = &snapshot.instance;
    let is_own = |key: &str| volatile::is_volatile(key) && key != volatile::BASE_IMAGE;
    let mut config = of_source.config.clone();
    config.retain(|key, _| !is_own(key));
    let own = copy.config.iter().filter(|(key, _)| is_own(key));
    config.extend(own.map(|(key, value)| (key.clone(), value.clone())));
    let mut instance = InstanceRecord {
        id: copy.id,
        project: copy.project.clone(),
        name: copy.name.clone(),
        config,
        plain: copy.plain,
        ..of_source.clone()
    };
    rehome(core, &mut instance, &copy.pool);
    SnapshotRecord {
        instance,
        ..snapshot.clone()
    }
}

/// Puts the root disk of an instance, or of a snapshot, into another pool. One that a profile gives becomes its own.
pub(super) fn rehome(core: &Core, record: &mut InstanceRecord, pool: &str) {
    pool.clone_into(&mut record.pool);
    let (_, expanded) = core.expand(record);
    let root = expanded.into_iter().find(|(_, device)| devices::is_root(device));
    if let Some((name, mut device)) = root
        && device.get("pool").is_none_or(|at| at != pool)
    {
        device.insert("pool".to_owned(), pool.to_owned());
        record.devices.insert(name, device);
    }
}

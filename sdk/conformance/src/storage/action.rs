//! The functions that change something, each described once: what is there before, the call, and what must be so afterwards. From
//! each come the cases of being repeated, of being killed and repeated, of the host's errors and of missing permissions.

use hutch_driver::storage::VolumeState;

use super::room::{Pool, c, image, state};
use crate::case::{Answer, Case, Outcome, Stop, ensure, fail, skip};
use crate::faults::{INJECTED, Permission};
use crate::{Stand, plan, tree};

/// How many steps of a driver in one call are looked at. A driver that makes more does bulk work itself.
const MOST_STEPS: usize = 200;

/// A call that changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    PoolCreate,
    PoolDelete,
    PoolReconcile,
    Create,
    EndFill,
    FromImage,
    FromImagePlain,
    Delete,
    Rename,
    Snapshot,
    SnapshotDelete,
    SnapshotRename,
    SnapshotRestore,
    Copy,
    CopySnapshot,
    Release,
    Quota,
}

/// Where a killed call leaves what reconcile must remove, the valid set.
type Valid = Vec<VolumeState>;

impl Action {
    pub(super) const ALL: [Self; 17] = [
        Self::PoolCreate,
        Self::PoolDelete,
        Self::PoolReconcile,
        Self::Create,
        Self::EndFill,
        Self::FromImage,
        Self::FromImagePlain,
        Self::Delete,
        Self::Rename,
        Self::Snapshot,
        Self::SnapshotDelete,
        Self::SnapshotRename,
        Self::SnapshotRestore,
        Self::Copy,
        Self::CopySnapshot,
        Self::Release,
        Self::Quota,
    ];

    /// The function, as it begins a case's id.
    fn id(self) -> &'static str {
        match self {
            Self::PoolCreate => "storage.pool.create",
            Self::PoolDelete => "storage.pool.delete",
            Self::PoolReconcile => "storage.pool.reconcile",
            Self::Create => "storage.volume.create",
            Self::EndFill => "storage.volume.fill",
            Self::FromImage => "storage.volume.create-from-image",
            Self::FromImagePlain => "storage.volume.create-plain",
            Self::Delete => "storage.volume.delete",
            Self::Rename => "storage.volume.rename",
            Self::Snapshot => "storage.snapshot.create",
            Self::SnapshotDelete => "storage.snapshot.delete",
            Self::SnapshotRename => "storage.snapshot.rename",
            Self::SnapshotRestore => "storage.snapshot.restore",
            Self::Copy => "storage.clone.copy",
            Self::CopySnapshot => "storage.clone.copy-snapshot",
            Self::Release => "storage.release.volume",
            Self::Quota => "storage.quota.set",
        }
    }

    /// What it does, to be put into a sentence.
    fn words(self) -> &'static str {
        match self {
            Self::PoolCreate => "making a pool",
            Self::PoolDelete => "deleting a pool",
            Self::PoolReconcile => "reconciling a pool",
            Self::Create => "making an empty volume",
            Self::EndFill => "finishing a volume that was filled",
            Self::FromImage => "making a volume from an image",
            Self::FromImagePlain => "making a plain volume from an image",
            Self::Delete => "deleting a volume with snapshots",
            Self::Rename => "renaming a volume with snapshots",
            Self::Snapshot => "taking a snapshot",
            Self::SnapshotDelete => "deleting a snapshot",
            Self::SnapshotRename => "renaming a snapshot",
            Self::SnapshotRestore => "restoring a snapshot",
            Self::Copy => "copying a volume",
            Self::CopySnapshot => "copying a snapshot to a volume",
            Self::Release => "letting go of a volume",
            Self::Quota => "limiting a volume",
        }
    }

    /// Whether the driver exports what it takes.
    pub(super) fn applies(self, stand: &Stand) -> bool {
        match self {
            Self::Snapshot | Self::SnapshotDelete | Self::SnapshotRename | Self::SnapshotRestore => {
                stand.can("snapshot")
            }
            Self::Copy => stand.can("clone"),
            Self::CopySnapshot => stand.can("clone") && stand.can("snapshot"),
            Self::Release => stand.can("release"),
            Self::Quota => stand.can("quota"),
            _ => true,
        }
    }

    /// Makes what is to be there before, and says what belongs in the pool then.
    async fn arrange(self, stand: &Stand, pool: &Pool) -> Outcome<Valid> {
        if self == Self::PoolCreate {
            return Ok(Vec::new());
        }
        pool.create_pool().await?;
        match self {
            Self::PoolCreate | Self::PoolDelete | Self::Create => return Ok(Vec::new()),
            Self::EndFill => {
                pool.fill(&image(1), "filled").await?;
                return Ok(Vec::new());
            }
            Self::FromImage | Self::FromImagePlain => {
                return Ok(vec![state(&pool.add_image(0, "image").await?, &[])]);
            }
            _ => {}
        }
        let volume = pool.add_container("c1", "first").await?;
        let mut snapshots = Vec::new();
        if stand.can("snapshot") && self != Self::Snapshot {
            pool.snapshot(&volume, "s1", false).await?;
            snapshots.push("s1");
            pool.write(&volume, "second").await?;
        }
        if self == Self::PoolReconcile {
            pool.add_container("stranger", "strange").await?;
            pool.fill(&image(7), "unfinished").await?;
        }
        if self == Self::Quota && !quotas(pool).await? {
            return skip("the file system of this run has no project quotas in force: use --filesystem ext4 or xfs");
        }
        Ok(vec![state(&image(0), &[]), state(&volume, &snapshots)])
    }

    /// The call.
    async fn act(self, pool: &Pool, valid: &Valid) -> Answer {
        let volume = c("c1");
        match self {
            Self::PoolCreate => pool.create_pool().await,
            Self::PoolDelete => pool.delete_pool().await,
            Self::PoolReconcile => pool.reconcile(valid).await.map(|_| ()),
            Self::Create => pool.create(&volume).await,
            Self::EndFill => pool.end_fill(&image(1)).await,
            Self::FromImage => pool.create_from_image(&image(0), &volume, false).await,
            Self::FromImagePlain => pool.create_from_image(&image(0), &volume, true).await,
            Self::Delete => pool.delete(&volume).await,
            Self::Rename => pool.rename(&volume, "c2").await,
            Self::Snapshot => pool.snapshot(&volume, "new", false).await,
            Self::SnapshotDelete => pool.snapshot_delete(&volume, "s1").await,
            Self::SnapshotRename => pool.snapshot_rename(&volume, "s1", "s2").await,
            Self::SnapshotRestore => pool.snapshot_restore(&volume, "s1").await,
            Self::Copy => pool.copy(&volume, None, &c("copy"), false).await,
            Self::CopySnapshot => pool.copy(&volume, Some("s1"), &c("copy"), false).await,
            Self::Release => pool.release(&volume).await,
            Self::Quota => pool.set_quota(&volume, Some(64 << 20)).await,
        }
    }

    /// What must be so afterwards.
    async fn check(self, stand: &Stand, pool: &Pool, when: &str) -> Outcome {
        let (volume, copy) = (c("c1"), c("copy"));
        let snapshots = stand.can("snapshot");
        let now = if snapshots { "second" } else { "first" };
        match self {
            Self::PoolCreate => Ok(pool.open_pool().await?),
            Self::PoolDelete => {
                let left = pool.names()?;
                ensure(left.is_empty(), || {
                    format!("{when}: the pool's directory still holds {left:?}")
                })
            }
            Self::PoolReconcile => {
                pool.lacks(&c("stranger"), when).await?;
                pool.lacks(&image(7), when).await?;
                pool.says(&volume, now, when).await?;
                pool.says(&image(0), "image", when).await
            }
            Self::Create => {
                let tree = pool.read(&volume).await?;
                ensure(tree.len() == 1, || format!("{when}: the new volume is not empty"))
            }
            Self::EndFill => pool.says(&image(1), "filled", when).await,
            Self::FromImage | Self::FromImagePlain => {
                pool.says(&volume, "image", when).await?;
                pool.says(&image(0), "image", when).await
            }
            Self::Delete => {
                pool.lacks(&volume, when).await?;
                if snapshots {
                    pool.lacks_snapshot(&volume, "s1", when).await?;
                }
                pool.says(&image(0), "image", when).await
            }
            Self::Rename => {
                pool.lacks(&volume, when).await?;
                if snapshots {
                    pool.snapshot_says(&c("c2"), "s1", "first", when).await?;
                }
                pool.says(&c("c2"), now, when).await
            }
            Self::Snapshot => {
                pool.snapshot_says(&volume, "new", "first", when).await?;
                pool.says(&volume, "first", when).await
            }
            Self::SnapshotDelete => {
                pool.lacks_snapshot(&volume, "s1", when).await?;
                pool.says(&volume, now, when).await
            }
            Self::SnapshotRename => {
                pool.lacks_snapshot(&volume, "s1", when).await?;
                pool.snapshot_says(&volume, "s2", "first", when).await?;
                pool.says(&volume, now, when).await
            }
            Self::SnapshotRestore => {
                pool.snapshot_says(&volume, "s1", "first", when).await?;
                pool.says(&volume, "first", when).await
            }
            Self::Copy => {
                pool.says(&volume, now, when).await?;
                pool.says(&copy, now, when).await
            }
            Self::CopySnapshot => {
                pool.says(&volume, now, when).await?;
                pool.says(&copy, "first", when).await
            }
            Self::Release | Self::Quota => {
                if snapshots {
                    pool.snapshot_says(&volume, "s1", "first", when).await?;
                }
                pool.says(&volume, now, when).await
            }
        }
    }

    /// What must be so after the call failed and nobody has repeated it: nothing that was there is lost.
    async fn intact(self, stand: &Stand, pool: &Pool, when: &str) -> Outcome {
        let volume = c("c1");
        let now = if stand.can("snapshot") { "second" } else { "first" };
        match self {
            Self::PoolCreate | Self::PoolDelete | Self::Create | Self::EndFill | Self::Delete => Ok(()),
            Self::FromImage | Self::FromImagePlain => pool.says(&image(0), "image", when).await,
            Self::Snapshot => pool.says(&volume, "first", when).await,
            // As it was, or restored.
            Self::SnapshotRestore => match pool.says(&volume, "first", when).await {
                Ok(()) => Ok(()),
                Err(_) => pool.says(&volume, now, when).await,
            },
            Self::Rename => match pool.says(&c("c2"), now, when).await {
                Ok(()) => Ok(()),
                Err(_) => pool.says(&volume, now, when).await,
            },
            _ => pool.says(&volume, now, when).await,
        }
    }

    /// What makes the call as if it had never been, where it makes something.
    async fn undo(self, pool: &Pool) -> Option<Answer> {
        Some(match self {
            Self::Create | Self::FromImage | Self::FromImagePlain => pool.delete(&c("c1")).await,
            Self::EndFill => pool.delete(&image(1)).await,
            Self::Snapshot => pool.snapshot_delete(&c("c1"), "new").await,
            Self::Copy | Self::CopySnapshot => pool.delete(&c("copy")).await,
            _ => return None,
        })
    }

    /// Whether it makes something that reconcile takes back when it is not in the valid set.
    fn makes(self) -> bool {
        matches!(
            self,
            Self::Create
                | Self::EndFill
                | Self::FromImage
                | Self::FromImagePlain
                | Self::Snapshot
                | Self::Copy
                | Self::CopySnapshot
        )
    }

    /// Its cases.
    pub(super) fn cases(self) -> Vec<Case> {
        let (id, words) = (self.id(), self.words());
        let mut cases = vec![
            Case::new(
                format!("{id}.idempotent"),
                format!("{words} succeeds when it is repeated, twice and ten times"),
                move |stand| Box::pin(self.idempotent(stand)),
            ),
            Case::new(
                format!("{id}.killed"),
                format!("{words} goes on where it was killed, at every step"),
                move |stand| Box::pin(self.killed(stand)),
            ),
            Case::new(
                format!("{id}.host-error"),
                format!(
                    "{words} tells each error of the host's, loses nothing by it, and succeeds when it is repeated"
                ),
                move |stand| Box::pin(self.host_error(stand)),
            ),
            Case::new(
                format!("{id}.denied"),
                format!("{words} answers not-granted without a permission, and succeeds with it"),
                move |stand| Box::pin(self.denied(stand)),
            ),
        ];
        if self.makes() {
            cases.push(Case::new(
                format!("{id}.taken-back"),
                format!("{words}, killed at every step, is taken back by reconcile with nothing left"),
                move |stand| Box::pin(self.taken_back(stand)),
            ));
            cases.push(Case::new(
                format!("{id}.no-leak"),
                format!("{words} and deleting it ten times leaves no more than once"),
                move |stand| Box::pin(self.no_leak(stand)),
            ));
        }
        cases
    }

    async fn idempotent(self, stand: &Stand) -> Outcome {
        let pool = Pool::fresh(stand).await?;
        let valid = self.arrange(stand, &pool).await?;
        self.act(&pool, &valid).await?;
        self.check(stand, &pool, "after the first call").await?;
        for number in 2..=10 {
            self.act(&pool, &valid).await?;
            if number == 2 || number == 10 {
                self.check(stand, &pool, &format!("after call number {number}")).await?;
            }
        }
        Ok(())
    }

    async fn killed(self, stand: &Stand) -> Outcome {
        for step in 0..MOST_STEPS {
            let pool = Pool::fresh(stand).await?;
            let valid = self.arrange(stand, &pool).await?;
            let Err(function) = stand.faults.killed_after(step, self.act(&pool, &valid)).await else {
                return Ok(());
            };
            let when = format!("killed after step {} ({function}) and repeated", step + 1);
            for _ in 0..2 {
                if let Err(refused) = self.act(&pool, &valid).await {
                    return fail(format!("{when}: {refused}"));
                }
            }
            self.check(stand, &pool, &when).await?;
        }
        too_many_steps()
    }

    async fn host_error(self, stand: &Stand) -> Outcome {
        for request in 0..MOST_STEPS {
            let pool = Pool::fresh(stand).await?;
            let valid = self.arrange(stand, &pool).await?;
            let (answer, struck) = stand.faults.failing_at(request, self.act(&pool, &valid)).await;
            let Some(function) = struck else {
                answer?;
                return Ok(());
            };
            let when = format!("{function} (call {} to the host) failed with {INJECTED}", request + 1);
            match answer {
                // What could not be done was not needed: then all must be as if it had been.
                Ok(()) => self.check(stand, &pool, &when).await?,
                Err(refused) if refused.error.is(INJECTED) => {
                    let intact = self.intact(stand, &pool, &when).await;
                    intact.map_err(|stop| Stop::Fail(format!("{when}: {stop}")))?;
                }
                Err(refused) => return fail(format!("{when}, and the driver told another error: {refused}")),
            }
            if let Err(refused) = self.act(&pool, &valid).await {
                return fail(format!("{when}; repeated: {refused}"));
            }
            self.check(stand, &pool, &format!("{when}; repeated")).await?;
        }
        too_many_steps()
    }

    async fn denied(self, stand: &Stand) -> Outcome {
        let requested: Vec<Permission> = stand.requested().collect();
        if requested.is_empty() {
            return skip("the manifest requests no permission");
        }
        for permission in requested {
            let pool = Pool::fresh(stand).await?;
            let valid = self.arrange(stand, &pool).await?;
            let (answer, denied) = stand.faults.without(permission, self.act(&pool, &valid)).await;
            let name = permission.name();
            match (answer, denied.first()) {
                (Err(refused), Some(_)) if refused.error.is("not-granted") => {}
                (Err(refused), _) => return fail(format!("without the permission {name}: {refused}")),
                (Ok(()), Some(function)) => {
                    return fail(format!(
                        "without the permission {name}, {function} was refused and the call succeeded"
                    ));
                }
                (Ok(()), None) => {}
            }
            if let Err(refused) = self.act(&pool, &valid).await {
                return fail(format!("with the permission {name} again: {refused}"));
            }
            self.check(stand, &pool, &format!("with the permission {name} again"))
                .await?;
        }
        Ok(())
    }

    async fn taken_back(self, stand: &Stand) -> Outcome {
        // What a pool holds that has seen one whole life of it: directories may stay.
        let most = {
            let pool = Pool::fresh(stand).await?;
            let valid = self.arrange(stand, &pool).await?;
            self.act(&pool, &valid).await?;
            if let Some(undone) = self.undo(&pool).await {
                undone?;
            }
            pool.reconcile(&valid).await?;
            pool.names()?.len()
        };
        for step in 0..MOST_STEPS {
            let pool = Pool::fresh(stand).await?;
            let valid = self.arrange(stand, &pool).await?;
            let Err(function) = stand.faults.killed_after(step, self.act(&pool, &valid)).await else {
                return Ok(());
            };
            let when = format!("killed after step {} ({function}) and reconciled", step + 1);
            pool.reconcile(&valid).await?;
            let left = pool.names()?;
            ensure(left.len() <= most, || format!("{when}: too much is left: {left:?}"))?;
            let again = pool.reconcile(&valid).await?;
            ensure(again.is_empty(), || {
                format!("{when}: the second time it removes {again:?}")
            })?;
            if self == Self::EndFill {
                pool.fill(&image(1), "filled").await?;
            }
            if let Err(refused) = self.act(&pool, &valid).await {
                return fail(format!("{when}; made again: {refused}"));
            }
            self.check(stand, &pool, &format!("{when}; made again")).await?;
        }
        too_many_steps()
    }

    async fn no_leak(self, stand: &Stand) -> Outcome {
        let pool = Pool::fresh(stand).await?;
        let valid = self.arrange(stand, &pool).await?;
        let mut most = Vec::new();
        for number in 0..10 {
            if self == Self::EndFill && number > 0 {
                pool.fill(&image(1), "filled").await?;
            }
            self.act(&pool, &valid).await?;
            if let Some(undone) = self.undo(&pool).await {
                undone?;
            }
            if number == 0 {
                most = pool.names()?;
            }
        }
        let left = pool.names()?;
        let more: Vec<_> = left.iter().filter(|name| !most.contains(name)).collect();
        ensure(left.len() <= most.len(), || {
            format!("after ten times there is more in the pool: {more:?}")
        })
    }
}

fn too_many_steps() -> Outcome {
    Err(Stop::Fail(format!(
        "one call had the host do more than {MOST_STEPS} things: work of that size belongs into one function of the host's"
    )))
}

/// Whether limits are in force where the pool lies: asked of the driver, which passes on what the host says.
pub(super) async fn quotas(pool: &Pool) -> Outcome<bool> {
    let volume = pool.add_container("limited", "limited").await?;
    let answer = pool.set_quota(&volume, Some(64 << 20)).await;
    pool.delete(&volume).await?;
    match answer {
        Ok(()) => Ok(true),
        Err(refused) if refused.error.is("unsupported") => Ok(false),
        Err(refused) => Err(refused.into()),
    }
}

/// Writes to a place that the driver answered, which the tests of filling do more than once.
pub(super) fn write_at(pool: &Pool, at: &hutch_driver::TreePath, mark: &str) -> Outcome {
    let place = plan::place(&pool.call, at)?;
    tree::write(&place, mark).map_err(|error| super::room::system("write where begin-fill says", &error))
}

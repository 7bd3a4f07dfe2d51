//! Pools whose driver says that what they lie on is away: a disk that was pulled, another machine that does not answer. From then on
//! the pool is shown as unavailable, with the reason, and whoever wants it next has it opened again first.

use std::sync::{Arc, PoisonError, Weak};
use std::time::Instant;

use async_trait::async_trait;
use hutch_driver::storage::{CopySource, PoolRef, PoolSpace, StorageDriver, VolumeRef, VolumeState};
use hutch_driver::{Call, DriverError, DriverInfo, MountPlan, Options, TreePath};

use super::{OpenPool, Pool, Readiness, turn};
use crate::Core;
use crate::error::{Error, Result};

impl Pool {
    /// Its driver says that what it lies on is away, and may come back. A pool that is being opened says so itself when that fails.
    pub(super) fn set_away(&self, why: &str) {
        *self.away.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.readiness.send_if_modified(|readiness| {
            let was_ready = *readiness == Readiness::Ready;
            if was_ready {
                tracing::error!(pool = self.record().name, why, "the storage pool is unavailable");
                *readiness = Readiness::Unavailable(why.to_owned());
            }
            was_ready
        });
    }

    /// Whether it is worth the try to open it again, for somebody who came at `since`: not where it was tried since.
    fn may_be_back(&self, since: Instant) -> bool {
        let away = *self.away.lock().unwrap_or_else(PoisonError::into_inner);
        away.is_some_and(|found| found < since)
    }

    /// It is here.
    pub(super) fn set_back(&self) {
        *self.away.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Core {
    /// A pool that can be used; waits while it is being brought up, and brings it up where what it lies on was away.
    pub(crate) async fn open_pool(&self, name: &str) -> Result<OpenPool> {
        let pool = self.find_pool(name)?;
        self.bring_back_pool(&pool).await?;
        self.usable_pool(&pool).await
    }

    /// A pool that can be used, as it is.
    pub(super) async fn usable_pool(&self, pool: &Arc<Pool>) -> Result<OpenPool> {
        if let Readiness::Unavailable(why) = pool.settled().await {
            let name = &pool.record().name;
            return Err(Error::Unavailable(format!("storage pool {name} is unavailable: {why}")));
        }
        self.watched_pool(pool)
    }

    /// A pool, if it can be used at this moment.
    pub(crate) fn ready_pool(&self, name: &str) -> Option<OpenPool> {
        let pool = self.find_pool(name).ok()?;
        let ready = pool.readiness() == Readiness::Ready;
        ready.then(|| self.watched_pool(&pool).ok()).flatten()
    }

    /// Opens a pool again if what it lies on was away and nobody has tried since this was called. What comes of it is shown with the
    /// pool.
    pub(super) async fn bring_back_pool(&self, pool: &Pool) -> Result<()> {
        let now = Instant::now();
        if matches!(pool.settled().await, Readiness::Unavailable(_)) && pool.may_be_back(now) {
            let name = pool.record().name.clone();
            let _turn = self.turns.take(&turn(&name)).await;
            if pool.may_be_back(now) {
                self.retry_in_turn(pool, &name).await?;
            }
        }
        Ok(())
    }

    fn watched_pool(&self, pool: &Arc<Pool>) -> Result<OpenPool> {
        let open = self.pool_with_driver(pool.record())?;
        let driver = Arc::new(Watched {
            driver: open.driver,
            pool: Arc::downgrade(pool),
        });
        Ok(OpenPool { driver, ..open })
    }
}

/// A driver whose answers are looked at.
struct Watched {
    driver: Arc<dyn StorageDriver>,
    pool: Weak<Pool>,
}

impl Watched {
    /// Passes an answer on. That something is `unavailable` and may come back (`retryable`) is said of the pool, but for what the host
    /// says in the driver's place: that there was no room to run it is no word of what the pool lies on.
    fn seen<T>(&self, answer: Result<T, DriverError>) -> Result<T, DriverError> {
        if let Err(error) = &answer
            && error.is("unavailable")
            && error.retryable
            && error.answered
            && let Some(pool) = self.pool.upgrade()
        {
            pool.set_away(&error.to_string());
        }
        answer
    }
}

/// Passes calls on and looks at their answers.
macro_rules! pass {
    ($($name:ident($($arg:ident: $kind:ty),*) -> $result:ty;)*) => {
        #[async_trait]
        impl StorageDriver for Watched {
            fn info(&self) -> DriverInfo {
                self.driver.info()
            }

            $(async fn $name(&self, call: &Call, $($arg: $kind),*) -> Result<$result, DriverError> {
                self.seen(self.driver.$name(call, $($arg),*).await)
            })*
        }
    };
}

pass! {
    validate(pool: &PoolRef, current: Option<&Options>) -> Options;
    create_pool(pool: &PoolRef) -> ();
    open_pool(pool: &PoolRef) -> ();
    delete_pool(pool: &PoolRef) -> ();
    space(pool: &PoolRef) -> PoolSpace;
    reconcile(pool: &PoolRef, valid: &[VolumeState]) -> Vec<String>;
    create(pool: &PoolRef, volume: &VolumeRef) -> ();
    begin_fill(pool: &PoolRef, volume: &VolumeRef, plain: bool) -> TreePath;
    end_fill(pool: &PoolRef, volume: &VolumeRef, plain: bool) -> ();
    create_from_image(pool: &PoolRef, image: &VolumeRef, volume: &VolumeRef, plain: bool) -> ();
    delete(pool: &PoolRef, volume: &VolumeRef) -> ();
    rename(pool: &PoolRef, volume: &VolumeRef, new_name: &str) -> ();
    mount(pool: &PoolRef, volume: &VolumeRef) -> MountPlan;
    usage(pool: &PoolRef, volume: &VolumeRef) -> Option<u64>;
    snapshot_create(pool: &PoolRef, volume: &VolumeRef, name: &str, live: bool) -> ();
    snapshot_delete(pool: &PoolRef, volume: &VolumeRef, name: &str) -> ();
    snapshot_rename(pool: &PoolRef, volume: &VolumeRef, name: &str, new_name: &str) -> ();
    snapshot_restore(pool: &PoolRef, volume: &VolumeRef, name: &str) -> ();
    snapshot_mount(pool: &PoolRef, volume: &VolumeRef, name: &str) -> MountPlan;
    copy(
        pool: &PoolRef, source: &VolumeRef, snapshot: Option<&str>, target: &VolumeRef, live: bool, plain: bool
    ) -> ();
    replica_copy(pool: &PoolRef, source: CopySource<'_>, volume: &VolumeRef, name: &str) -> ();
    replica_begin_fill(pool: &PoolRef, volume: &VolumeRef, name: &str) -> TreePath;
    replica_end_fill(pool: &PoolRef, volume: &VolumeRef, name: &str) -> ();
    replica_promote(pool: &PoolRef, volume: &VolumeRef, name: &str) -> ();
    release(pool: &PoolRef, volume: &VolumeRef) -> ();
    set_quota(pool: &PoolRef, volume: &VolumeRef, bytes: Option<u64>) -> ();
}

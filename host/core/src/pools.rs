//! Storage pools: what they are, and how the core calls their drivers.

use std::collections::BTreeSet;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use async_trait::async_trait;
use hutch_api::storage::{
    ResourcesStoragePool, ResourcesStoragePoolInodes, ResourcesStoragePoolSpace, StoragePool, StoragePoolPatch,
    StoragePoolPut,
};
use hutch_driver::{Call, DriverError, MountPlan, TreePath};
use hutch_store::Transaction;
use tokio::sync::watch;

use crate::error::{Error, Result};
use crate::instances::release::release_unused;
use crate::instances::view::View;
use crate::journal::Entry;
use crate::profiles::with_project;
use crate::records::{PoolRecord, key};
use crate::{Core, Tagged, check_etag, etag, settings};

mod away;
mod claims;
mod create;
mod mark;
mod open;
mod remove;
mod volumes;

use mark::Owner;

pub(crate) use claims::{Claim, Claims};
pub(crate) use open::OpenPool;
pub(crate) use volumes::{image_volume, instance_volume};

/// Where pools are that were given no other place, below the state directory.
const PLACES: &str = "storage-pools";

/// The id under which a driver sees its pool's tree.
pub(crate) const ROOT: &str = "pool";

/// What the host does in the roots of pools without a driver.
#[async_trait]
pub trait Roots: Send + Sync {
    /// Lets go of a root that is about to be removed; returns when everything that was discarded there is gone.
    async fn release(&self, root: &Path) -> Result<(), DriverError>;

    /// Copies what `plan` shows to the empty directory `to`, as it is; both lie in roots of `call`, whose progress is told and whose
    /// cancellation ends it. `to` is complete afterwards, or as it was. A tree that is mounted must have no writers meanwhile.
    async fn copy(&self, call: &Call, plan: &MountPlan, to: &TreePath) -> Result<(), DriverError>;
}

/// How far a pool or network is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It is being brought up.
    Opening,
    /// It can be used.
    Ready,
    /// It can't, for this reason.
    Unavailable(String),
}

impl Readiness {
    /// The `status` of the API.
    pub fn status(&self) -> &'static str {
        match self {
            Self::Opening => "Pending",
            Self::Ready => "Created",
            Self::Unavailable(_) => "Unavailable",
        }
    }
}

/// A pool in memory.
#[derive(Debug)]
pub struct Pool {
    record: RwLock<Arc<PoolRecord>>,
    readiness: watch::Sender<Readiness>,
    /// When it was last found that what it lies on is away; none while that is not why it can't be used.
    away: Mutex<Option<Instant>>,
    /// It could be used in the life of this daemon: changes of what is in it may be under way, whatever it is now.
    used: AtomicBool,
}

impl Pool {
    pub(crate) fn new(record: PoolRecord) -> Self {
        Self {
            record: RwLock::new(Arc::new(record)),
            readiness: watch::Sender::new(Readiness::Opening),
            away: Mutex::new(None),
            used: AtomicBool::new(false),
        }
    }

    pub(crate) fn record(&self) -> Arc<PoolRecord> {
        Arc::clone(&self.record.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set_record(&self, record: PoolRecord) {
        *self.record.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(record);
    }

    pub(crate) fn set_ready(&self, readiness: Readiness) {
        if readiness == Readiness::Ready {
            self.used.store(true, Ordering::SeqCst);
        }
        self.readiness.send_replace(readiness);
    }

    pub(crate) fn readiness(&self) -> Readiness {
        self.readiness.borrow().clone()
    }

    /// Whether it can be used, once that is known.
    async fn settled(&self) -> Readiness {
        let mut readiness = self.readiness.subscribe();
        match readiness.wait_for(|state| *state != Readiness::Opening).await {
            Ok(state) => state.clone(),
            // Its sender is a part of this very value.
            Err(_) => self.readiness(),
        }
    }
}

impl Core {
    fn find_pool(&self, name: &str) -> Result<Arc<Pool>> {
        self.pools
            .get(&name.to_owned())
            .ok_or_else(|| Error::missing("Storage pool", name))
    }

    /// Whether this very pool is there, and not another of its name, or none.
    fn has_pool(&self, pool: &Pool) -> bool {
        let found = self.find_pool(&pool.record().name);
        found.is_ok_and(|found| std::ptr::eq(Arc::as_ptr(&found), pool))
    }

    fn pool_with_driver(&self, record: Arc<PoolRecord>) -> Result<OpenPool> {
        let driver = self
            .drivers
            .storage(&record.driver)
            .map_err(Error::driver(format!("using storage pool {}", record.name)))?;
        let root = self.pool_root(&record);
        Ok(OpenPool { record, driver, root })
    }

    fn pool_root(&self, record: &PoolRecord) -> PathBuf {
        record
            .config
            .get("source")
            .map_or_else(|| self.default_pool_path(&record.name), PathBuf::from)
    }

    fn default_pool_path(&self, name: &str) -> PathBuf {
        self.state_dir.join(PLACES).join(name)
    }

    /// Brings a pool up after a start of the daemon, but for one that is gone by now, or going.
    pub(crate) async fn bring_up_pool(&self, pool: &Pool, unfinished: &[Entry]) {
        let _turn = self.turns.take(&turn(&pool.record().name)).await;
        if self.has_pool(pool) && pool.readiness() == Readiness::Opening {
            self.open_and_clean(pool, unfinished, true).await;
        }
    }

    /// Brings a pool up that could not be, or finishes its deletion if that was interrupted: its driver is back. What comes of it
    /// is shown with the pool.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn retry_pool(&self, pool: &Pool) -> Result<()> {
        let name = pool.record().name.clone();
        let _turn = self.turns.take(&turn(&name)).await;
        self.retry_in_turn(pool, &name).await
    }

    async fn retry_in_turn(&self, pool: &Pool, name: &str) -> Result<()> {
        if !self.has_pool(pool) || !matches!(pool.readiness(), Readiness::Unavailable(_)) {
            return Ok(());
        }
        let deletions = self.open_pool_deletions(name).await?;
        if !deletions.is_empty() {
            if let Err(error) = self.finish_interrupted_pool(pool, &deletions).await {
                tracing::error!(
                    pool = name,
                    error = error.report(),
                    "the storage pool could not be deleted yet"
                );
            }
            return Ok(());
        }
        if pool.used.load(Ordering::SeqCst) {
            pool.set_ready(Readiness::Opening);
            let opened = self.open_as_it_is(pool).await;
            opened_pool(pool, opened.map(|_| ()));
            return Ok(());
        }
        // Nothing has worked in it yet, so that what is open in the journal is what was left unfinished there.
        let entries = self.journal.interrupted().await?.into_iter();
        let unfinished: Vec<Entry> = entries.map(|(_, _, entry)| entry).collect();
        // Whoever wants it now waits for it.
        pool.set_ready(Readiness::Opening);
        self.open_and_clean(pool, &unfinished, false).await;
        Ok(())
    }

    /// Opens a pool, and changes nothing of what is in it: snapshots, moves, refreshes and new instances may be under way there that
    /// met it while it was away, and no record names what they make.
    async fn open_as_it_is(&self, pool: &Pool) -> Result<OpenPool> {
        let open = self.pool_with_driver(pool.record())?;
        match mark::owner(&open.root, &open.record, &self.state_dir)? {
            Owner::Pool => {}
            Owner::Missing => {
                let gone = format!("there is no directory {}", open.root.display());
                return Err(Error::Unavailable(gone));
            }
            Owner::Other(why) => return Err(Error::Unavailable(why)),
        }
        cover(&open.root)?;
        open.driver
            .open_pool(&open.call(None), &open.reference())
            .await
            .map_err(Error::driver(format!("opening pool {}", open.record.name)))?;
        Ok(open)
    }

    /// Opens a pool in which nothing has been done since the daemon began, and removes what does not belong there, but for what
    /// `unfinished` changes may have left under a new name. `starting` says that instances are still to be started with the daemon.
    /// The caller has its turn.
    async fn open_and_clean(&self, pool: &Pool, unfinished: &[Entry], starting: bool) {
        let record = pool.record();
        let name = record.name.as_str();
        let result = async {
            let open = self.open_as_it_is(pool).await?;
            let call = open.call(None);
            let removed = open
                .driver
                .reconcile(&call, &open.reference(), &self.valid_volumes(name, unfinished))
                .await
                .map_err(Error::driver(format!("cleaning up pool {name}")))?;
            for what in removed {
                tracing::info!(pool = name, what, "removed what belonged to nothing");
            }
            self.claim_running(&open).await;
            Ok::<_, Error>(open.driver.info().can("release"))
        };
        if opened_pool(pool, result.await) == Some(true) {
            let instances = self.instances.list(None).into_iter();
            let unused = instances.filter(|instance| {
                let view = instance.view();
                view.record.pool == name && !(starting && view.starts_with_daemon()) && !comes_back(&view, unfinished)
            });
            release_unused(unused.collect());
        }
    }

    /// Claims the trees of containers that an earlier daemon started, but for those that are claimed: it would find itself in the way.
    async fn claim_running(&self, open: &OpenPool) {
        for instance in self.instances.list(None) {
            let view = instance.view();
            if view.record.pool != open.record.name || view.keeper.is_none() || instance.holds() {
                continue;
            }
            let claimed = open.root_of(self, &view.record).await;
            match claimed {
                Ok((_, claim)) => instance.hold(Some(claim)),
                Err(error) => tracing::warn!(
                    instance = instance.name(),
                    error = error.report(),
                    "nothing keeps the root of a running container from being another's"
                ),
            }
        }
    }

    /// Takes the mounts off the directories of pools of which no container runs, at the end of the daemon: nothing can write there any
    /// more, and who wants to move or remove the state directory is not held up. What can't be unmounted is for the next start.
    pub(crate) fn uncover_idle_pools(&self) {
        let running: BTreeSet<String> = self
            .instances
            .list(None)
            .iter()
            .map(|instance| instance.view())
            .filter(|view| view.keeper.is_some())
            .map(|view| view.record.pool.clone())
            .collect();
        for pool in self
            .pools
            .list()
            .iter()
            .filter(|pool| pool.readiness() == Readiness::Ready)
        {
            let record = pool.record();
            if !running.contains(&record.name)
                && let Err(error) = uncover(&self.pool_root(&record))
            {
                tracing::warn!(
                    pool = record.name,
                    error = error.report(),
                    "the directory of the pool stays mounted over itself"
                );
            }
        }
    }

    /// All pools.
    pub fn pools(&self) -> Vec<StoragePool> {
        self.pools.list().iter().map(|pool| self.render_pool(pool)).collect()
    }

    /// One pool.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn pool(&self, name: &str) -> Result<Tagged<StoragePool>> {
        let value = self.render_pool(&*self.find_pool(name)?);
        Ok(Tagged {
            etag: etag(&value.etag_parts()),
            value,
        })
    }

    /// Replaces a pool's configuration. What the driver says can't change is refused by it.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Changed`], [`Error::Invalid`], and the driver's.
    pub async fn pool_update(&self, name: &str, put: StoragePoolPut, if_match: Option<&str>) -> Result<()> {
        // Before the turn is taken: whoever brings the pool up needs it.
        let pool = self.find_pool(name)?;
        self.bring_back_pool(&pool).await?;
        let _turn = self.turns.take(&turn(name)).await;
        let current = self.pool(name)?;
        check_etag(&current.value.etag_parts(), if_match)?;
        let open = self.usable_pool(&pool).await?;
        let mut config = settings::pruned(put.config);
        let source = config
            .entry("source".to_owned())
            .or_insert_with(|| current.value.config.get("source").cloned().unwrap_or_default());
        if Some(&*source) != current.value.config.get("source") {
            return Err(Error::invalid(format!(
                "Storage pool {name}: the source of an existing pool can't be changed"
            )));
        }
        let current = Some(&current.value.config);
        let config = open.validate(&open.call(None), config, current).await?;
        let record = PoolRecord {
            config,
            description: put.description,
            ..PoolRecord::clone(&open.record)
        };
        self.store
            .commit(Transaction::new().put(key::pool(name), &record)?)
            .await?;
        if let Some(pool) = self.pools.get(&name.to_owned()) {
            pool.set_record(record);
        }
        let path = format!("/1.0/storage-pools/{name}");
        self.events.lifecycle(
            crate::DEFAULT_PROJECT,
            "storage-pool-updated",
            &path,
            serde_json::Map::new(),
        );
        Ok(())
    }

    /// Changes some of a pool's configuration.
    ///
    /// # Errors
    /// As [`Core::pool_update`].
    pub async fn pool_patch(&self, name: &str, patch: StoragePoolPatch, if_match: Option<&str>) -> Result<()> {
        let current = self.pool(name)?;
        check_etag(&current.value.etag_parts(), if_match)?;
        let mut put = current.value.to_put();
        patch.apply(&mut put);
        self.pool_update(name, put, Some(&current.etag)).await
    }

    /// How full a pool is.
    ///
    /// # Errors
    /// [`Error::NotFound`], and the driver's.
    pub async fn pool_resources(&self, name: &str) -> Result<ResourcesStoragePool> {
        let open = self.open_pool(name).await?;
        let space = open
            .driver
            .space(&open.call(None), &open.reference())
            .await
            .map_err(Error::driver(format!("measuring storage pool {name}")))?;
        Ok(ResourcesStoragePool {
            space: ResourcesStoragePoolSpace {
                used: space.used_bytes,
                total: space.total_bytes,
            },
            inodes: ResourcesStoragePoolInodes {
                used: space.used_inodes,
                total: space.total_inodes,
            },
        })
    }

    /// The driver that is used when the caller names none: the first that the operator's configuration offers.
    pub(crate) fn default_driver(&self, family: &str) -> Result<String> {
        self.drivers
            .list(family)
            .first()
            .map(|info| info.name.clone())
            .ok_or_else(|| Error::Unavailable(format!("no plugin provides a {family} driver: see `hutch plugin list`")))
    }

    fn pool_users(&self, name: &str) -> Vec<String> {
        let mut users: Vec<String> = self
            .instances
            .in_pool(name)
            .into_iter()
            .map(|(project, instance, ..)| with_project(format!("/1.0/instances/{instance}"), &project))
            .collect();
        let all = self.instances.list(None).into_iter().map(|instance| instance.view());
        let coming = all.filter(|view| view.moving_to.as_deref() == Some(name));
        users.extend(
            coming.map(|view| with_project(format!("/1.0/instances/{}", view.record.name), &view.record.project)),
        );
        for profile in self.profiles.list() {
            if profile
                .devices
                .values()
                .any(|device| device.get("pool").is_some_and(|pool| pool == name))
            {
                users.push(crate::profiles::path(&profile.project, &profile.name));
            }
        }
        users
    }

    /// Whether a pool can be used now: it was brought up, and its driver is still there.
    pub(crate) fn pool_condition(&self, pool: &Pool) -> Readiness {
        let readiness = pool.readiness();
        match (&readiness, self.drivers.storage(&pool.record().driver)) {
            (Readiness::Ready, Err(error)) => Readiness::Unavailable(error.to_string()),
            _ => readiness,
        }
    }

    fn render_pool(&self, pool: &Pool) -> StoragePool {
        let record = pool.record();
        let mut used_by = self.pool_users(&record.name);
        used_by.extend(
            self.images
                .volumes(&record.name)
                .into_iter()
                .map(|fingerprint| format!("/1.0/images/{fingerprint}")),
        );
        let status = self.pool_condition(pool);
        let description = match &status {
            Readiness::Unavailable(why) if record.description.is_empty() => format!("unavailable: {why}"),
            _ => record.description.clone(),
        };
        StoragePool {
            name: record.name.clone(),
            description,
            driver: record.driver.clone(),
            status: status.status().to_owned(),
            config: record.config.clone(),
            used_by,
            locations: vec!["none".to_owned()],
        }
    }
}

/// Shows what came of opening a pool; what it was opened for where it was.
fn opened_pool<T>(pool: &Pool, opened: Result<T>) -> Option<T> {
    match opened {
        Ok(value) => {
            pool.set_back();
            pool.set_ready(Readiness::Ready);
            Some(value)
        }
        Err(error) => {
            if error.may_pass() {
                pool.set_away(&error.report());
            }
            let name = &pool.record().name;
            tracing::error!(pool = name, error = error.report(), "the storage pool is unavailable");
            pool.set_ready(Readiness::Unavailable(error.report()));
            None
        }
    }
}

/// Whether an instance is in the middle of a restart, which goes on.
fn comes_back(view: &View, unfinished: &[Entry]) -> bool {
    unfinished.iter().any(|entry| {
        matches!(entry, Entry::InstanceRestart { project, name }
            if *project == view.record.project && *name == view.record.name)
    })
}

/// Sees to it that set-user-id programs and device nodes in a pool, which containers make as their own, mean nothing to who comes
/// by its directory's path. Before anything in it is opened: what is renamed or linked there has to be of one mount.
fn cover(root: &Path) -> Result<()> {
    let covered = root.canonicalize().and_then(|root| hutch_sys::cover::cover(&root));
    covered.map_err(Error::io(format!(
        "mounting {} nosuid and nodev over itself",
        root.display()
    )))
}

/// Takes that back.
fn uncover(root: &Path) -> Result<()> {
    let uncovered = match root.canonicalize() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        found => found.and_then(|root| hutch_sys::cover::uncover(&root)),
    };
    uncovered.map_err(Error::io(format!("unmounting {} from over itself", root.display())))
}

/// Whose turn a change of the pool `name` takes.
pub(crate) fn turn(name: &str) -> String {
    format!("storage-pool {name}")
}

/// A directory that only root enters: what lies below has unshifted owners and set-uid bits.
pub(crate) fn make_private_dir(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(Error::io(format!("making directory {}", path.display())))
}

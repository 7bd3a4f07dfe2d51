//! Storage pools: what they are, and how the core calls their drivers.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use hutch_api::storage::{
    ResourcesStoragePool, ResourcesStoragePoolInodes, ResourcesStoragePoolSpace, StoragePool, StoragePoolPatch,
    StoragePoolPut,
};
use hutch_driver::DriverError;
use hutch_store::Transaction;
use tokio::sync::watch;

use crate::error::{Error, Result};
use crate::journal::Entry;
use crate::profiles::with_project;
use crate::records::{PoolRecord, key};
use crate::{Core, Tagged, check_etag, etag, settings};

mod claims;
mod create;
mod mark;
mod open;
mod volumes;

use mark::Owner;

pub(crate) use claims::{Claim, Claims};
pub(crate) use open::OpenPool;
pub(crate) use volumes::{image_volume, instance_volume};

/// Where pools are that were given no other place, below the state directory.
const PLACES: &str = "storage-pools";

/// The id under which a driver sees its pool's tree.
pub(crate) const ROOT: &str = "pool";

/// What the host keeps in the roots of pools for drivers (what they discarded, open descriptors).
#[async_trait]
pub trait Roots: Send + Sync {
    /// Lets go of a root that is about to be removed; returns when everything that was discarded there is gone.
    async fn release(&self, root: &Path) -> Result<(), DriverError>;
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
}

impl Pool {
    pub(crate) fn new(record: PoolRecord) -> Self {
        Self {
            record: RwLock::new(Arc::new(record)),
            readiness: watch::Sender::new(Readiness::Opening),
        }
    }

    pub(crate) fn record(&self) -> Arc<PoolRecord> {
        Arc::clone(&self.record.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set_record(&self, record: PoolRecord) {
        *self.record.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(record);
    }

    pub(crate) fn set_ready(&self, readiness: Readiness) {
        self.readiness.send_replace(readiness);
    }

    pub(crate) fn readiness(&self) -> Readiness {
        self.readiness.borrow().clone()
    }
}

impl Core {
    /// A pool that can be used; waits while it is being brought up.
    pub(crate) async fn open_pool(&self, name: &str) -> Result<OpenPool> {
        let pool = self
            .pools
            .get(&name.to_owned())
            .ok_or_else(|| Error::missing("Storage pool", name))?;
        let mut readiness = pool.readiness.subscribe();
        let state = readiness.wait_for(|state| *state != Readiness::Opening).await;
        if let Ok(state) = state
            && let Readiness::Unavailable(why) = &*state
        {
            return Err(Error::Unavailable(format!("storage pool {name} is unavailable: {why}")));
        }
        self.pool_with_driver(pool.record())
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

    /// Brings a pool up after a start of the daemon: opens it and removes what does not belong there, but for what
    /// `unfinished` changes may have left under a new name.
    pub(crate) async fn bring_up_pool(self: &Arc<Self>, pool: &Pool, unfinished: &[Entry]) {
        let record = pool.record();
        let name = record.name.as_str();
        let result = async {
            let open = self.pool_with_driver(pool.record())?;
            match mark::owner(&open.root, &record, &self.state_dir)? {
                Owner::Pool => {}
                Owner::Missing => {
                    let gone = format!("there is no directory {}", open.root.display());
                    return Err(Error::Unavailable(gone));
                }
                Owner::Other(why) => return Err(Error::Unavailable(why)),
            }
            let call = open.call(None);
            open.driver
                .open_pool(&call, &open.reference())
                .await
                .map_err(Error::driver(format!("opening pool {name}")))?;
            let removed = open
                .driver
                .reconcile(&call, &open.reference(), &self.valid_volumes(name, unfinished))
                .await
                .map_err(Error::driver(format!("cleaning up pool {name}")))?;
            for what in removed {
                tracing::info!(pool = name, what, "removed what belonged to nothing");
            }
            self.claim_running(&open).await;
            Ok::<_, Error>(())
        };
        match result.await {
            Ok(()) => pool.set_ready(Readiness::Ready),
            Err(error) => {
                tracing::error!(pool = name, error = error.report(), "the storage pool is unavailable");
                pool.set_ready(Readiness::Unavailable(error.report()));
            }
        }
    }

    /// Claims the trees of containers that an earlier daemon started.
    async fn claim_running(&self, open: &OpenPool) {
        for instance in self.instances.list(None) {
            let view = instance.view();
            if view.record.pool != open.record.name || view.keeper.is_none() {
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

    /// All pools.
    pub fn pools(&self) -> Vec<StoragePool> {
        self.pools.list().iter().map(|pool| self.render_pool(pool)).collect()
    }

    /// One pool.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn pool(&self, name: &str) -> Result<Tagged<StoragePool>> {
        let pool = self
            .pools
            .get(&name.to_owned())
            .ok_or_else(|| Error::missing("Storage pool", name))?;
        let value = self.render_pool(&pool);
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
        let _turn = self.turns.take(&turn(name)).await;
        let current = self.pool(name)?;
        check_etag(&current.value.etag_parts(), if_match)?;
        let open = self.open_pool(name).await?;
        let mut config = settings::pruned(put.config);
        let source = config
            .entry("source".to_owned())
            .or_insert_with(|| current.value.config.get("source").cloned().unwrap_or_default());
        if Some(&*source) != current.value.config.get("source") {
            return Err(Error::invalid(format!(
                "Storage pool {name}: the source of an existing pool can't be changed"
            )));
        }
        let config = open.validate(&open.call(None), &config).await?;
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

    /// Deletes a pool that holds no instance; volumes of images go with it.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`] for one that is used, and the driver's.
    pub async fn pool_delete(&self, name: &str) -> Result<()> {
        let _turn = self.turns.take(&turn(name)).await;
        let pool = self
            .pools
            .get(&name.to_owned())
            .ok_or_else(|| Error::missing("Storage pool", name))?;
        let readiness = pool.readiness();
        {
            let _guard = self.changes.lock().await;
            let used = self.pool_users(name);
            if let Some(user) = used.first() {
                return Err(Error::invalid(format!("Storage pool {name:?} is in use by {user}")));
            }
            // Nobody begins to use it from here on.
            pool.set_ready(Readiness::Unavailable("it is being deleted".to_owned()));
        }
        let deleted = self.delete_pool_and_record(&pool.record()).await;
        if let Err(error) = deleted {
            pool.set_ready(readiness);
            return Err(error);
        }
        self.pools.remove(&name.to_owned());
        let path = format!("/1.0/storage-pools/{name}");
        self.events.lifecycle(
            crate::DEFAULT_PROJECT,
            "storage-pool-deleted",
            &path,
            serde_json::Map::new(),
        );
        Ok(())
    }

    /// Deletes what a pool holds, then its record. A deletion that failed is told to the caller and over with: it must not go on
    /// after the next start of the daemon, when there may be another pool of this name.
    async fn delete_pool_and_record(&self, record: &Arc<PoolRecord>) -> Result<()> {
        let name = record.name.as_str();
        let entry = self
            .journal
            .begin("", Entry::PoolDelete { name: name.to_owned() })
            .await?;
        if let Err(error) = self.finish_pool_delete(record).await {
            return self.journal.unless_failed(entry, Err(error)).await;
        }
        self.journal.step(&entry, "pool");
        self.journal
            .done(
                entry,
                self.images
                    .forget_pool(Transaction::new().delete(key::pool(name)), name)?,
            )
            .await
    }

    /// Removes everything of a pool but its record.
    pub(crate) async fn finish_pool_delete(&self, record: &Arc<PoolRecord>) -> Result<()> {
        let action = format!("deleting storage pool {}", record.name);
        let open = self.pool_with_driver(Arc::clone(record))?;
        let call = open.call(None);
        match mark::owner(&open.root, record, &self.state_dir)? {
            Owner::Pool => {}
            Owner::Missing => return Ok(()),
            Owner::Other(why) => {
                tracing::warn!(
                    pool = record.name,
                    why,
                    "nothing is removed from the directory of a deleted pool"
                );
                return Ok(());
            }
        }
        for fingerprint in self.images.volumes(&record.name) {
            open.driver
                .delete(&call, &open.reference(), &image_volume(&fingerprint))
                .await
                .map_err(Error::driver(&action))?;
        }
        open.driver
            .delete_pool(&call, &open.reference())
            .await
            .map_err(Error::driver(&action))?;
        self.remove_pool_dir(&open.root, record, false).await
    }

    /// Lets a pool's directory go when its driver has removed what it had there. One of the daemon's own goes with whatever is
    /// left; of one that the operator named only the mark, and the directory itself if it was `made` for the pool. Of one that
    /// does not bear the pool's mark nothing.
    async fn remove_pool_dir(&self, root: &Path, record: &PoolRecord, made: bool) -> Result<()> {
        let action = format!("removing {}", root.display());
        if mark::owner(root, record, &self.state_dir)? == Owner::Pool {
            self.roots.release(root).await.map_err(Error::driver(&action))?;
        }
        let own = self.is_own_place(root);
        let (root, record, daemon) = (root.to_owned(), record.clone(), self.state_dir.clone());
        tokio::task::spawn_blocking(move || mark::unmark(&root, &record, &daemon, made || own, own))
            .await
            .map_err(|error| Error::io(action)(std::io::Error::other(error)))?
    }

    fn is_own_place(&self, root: &Path) -> bool {
        root.starts_with(self.state_dir.join(PLACES))
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

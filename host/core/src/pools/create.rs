//! Making a pool, and taking back one that was not finished.

use std::path::{Component, Path};
use std::sync::Arc;

use hutch_api::storage::StoragePoolsPost;
use hutch_driver::Call;
use hutch_driver::storage::PoolRef;
use hutch_store::Transaction;

use super::mark::{self, Owner, Place};
use super::{OpenPool, PLACES, Pool, Readiness, cover, make_private_dir, turn};
use crate::error::{Error, Result};
use crate::journal::{Entry, Open};
use crate::records::{PoolRecord, RECORD_VERSION, key};
use crate::{Core, names, settings};

impl Core {
    /// Makes a pool in a directory that is missing or empty.
    ///
    /// # Errors
    /// [`Error::Invalid`] also for a directory that is in use, [`Error::Conflict`] also for one that is a pool's, of whatever
    /// daemon; and the driver's. Whatever the error, a directory that was there is as it was.
    pub async fn pool_create(&self, mut post: StoragePoolsPost) -> Result<()> {
        names::object("storage pool", &post.name)?;
        if post.driver.is_empty() {
            post.driver = self.default_driver("storage")?;
        }
        let _use = self.uses.begin("storage", &post.driver).await;
        let name = post.name.clone();
        let _turn = self.turns.take(&turn(&name)).await;
        if self.pools.get(&name).is_some() {
            return Err(Error::Conflict(format!("Storage pool {name:?} already exists")));
        }
        self.finish_pool_undo(&name).await?;
        let (record, place) = self.plan_pool(post).await?;
        let entry = Entry::PoolCreate {
            name: name.clone(),
            driver: record.driver.clone(),
            config: record.config.clone(),
            token: record.token.clone(),
            made: place.missing,
        };
        let entry = self.journal.begin("", entry).await?;
        if let Err(error) = self.make_pool(&entry, &record, &place).await {
            self.give_pool_up(entry, &record, place.missing).await?;
            return Err(error);
        }
        self.journal.step(&entry, "pool");
        let change = Transaction::new().put(key::pool(&name), &record)?;
        self.journal.done(entry, change).await?;
        let pool = Pool::new(record);
        pool.set_ready(Readiness::Ready);
        self.pools.insert(name.clone(), Arc::new(pool));
        let path = format!("/1.0/storage-pools/{name}");
        self.events.lifecycle(
            crate::DEFAULT_PROJECT,
            "storage-pool-created",
            &path,
            serde_json::Map::new(),
        );
        Ok(())
    }

    /// Checks everything about a new pool that can be checked before anything is changed.
    async fn plan_pool(&self, post: StoragePoolsPost) -> Result<(PoolRecord, Place)> {
        let mut record = PoolRecord {
            v: RECORD_VERSION,
            name: post.name,
            driver: post.driver,
            description: post.description,
            config: settings::pruned(post.config),
            token: uuid::Uuid::new_v4().simple().to_string(),
        };
        let own = self.default_pool_path(&record.name);
        let place = match record.config.get("source").filter(|source| !source.is_empty()) {
            Some(source) => find_place(source, &own, &self.state_dir)?,
            None => {
                make_private_dir(&self.state_dir.join(PLACES))?;
                Place::find(&own, true)?
            }
        };
        // The directory itself, whatever a link on the way leads to later.
        let source = place.path.display().to_string();
        record.config.insert("source".to_owned(), source);
        let open = self
            .pool_with_driver(Arc::new(record.clone()))
            .map_err(Error::of_request)?;
        let call = Call::new(crate::DEFAULT_PROJECT, &record.name);
        record.config = open.validate(&call, record.config, None).await?;
        Ok((record, place))
    }

    async fn make_pool(&self, entry: &Open, record: &PoolRecord, place: &Place) -> Result<()> {
        place.take(record, &self.state_dir)?;
        self.journal.step(entry, "marked");
        cover(&place.path)?;
        self.journal.step(entry, "covered");
        let open = self.pool_with_driver(Arc::new(record.clone()))?;
        open.driver
            .create_pool(&open.call(None), &open.reference())
            .await
            .map_err(Error::driver(format!("creating storage pool {}", record.name)))
    }

    /// Takes back a pool that could not be made. If that fails, too, its entry stays in the journal, and the next start of the
    /// daemon or the next creation of a pool of this name tries again.
    async fn give_pool_up(&self, entry: Open, record: &PoolRecord, made: bool) -> Result<()> {
        match self.undo_pool_create(record, made).await {
            Ok(()) => self.journal.done(entry, Transaction::new()).await,
            Err(error) => {
                tracing::warn!(
                    pool = record.name,
                    error = error.report(),
                    "a pool that was not finished could not be taken back"
                );
                Ok(())
            }
        }
    }

    /// Takes back what earlier creations of a pool of this name left when they could not be taken back.
    async fn finish_pool_undo(&self, wanted: &str) -> Result<()> {
        for (open, _, entry) in self.journal.interrupted().await? {
            if let Some((record, made)) = unfinished(&entry)
                && record.name == wanted
            {
                self.undo_pool_create(&record, made).await.map_err(|error| {
                    let why = error.report();
                    Error::Unavailable(format!(
                        "an earlier storage pool {wanted}, which was not finished, can't be removed yet: {why}"
                    ))
                })?;
                self.journal.done(open, Transaction::new()).await?;
            }
        }
        Ok(())
    }

    /// Takes back a pool whose creation was interrupted, after a start of the daemon.
    pub(crate) async fn recover_pool_create(&self, open: &Open, entry: &Entry) -> Result<()> {
        if let Some((record, made)) = unfinished(entry) {
            let _turn = self.turns.take(&turn(&record.name)).await;
            self.undo_pool_create(&record, made).await?;
        }
        self.journal.done(open.clone(), Transaction::new()).await
    }

    /// Takes back a pool that was not finished: what its driver has in the directory that bears its mark, the mark, and the
    /// directory if it was `made` for it. Nothing is touched that is not known to be this pool's.
    async fn undo_pool_create(&self, record: &PoolRecord, made: bool) -> Result<()> {
        let root = self.pool_root(record);
        if mark::owner(&root, record, &self.state_dir)? == Owner::Pool {
            let deleted = async {
                let open = self.pool_with_driver(Arc::new(record.clone()))?;
                open.driver
                    .delete_pool(&open.call(None), &open.reference())
                    .await
                    .map_err(Error::driver("deleting the pool"))
            };
            match deleted.await {
                // A directory of the daemon's own goes whatever the driver does: nobody has anything in it.
                Err(error) if self.is_own_place(&root) => {
                    tracing::warn!(
                        pool = record.name,
                        error = error.report(),
                        "the driver can't take a pool back that was not finished; its directory is removed"
                    );
                }
                other => other?,
            }
        }
        self.remove_pool_dir(&root, record, made).await
    }
}

impl OpenPool {
    /// Has the driver check and complete a pool's configuration, which is to take the place of `current` if it has one. Where the
    /// pool is, is not the driver's to say: it gets to work in that directory.
    pub(super) async fn validate(
        &self,
        call: &Call,
        config: hutch_api::Config,
        current: Option<&hutch_api::Config>,
    ) -> Result<hutch_api::Config> {
        let action = format!("checking the configuration of storage pool {}", self.record.name);
        let wanted = PoolRef {
            config,
            ..self.reference()
        };
        let checked = self
            .driver
            .validate(call, &wanted, current)
            .await
            .map_err(Error::driver(&action))?;
        if checked.get("source") == wanted.config.get("source") {
            return Ok(checked);
        }
        let info = self.driver.info();
        let error = hutch_driver::DriverError::new("internal", "the driver changed the pool's source");
        Err(Error::driver(action)(error.from_plugin(&info.plugin, &info.version)))
    }
}

/// The pool of an interrupted creation, and whether its directory was made for it.
fn unfinished(entry: &Entry) -> Option<(PoolRecord, bool)> {
    let Entry::PoolCreate {
        name,
        driver,
        config,
        token,
        made,
    } = entry
    else {
        return None;
    };
    let record = PoolRecord {
        v: RECORD_VERSION,
        name: name.clone(),
        driver: driver.clone(),
        description: String::new(),
        config: config.clone(),
        token: token.clone(),
    };
    Some((record, *made))
}

/// A source that the operator named must be a directory of its own: absolute, and not one of the daemon's.
fn find_place(source: &str, own: &Path, state_dir: &Path) -> Result<Place> {
    let path = Path::new(source);
    let plain = path.is_absolute() && path.components().all(|part| part != Component::ParentDir);
    if !plain || source.len() > 4096 || source.contains('\0') {
        return Err(Error::invalid(format!(
            "Invalid storage pool source {source:?}: it must be an absolute path without .."
        )));
    }
    if path == own {
        make_private_dir(&state_dir.join(PLACES))?;
        return Place::find(own, true);
    }
    let place = Place::find(path, false)?;
    if place.path.starts_with(state_dir) || state_dir.starts_with(&place.path) {
        return Err(Error::invalid(format!(
            "Invalid storage pool source {source:?}: it overlaps the daemon's own directory"
        )));
    }
    Ok(place)
}

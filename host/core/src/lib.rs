//! The core: instances, images, storage, networks, profiles, projects, operations and the journal.
//!
//! [`Core`] is what the server translates requests to. It holds every object in memory (listings read nothing else) and
//! writes each change to the store. It knows drivers only by the traits of `hutch-driver`, and containers only by their
//! keepers.
//!
//! Architecture invariants kept here: *one owner task per instance* ([`instances`]), *every change is an operation with a
//! journal* ([`journal`], [`recovery`]), *a list never waits* ([`instances::view`]), *the project is part of every key*
//! ([`records::key`]), *who may do what is asked at one place* ([`auth`]).

pub mod auth;
pub mod error;
pub mod events;
pub mod files;
pub mod idrange;
pub mod images;
pub mod instances;
pub mod journal;
pub mod machine;
mod metrics;
pub mod names;
pub mod networks;
pub mod operations;
pub mod plugins;
pub mod pools;
pub mod prepare;
pub mod profiles;
pub mod projects;
pub mod records;
pub mod recovery;
pub mod server;
pub mod settings;
mod table;
mod turns;
mod uses;
mod warnings;

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use hutch_driver::Drivers;
use hutch_store::{Store, Transaction};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::broadcast;

pub use auth::{Access, Caller};
pub use error::{Error, Result};
pub use events::EventMessage;
pub use operations::{Operation, Socket};

use events::Events;
use idrange::IdRanges;
use images::Images;
use instances::Instances;
use journal::Journal;
use operations::Operations;
use records::{NetworkRecord, PoolRecord, ProfileRecord, ProjectRecord, RECORD_VERSION, ServerRecord, key};
use table::Table;

/// The project that is always there.
pub const DEFAULT_PROJECT: &str = hutch_api::project::DEFAULT;

/// What the daemon gives the core to work with.
pub struct Options {
    /// Everything that the daemon keeps is below it.
    pub state_dir: PathBuf,
    /// Starts containers and finds them again.
    pub runtime: hutch_container::Runtime,
    /// Where the daemons of this machine lock ranges of user ids; see [`idrange`].
    pub id_ranges: PathBuf,
    /// The drivers.
    pub drivers: Arc<dyn Drivers>,
    /// Lets go of the roots of pools that are deleted.
    pub roots: Arc<dyn pools::Roots>,
    /// The plugins, for listings.
    pub plugins: Arc<dyn plugins::PluginDirectory>,
    /// Fetches image files.
    pub downloader: Arc<dyn images::Downloader>,
    /// The store.
    pub store: Arc<dyn Store>,
}

/// A value with the tag that tells whether it changed (RFC 9110, section 8.8.3).
#[derive(Clone, Debug)]
pub struct Tagged<T> {
    /// The value.
    pub value: T,
    /// Hexadecimal, without quotes.
    pub etag: String,
}

/// See the crate.
pub struct Core {
    pub(crate) state_dir: PathBuf,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) drivers: Arc<dyn Drivers>,
    pub(crate) plugin_directory: Arc<dyn plugins::PluginDirectory>,
    pub(crate) roots: Arc<dyn pools::Roots>,
    pub(crate) downloader: Arc<dyn images::Downloader>,
    pub(crate) events: Arc<Events>,
    pub(crate) operations: Arc<Operations>,
    pub(crate) journal: Journal,
    pub(crate) runtime: hutch_container::Runtime,
    pub(crate) ids: IdRanges,
    pub(crate) server: RwLock<ServerRecord>,
    pub(crate) projects: Table<String, ProjectRecord>,
    pub(crate) profiles: Table<(String, String), ProfileRecord>,
    pub(crate) pools: Table<String, pools::Pool>,
    pub(crate) networks: Table<(String, String), networks::Network>,
    /// Subnets of networks that are being made or changed.
    pub(crate) subnets: networks::Subnets,
    pub(crate) instances: Instances,
    /// Wakes what deletes expired snapshots.
    pub(crate) expiry: Arc<instances::expiry::Expiry>,
    pub(crate) images: Images,
    pub(crate) machine: machine::Machine,
    /// Held while several objects are looked at and one is changed, and never across a driver's call.
    pub(crate) changes: tokio::sync::Mutex<()>,
    /// Trees of pools that are containers' roots.
    pub(crate) claims: Arc<pools::Claims>,
    pub(crate) warnings: warnings::Warnings,
    /// Changes of pools and networks, which wait for drivers.
    pub(crate) turns: turns::Turns,
    /// What is being made on drivers, and changes of these.
    pub(crate) uses: uses::Uses,
}

impl Core {
    /// Reads the store and brings everything back: containers that run are adopted, what was interrupted is finished or
    /// taken back. Answers can be given when this returns; pools and networks are brought up in the background, and what
    /// needs them waits for them.
    ///
    /// # Errors
    /// The store's. A plugin, pool or network that can't be used is no error: it is shown as unavailable.
    pub async fn open(options: Options) -> Result<Arc<Self>> {
        let store = options.store;
        let events = Arc::new(Events::default());
        let server = Self::load_server(store.as_ref()).await?;
        let core = Arc::new(Self {
            images: Images::open(&options.state_dir, store.as_ref()).await?,
            operations: Arc::new(Operations::new(Arc::clone(&store), Arc::clone(&events))),
            journal: Journal::new(Arc::clone(&store)),
            ids: IdRanges::open(&options.id_ranges)?,
            state_dir: options.state_dir,
            drivers: options.drivers,
            plugin_directory: options.plugins,
            roots: options.roots,
            downloader: options.downloader,
            events,
            runtime: options.runtime,
            server: RwLock::new(server),
            projects: Table::default(),
            profiles: Table::default(),
            pools: Table::default(),
            networks: Table::default(),
            subnets: networks::Subnets::default(),
            expiry: Arc::default(),
            instances: Instances::default(),
            machine: machine::Machine::read(),
            changes: tokio::sync::Mutex::new(()),
            claims: Arc::default(),
            warnings: warnings::Warnings::default(),
            turns: turns::Turns::default(),
            uses: uses::Uses::default(),
            store,
        });
        core.load_objects().await?;
        core.load_warnings().await?;
        recovery::recover(&core).await?;
        images::start(&core);
        instances::expiry::start(&core);
        Ok(core)
    }

    async fn load_server(store: &dyn Store) -> Result<ServerRecord> {
        if let Some(entry) = store.get(key::SERVER).await? {
            return serde_json::from_slice(&entry.value).map_err(|source| {
                hutch_store::StoreError::Decode {
                    key: key::SERVER.to_owned(),
                    source,
                }
                .into()
            });
        }
        let record = ServerRecord {
            v: RECORD_VERSION,
            id: hex::encode(rand::random::<[u8; 4]>()),
            config: hutch_api::Config::new(),
            prepared: false,
        };
        store.commit(Transaction::new().put(key::SERVER, &record)?).await?;
        Ok(record)
    }

    async fn load_objects(self: &Arc<Self>) -> Result<()> {
        let store = self.store.as_ref();
        for (_, record) in hutch_store::load::<ProjectRecord>(store, "project/").await? {
            self.projects.insert(record.name.clone(), Arc::new(record));
        }
        for (_, record) in hutch_store::load::<ProfileRecord>(store, "profile/").await? {
            self.profiles
                .insert((record.project.clone(), record.name.clone()), Arc::new(record));
        }
        for (_, record) in hutch_store::load::<PoolRecord>(store, "pool/").await? {
            self.pools
                .insert(record.name.clone(), Arc::new(pools::Pool::new(record)));
        }
        for (_, record) in hutch_store::load::<NetworkRecord>(store, "network/").await? {
            let at = (record.project.clone(), record.name.clone());
            self.networks.insert(at, Arc::new(networks::Network::new(record)));
        }
        self.ensure_defaults().await?;
        instances::load(self).await
    }

    /// The default project and profile, which can't be deleted.
    async fn ensure_defaults(&self) -> Result<()> {
        let mut change = Transaction::new();
        if self.projects.get(&DEFAULT_PROJECT.to_owned()).is_none() {
            let record = projects::default_project();
            change = change.put(key::project(&record.name), &record)?;
            self.projects.insert(record.name.clone(), Arc::new(record));
        }
        let at = (DEFAULT_PROJECT.to_owned(), profiles::DEFAULT.to_owned());
        if self.profiles.get(&at).is_none() {
            let record = profiles::default_profile(DEFAULT_PROJECT);
            change = change.put(key::profile(&record.project, &record.name), &record)?;
            self.profiles.insert(at, Arc::new(record));
        }
        if !change.write.is_empty() {
            self.store.commit(change).await?;
        }
        Ok(())
    }

    /// Everything that happens from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<EventMessage>> {
        self.events.subscribe()
    }

    /// Operations that run or have just ended.
    pub fn operations(&self, project: Option<&str>) -> Vec<Arc<Operation>> {
        self.operations.list(project)
    }

    /// One operation.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn operation(&self, id: &str) -> Result<Arc<Operation>> {
        self.operations.get(id)
    }

    /// Connects a websocket of an operation; see [`Socket`].
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Forbidden`] for a wrong secret.
    pub async fn operation_socket(&self, id: &str, secret: &str) -> Result<Socket> {
        self.operations.get(id)?.sockets()?.connect(secret).await
    }

    /// The short id that tells this daemon's names on the machine from another's.
    pub fn daemon_id(&self) -> String {
        self.server.read().unwrap_or_else(PoisonError::into_inner).id.clone()
    }

    /// Makes everything last through a loss of power, and closes the state: what still goes on in the background changes nothing of
    /// it any more, and is found by the next start as after a crash.
    ///
    /// # Errors
    /// The store's.
    pub async fn close(&self) -> Result<()> {
        self.uncover_idle_pools();
        self.store.close().await?;
        Ok(())
    }
}

/// The tag of an object from the parts that a client can change.
pub(crate) fn etag(parts: &Value) -> String {
    hex::encode(Sha256::digest(parts.to_string()))
}

/// Refuses a change of an object that is not what the caller saw.
pub(crate) fn check_etag(parts: &Value, if_match: Option<&str>) -> Result<()> {
    let Some(wanted) = if_match.filter(|wanted| *wanted != "*") else {
        return Ok(());
    };
    let found = etag(parts);
    if wanted == found {
        Ok(())
    } else {
        Err(Error::Changed {
            found,
            wanted: wanted.to_owned(),
        })
    }
}

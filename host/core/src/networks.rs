//! Managed networks: what they are, and how the core calls their drivers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex as StdMutex, PoisonError, RwLock};

use hutch_api::network::{Network as ApiNetwork, NetworkLease, NetworkPatch, NetworkPut, NetworkState, NetworksPost};
use hutch_driver::network::{Lease, NetworkDriver, NetworkRef, NicRef};
use hutch_driver::{Call, NetnsHandle, Options};
use hutch_store::Transaction;
use tokio::sync::{Mutex, watch};

use crate::error::{Error, Result};
use crate::journal::Entry;
use crate::pools::Readiness;
use crate::profiles::with_project;
use crate::projects::Feature;
use crate::records::{NetworkRecord, RECORD_VERSION, key};
use crate::{Core, Tagged, check_etag, etag, names, settings};

mod bring_up;
mod remove;
mod subnets;
mod undo;

pub(crate) use subnets::Subnets;

/// The key of a network's configuration that names an interface of the machine for its instances to be put on. As the name is a
/// grant, it is the configuration's author who gives it and never the driver.
const PARENT: &str = "parent";

/// A network in memory.
#[derive(Debug)]
pub struct Network {
    record: RwLock<Arc<NetworkRecord>>,
    readiness: watch::Sender<Readiness>,
    /// One call on the network itself at a time.
    pub(crate) turn: Mutex<()>,
    leases: StdMutex<BTreeSet<(String, String)>>,
}

impl Network {
    pub(crate) fn new(record: NetworkRecord) -> Self {
        Self {
            record: RwLock::new(Arc::new(record)),
            readiness: watch::Sender::new(Readiness::Opening),
            turn: Mutex::new(()),
            leases: StdMutex::default(),
        }
    }

    pub(crate) fn record(&self) -> Arc<NetworkRecord> {
        Arc::clone(&self.record.read().unwrap_or_else(PoisonError::into_inner))
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

    fn set_record(&self, record: NetworkRecord) {
        *self.record.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(record);
    }
}

/// A network with its driver, ready for calls.
pub(crate) struct OpenNetwork {
    pub(crate) record: Arc<NetworkRecord>,
    pub(crate) driver: Arc<dyn NetworkDriver>,
}

impl OpenNetwork {
    pub(crate) fn reference(&self) -> NetworkRef {
        reference(&self.record)
    }

    /// A call on the network that may touch its own interface, and put others on its parent.
    pub(crate) fn call(&self) -> Call {
        let mut call = Call::new(&self.record.project, &self.record.name);
        call.links = vec![self.record.name.clone()];
        call.parents.extend(self.record.config.get(PARENT).cloned());
        call
    }

    /// The same network with another configuration.
    fn with(&self, record: &NetworkRecord) -> Self {
        Self {
            record: Arc::new(record.clone()),
            driver: Arc::clone(&self.driver),
        }
    }

    /// A call that may touch one instance's interface, too.
    pub(crate) fn nic_call(&self, nic: &NicRef, netns: Option<NetnsHandle>) -> Call {
        let mut call = self.call();
        call.links.push(nic.host_name.clone());
        call.netns.extend(netns);
        call
    }
}

fn reference(record: &NetworkRecord) -> NetworkRef {
    NetworkRef {
        project: record.project.clone(),
        name: record.name.clone(),
        config: record.config.clone(),
    }
}

impl Core {
    /// A network that can be used; waits while it is being brought up.
    pub(crate) async fn open_network(&self, project: &str, name: &str) -> Result<OpenNetwork> {
        let network = self.find_network(project, name)?;
        if let Readiness::Unavailable(why) = network.settled().await {
            return Err(Error::Unavailable(format!("network {name} is unavailable: {why}")));
        }
        self.network_with_driver(network.record())
    }

    pub(crate) fn find_network(&self, project: &str, name: &str) -> Result<Arc<Network>> {
        let scope = self.scope(project, Feature::Networks)?;
        self.networks
            .get(&(scope, name.to_owned()))
            .ok_or_else(|| Error::missing("Network", name))
    }

    fn network_with_driver(&self, record: Arc<NetworkRecord>) -> Result<OpenNetwork> {
        let driver = self
            .drivers
            .network(&record.driver)
            .map_err(Error::driver(format!("using network {}", record.name)))?;
        Ok(OpenNetwork { record, driver })
    }

    /// Networks of a project (or all), managed ones first, and the machine's own links.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the project.
    pub async fn networks(&self, project: Option<&str>) -> Result<Vec<ApiNetwork>> {
        let scope = project
            .map(|project| self.scope(project, Feature::Networks))
            .transpose()?;
        let mut list: Vec<ApiNetwork> = self
            .networks
            .list()
            .iter()
            .filter(|network| scope.as_ref().is_none_or(|scope| network.record().project == *scope))
            .map(|network| self.render_network(network))
            .collect();
        let managed: BTreeSet<String> = self
            .networks
            .list()
            .iter()
            .map(|network| network.record().name.clone())
            .collect();
        let hidden = self.instances.host_interfaces();
        for link in self.machine.links().await? {
            if !managed.contains(&link.name) && !hidden.contains(&link.name) {
                list.push(unmanaged(&link.name, &link.kind));
            }
        }
        Ok(list)
    }

    /// One network, or a link of the machine.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn network(&self, project: &str, name: &str) -> Result<Tagged<ApiNetwork>> {
        let value = match self.find_network(project, name) {
            Ok(network) => self.render_network(&network),
            Err(missing) => match self.machine.link(name).await? {
                Some(link) => unmanaged(&link.name, &link.kind),
                None => return Err(missing),
            },
        };
        Ok(Tagged {
            etag: etag(&value.etag_parts()),
            value,
        })
    }

    /// Makes a network and brings it up.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::Conflict`] also for subnets that overlap with another network's, and the driver's.
    pub async fn network_create(&self, project: &str, post: NetworksPost) -> Result<()> {
        names::network(&post.name)?;
        let project = self.scope(project, Feature::Networks)?;
        let driver = if post.kind.is_empty() {
            self.default_driver("network")?
        } else {
            post.kind
        };
        let _use = self.uses.begin("network", &driver).await;
        let action = format!("creating network {}", post.name);
        let mut record = NetworkRecord {
            v: RECORD_VERSION,
            project,
            name: post.name,
            driver,
            description: post.description,
            config: settings::pruned(post.config),
        };
        let open = self
            .network_with_driver(Arc::new(record.clone()))
            .map_err(Error::of_request)?;
        let completed = open
            .driver
            .validate(&open.call(), &reference(&record), None)
            .await
            .map_err(Error::driver(&action))?;
        record.config = with_own_parent(&record, completed)?;
        let _turn = self.turns.take(&turn(&record.name)).await;
        self.finish_network_undo(&record.name).await?;
        let at = (record.project.clone(), record.name.clone());
        // The interface's name is the machine's, so no two projects can have it.
        if self.network_is_known(&record.name) || self.machine.link(&record.name).await?.is_some() {
            return Err(Error::Conflict(format!("Network {:?} already exists", record.name)));
        }
        let claim = self.subnets.claim(&record, &self.networks)?;
        let entry = Entry::NetworkCreate {
            project: record.project.clone(),
            name: record.name.clone(),
            driver: record.driver.clone(),
            config: record.config.clone(),
        };
        let entry = self.journal.begin("", entry).await?;
        let open = OpenNetwork {
            record: Arc::new(record.clone()),
            driver: open.driver,
        };
        if let Err(error) = open.driver.start(&open.call(), &open.reference()).await {
            self.give_network_up(entry, &record).await?;
            return Err(Error::driver(&action)(error));
        }
        self.journal.step(&entry, "network");
        self.journal
            .done(
                entry,
                Transaction::new().put(key::network(&record.project, &record.name), &record)?,
            )
            .await?;
        let path = network_path(&record);
        let network = Network::new(record);
        network.readiness.send_replace(Readiness::Ready);
        self.networks.insert(at.clone(), Arc::new(network));
        drop(claim);
        self.events
            .lifecycle(&at.0, "network-created", &path, serde_json::Map::new());
        Ok(())
    }

    /// Replaces a network's configuration, also while instances are connected.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Changed`], [`Error::Conflict`] as for [`Core::network_create`], and the driver's.
    pub async fn network_update(
        self: &Arc<Self>,
        project: &str,
        name: &str,
        put: NetworkPut,
        if_match: Option<&str>,
    ) -> Result<()> {
        let network = self.find_network(project, name)?;
        // Before the turn is taken: whoever brings the network up needs it.
        let readiness = network.settled().await;
        let turn = network.turn.lock().await;
        if !self.has_network(&network) {
            return Err(Error::missing("Network", name));
        }
        check_etag(&self.render_network(&network).etag_parts(), if_match)?;
        let action = format!("changing network {name}");
        let open = self.network_with_driver(network.record())?;
        let mut record = NetworkRecord {
            config: settings::pruned(put.config),
            description: put.description,
            ..NetworkRecord::clone(&open.record)
        };
        let current = &open.record.config;
        let completed = open
            .driver
            .validate(&open.with(&record).call(), &reference(&record), Some(current))
            .await
            .map_err(Error::driver(&action))?;
        record.config = with_own_parent(&record, completed)?;
        let wanted = open.with(&record);
        let _claim = self.subnets.claim(&record, &self.networks)?;
        // One that could not be brought up has nothing to change yet.
        if record.config != *current
            && readiness == Readiness::Ready
            && let Err(error) = open.driver.update(&wanted.call(), &wanted.reference(), current).await
        {
            // The network is what its record says: back to that.
            if let Err(error) = open
                .driver
                .update(&open.call(), &open.reference(), &record.config)
                .await
            {
                tracing::error!(network = name, %error, "the old configuration could not be brought back");
            }
            return Err(Error::driver(&action)(error));
        }
        self.store
            .commit(Transaction::new().put(key::network(&record.project, name), &record)?)
            .await?;
        let path = network_path(&record);
        let owner = record.project.clone();
        network.set_record(record);
        self.events
            .lifecycle(&owner, "network-updated", &path, serde_json::Map::new());
        drop(turn);
        if readiness != Readiness::Ready {
            // The change may be what it was waiting for; if not, the reason is shown with the network.
            self.retry_network(&network).await?;
        }
        Ok(())
    }

    /// Changes some of a network's configuration.
    ///
    /// # Errors
    /// As [`Core::network_update`].
    pub async fn network_patch(
        self: &Arc<Self>,
        project: &str,
        name: &str,
        patch: NetworkPatch,
        if_match: Option<&str>,
    ) -> Result<()> {
        let current = self.render_network(&*self.find_network(project, name)?);
        check_etag(&current.etag_parts(), if_match)?;
        let mut put = current.to_put();
        patch.apply(&mut put);
        self.network_update(project, name, put, Some(&etag(&current.etag_parts())))
            .await
    }

    /// The state of a network's interface, or of a link of the machine.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn network_state(&self, project: &str, name: &str) -> Result<NetworkState> {
        if let Ok(network) = self.find_network(project, name) {
            let mut state = self.machine.network_state(name).await?.unwrap_or_default();
            state.kind = if state.kind.is_empty() {
                network.record().driver.clone()
            } else {
                state.kind
            };
            return Ok(state);
        }
        self.machine
            .network_state(name)
            .await?
            .ok_or_else(|| Error::missing("Network", name))
    }

    /// Addresses that a network gave out, for the instances of `project`.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`] for a driver that has no leases, and the driver's.
    pub async fn network_leases(&self, project: &str, name: &str) -> Result<Vec<NetworkLease>> {
        let record = self.find_network(project, name)?.record();
        let leases = self.fetch_leases(&record).await?;
        let rendered = leases.into_iter().map(|lease| NetworkLease {
            hostname: lease.hostname,
            hwaddr: lease.hwaddr,
            address: lease.address,
            kind: lease.kind,
            location: "none".to_owned(),
            project: record.project.clone(),
        });
        Ok(rendered.collect())
    }

    async fn fetch_leases(&self, record: &NetworkRecord) -> Result<Vec<Lease>> {
        let open = self.open_network(&record.project, &record.name).await?;
        if !open.driver.info().can("lease") {
            return Err(Error::invalid(format!(
                "Network {:?} does not support leases",
                record.name
            )));
        }
        let nics = self.instances.nics(self, &record.project, &record.name, false);
        open.driver
            .leases(&open.call(), &open.reference(), &nics)
            .await
            .map_err(Error::driver(format!("listing the leases of network {}", record.name)))
    }

    /// A driver said that a network's leases changed: what is new becomes an event.
    pub(crate) async fn leases_changed(&self, project: &str, name: &str) {
        let Some(network) = self.networks.get(&(project.to_owned(), name.to_owned())) else {
            return;
        };
        let record = network.record();
        let leases = match self.fetch_leases(&record).await {
            Ok(leases) => leases,
            Err(error) => {
                tracing::warn!(network = name, error = error.report(), "the leases can't be read");
                return;
            }
        };
        let dynamic: BTreeMap<(String, String), Lease> = leases
            .into_iter()
            .filter(|lease| lease.kind == "dynamic")
            .map(|lease| ((lease.hwaddr.clone(), lease.address.clone()), lease))
            .collect();
        let fresh: Vec<Lease> = {
            let mut known = network.leases.lock().unwrap_or_else(PoisonError::into_inner);
            let fresh = dynamic
                .iter()
                .filter(|(at, _)| !known.contains(*at))
                .map(|(_, lease)| lease.clone())
                .collect();
            *known = dynamic.into_keys().collect();
            fresh
        };
        for lease in fresh {
            let context =
                serde_json::json!({"hostname": lease.hostname, "hwaddr": lease.hwaddr, "address": lease.address});
            let context = context.as_object().cloned().unwrap_or_default();
            self.events
                .lifecycle(project, "network-lease-created", &network_path(&record), context);
        }
    }

    fn network_users(&self, record: &NetworkRecord) -> Vec<String> {
        let mut users: Vec<String> = self
            .instances
            .using_network(self, &record.project, &record.name)
            .iter()
            .map(|instance| with_project(format!("/1.0/instances/{}", instance.name()), &instance.project()))
            .collect();
        for profile in self.profiles.list() {
            if profile
                .devices
                .values()
                .any(|device| crate::instances::devices::network_of(device) == Some(&record.name))
            {
                users.push(crate::profiles::path(&profile.project, &profile.name));
            }
        }
        users
    }

    /// Whether a network can be used now: it was brought up, and its driver is still there.
    pub(crate) fn network_condition(&self, network: &Network) -> Readiness {
        let readiness = network.readiness();
        match (&readiness, self.drivers.network(&network.record().driver)) {
            (Readiness::Ready, Err(error)) => Readiness::Unavailable(error.to_string()),
            _ => readiness,
        }
    }

    fn render_network(&self, network: &Network) -> ApiNetwork {
        let record = network.record();
        let readiness = self.network_condition(network);
        let description = match &readiness {
            Readiness::Unavailable(why) if record.description.is_empty() => format!("unavailable: {why}"),
            _ => record.description.clone(),
        };
        ApiNetwork {
            name: record.name.clone(),
            description,
            kind: record.driver.clone(),
            managed: true,
            status: readiness.status().to_owned(),
            config: record.config.clone(),
            used_by: self.network_users(&record),
            locations: vec!["none".to_owned()],
            project: record.project.clone(),
        }
    }
}

/// What a driver made of the configuration in `given`, unless it names a parent that its author did not.
fn with_own_parent(given: &NetworkRecord, completed: Options) -> Result<Options> {
    if completed.get(PARENT) == given.config.get(PARENT) {
        return Ok(completed);
    }
    Err(Error::Invalid(format!(
        "the driver {:?} of network {} changed the key {PARENT:?}, which only the author of a network's configuration may set",
        given.driver, given.name
    )))
}

/// Whose turn a change of a network of this name takes, in whatever project: the interface is the machine's.
fn turn(name: &str) -> String {
    format!("network {name}")
}

fn network_path(record: &NetworkRecord) -> String {
    with_project(format!("/1.0/networks/{}", record.name), &record.project)
}

fn unmanaged(name: &str, kind: &str) -> ApiNetwork {
    ApiNetwork {
        name: name.to_owned(),
        kind: kind.to_owned(),
        project: crate::DEFAULT_PROJECT.to_owned(),
        ..ApiNetwork::default()
    }
}

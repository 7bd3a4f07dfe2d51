//! Instances.
//!
//! Each instance has one owner task ([`owner::Owner`]); everybody else holds an [`Instance`], which reads the published
//! [`view::View`] and sends the owner jobs. Only the owner changes the record, the container and the view.
//!
//! ```text
//!              create ─────► Stopped ──start──► Running ◄──thaw── Frozen
//!                              ▲  │                │ ──freeze──►   │
//!                              │ delete            │               │
//!                              └──── stop, halt, crash ◄───────────┘
//! ```

pub mod console;
mod copying;
pub mod create;
pub mod devices;
pub mod exec;
pub(crate) mod expiry;
mod history;
pub(crate) mod live;
mod making;
pub mod metadata;
pub mod owner;
mod rebuild;
mod references;
mod refresh;
pub(crate) mod release;
mod relocate;
mod remove;
mod rename;
mod restore;
pub(crate) mod settle;
pub mod snapshots;
pub mod spec;
pub mod start;
pub mod state;
pub mod stop;
pub(crate) mod templates;
pub mod update;
pub mod view;
pub(crate) mod volatile;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};

use hutch_api::Timestamp;
use hutch_driver::network::NicRef;
use hutch_driver::storage::VolumeState;
use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot};

use crate::error::{Error, Result};
use crate::profiles::with_project;
use crate::records::{InstanceRecord, SnapshotRecord, volume_name};
use crate::table::Table;
use crate::{Core, auth};

use owner::Owner;
use view::View;

/// Work for an owner. It runs when the jobs before it are done.
pub(crate) type Job = Box<dyn for<'a> FnOnce(&'a mut Owner) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> + Send>;

/// What an owner will answer.
pub(crate) type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// How many jobs may wait for an owner; one more is refused, so that a stuck instance can't take the daemon's memory.
const QUEUE: usize = 64;

/// An instance as everybody but its owner has it.
pub struct Instance {
    view: RwLock<Arc<View>>,
    jobs: mpsc::Sender<Job>,
    /// What keeps its root from being another's, while it is mounted.
    claim: std::sync::Mutex<Option<crate::pools::Claim>>,
    /// Its root being let go, and who does not wait for that.
    release: Arc<release::Release>,
}

impl Instance {
    /// What was last published.
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn publish(&self, view: View) {
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
    }

    /// Keeps what says that its root is mounted, or lets go of it.
    pub(crate) fn hold(&self, claim: Option<crate::pools::Claim>) {
        *self.claim.lock().unwrap_or_else(PoisonError::into_inner) = claim;
    }

    /// Whether something says that its root is mounted.
    pub(crate) fn holds(&self) -> bool {
        self.claim.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Its name.
    pub fn name(&self) -> String {
        self.view().record.name.clone()
    }

    /// Its project.
    pub fn project(&self) -> String {
        self.view().record.project.clone()
    }

    /// Has the owner do `job` and returns what it answers. Nothing is done with an instance that is being made.
    pub(crate) async fn ask<T, J>(&self, job: J) -> Result<T>
    where
        T: Send + 'static,
        J: for<'a> FnOnce(&'a mut Owner) -> Answer<'a, T> + Send + 'static,
    {
        if self.view().creating {
            return Err(Error::Conflict(format!(
                "Instance {:?} is busy: it is being created",
                self.name()
            )));
        }
        self.order(job).await
    }

    /// [`Instance::ask`], also while the instance is being made.
    async fn order<T, J>(&self, job: J) -> Result<T>
    where
        T: Send + 'static,
        J: for<'a> FnOnce(&'a mut Owner) -> Answer<'a, T> + Send + 'static,
    {
        let (job, wait) = packed(job);
        self.jobs.try_send(job).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Error::Unavailable(format!(
                "instance {} is busy: {QUEUE} requests are waiting for it",
                self.name()
            )),
            mpsc::error::TrySendError::Closed(_) => Error::missing("Instance", self.name()),
        })?;
        wait.await.map_err(|_| Error::missing("Instance", self.name()))?
    }

    /// Has the owner do what ends something that it has begun, however many requests wait for it.
    pub(crate) async fn insist<T, J>(&self, job: J) -> Result<T>
    where
        T: Send + 'static,
        J: for<'a> FnOnce(&'a mut Owner) -> Answer<'a, T> + Send + 'static,
    {
        let (job, wait) = packed(job);
        let gone = || Error::missing("Instance", self.name());
        self.jobs.send(job).await.map_err(|_| gone())?;
        wait.await.map_err(|_| gone())?
    }

    /// A profile that it uses changed. One that is being made will see that by itself.
    ///
    /// # Errors
    /// Why a running container could not take it.
    pub(crate) async fn profiles_changed(&self) -> Result<()> {
        if self.view().creating {
            return Ok(());
        }
        match self
            .ask(|owner| Box::pin(async move { owner.profiles_changed().await }))
            .await
        {
            // It has been deleted meanwhile.
            Err(Error::NotFound(_) | Error::Missing { .. }) => Ok(()),
            other => other,
        }
    }
}

/// A job for the caller of this moment, and its answer.
fn packed<T, J>(job: J) -> (Job, oneshot::Receiver<Result<T>>)
where
    T: Send + 'static,
    J: for<'a> FnOnce(&'a mut Owner) -> Answer<'a, T> + Send + 'static,
{
    let (answer, wait) = oneshot::channel();
    let caller = auth::current();
    let job: Job = Box::new(move |owner| {
        Box::pin(async move {
            // Whoever asked may have gone; the job was done all the same.
            let _ = answer.send(auth::on_behalf_of(caller, job(owner)).await);
        })
    });
    (job, wait)
}

/// All instances.
#[derive(Default)]
pub struct Instances {
    table: Table<(String, String), Instance>,
}

impl Instances {
    /// One of them.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn get(&self, project: &str, name: &str) -> Result<Arc<Instance>> {
        self.table
            .get(&(project.to_owned(), name.to_owned()))
            .filter(|instance| instance.view().record.name == name)
            .ok_or_else(|| Error::missing("Instance", name))
    }

    /// All of a project, or all there are, by project and name. A name that one is about to get only holds its place.
    pub fn list(&self, project: Option<&str>) -> Vec<Arc<Instance>> {
        self.table.list_where(|(owner, name), instance| {
            project.is_none_or(|project| project == owner) && instance.view().record.name == *name
        })
    }

    pub(crate) fn remove(&self, project: &str, name: &str) {
        self.table.remove(&(project.to_owned(), name.to_owned()));
    }

    /// Enters an instance under a name, unless that is taken.
    pub(crate) fn enter(&self, project: &str, name: &str, instance: Arc<Instance>) -> Result<()> {
        if self.table.claim((project.to_owned(), name.to_owned()), instance) {
            Ok(())
        } else {
            Err(Error::Conflict(format!("Instance {name:?} already exists")))
        }
    }

    /// Paths of a project's instances.
    pub(crate) fn paths(&self, project: &str) -> Vec<String> {
        self.list(Some(project))
            .iter()
            .map(|instance| format!("/1.0/instances/{}", instance.name()))
            .collect()
    }

    pub(crate) fn using_profile(&self, project: &str, profile: &str) -> Vec<Arc<Instance>> {
        let mut list = self.list(None);
        list.retain(|instance| {
            let view = instance.view();
            view.profile_project == project && view.record.profiles.iter().any(|name| name == profile)
        });
        list
    }

    pub(crate) fn using_network(&self, core: &Core, project: &str, network: &str) -> Vec<Arc<Instance>> {
        let mut list = self.list(None);
        list.retain(|instance| {
            let view = instance.view();
            view.devices
                .values()
                .any(|device| devices::network_of(device).is_some_and(|name| name == network))
                && core
                    .scope(&view.record.project, crate::projects::Feature::Networks)
                    .is_ok_and(|scope| scope == project)
        });
        list
    }

    /// Interfaces of instances in a network, of those that run or of all. One whose keeper does not answer may run.
    pub(crate) fn nics(&self, core: &Core, project: &str, network: &str, running: bool) -> Vec<NicRef> {
        let mut nics = Vec::new();
        for instance in self.using_network(core, project, network) {
            let view = instance.view();
            if running && view.keeper.is_none() && view.broken.is_none() {
                continue;
            }
            nics.extend(
                devices::nics(&view.record, &view.devices)
                    .into_iter()
                    .filter(|nic| nic.network == network)
                    .map(|nic| nic.reference),
            );
        }
        nics
    }

    /// Names of the host's ends of all interfaces.
    pub(crate) fn host_interfaces(&self) -> std::collections::BTreeSet<String> {
        self.list(None)
            .iter()
            .flat_map(|instance| {
                let view = instance.view();
                devices::nics(&view.record, &view.devices)
                    .into_iter()
                    .map(|nic| nic.reference.host_name)
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    /// Volumes of instances that belong in a pool.
    pub(crate) fn volumes(&self, pool: &str) -> Vec<VolumeState> {
        let views = self.list(None).into_iter().map(|instance| instance.view());
        views
            .filter(|view| view.record.pool == pool)
            .map(|view| VolumeState {
                kind: view.record.kind.clone(),
                name: volume_name(&view.record.project, &view.record.name),
                snapshots: view.snapshots.iter().map(|snapshot| snapshot.name.clone()).collect(),
            })
            .collect()
    }

    /// Project, name, kind and age of the instances in a pool.
    pub(crate) fn in_pool(&self, pool: &str) -> Vec<(String, String, String, Timestamp)> {
        let views = self.list(None).into_iter().map(|instance| instance.view());
        views
            .filter(|view| view.record.pool == pool)
            .map(|view| {
                let record = &view.record;
                (
                    record.project.clone(),
                    record.name.clone(),
                    record.kind.clone(),
                    record.created_at,
                )
            })
            .collect()
    }
}

impl Core {
    /// An event about an instance from elsewhere than its owner: it is not changed.
    pub(crate) fn tell_of_instance(&self, project: &str, name: &str, action: &str, context: Map<String, Value>) {
        let path = with_project(format!("/1.0/instances/{name}"), project);
        self.events.lifecycle(project, action, &path, context);
    }
}

/// Enters an instance with this view, and starts its owner.
fn enter_new(core: &Arc<Core>, project: &str, name: &str, view: View) -> Result<Arc<Instance>> {
    let (jobs, inbox) = mpsc::channel(QUEUE);
    let instance = Arc::new(Instance {
        view: RwLock::new(Arc::new(view)),
        jobs,
        claim: std::sync::Mutex::new(None),
        release: Arc::default(),
    });
    core.instances.enter(project, name, Arc::clone(&instance))?;
    tokio::spawn(Owner::new(Arc::clone(core), Arc::clone(&instance)).run(inbox));
    Ok(instance)
}

/// Reads all instances from the store.
pub(crate) async fn load(core: &Arc<Core>) -> Result<()> {
    let mut snapshots: BTreeMap<(String, String), Vec<Arc<SnapshotRecord>>> = BTreeMap::new();
    for (_, record) in hutch_store::load::<SnapshotRecord>(core.store.as_ref(), "snapshot/").await? {
        let at = (record.instance.project.clone(), record.instance.name.clone());
        snapshots.entry(at).or_default().push(Arc::new(record));
    }
    for (_, record) in hutch_store::load::<InstanceRecord>(core.store.as_ref(), "instance/").await? {
        let at = (record.project.clone(), record.name.clone());
        let mut own = snapshots.remove(&at).unwrap_or_default();
        own.sort_by_key(|a| a.created_at);
        let view = View::stopped(core, Arc::new(record), own);
        enter_new(core, &at.0, &at.1, view)?;
    }
    Ok(())
}

//! `hutch:host/watch`: events from drivers to the core, also while no instance of the driver lives.
//!
//! Watched files are written down, so that a daemon that is started again goes on where the last one was killed. Changes
//! within a short time are told once: a program that writes a file in pieces changes it often.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hutch_driver::{DriverError, DriverEvent};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;
use tokio::sync::broadcast;

use crate::error::{internal, io, os};
use crate::fs::tree::{blocking, check_path};
use crate::host::check_name;
use crate::service::{ServiceId, Services};
use crate::{CallContext, Request, Response};

/// Version of the list's format.
const FORMAT: u32 = 1;
/// Most watched files: the list is written as a whole.
const MAX_WATCHES: usize = 10_000;
/// How long after a change others are waited for.
const GATHER: Duration = Duration::from_millis(50);

/// A watched file and what its change means.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Watched {
    /// The service's id.
    service: String,
    /// Relative to its directory.
    path: String,
    family: String,
    project: String,
    object: String,
    topic: String,
}

impl Watched {
    fn event(&self) -> DriverEvent {
        DriverEvent {
            family: self.family.clone(),
            project: self.project.clone(),
            object: self.object.clone(),
            topic: self.topic.clone(),
        }
    }

    /// The directory that is watched and the file's name in it: a file that is replaced as a whole is another one.
    fn place(&self, services: &Services) -> (PathBuf, String) {
        let dir = services.dir(&ServiceId {
            id: self.service.clone(),
        });
        match self.path.rsplit_once('/') {
            Some((above, name)) => (dir.join(above), name.to_owned()),
            None => (dir, self.path.clone()),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    format: u32,
    watches: BTreeSet<Watched>,
}

/// Files that are watched.
#[derive(Debug)]
pub(crate) struct Watches {
    shared: Arc<Shared>,
    events: broadcast::Sender<DriverEvent>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    list_path: PathBuf,
    services: Arc<Services>,
    inotify: AsyncFd<OwnedFd>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    watches: BTreeSet<Watched>,
    /// What the kernel's numbers of watched directories stand for.
    directories: HashMap<i32, PathBuf>,
}

impl Watches {
    /// Goes on with what the list says, and begins to tell.
    ///
    /// # Errors
    /// `io` where the list can't be read or the kernel has no room for an inotify instance; `unavailable` for a list of a
    /// newer version or with what no version writes.
    pub(crate) fn open(
        state_dir: &Path,
        services: Arc<Services>,
        events: broadcast::Sender<DriverEvent>,
    ) -> Result<Self, DriverError> {
        let list_path = state_dir.join("watches.json");
        let watches = read_list(&list_path)?;
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(|e| os("can't watch files", e))?;
        #[expect(
            deprecated,
            reason = "unsound for what may close its descriptor by itself, which an OwnedFd does not"
        )]
        let inotify = AsyncFd::new(fd).map_err(|e| io("can't watch files", &e))?;
        let shared = Arc::new(Shared {
            list_path,
            services,
            inotify,
            state: Mutex::default(),
        });
        for watched in watches {
            // The directory of a service that was removed while the daemon was down is gone, and with it the watch.
            match shared.arm(&watched) {
                Err(e) if e.is("not-found") => {}
                // Nothing else of the daemon's depends on it: its driver asks again when its network starts.
                Err(e) => tracing::warn!("a file of a service is not watched: {e}"),
                Ok(()) => {}
            }
        }
        let task = tokio::spawn(run(Arc::clone(&shared), events.clone()));
        Ok(Self { shared, events, task })
    }

    /// Does a `watch` request.
    pub(crate) async fn call(&self, cx: &CallContext, request: Request) -> Result<Response, DriverError> {
        cx.subject.granter().watch()?;
        match request {
            Request::WatchChanged { topic } => {
                check_name("the topic", &topic)?;
                let (family, project, object) = (
                    cx.subject.family.clone(),
                    cx.call.project.clone(),
                    cx.call.object.clone(),
                );
                // Without a subscriber nobody wants to know, which is no error.
                let _ = self.events.send(DriverEvent {
                    family,
                    project,
                    object,
                    topic,
                });
                Ok(Response::Unit)
            }
            Request::WatchServiceFile { service, path, topic } => {
                check_name("the topic", &topic)?;
                check_path(&path)?;
                let watched = Watched {
                    service: ServiceId::of(cx, &service)?.id,
                    path,
                    family: cx.subject.family.clone(),
                    project: cx.call.project.clone(),
                    object: cx.call.object.clone(),
                    topic,
                };
                let shared = Arc::clone(&self.shared);
                blocking(move || shared.add(watched)).await.map(|()| Response::Unit)
            }
            other => Err(internal(format!("{} is not a function of watch", other.function()))),
        }
    }

    /// Forgets the files of a service that was removed.
    ///
    /// # Errors
    /// `io` where the list can't be written.
    pub(crate) async fn forget(&self, service: ServiceId) -> Result<(), DriverError> {
        let shared = Arc::clone(&self.shared);
        blocking(move || shared.forget(&service)).await
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, watched: Watched) -> Result<(), DriverError> {
        {
            let state = self.state();
            if !state.watches.contains(&watched) && state.watches.len() >= MAX_WATCHES {
                return Err(DriverError::new(
                    "limit",
                    format!("{MAX_WATCHES} files are watched already"),
                ));
            }
        }
        self.arm(&watched)?;
        let state = self.state();
        write_list(&self.list_path, &state.watches)
    }

    /// Has the kernel tell of changes in the directory. Asking again for the same directory gives the same number.
    fn arm(&self, watched: &Watched) -> Result<(), DriverError> {
        let (dir, _) = watched.place(&self.services);
        let flags = WatchFlags::MODIFY
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::ONLYDIR;
        let mut state = self.state();
        let number =
            inotify::add_watch(self.inotify.get_ref(), &dir, flags | WatchFlags::DONT_FOLLOW).map_err(|e| {
                os(
                    format_args!("can't watch {} of the service {}", watched.path, watched.service),
                    e,
                )
            })?;
        state.directories.insert(number, dir);
        state.watches.insert(watched.clone());
        Ok(())
    }

    fn forget(&self, service: &ServiceId) -> Result<(), DriverError> {
        let mut state = self.state();
        let before = state.watches.len();
        state.watches.retain(|watched| watched.service != service.id);
        if state.watches.len() == before {
            return Ok(());
        }
        // The kernel's watches went with the directory, of which it says so.
        write_list(&self.list_path, &state.watches)
    }

    /// Which files the waiting events are about.
    fn read_events(&self, changed: &mut BTreeSet<Watched>) -> Result<(), Errno> {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(self.inotify.get_ref(), &mut buffer);
        loop {
            let event = match reader.next() {
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => continue,
                other => other?,
            };
            let mut state = self.state();
            if event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW) {
                changed.extend(state.watches.iter().cloned());
            } else if event.events().contains(inotify::ReadFlags::IGNORED) {
                state.directories.remove(&event.wd());
            } else if let (Some(dir), Some(name)) = (state.directories.get(&event.wd()), event.file_name()) {
                let of = |watched: &&Watched| {
                    let (at, file) = watched.place(&self.services);
                    &at == dir && file.as_bytes() == name.to_bytes()
                };
                changed.extend(state.watches.iter().filter(of).cloned());
            }
        }
    }
}

async fn run(shared: Arc<Shared>, events: broadcast::Sender<DriverEvent>) {
    loop {
        let mut changed = BTreeSet::new();
        loop {
            let Ok(mut ready) = shared.inotify.readable().await else {
                return;
            };
            if let Err(e) = shared.read_events(&mut changed) {
                tracing::error!("can't read which watched files changed: {e}");
                return;
            }
            ready.clear_ready();
            if !changed.is_empty() {
                break;
            }
        }
        tokio::time::sleep(GATHER).await;
        if let Err(e) = shared.read_events(&mut changed) {
            tracing::error!("can't read which watched files changed: {e}");
            return;
        }
        let mut sent: Vec<DriverEvent> = Vec::new();
        for event in changed.iter().map(Watched::event) {
            if !sent.contains(&event) {
                let _ = events.send(event.clone());
                sent.push(event);
            }
        }
    }
}

fn read_list(path: &Path) -> Result<BTreeSet<Watched>, DriverError> {
    let text = match std::fs::read(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        other => other.map_err(|e| io(format_args!("can't read {}", path.display()), &e))?,
    };
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let Ok(Format { format }) = serde_json::from_slice(&text) else {
        // It is not flushed to the disk, so a lost power supply may leave anything; drivers ask for their watches again.
        tracing::warn!("{} can't be understood and is begun anew", path.display());
        return Ok(BTreeSet::new());
    };
    if format > FORMAT {
        return Err(DriverError::new(
            "unavailable",
            format!(
                "{} was written by a newer version (format {format}, known up to {FORMAT})",
                path.display()
            ),
        ));
    }
    serde_json::from_slice::<List>(&text)
        .map(|list| list.watches)
        .map_err(|e| DriverError::new("unavailable", format!("{} can't be understood: {e}", path.display())))
}

fn write_list(path: &Path, watches: &BTreeSet<Watched>) -> Result<(), DriverError> {
    #[derive(Serialize)]
    struct Written<'a> {
        format: u32,
        watches: &'a BTreeSet<Watched>,
    }
    let fail = |e: &std::io::Error| io(format_args!("can't write {}", path.display()), e);
    let text = serde_json::to_vec(&Written {
        format: FORMAT,
        watches,
    })
    .map_err(|e| internal(format!("can't write watches: {e}")))?;
    let new = path.with_extension("json.new");
    // Not flushed to the disk: after a lost power supply drivers set their watches again when their networks start.
    std::fs::write(&new, text).map_err(|e| fail(&e))?;
    std::fs::rename(&new, path).map_err(|e| fail(&e))
}

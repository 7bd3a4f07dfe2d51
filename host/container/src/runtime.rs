//! Starting keepers and finding those that live.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::io::Interest;
use tokio::task::JoinSet;

use crate::apparmor::{AppArmor, AppArmorSupport};
use crate::client::Keeper;
use crate::connection::watched;
use crate::devices::{DeviceControl, DeviceSupport};
use crate::limits::Limits;
use crate::link::Link;
use crate::protocol::{HELD_FD, LISTEN_FD, SPEC_FD};
use crate::services::{Service, ServiceSpec};
use crate::spec::{ContainerSpec, check_file_name};
use crate::{CGROUP_PARENT, Error, place};

/// Where keepers come from and where they are found again.
#[derive(Debug, Clone)]
pub struct Runtime {
    keeper_binary: PathBuf,
    run_dir: PathBuf,
    devices: DeviceSupport,
    apparmor: AppArmor,
    unavailable_limits: Option<String>,
}

/// How long a start of the daemon goes on waiting when no keeper answers. They answer at once, or something is wrong with them.
const SILENCE: Duration = Duration::from_secs(2);

/// What became of a container that had a keeper before the daemon was restarted.
#[derive(Debug)]
#[non_exhaustive]
pub enum AdoptOutcome {
    /// Its keeper lives.
    Adopted(Keeper),
    /// Its keeper is dead; what it held has been killed and removed.
    Dead,
    /// Its keeper lives and can't be talked to.
    Failed(Error),
}

/// What [`Runtime::adopt`] found.
#[derive(Debug)]
pub struct Adopted {
    /// By the containers' ids, in any order.
    pub found: Vec<(String, AdoptOutcome)>,
    /// Those that have not answered yet.
    pub late: LateKeepers,
}

/// Keepers that have not answered: stopped by somebody, or waiting for a disk that does not answer.
#[derive(Debug, Default)]
pub struct LateKeepers {
    ids: BTreeSet<String>,
    tasks: JoinSet<(String, AdoptOutcome)>,
}

impl LateKeepers {
    /// The containers' ids.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.ids.iter().map(String::as_str)
    }

    /// Waits, for as long as it takes, for one of them; `None` when there are no more.
    pub async fn next(&mut self) -> Option<(String, AdoptOutcome)> {
        // A task that panicked is named by what is left when the others are through.
        while let Some(done) = self.tasks.join_next().await {
            if let Ok((id, outcome)) = done {
                self.ids.remove(&id);
                return Some((id, outcome));
            }
        }
        let id = self.ids.pop_first()?;
        let what = "and the daemon failed at its answer".to_owned();
        Some((id.clone(), AdoptOutcome::Failed(Error::Protocol { id, what })))
    }
}

/// Roles of the keeper's program, its first argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Container,
    Service,
    Files,
}

impl Role {
    fn argument(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Service => "service",
            Self::Files => "files",
        }
    }

    /// What the names of its socket and its specification end with.
    fn suffix(self) -> &'static str {
        match self {
            Self::Container => "keeper",
            Self::Service => "service",
            Self::Files => "files",
        }
    }
}

impl Runtime {
    /// A runtime with this keeper program and this directory for sockets, which is made when it is missing (0700). In one that is
    /// a copy of another the containers are forgotten: they are the other's.
    ///
    /// # Errors
    /// [`Error::Io`] when the directory can't be made, read or written.
    pub fn new(keeper_binary: impl Into<PathBuf>, run_dir: impl Into<PathBuf>) -> Result<Self, Error> {
        let (keeper_binary, run_dir) = (keeper_binary.into(), run_dir.into());
        let mut builder = std::fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        if let Err(error) = builder.recursive(true).create(&run_dir) {
            return Err(Error::io("making", run_dir, error));
        }
        let this = Self {
            keeper_binary,
            devices: DeviceSupport::probe(),
            apparmor: AppArmor::probe(run_dir.join("apparmor")),
            run_dir,
            unavailable_limits: Limits::unavailable(),
        };
        let failed = |error| Error::io("looking whose is", &this.run_dir, error);
        if place::is_copy(&this.run_dir).map_err(failed)? {
            for id in this.ids(Role::Container)? {
                tracing::warn!(
                    id,
                    "a container is another daemon's, of whose state this one's is a copy"
                );
                this.record(Role::Container, &id).remove()?;
            }
        }
        place::mark(&this.run_dir).map_err(failed)?;
        Ok(this)
    }

    /// How containers are kept from devices that are not theirs.
    #[must_use]
    pub const fn device_support(&self) -> &DeviceSupport {
        &self.devices
    }

    /// Whether containers get profiles of AppArmor.
    #[must_use]
    pub const fn apparmor_support(&self) -> &AppArmorSupport {
        &self.apparmor.support
    }

    /// Loads the profiles that containers get, so that the first one does not wait for it.
    ///
    /// # Errors
    /// [`Error::Io`] when the profiles can't be given to the kernel, which the start of each container tells as well.
    pub async fn load_profiles(&self) -> Result<(), Error> {
        self.apparmor.prepare().await
    }

    /// Which limits can't be set on this machine, as it was when the daemon started ([`Limits::unavailable`]).
    #[must_use]
    pub fn unavailable_limits(&self) -> Option<&str> {
        self.unavailable_limits.as_deref()
    }

    /// The same runtime, with other means to keep containers from devices: for tests of what this machine does not need.
    #[must_use]
    pub fn with_device_control(mut self, control: DeviceControl) -> Self {
        self.devices.control = control;
        self
    }

    /// Starts a keeper that makes the container's user and network namespaces and its cgroup, and is ready for
    /// [`Keeper::start`]. It keeps `held` open for as long as it lives: the lock of what the container uses.
    ///
    /// # Errors
    /// [`Error::Exists`] when this id has a keeper; a fault that names what could not be made, after which nothing is left.
    pub async fn create(&self, spec: &ContainerSpec, held: Option<OwnedFd>) -> Result<Keeper, Error> {
        spec.check()?;
        let complete = self.complete(spec).await?;
        let (link, fds) = self
            .spawn(Role::Container, &spec.id, &encode(&spec.id, &complete)?, held)
            .await?;
        Keeper::new(link, fds, &spec.cgroup)
    }

    /// With what the machine decides.
    pub(crate) async fn complete(&self, spec: &ContainerSpec) -> Result<ContainerSpec, Error> {
        Ok(ContainerSpec {
            device_control: self.devices.control,
            apparmor: self.apparmor.profile_of(spec).await?,
            ..spec.clone()
        })
    }

    /// After a restart of the daemon: connects to every keeper in the run directory, in any order. Of those that have died,
    /// what is left is killed and removed. Returns when all have answered, or when none of the rest has for two seconds.
    ///
    /// # Errors
    /// [`Error::Io`] when the run directory can't be read.
    pub async fn adopt(&self) -> Result<Adopted, Error> {
        let mut late = LateKeepers::default();
        for id in self.ids(Role::Container)? {
            late.ids.insert(id.clone());
            let this = self.clone();
            late.tasks.spawn(async move {
                let outcome = this.adopt_one(&id).await;
                (id, outcome)
            });
        }
        let mut found = Vec::with_capacity(late.ids.len());
        while let Ok(Some(one)) = tokio::time::timeout(SILENCE, late.next()).await {
            found.push(one);
        }
        Ok(Adopted { found, late })
    }

    async fn adopt_one(&self, id: &str) -> AdoptOutcome {
        let opened = match self.connect(Role::Container, id) {
            Ok(socket) => Link::open(id, socket, self.record(Role::Container, id)).await,
            Err(error) => Err(error),
        };
        let adopted = opened.and_then(|(link, fds)| {
            let Kept { cgroup } = self.read_spec(Role::Container, id)?;
            Keeper::new(link, fds, &cgroup)
        });
        match adopted {
            Ok(keeper) => AdoptOutcome::Adopted(keeper),
            Err(Error::Lost { .. }) if self.is_dead(Role::Container, id) => {
                match self.bury(Role::Container, id).await {
                    Ok(()) => AdoptOutcome::Dead,
                    Err(error) => AdoptOutcome::Failed(error),
                }
            }
            Err(error) => AdoptOutcome::Failed(error),
        }
    }

    /// Kills and removes what a dead keeper has left.
    async fn bury(&self, role: Role, id: &str) -> Result<(), Error> {
        let cgroup = match role {
            Role::Container => match self.read_spec::<Kept>(role, id) {
                Ok(Kept { cgroup }) => Some(cgroup),
                // There is none, or a power failure has cut it short: nothing runs then.
                Err(_) => None,
            },
            Role::Service => Some(self.service_cgroup(id)),
            Role::Files => None,
        };
        if let Some(cgroup) = cgroup {
            let kill = move || hutch_sys::cgroup::Hierarchies::find().kill_and_remove(CGROUP_PARENT, &cgroup);
            // It waits until the processes are dead.
            let killed = tokio::task::spawn_blocking(kill)
                .await
                .unwrap_or_else(|error| Err(io::Error::other(error)));
            killed.map_err(|error| Error::io("removing the cgroup of", id, error))?;
        }
        self.record(role, id).remove()
    }

    /// The cgroup of a service: the same name whenever it is asked for, and another one for each daemon's.
    fn service_cgroup(&self, id: &str) -> String {
        let text = [self.run_dir.as_os_str().as_encoded_bytes(), b"/", id.as_bytes()].concat();
        let hash = crate::hash(&text);
        format!("service-{hash:016x}")
    }

    /// Kills and removes what is left of a container whose keeper was lost ([`crate::ContainerState::Lost`]).
    ///
    /// # Errors
    /// [`Error::Exists`] when its keeper lives, [`Error::Io`] when something can't be removed.
    pub async fn clean_lost(&self, id: &str) -> Result<(), Error> {
        check_file_name("id", id)?;
        if !self.is_dead(Role::Container, id) {
            return Err(Error::Exists { id: id.to_owned() });
        }
        self.bury(Role::Container, id).await
    }

    /// Makes sure that a service runs as `spec` says: found as it is, it is left alone; different, it is replaced.
    ///
    /// # Errors
    /// A fault when its program could not be executed the first time.
    pub async fn service_ensure(&self, spec: &ServiceSpec) -> Result<Service, Error> {
        spec.check()?;
        let text = encode(&spec.id, spec)?;
        match self.service(&spec.id).await {
            Ok(Some(service)) => {
                let same = std::fs::read(self.path(Role::Service, &spec.id, "json")).is_ok_and(|have| have == text);
                if same {
                    return Ok(service);
                }
                service.stop().await?;
            }
            Ok(None) => {}
            Err(error) => return Err(error),
        }
        let (link, _) = self.spawn(Role::Service, &spec.id, &text, None).await?;
        Ok(Service { link })
    }

    /// The service of this id, when its keeper lives.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Protocol`] when its keeper lives and can't be talked to.
    pub async fn service(&self, id: &str) -> Result<Option<Service>, Error> {
        check_file_name("service id", id)?;
        let opened = match self.connect(Role::Service, id) {
            Ok(socket) => Link::open(id, socket, self.record(Role::Service, id)).await,
            Err(error) => Err(error),
        };
        match opened {
            Ok((link, _)) => Ok(Some(Service { link })),
            Err(Error::Lost { .. }) if self.is_dead(Role::Service, id) => {
                self.bury(Role::Service, id).await.map(|()| None)
            }
            Err(error) => Err(error),
        }
    }

    /// Ids of all services whose keeper lived when it was last heard of.
    ///
    /// # Errors
    /// [`Error::Io`] when the run directory can't be read.
    pub fn services(&self) -> Result<Vec<String>, Error> {
        self.ids(Role::Service)
    }

    /// Stops a service; one that is not there is no error.
    ///
    /// # Errors
    /// As [`Service::stop`].
    pub async fn service_stop(&self, id: &str) -> Result<(), Error> {
        match self.service(id).await? {
            Some(service) => service.stop().await,
            None => Ok(()),
        }
    }

    fn path(&self, role: Role, id: &str, extension: &str) -> PathBuf {
        self.run_dir.join(format!("{id}.{}.{extension}", role.suffix()))
    }

    fn ids(&self, role: Role) -> Result<Vec<String>, Error> {
        let failed = |error| Error::io("reading", &self.run_dir, error);
        let ending = format!(".{}.json", role.suffix());
        let mut ids = Vec::new();
        for entry in std::fs::read_dir(&self.run_dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            if let Some(id) = name.to_str().and_then(|name| name.strip_suffix(&ending))
                && check_file_name("id", id).is_ok()
            {
                ids.push(id.to_owned());
            }
        }
        ids.sort_unstable();
        Ok(ids)
    }

    fn read_spec<T: serde::de::DeserializeOwned>(&self, role: Role, id: &str) -> Result<T, Error> {
        let path = self.path(role, id, "json");
        let text = std::fs::read(&path).map_err(|error| Error::io("reading", &path, error))?;
        serde_json::from_slice(&text).map_err(|error| Error::io("reading", &path, error))
    }

    fn record(&self, role: Role, id: &str) -> Record {
        // The specification goes last: as long as it is there, another attempt finds the rest.
        Record(["sock", "json"].map(|extension| self.path(role, id, extension)))
    }

    /// The address of a socket in the run directory, of whatever length its path: through a descriptor of the directory,
    /// since `sun_path` holds 108 bytes (`unix(7)`).
    fn address(&self, role: Role, id: &str) -> Result<(OwnedFd, SocketAddrUnix), Error> {
        use std::os::fd::AsRawFd;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(&self.run_dir, flags, Mode::empty())
            .map_err(|error| Error::io("opening", &self.run_dir, error))?;
        let path = format!("/proc/self/fd/{}/{id}.{}.sock", dir.as_raw_fd(), role.suffix());
        let address = SocketAddrUnix::new(path.as_str()).map_err(|error| Error::io("naming", path, error))?;
        Ok((dir, address))
    }

    fn connect(&self, role: Role, id: &str) -> Result<OwnedFd, Error> {
        let (_dir, address) = self.address(role, id)?;
        let socket = packet_socket().map_err(|error| Error::io("making a socket for", id, error))?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) => Ok(socket),
            Err(rustix::io::Errno::CONNREFUSED | rustix::io::Errno::NOENT) => Err(Error::Lost { id: id.to_owned() }),
            Err(error) => Err(Error::io("connecting to the keeper of", id, error)),
        }
    }

    /// Whether nobody listens for a keeper of this id any more. One that merely closes a connection lives.
    fn is_dead(&self, role: Role, id: &str) -> bool {
        matches!(self.connect(role, id), Err(Error::Lost { .. }))
    }

    async fn spawn(
        &self,
        role: Role,
        id: &str,
        text: &[u8],
        held: Option<OwnedFd>,
    ) -> Result<(std::sync::Arc<Link>, Vec<OwnedFd>), Error> {
        let json = self.path(role, id, "json");
        match self.connect(role, id) {
            Ok(_) => return Err(Error::Exists { id: id.to_owned() }),
            // Without a specification there was no keeper of this id, which is what is found as a rule.
            Err(Error::Lost { .. }) if !json.exists() => self.record(role, id).remove()?,
            Err(Error::Lost { .. }) => self.bury(role, id).await?,
            Err(error) => return Err(error),
        }
        write_private(&json, text).map_err(|error| Error::io("writing", &json, error))?;
        let opened = self.spawn_listening(role, id, text, held).await;
        if opened.is_err() {
            self.record(role, id).remove()?;
        }
        opened
    }

    async fn spawn_listening(
        &self,
        role: Role,
        id: &str,
        text: &[u8],
        held: Option<OwnedFd>,
    ) -> Result<(std::sync::Arc<Link>, Vec<OwnedFd>), Error> {
        let (_dir, address) = self.address(role, id)?;
        let listen = || -> rustix::io::Result<OwnedFd> {
            let socket = packet_socket()?;
            rustix::net::bind(&socket, &address)?;
            rustix::net::listen(&socket, 16)?;
            Ok(socket)
        };
        let listener = listen().map_err(|error| Error::io("listening for the keeper of", id, error))?;
        let memfd = spec_memfd(text).map_err(|error| Error::io("making a memfd for", id, error))?;
        // Connected before the keeper is up: the backlog takes it, and the introduction waits for its answer.
        let socket = self.connect(role, id)?;
        let process = self.spawn_role(role, id, memfd, listener, held)?;
        let opened = Link::open(id, socket, self.record(role, id)).await;
        if opened.is_err() {
            // It says why and exits; this makes sure of the second.
            match rustix::process::pidfd_send_signal(&process, rustix::process::Signal::KILL) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(Error::io("killing the keeper of", id, error)),
            }
            ended(process.as_fd())
                .await
                .map_err(|error| Error::io("waiting for the keeper of", id, error))?;
        }
        opened
    }

    pub(crate) fn spawn_role(
        &self,
        role: Role,
        id: &str,
        spec: OwnedFd,
        second: OwnedFd,
        held: Option<OwnedFd>,
    ) -> Result<OwnedFd, Error> {
        let mut arguments: Vec<OsString> = vec!["hutch-keeper".into(), role.argument().into()];
        if role == Role::Service {
            arguments.push(self.service_cgroup(id).into());
        }
        let mut fds = vec![(SPEC_FD, spec), (LISTEN_FD, second)];
        fds.extend(held.map(|held| (HELD_FD, held)));
        let process = hutch_sys::spawn::detached(&self.keeper_binary, &arguments, &fds)
            .map_err(|error| Error::io("executing", &self.keeper_binary, error))?;
        let child = process
            .try_clone()
            .map_err(|error| Error::io("watching the keeper of", id, error))?;
        // Reaped whenever it ends, whether or not anybody has a handle of it then.
        tokio::spawn(async move { ended(child.as_fd()).await });
        Ok(process)
    }
}

/// What a daemon reads of a specification that another one wrote, which may be of another version.
#[derive(serde::Deserialize)]
struct Kept {
    cgroup: String,
}

/// What the run directory has of a keeper: its socket and its specification.
#[derive(Debug)]
pub(crate) struct Record([PathBuf; 2]);

impl Record {
    /// Removes them; it is no error when they are not there.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        for path in &self.0 {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io("removing", path, error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Waits for the end of a process and, if it is a child, reaps it.
pub(crate) async fn ended(process: BorrowedFd<'_>) -> io::Result<()> {
    let watched = watched(process.try_clone_to_owned()?, Interest::READABLE)?;
    drop(watched.readable().await?);
    let options = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOHANG;
    match rustix::process::waitid(rustix::process::WaitId::PidFd(process), options) {
        // Not a child: it was adopted by another process when an earlier daemon ended.
        Ok(_) | Err(rustix::io::Errno::CHILD) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn encode<T: serde::Serialize>(id: &str, spec: &T) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(spec).map_err(|error| Error::Protocol {
        id: id.to_owned(),
        what: error.to_string(),
    })
}

fn packet_socket() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

/// A sealed memfd with this text.
pub(crate) fn spec_memfd(text: &[u8]) -> io::Result<OwnedFd> {
    let memfd = rustix::fs::memfd_create("hutch-spec", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = std::fs::File::from(memfd);
    file.write_all(text)?;
    io::Seek::rewind(&mut file)?;
    let memfd = OwnedFd::from(file);
    rustix::fs::fcntl_add_seals(
        &memfd,
        SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
    )?;
    Ok(memfd)
}

fn write_private(path: &Path, text: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?
        .write_all(text)
}

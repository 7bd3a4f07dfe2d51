//! `hutch:host/service`: helper programs that the host keeps running, each with a directory of its own.

use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use hutch_container::{Error, ExitStatus, FaultKind, Runtime, SERVICE_VERSION, ServiceSpec};
use hutch_driver::DriverError;
use nix::unistd::User;
use sha2::{Digest as _, Sha256};

use crate::error::{code_of, internal, invalid, io};
use crate::fs::tree::{OpenRoot, blocking, check_path};
use crate::host::check_name;
use crate::{CallContext, Request, Response, ServiceStatus};

/// Where programs are looked for: the directories of the distribution, nobody's home.
pub(crate) const PROGRAM_PATH: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// Where every service sees its directory, in a mount namespace of its own: programs that give up root could not pass through
/// a state directory that lies in somebody's home.
const PLACE: &str = "/run/hutch-service";
/// Most arguments of a service, and most bytes of them together.
const MAX_ARGS: usize = 1024;
const MAX_ARG_BYTES: usize = 64 << 10;

/// Services of this daemon's.
#[derive(Debug)]
pub(crate) struct Services {
    dir: PathBuf,
    runtime: Runtime,
}

/// A service of the call's object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceId {
    /// Unique among all services of the daemon, and the name of a file.
    pub(crate) id: String,
}

impl ServiceId {
    /// The service `name` of the object that the call is for. Readable at its beginning, unique by its end.
    ///
    /// # Errors
    /// `invalid` for what is no name.
    pub(crate) fn of(cx: &CallContext, name: &str) -> Result<Self, DriverError> {
        check_name("the service", name)?;
        let (family, project, object) = (&cx.subject.family, &cx.call.project, &cx.call.object);
        let mut hash = Sha256::new();
        for part in [family, project, object, name] {
            hash.update(part.as_bytes());
            hash.update([0]);
        }
        let readable = |text: &str| {
            text.chars()
                .filter(|c| c.is_ascii_alphanumeric() || "._-".contains(*c))
                .take(20)
                .collect::<String>()
        };
        let hash = hex::encode(hash.finalize().get(..8).unwrap_or_default());
        Ok(Self {
            id: format!(
                "{}-{}-{hash}",
                readable(object).trim_start_matches(['.', '-']),
                readable(name)
            )
            .trim_start_matches('-')
            .to_owned(),
        })
    }
}

impl Services {
    /// Services with their directories in `services` below `state_dir`.
    ///
    /// # Errors
    /// `io` where the directory can't be made.
    pub(crate) fn new(state_dir: &Path, runtime: Runtime) -> Result<Self, DriverError> {
        let dir = state_dir.join("services");
        make_dir(&dir, 0o700)?;
        Ok(Self { dir, runtime })
    }

    /// The directories of all services that there are, to be worked on like roots.
    ///
    /// # Errors
    /// `io` where they can't be listed.
    pub(crate) fn roots(&self) -> Result<Vec<OpenRoot>, DriverError> {
        let fail = |e: std::io::Error| io(format_args!("can't list {}", self.dir.display()), &e);
        let mut roots = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            // Beside them are their logs.
            if entry.file_type().map_err(fail)?.is_dir() {
                let name = entry.file_name().to_string_lossy().into_owned();
                roots.push(OpenRoot::of_service(&name, entry.path())?);
            }
        }
        Ok(roots)
    }

    /// A service's directory.
    pub(crate) fn dir(&self, service: &ServiceId) -> PathBuf {
        self.dir.join(&service.id)
    }

    /// Does a `service` request.
    pub(crate) async fn call(&self, cx: &CallContext, request: Request) -> Result<Response, DriverError> {
        cx.subject.granter().services()?;
        match request {
            Request::ServiceEnsure {
                name,
                program,
                args,
                user,
            } => self.ensure(cx, &name, &program, &args, user).await,
            Request::ServiceRemove { name } => self.remove(ServiceId::of(cx, &name)?).await,
            Request::ServiceStatus { name } => self.status(&ServiceId::of(cx, &name)?).await,
            Request::ServiceSignal { name, signal } => self.signal(cx, &name, &signal).await,
            Request::ServiceWriteFile { name, path, data } => self
                .on_files(cx, &name, path, true, move |root, path| {
                    root.write_service_file(path, &data)
                })
                .await
                .map(|_| Response::Unit),
            Request::ServiceReadFile { name, path } => {
                let data = self
                    .on_files(cx, &name, path, false, |root, path| root.read_service_file(path))
                    .await?;
                Ok(Response::Bytes(data.flatten()))
            }
            Request::ServiceRemoveFile { name, path } => self
                .on_files(cx, &name, path, false, |root, path| root.remove_service_file(path))
                .await
                .map(|_| Response::Unit),
            Request::ServiceListFiles { name, path } => {
                let files = self
                    .on_files(cx, &name, path, false, |root, path| root.list_service_files(path))
                    .await?;
                Ok(Response::Strings(files.unwrap_or_default()))
            }
            other => Err(internal(format!("{} is not a function of service", other.function()))),
        }
    }

    async fn ensure(
        &self,
        cx: &CallContext,
        name: &str,
        program: &str,
        args: &[String],
        user: Option<String>,
    ) -> Result<Response, DriverError> {
        cx.subject.granter().service(program)?;
        let service = ServiceId::of(cx, name)?;
        if args.len() > MAX_ARGS || args.iter().map(String::len).sum::<usize>() > MAX_ARG_BYTES {
            return Err(DriverError::new(
                "limit",
                format!("the arguments of {name} are more than {MAX_ARGS} or {MAX_ARG_BYTES} bytes"),
            ));
        }
        let dir = self.dir(&service);
        let args = args.iter().map(|arg| arg.replace("{dir}", PLACE)).collect();
        let program = find_program(program)?;
        let prepared = dir.clone();
        let user = blocking(move || {
            make_dir(&prepared, 0o755)?;
            make_dir(Path::new(PLACE), 0o755)?;
            let user = user.as_deref().map(account).transpose()?;
            if let Some((uid, gid)) = user {
                // It may make files of its own here.
                chown(&prepared, Some(uid), Some(gid))
                    .map_err(|e| io(format_args!("can't give {} away", prepared.display()), &e))?;
            }
            Ok(user)
        })
        .await?;
        let log = Some(self.dir.join(format!("{}.log", service.id)));
        let spec = ServiceSpec {
            version: SERVICE_VERSION,
            id: service.id,
            program,
            args,
            env: Vec::new(),
            dir,
            appears_at: Some(PLACE.into()),
            user,
            log,
        };
        self.runtime
            .service_ensure(&spec)
            .await
            .map_err(|e| container_error(&e))?;
        Ok(Response::Unit)
    }

    async fn remove(&self, service: ServiceId) -> Result<Response, DriverError> {
        self.runtime
            .service_stop(&service.id)
            .await
            .map_err(|e| container_error(&e))?;
        let (dir, log) = (self.dir(&service), self.dir.join(format!("{}.log", service.id)));
        blocking(move || {
            for result in [std::fs::remove_dir_all(&dir), std::fs::remove_file(&log)] {
                match result {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                        return Err(io(
                            format_args!("can't remove the directory of the service {}", service.id),
                            &e,
                        ));
                    }
                    _ => {}
                }
            }
            Ok(Response::Unit)
        })
        .await
    }

    async fn status(&self, service: &ServiceId) -> Result<Response, DriverError> {
        let Some(found) = self
            .runtime
            .service(&service.id)
            .await
            .map_err(|e| container_error(&e))?
        else {
            return Ok(Response::ServiceStatus(None));
        };
        let state = found.state().map_err(|e| container_error(&e))?;
        Ok(Response::ServiceStatus(Some(ServiceStatus {
            running: state.pid.is_some(),
            pid: state.pid,
            restarts: state.restarts,
            last_exit: state.last_exit.map(|status| match status {
                ExitStatus::Code(code) => code,
                ExitStatus::Signal(signal) => -signal,
            }),
        })))
    }

    async fn signal(&self, cx: &CallContext, name: &str, signal: &str) -> Result<Response, DriverError> {
        let service = ServiceId::of(cx, name)?;
        let number = match signal {
            "hup" => libc::SIGHUP,
            "usr1" => libc::SIGUSR1,
            "usr2" => libc::SIGUSR2,
            _ => {
                return Err(invalid(format!(
                    "{signal:?} is not a signal that may be sent: hup, usr1, usr2"
                )));
            }
        };
        let Some(found) = self
            .runtime
            .service(&service.id)
            .await
            .map_err(|e| container_error(&e))?
        else {
            return Err(DriverError::new("not-found", format!("there is no service {name}")));
        };
        found.signal(number).await.map_err(|e| container_error(&e))?;
        Ok(Response::Unit)
    }

    /// Runs `work` on `path` in the service's directory; `None` where there is none and it is not to be made.
    async fn on_files<T: Send + 'static>(
        &self,
        cx: &CallContext,
        name: &str,
        path: String,
        make: bool,
        work: impl FnOnce(&OpenRoot, &str) -> Result<T, DriverError> + Send + 'static,
    ) -> Result<Option<T>, DriverError> {
        // Whatever there is: neither is a directory made for a wrong path, nor is that one of nothing.
        check_path(&path)?;
        let dir = self.dir(&ServiceId::of(cx, name)?);
        let name = name.to_owned();
        blocking(move || {
            if make {
                make_dir(&dir, 0o755)?;
            }
            match OpenRoot::of_service(&name, dir) {
                Err(e) if e.is("unavailable") => Ok(None),
                root => work(&root?, &path).map(Some),
            }
        })
        .await
    }
}

/// Makes a directory with exactly this mode, if it is missing.
fn make_dir(dir: &Path, mode: u32) -> Result<(), DriverError> {
    match std::fs::DirBuilder::new().mode(mode).create(dir) {
        Ok(()) => std::fs::set_permissions(dir, std::fs::Permissions::from_mode(mode)),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(e),
    }
    .map_err(|e| io(format_args!("can't make {}", dir.display()), &e))
}

/// The path of a program that a permission names.
///
/// # Errors
/// `unavailable` where it is not installed.
pub(crate) fn find_program(name: &str) -> Result<PathBuf, DriverError> {
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        return Err(invalid(format!(
            "{name:?} is not the name of a program without a directory"
        )));
    }
    let runs = |path: &PathBuf| {
        path.metadata()
            .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    PROGRAM_PATH
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(runs)
        .ok_or_else(|| {
            DriverError::new(
                "unavailable",
                format!(
                    "the program {name} is not installed (looked for in {})",
                    PROGRAM_PATH.join(", ")
                ),
            )
        })
}

fn account(name: &str) -> Result<(u32, u32), DriverError> {
    match User::from_name(name) {
        Ok(Some(user)) => Ok((user.uid.as_raw(), user.gid.as_raw())),
        Ok(None) => Err(DriverError::new(
            "unavailable",
            format!("there is no account {name:?} on this machine"),
        )),
        Err(e) => Err(DriverError::new(
            "io",
            format!("can't look for the account {name:?}: {}", e.desc().to_lowercase()),
        )),
    }
}

/// What a driver is told of a failure of a keeper's.
fn container_error(error: &Error) -> DriverError {
    let code = match (error, error.fault()) {
        (_, Some(fault)) => match fault.kind {
            FaultKind::System => code_of(rustix::io::Errno::from_raw_os_error(fault.errno)),
            FaultKind::State | FaultKind::NotFound => "not-found",
            FaultKind::NotExecutable | FaultKind::Invalid => "invalid",
            _ => "unsupported",
        },
        (Error::Spec(_), _) => "invalid",
        (Error::Lost { .. }, _) => "unavailable",
        (Error::Exists { .. }, _) => "already-exists",
        (Error::Io { .. }, _) => "io",
        _ => "internal",
    };
    let cause = std::error::Error::source(error)
        .map(|cause| format!(": {cause}"))
        .unwrap_or_default();
    DriverError::new(code, format!("{error}{cause}"))
}

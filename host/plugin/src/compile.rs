//! Compiling ahead: in a child process with little memory, little time, no network and no privileges, because compiling a
//! stranger's file is where a compiler's own faults and its appetite would hurt, and never while anybody waits for the
//! daemon to start.
//!
//! The child is this same program, called with [`SUBCOMMAND`]. It reads the component from its standard input and writes
//! machine code to its standard output, and touches nothing else.

use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::engine::config_hash;
use crate::log::one_line;
use crate::mapped::{MapError, map, open};

/// The hidden subcommand of the daemon that [`compile_child_main`] belongs to.
pub const SUBCOMMAND: &str = "compile-plugin";

/// The version of wasmtime, as the workspace pins it.
const WASMTIME: &str = "48.0.8";
/// Address space of the child: what every process needs, and what the compiler takes for each byte of a component, of which
/// some 100 were measured.
const BASE_MEMORY: u64 = 1 << 30;
const MEMORY_PER_BYTE: u64 = 300;
/// Seconds of processor time: some 1.3 a megabyte were measured with optimisation, ten times that without, and ten times that
/// again on an emulated machine.
const BASE_SECONDS: u64 = 60;
const SECONDS_PER_MEGABYTE: u64 = 60;
/// How many times as long it may take by the clock, on a machine that does much else at the time.
const WAITING: u32 = 10;
/// The largest code that a component may become.
const MAX_CODE: u64 = 512 << 20;
/// Bytes of the child's complaint that are kept.
const MAX_COMPLAINT: u64 = 4096;
/// The account without privileges that the child works as where it was started by root: `nobody` on every Linux system
/// (the overflow id of `user_namespaces(7)`).
const NOBODY: u32 = 65534;

/// Why a component could not be compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// A file or directory of the cache can't be worked with.
    #[error("can't use {path}", path = path.display())]
    Cache {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The child could not be started or waited for.
    #[error("can't run the compiler")]
    Child(#[source] std::io::Error),
    /// It took too long.
    #[error("the compiler did not end within {} s", .0.as_secs())]
    Time(Duration),
    /// It failed.
    #[error("the compiler failed ({status}): {complaint}")]
    Failed {
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it said.
        complaint: String,
    },
}

/// How the compiling child is started.
#[derive(Clone, Debug)]
pub struct Compiler {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
}

impl Default for Compiler {
    /// This program itself, with [`SUBCOMMAND`].
    fn default() -> Self {
        Self {
            program: PathBuf::from("/proc/self/exe"),
            args: vec![SUBCOMMAND.to_owned()],
        }
    }
}

/// Compiled code by the digest of its component.
#[derive(Debug)]
pub(crate) struct Cache {
    directory: PathBuf,
    compiler: Compiler,
    suffix: String,
}

impl Cache {
    /// Opens the cache in `directory`, which is made if it is missing.
    pub(crate) fn open(directory: PathBuf, compiler: Compiler, engine: &Engine) -> Result<Self, CompileError> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(|source| CompileError::Cache {
                path: directory.clone(),
                source,
            })?;
        let suffix = format!("-{WASMTIME}-{:016x}.cwasm", config_hash(engine));
        Ok(Self {
            directory,
            compiler,
            suffix,
        })
    }

    fn path(&self, digest: &str) -> PathBuf {
        self.directory.join(format!("{digest}{}", self.suffix))
    }

    /// The code for `digest`, if it is there and can be used.
    pub(crate) fn get(&self, engine: &Engine, digest: &str) -> Option<Component> {
        self.found(digest, map(engine, &self.directory, &self.path(digest)))
    }

    /// The file with the code for `digest`, opened to be read, if it is there and nobody else could have written it. Whether it can be
    /// used is for whoever reads it to find out.
    pub(crate) fn file(&self, digest: &str) -> Option<std::fs::File> {
        self.found(digest, open(&self.directory, &self.path(digest)))
    }

    fn found<T>(&self, digest: &str, found: Result<T, MapError>) -> Option<T> {
        match found {
            Ok(found) => Some(found),
            Err(MapError::Open(error)) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(digest, error, "compiled code in the cache is not used");
                None
            }
        }
    }

    /// Compiles the component `wasm`, whose digest is `digest`, and keeps the result.
    pub(crate) async fn make(&self, digest: &str, wasm: &Path) -> Result<(), CompileError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| CompileError::Cache { path, source }
        };
        let input = std::fs::File::open(wasm).map_err(at(wasm))?;
        let size = input.metadata().map_err(at(wasm))?.len();
        let target = self.path(digest);
        // Two may compile the same at once.
        static TURN: AtomicU64 = AtomicU64::new(0);
        let name = format!(
            ".{digest}-{}-{}.tmp",
            std::process::id(),
            TURN.fetch_add(1, Ordering::Relaxed)
        );
        let temporary = Temporary(self.directory.join(name));
        let output = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary.0)
            .map_err(at(&temporary.0))?;
        let keep = output.try_clone().map_err(CompileError::Child)?;
        self.run(size, input, output).await?;
        // The name must never stand for less than all of the code, not even after a power cut.
        let (from, to, directory) = (temporary.0.clone(), target.clone(), self.directory.clone());
        let put = tokio::task::spawn_blocking(move || {
            keep.sync_all()?;
            std::fs::rename(&from, &to)?;
            std::fs::File::open(&directory)?.sync_all()
        });
        put.await
            .map_err(|error| CompileError::Child(error.into()))?
            .map_err(at(&target))
    }

    /// Runs the compiling child to its end.
    async fn run(&self, size: u64, input: std::fs::File, output: std::fs::File) -> Result<(), CompileError> {
        let seconds = BASE_SECONDS + SECONDS_PER_MEGABYTE * (size >> 20);
        let limit = Duration::from_secs(seconds) * WAITING;
        let mut child = tokio::process::Command::new(&self.compiler.program)
            .args(&self.compiler.args)
            .arg(size.to_string())
            .env_clear()
            .current_dir("/")
            .stdin(input)
            .stdout(output)
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(CompileError::Child)?;
        let mut complaint = Vec::new();
        let ended = async {
            if let Some(stderr) = child.stderr.take() {
                stderr.take(MAX_COMPLAINT).read_to_end(&mut complaint).await?;
            }
            child.wait().await
        };
        let status = tokio::time::timeout(limit, ended)
            .await
            .map_err(|_| CompileError::Time(limit))?;
        let status = status.map_err(CompileError::Child)?;
        if !status.success() {
            let complaint = one_line(&String::from_utf8_lossy(&complaint), 1024);
            return Err(CompileError::Failed { status, complaint });
        }
        Ok(())
    }

    /// Removes the code for `digest`. Where it is in use, it goes with its last user.
    pub(crate) fn remove(&self, digest: &str) -> std::io::Result<()> {
        match std::fs::remove_file(self.path(digest)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes code that was made by another version of the compiler, and files that a killed daemon left half-written. To
    /// be called before anything is compiled.
    pub(crate) fn tidy(&self) {
        let Ok(entries) = std::fs::read_dir(&self.directory) else {
            return;
        };
        for entry in entries.flatten() {
            if !entry.file_name().to_string_lossy().ends_with(&self.suffix)
                && let Err(error) = std::fs::remove_file(entry.path())
            {
                tracing::warn!(path = %entry.path().display(), %error, "can't remove what is left in the cache");
            }
        }
    }
}

/// A file that is removed unless it was renamed.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // Fails after the renaming, as it should.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The compiling child's whole program: the daemon's `main` calls it when its first argument is [`SUBCOMMAND`], before it
/// starts a thread or opens a file. `args` are the arguments that follow.
///
/// The process limits its own memory, time and file sizes, gives up root's rights for good, and only then reads a byte of
/// the component.
pub fn compile_child_main(args: impl IntoIterator<Item = String>) -> ExitCode {
    let size = args.into_iter().next().and_then(|size| size.parse::<u64>().ok());
    let Some(size) = size.filter(|size| *size <= crate::binary::MAX_FILE) else {
        return complain("expected the size of the component");
    };
    if let Err(error) = confine(size) {
        return complain(&format!("can't give up privileges: {error}"));
    }
    let mut wasm = Vec::new();
    if let Err(error) = std::io::stdin().lock().take(size + 1).read_to_end(&mut wasm) {
        return complain(&format!("can't read the component: {error}"));
    }
    let code = crate::engine::compiler().and_then(|engine| engine.precompile_component(&wasm));
    let code = match code {
        Ok(code) => code,
        Err(error) => return complain(&format!("{error:#}")),
    };
    match std::io::stdout().lock().write_all(&code) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&format!("can't write the code: {error}")),
    }
}

fn complain(message: &str) -> ExitCode {
    // Nobody is left to tell if this fails.
    let _ = writeln!(std::io::stderr().lock(), "{message}");
    ExitCode::FAILURE
}

fn confine(size: u64) -> std::io::Result<()> {
    use rustix::process::{Resource, Rlimit, Signal, setrlimit};
    let limit = |value| Rlimit {
        current: Some(value),
        maximum: Some(value),
    };
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    setrlimit(Resource::As, limit(BASE_MEMORY + MEMORY_PER_BYTE * size))?;
    setrlimit(Resource::Cpu, limit(BASE_SECONDS + SECONDS_PER_MEGABYTE * (size >> 20)))?;
    setrlimit(Resource::Fsize, limit(MAX_CODE))?;
    setrlimit(Resource::Core, limit(0))?;
    rustix::thread::set_no_new_privs(true)?;
    if rustix::process::geteuid().is_root() {
        // A network namespace of its own has no interface that is up.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET | nix::sched::CloneFlags::CLONE_NEWIPC)?;
        nix::unistd::setgroups(&[])?;
        nix::unistd::setresgid(NOBODY.into(), NOBODY.into(), NOBODY.into())?;
        nix::unistd::setresuid(NOBODY.into(), NOBODY.into(), NOBODY.into())?;
        // The change of identity has cleared it (prctl(2)).
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    }
    Ok(())
}

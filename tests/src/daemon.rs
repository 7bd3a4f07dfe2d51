//! A private daemon: Hutch's, or its peer's for comparison.

use crate::programs::Programs;
use crate::rest::Client;
use crate::sandbox::Sandbox;
use crate::{exec, image};
use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs::File;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long a daemon may take until it answers. The first start of a build compiles our plugins, which takes an emulated machine
/// minutes.
const START: Duration = Duration::from_secs(600);

/// How long a daemon may take to end when asked to.
const STOP: Duration = Duration::from_secs(60);

/// Whose daemon it is. Names of drivers are here because a test chooses them, as a person does.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Ours.
    Hutch(Programs),
    /// Incus; the path of its daemon.
    Incus(PathBuf),
}

/// How a daemon is started.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// On the machine's own network instead of a namespace of its own.
    pub shared_network: bool,
    /// What the configuration file has besides where the programs are.
    pub configuration: Option<String>,
    /// Without the pool, the network and the image that tests use.
    pub bare: bool,
    /// The driver of the pool; empty for the kind's usual one.
    pub storage: &'static str,
}

/// A daemon with a state directory of its own. Dropping it ends it and all that it made.
pub struct Daemon {
    kind: Kind,
    options: Options,
    child: Option<Child>,
    // Dropped last: it removes what the daemon used.
    sandbox: Sandbox,
}

/// The name of the pool, of the network and of the image's alias that [`Daemon::start`] makes.
pub const POOL: &str = "testpool";
/// See [`POOL`].
pub const IMAGE: &str = "busybox";

impl Daemon {
    /// Starts ours, isolated, with a pool, a network, a default profile that uses both, and the busybox image.
    ///
    /// # Errors
    /// When it can't be started or set up.
    pub fn start() -> Result<Self> {
        Self::with(Options::default())
    }

    /// Starts ours; or, to see whether a test itself is right, the peer's daemon that `HUTCH_TEST_AGAINST` names.
    ///
    /// # Errors
    /// See [`Daemon::start`].
    pub fn with(options: Options) -> Result<Self> {
        if let Some(peer) = std::env::var_os("HUTCH_TEST_AGAINST") {
            return Self::of_kind(
                Kind::Incus(peer.into()),
                Options {
                    shared_network: true,
                    ..options
                },
            );
        }
        Self::of_kind(Kind::Hutch(Programs::from_environment()?), options)
    }

    /// Starts one of any kind.
    ///
    /// # Errors
    /// See [`Daemon::start`].
    pub fn of_kind(kind: Kind, options: Options) -> Result<Self> {
        let sandbox = if options.shared_network {
            Sandbox::shared()?
        } else {
            Sandbox::isolated()?
        };
        let mut daemon = Self {
            kind,
            options,
            child: None,
            sandbox,
        };
        std::fs::create_dir(daemon.state_dir())?;
        compiled::give(&daemon.state_dir())?;
        let additions = daemon.options.configuration.clone().unwrap_or_default();
        daemon.configure(&additions)?;
        daemon.launch(&[])?;
        if !daemon.options.bare {
            daemon.set_up()?;
        }
        Ok(daemon)
    }

    /// The state directory.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.sandbox.path().join("state")
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.state_dir().join("unix.socket")
    }

    /// The place of this daemon, in which tests may put files of their own.
    #[must_use]
    pub fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// The name of the network that [`Daemon::start`] makes. It differs where several daemons share the machine's network.
    #[must_use]
    pub fn network(&self) -> String {
        if !self.options.shared_network {
            return "testbr0".to_owned();
        }
        let letter = if matches!(self.kind, Kind::Hutch(_)) { 'h' } else { 'i' };
        format!("{letter}t{}", std::process::id())
    }

    /// The daemon's address in that network, which is a /20.
    #[must_use]
    pub fn gateway(&self) -> &'static str {
        if matches!(self.kind, Kind::Hutch(_)) {
            "10.213.0.1"
        } else {
            "10.213.16.1"
        }
    }

    /// A new client.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(&self.socket())
    }

    /// The daemon's process.
    ///
    /// # Errors
    /// When it is not running.
    pub fn pid(&self) -> Result<i32> {
        let child = self.child.as_ref().context("the daemon does not run")?;
        Ok(i32::try_from(child.id())?)
    }

    /// What the daemon logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.sandbox.path().join("log")).unwrap_or_default()
    }

    /// Writes the configuration file, which the next start reads: where the programs are, then `additions`.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn configure(&self, additions: &str) -> Result<()> {
        let Kind::Hutch(programs) = &self.kind else {
            return Ok(());
        };
        let text = format!(
            "keeper = {:?}\nplugin-directory = {:?}\n\n{additions}",
            programs.keeper, programs.plugins
        );
        std::fs::write(self.configuration(), text).context("can't write the configuration")
    }

    fn configuration(&self) -> PathBuf {
        self.sandbox.path().join("hutchd.toml")
    }

    fn command(&self) -> Command {
        match &self.kind {
            Kind::Hutch(programs) => {
                let mut command = self.sandbox.command(&programs.daemon);
                command
                    .arg("--state-dir")
                    .arg(self.state_dir())
                    .arg("--config")
                    .arg(self.configuration());
                command
            }
            Kind::Incus(program) => {
                let mut command = self.sandbox.command(program);
                command.env("INCUS_DIR", self.state_dir());
                command
            }
        }
    }

    fn spawn(&mut self, environment: &[(&str, &str)]) -> Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.sandbox.path().join("log"))?;
        let mut command = self.command();
        command
            .envs(environment.iter().copied())
            .current_dir("/")
            .stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn().context("can't start the daemon")?);
        Ok(())
    }

    /// Starts the daemon when it does not run, and returns how long it took until it answered a request.
    ///
    /// # Errors
    /// When it ends or does not answer; the message has the end of its log.
    pub fn launch(&mut self, environment: &[(&str, &str)]) -> Result<Duration> {
        let begun = Instant::now();
        self.spawn(environment)?;
        while UnixStream::connect(self.socket()).is_err() {
            if let Some(status) = self.ended()? {
                bail!("the daemon ended at once ({status}): {}", tail(&self.log()));
            }
            if begun.elapsed() > START {
                bail!("the daemon does not answer: {}", tail(&self.log()));
            }
            // Nothing tells a stranger when a socket begins to answer.
            std::thread::sleep(Duration::from_millis(1));
        }
        // The socket is there before the plugins are loaded.
        let mut client = self.client().patience(START);
        client.get("/1.0").with_context(|| tail(&self.log()))?;
        Ok(begun.elapsed())
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        match &mut self.child {
            Some(child) => Ok(child.try_wait()?),
            None => Ok(None),
        }
    }

    /// Ends the daemon with SIGKILL, as a crash does; what it made runs on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("the daemon does not run")?;
        child.kill()?;
        child.wait()?;
        self.wait_for_silence()
    }

    /// A child that the killed daemon was just starting holds the socket until it runs its own program. Until then whoever
    /// connects would take it for the next daemon.
    fn wait_for_silence(&self) -> Result<()> {
        let begun = Instant::now();
        while UnixStream::connect(self.socket()).is_ok() {
            if begun.elapsed() > STOP {
                bail!("somebody holds the killed daemon's socket: {}", tail(&self.log()));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Asks the daemon to end; containers run on.
    ///
    /// # Errors
    /// When it does not end in time, or not cleanly.
    pub fn stop(&mut self) -> Result<()> {
        kill(Pid::from_raw(self.pid()?), Signal::SIGTERM)?;
        let status = self.wait_for_end()?;
        if !status.success() {
            bail!("the daemon ended with {status}: {}", tail(&self.log()));
        }
        Ok(())
    }

    /// Waits until the daemon has ended by itself, and says whether a fault point killed it.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn wait_for_fault(&mut self) -> Result<bool> {
        Ok(self.wait_for_end()?.signal() == Some(Signal::SIGKILL as i32))
    }

    fn wait_for_end(&mut self) -> Result<ExitStatus> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.ended()? {
                self.child = None;
                self.wait_for_silence()?;
                return Ok(status);
            }
            if begun.elapsed() > STOP {
                bail!("the daemon does not end: {}", tail(&self.log()));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Ends the daemon with SIGKILL and starts it again; returns how long the start took.
    ///
    /// # Errors
    /// As [`Daemon::kill`] and [`Daemon::launch`].
    pub fn crash_and_restart(&mut self) -> Result<Duration> {
        self.kill()?;
        self.launch(&[])
    }

    fn set_up(&mut self) -> Result<()> {
        let mut client = self.client();
        if matches!(self.kind, Kind::Hutch(_)) {
            self.wait_until_prepared()?;
            compiled::keep(&self.state_dir())?;
        }
        let usual = if matches!(self.kind, Kind::Hutch(_)) {
            "overlay"
        } else {
            "dir"
        };
        let storage = if self.options.storage.is_empty() {
            usual
        } else {
            self.options.storage
        };
        let pool = json!({ "name": POOL, "driver": storage, "config": {} });
        client.sync("POST", "/1.0/storage-pools", &pool)?;
        let network = self.network();
        let subnet = format!("{}/20", self.gateway());
        let config = json!({ "ipv4.address": subnet, "ipv4.nat": "true", "ipv6.address": "none" });
        client.sync(
            "POST",
            "/1.0/networks",
            &json!({ "name": network, "type": "bridge", "config": config }),
        )?;
        let devices = json!({
            "root": { "type": "disk", "path": "/", "pool": POOL },
            "eth0": { "type": "nic", "name": "eth0", "network": network },
        });
        client.sync(
            "PUT",
            "/1.0/profiles/default",
            &json!({ "config": {}, "description": "", "devices": devices }),
        )?;
        client.import_image(shared_busybox()?, Some(IMAGE))?;
        Ok(())
    }

    /// Waits until a new daemon has made its first pool and network, so that what a test does meets nothing half made.
    fn wait_until_prepared(&self) -> Result<()> {
        let begun = Instant::now();
        let mut client = self.client();
        loop {
            let devices = client.get("/1.0/profiles/default")?["devices"].take();
            if devices["root"].is_object() && devices["eth0"].is_object() {
                return Ok(());
            }
            if begun.elapsed() > START {
                bail!(
                    "the daemon made no first pool and network: {devices}: {}",
                    tail(&self.log())
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Removes the instances and the networks: on the machine's own network nothing else would. Goes on after an error.
    fn take_back(&self) -> Result<()> {
        let mut client = self.client();
        let mut results = Vec::new();
        let instances = client.get("/1.0/instances?recursion=1")?;
        for instance in instances.as_array().into_iter().flatten() {
            let name = instance["name"].as_str().unwrap_or_default();
            if instance["status"] != "Stopped" {
                results.push(self.change(name, "stop", true));
            }
            if instance["ephemeral"] != true {
                results.push(
                    client
                        .run("DELETE", &format!("/1.0/instances/{name}"), &Value::Null)
                        .map(drop),
                );
            }
        }
        let empty = json!({ "config": {}, "description": "", "devices": {} });
        results.push(client.sync("PUT", "/1.0/profiles/default", &empty).map(drop));
        for network in client
            .get("/1.0/networks?recursion=1")?
            .as_array()
            .into_iter()
            .flatten()
        {
            if network["managed"] == true {
                let name = network["name"].as_str().unwrap_or_default();
                results.push(
                    client
                        .sync("DELETE", &format!("/1.0/networks/{name}"), &Value::Null)
                        .map(drop),
                );
            }
        }
        results.into_iter().collect()
    }

    /// Creates an instance from the busybox image and starts it.
    ///
    /// # Errors
    /// When one of both fails.
    pub fn instance(&self, name: &str, config: &Value) -> Result<()> {
        let mut client = self.client();
        client.run("POST", "/1.0/instances", &creation(name, config, true))?;
        Ok(())
    }

    /// Runs a command in an instance and returns what it printed.
    ///
    /// # Errors
    /// When it can't be run or ends with another status than 0.
    pub fn shell(&self, instance: &str, script: &str) -> Result<String> {
        let output = exec::run(&mut self.client(), instance, &["/bin/sh", "-c", script], b"")?;
        if output.status != 0 {
            bail!(
                "in {instance}: {script}: status {}: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(output.text())
    }

    /// An instance's status, as `Running`.
    ///
    /// # Errors
    /// When there is no such instance.
    pub fn status(&self, instance: &str) -> Result<String> {
        let state = self.client().get(&format!("/1.0/instances/{instance}/state"))?;
        Ok(state["status"].as_str().unwrap_or_default().to_owned())
    }

    /// Changes an instance's state; `force` for a stop that does not ask.
    ///
    /// # Errors
    /// When it can't be done.
    pub fn change(&self, instance: &str, action: &str, force: bool) -> Result<()> {
        let body = json!({ "action": action, "timeout": 30, "force": force, "stateful": false });
        self.client()
            .run("PUT", &format!("/1.0/instances/{instance}/state"), &body)?;
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the daemon's log ends with:\n{}", tail(&self.log()));
        }
        if self.options.shared_network
            && self.child.is_some()
            && let Err(error) = self.take_back()
        {
            eprintln!(
                "the machine's network may keep something of {}: {error:#}",
                self.network()
            );
        }
        if let Some(mut child) = self.child.take() {
            // It may have ended already; what it made is removed with the sandbox.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The body of a request that creates an instance from the busybox image. `config` may have the keys of an instance.
#[must_use]
pub fn creation(name: &str, config: &Value, start: bool) -> Value {
    let mut body = json!({
        "name": name,
        "type": "container",
        "start": start,
        "source": { "type": "image", "alias": IMAGE },
    });
    if let (Some(body), Some(config)) = (body.as_object_mut(), config.as_object()) {
        body.extend(config.clone());
    }
    body
}

/// The last lines of a log.
#[must_use]
pub fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

/// The busybox image, made once by a test program.
fn shared_busybox() -> Result<&'static Path> {
    static MADE: Mutex<Option<&'static Path>> = Mutex::new(None);
    let mut made = MADE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(path) = *made {
        return Ok(path);
    }
    let directory = std::env::temp_dir().join(format!("hutch-tests-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let path: &'static Path = Box::leak(image::busybox(&directory)?.into_boxed_path());
    *made = Some(path);
    Ok(path)
}

/// Our plugins, compiled by the first daemon of a test program and given to the others, which would spend seconds on it; or
/// kept in the directory `HUTCH_TEST_COMPILED` for other test programs, too. A daemon knows by their names which are for it.
mod compiled {
    use anyhow::{Context, Result};
    use std::fs::DirBuilder;
    use std::os::unix::fs::DirBuilderExt as _;
    use std::path::{Path, PathBuf};
    use std::sync::Mutex;

    static KEPT: Mutex<bool> = Mutex::new(false);

    /// The part of the state directory that holds them.
    const PART: &str = "cache/plugins";

    fn place() -> PathBuf {
        match std::env::var_os("HUTCH_TEST_COMPILED") {
            Some(given) => given.into(),
            None => std::env::temp_dir().join(format!("hutch-tests-{}/plugins", std::process::id())),
        }
    }

    pub(super) fn give(state: &Path) -> Result<()> {
        let place = place();
        if !place.is_dir() {
            return Ok(());
        }
        let made = state.join(PART);
        DirBuilder::new().recursive(true).mode(0o700).create(&made)?;
        copy(&place, &made)
    }

    pub(super) fn keep(state: &Path) -> Result<()> {
        let mut kept = KEPT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let made = state.join(PART);
        if *kept || !made.is_dir() {
            return Ok(());
        }
        let place = place();
        std::fs::create_dir_all(&place)?;
        copy(&made, &place)?;
        *kept = true;
        Ok(())
    }

    /// Copies what is in a directory with its owners and modes, on which the daemon insists. Each file appears whole: others
    /// may be copying from there.
    fn copy(from: &Path, to: &Path) -> Result<()> {
        for entry in std::fs::read_dir(from)? {
            let (path, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
            let whole = path.extension().is_some_and(|kind| kind == "cwasm");
            let there = to.join(&name);
            if !whole || there.exists() {
                continue;
            }
            let part = to.join(format!(".{}-{}", name.to_string_lossy(), std::process::id()));
            crate::sandbox::must(
                "cp",
                &["--archive", "--", &path.to_string_lossy(), &part.to_string_lossy()],
            )?;
            std::fs::rename(&part, &there).with_context(|| format!("can't make {}", there.display()))?;
        }
        Ok(())
    }
}

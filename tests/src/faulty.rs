//! Daemons with the plugins that misbehave on request, and what such misbehaviour must look like from outside.

use crate::daemon::{Daemon, Options};
use crate::programs::Programs;
use crate::rest::Client;
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The storage plugin that misbehaves. It provides the driver `faulty`.
pub const STORAGE: &str = "org.hutch.test.faulty";

/// The network plugin that misbehaves. It provides the driver `faulty`, too.
pub const NETWORK: &str = "org.hutch.test.faulty-network";

/// The image source that misbehaves. It provides `faulty`, too, and is in no configuration that is made here.
pub const IMAGES: &str = "org.hutch.test.faulty-image";

/// Where the storage plugin's file is.
///
/// # Errors
/// When the tests' runner did not say.
pub fn storage_file() -> Result<PathBuf> {
    file("hutch_faulty_guest.wasm")
}

/// Where the image source's file is.
///
/// # Errors
/// When the tests' runner did not say.
pub fn images_file() -> Result<PathBuf> {
    file("hutch_faulty_image.wasm")
}

fn file(name: &str) -> Result<PathBuf> {
    let guests = Programs::from_environment()?.guests;
    let directory = guests.context("HUTCH_GUESTS is not set: these tests are run by `cargo xtask test --whole`")?;
    Ok(directory.join(name))
}

/// A configuration with our plugins and the two that misbehave, of which the operator grants each less than it requests.
/// `storage` is the storage plugin's file and `settings` what the operator sets for it, as TOML.
///
/// # Errors
/// When the plugins can't be listed.
pub fn configuration(storage: &Path, settings: &str) -> Result<String> {
    let mut ours: Vec<PathBuf> = std::fs::read_dir(Programs::from_environment()?.plugins)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    ours.sort();
    let mut text = String::new();
    for path in ours {
        text.push_str(&format!("[[plugin]]\npath = {path:?}\n\n"));
    }
    let network = file("hutch_faulty_network.wasm")?;
    text.push_str(&format!(
        "[[plugin]]\npath = {storage:?}\ngrants = {{ fs = {{ roots = true }} }}\nconfig = {{ {settings} }}\n\n\
         [[plugin]]\npath = {network:?}\ngrants = {{ link = true }}\n"
    ));
    Ok(text)
}

/// A daemon with those plugins, and a bystander that has nothing to do with them.
pub struct Faulty {
    /// The daemon.
    pub daemon: Daemon,
    pid: i32,
}

/// The instance that has nothing to do with broken plugins.
const BYSTANDER: &str = "bystander";

impl Faulty {
    /// Starts the daemon and the bystander.
    ///
    /// # Errors
    /// When one of them can't be started.
    pub fn start() -> Result<Self> {
        let daemon = Daemon::with(Options {
            configuration: Some(configuration(&storage_file()?, "")?),
            ..Options::default()
        })?;
        daemon.instance(BYSTANDER, &json!({}))?;
        let pid = daemon.pid()?;
        Ok(Self { daemon, pid })
    }

    /// Ends the daemon and starts it with this configuration.
    ///
    /// # Errors
    /// When it does not end or start.
    pub fn restart(&mut self, configuration: &str) -> Result<()> {
        self.daemon.stop()?;
        self.daemon.configure(configuration)?;
        self.daemon.launch(&[])?;
        self.pid = self.daemon.pid()?;
        Ok(())
    }

    /// Fails unless the daemon is the one that was started and its bystander does what it is told.
    ///
    /// # Errors
    /// When one of both is not so.
    pub fn goes_on(&self) -> Result<()> {
        ensure!(
            Path::new(&format!("/proc/{}/exe", self.pid)).exists() && self.daemon.pid()? == self.pid,
            "the daemon is gone"
        );
        ensure!(self.daemon.shell(BYSTANDER, "echo here")? == "here");
        Ok(())
    }

    /// Takes a plugin back into service, so that the faults of one case do not end in quarantine during another.
    ///
    /// # Errors
    /// When it can't be.
    pub fn enable(&self, plugin: &str) -> Result<()> {
        let path = format!("/1.0/plugins/{plugin}/state");
        self.daemon
            .client()
            .sync("PUT", &path, &json!({ "action": "enable" }))
            .map(drop)
    }

    /// Sets what is to go wrong in a pool or network; an empty way ends it.
    ///
    /// # Errors
    /// When it can't be set.
    pub fn fault(&self, path: &str, function: &str, way: &str) -> Result<()> {
        let key = format!("fault.{function}");
        self.daemon
            .client()
            .sync("PATCH", path, &json!({ "config": { key: way } }))
            .map(drop)
    }
}

/// Fails unless an error says whose fault it was: the plugin and its version, the object and the cause.
///
/// # Errors
/// With what is missing.
pub fn is_blamed(message: &str, plugin: &str, object: &str, cause: &str) -> Result<()> {
    for part in [plugin, "0.1.0", object, cause] {
        ensure!(message.contains(part), "{part:?} is not in the error: {message}");
    }
    Ok(())
}

/// Waits until it is decided whether a pool or network can be used, and returns what is said of it.
///
/// # Errors
/// When it is not as `wanted`.
pub fn has_status(client: &mut Client, path: &str, wanted: &str) -> Result<String> {
    let begun = Instant::now();
    let mut object = client.get(path)?;
    while object["status"] == "Pending" && begun.elapsed() < Duration::from_secs(30) {
        // Nothing tells a client when a daemon has brought up what it had.
        std::thread::sleep(Duration::from_millis(20));
        object = client.get(path)?;
    }
    ensure!(object["status"] == wanted, "{path} is not {wanted}: {object}");
    Ok(object["description"].as_str().unwrap_or_default().to_owned())
}

//! `hutch plugin dev --reload`: what an author saves is in use in a running daemon a moment later, while a container runs on it.

use anyhow::{Context, Result, bail, ensure};
use hutch_tests::daemon::{Daemon, creation};
use hutch_tests::stock::Stock;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::json;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

const PLUGIN: &str = "/1.0/plugins/org.example.storage.shelf";
/// What it says when a round is over.
const WAITS: &str = "dev: waiting for a change";
/// How long a round may take: the first one builds the SDK.
const PATIENCE: Duration = Duration::from_secs(900);

/// A running `hutch plugin dev`, which ends with this.
struct Dev {
    child: Child,
    lines: Receiver<String>,
}

impl Dev {
    fn start(hutch: &Stock, project: &Path) -> Result<Self> {
        let mut command = hutch.command(&["plugin", "dev", "--no-test", "--reload"]);
        command
            .current_dir(project)
            .env("CARGO_NET_OFFLINE", "true")
            .env_remove("CARGO_TARGET_DIR")
            .env_remove("RUSTFLAGS")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        // Cargo and rustup have their places below it.
        if let Some(home) = std::env::var_os("HOME") {
            command.env("HOME", home);
        }
        let mut child = command.spawn().context("can't run hutch plugin dev")?;
        let (tell, lines) = channel();
        let output = child.stdout.take().context("no output")?;
        let errors = child.stderr.take().context("no errors")?;
        let told = tell.clone();
        std::thread::spawn(move || {
            BufReader::new(output)
                .lines()
                .map_while(Result::ok)
                .try_for_each(|l| told.send(l))
        });
        std::thread::spawn(move || {
            BufReader::new(errors)
                .lines()
                .map_while(Result::ok)
                .try_for_each(|l| tell.send(l))
        });
        Ok(Self { child, lines })
    }

    /// What it says until a round is over.
    fn round(&self) -> Result<String> {
        let mut said = String::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) if line == WAITS => return Ok(said),
                Ok(line) => said.push_str(&format!("{line}\n")),
                Err(error) => bail!("the round does not end ({error}): {said}"),
            }
        }
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // It goes on until it is interrupted, and may be building.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

fn edit(file: &Path, from: &str, to: &str) -> Result<()> {
    let text = std::fs::read_to_string(file)?;
    ensure!(text.contains(from), "{from:?} is not in {}", file.display());
    std::fs::write(file, text.replace(from, to)).context("can't save the file")
}

#[test]
fn what_is_saved_is_in_use_while_a_container_runs() -> Result<()> {
    let daemon = Daemon::start()?;
    let hutch = Stock::hutch(&daemon)?;
    let place = tempfile::tempdir()?;
    let project = place.path().join("shelf");
    let folder = project.to_string_lossy().into_owned();
    hutch.run(&["plugin", "new", &folder, "--family", "storage", "--language", "rust"])?;

    let dev = Dev::start(&hutch, &project)?;
    dev.round()?;
    let mut client = daemon.client();
    let digest = |client: &mut hutch_tests::rest::Client| -> Result<String> {
        Ok(client.get(PLUGIN)?["digest"].as_str().context("no digest")?.to_owned())
    };
    let first = digest(&mut client)?;
    hutch.run(&["storage", "create", "own", "shelf"])?;
    let root = json!({ "type": "disk", "path": "/", "pool": "own" });
    client.run(
        "POST",
        "/1.0/instances",
        &creation("c1", &json!({ "devices": { "root": root } }), true),
    )?;
    let boot = daemon.shell("c1", "echo mine > /kept; cut -d' ' -f22 /proc/1/stat")?;

    // Another message of the driver's, without another version: the author has other things in mind.
    let volume = project.join("src/volume.rs");
    edit(
        &volume,
        "there is a {} volume {new_name:?} already",
        "the shelf is full of {} {new_name:?}",
    )?;
    let mut second = digest(&mut client)?;
    while second == first {
        dev.round()?;
        second = digest(&mut client)?;
    }
    ensure!(daemon.shell("c1", "cat /kept; cut -d' ' -f22 /proc/1/stat")? == format!("mine\n{boot}"));
    hutch.run(&["snapshot", "create", "c1", "s1"])?;

    // What does not build changes nothing.
    edit(&volume, "impl Volume for Driver {", "impl Volume for Driver ?")?;
    let mut said = String::new();
    while !said.contains("error") {
        said = dev.round()?;
    }
    ensure!(said.contains("src/volume.rs"), "{said}");
    ensure!(digest(&mut client)? == second, "what does not build is in use");
    hutch.run(&["snapshot", "create", "c1", "s2"])?;

    // Mended, and with another version.
    edit(&volume, "impl Volume for Driver ?", "impl Volume for Driver {")?;
    edit(
        &project.join("plugin.toml"),
        "version = \"0.1.0\"",
        "version = \"0.2.0\"",
    )?;
    // Two files were saved; where the first was noticed alone, there is a round for each.
    while client.get(PLUGIN)?["version"] != "0.2.0" {
        dev.round()?;
    }
    ensure!(daemon.shell("c1", "cat /kept; cut -d' ' -f22 /proc/1/stat")? == format!("mine\n{boot}"));
    daemon.change("c1", "stop", true)?;
    hutch.run(&["snapshot", "restore", "c1", "s1"])?;
    hutch.run(&["start", "c1"])?;
    ensure!(daemon.shell("c1", "cat /kept")? == "mine");
    Ok(())
}

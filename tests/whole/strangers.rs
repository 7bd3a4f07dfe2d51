//! Drivers of a pretended third party (`examples/`), built as their authors build them and installed as anybody's are: each conforms, and a
//! container runs on it.

mod index;
mod macvlan;
pub(crate) mod rsync;

use anyhow::{Context, Result, ensure};
use hutch_tests::programs::Programs;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use crate::conformance::count;

/// The folder of an example.
fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name)
}

/// Builds an example and answers with the plugin's file. One build waits for another.
fn build(name: &str, command: &[&str], file: &str) -> Result<PathBuf> {
    static BUILDING: Mutex<()> = Mutex::new(());
    let _building = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    let (program, arguments) = command.split_first().context("nothing to build with")?;
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    // What an author in Python installs, `cargo xtask setup --tests` has put there.
    if let Some(tools) = std::env::var_os("HUTCH_TOOLS") {
        let mut both = Path::new(&tools).join("python/bin").into_os_string();
        both.push(":");
        both.push(&path);
        path = both;
    }
    let output = Command::new(program)
        .args(arguments)
        .env("PATH", path)
        .current_dir(folder(name))
        .env("CARGO_NET_OFFLINE", "true")
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("RUSTFLAGS")
        .output()
        .with_context(|| format!("can't run {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}\n{said}", output.status);
    Ok(folder(name).join(file))
}

/// Runs the suite as the example's `conformance.toml` says: all of it passes, at least `least` cases.
fn conforms(name: &str, plugin: &Path, more: &[&str], least: usize) -> Result<()> {
    let programs = Programs::from_environment()?;
    let output = Command::new(&programs.cli)
        .args(["plugin", "test", "--format", "json"])
        .args(more)
        .arg(plugin)
        .current_dir(folder(name))
        .env("HUTCH_KEEPER", &programs.keeper)
        .output()
        .context("can't run hutch")?;
    let said = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("{name}: no report: {said}"))?;
    let (passed, failed) = (count(&report, "passed"), count(&report, "failed"));
    ensure!(failed.is_empty(), "{name}: {failed:#?}");
    ensure!(passed.len() >= least, "{name}: only {} cases were shown", passed.len());
    Ok(())
}

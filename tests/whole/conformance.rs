//! Our own drivers against the conformance suite, as their authors run it.

use anyhow::{Context, Result, ensure};
use hutch_tests::programs::Programs;
use hutch_tests::sample::sample;
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// Runs `hutch plugin test` and answers with its report. Fails where the suite could not be run.
pub(crate) fn report(plugin: &Path, more: &[&str]) -> Result<Value> {
    let mut hutch = Command::new(Programs::from_environment()?.cli);
    hutch.arg("plugin");
    report_of(hutch, plugin, more)
}

/// The same by a program that has the command `test`.
pub(crate) fn report_of(mut program: Command, plugin: &Path, more: &[&str]) -> Result<Value> {
    let output = program
        .arg("test")
        .arg(plugin)
        .args(["--format", "json"])
        .args(more)
        .env("HUTCH_KEEPER", Programs::from_environment()?.keeper)
        .output()
        .with_context(|| format!("can't run {program:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let report: Value =
        serde_json::from_slice(&output.stdout).with_context(|| format!("{}: no report: {said}", plugin.display()))?;
    ensure!(
        output.status.success() == count(&report, "failed").is_empty(),
        "the exit status {} is another than the report's: {said}",
        output.status
    );
    Ok(report)
}

/// The cases that ended so, each with its reason.
pub(crate) fn count(report: &Value, verdict: &str) -> Vec<String> {
    let results = report["results"].as_array().into_iter().flatten();
    let ended = results.filter(|result| result["verdict"] == verdict);
    ended
        .map(|result| format!("{}: {}", result["id"], result["reason"]))
        .collect()
}

fn passes(name: &str, more: &[&str], least: usize) -> Result<()> {
    let programs = Programs::from_environment()?;
    let report = report(&programs.plugins.join(format!("{name}.wasm")), more)?;
    let (passed, failed) = (count(&report, "passed"), count(&report, "failed"));
    ensure!(failed.is_empty(), "{name} {more:?}: {failed:#?}");
    ensure!(
        passed.len() >= least,
        "{name} {more:?}: only {} cases were shown",
        passed.len()
    );
    for skipped in count(&report, "skipped") {
        println!("{name} {more:?}: skipped {skipped}");
    }
    Ok(())
}

#[test]
fn storage_dir_conforms_on_the_usual_file_systems() -> Result<()> {
    for filesystem in sample("file systems", &["tmpfs", "ext4", "xfs", "btrfs"], 2) {
        passes("storage-dir", &["--filesystem", filesystem], 120)?;
    }
    Ok(())
}

#[test]
fn storage_overlay_conforms_on_the_usual_file_systems() -> Result<()> {
    for filesystem in sample("file systems", &["tmpfs", "ext4", "xfs", "btrfs"], 2) {
        passes("storage-overlay", &["--filesystem", filesystem], 120)?;
    }
    Ok(())
}

/// Strangers' drivers run in processes of their own: it must be all the same to them.
#[test]
fn drivers_conform_in_processes_of_their_own() -> Result<()> {
    passes("storage-dir", &["--worker", "--filesystem", "tmpfs"], 110)?;
    passes("network-bridge", &["--worker"], 45)
}

#[test]
fn network_bridge_conforms() -> Result<()> {
    passes("network-bridge", &[], 45)
}

#[test]
fn zone_files_conforms() -> Result<()> {
    // As BIND reads it: what it would not load is not shown.
    let show = "named-compilezone -i none -k ignore -o - {zone} /var/lib/hutch-zones/{zone}";
    passes("zone-files", &["--show", show], 35)
}

#[test]
fn image_simplestreams_conforms() -> Result<()> {
    let tree = tempfile::tempdir()?;
    crate::sources::streams(tree.path())?;
    let folder = tree.path().to_string_lossy().into_owned();
    passes("image-simplestreams", &["--serve", &folder, "--image", "busy"], 13)
}

#[test]
fn image_debian_conforms() -> Result<()> {
    passes("image-debian", &["--image", "bookworm"], 9)
}

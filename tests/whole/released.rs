//! Drivers that were built against the first release of the interfaces, and against nothing else of this tree (`tests/released/`). They run on this
//! host and on one whose interfaces went on by a version (`xtask/src/next.rs`); what was built against that version is refused here, by a host
//! that says which it has.

use crate::conformance::{count, report_of};
use crate::installed::use_driver;
use anyhow::{Context, Result, ensure};
use hutch_tests::daemon::Daemon;
use hutch_tests::programs::Programs;
use hutch_tests::stock::Stock;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The version that they were built against, of every package.
const RELEASED: &str = "0.1.0";

const SHOW: &str = "cat /var/lib/hutch-released-zones/{zone}";
/// The drivers by their families, how each is tried, and how many cases it passes at least.
const DRIVERS: [(&str, &[&str], usize); 2] = [
    ("storage", &["--filesystem", "tmpfs"], 80),
    ("zone", &["--show", SHOW], 35),
];

fn driver(family: &str) -> Result<PathBuf> {
    let guests = Programs::from_environment()?.guests;
    let file = format!("hutch_released_{family}.wasm");
    Ok(guests.context("HUTCH_GUESTS is not set")?.join(file))
}

/// The commands of an author's on this host.
fn here() -> Result<Command> {
    let mut hutch = Command::new(Programs::from_environment()?.cli);
    hutch.arg("plugin");
    Ok(hutch)
}

/// The same on the host that follows.
fn there() -> Result<Command> {
    let program = Programs::from_environment()?.next;
    let advice =
        "HUTCH_PLUGIN_DEV_NEXT is not set: `cargo xtask test --whole` with `--filter released` or `--all` builds it";
    Ok(Command::new(program.context(advice)?))
}

/// The version of a package in this tree.
fn present(package: &str) -> Result<String> {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../wit/{package}/v0/{package}.wit"));
    let text = std::fs::read_to_string(&place).with_context(|| place.display().to_string())?;
    let declared = format!("package hutch:{package}@");
    let version = text
        .lines()
        .find_map(|line| line.strip_prefix(&declared)?.strip_suffix(';'));
    Ok(version.context("no version")?.to_owned())
}

/// The version that the host that follows has.
fn following(package: &str) -> Result<String> {
    let present = present(package)?;
    let (track, patch) = present.rsplit_once('.').context("no version")?;
    Ok(format!("{track}.{}", patch.parse::<u64>()? + 1))
}

/// A driver as it would be had it been built against version `to` of a package: that stands in every name of an interface, and in the
/// manifest. It has as many bytes, so that nothing else has to change.
fn built_against(plugin: &Path, package: &str, to: &str) -> Result<Vec<u8>> {
    ensure!(to.len() == RELEASED.len(), "{to} is longer than {RELEASED}");
    let mut bytes = std::fs::read(plugin).with_context(|| plugin.display().to_string())?;
    let (name, version) = (format!("hutch:{package}"), format!("@{RELEASED}"));
    let mut changed = 0;
    for at in 0..bytes.len() {
        let Some(rest) = bytes[at..].strip_prefix(name.as_bytes()) else {
            continue;
        };
        let interface = rest
            .iter()
            .take_while(|b| b.is_ascii_lowercase() || b"-/".contains(b))
            .count();
        if rest[interface..].starts_with(version.as_bytes()) {
            let place = at + name.len() + interface + 1;
            bytes[place..place + to.len()].copy_from_slice(to.as_bytes());
            changed += 1;
        }
    }
    ensure!(changed > 0, "{} names no interface of {package}", plugin.display());
    Ok(bytes)
}

fn conforms(host: fn() -> Result<Command>) -> Result<()> {
    for (family, more, least) in DRIVERS {
        let report = report_of(host()?, &driver(family)?, more)?;
        let (passed, failed) = (count(&report, "passed"), count(&report, "failed"));
        ensure!(failed.is_empty(), "{family}: {failed:#?}");
        ensure!(
            passed.len() >= least,
            "{family}: only {} cases were shown",
            passed.len()
        );
    }
    Ok(())
}

#[test]
fn they_conform_on_this_host() -> Result<()> {
    conforms(here)
}

#[test]
fn they_conform_on_the_host_that_follows() -> Result<()> {
    if Programs::from_environment()?.next.is_none() && !hutch_tests::sample::all() {
        println!("NOT TESTED: the host that follows is built for all cases, and by `--filter released`");
        return Ok(());
    }
    // That it is another one.
    let place = tempfile::tempdir()?;
    let newest = place.path().join("newest.wasm");
    let to = following("host")?;
    std::fs::write(&newest, built_against(&driver("storage")?, "host", &to)?)?;
    let checked = there()?.arg("check").arg(&newest).output()?;
    let said = String::from_utf8_lossy(&checked.stdout);
    ensure!(
        checked.status.success() && said.contains(&format!("hutch:host/fs@{to}")),
        "{said}"
    );
    conforms(there)
}

#[test]
fn a_container_runs_on_one_in_the_daemon() -> Result<()> {
    let mut daemon = Daemon::start()?;
    let hutch = Stock::hutch(&daemon)?;
    let file = driver("storage")?.to_string_lossy().into_owned();
    hutch.run(&["plugin", "install", &file, "--yes"])?;
    use_driver(&daemon, "released")?;
    daemon.shell("c1", "echo before > /root/file")?;
    let mut client = daemon.client();
    client.run("POST", "/1.0/instances/c1/snapshots", &json!({ "name": "s0" }))?;
    daemon.shell("c1", "echo after > /root/file")?;

    // Behind a fresh daemon, which finds the pool by the driver's own mark.
    daemon.stop()?;
    daemon.launch(&[])?;
    ensure!(daemon.shell("c1", "cat /root/file")? == "after");
    daemon.change("c1", "stop", true)?;
    let mut client = daemon.client();
    client.run("PUT", "/1.0/instances/c1", &json!({ "restore": "s0" }))?;
    daemon.change("c1", "start", false)?;
    ensure!(daemon.shell("c1", "cat /root/file")? == "before");
    hutch.run(&["delete", "--force", "c1"])?;
    hutch.run(&["storage", "delete", "own"])?;
    hutch.run(&["plugin", "remove", "released", "--yes"])?;
    Ok(())
}

#[test]
fn one_of_a_later_version_is_told_which_the_host_has() -> Result<()> {
    let daemon = Daemon::start()?;
    let hutch = Stock::hutch(&daemon)?;
    // Its own family, which its manifest names; and what it imports, of which the manifest says nothing.
    for (package, refusal) in [("storage", "this host speaks"), ("host", "this host has")] {
        let to = following(package)?;
        let file = daemon.sandbox().path().join(format!("{package}.wasm"));
        std::fs::write(&file, built_against(&driver("storage")?, package, &to)?)?;
        let (file, ours) = (file.to_string_lossy(), format!("hutch:{package}@{}", present(package)?));
        let (_, said) = hutch.fails(&["plugin", "install", &file, "--yes"])?;
        for part in [&*to, refusal, &ours, "it was built for a newer host"] {
            ensure!(said.contains(part), "{package}: {part:?} is not in: {said}");
        }
        let checked = here()?.args(["check", &file]).output()?;
        let said = String::from_utf8_lossy(&checked.stdout);
        ensure!(!checked.status.success() && said.contains(&ours), "{package}: {said}");
    }
    Ok(())
}

//! Disks that come and go while an instance runs.

use anyhow::{Context, Result, ensure};
use hutch_tests::daemon::{Daemon, creation};
use hutch_tests::rest::Client;
use serde_json::{Value, json};
use std::os::unix::fs::MetadataExt;

use crate::lifecycle::wait_for_status;

/// A directory of the host with a file in it that holds its name.
fn source(daemon: &Daemon, name: &str) -> Result<String> {
    let path = daemon.sandbox().path().join(name);
    std::fs::create_dir(&path)?;
    std::fs::write(path.join("name"), name)?;
    Ok(path.to_string_lossy().into_owned())
}

fn disk(source: &str, path: &str, more: &[(&str, &str)]) -> Value {
    let mut device = json!({ "type": "disk", "source": source, "path": path, "shift": "true" });
    for (key, value) in more {
        device[*key] = (*value).into();
    }
    device
}

/// Replaces the instance's own devices, as `config device add` and `remove` do.
fn set_devices(daemon: &Daemon, devices: &Value) -> Result<()> {
    let mut client = daemon.client();
    let mut instance = client.get("/1.0/instances/c1")?;
    instance["devices"] = devices.clone();
    client.run("PUT", "/1.0/instances/c1", &instance).map(drop)
}

/// What is in the places that these tests use.
const SHOWN: &str = "for d in /srv/a /srv/a/b /mnt; do cat $d/name 2>/dev/null || echo -n none; echo -n ' '; done";

#[test]
fn disks_come_and_go_while_the_instance_runs() -> Result<()> {
    let mut daemon = Daemon::start()?;
    let (a, b, read) = (source(&daemon, "a")?, source(&daemon, "b")?, source(&daemon, "read")?);
    daemon.instance("c1", &json!({}))?;
    let pid = |daemon: &Daemon| -> Result<Value> { Ok(daemon.client().get("/1.0/instances/c1/state")?["pid"].take()) };
    let before = pid(&daemon)?;

    // The inner one first: the order of places counts, and not that of adding.
    set_devices(&daemon, &json!({ "b": disk(&b, "/srv/a/b", &[]) }))?;
    ensure!(daemon.shell("c1", SHOWN)? == "none b none");
    let read_only = disk(&read, "/mnt", &[("readonly", "true")]);
    set_devices(
        &daemon,
        &json!({ "b": disk(&b, "/srv/a/b", &[]), "a": disk(&a, "/srv/a", &[]), "r": read_only }),
    )?;
    ensure!(daemon.shell("c1", SHOWN)? == "a b read");
    ensure!(pid(&daemon)? == before, "it was restarted");
    // Ids are the container's, on both sides.
    ensure!(daemon.shell("c1", "echo made > /srv/a/made; stat -c %u /srv/a/made /srv/a/name")? == "0\n0");
    let made = std::path::Path::new(&a).join("made");
    ensure!(made.metadata()?.uid() == 0 && std::fs::read_to_string(&made)? == "made\n");
    let refused = daemon.shell("c1", "(echo x > /mnt/x) 2>&1 || true")?;
    ensure!(refused.contains("Read-only"), "{refused}");

    // They are there after a reboot from inside, after a restart of the daemon, and can be taken away after that.
    daemon.shell("c1", "(sleep 0.1; kill -TERM 1) >/dev/null 2>&1 &")?;
    let begun = std::time::Instant::now();
    while pid(&daemon)? == before || pid(&daemon)?.as_i64() <= Some(0) {
        ensure!(begun.elapsed().as_secs() < 30, "it did not come back");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    ensure!(daemon.shell("c1", SHOWN)? == "a b read");
    daemon.crash_and_restart()?;
    set_devices(&daemon, &json!({ "a": disk(&a, "/srv/a", &[]) }))?;
    ensure!(daemon.shell("c1", SHOWN)? == "a none none");
    // A paused instance has its disks changed, too.
    daemon.change("c1", "freeze", false)?;
    set_devices(&daemon, &json!({}))?;
    daemon.change("c1", "unfreeze", false)?;
    ensure!(daemon.shell("c1", SHOWN)? == "none none none");
    ensure!(std::fs::read_to_string(std::path::Path::new(&a).join("name"))? == "a");
    Ok(())
}

#[test]
fn a_disk_that_cannot_be_added_changes_nothing() -> Result<()> {
    let daemon = Daemon::start()?;
    let (a, b) = (source(&daemon, "a")?, source(&daemon, "b")?);
    daemon.instance("c1", &json!({}))?;
    set_devices(&daemon, &json!({ "a": disk(&a, "/srv/a", &[]) }))?;
    let before = daemon.client().get("/1.0/instances/c1")?["devices"].take();
    let missing = format!("{b}/missing");
    let words = format!("Missing source path {missing:?} for disk \"b\"");
    for (devices, expected) in [
        (json!({ "b": disk(&missing, "/mnt", &[]) }), words.as_str()),
        // Below a file there is no place for it.
        (
            json!({ "b": disk(&b, "/srv/a/name/below", &[]), "a": disk(&a, "/srv/a", &[]) }),
            "/srv/a/name/below",
        ),
    ] {
        let error = set_devices(&daemon, &devices).err().context("it was accepted")?;
        let message = format!("{error:#}");
        ensure!(message.contains(expected), "{message}");
        ensure!(daemon.client().get("/1.0/instances/c1")?["devices"] == before);
        ensure!(daemon.shell("c1", SHOWN)? == "a none none");
    }
    // A profile's disks come to what runs with it.
    let mut client = daemon.client();
    let profile = json!({ "name": "shared", "devices": { "b": disk(&b, "/mnt", &[("readonly", "true")]) } });
    client.sync("POST", "/1.0/profiles", &profile)?;
    let mut instance = client.get("/1.0/instances/c1")?;
    instance["profiles"] = json!(["default", "shared"]);
    client.run("PUT", "/1.0/instances/c1", &instance)?;
    ensure!(daemon.shell("c1", SHOWN)? == "a none b");
    Ok(())
}

#[test]
fn a_source_that_is_missing_is_told_at_once() -> Result<()> {
    let daemon = Daemon::start()?;
    let mut client = daemon.client();
    let gone = source(&daemon, "gone")?;
    let nowhere = daemon.sandbox().path().join("nowhere").to_string_lossy().into_owned();
    let words = format!("Missing source path {nowhere:?} for disk \"a\"");
    let with = |device: &Value| creation("c1", &json!({ "devices": { "a": device } }), false);
    let is_refused = |client: &mut Client, method: &str, path: &str, body: &Value| -> Result<()> {
        let (status, message) = client.refused(method, path, body)?;
        ensure!(
            status == 400 && message.contains(&words),
            "{method}: {status} {message}"
        );
        Ok(())
    };
    is_refused(
        &mut client,
        "POST",
        "/1.0/instances",
        &with(&disk(&nowhere, "/srv/a", &[])),
    )?;
    ensure!(client.get("/1.0/instances")? == json!([]), "something was made");
    // A profile is for instances on machines to come; what is made with it is told.
    let profile = json!({ "name": "p", "devices": { "a": disk(&nowhere, "/srv/a", &[]) } });
    client.sync("POST", "/1.0/profiles", &profile)?;
    let mut body = creation("c1", &json!({}), false);
    body["profiles"] = json!(["default", "p"]);
    is_refused(&mut client, "POST", "/1.0/instances", &body)?;

    // Without it, where it can do without.
    let optional = disk(&nowhere, "/mnt", &[("required", "false")]);
    client.run("POST", "/1.0/instances", &with(&optional))?;
    daemon.change("c1", "start", false)?;
    daemon.change("c1", "stop", true)?;
    let missing = json!({ "devices": { "a": disk(&nowhere, "/srv/a", &[]) } });
    is_refused(&mut client, "PATCH", "/1.0/instances/c1", &missing)?;
    // A source that went away later is no reason to refuse everything else; the start says what is wrong.
    set_devices(&daemon, &json!({ "a": disk(&gone, "/srv/a", &[]) }))?;
    std::fs::remove_dir_all(&gone)?;
    client.sync("PATCH", "/1.0/instances/c1", &json!({ "config": { "user.x": "y" } }))?;
    let start = json!({ "action": "start", "timeout": 30 });
    let (_, message) = client.refused("PUT", "/1.0/instances/c1/state", &start)?;
    ensure!(
        message.contains(&gone) && message.contains("missing on the host"),
        "{message}"
    );
    Ok(())
}

#[test]
fn a_disk_that_cannot_be_removed_changes_nothing() -> Result<()> {
    let daemon = Daemon::start()?;
    let (a, b) = (source(&daemon, "a")?, source(&daemon, "b")?);
    daemon.instance("c1", &json!({}))?;
    let both = json!({ "a": disk(&a, "/srv/a", &[]), "b": disk(&b, "/mnt/in/b", &[]) });
    set_devices(&daemon, &both)?;
    // The container's root has made a place unreachable; what is unmounted before that comes back.
    daemon.shell("c1", "mv /mnt/in /mnt/moved && ln -s in /mnt/in")?;
    let failed = set_devices(&daemon, &json!({}));
    let failed = failed.err().context("it was unmounted through a link to itself")?;
    let failed = format!("{failed:#}");
    ensure!(failed.contains("/mnt/in/b"), "{failed}");
    ensure!(daemon.shell("c1", "cat /srv/a/name /mnt/moved/b/name")? == "ab");
    let shown = daemon.client().get("/1.0/instances/c1")?;
    ensure!(shown["devices"] == both, "{shown}");
    daemon.shell("c1", "rm /mnt/in && mv /mnt/moved /mnt/in")?;
    set_devices(&daemon, &json!({}))?;
    ensure!(daemon.shell("c1", SHOWN)? == "none none none");
    Ok(())
}

#[test]
fn an_interrupted_change_of_disks_is_taken_back() -> Result<()> {
    for step in ["begin", "disks", "commit", "committed"] {
        let mut daemon = Daemon::start()?;
        let a = source(&daemon, "a")?;
        daemon.instance("c1", &json!({}))?;
        daemon.stop()?;
        daemon.launch(&[("HUTCH_STOP_AT", &format!("instance-update:{step}"))])?;
        wait_for_status(&daemon, "c1", "Running")?;
        let changed = set_devices(&daemon, &json!({ "a": disk(&a, "/srv/a", &[]) }));
        ensure!(changed.is_err(), "the daemon lived on past {step}");
        ensure!(daemon.wait_for_fault()?, "{step} was not reached");
        daemon.launch(&[])?;
        let has = !daemon.client().get("/1.0/instances/c1")?["devices"]["a"].is_null();
        ensure!(has == (step == "committed"), "{step}: {has}");
        let expected = if has { "a none none" } else { "none none none" };
        ensure!(
            daemon.shell("c1", SHOWN)? == expected,
            "{step}: the container and its record differ"
        );
        // Nothing of it is in the way of the next change.
        set_devices(&daemon, &json!({ "a": disk(&a, "/mnt", &[]) }))?;
        ensure!(daemon.shell("c1", SHOWN)? == "none none a", "{step}");
    }
    Ok(())
}

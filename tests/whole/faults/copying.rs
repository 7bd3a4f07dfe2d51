//! Copies with snapshots, refreshes and moves: what they begin with, and what may be found after a daemon died at them.

use super::{Action, there};
use anyhow::{Context, Result, ensure};
use hutch_tests::daemon::Daemon;
use hutch_tests::rest::Client;
use serde_json::{Value, json};

const SNAPSHOTS: &str = "/1.0/instances/c1/snapshots";

fn root_in(pool: &str) -> Value {
    json!({ "root": { "type": "disk", "path": "/", "pool": pool } })
}

fn copy(devices: &Value) -> Value {
    json!({ "name": "c2", "source": { "type": "copy", "source": "c1", "refresh": true }, "devices": devices })
}

/// Gives the stopped `c1`, whose file says `first`, a snapshot; and what else the action needs.
pub(super) fn prepare(daemon: &Daemon, action: Action) -> Result<()> {
    let mut client = daemon.client();
    client.run("POST", SNAPSHOTS, &json!({ "name": "s1" }))?;
    match action {
        Action::CopyAway | Action::Move => super::act(&mut client, Action::PoolCreate),
        Action::Refresh => {
            client.run("POST", "/1.0/instances", &copy(&json!({})))?;
            client.run("DELETE", &format!("{SNAPSHOTS}/s1"), &Value::Null)?;
            daemon.change("c1", "start", false)?;
            daemon.shell("c1", "echo second > /root/file; sync")?;
            daemon.change("c1", "stop", true)?;
            client.run("POST", SNAPSHOTS, &json!({ "name": "s2" })).map(drop)
        }
        _ => Ok(()),
    }
}

pub(super) fn act(client: &mut Client, action: Action) -> Result<()> {
    match action {
        Action::CopyAway => client.run("POST", "/1.0/instances", &copy(&root_in("faultpool"))),
        Action::Move => client.run(
            "POST",
            "/1.0/instances/c1",
            &json!({ "migration": true, "pool": "faultpool" }),
        ),
        _ => client.run("POST", "/1.0/instances", &copy(&json!({}))),
    }
    .map(drop)
}

/// Looks whether each instance is wholly what it was or what it was to be.
pub(super) fn look(daemon: &Daemon, action: Action, point: &str) -> Result<()> {
    let mut client = daemon.client();
    ensure!(there(&mut client, "c1")?, "the instance is lost");
    match action {
        Action::Move => {
            let pool = client.get("/1.0/instances/c1")?["expanded_devices"]["root"]["pool"].clone();
            let begun = !point.starts_with("instance-move") || point.ends_with("committed");
            ensure!(
                !begun || pool == "faultpool",
                "a move that was begun was not finished: {pool}"
            );
            is_whole(daemon, "c1", "s1", "first")
        }
        Action::Refresh => {
            let renewed = point.starts_with("instance-renew") || point.ends_with("committed");
            let name = if renewed { "s2" } else { "s1" };
            is_whole(daemon, "c2", name, if renewed { "second" } else { "first" })?;
            is_whole(daemon, "c1", "s2", "second")
        }
        _ => {
            if !there(&mut client, "c2")? {
                act(&mut client, action)?;
            }
            is_whole(daemon, "c2", "s1", "first")?;
            is_whole(daemon, "c1", "s1", "first")
        }
    }
}

/// The instance is stopped, and it and its one snapshot have this file.
fn is_whole(daemon: &Daemon, instance: &str, snapshot: &str, file: &str) -> Result<()> {
    let mut client = daemon.client();
    let path = format!("/1.0/instances/{instance}");
    let status = daemon.status(instance)?;
    ensure!(status == "Stopped", "{instance} is {status}");
    let snapshots = client.get(&format!("{path}/snapshots?recursion=1"))?;
    let snapshots = snapshots.as_array().context("snapshots that are no list")?;
    let names: Vec<&Value> = snapshots.iter().map(|one| &one["name"]).collect();
    ensure!(names == [snapshot], "{instance} has the snapshots {names:?}");
    for restored in [false, true] {
        if restored {
            client.run("PUT", &path, &json!({ "restore": snapshot }))?;
        }
        daemon.change(instance, "start", false)?;
        let found = daemon.shell(instance, "cat /root/file; echo changed > /root/file")?;
        ensure!(found == file, "{instance} has {found:?} (restored: {restored})");
        daemon.change(instance, "stop", true)?;
    }
    Ok(())
}

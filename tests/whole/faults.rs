//! The daemon killed at every step of the journal: what was begun is finished or taken back, and nothing else is touched.

mod copying;
mod release;

use anyhow::{Context, Result, ensure};
use hutch_tests::daemon::{Daemon, IMAGE, creation, tail};
use hutch_tests::leftovers::Leftovers;
use hutch_tests::rest::Client;
use hutch_tests::sample::sample;
use serde_json::{Value, json};

/// What is being done when the daemon dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Create,
    Start,
    Stop,
    /// Of an ephemeral instance, which goes when it is stopped for good.
    Restart,
    Delete,
    Rename,
    Rebuild,
    Snapshot,
    SnapshotRunning,
    Restore,
    RestoreRunning,
    SnapshotRename,
    SnapshotDelete,
    /// With a snapshot, in the same pool.
    Copy,
    /// The same into another pool, of another driver.
    CopyAway,
    Refresh,
    /// To another pool, of another driver.
    Move,
    NetworkCreate,
    NetworkDelete,
    PoolCreate,
    PoolDelete,
}

impl Action {
    fn copies(self) -> bool {
        matches!(self, Self::Copy | Self::CopyAway | Self::Refresh | Self::Move)
    }

    fn finds_it_running(self) -> bool {
        matches!(
            self,
            Self::Stop | Self::Restart | Self::SnapshotRunning | Self::RestoreRunning
        )
    }
}

/// The journal's kinds of entry for an action, and the steps between its beginning and its end.
const CASES: &[(Action, &str, &[&str])] = &[
    (Action::Create, "instance-create", &["volume"]),
    (Action::Start, "instance-start", &["keeper", "nics", "init"]),
    (Action::Stop, "instance-stop", &["asked"]),
    (Action::Restart, "instance-restart", &[]),
    (Action::Restart, "instance-stop", &["asked"]),
    (Action::Restart, "instance-start", &["keeper", "nics", "init"]),
    (Action::Delete, "instance-delete", &["volume"]),
    (Action::Rename, "instance-rename", &["volume"]),
    (Action::Rebuild, "instance-rebuild", &["removed", "volume"]),
    (Action::Snapshot, "snapshot-create", &["volume"]),
    (Action::SnapshotRunning, "snapshot-create", &["frozen", "volume"]),
    (Action::Restore, "snapshot-restore", &["volume"]),
    (Action::RestoreRunning, "instance-restart", &[]),
    (Action::RestoreRunning, "instance-stop", &["asked"]),
    (Action::RestoreRunning, "snapshot-restore", &["volume"]),
    (Action::RestoreRunning, "instance-start", &["keeper", "nics", "init"]),
    (Action::SnapshotRename, "snapshot-rename", &["volume"]),
    (Action::SnapshotDelete, "snapshot-delete", &["volume"]),
    (Action::Copy, "instance-create", &["root", "volume"]),
    (Action::CopyAway, "instance-create", &["root", "volume"]),
    (Action::Refresh, "instance-refresh", &["snapshots", "root"]),
    (Action::Refresh, "instance-renew", &["dropped", "snapshots", "root"]),
    (Action::Move, "instance-move", &["root", "volume"]),
    (Action::Move, "instance-leave", &["volume"]),
    (Action::NetworkCreate, "network-create", &["network"]),
    (Action::NetworkDelete, "network-delete", &["network"]),
    (Action::PoolCreate, "pool-create", &["marked", "covered", "pool"]),
    (Action::PoolDelete, "pool-delete", &["pool"]),
];

/// How many of the points are tried in an ordinary run. `HUTCH_TEST_POINT="Restore snapshot-restore:volume"` tries one.
const SAMPLE: usize = 10;

#[test]
fn killed_at_each_step_it_is_finished_or_taken_back() -> Result<()> {
    let mut points = Vec::new();
    for (action, kind, steps) in CASES {
        for step in ["begin"].iter().chain(*steps).chain(&["commit", "committed"]) {
            points.push((*action, format!("{kind}:{step}")));
        }
    }
    let mut daemon = Daemon::start()?;
    daemon.instance("bystander", &json!({}))?;
    let bystander = state(&mut daemon.client(), "bystander")?["pid"].clone();
    // What the first creation leaves in the pool, the image's own volume, is there from now on.
    let before = Leftovers::settled(&daemon)?;
    if let Ok(chosen) = std::env::var("HUTCH_TEST_POINT") {
        points.retain(|(action, point)| format!("{action:?} {point}").contains(&chosen));
        ensure!(!points.is_empty(), "there is no fault point {chosen:?}");
    }
    for (action, point) in sample("fault points", &points, SAMPLE) {
        println!("{action:?} killed at {point}");
        let done = one(&mut daemon, action, &point);
        done.with_context(|| format!("{action:?} killed at {point}: {}", tail(&daemon.log())))?;
        ensure!(
            state(&mut daemon.client(), "bystander")?["pid"] == bystander,
            "{point}: another instance was touched"
        );
        ensure!(daemon.shell("bystander", "echo alive")? == "alive");
        before
            .compare_with_now(&daemon)
            .with_context(|| format!("{action:?} killed at {point}"))?;
    }
    Ok(())
}

/// Prepares, dies at the point, starts again, looks, and does the whole once more without a fault.
fn one(daemon: &mut Daemon, action: Action, point: &str) -> Result<()> {
    prepare(daemon, action)?;
    daemon.stop()?;
    daemon.launch(&[("HUTCH_STOP_AT", point)])?;
    // The answer does not come, or comes before the daemon dies.
    let _ = act(&mut daemon.client(), action);
    ensure!(daemon.wait_for_fault()?, "the daemon did not come to {point}");
    daemon.launch(&[])?;
    match action.copies() {
        true => copying::look(daemon, action, point)?,
        false => look(daemon, action)?,
    }
    clear(daemon)
}

fn prepare(daemon: &Daemon, action: Action) -> Result<()> {
    let mut client = daemon.client();
    match action {
        Action::Create | Action::NetworkCreate | Action::PoolCreate => return Ok(()),
        Action::NetworkDelete => return act(&mut client, Action::NetworkCreate),
        Action::PoolDelete => return act(&mut client, Action::PoolCreate),
        _ => {}
    }
    let more = json!({ "ephemeral": action == Action::Restart });
    client.run("POST", "/1.0/instances", &creation("c1", &more, true))?;
    daemon.shell("c1", "echo first > /root/file; sync")?;
    if !action.finds_it_running() {
        daemon.change("c1", "stop", true)?;
    }
    if matches!(
        action,
        Action::Restore | Action::RestoreRunning | Action::SnapshotRename | Action::SnapshotDelete
    ) {
        client.run("POST", "/1.0/instances/c1/snapshots", &json!({ "name": "s1" }))?;
    }
    match action.copies() {
        true => copying::prepare(daemon, action),
        false => Ok(()),
    }
}

fn act(client: &mut Client, action: Action) -> Result<()> {
    let state = |state: &str| json!({ "action": state, "force": true, "timeout": 10 });
    let instance = "/1.0/instances/c1";
    let snapshot = "/1.0/instances/c1/snapshots/s1";
    match action {
        Action::Create => client.run("POST", "/1.0/instances", &creation("c1", &json!({}), false)),
        Action::Start => client.run("PUT", "/1.0/instances/c1/state", &state("start")),
        Action::Stop => client.run("PUT", "/1.0/instances/c1/state", &state("stop")),
        Action::Restart => client.run("PUT", "/1.0/instances/c1/state", &state("restart")),
        Action::Delete => client.run("DELETE", instance, &Value::Null),
        Action::Rename => client.run("POST", instance, &json!({ "name": "c2" })),
        Action::Rebuild => {
            let source = json!({ "source": { "type": "image", "alias": IMAGE } });
            client.run("POST", "/1.0/instances/c1/rebuild", &source)
        }
        Action::Snapshot | Action::SnapshotRunning => {
            client.run("POST", "/1.0/instances/c1/snapshots", &json!({ "name": "s1" }))
        }
        Action::Restore | Action::RestoreRunning => client.run("PUT", instance, &json!({ "restore": "s1" })),
        Action::SnapshotRename => client.run("POST", snapshot, &json!({ "name": "s2" })),
        Action::SnapshotDelete => client.run("DELETE", snapshot, &Value::Null),
        Action::NetworkCreate => {
            let config = json!({ "ipv4.address": "10.215.0.1/24", "ipv6.address": "none" });
            client.sync(
                "POST",
                "/1.0/networks",
                &json!({ "name": "faultnet", "type": "bridge", "config": config }),
            )
        }
        Action::NetworkDelete => client.sync("DELETE", "/1.0/networks/faultnet", &Value::Null),
        Action::PoolCreate => client.sync(
            "POST",
            "/1.0/storage-pools",
            &json!({ "name": "faultpool", "driver": "dir", "config": {} }),
        ),
        Action::PoolDelete => client.sync("DELETE", "/1.0/storage-pools/faultpool", &Value::Null),
        Action::Copy | Action::CopyAway | Action::Refresh | Action::Move => return copying::act(client, action),
    }
    .map(drop)
}

/// Looks whether what is there is one of the two ends, and usable.
fn look(daemon: &Daemon, action: Action) -> Result<()> {
    let mut client = daemon.client();
    let logs = daemon.state_dir().join("logs/c1");
    match action {
        Action::NetworkCreate | Action::NetworkDelete | Action::PoolCreate | Action::PoolDelete => return Ok(()),
        Action::Create if !there(&mut client, "c1")? => act(&mut client, Action::Create)?,
        Action::Delete => {
            // It is finished while requests are served already.
            let begun = std::time::Instant::now();
            while there(&mut client, "c1")? {
                ensure!(
                    begun.elapsed().as_secs() < 15,
                    "a deletion that was begun was not finished"
                );
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            ensure!(!logs.exists(), "{} would be the next one's", logs.display());
            return Ok(());
        }
        _ => {}
    }
    let name = if there(&mut client, "c2")? { "c2" } else { "c1" };
    ensure!(there(&mut client, name)?, "the instance is lost");
    ensure!(
        name == "c1" || !logs.exists(),
        "{} would be the next one's",
        logs.display()
    );
    let status = daemon.status(name)?;
    match action {
        Action::Stop => ensure!(status == "Stopped", "a stop that was begun was not finished: {status}"),
        _ if action.finds_it_running() => ensure!(status == "Running", "it does not run on: {status}"),
        _ => {}
    }
    if daemon.status(name)? != "Running" {
        daemon.change(name, "start", false)?;
    }
    // A rebuilding that was begun is finished, and then its root is the image's.
    let expected = match action {
        Action::Create | Action::Rebuild => "",
        _ => "first",
    };
    ensure!(
        daemon.shell(name, "cat /root/file 2>/dev/null; true")? == expected,
        "the files are not what they were"
    );
    let snapshots = client.get(&format!("/1.0/instances/{name}/snapshots?recursion=1"))?;
    let snapshots = snapshots.as_array().context("snapshots that are no list")?;
    match action {
        Action::Restore | Action::RestoreRunning | Action::SnapshotRename => {
            ensure!(snapshots.len() == 1, "{} snapshots", snapshots.len());
        }
        Action::SnapshotDelete => ensure!(snapshots.is_empty(), "a deletion that was begun was not finished"),
        _ => {}
    }
    for snapshot in snapshots {
        let snapshot = snapshot["name"].as_str().unwrap_or_default();
        daemon.change(name, "stop", true)?;
        client.run(
            "PUT",
            &format!("/1.0/instances/{name}"),
            &json!({ "restore": snapshot }),
        )?;
        daemon.change(name, "start", false)?;
        ensure!(
            daemon.shell(name, "cat /root/file")? == "first",
            "the snapshot is not what it was"
        );
    }
    Ok(())
}

/// Removes what the case made, so that the next one begins as this one did.
fn clear(daemon: &Daemon) -> Result<()> {
    let mut client = daemon.client();
    for name in ["c1", "c2"] {
        if there(&mut client, name)? && daemon.status(name)? != "Stopped" {
            daemon.change(name, "stop", true)?;
        }
        // An ephemeral one went when it was stopped.
        if there(&mut client, name)? {
            client.run("DELETE", &format!("/1.0/instances/{name}"), &Value::Null)?;
        }
    }
    for path in ["/1.0/networks/faultnet", "/1.0/storage-pools/faultpool"] {
        let answer = client.request("GET", path, &Value::Null)?;
        if answer.status == 200 && answer.json()?["metadata"]["managed"] != false {
            // A deletion that was interrupted may be finished between the two requests.
            let answer = client.request("DELETE", path, &Value::Null)?;
            ensure!([200, 404].contains(&answer.status), "{path}: {}", answer.error());
        }
    }
    Ok(())
}

fn there(client: &mut Client, name: &str) -> Result<bool> {
    Ok(client
        .request("GET", &format!("/1.0/instances/{name}"), &Value::Null)?
        .status
        == 200)
}

fn state(client: &mut Client, name: &str) -> Result<Value> {
    client.get(&format!("/1.0/instances/{name}/state"))
}

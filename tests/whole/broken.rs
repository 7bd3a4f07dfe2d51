//! Changes that fail, or can't be gone on with after a crash: what was told to have failed stays failed, what may be half done is
//! shown and not used, and what is not over holds the instance until it is.

use anyhow::{Context, Result, ensure};
use hutch_tests::daemon::{Daemon, creation};
use hutch_tests::faulty::{Faulty, configuration, storage_file};
use hutch_tests::stock::Stock;
use serde_json::{Value, json};

const POOL: &str = "/1.0/storage-pools/broken";
const VICTIM: &str = "/1.0/instances/victim";
const SNAPSHOT: &str = "/1.0/instances/victim/snapshots/s1";

/// A stopped instance on the pool of the misbehaving driver, with a snapshot, and a file that is newer than that.
fn prepared() -> Result<Faulty> {
    let faulty = Faulty::start()?;
    let mut client = faulty.daemon.client();
    client.sync(
        "POST",
        "/1.0/storage-pools",
        &json!({ "name": "broken", "driver": "faulty", "config": {} }),
    )?;
    let root = json!({ "root": { "type": "disk", "path": "/", "pool": "broken" } });
    client.run(
        "POST",
        "/1.0/instances",
        &creation("victim", &json!({ "devices": root }), true),
    )?;
    faulty.daemon.change("victim", "stop", true)?;
    client.run("POST", "/1.0/instances/victim/snapshots", &json!({ "name": "s1" }))?;
    faulty.daemon.change("victim", "start", false)?;
    faulty.daemon.shell("victim", "echo work > /root/work; sync")?;
    faulty.daemon.change("victim", "stop", true)?;
    Ok(faulty)
}

fn again(faulty: &mut Faulty) -> Result<()> {
    faulty.restart(&configuration(&storage_file()?, "")?)
}

/// Does what must fail because the driver does, then lets the driver work again.
fn fails(faulty: &Faulty, function: &str, (method, path, body): (&str, &str, Value)) -> Result<String> {
    faulty.fault(POOL, function, "own-error")?;
    let (_, message) = faulty.daemon.client().refused(method, path, &body)?;
    faulty.fault(POOL, function, "")?;
    ensure!(message.contains("the thing is"), "{function}: {message}");
    Ok(message)
}

/// Fails unless the instance is shown as broken, and can't be started for this reason.
fn is_broken(faulty: &Faulty, why: &str) -> Result<()> {
    let mut client = faulty.daemon.client();
    let status = client.get(VICTIM)?["status"].clone();
    ensure!(status == "Error", "{why}: it is shown as {status}");
    let start = json!({ "action": "start", "timeout": 10 });
    let (_, message) = client.refused("PUT", "/1.0/instances/victim/state", &start)?;
    ensure!(message.contains(why), "{why}: {message}");
    Ok(())
}

#[test]
fn a_restore_that_failed_is_repeated_by_people_alone() -> Result<()> {
    let mut faulty = prepared()?;
    fails(&faulty, "snapshot.restore", ("PUT", VICTIM, json!({ "restore": "s1" })))?;
    is_broken(&faulty, "restoring snapshot s1 failed")?;
    again(&mut faulty)?;
    is_broken(&faulty, "restoring snapshot s1 failed")?;
    let (_, message) =
        faulty
            .daemon
            .client()
            .refused("POST", "/1.0/instances/victim/snapshots", &json!({ "name": "s2" }))?;
    ensure!(message.contains("restoring snapshot s1 failed"), "{message}");
    let work = faulty
        .daemon
        .state_dir()
        .join("storage-pools/broken/container/victim/rootfs/root/work");
    ensure!(work.exists(), "it was restored by the start of the daemon");
    faulty.daemon.client().run("PUT", VICTIM, &json!({ "restore": "s1" }))?;
    ensure!(!work.exists(), "it was not restored");
    faulty.daemon.change("victim", "start", false)?;
    ensure!(faulty.daemon.shell("victim", "echo fine")? == "fine");
    Ok(())
}

#[test]
fn a_deletion_that_failed_is_repeated_by_people_alone() -> Result<()> {
    let mut faulty = prepared()?;
    fails(&faulty, "snapshot.delete", ("DELETE", SNAPSHOT, Value::Null))?;
    again(&mut faulty)?;
    let mut client = faulty.daemon.client();
    client.get(SNAPSHOT).context("the start of the daemon deleted it")?;
    let (_, message) = client.refused("PUT", VICTIM, &json!({ "restore": "s1" }))?;
    ensure!(message.contains("deleting it failed"), "{message}");
    client.run("DELETE", SNAPSHOT, &Value::Null)?;

    fails(&faulty, "volume.delete", ("DELETE", VICTIM, Value::Null))?;
    is_broken(&faulty, "deleting it failed")?;
    again(&mut faulty)?;
    is_broken(&faulty, "deleting it failed")?;
    faulty.daemon.client().run("DELETE", VICTIM, &Value::Null).map(drop)
}

#[test]
fn the_stock_clients_delete_what_is_broken() -> Result<()> {
    let faulty = Faulty::start()?;
    let mut client = faulty.daemon.client();
    client.sync(
        "POST",
        "/1.0/storage-pools",
        &json!({ "name": "broken", "driver": "faulty", "config": {} }),
    )?;
    let root = json!({ "root": { "type": "disk", "path": "/", "pool": "broken" } });
    let clients = [
        Some(Stock::hutch(&faulty.daemon)?),
        Stock::incus(&faulty.daemon),
        Stock::lxc(&faulty.daemon),
    ];
    for stock in clients.into_iter().flatten() {
        let body = creation("victim", &json!({ "devices": root }), false);
        client.run("POST", "/1.0/instances", &body)?;
        fails(&faulty, "volume.delete", ("DELETE", VICTIM, Value::Null))?;
        is_broken(&faulty, "deleting it failed")?;
        stock.run(&["delete", "--force", "victim"])?;
        let answer = client.request("GET", VICTIM, &Value::Null)?;
        ensure!(answer.status == 404, "{stock:?}: {}", answer.status);
    }
    // What is stopped and whole is still not to be stopped once more.
    client.run(
        "POST",
        "/1.0/instances",
        &creation("victim", &json!({ "devices": root }), false),
    )?;
    let stop = json!({ "action": "stop", "timeout": 10, "force": true });
    let (_, message) = client.refused("PUT", "/1.0/instances/victim/state", &stop)?;
    ensure!(message.contains("already stopped"), "{message}");
    Ok(())
}

#[test]
fn a_renaming_that_failed_twice_is_finished_by_the_next_start() -> Result<()> {
    let mut faulty = prepared()?;
    // The taking back fails as well.
    fails(&faulty, "volume.rename", ("POST", VICTIM, json!({ "name": "renamed" })))?;
    is_broken(&faulty, "could not be taken back")?;
    let answer = faulty
        .daemon
        .client()
        .request("GET", "/1.0/instances/renamed", &Value::Null)?;
    ensure!(answer.status == 404, "{}", answer.status);
    again(&mut faulty)?;
    faulty.daemon.change("renamed", "start", false)?;
    ensure!(faulty.daemon.shell("renamed", "cat /root/work")? == "work");
    Ok(())
}

#[test]
fn a_renaming_that_failed_twice_is_no_obstacle_to_deletion() -> Result<()> {
    let faulty = prepared()?;
    let mut client = faulty.daemon.client();
    let rename = json!({ "name": "renamed" });
    fails(&faulty, "volume.rename", ("POST", VICTIM, rename))?;
    is_broken(&faulty, "could not be taken back")?;
    // The volume may have either name, so that the driver is needed for this, too.
    fails(&faulty, "volume.rename", ("DELETE", VICTIM, Value::Null))?;
    is_broken(&faulty, "could not be taken back")?;
    client.run("DELETE", VICTIM, &Value::Null)?;
    let volumes = faulty.daemon.state_dir().join("storage-pools/broken/container");
    ensure!(!volumes.join("victim").exists(), "the volume is left");
    // Both names are free again.
    for name in ["victim", "renamed"] {
        let root = json!({ "root": { "type": "disk", "path": "/", "pool": "broken" } });
        client.run(
            "POST",
            "/1.0/instances",
            &creation(name, &json!({ "devices": root }), false),
        )?;
    }
    Ok(())
}

#[test]
fn a_renaming_that_changed_nothing_leaves_a_usable_instance() -> Result<()> {
    let mut faulty = prepared()?;
    let mut client = faulty.daemon.client();
    let volumes = faulty.daemon.state_dir().join("storage-pools/broken/container");
    // Something is there under the new name.
    let foreign = volumes.join("renamed/foreign");
    std::fs::create_dir_all(&foreign)?;
    let rename = json!({ "name": "renamed" });
    let (_, message) = client.refused("POST", VICTIM, &rename)?;
    ensure!(message.contains("renaming the volume of instance victim"), "{message}");
    ensure!(foreign.exists(), "what was there is gone");
    faulty.daemon.change("victim", "start", false)?;
    ensure!(faulty.daemon.shell("victim", "cat /root/work")? == "work");
    faulty.daemon.change("victim", "stop", true)?;
    again(&mut faulty)?;
    let mut client = faulty.daemon.client();
    ensure!(
        client.get(VICTIM)?["status"] == "Stopped",
        "the next start went on with it"
    );

    // What was to be renamed is lost: a snapshot first, which is in the way of nothing else.
    let snapshot = volumes.join("../snapshots/container victim s1");
    std::fs::rename(&snapshot, volumes.join("../lost-snapshot"))?;
    let (_, message) = client.refused("POST", SNAPSHOT, &json!({ "name": "s2" }))?;
    ensure!(message.contains("renaming snapshot victim/s1"), "{message}");
    client.get(SNAPSHOT)?;
    client.run("POST", "/1.0/instances/victim/snapshots", &json!({ "name": "s3" }))?;
    std::fs::rename(volumes.join("victim"), volumes.join("../lost"))?;
    let other = json!({ "name": "other" });
    let (_, message) = client.refused("POST", VICTIM, &other)?;
    ensure!(message.contains("renaming the volume of instance victim"), "{message}");
    let answer = client.request("GET", "/1.0/instances/other", &Value::Null)?;
    ensure!(answer.status == 404, "{}", answer.status);
    client.run("DELETE", VICTIM, &Value::Null).map(drop)
}

#[test]
fn what_can_not_be_finished_yet_holds_the_instance() -> Result<()> {
    let mut faulty = prepared()?;
    for (point, request, what) in [
        (
            "instance-rename:volume",
            ("POST", VICTIM, json!({ "name": "renamed" })),
            "its renaming to renamed",
        ),
        (
            "snapshot-restore:begin",
            ("PUT", "/1.0/instances/renamed", json!({ "restore": "s1" })),
            "the restoring of snapshot s1",
        ),
        (
            "instance-delete:begin",
            ("DELETE", "/1.0/instances/renamed", Value::Null),
            "its deletion",
        ),
    ] {
        let (method, path, body) = request;
        faulty.daemon.stop()?;
        faulty.daemon.launch(&[("HUTCH_STOP_AT", point)])?;
        let _ = faulty.daemon.client().request(method, path, &body);
        ensure!(faulty.daemon.wait_for_fault()?, "the daemon did not come to {point}");
        // Without the pool's driver.
        faulty.daemon.configure("")?;
        faulty.daemon.launch(&[])?;
        let mut client = faulty.daemon.client();
        let list = client.get("/1.0/instances")?;
        ensure!(
            list.as_array().is_some_and(|list| list.len() == 2),
            "{point}: beside the bystander: {list}"
        );
        ensure!(client.get(path)?["status"] == "Error", "{point}: it looks usable");
        let state = format!("{path}/state");
        let (_, message) = client.refused("PUT", &state, &json!({ "action": "start", "timeout": 10 }))?;
        ensure!(
            message.contains(what) && message.contains("interrupted"),
            "{point}: {message}"
        );
        again(&mut faulty)?;
    }
    let answer = faulty
        .daemon
        .client()
        .request("GET", "/1.0/instances/renamed", &Value::Null)?;
    ensure!(answer.status == 404, "the deletion was not finished");
    Ok(())
}

#[test]
fn a_creation_that_could_not_be_taken_back_is_not_in_the_way() -> Result<()> {
    let mut faulty = Faulty::start()?;
    let mut client = faulty.daemon.client();
    let both = json!({ "fault.volume.create-from-image": "own-error", "fault.volume.delete": "own-error" });
    let pool = json!({ "name": "broken", "driver": "faulty", "config": both });
    client.sync("POST", "/1.0/storage-pools", &pool)?;
    let root = json!({ "root": { "type": "disk", "path": "/", "pool": "broken" } });
    let create = creation("victim", &json!({ "devices": root }), false);
    let left = faulty.daemon.state_dir().join("storage-pools/broken/container/victim");
    // Made again at once, and by the next daemon.
    for next in [false, true] {
        for way in ["volume.create-from-image", "volume.delete"] {
            faulty.fault(POOL, way, "own-error")?;
        }
        let (_, message) = client.refused("POST", "/1.0/instances", &create)?;
        ensure!(message.contains("the thing is"), "{message}");
        ensure!(left.exists(), "there is nothing to be in the way");
        faulty.fault(POOL, "volume.create-from-image", "")?;
        // As long as it can't be removed the reason is told.
        let (_, message) = client.refused("POST", "/1.0/instances", &create)?;
        ensure!(message.contains("removing the unfinished volume"), "{message}");
        let answer = client.request("GET", VICTIM, &Value::Null)?;
        ensure!(answer.status == 404, "{}", answer.status);
        faulty.fault(POOL, "volume.delete", "")?;
        if next {
            again(&mut faulty)?;
            client = faulty.daemon.client();
            // This driver removes nothing by itself.
            std::fs::remove_dir_all(&left)?;
        }
        client.run("POST", "/1.0/instances", &create)?;
        client.run("DELETE", VICTIM, &Value::Null)?;
        ensure!(!left.exists(), "the volume is left");
    }
    // What is somebody else's stays, and is said to be there.
    std::fs::create_dir_all(left.join("foreign"))?;
    let (_, message) = client.refused("POST", "/1.0/instances", &create)?;
    ensure!(message.contains("there is a volume"), "{message}");
    ensure!(left.join("foreign").exists(), "what was there is gone");
    Ok(())
}

#[test]
fn an_interrupted_change_of_interfaces_leaves_none_that_is_not_recorded() -> Result<()> {
    let mut daemon = Daemon::start()?;
    daemon.instance("c1", &json!({}))?;
    let nic = json!({ "devices": { "eth1": { "type": "nic", "network": daemon.network(), "name": "eth1" } } });
    let has_eth1 = |daemon: &Daemon| daemon.shell("c1", "test -e /sys/class/net/eth1 && echo yes || echo no");
    let outside = daemon.sandbox().interfaces()?.len();
    for (path, recorded) in [("/1.0/instances/c1", false), ("/1.0/profiles/default", true)] {
        for step in ["nics", "commit"] {
            daemon.stop()?;
            daemon.launch(&[("HUTCH_STOP_AT", &format!("instance-update:{step}"))])?;
            let changed = daemon.client().request("PATCH", path, &nic);
            ensure!(changed.is_err(), "the daemon lived on past {step}");
            ensure!(daemon.wait_for_fault()?, "{step} was not reached");
            daemon.launch(&[])?;
            let mut client = daemon.client();
            let instance = client.get("/1.0/instances/c1")?;
            // A profile is stored before its instances follow it.
            ensure!(
                instance["expanded_devices"]["eth1"].is_object() == recorded,
                "{path}: {step}: {instance}"
            );
            let inside = has_eth1(&daemon)?;
            ensure!(
                (inside == "yes") == recorded,
                "{path}: {step}: is eth1 inside? {inside}; {instance}"
            );
            // Nothing of it is in the way of the next change.
            client.sync("PATCH", "/1.0/instances/c1", &nic)?;
            ensure!(has_eth1(&daemon)? == "yes", "{path}: {step}: it can't be added");
            for path in ["/1.0/profiles/default", "/1.0/instances/c1"] {
                let mut put = client.get(path)?;
                if let Some(devices) = put["devices"].as_object_mut() {
                    devices.remove("eth1");
                }
                let answer = client.request("PUT", path, &put)?;
                if answer.status == 202 {
                    client.wait(&answer.json()?["metadata"])?;
                }
                ensure!(answer.status < 300, "{}", answer.error());
            }
            ensure!(has_eth1(&daemon)? == "no", "{path}: {step}: it can't be removed");
            let now = daemon.sandbox().interfaces()?.len();
            ensure!(
                now == outside,
                "{path}: {step}: {now} interfaces outside, not {outside}"
            );
        }
    }
    Ok(())
}

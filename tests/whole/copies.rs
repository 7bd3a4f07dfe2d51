//! Copies of instances with their snapshots, brought up to date and moved, within a pool and between pools of different drivers.

use anyhow::{Context, Result, ensure};
use hutch_tests::daemon::{Daemon, creation};
use hutch_tests::leftovers::Leftovers;
use hutch_tests::rest::Client;
use hutch_tests::stock::Stock;
use serde_json::{Value, json};

/// The pools of [`daemon`].
const POOLS: [&str; 2] = ["layers", "trees"];

/// Everything that a snapshot's restoring has to bring back.
const LOOK: &str = "cat /root/file; stat -c '%u %g %h' /root/d/owned; ls /bin/vi 2>/dev/null || echo none";

/// A daemon with a pool of each of our drivers.
fn daemon() -> Result<Daemon> {
    let daemon = Daemon::start()?;
    for (name, driver) in POOLS.iter().zip(["overlay", "dir"]) {
        let pool = json!({ "name": name, "driver": driver, "config": {} });
        daemon.client().sync("POST", "/1.0/storage-pools", &pool)?;
        // What the first creation leaves in a pool is the image's own volume, and directories of the driver's.
        let devices = json!({ "devices": root_in(name) });
        daemon
            .client()
            .run("POST", "/1.0/instances", &creation("c1", &devices, false))?;
        delete(&daemon, "c1")?;
    }
    Ok(daemon)
}

fn root_in(pool: &str) -> Value {
    json!({ "root": { "type": "disk", "path": "/", "pool": pool } })
}

fn snapshots(client: &mut Client, instance: &str) -> Result<Vec<Value>> {
    let list = client.get(&format!("/1.0/instances/{instance}/snapshots?recursion=1"))?;
    Ok(list.as_array().context("snapshots that are no list")?.clone())
}

fn snapshot(client: &mut Client, instance: &str, name: &str) -> Result<Value> {
    let body = json!({ "name": name, "expires_at": "2099-01-02T03:04:05Z" });
    client.run("POST", &format!("/1.0/instances/{instance}/snapshots"), &body)
}

fn restore(daemon: &Daemon, instance: &str, name: &str) -> Result<String> {
    daemon.change(instance, "stop", true)?;
    let body = json!({ "restore": name });
    daemon
        .client()
        .run("PUT", &format!("/1.0/instances/{instance}"), &body)?;
    daemon.change(instance, "start", false)?;
    daemon.shell(instance, LOOK)
}

fn looks(found: &str, expected: &str) -> Result<()> {
    ensure!(found == expected, "{found:?} instead of {expected:?}");
    Ok(())
}

fn delete(daemon: &Daemon, instance: &str) -> Result<()> {
    if daemon.status(instance)? != "Stopped" {
        daemon.change(instance, "stop", true)?;
    }
    let path = format!("/1.0/instances/{instance}");
    daemon.client().run("DELETE", &path, &Value::Null).map(drop)
}

/// A running `c1` with two snapshots and something after them.
fn source(daemon: &Daemon, pool: &str) -> Result<()> {
    let mut client = daemon.client();
    let config = json!({ "user.colour": "blue" });
    daemon.instance("c1", &json!({ "devices": root_in(pool), "config": config }))?;
    daemon.shell(
        "c1",
        "mkdir /root/d; echo first > /root/file; touch /root/d/owned; ln /root/d/owned /root/d/other; chown 7:8 /root/d/owned; sync",
    )?;
    snapshot(&mut client, "c1", "s1")?;
    daemon.shell("c1", "echo second > /root/file; rm /bin/vi; sync")?;
    daemon.change("c1", "stop", true)?;
    snapshot(&mut client, "c1", "s2")?;
    daemon.change("c1", "start", false)?;
    daemon.shell("c1", "echo third > /root/file; sync").map(drop)
}

#[test]
fn a_copy_takes_its_snapshots_along_within_and_between_pools() -> Result<()> {
    let daemon = daemon()?;
    let before = Leftovers::settled(&daemon)?;
    for from in POOLS {
        for to in POOLS {
            copy_and_compare(&daemon, from, to).with_context(|| format!("from {from} to {to}"))?;
            before
                .compare_with_now(&daemon)
                .with_context(|| format!("from {from} to {to}"))?;
        }
    }
    Ok(())
}

fn copy_and_compare(daemon: &Daemon, from: &str, to: &str) -> Result<()> {
    let mut client = daemon.client();
    source(daemon, from)?;
    let of_source = snapshots(&mut client, "c1")?;
    let hwaddr = client.get("/1.0/instances/c1")?["config"]["volatile.eth0.hwaddr"].clone();
    let copy = json!({ "name": "c2", "source": { "type": "copy", "source": "c1" }, "devices": root_in(to) });
    client.run("POST", "/1.0/instances", &copy)?;
    let alone = json!({
        "name": "c3",
        "source": { "type": "copy", "source": "c1", "instance_only": true },
        "devices": root_in(to),
    });
    client.run("POST", "/1.0/instances", &alone)?;
    ensure!(daemon.status("c1")? == "Running", "the source was stopped");
    ensure!(
        snapshots(&mut client, "c3")?.is_empty(),
        "snapshots were copied against the request"
    );
    // Whatever becomes of the source, the copies have all that is theirs.
    delete(daemon, "c1")?;
    let of_copy = snapshots(&mut client, "c2")?;
    ensure!(of_copy.len() == 2, "{of_copy:?}");
    for (old, new) in of_source.iter().zip(&of_copy) {
        for key in ["name", "created_at", "expires_at", "ephemeral", "profiles"] {
            ensure!(old[key] == new[key], "{key}: {} became {}", old[key], new[key]);
        }
        ensure!(new["config"]["user.colour"] == "blue", "{new}");
        ensure!(new["expanded_devices"]["root"]["pool"] == to, "{new}");
    }
    daemon.change("c2", "start", false)?;
    daemon.change("c3", "start", false)?;
    looks(&daemon.shell("c2", LOOK)?, "third\n7 8 2\nnone")?;
    looks(&daemon.shell("c3", LOOK)?, "third\n7 8 2\nnone")?;
    let own = client.get("/1.0/instances/c2")?["config"].clone();
    ensure!(own["volatile.eth0.hwaddr"] != hwaddr, "a copy has its source's address");
    looks(&restore(daemon, "c2", "s1")?, "first\n7 8 2\n/bin/vi")?;
    looks(&restore(daemon, "c2", "s2")?, "second\n7 8 2\nnone")?;
    let now = client.get("/1.0/instances/c2")?["config"].clone();
    for key in ["volatile.eth0.hwaddr", "volatile.uuid", "user.colour"] {
        ensure!(
            now[key] == own[key],
            "restoring changed {key} from {} to {}",
            own[key],
            now[key]
        );
    }
    let made = json!({ "name": "c4", "source": { "type": "copy", "source": "c2/s1" }, "devices": root_in(from) });
    client.run("POST", "/1.0/instances", &made)?;
    delete(daemon, "c2")?;
    daemon.change("c4", "start", false)?;
    looks(&daemon.shell("c4", LOOK)?, "first\n7 8 2\n/bin/vi")?;
    delete(daemon, "c3")?;
    delete(daemon, "c4")
}

#[test]
fn a_refreshed_copy_is_what_its_source_is() -> Result<()> {
    let daemon = daemon()?;
    for (from, to) in [
        (POOLS[0], POOLS[0]),
        (POOLS[1], POOLS[1]),
        (POOLS[0], POOLS[1]),
        (POOLS[1], POOLS[0]),
    ] {
        refresh_and_compare(&daemon, from, to).with_context(|| format!("from {from} to {to}"))?;
    }
    Ok(())
}

fn refresh_and_compare(daemon: &Daemon, from: &str, to: &str) -> Result<()> {
    let mut client = daemon.client();
    source(daemon, from)?;
    let copy = json!({
        "name": "c2",
        "source": { "type": "copy", "source": "c1", "refresh": true },
        "devices": root_in(to),
    });
    // Without a copy to refresh it is made.
    client.run("POST", "/1.0/instances", &copy)?;
    let own = client.get("/1.0/instances/c2")?;
    daemon.change("c2", "start", false)?;
    daemon.shell("c2", "echo own > /root/file; touch /root/own; sync")?;
    let (_, message) = client.refused("POST", "/1.0/instances", &copy)?;
    ensure!(message.contains("is running"), "{message}");
    daemon.change("c2", "stop", true)?;
    snapshot(&mut client, "c2", "own")?;
    // A snapshot that went, one that is another of the same name, and a new one.
    for name in ["s1", "s2"] {
        client.run("DELETE", &format!("/1.0/instances/c1/snapshots/{name}"), &Value::Null)?;
    }
    snapshot(&mut client, "c1", "s2")?;
    daemon.shell("c1", "echo fourth > /root/file; sync")?;
    snapshot(&mut client, "c1", "s3")?;
    daemon.shell("c1", "echo fifth > /root/file; sync")?;
    client.run("POST", "/1.0/instances", &copy)?;
    let of = |list: Vec<Value>| -> Vec<_> {
        let age = |one: &Value| {
            (
                one["name"].clone(),
                one["created_at"].clone(),
                one["expires_at"].clone(),
            )
        };
        list.iter().map(age).collect()
    };
    let (source, copied) = (of(snapshots(&mut client, "c1")?), of(snapshots(&mut client, "c2")?));
    ensure!(source == copied && copied.len() == 2, "{copied:?} of {source:?}");
    delete(daemon, "c1")?;
    let now = client.get("/1.0/instances/c2")?;
    for key in ["volatile.uuid", "volatile.eth0.hwaddr", "user.colour"] {
        ensure!(now["config"][key] == own["config"][key], "{key} is another: {now}");
    }
    ensure!(
        now["devices"] == own["devices"] && now["created_at"] == own["created_at"],
        "{now}"
    );
    daemon.change("c2", "start", false)?;
    ensure!(daemon.shell("c2", "ls /root/own 2>/dev/null || echo none")? == "none");
    looks(&daemon.shell("c2", LOOK)?, "fifth\n7 8 2\nnone")?;
    looks(&restore(daemon, "c2", "s2")?, "third\n7 8 2\nnone")?;
    looks(&restore(daemon, "c2", "s3")?, "fourth\n7 8 2\nnone")?;
    delete(daemon, "c2")
}

#[test]
fn an_instance_moves_between_pools_as_it_is() -> Result<()> {
    let daemon = daemon()?;
    let mut client = daemon.client();
    source(&daemon, POOLS[0])?;
    let to = |pool: &str, name: &str| json!({ "name": name, "migration": true, "pool": pool });
    let (_, message) = client.refused("POST", "/1.0/instances/c1", &to(POOLS[1], "c1"))?;
    ensure!(message.contains("is running"), "{message}");
    daemon.change("c1", "stop", true)?;
    let (before, had) = (client.get("/1.0/instances/c1")?, snapshots(&mut client, "c1")?);
    for (pool, name, there) in [(POOLS[1], "c1", "c1"), (POOLS[0], "", "c1"), (POOLS[1], "c2", "c2")] {
        let from = if there == "c2" || name.is_empty() { "c1" } else { name };
        client.run("POST", &format!("/1.0/instances/{from}"), &to(pool, name))?;
        let now = client.get(&format!("/1.0/instances/{there}"))?;
        ensure!(now["devices"]["root"]["pool"] == pool, "{now}");
        for key in ["created_at", "profiles", "description"] {
            ensure!(now[key] == before[key], "{key}: {} became {}", before[key], now[key]);
        }
        for key in ["volatile.uuid", "volatile.eth0.hwaddr", "user.colour"] {
            ensure!(now["config"][key] == before["config"][key], "{key} is another: {now}");
        }
        let has = snapshots(&mut client, there)?;
        for (old, new) in had.iter().zip(&has) {
            ensure!(
                has.len() == 2 && old["created_at"] == new["created_at"] && old["name"] == new["name"],
                "{new}"
            );
        }
        daemon.change(there, "start", false)?;
        looks(&restore(&daemon, there, "s1")?, "first\n7 8 2\n/bin/vi")?;
        looks(&restore(&daemon, there, "s2")?, "second\n7 8 2\nnone")?;
        daemon.change(there, "stop", true)?;
    }
    let left = client.get(&format!("/1.0/storage-pools/{}", POOLS[0]))?;
    ensure!(!left["used_by"].to_string().contains("/1.0/instances/"), "{left}");
    delete(&daemon, "c2")?;
    for pool in POOLS {
        client.sync("DELETE", &format!("/1.0/storage-pools/{pool}"), &Value::Null)?;
    }
    Ok(())
}

#[test]
fn what_is_cancelled_or_does_not_fit_leaves_nothing_and_changes_nothing() -> Result<()> {
    let daemon = daemon()?;
    let mut client = daemon.client();
    let small = daemon.sandbox().path().join("small");
    std::fs::create_dir(&small)?;
    let options = ["-t", "tmpfs", "-o", "size=16m,mode=0711", "tmpfs"];
    hutch_tests::sandbox::must("mount", &[&options[..], &[&small.to_string_lossy()]].concat())?;
    let pool = json!({ "name": "small", "driver": "dir", "config": { "source": small } });
    client.sync("POST", "/1.0/storage-pools", &pool)?;
    let devices = json!({ "devices": root_in(POOLS[0]) });
    daemon.instance("c1", &devices)?;
    daemon.shell("c1", "echo first > /root/file; sync")?;
    daemon.change("c1", "stop", true)?;
    let copy = |name: &str, pool: &str| json!({ "name": name, "source": { "type": "copy", "source": "c1", "refresh": true }, "devices": root_in(pool) });
    client.run("POST", "/1.0/instances", &copy("c2", "small"))?;
    daemon.change("c1", "start", false)?;
    daemon.shell(
        "c1",
        "dd if=/dev/zero of=/root/big bs=1M count=256 2>/dev/null; echo second > /root/file; sync",
    )?;
    daemon.change("c1", "stop", true)?;
    snapshot(&mut client, "c1", "s1")?;
    let before = Leftovers::settled(&daemon)?;

    let (_, message) = client.refused("POST", "/1.0/instances", &copy("c3", "small"))?;
    ensure!(message.contains("space"), "{message}");
    let (_, message) = client.refused("POST", "/1.0/instances", &copy("c2", "small"))?;
    ensure!(message.contains("space"), "{message}");
    ensure!(
        snapshots(&mut client, "c2")?.is_empty(),
        "a refresh that failed left a snapshot"
    );
    let (_, message) = client.refused(
        "POST",
        "/1.0/instances/c1",
        &json!({ "migration": true, "pool": "small" }),
    )?;
    ensure!(message.contains("space"), "{message}");
    before.compare_with_now(&daemon)?;

    let operation = client.begin("POST", "/1.0/instances", &copy("c3", POOLS[1]))?;
    let path = format!(
        "/1.0/operations/{}",
        operation["id"].as_str().context("an operation without id")?
    );
    let begun = std::time::Instant::now();
    while client.get(&path)?["metadata"]["fs_progress"].is_null() {
        ensure!(
            begun.elapsed().as_secs() < 30,
            "a long copy says nothing of how far it is"
        );
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    client.sync("DELETE", &path, &Value::Null)?;
    let end = client.end_of(&operation)?;
    ensure!(end["status"] == "Cancelled", "{end}");
    before.compare_with_now(&daemon)?;

    daemon.change("c2", "start", false)?;
    ensure!(
        daemon.shell("c2", "cat /root/file")? == "first",
        "a refresh that failed changed something"
    );
    ensure!(client.get("/1.0/instances/c1")?["devices"]["root"]["pool"] == POOLS[0]);
    daemon.change("c1", "start", false)?;
    ensure!(daemon.shell("c1", "cat /root/file")? == "second");
    for name in ["c1", "c2"] {
        delete(&daemon, name)?;
    }
    client
        .sync("DELETE", "/1.0/storage-pools/small", &Value::Null)
        .map(drop)
}

#[test]
fn each_client_refreshes_copies_and_moves_between_pools() -> Result<()> {
    let daemon = daemon()?;
    let clients = [Some(Stock::hutch(&daemon)?), Stock::incus(&daemon), Stock::lxc(&daemon)];
    for client in clients.iter().flatten() {
        source(&daemon, POOLS[0])?;
        client.run(&["copy", "c1", "c2", "--storage", POOLS[1]])?;
        let own = daemon.client().get("/1.0/instances/c2")?["config"].clone();
        daemon.shell("c1", "echo later > /root/file; sync")?;
        snapshot(&mut daemon.client(), "c1", "s3")?;
        client.run(&["copy", "c1", "c2", "--refresh", "--storage", POOLS[1]])?;
        ensure!(snapshots(&mut daemon.client(), "c2")?.len() == 3);
        daemon.change("c1", "stop", true)?;
        client.run(&["move", "c2", "--storage", POOLS[0]])?;
        client.run(&["move", "c2", "c3", "--storage", POOLS[1]])?;
        let now = daemon.client().get("/1.0/instances/c3")?;
        for key in ["volatile.uuid", "volatile.eth0.hwaddr"] {
            ensure!(now["config"][key] == own[key], "{key} is another: {now}");
        }
        ensure!(now["expanded_devices"]["root"]["pool"] == POOLS[1], "{now}");
        daemon.change("c3", "start", false)?;
        ensure!(daemon.shell("c3", "cat /root/file")? == "later");
        looks(&restore(&daemon, "c3", "s1")?, "first\n7 8 2\n/bin/vi")?;
        for name in ["c1", "c3"] {
            delete(&daemon, name)?;
        }
    }
    Ok(())
}

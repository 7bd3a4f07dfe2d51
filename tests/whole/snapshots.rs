//! Snapshots of stopped and running instances, on every storage driver that we bring.

use anyhow::{Result, ensure};
use hutch_tests::daemon::{Daemon, Options};
use hutch_tests::leftovers::Leftovers;
use serde_json::{Value, json};

const SNAPSHOTS: &str = "/1.0/instances/c1/snapshots";

#[test]
fn snapshots_on_the_usual_driver() -> Result<()> {
    take_and_restore(&Daemon::start()?)
}

#[test]
fn snapshots_on_plain_directories() -> Result<()> {
    take_and_restore(&Daemon::with(Options {
        storage: "dir",
        ..Options::default()
    })?)
}

fn take_and_restore(daemon: &Daemon) -> Result<()> {
    let mut client = daemon.client();
    daemon.instance("c1", &json!({ "config": { "user.colour": "blue" } }))?;
    let before = Leftovers::settled(daemon)?;
    daemon.shell(
        "c1",
        "mkdir /root/d; echo first > /root/d/file; ln /root/d/file /root/hard; chown 7:8 /root/d/file; sync",
    )?;

    client.run("POST", SNAPSHOTS, &json!({ "name": "running" }))?;
    daemon.shell("c1", "echo second > /root/d/file; rm /bin/vi; touch /root/new")?;
    daemon.change("c1", "stop", true)?;
    client.run("POST", SNAPSHOTS, &json!({ "name": "stopped" }))?;
    let names = client.get(SNAPSHOTS)?;
    ensure!(
        names == json!([format!("{SNAPSHOTS}/running"), format!("{SNAPSHOTS}/stopped")]),
        "{names}"
    );
    let one = client.get(&format!("{SNAPSHOTS}/running"))?;
    ensure!(
        one["config"]["user.colour"] == "blue" && one["name"] == "running",
        "{one}"
    );

    client.run("PUT", "/1.0/instances/c1", &json!({ "restore": "running" }))?;
    daemon.change("c1", "start", false)?;
    let look = "cat /root/d/file; stat -c '%u %g %h' /root/d/file; ls /bin/vi; ls /root/new 2>/dev/null || echo none";
    ensure!(daemon.shell("c1", look)? == "first\n7 8 2\n/bin/vi\nnone");

    daemon.change("c1", "stop", true)?;
    client.run("PUT", "/1.0/instances/c1", &json!({ "restore": "stopped" }))?;
    daemon.change("c1", "start", false)?;
    ensure!(daemon.shell("c1", "cat /root/d/file; ls /bin/vi 2>/dev/null || echo none")? == "second\nnone");

    client.run("POST", &format!("{SNAPSHOTS}/stopped"), &json!({ "name": "renamed" }))?;
    let (status, message) = client.refused("GET", &format!("{SNAPSHOTS}/stopped"), &Value::Null)?;
    ensure!(status == 404, "{status} {message}");
    for name in ["running", "renamed"] {
        client.run("DELETE", &format!("{SNAPSHOTS}/{name}"), &Value::Null)?;
    }
    ensure!(client.get(SNAPSHOTS)? == json!([]));
    ensure!(
        daemon.shell("c1", "cat /root/d/file")? == "second",
        "the volume went with a snapshot"
    );
    // What is left is a running instance, as before.
    drop(before);
    Ok(())
}

#[test]
fn a_snapshot_becomes_an_instance_and_goes_with_its_own() -> Result<()> {
    let daemon = Daemon::start()?;
    let mut client = daemon.client();
    daemon.instance("keep", &json!({}))?;
    let before = Leftovers::settled(&daemon)?;
    daemon.instance("c1", &json!({}))?;
    daemon.shell("c1", "echo old > /root/file; sync")?;
    client.run("POST", SNAPSHOTS, &json!({ "name": "s1" }))?;
    daemon.shell("c1", "echo new > /root/file")?;
    let copy = json!({ "name": "c2", "source": { "type": "copy", "source": "c1/s1" } });
    client.run("POST", "/1.0/instances", &copy)?;
    daemon.change("c2", "start", false)?;
    ensure!(daemon.shell("c2", "cat /root/file")? == "old");
    for name in ["c1", "c2"] {
        daemon.change(name, "stop", true)?;
        client.run("DELETE", &format!("/1.0/instances/{name}"), &Value::Null)?;
    }
    before.compare_with_now(&daemon)
}

#[test]
fn a_snapshot_of_a_stopped_instance_takes_the_same_time_whatever_its_size() -> Result<()> {
    let daemon = Daemon::start()?;
    let mut client = daemon.client();
    daemon.instance("c1", &json!({}))?;
    let time = |client: &mut hutch_tests::rest::Client, name: &str| -> Result<std::time::Duration> {
        daemon.change("c1", "stop", true)?;
        let begun = std::time::Instant::now();
        client.run("POST", SNAPSHOTS, &json!({ "name": name }))?;
        let took = begun.elapsed();
        daemon.change("c1", "start", false)?;
        Ok(took)
    };
    let small = time(&mut client, "small")?;
    daemon.shell("c1", "mkdir /root/many; cd /root/many; for i in $(seq 3000); do echo $i > $i; done; dd if=/dev/zero of=big bs=1M count=200")?;
    let large = time(&mut client, "large")?;
    // A copy of 200 MB and 3,000 files takes a hundred times as long; the rest is this machine's noise.
    ensure!(
        large < small * 5 + std::time::Duration::from_millis(50),
        "{small:?} for nothing, {large:?} for 200 MB"
    );
    Ok(())
}

#[test]
fn a_name_is_taken_once_and_a_wrong_one_is_refused() -> Result<()> {
    let daemon = Daemon::start()?;
    let mut client = daemon.client();
    daemon.instance("c1", &json!({}))?;
    client.run("POST", SNAPSHOTS, &json!({ "name": "s1" }))?;
    let (status, _) = client.refused("POST", SNAPSHOTS, &json!({ "name": "s1" }))?;
    ensure!(status == 409 || status == 400, "{status}");
    for name in ["a/b", "..", "a b"] {
        let (status, message) = client.refused("POST", SNAPSHOTS, &json!({ "name": name }))?;
        ensure!(status == 400, "{name}: {status} {message}");
    }
    let (status, message) = client.refused("PUT", "/1.0/instances/c1", &json!({ "restore": "none" }))?;
    ensure!(
        status == 404 || message.to_lowercase().contains("not found"),
        "{status} {message}"
    );
    Ok(())
}

#[test]
fn a_restored_instance_refers_to_nothing_that_was_deleted() -> Result<()> {
    let daemon = Daemon::start()?;
    let mut client = daemon.client();
    let config = json!({ "ipv4.address": "10.219.0.1/24", "ipv6.address": "none" });
    let network = json!({ "name": "net2", "config": config });
    client.sync("POST", "/1.0/networks", &network)?;
    client.sync("POST", "/1.0/profiles", &json!({ "name": "extra" }))?;
    let nic = json!({ "type": "nic", "network": "net2", "name": "eth1" });
    daemon.instance(
        "c1",
        &json!({ "profiles": ["default", "extra"], "devices": { "eth1": nic } }),
    )?;
    client.run("POST", SNAPSHOTS, &json!({ "name": "s1" }))?;
    let path = "/1.0/instances/c1";
    let plain = json!({ "profiles": ["default"], "devices": {}, "config": { "user.after": "yes" } });
    client.run("PUT", path, &plain)?;
    daemon.shell("c1", "echo work > /root/work; sync")?;
    let profile = json!({ "name": "extra" });
    let restore = json!({ "restore": "s1" });
    for (kind, name, again, said) in [
        ("networks", "net2", &network, "network \"net2\" not found"),
        ("profiles", "extra", &profile, "Profile \"extra\" not found"),
    ] {
        client.sync("DELETE", &format!("/1.0/{kind}/{name}"), &Value::Null)?;
        // It runs on, with what it has: nothing was stopped for this.
        let (status, message) = client.refused("PUT", path, &restore)?;
        ensure!(status == 400 && message.contains(said), "{status} {message}");
        ensure!(daemon.shell("c1", "cat /root/work")? == "work");
        daemon.change("c1", "stop", true)?;
        let (_, message) = client.refused("PUT", path, &restore)?;
        ensure!(message.contains(said), "{message}");
        let instance = client.get(path)?;
        ensure!(
            instance["profiles"] == json!(["default"]) && instance["config"]["user.after"] == "yes",
            "{instance}"
        );
        ensure!(instance["status"] == "Stopped", "{instance}");
        daemon.change("c1", "start", false)?;
        ensure!(daemon.shell("c1", "cat /root/work")? == "work");
        client.sync("POST", &format!("/1.0/{kind}"), again)?;
    }
    client.run("PUT", path, &restore)?;
    let instance = client.get(path)?;
    ensure!(
        instance["profiles"] == json!(["default", "extra"]) && instance["devices"]["eth1"] == nic,
        "{instance}"
    );
    ensure!(daemon.shell("c1", "ls /root/work 2>/dev/null || echo none")? == "none");
    // Users again, from this moment on.
    client.refused("DELETE", "/1.0/networks/net2", &Value::Null)?;
    client.refused("DELETE", "/1.0/profiles/extra", &Value::Null)?;
    Ok(())
}

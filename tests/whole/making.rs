//! Instances that are being made: they are there, nobody else changes them, and what they refer to stays.

use anyhow::{Context, Result, ensure};
use hutch_tests::daemon::{Daemon, IMAGE, creation};
use hutch_tests::leftovers::Leftovers;
use hutch_tests::stock::Stock;
use serde_json::{Value, json};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;

#[test]
fn an_instance_is_rebuilt_in_its_place() -> Result<()> {
    let daemon = Daemon::start()?;
    let mut client = daemon.client();
    daemon.instance(
        "c1",
        &json!({ "config": { "user.colour": "blue", "image.old": "yes" } }),
    )?;
    daemon.shell("c1", "echo mine > /root/file")?;
    let rebuild = "/1.0/instances/c1/rebuild";
    let image = json!({ "source": { "type": "image", "alias": IMAGE } });
    let is_refused = |client: &mut hutch_tests::rest::Client, body: &Value, expected: &str| -> Result<()> {
        let (status, message) = client.refused("POST", rebuild, body)?;
        ensure!(
            (400..500).contains(&status) && message.contains(expected),
            "{status} {message}"
        );
        Ok(())
    };
    is_refused(&mut client, &image, "Instance must be stopped to be rebuilt")?;
    daemon.change("c1", "stop", true)?;
    client.run("POST", "/1.0/instances/c1/snapshots", &json!({ "name": "s1" }))?;
    is_refused(&mut client, &image, "snapshots can't be rebuilt")?;
    client.run("DELETE", "/1.0/instances/c1/snapshots/s1", &Value::Null)?;
    is_refused(
        &mut client,
        &json!({ "source": { "type": "image", "alias": "nowhere" } }),
        "nowhere",
    )?;
    is_refused(
        &mut client,
        &json!({ "source": { "type": "copy", "source": "c1" } }),
        "\"copy\"",
    )?;

    let before = client.get("/1.0/instances/c1")?;
    client.run("POST", rebuild, &image)?;
    let after = client.get("/1.0/instances/c1")?;
    for key in [
        "user.colour",
        "volatile.uuid",
        "volatile.eth0.hwaddr",
        "volatile.base_image",
    ] {
        ensure!(after["config"][key] == before["config"][key], "{key}: {after}");
    }
    ensure!(
        after["config"]["image.old"].is_null() && after["devices"] == before["devices"],
        "{after}"
    );
    daemon.change("c1", "start", false)?;
    ensure!(daemon.shell("c1", "ls /root/file 2>/dev/null || echo gone")? == "gone");
    daemon.change("c1", "stop", true)?;

    // Without an image there is nothing in it, and the next rebuilding makes it whole again.
    client.run("POST", rebuild, &json!({ "source": { "type": "none" } }))?;
    ensure!(client.get("/1.0/instances/c1")?["config"]["volatile.base_image"].is_null());
    let start = json!({ "action": "start", "timeout": 30 });
    client.refused("PUT", "/1.0/instances/c1/state", &start)?;
    match Stock::incus(&daemon) {
        Some(incus) => drop(incus.run(&["rebuild", IMAGE, "c1"])?),
        None => drop(client.run("POST", rebuild, &image)?),
    }
    daemon.change("c1", "start", false)?;
    ensure!(daemon.shell("c1", "echo fine")? == "fine");
    Ok(())
}

/// An image server that takes connections and says nothing, until it is dropped.
struct Silent {
    address: String,
    stop: mpsc::Sender<()>,
    asked: mpsc::Receiver<()>,
}

impl Silent {
    fn serve(daemon: &Daemon) -> Result<Self> {
        let (address, told) = mpsc::channel();
        let (stop, stopped) = mpsc::channel::<()>();
        let (ask, asked) = mpsc::channel();
        std::thread::scope(|scope| {
            let bind = || -> Result<TcpListener> {
                daemon.sandbox().enter_network()?;
                Ok(TcpListener::bind("127.0.0.1:0")?)
            };
            scope.spawn(move || address.send(bind()));
        });
        let listener = told.recv()??;
        let address = format!("http://{}", listener.local_addr()?);
        std::thread::spawn(move || -> Result<()> {
            let first: TcpStream = listener.accept()?.0;
            ask.send(())?;
            // The channel's end is what it waits for.
            let _ = stopped.recv();
            drop(first);
            Ok(())
        });
        Ok(Self { address, stop, asked })
    }
}

#[test]
fn what_is_being_made_is_nobody_elses() -> Result<()> {
    let daemon = Daemon::start()?;
    let mut client = daemon.client();
    let before = Leftovers::settled(&daemon)?;
    client.sync("POST", "/1.0/projects", &json!({ "name": "pp", "config": {} }))?;
    client.sync(
        "POST",
        "/1.0/storage-pools",
        &json!({ "name": "second", "driver": "dir", "config": {} }),
    )?;
    let config = json!({ "ipv4.address": "10.218.0.1/24", "ipv6.address": "none" });
    client.sync("POST", "/1.0/networks", &json!({ "name": "net2", "config": config }))?;
    client.sync("POST", "/1.0/profiles?project=pp", &json!({ "name": "extra" }))?;
    let server = Silent::serve(&daemon)?;
    let body = creation(
        "c1",
        &json!({
            "source": { "type": "image", "protocol": "simplestreams", "server": server.address, "alias": "busy" },
            "profiles": ["extra"],
            "devices": {
                "root": { "type": "disk", "path": "/", "pool": "second" },
                "eth0": { "type": "nic", "network": "net2" },
            },
        }),
        true,
    );
    let operation = client.begin("POST", "/1.0/instances?project=pp", &body)?;
    server.asked.recv().context("the server was not asked")?;

    let instance = "/1.0/instances/c1?project=pp";
    ensure!(client.get(instance)?["status"] == "Stopped");
    let start = json!({ "action": "start", "timeout": 10 });
    for (method, path, body) in [
        ("DELETE", instance, Value::Null),
        ("PUT", "/1.0/instances/c1/state?project=pp", start),
        ("PATCH", instance, json!({ "config": { "user.x": "1" } })),
        ("POST", instance, json!({ "name": "c2" })),
        (
            "POST",
            "/1.0/instances/c1/snapshots?project=pp",
            json!({ "name": "s1" }),
        ),
    ] {
        let (_, message) = client.refused(method, path, &body)?;
        ensure!(message.contains("being created"), "{method} {path}: {message}");
    }
    let (status, message) = client.refused("POST", "/1.0/instances?project=pp", &body)?;
    ensure!(
        status == 409 && message.contains("already exists"),
        "{status} {message}"
    );
    let referred = [
        "/1.0/profiles/extra?project=pp",
        "/1.0/networks/net2",
        "/1.0/storage-pools/second",
        "/1.0/projects/pp",
    ];
    for path in referred {
        let (status, message) = client.refused("DELETE", path, &Value::Null)?;
        ensure!(
            status == 400 && message.contains("c1"),
            "{path}, which it refers to: {status} {message}"
        );
    }
    let path = operation["id"].as_str().map(|id| format!("/1.0/operations/{id}"));
    let now = client.get(&path.context("an operation without id")?)?;
    ensure!(now["status"] == "Running", "the test was too slow to see it: {now}");

    drop(server.stop);
    let ended = client.end_of(&operation)?;
    ensure!(ended["status_code"] == 400, "without an image: {ended}");
    ensure!(
        client.request("GET", instance, &Value::Null)?.status == 404,
        "it is left"
    );
    for path in referred {
        client.sync("DELETE", path, &Value::Null)?;
    }
    before.compare_with_now(&daemon)
}

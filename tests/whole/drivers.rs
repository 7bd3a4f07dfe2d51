//! Drivers that trap, loop, eat memory, lie or reach for what they were not granted, through the daemon: the one operation fails
//! and says whose fault it was, and everything else goes on.

use anyhow::{Context, Result, ensure};
use hutch_tests::daemon::{IMAGE, POOL, creation};
use hutch_tests::faulty::{Faulty, NETWORK, STORAGE, configuration, has_status, is_blamed, storage_file};
use hutch_tests::leftovers::Leftovers;
use hutch_tests::stock::Stock;
use serde_json::{Value, json};

/// Ways to misbehave and what the error says of each.
const WAYS: &[(&str, &str)] = &[
    ("trap", "crashed"),
    ("loop", "was stopped after running for"),
    ("recursion", "crashed"),
    ("memory", "needs more memory than the"),
    ("exit", "ended the program"),
    ("sleep", "did not end within"),
    ("not-utf8", "can't be read"),
    ("out-of-bounds", "can't be read"),
    ("amplified", "passed or answered more than 16 MiB"),
    ("many-options", "5000 options"),
    ("twice", "twice"),
    ("own-error", "the thing is odd"),
    ("bad-code", "xxx"),
    ("not-requested", "does not request the permission link"),
    ("event", "watch"),
    ("architecture", "does not request the permission system"),
    ("no such way", "no fault"),
];

#[test]
fn a_storage_driver_that_misbehaves_makes_no_pool() -> Result<()> {
    let faulty = Faulty::start()?;
    let mut client = faulty.daemon.client();
    let before = Leftovers::settled(&faulty.daemon)?;
    for (way, cause) in WAYS {
        let body = json!({ "name": "broken", "driver": "faulty", "config": { "fault": way } });
        let (_, message) = client.refused("POST", "/1.0/storage-pools", &body)?;
        is_blamed(&message, STORAGE, "storage pool broken", cause)?;
        faulty.goes_on()?;
        faulty.enable(STORAGE)?;
    }
    // While a pool is made it has a directory, which must go again; and there are places to reach for.
    for (way, cause) in [
        ("trap", "crashed"),
        ("loop", "was stopped after running for"),
        ("fs-above", ".."),
        ("fs-absolute", "/etc/shadow"),
        ("fs-other-root", "testpool"),
        ("other-service", "does not request the permission service"),
    ] {
        let body = json!({ "name": "broken", "driver": "faulty", "config": { "fault.pool.create": way } });
        let (_, message) = client.refused("POST", "/1.0/storage-pools", &body)?;
        is_blamed(&message, STORAGE, "storage pool broken", cause)?;
        let both = json!({ "fault.pool.create": way, "fault.pool.delete": "trap" });
        let body = json!({ "name": "broken", "driver": "faulty", "config": both });
        client.refused("POST", "/1.0/storage-pools", &body)?;
        faulty.goes_on()?;
        faulty.enable(STORAGE)?;
    }
    let log = client.get(&format!("/1.0/plugins/{STORAGE}/logs"))?.to_string();
    ensure!(!log.contains("the host let me out"), "{log}");
    let answer = client.request("GET", "/1.0/storage-pools/broken", &Value::Null)?;
    ensure!(answer.status == 404, "{}", answer.error());
    before.compare_with_now(&faulty.daemon)
}

/// The path of the pool of the misbehaving driver.
const BROKEN: &str = "/1.0/storage-pools/broken";

/// An instance on the misbehaving driver's pool.
fn victim(name: &str) -> Value {
    let root = json!({ "type": "disk", "path": "/", "pool": "broken" });
    creation(name, &json!({ "devices": { "root": root } }), false)
}

fn with_pool() -> Result<Faulty> {
    let faulty = Faulty::start()?;
    let pool = json!({ "name": "broken", "driver": "faulty", "config": {} });
    faulty.daemon.client().sync("POST", "/1.0/storage-pools", &pool)?;
    Ok(faulty)
}

/// Sets a fault, does what must fail because of it, and looks that nothing came of it.
fn fails(faulty: &Faulty, function: &str, way: &str, request: (&str, &str, Value)) -> Result<String> {
    faulty.fault(BROKEN, function, way)?;
    let before = Leftovers::settled(&faulty.daemon)?;
    let (method, path, body) = request;
    let context = || format!("{function}: {way}");
    let (_, message) = faulty
        .daemon
        .client()
        .refused(method, path, &body)
        .with_context(context)?;
    is_blamed(&message, STORAGE, "", "").with_context(context)?;
    faulty.goes_on()?;
    faulty.enable(STORAGE)?;
    before.compare_with_now(&faulty.daemon).with_context(context)?;
    faulty.fault(BROKEN, function, "")?;
    Ok(message)
}

#[test]
fn a_storage_driver_that_misbehaves_makes_no_volume() -> Result<()> {
    let faulty = with_pool()?;
    let mut client = faulty.daemon.client();
    let create = || ("POST", "/1.0/instances", victim("victim"));
    for (function, way, cause) in [
        ("volume.begin-fill", "trap", "crashed"),
        ("volume.begin-fill", "answer-other-root", "no root of this call"),
        ("volume.begin-fill", "answer-above", ".."),
        ("volume.begin-fill", "answer-absolute", "is absolute"),
        ("volume.end-fill", "loop", "was stopped after running for"),
    ] {
        let message = fails(&faulty, function, way, create())?;
        ensure!(message.contains(cause), "{function}: {way}: {message}");
        let found = client.request("GET", "/1.0/instances/victim", &Value::Null)?;
        ensure!(found.status == 404, "{function}: {way}: an instance is left");
    }
    // With the image in the pool, which stays there for the next instance.
    client.run("POST", "/1.0/instances", &victim("other"))?;
    for (way, cause) in [("trap", "crashed"), ("sleep", "did not end within")] {
        let message = fails(&faulty, "volume.create-from-image", way, create())?;
        ensure!(message.contains(cause), "{way}: {message}");
        let found = client.request("GET", "/1.0/instances/victim", &Value::Null)?;
        ensure!(found.status == 404, "{way}: an instance is left");
    }
    client.run("DELETE", "/1.0/instances/other", &Value::Null)?;
    let images = client.get("/1.0/images")?;
    let image = images[0].as_str().context("an image")?.to_owned();
    client.run("DELETE", &image, &Value::Null)?;
    client.import_image(
        &hutch_tests::image::busybox(faulty.daemon.sandbox().path())?,
        Some(IMAGE),
    )?;
    // A place that is not there is the host's to find out.
    faulty.fault(BROKEN, "volume.begin-fill", "answer-missing")?;
    client.refused("POST", "/1.0/instances", &victim("victim"))?;
    faulty.fault(BROKEN, "volume.begin-fill", "")?;
    // Nothing of all that is in the way.
    client.run("POST", "/1.0/instances", &victim("victim"))?;
    faulty.daemon.change("victim", "start", false)?;
    ensure!(faulty.daemon.shell("victim", "echo fine")? == "fine");
    Ok(())
}

#[test]
fn a_driver_refuses_to_change_what_a_pool_has_from_its_beginning() -> Result<()> {
    let faulty = with_pool()?;
    let mut client = faulty.daemon.client();
    let (status, message) = client.refused("PATCH", BROKEN, &json!({ "config": { "fixed": "b" } }))?;
    ensure!(
        status == 400 && message.contains("\"fixed\"") && message.contains("can't be changed"),
        "{status} {message}"
    );
    ensure!(client.get(BROKEN)?["config"]["fixed"].is_null());
    let other = json!({ "name": "other", "driver": "faulty", "config": { "fixed": "a" } });
    client.sync("POST", "/1.0/storage-pools", &other)?;
    let other = "/1.0/storage-pools/other";
    client.sync("PATCH", other, &json!({ "config": { "fixed": "a", "user.note": "x" } }))?;
    client.refused("PATCH", other, &json!({ "config": { "fixed": "b" } }))?;
    ensure!(client.get(other)?["config"]["fixed"] == "a");
    Ok(())
}

#[test]
fn a_plan_that_leads_elsewhere_is_not_mounted() -> Result<()> {
    let faulty = with_pool()?;
    let mut client = faulty.daemon.client();
    for name in ["victim", "neighbour"] {
        client.run("POST", "/1.0/instances", &victim(name))?;
    }
    faulty.daemon.change("neighbour", "start", false)?;
    let start = json!({ "action": "start", "timeout": 30 });
    let start = || ("PUT", "/1.0/instances/victim/state", start.clone());
    for (way, cause) in [
        ("trap", "crashed"),
        ("answer-escape", ".."),
        ("answer-absolute", "is absolute"),
        ("answer-other-root", "no root of this call"),
        ("answer-neighbour", "neighbour"),
        ("answer-neighbour-above", "neighbour"),
        ("answer-everything", "neighbour"),
        ("answer-kind", "a plan of the kind"),
        ("answer-many-layers", "layers"),
        ("answer-within", "within one another"),
    ] {
        let message = fails(&faulty, "volume.mount", way, start())?;
        ensure!(
            message.contains(cause) && message.contains("victim"),
            "{way}: {message}"
        );
        ensure!(faulty.daemon.status("victim")? == "Stopped", "{way}");
    }
    // After a restart of the daemon, too, nobody gets a running neighbour's root.
    let mut faulty = faulty;
    faulty.restart(&configuration(&storage_file()?, "")?)?;
    let message = fails(&faulty, "volume.mount", "answer-neighbour", start())?;
    ensure!(message.contains("neighbour"), "{message}");
    ensure!(faulty.daemon.shell("neighbour", "echo fine")? == "fine");
    faulty.daemon.change("victim", "start", false)?;
    ensure!(faulty.daemon.shell("victim", "echo fine")? == "fine");
    Ok(())
}

#[test]
fn a_link_in_a_volume_leads_a_driver_nowhere() -> Result<()> {
    let faulty = with_pool()?;
    faulty
        .daemon
        .client()
        .run("POST", "/1.0/instances", &victim("victim"))?;
    faulty.daemon.change("victim", "start", false)?;
    faulty.daemon.shell("victim", "ln -s /etc /outside")?;
    // In the volume the link leads to the host's /etc for whoever follows it from outside.
    let seen = faulty
        .daemon
        .state_dir()
        .join("storage-pools/broken/container/victim/rootfs/outside");
    ensure!(seen.is_symlink(), "{} is no link", seen.display());
    faulty.fault(BROKEN, "snapshot.create", "fs-through-link")?;
    let path = "/1.0/instances/victim/snapshots";
    let (_, message) = faulty.daemon.client().refused("POST", path, &json!({ "name": "s1" }))?;
    is_blamed(&message, STORAGE, "victim/s1", "link")?;
    let log = faulty
        .daemon
        .client()
        .get(&format!("/1.0/plugins/{STORAGE}/logs"))?
        .to_string();
    ensure!(!log.contains("the host let me out"), "{log}");
    faulty.goes_on()
}

#[test]
fn a_snapshot_is_never_what_an_earlier_one_has_left() -> Result<()> {
    let faulty = with_pool()?;
    let mut client = faulty.daemon.client();
    client.run("POST", "/1.0/instances", &victim("victim"))?;
    let (path, body) = ("/1.0/instances/victim/snapshots", json!({ "name": "s1" }));
    faulty.fault(BROKEN, "snapshot.create", "own-error")?;
    faulty.fault(BROKEN, "snapshot.delete", "own-error")?;
    client.refused("POST", path, &body)?;
    // As long as it can't be removed there is no other of its name.
    faulty.fault(BROKEN, "snapshot.create", "")?;
    let (_, message) = client.refused("POST", path, &body)?;
    is_blamed(&message, STORAGE, "victim/s1", "left of an earlier snapshot")?;
    client.run("POST", path, &json!({ "name": "s2" }))?;
    faulty.fault(BROKEN, "snapshot.delete", "")?;
    client.run("POST", path, &body)?;
    let list = client.get(path)?;
    ensure!(list.as_array().is_some_and(|list| list.len() == 2), "{list}");
    Ok(())
}

#[test]
fn a_deletion_that_failed_does_not_come_back() -> Result<()> {
    let mut faulty = with_pool()?;
    let mut client = faulty.daemon.client();
    client.run("POST", "/1.0/instances", &victim("victim"))?;
    let path = "/1.0/instances/victim";
    fails(
        &faulty,
        "snapshot.create",
        "trap",
        ("POST", "/1.0/instances/victim/snapshots", json!({ "name": "s1" })),
    )?;
    ensure!(
        client.get("/1.0/instances/victim/snapshots")? == json!([]),
        "a snapshot is left"
    );
    fails(&faulty, "volume.delete", "trap", ("DELETE", path, Value::Null))?;
    ensure!(client.get(path)?["name"] == "victim", "the instance is gone");
    fails(
        &faulty,
        "pool.space",
        "answer-more-than-all",
        ("GET", "/1.0/storage-pools/broken/resources", Value::Null),
    )?;
    client.run("DELETE", path, &Value::Null)?;
    client.run("POST", "/1.0/instances", &victim("victim"))?;
    faulty.restart(&configuration(&storage_file()?, "")?)?;
    let mut client = faulty.daemon.client();
    faulty
        .daemon
        .change("victim", "start", false)
        .context("after a restart")?;
    faulty.daemon.change("victim", "stop", true)?;
    client.run("DELETE", path, &Value::Null)?;

    faulty.fault(BROKEN, "pool.delete", "trap")?;
    let (_, message) = client.refused("DELETE", BROKEN, &Value::Null)?;
    is_blamed(&message, STORAGE, "storage pool broken", "crashed")?;
    has_status(&mut client, BROKEN, "Created")?;
    faulty.fault(BROKEN, "pool.delete", "")?;
    client.sync("DELETE", BROKEN, &Value::Null)?;
    client.sync(
        "POST",
        "/1.0/storage-pools",
        &json!({ "name": "broken", "driver": "faulty", "config": {} }),
    )?;
    client.run("POST", "/1.0/instances", &victim("victim"))?;
    faulty.restart(&configuration(&storage_file()?, "")?)?;
    faulty
        .daemon
        .change("victim", "start", false)
        .context("in a pool of a name that was deleted before")
}

#[test]
fn a_network_driver_that_misbehaves_fails_alone() -> Result<()> {
    let faulty = Faulty::start()?;
    let mut client = faulty.daemon.client();
    let before = Leftovers::settled(&faulty.daemon)?;
    let network = |config: Value| json!({ "name": "broken0", "type": "faulty", "config": config });
    for (function, way, cause) in [
        ("network.validate", "trap", "crashed"),
        ("network.validate", "many-options", "5000 options"),
        ("network.start", "trap", "crashed"),
        ("network.start", "memory", "needs more memory than the"),
        ("network.start", "filter", "filter"),
        ("network.start", "other-link", "testbr0"),
        (
            "network.start",
            "other-service",
            "does not request the permission service",
        ),
    ] {
        let key = format!("fault.{function}");
        let (_, message) = client.refused("POST", "/1.0/networks", &network(json!({ key: way })))?;
        is_blamed(&message, NETWORK, "network broken0", cause)?;
        faulty.goes_on()?;
        faulty.enable(NETWORK)?;
        before
            .compare_with_now(&faulty.daemon)
            .with_context(|| format!("{function}: {way}"))?;
    }
    client.sync("POST", "/1.0/networks", &network(json!({})))?;
    let path = "/1.0/networks/broken0";
    for (way, cause) in [
        ("answer-address", "the address"),
        ("answer-name", "the host's name"),
        ("answer-control", "the host's name"),
        ("answer-kind", "a lease of the kind"),
        ("answer-many", "70000 leases"),
        ("trap", "crashed"),
    ] {
        faulty.fault(path, "lease.leases", way)?;
        let (_, message) = client.refused("GET", &format!("{path}/leases"), &Value::Null)?;
        is_blamed(&message, NETWORK, "broken0", cause)?;
        faulty.enable(NETWORK)?;
    }
    let nic = json!({ "type": "nic", "name": "eth0", "network": "broken0" });
    let body = creation("victim", &json!({ "devices": { "eth0": nic } }), false);
    client.run("POST", "/1.0/instances", &body)?;
    let before = Leftovers::settled(&faulty.daemon)?;
    let start = json!({ "action": "start", "timeout": 30 });
    for (way, cause) in [
        ("trap", "crashed"),
        ("answer-netns", "namespace"),
        ("answer-name", "lo"),
        ("answer-bridge", "testbr0"),
    ] {
        faulty.fault(path, "nic.attach", way)?;
        let (_, message) = client.refused("PUT", "/1.0/instances/victim/state", &start)?;
        is_blamed(&message, NETWORK, "victim", cause)?;
        ensure!(faulty.daemon.status("victim")? == "Stopped", "{way}");
        faulty.goes_on()?;
        faulty.enable(NETWORK)?;
        before.compare_with_now(&faulty.daemon).context(way)?;
    }
    faulty.fault(path, "nic.attach", "")?;
    faulty.daemon.change("victim", "start", false)?;
    // A driver that can't even take an interface away doesn't keep an instance from being stopped.
    faulty.fault(path, "nic.detach", "trap")?;
    faulty.daemon.change("victim", "stop", true)?;
    ensure!(faulty.daemon.status("victim")? == "Stopped");
    Ok(())
}

#[test]
fn others_work_while_a_driver_loops() -> Result<()> {
    let faulty = Faulty::start()?;
    let daemon = &faulty.daemon;
    let config = json!({ "fault.network.start": "loop" });
    let body = json!({ "name": "broken0", "type": "faulty", "config": config });
    let message = std::thread::scope(|scope| -> Result<String> {
        let mut client = daemon.client();
        let looping = scope.spawn(move || client.refused("POST", "/1.0/networks", &body));
        // The bridge is there before the loop begins.
        while !daemon.sandbox().interfaces()?.iter().any(|name| name == "broken0") {
            ensure!(
                !looping.is_finished(),
                "the network was refused before its driver was started"
            );
            std::thread::yield_now();
        }
        let mut client = daemon.client();
        faulty.goes_on()?;
        daemon.instance("c1", &json!({}))?;
        ensure!(daemon.shell("c1", "echo fine")? == "fine");
        let quiet = json!({ "ipv4.address": "none", "ipv6.address": "none" });
        client.sync(
            "POST",
            "/1.0/networks",
            &json!({ "name": "other0", "type": "bridge", "config": quiet }),
        )?;
        client.sync(
            "POST",
            "/1.0/storage-pools",
            &json!({ "name": "other", "driver": "dir", "config": {} }),
        )?;
        client.sync(
            "POST",
            "/1.0/profiles",
            &json!({ "name": "other", "config": {}, "devices": {} }),
        )?;
        client.get("/1.0/networks?recursion=1")?;
        ensure!(
            !looping.is_finished(),
            "the loop ended before the others did: {:?}",
            looping.join()
        );
        let (_, message) = looping.join().map_err(|_| anyhow::anyhow!("the request panicked"))??;
        Ok(message)
    })?;
    is_blamed(
        &message,
        NETWORK,
        "network broken0",
        "was stopped after running for 4 s",
    )?;
    faulty.goes_on()
}

#[test]
fn warnings_are_acknowledged_and_removed() -> Result<()> {
    let mut faulty = with_pool()?;
    let trap = configuration(&storage_file()?, "\"fault.pool.open\" = \"trap\"")?;
    faulty.restart(&trap)?;
    has_status(&mut faulty.daemon.client(), BROKEN, "Unavailable")?;
    let of_pool = |faulty: &Faulty| -> Result<Option<Value>> {
        let all = faulty.daemon.client().get("/1.0/warnings?recursion=1")?;
        let mut all = all.as_array().context("no list")?.clone().into_iter();
        Ok(all.find(|warning| warning["entity_url"] == "/1.0/storage-pools/broken"))
    };
    let warning = of_pool(&faulty)?.context("nothing warns of the pool")?;
    ensure!(warning["status"] == "new", "{warning}");
    let path = format!("/1.0/warnings/{}", warning["uuid"].as_str().unwrap_or_default());
    let mut client = faulty.daemon.client();
    ensure!(client.get(&path)?["last_message"] == warning["last_message"]);

    let (status, message) = client.refused("PUT", &path, &json!({ "status": "resolved" }))?;
    ensure!(status == 400 && message.contains("resolved"), "{status} {message}");
    let is_missing = |client: &mut hutch_tests::rest::Client, method: &str, path: &str| -> Result<()> {
        let (status, message) = client.refused(method, path, &json!({ "status": "acknowledged" }))?;
        ensure!(
            status == 404 && message.contains("Warning not found"),
            "{status} {message}"
        );
        Ok(())
    };
    for method in ["GET", "PUT", "DELETE"] {
        is_missing(
            &mut client,
            method,
            "/1.0/warnings/00000000-0000-0000-0000-000000000000",
        )?;
    }

    client.sync("PUT", &path, &json!({ "status": "acknowledged" }))?;
    ensure!(client.get(&path)?["status"] == "acknowledged");
    // What was said of it is remembered for as long as the same is wrong.
    faulty.restart(&trap)?;
    has_status(&mut faulty.daemon.client(), BROKEN, "Unavailable")?;
    let mut client = faulty.daemon.client();
    ensure!(client.get(&path)?["status"] == "acknowledged");
    client.sync("PUT", &path, &json!({ "status": "new" }))?;
    ensure!(client.get(&path)?["status"] == "new");

    client.sync("DELETE", &path, &json!({}))?;
    is_missing(&mut client, "GET", &path)?;
    is_missing(&mut client, "DELETE", &path)?;
    faulty.restart(&trap)?;
    has_status(&mut faulty.daemon.client(), BROKEN, "Unavailable")?;
    ensure!(of_pool(&faulty)?.is_none(), "it is back, with nothing new to say");
    // Another trouble of the same pool is another thing to be told.
    faulty.restart(&configuration(&storage_file()?, "\"fault.pool.reconcile\" = \"exit\"")?)?;
    has_status(&mut faulty.daemon.client(), BROKEN, "Unavailable")?;
    let warning = of_pool(&faulty)?.context("nothing warns of the pool's new trouble")?;
    ensure!(warning["status"] == "new", "{warning}");
    Ok(())
}

#[test]
fn a_daemon_starts_with_drivers_that_crash() -> Result<()> {
    let mut faulty = with_pool()?;
    let mut client = faulty.daemon.client();
    client.sync(
        "POST",
        "/1.0/networks",
        &json!({ "name": "broken0", "type": "faulty", "config": {} }),
    )?;
    faulty.fault("/1.0/networks/broken0", "network.reconcile", "trap")?;
    client.run("POST", "/1.0/instances", &victim("victim"))?;
    for (fault, cause) in [("pool.open", "crashed"), ("pool.reconcile", "crashed")] {
        faulty.restart(&configuration(
            &storage_file()?,
            &format!("\"fault.{fault}\" = \"trap\""),
        )?)?;
        faulty.goes_on()?;
        let mut client = faulty.daemon.client();
        // What uses the pool waits until it is decided that it can't be used, and says so.
        let start = json!({ "action": "start", "timeout": 30 });
        let (_, message) = client.refused("PUT", "/1.0/instances/victim/state", &start)?;
        is_blamed(&message, STORAGE, "storage pool broken", cause)?;
        let why = has_status(&mut client, BROKEN, "Unavailable")?;
        is_blamed(&why, STORAGE, "broken", cause)?;
        let warnings = client.get("/1.0/warnings?recursion=1")?.to_string();
        is_blamed(&warnings, STORAGE, "/1.0/storage-pools/broken", cause)?;
        has_status(&mut client, &format!("/1.0/storage-pools/{POOL}"), "Created")?;
    }
    let mut client = faulty.daemon.client();
    let why = has_status(&mut client, "/1.0/networks/broken0", "Unavailable")?;
    is_blamed(&why, NETWORK, "broken0", "crashed")?;
    faulty.restart(&configuration(&storage_file()?, "")?)?;
    faulty.daemon.change("victim", "start", false)?;
    ensure!(faulty.daemon.shell("victim", "echo fine")? == "fine");
    Ok(())
}

#[test]
fn a_quarantine_is_shown_and_outlives_the_daemon() -> Result<()> {
    let mut faulty = with_pool()?;
    let mut client = faulty.daemon.client();
    client.run("POST", "/1.0/instances", &victim("victim"))?;
    let trap = json!({ "name": "p", "driver": "faulty", "config": { "fault": "trap" } });
    for _ in 0..5 {
        let (_, message) = client.refused("POST", "/1.0/storage-pools", &trap)?;
        ensure!(message.contains("crashed"), "{message}");
    }
    for round in ["at once", "after a restart"] {
        is_quarantined(&faulty).context(round)?;
        faulty.restart(&configuration(&storage_file()?, "")?)?;
    }
    faulty.goes_on()?;
    // Another file is another plugin's version; a custom section more makes one (WebAssembly Core Specification, 5.5.3).
    let other = faulty.daemon.sandbox().path().join("other.wasm");
    let mut bytes = std::fs::read(storage_file()?)?;
    bytes.extend_from_slice(b"\0\x05\x04more");
    std::fs::write(&other, bytes)?;
    faulty.restart(&configuration(&other, "")?)?;
    faulty.daemon.change("victim", "start", false)?;
    faulty.daemon.change("victim", "stop", true)?;
    // The one that crashed is still out of service, until the operator says otherwise.
    faulty.restart(&configuration(&storage_file()?, "")?)?;
    is_quarantined(&faulty)?;
    Stock::hutch(&faulty.daemon)?.run(&["plugin", "enable", STORAGE])?;
    has_status(&mut faulty.daemon.client(), BROKEN, "Created")?;
    faulty.daemon.change("victim", "start", false)?;
    ensure!(faulty.daemon.shell("victim", "echo fine")? == "fine");
    let shown: Value =
        serde_json::from_str(&Stock::hutch(&faulty.daemon)?.run(&["plugin", "info", STORAGE, "--json"])?)?;
    ensure!(shown["state"] == "enabled" && shown["reason"] == "", "{shown}");
    Ok(())
}

/// The quarantine is in every place where an operator looks, with its reason, and what is asked of the plugin says so.
fn is_quarantined(faulty: &Faulty) -> Result<()> {
    let reason = "5 faults within 600 s";
    let mut client = faulty.daemon.client();
    let start = json!({ "action": "start", "timeout": 30 });
    let (_, message) = client.refused("PUT", "/1.0/instances/victim/state", &start)?;
    is_blamed(&message, STORAGE, "storage pool broken", reason)?;
    ensure!(message.contains("hutch plugin enable"), "{message}");
    let why = has_status(&mut client, BROKEN, "Unavailable")?;
    is_blamed(&why, STORAGE, "", reason)?;
    let warnings = client.get("/1.0/warnings?recursion=1")?.to_string();
    ensure!(
        warnings.contains(&format!("/1.0/plugins/{STORAGE}")) && warnings.contains(reason),
        "{warnings}"
    );
    let hutch = Stock::hutch(&faulty.daemon)?;
    for arguments in [&["plugin", "list"][..], &["plugin", "info", STORAGE]] {
        let text = hutch.run(arguments)?;
        ensure!(
            text.to_lowercase().contains("quarantined") && text.contains(reason),
            "{text}"
        );
    }
    if let Some(incus) = Stock::incus(&faulty.daemon) {
        let text = incus.run(&["warning", "list", "--format", "csv"])?;
        ensure!(text.contains("Plugin unavailable"), "{text}");
    }
    faulty.goes_on()
}

//! Whose directory a pool is in: what is not known to be a pool's own is neither taken, nor taken back, nor cleaned up.

use anyhow::{Context, Result, ensure};
use hutch_tests::daemon::{Daemon, Options, POOL, creation};
use hutch_tests::faulty::{self, Faulty, NETWORK, STORAGE, has_status};
use hutch_tests::sandbox::must;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::create_dir_all;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

const POOLS: &str = "/1.0/storage-pools";

fn pool(name: &str, driver: &str, source: &Path) -> Value {
    json!({ "name": name, "driver": driver, "config": { "source": source } })
}

/// A file's mode with its kind, its inode and what it holds.
type Seen = (u32, u64, Vec<u8>);

/// Everything below a directory.
fn contents(directory: &Path) -> Result<BTreeMap<String, Seen>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let data = path.symlink_metadata()?;
        let content = if data.is_file() {
            std::fs::read(&path)?
        } else {
            Vec::new()
        };
        if data.is_dir() {
            found.extend(contents(&path)?);
        }
        found.insert(path.display().to_string(), (data.mode(), data.ino(), content));
    }
    Ok(found)
}

#[test]
fn a_directory_that_is_in_use_is_refused_and_stays_as_it_is() -> Result<()> {
    let mut daemon = Daemon::start()?;
    let mut client = daemon.client();
    let app = daemon.sandbox().path().join("app");
    // As the drivers call their own directories.
    for directory in [
        "volumes/db",
        "layers",
        "staging",
        "containers/c1/rootfs",
        "filling",
        "images",
    ] {
        create_dir_all(app.join(directory))?;
    }
    std::fs::write(app.join("compose.yml"), "services: {}\n")?;
    std::fs::write(app.join("volumes/db/table"), "rows")?;
    let before = contents(&app)?;
    for driver in ["dir", "overlay"] {
        let (status, message) = client.refused("POST", POOLS, &pool("p", driver, &app))?;
        ensure!(status == 400 && message.contains("not empty"), "{status} {message}");
        ensure!(
            contents(&app)? == before,
            "the driver {driver} changed a directory that it was refused"
        );
    }
    // What was refused does not come back at the next start either.
    daemon.stop()?;
    daemon.launch(&[])?;
    let mut client = daemon.client();
    ensure!(
        contents(&app)? == before,
        "a restart changed a directory that was refused"
    );
    ensure!(
        !client.get(POOLS)?.to_string().contains("storage-pools/p\""),
        "the pool is listed"
    );
    Ok(())
}

#[test]
fn a_creation_that_is_killed_takes_back_what_it_made_and_nothing_else() -> Result<()> {
    let mut daemon = Daemon::start()?;
    let base = daemon.sandbox().path().join("disks");
    let (empty, missing) = (base.join("empty"), base.join("missing"));
    create_dir_all(empty.join("lost+found"))?;
    let before = contents(&base)?;
    for source in [&empty, &missing] {
        for step in ["begin", "marked", "covered", "pool", "commit"] {
            daemon.stop()?;
            daemon.launch(&[("HUTCH_STOP_AT", &format!("pool-create:{step}"))])?;
            let mut client = daemon.client();
            drop(client.request("POST", POOLS, &pool("p", "overlay", source)));
            ensure!(daemon.wait_for_fault()?, "the daemon was not killed at {step}");
            daemon.launch(&[])?;
            // The listing waits for nothing, a creation of the same name for the taking back.
            let mut client = daemon.client();
            client.sync("POST", POOLS, &pool("p", "dir", source))?;
            client.sync("DELETE", &format!("{POOLS}/p"), &Value::Null)?;
            if source == &missing {
                // Whoever names a directory keeps it.
                std::fs::remove_dir(&missing)?;
            }
            ensure!(
                contents(&base)? == before,
                "left at {step}: {:?}",
                contents(&base)?.keys()
            );
        }
    }
    Ok(())
}

#[test]
fn a_pools_directory_is_no_other_pools() -> Result<()> {
    let mut daemon = Daemon::start()?;
    let other = Daemon::with(Options {
        bare: true,
        ..Options::default()
    })?;
    let base = daemon.sandbox().path().join("disks");
    let root = base.join("one");
    create_dir_all(&root)?;
    std::os::unix::fs::symlink(&root, base.join("link"))?;
    let mut client = daemon.client();
    client.sync("POST", POOLS, &pool("one", "dir", &root))?;
    let device = json!({ "root": { "type": "disk", "path": "/", "pool": "one" } });
    client.run(
        "POST",
        "/1.0/instances",
        &creation("c1", &json!({ "devices": device }), true),
    )?;
    daemon.shell("c1", "echo precious > /root/data; sync")?;
    for place in ["one", "link", "one/sub", "link/sub", "one/containers", ""] {
        let source = base.join(place);
        for client in [&mut daemon.client(), &mut other.client()] {
            let (status, message) = client.refused("POST", POOLS, &pool("two", "dir", &source))?;
            let told = if place.is_empty() {
                status == 400 && message.contains("not empty")
            } else {
                status == 409 && message.contains("storage pool \"one\"")
            };
            ensure!(told, "{place:?}: {status} {message}");
        }
    }
    ensure!(!root.join("sub").exists(), "a refused pool left its directory");
    daemon.stop()?;
    daemon.launch(&[])?;
    let mut client = daemon.client();
    has_status(&mut client, &format!("{POOLS}/one"), "Created")?;
    ensure!(
        daemon.shell("c1", "cat /root/data")? == "precious",
        "the instance lost its files"
    );
    Ok(())
}

#[test]
fn a_pool_on_another_disk_is_unavailable_and_is_not_cleaned_up() -> Result<()> {
    let mut daemon = Daemon::start()?;
    let base = daemon.sandbox().path().join("disks");
    create_dir_all(&base)?;
    let mut client = daemon.client();
    for name in ["one", "two"] {
        client.sync("POST", POOLS, &pool(name, "overlay", &base.join(name)))?;
    }
    let device = json!({ "root": { "type": "disk", "path": "/", "pool": "one" } });
    client.run(
        "POST",
        "/1.0/instances",
        &creation("c1", &json!({ "devices": device }), false),
    )?;
    let exchange = || {
        let at = |name: &str| base.join(name);
        std::fs::rename(at("one"), at("three"))?;
        std::fs::rename(at("two"), at("one"))?;
        std::fs::rename(at("three"), at("two"))
    };
    daemon.stop()?;
    exchange()?;
    let before = contents(&base)?;
    daemon.launch(&[])?;
    let mut client = daemon.client();
    for (name, other) in [("one", "two"), ("two", "one")] {
        let why = has_status(&mut client, &format!("{POOLS}/{name}"), "Unavailable")?;
        ensure!(why.contains(&format!("the storage pool {other:?}")), "{why}");
    }
    let (_, message) = client.refused("PUT", "/1.0/instances/c1/state", &json!({ "action": "start" }))?;
    ensure!(message.contains("storage pool one is unavailable"), "{message}");
    // Deleted, the second is forgotten, and what lies in its place stays.
    client.sync("DELETE", &format!("{POOLS}/two"), &Value::Null)?;
    daemon.stop()?;
    ensure!(contents(&base)? == before, "what is another pool's was changed");
    exchange()?;
    daemon.launch(&[])?;
    let mut client = daemon.client();
    has_status(&mut client, &format!("{POOLS}/one"), "Created")?;
    daemon.change("c1", "start", false)?;
    ensure!(daemon.shell("c1", "echo here")? == "here");
    Ok(())
}

/// As somebody looks at a backup: a second daemon with the first one's records, which name the first one's directories.
#[test]
fn a_daemon_with_a_copied_state_leaves_the_originals_volumes_alone() -> Result<()> {
    let mut daemon = Daemon::start()?;
    let mut other = Daemon::with(Options {
        bare: true,
        ..Options::default()
    })?;
    let disk = daemon.sandbox().path().join("disk");
    let mut client = daemon.client();
    client.sync("POST", POOLS, &pool("named", "dir", &disk))?;
    daemon.stop()?;
    other.stop()?;
    // A daemon that was stopped leaves its state in one file.
    for daemon in [&daemon, &other] {
        ensure!(
            !daemon.state_dir().join("state.db-wal").exists(),
            "the state was not closed"
        );
    }
    std::fs::copy(daemon.state_dir().join("state.db"), other.state_dir().join("state.db"))?;
    // The first goes on, and runs while the second looks.
    daemon.launch(&[])?;
    let mut client = daemon.client();
    for (name, pool) in [("c1", POOL), ("c2", "named")] {
        let root = json!({ "root": { "type": "disk", "path": "/", "pool": pool } });
        let body = creation(name, &json!({ "devices": root }), false);
        client.run("POST", "/1.0/instances", &body)?;
    }
    other.launch(&[])?;
    let mut client = other.client();
    for pool in [POOL, "named"] {
        let path = format!("{POOLS}/{pool}");
        let why = has_status(&mut client, &path, "Unavailable")?;
        let first = format!("the daemon in {}", daemon.state_dir().display());
        ensure!(why.contains(&first), "{why}");
    }
    // What it deletes it only forgets.
    client.sync("DELETE", &format!("{POOLS}/named"), &Value::Null)?;
    other.stop()?;
    for name in ["c1", "c2"] {
        daemon.change(name, "start", false)?;
        ensure!(daemon.shell(name, "echo here")? == "here");
    }
    daemon.stop()?;
    daemon.launch(&[])?;
    let mut client = daemon.client();
    for pool in [POOL, "named"] {
        has_status(&mut client, &format!("{POOLS}/{pool}"), "Created")?;
    }
    // The operator hands a pool of a daemon that is gone over by its mark.
    daemon.stop()?;
    let mark = disk.join(".hutch-pool");
    let text = std::fs::read_to_string(&mark)?;
    let mut said: Value = serde_json::from_str(&text)?;
    said["daemon"] = json!(other.state_dir());
    std::fs::write(&mark, said.to_string())?;
    daemon.launch(&[])?;
    has_status(&mut daemon.client(), &format!("{POOLS}/named"), "Unavailable").map(drop)
}

#[test]
fn a_daemon_with_a_copied_state_leaves_the_originals_containers_alone() -> Result<()> {
    let mut daemon = Daemon::start()?;
    let mut other = Daemon::with(Options {
        bare: true,
        ..Options::default()
    })?;
    daemon.instance("c1", &json!({}))?;
    daemon.shell("c1", "touch /tmp/mark")?;
    daemon.stop()?;
    other.stop()?;
    std::fs::remove_dir_all(other.state_dir())?;
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .args([daemon.state_dir(), other.state_dir()])
        .status()?;
    ensure!(copied.success(), "cp: {copied}");
    other.launch(&[])?;
    let path = format!("{POOLS}/{POOL}");
    has_status(&mut other.client(), &path, "Unavailable")?;
    ensure!(other.status("c1")? == "Stopped", "it is {}", other.status("c1")?);
    other.stop()?;
    daemon.launch(&[])?;
    ensure!(daemon.status("c1")? == "Running", "it is {}", daemon.status("c1")?);
    ensure!(daemon.shell("c1", "ls /tmp/mark")? == "/tmp/mark");
    Ok(())
}

#[test]
fn what_cannot_be_taken_back_is_tried_again() -> Result<()> {
    let file = faulty::storage_file()?;
    let mut faulty = Faulty::start()?;
    let source = faulty.daemon.sandbox().path().join("disk");
    std::fs::create_dir(&source)?;
    let broken = r#""fault.pool.create" = "trap", "fault.pool.delete" = "trap""#;
    faulty.restart(&faulty::configuration(&file, broken)?)?;
    let mut client = faulty.daemon.client();
    let (_, message) = client.refused("POST", POOLS, &pool("broken", "faulty", &source))?;
    ensure!(message.contains("creating storage pool broken"), "{message}");
    faulty.enable(STORAGE)?;
    for _ in 0..2 {
        let (status, message) = client.refused("POST", POOLS, &pool("broken", "dir", &source))?;
        ensure!(
            status == 503 && message.contains("an earlier storage pool broken"),
            "{status} {message}"
        );
        faulty.enable(STORAGE)?;
    }
    let (status, message) = client.refused("POST", POOLS, &pool("another", "dir", &source))?;
    ensure!(
        status == 409 && message.contains("storage pool \"broken\""),
        "{status} {message}"
    );
    faulty.restart(&faulty::configuration(&file, "")?)?;
    let mut client = faulty.daemon.client();
    client.sync("POST", POOLS, &pool("broken", "dir", &source))?;
    client.sync("DELETE", &format!("{POOLS}/broken"), &Value::Null)?;
    ensure!(contents(&source)?.is_empty(), "left: {:?}", contents(&source)?.keys());

    let network = |config: Value| json!({ "name": "brokennet", "type": "faulty", "config": config });
    let both = network(json!({ "fault.network.start": "trap", "fault.network.stop": "trap" }));
    client.refused("POST", "/1.0/networks", &both)?;
    faulty.enable(NETWORK)?;
    let (status, message) = client.refused("POST", "/1.0/networks", &network(json!({})))?;
    ensure!(
        status == 503 && message.contains("an earlier network brokennet"),
        "{status} {message}"
    );
    Ok(())
}

#[test]
fn a_pool_is_not_deleted_while_it_is_brought_up() -> Result<()> {
    let file = faulty::storage_file()?;
    let mut faulty = Faulty::start()?;
    let body = json!({ "name": "broken", "driver": "faulty", "config": {} });
    faulty.daemon.client().sync("POST", POOLS, &body)?;
    let broken = r#""fault.pool.open" = "sleep", "fault.pool.delete" = "trap""#;
    faulty.restart(&faulty::configuration(&file, broken)?)?;
    let path = format!("{POOLS}/broken");
    let mut client = faulty.daemon.client();
    let status = client.get(&path)?["status"].take();
    ensure!(status == "Pending", "it is {status}");
    client.refused("DELETE", &path, &Value::Null)?;
    // It is known how it is, and does not seem to be brought up for ever.
    let why = has_status(&mut client, &path, "Unavailable")?;
    ensure!(why.contains("did not end within"), "{why}");
    faulty.goes_on()?;
    faulty.restart(&faulty::configuration(&file, "")?)?;
    let mut client = faulty.daemon.client();
    client.sync("DELETE", &path, &Value::Null)?;
    client.sync("POST", POOLS, &body)?;
    has_status(&mut client, &path, "Created").map(drop)
}

#[test]
fn an_interrupted_deletion_takes_nobody_with_it() -> Result<()> {
    let file = faulty::storage_file()?;
    let mut faulty = Faulty::start()?;
    let mut client = faulty.daemon.client();
    let body = json!({ "name": "broken", "driver": "faulty", "config": {} });
    client.sync("POST", POOLS, &body)?;
    let network = |address: &str| {
        let config = json!({ "ipv4.address": address, "ipv6.address": "none" });
        json!({ "name": "second", "type": "bridge", "config": config })
    };
    client.sync("POST", "/1.0/networks", &network("10.214.0.1/24"))?;
    faulty.daemon.stop()?;
    faulty.daemon.launch(&[("HUTCH_STOP_AT", "pool-delete:begin")])?;
    let path = format!("{POOLS}/broken");
    drop(faulty.daemon.client().request("DELETE", &path, &Value::Null));
    ensure!(faulty.daemon.wait_for_fault()?, "the daemon was not killed");
    let slow = faulty::configuration(&file, r#""fault.pool.delete" = "sleep""#)?;
    faulty.daemon.configure(&slow)?;
    faulty.daemon.launch(&[])?;
    // While the driver takes its time over it, nobody begins to use it.
    let mut client = faulty.daemon.client();
    let root = json!({ "root": { "type": "disk", "path": "/", "pool": "broken" } });
    let victim = creation("victim", &json!({ "devices": root }), false);
    let (_, message) = client.refused("POST", "/1.0/instances", &victim)?;
    ensure!(message.contains("it is being deleted"), "{message}");
    // Networks are brought up after that: one of which another was made meanwhile is not.
    client.sync("DELETE", "/1.0/networks/second", &Value::Null)?;
    client.sync("POST", "/1.0/networks", &network("10.215.0.1/24"))?;
    has_status(
        &mut client,
        &format!("/1.0/networks/{}", faulty.daemon.network()),
        "Created",
    )?;
    let why = has_status(&mut client, &path, "Unavailable")?;
    ensure!(
        why.contains("could not be finished yet") && why.contains("did not end within"),
        "{why}"
    );
    let addresses = client.get("/1.0/networks/second/state")?["addresses"].to_string();
    ensure!(
        addresses.contains("10.215.0.1") && !addresses.contains("10.214.0.1"),
        "{addresses}"
    );
    client.refused("DELETE", &path, &Value::Null)?;
    client.refused("POST", "/1.0/instances", &victim)?;
    ensure!(faulty.daemon.shell("bystander", "echo here")? == "here");
    // Gone for good, it is no other pool of its name.
    faulty.restart(&faulty::configuration(&file, "")?)?;
    let mut client = faulty.daemon.client();
    let answer = client.request("DELETE", &path, &Value::Null)?;
    ensure!([200, 404].contains(&answer.status), "{}", answer.error());
    client.sync(
        "POST",
        POOLS,
        &json!({ "name": "broken", "driver": "dir", "config": {} }),
    )?;
    faulty.daemon.stop()?;
    faulty.daemon.launch(&[])?;
    has_status(&mut faulty.daemon.client(), &path, "Created").map(drop)
}

#[test]
fn an_interrupted_deletion_of_a_network_is_finished_when_it_can_be() -> Result<()> {
    let mut faulty = Faulty::start()?;
    let mut client = faulty.daemon.client();
    let config = json!({ "fault.network.stop": "trap" });
    let body = json!({ "name": "brokennet", "type": "faulty", "config": config });
    client.sync("POST", "/1.0/networks", &body)?;
    faulty.daemon.stop()?;
    faulty.daemon.launch(&[("HUTCH_STOP_AT", "network-delete:begin")])?;
    let path = "/1.0/networks/brokennet";
    drop(faulty.daemon.client().request("DELETE", path, &Value::Null));
    ensure!(faulty.daemon.wait_for_fault()?, "the daemon was not killed");
    faulty.daemon.launch(&[])?;
    let mut client = faulty.daemon.client();
    let status = client.get(path)?["status"].take();
    ensure!(status == "Unavailable", "it is {status}");
    let nic = json!({ "eth1": { "type": "nic", "name": "eth1", "network": "brokennet" } });
    let profile = json!({ "name": "p", "devices": nic });
    let (_, message) = client.refused("POST", "/1.0/profiles", &profile)?;
    ensure!(message.contains("it is being deleted"), "{message}");
    faulty.enable(NETWORK)?;
    let why = has_status(&mut client, path, "Unavailable")?;
    ensure!(why.contains("could not be finished yet"), "{why}");
    // Without what was in the way it goes.
    faulty.fault(path, "network.stop", "")?;
    let answer = client.request("GET", path, &Value::Null)?;
    ensure!(answer.status == 404, "{}", answer.error());
    let interfaces = faulty.daemon.sandbox().interfaces()?;
    ensure!(!interfaces.iter().any(|name| name == "brokennet"), "{interfaces:?}");
    Ok(())
}

/// As people move pools to another disk.
#[test]
fn the_daemons_own_place_may_be_a_link() -> Result<()> {
    let daemon = Daemon::start()?;
    let disk = daemon.sandbox().path().join("disk");
    std::fs::create_dir(&disk)?;
    std::os::unix::fs::symlink(&disk, daemon.state_dir().join("storage-pools/linked"))?;
    let mut client = daemon.client();
    client.sync(
        "POST",
        POOLS,
        &json!({ "name": "linked", "driver": "overlay", "config": {} }),
    )?;
    let source = &client.get(&format!("{POOLS}/linked"))?["config"]["source"];
    ensure!(source.as_str() == disk.to_str(), "{source}");
    let device = json!({ "root": { "type": "disk", "path": "/", "pool": "linked" } });
    client.run(
        "POST",
        "/1.0/instances",
        &creation("c1", &json!({ "devices": device }), true),
    )?;
    ensure!(daemon.shell("c1", "echo here")? == "here");
    Ok(())
}

#[test]
fn a_state_directory_may_be_moved_if_a_link_leads_there() -> Result<()> {
    let mut daemon = Daemon::start()?;
    let disk = daemon.sandbox().path().join("disk");
    let mut client = daemon.client();
    client.sync("POST", POOLS, &pool("named", "dir", &disk))?;
    client.run("POST", "/1.0/instances", &creation("c1", &json!({}), false))?;
    daemon.stop()?;
    let moved = daemon.sandbox().path().join("moved");
    std::fs::rename(daemon.state_dir(), &moved)?;
    std::os::unix::fs::symlink(&moved, daemon.state_dir())?;
    daemon.launch(&[])?;
    let mut client = daemon.client();
    for pool in [POOL, "named"] {
        has_status(&mut client, &format!("{POOLS}/{pool}"), "Created")?;
    }
    daemon.change("c1", "start", false)?;
    ensure!(daemon.shell("c1", "echo here")? == "here");
    Ok(())
}

/// A container's tree is full of what the container put there, and its driver says where it begins.
#[test]
fn a_root_that_became_a_link_leads_nowhere() -> Result<()> {
    let daemon = Daemon::start()?;
    let base = daemon.sandbox().path().join("disks");
    create_dir_all(&base)?;
    let mut client = daemon.client();
    client.sync("POST", POOLS, &pool("plain", "dir", &base.join("plain")))?;
    let device = json!({ "root": { "type": "disk", "path": "/", "pool": "plain" } });
    client.run(
        "POST",
        "/1.0/instances",
        &creation("c1", &json!({ "devices": device }), false),
    )?;
    let volumes = base.join("plain/containers");
    let volume = std::fs::read_dir(&volumes)?.next().context("no volume")??.path();
    let outside = base.join("outside");
    let (root, other) = (
        volume.join("rootfs").display().to_string(),
        outside.display().to_string(),
    );
    must("mv", &[&root, &other])?;
    std::os::unix::fs::symlink(&outside, volume.join("rootfs"))?;
    let before = contents(&outside)?;
    let image = json!({ "source": { "type": "instance", "name": "c1" } });
    for (method, path, body) in [
        ("PUT", "/1.0/instances/c1/state", json!({ "action": "start" })),
        ("POST", "/1.0/images", image),
    ] {
        let (_, message) = client.refused(method, path, &body)?;
        ensure!(message.contains("symbolic link"), "{path}: {message}");
    }
    let answer = client.request("GET", "/1.0/instances/c1/files?path=/etc/passwd", &Value::Null)?;
    ensure!(answer.status >= 400, "a file outside the pool was read");
    ensure!(contents(&outside)? == before, "what is outside the pool was changed");
    // As it should be, it starts.
    std::fs::remove_file(volume.join("rootfs"))?;
    must("mv", &[&other, &root])?;
    daemon.change("c1", "start", false)?;
    ensure!(daemon.shell("c1", "echo here")? == "here");
    Ok(())
}

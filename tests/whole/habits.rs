//! What people and scripts know from the other daemons, and go by.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hutch_tests::daemon::{Daemon, creation};
use hutch_tests::exec;
use hutch_tests::stock::Stock;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite;

#[test]
fn what_is_unset_is_gone() -> Result<()> {
    let daemon = Daemon::start()?;
    let mut client = daemon.client();
    let named = |name: &str, config: Value| json!({ "name": name, "config": config });
    client.sync("POST", "/1.0/profiles", &named("p1", json!({ "user.x": "1" })))?;
    client.sync("POST", "/1.0/projects", &named("j1", json!({ "user.x": "1" })))?;
    let net = json!({ "user.x": "1", "ipv4.address": "10.219.0.1/24", "ipv6.address": "none" });
    client.sync("POST", "/1.0/networks", &named("habit0", net))?;
    client.sync("POST", "/1.0/storage-pools", &named("s1", json!({ "user.x": "1" })))?;
    for path in [
        "/1.0/profiles/p1",
        "/1.0/projects/j1",
        "/1.0/networks/habit0",
        "/1.0/storage-pools/s1",
    ] {
        ensure!(client.get(path)?["config"]["user.x"] == "1", "{path}");
        client.sync("PATCH", path, &json!({ "config": { "user.x": "" } }))?;
        ensure!(
            client.get(path)?["config"].get("user.x").is_none(),
            "{path}: an empty key stayed"
        );
        let mut put = client.get(path)?;
        put["config"]["user.y"] = json!("");
        client.sync("PUT", path, &put)?;
        ensure!(
            client.get(path)?["config"].get("user.y").is_none(),
            "{path}: an empty key came"
        );
    }
    client.sync(
        "PATCH",
        "/1.0/networks/habit0",
        &json!({ "config": { "ipv4.address": "" } }),
    )?;
    let config = client.get("/1.0/networks/habit0")?["config"].clone();
    ensure!(config.get("ipv4.address").is_none(), "{config}");
    let fingerprint = client.get("/1.0/images?recursion=1")?[0]["fingerprint"].clone();
    let image = format!("/1.0/images/{}", fingerprint.as_str().context("no image")?);
    client.sync("PATCH", &image, &json!({ "properties": { "mine": "1" } }))?;
    client.sync("PATCH", &image, &json!({ "properties": { "mine": "" } }))?;
    ensure!(client.get(&image)?["properties"].get("mine").is_none());
    Ok(())
}

#[test]
fn commands_run_at_home_and_say_what_is_wrong() -> Result<()> {
    let daemon = Daemon::start()?;
    daemon.instance("c1", &json!({}))?;
    let mut client = daemon.client();
    let pwd = |client: &mut _| Ok::<_, anyhow::Error>(exec::run(client, "c1", &["pwd"], b"")?.text());
    ensure!(pwd(&mut client)? == "/root");
    client.sync(
        "PATCH",
        "/1.0/instances/c1",
        &json!({ "config": { "environment.HOME": "/tmp" } }),
    )?;
    ensure!(pwd(&mut client)? == "/tmp");
    client.sync(
        "PATCH",
        "/1.0/instances/c1",
        &json!({ "config": { "environment.HOME": "/none" } }),
    )?;
    ensure!(pwd(&mut client)? == "/");
    let mut refused = |body: Value| client.refused("POST", "/1.0/instances/c1/exec", &body);
    let (_, message) = refused(json!({ "command": ["pwd"], "cwd": "/nope" }))?;
    ensure!(message.contains("/nope") && message.contains("c1"), "{message}");
    let (status, message) = refused(json!({ "command": ["pwd"], "user": 99_999_999 }))?;
    ensure!(
        status == 400 && message.contains("99999999") && message.contains("65535"),
        "{message}"
    );
    daemon.change("c1", "freeze", false)?;
    let (status, message) = refused(json!({ "command": ["pwd"] }))?;
    ensure!(status == 400 && message.contains("\"c1\" is frozen"), "{message}");
    Ok(())
}

#[test]
fn what_a_container_is_made_with_can_be_changed_while_it_runs() -> Result<()> {
    let daemon = Daemon::start()?;
    daemon.instance("c1", &json!({}))?;
    let first_id = || daemon.shell("c1", "awk '{ print $2 }' /proc/self/uid_map");
    let own = first_id()?;
    ensure!(own != "0", "it is not confined");
    for (key, value) in [("security.privileged", "true"), ("security.nesting", "true")] {
        let body = json!({ "config": { key: value } });
        daemon.client().sync("PATCH", "/1.0/instances/c1", &body)?;
    }
    ensure!(first_id()? == own, "it changed under what runs");
    daemon.change("c1", "restart", true)?;
    ensure!(first_id()? == "0", "it did not follow");
    Ok(())
}

#[test]
fn two_networks_have_no_addresses_in_common() -> Result<()> {
    let daemon = Daemon::start()?;
    let mut client = daemon.client();
    let network = |name: &str, address: &str| json!({ "name": name, "config": { "ipv4.address": address, "ipv6.address": "none" } });
    client.sync("POST", "/1.0/networks", &network("same0", "10.218.1.1/24"))?;
    let (status, message) = client.refused("POST", "/1.0/networks", &network("same1", "10.218.0.1/16"))?;
    ensure!(
        status == 409 && message.contains("\"same0\"") && message.contains("10.218.1.1/24"),
        "{message}"
    );
    client.sync("POST", "/1.0/networks", &network("same1", "10.218.2.1/24"))?;
    let moved = json!({ "config": { "ipv4.address": "10.218.1.9/24" } });
    let (status, message) = client.refused("PATCH", "/1.0/networks/same1", &moved)?;
    ensure!(status == 409 && message.contains("\"same0\""), "{status} {message}");
    // Its own addresses are no obstacle.
    let grown = json!({ "config": { "ipv4.address": "10.218.2.1/25" } });
    client.sync("PATCH", "/1.0/networks/same1", &grown).map(drop)
}

#[test]
fn what_is_published_is_what_was_asked_for() -> Result<()> {
    let daemon = Daemon::start()?;
    let mut client = daemon.client();
    client.run("POST", "/1.0/instances", &creation("c1", &json!({}), false))?;
    let source = json!({ "type": "instance", "name": "c1" });
    // Within one second, which is what an image's time of creation has.
    let mut images = Vec::new();
    for (public, properties) in [(false, json!({})), (true, json!({ "foo": "bar" }))] {
        let body = json!({ "source": source, "public": public, "properties": properties });
        let ended = client.run("POST", "/1.0/images", &body)?;
        images.push(ended["metadata"]["fingerprint"].clone());
    }
    let path = format!("/1.0/images/{}", images[1].as_str().context("no fingerprint")?);
    let image = client.get(&path)?;
    ensure!(images[0] != images[1] && image["public"] == true, "{image}");
    ensure!(image["properties"]["foo"] == "bar", "{image}");
    Ok(())
}

#[test]
fn what_is_missing_is_named() -> Result<()> {
    let daemon = Daemon::start()?;
    let mut client = daemon.client();
    for (path, end) in [
        ("/1.0/instances/nope", "Instance not found"),
        ("/1.0/images/nope", "Image not found"),
        ("/1.0/images/aliases/nope", "Image alias not found"),
        ("/1.0/networks/nope", "Network not found"),
        ("/1.0/profiles/nope", "Profile not found"),
        ("/1.0/projects/nope", "Project not found"),
        ("/1.0/storage-pools/nope", "Storage pool not found"),
        ("/1.0/operations/nope", "Operation not found"),
        ("/1.0/nope", "not found"),
    ] {
        let (status, message) = client.refused("GET", path, &Value::Null)?;
        ensure!(
            status == 404 && message.contains("nope\"") && message.ends_with(end),
            "{path}: {status} {message}"
        );
    }
    Ok(())
}

/// Lifecycle events of the whole daemon.
struct Events(tungstenite::WebSocket<std::os::unix::net::UnixStream>);

impl Events {
    fn of(daemon: &Daemon) -> Result<Self> {
        let address = "ws://unix/1.0/events?type=lifecycle&all-projects=true";
        let (socket, _) = tungstenite::client(address, daemon.client().connect()?)?;
        Ok(Self(socket))
    }

    /// The next event of this kind; others are passed over.
    fn next(&mut self, action: &str) -> Result<Value> {
        loop {
            if let tungstenite::Message::Text(text) = self.0.read().context(action.to_owned())? {
                let event: Value = serde_json::from_str(&text)?;
                if event["metadata"]["action"] == action {
                    return Ok(event["metadata"].clone());
                }
            }
        }
    }
}

#[test]
fn events_tell_who_did_what() -> Result<()> {
    let daemon = Daemon::start()?;
    let (mut client, mut events) = (daemon.client(), Events::of(&daemon)?);
    daemon.instance("c1", &json!({}))?;
    let created = events.next("instance-created")?;
    ensure!(
        created["requestor"]["username"] == "root" && created["requestor"]["protocol"] == "unix",
        "{created}"
    );
    ensure!(
        created["context"]["type"] == "container" && created["name"] == "c1",
        "{created}"
    );
    events.next("instance-started")?;
    daemon.shell("c1", "true")?;
    ensure!(events.next("instance-exec")?["context"]["command"][0] == "/bin/sh");
    client.send("POST", "/1.0/instances/c1/files?path=/root/f", &[], b"x")?;
    ensure!(events.next("instance-file-pushed")?["context"]["path"] == "/root/f");
    daemon.change("c1", "restart", true)?;
    ensure!(events.next("instance-restarted")?["requestor"]["username"] == "root");
    daemon.change("c1", "stop", true)?;
    ensure!(events.next("instance-stopped")?["requestor"]["username"] == "root");
    client.run("POST", "/1.0/instances/c1/snapshots", &json!({ "name": "s1" }))?;
    client.run("PUT", "/1.0/instances/c1", &json!({ "restore": "s1" }))?;
    let restored = events.next("instance-restored")?;
    ensure!(
        restored["source"] == "/1.0/instances/c1" && restored["context"]["snapshot"] == "s1",
        "{restored}"
    );
    client.run("POST", "/1.0/instances/c1", &json!({ "name": "c2" }))?;
    ensure!(events.next("instance-renamed")?["context"]["old_name"] == "c1");
    client.sync("PATCH", "/1.0", &json!({ "config": { "user.x": "1" } }))?;
    ensure!(events.next("config-updated")?["source"] == "/1.0");
    client.sync("POST", "/1.0/projects", &json!({ "name": "j1", "config": {} }))?;
    client.run("POST", "/1.0/projects/j1", &json!({ "name": "j2" }))?;
    ensure!(events.next("project-renamed")?["context"]["old_name"] == "j1");
    // What nobody asked for is nobody's.
    daemon.change("c2", "start", false)?;
    // The command ends with the container, so that its status says nothing.
    drop(daemon.shell("c2", "poweroff -f"));
    let ended = events.next("instance-shutdown")?;
    ensure!(ended.get("requestor").is_none(), "{ended}");
    Ok(())
}

#[test]
fn snapshots_go_when_they_expire() -> Result<()> {
    const SNAPSHOTS: &str = "/1.0/instances/c1/snapshots";
    let mut daemon = Daemon::start()?;
    let mut client = daemon.client();
    client.run(
        "POST",
        "/1.0/instances",
        &creation("c1", &json!({ "config": { "snapshots.expiry": "1d" } }), false),
    )?;
    for (name, end) in [("later", Value::Null), ("never", json!("0001-01-01T00:00:00Z"))] {
        let mut body = json!({ "name": name });
        if !end.is_null() {
            body["expires_at"] = end;
        }
        client.run("POST", SNAPSHOTS, &body)?;
    }
    client.run("POST", SNAPSHOTS, &json!({ "name": "soon" }))?;
    ensure!(client.get(&format!("{SNAPSHOTS}/later"))?["expires_at"] != "0001-01-01T00:00:00Z");
    ensure!(client.get(&format!("{SNAPSHOTS}/never"))?["expires_at"] == "0001-01-01T00:00:00Z");
    let gone = |client: &mut hutch_tests::rest::Client, name: &str| -> Result<()> {
        let begun = Instant::now();
        while client.get(SNAPSHOTS)?.to_string().contains(name) {
            ensure!(begun.elapsed() < Duration::from_secs(20), "{name} is still there");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    };
    let with_memory = json!({ "restore": "later", "stateful": true });
    let (status, message) = client.refused("PUT", "/1.0/instances/c1", &with_memory)?;
    ensure!(status == 400 && message.contains("running state"), "{status} {message}");
    let past = json!({ "expires_at": "2020-01-01T00:00:00Z" });
    client.run("PUT", &format!("{SNAPSHOTS}/soon"), &past)?;
    gone(&mut client, "soon")?;
    // One that was due while there was no daemon goes with the next.
    let soon = std::time::SystemTime::now() + Duration::from_secs(2);
    let seconds = soon.duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let at = daemon_time(&daemon, seconds)?;
    client.run("POST", SNAPSHOTS, &json!({ "name": "due", "expires_at": at }))?;
    daemon.kill()?;
    std::thread::sleep(Duration::from_secs(2));
    daemon.launch(&[])?;
    let mut client = daemon.client();
    gone(&mut client, "due")?;
    let left = client.get(SNAPSHOTS)?;
    ensure!(
        left == json!([format!("{SNAPSHOTS}/later"), format!("{SNAPSHOTS}/never")]),
        "{left}"
    );
    Ok(())
}

/// Seconds since 1970 as RFC 3339 has them.
fn daemon_time(daemon: &Daemon, seconds: u64) -> Result<String> {
    let mut date = std::process::Command::new("date");
    let output = date
        .args(["-u", "+%Y-%m-%dT%H:%M:%SZ", "-d", &format!("@{seconds}")])
        .current_dir(daemon.sandbox().path())
        .output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

#[test]
fn the_log_says_why_a_start_failed() -> Result<()> {
    let daemon = Daemon::start()?;
    let mut client = daemon.client();
    client.run(
        "POST",
        "/1.0/instances",
        &json!({ "name": "c1", "source": { "type": "none" } }),
    )?;
    let start = json!({ "action": "start" });
    let (_, message) = client.refused("PUT", "/1.0/instances/c1/state", &start)?;
    ensure!(message.contains("c1") && !message.contains("c1-"), "{message}");
    let answer = client.send("GET", "/1.0/instances/c1/logs/lxc.log", &[], b"")?;
    let log = String::from_utf8(answer.body)?;
    ensure!(
        answer.status == 200 && log.contains("created") && log.contains(&message),
        "{log}"
    );
    if let Some(incus) = Stock::incus(&daemon) {
        ensure!(incus.run(&["info", "c1", "--show-log"])?.contains("the start failed"));
    }
    Ok(())
}

#[test]
fn small_things_that_clients_ask_for() -> Result<()> {
    let daemon = Daemon::start()?;
    let mut client = daemon.client();
    client.run("POST", "/1.0/instances", &creation("c1", &json!({}), false))?;
    ensure!(client.get("/1.0/instances?instance-type=virtual-machine")? == json!([]));
    ensure!(client.get("/1.0/instances?instance-type=container")? == json!(["/1.0/instances/c1"]));
    ensure!(
        client
            .refused("GET", "/1.0/instances?instance-type=foo", &Value::Null)?
            .0
            == 400
    );
    let elsewhere = creation("c2", &json!({}), false);
    let (status, message) = client.refused("POST", "/1.0/instances?target=other", &elsewhere)?;
    ensure!(
        status == 400 && message.contains("Target only allowed when clustered"),
        "{message}"
    );
    let volumes = "/1.0/storage-pools/testpool/volumes";
    let (status, message) = client.refused("POST", &format!("{volumes}/custom"), &json!({ "name": "v1" }))?;
    ensure!(
        status == 501 && message.contains("Custom volumes are not available"),
        "{status} {message}"
    );
    ensure!(client.refused("GET", &format!("{volumes}/foo"), &Value::Null)?.0 == 400);
    for (path, name) in [("/1.0/storage-pools", "driver"), ("/1.0/networks", "type")] {
        let (status, message) = client.refused("POST", path, &json!({ "name": "n1", name: "unheard-of" }))?;
        ensure!(status == 400 && message.contains("unheard-of"), "{status} {message}");
    }
    ensure!(client.get("/1.0/certificates")? == json!([]));
    ensure!(client.get("/internal/ready")? == json!({}));
    let space = client.get("/1.0/storage-pools/testpool/resources")?["space"].clone();
    let stat = nix::sys::statvfs::statvfs(&daemon.state_dir())?;
    let used = (stat.blocks() - stat.blocks_free()) * stat.fragment_size();
    let shown = space["used"].as_u64().context("no space")?;
    ensure!(
        shown.abs_diff(used) < 1 << 30,
        "{shown} bytes are shown as used, and {used} are"
    );
    if let Some(incus) = Stock::incus(&daemon) {
        incus.run(&["admin", "waitready", "--timeout=5"])?;
        ensure!(incus.run(&["info", "--resources"])?.contains("CPU"));
        incus.run(&["config", "trust", "list"])?;
        incus.run(&["snapshot", "create", "c1", "s1", "--no-expiry"])?;
        incus.run(&["config", "set", "c1/s1", "-p", "expires_at=2050-01-01T00:00:00Z"])?;
        ensure!(
            incus
                .run(&["config", "get", "c1/s1", "-p", "expires_at"])?
                .contains("2050-01-01")
        );
        incus.run(&["copy", "c1", "c3", "--instance-only"])?;
        incus.run(&["warning", "list"])?;
        incus.run(&["project", "create", "j1"])?;
        incus.run(&["project", "rename", "j1", "j2"])?;
        ensure!(incus.run(&["project", "list", "--format", "csv"])?.contains("j2"));
    }
    if let Some(lxc) = Stock::lxc(&daemon) {
        lxc.run(&["snapshot", "c1", "s2", "--no-expiry"])?;
        lxc.run(&["copy", "c1", "c4", "--instance-only"])?;
        ensure!(lxc.run(&["info", "--resources"])?.contains("CPU"));
    }
    Ok(())
}

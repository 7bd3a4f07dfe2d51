//! Instances from their creation to their deletion.

use anyhow::{Context, Result, ensure};
use hutch_tests::daemon::{Daemon, creation};
use hutch_tests::exec;
use hutch_tests::leftovers::Leftovers;
use hutch_tests::programs::Programs;
use serde_json::{Value, json};

#[test]
fn a_life_leaves_nothing_behind() -> Result<()> {
    let daemon = Daemon::start()?;
    let mut client = daemon.client();
    // The first instance unpacks the image into the pool, where it stays.
    daemon.instance("first", &json!({}))?;
    daemon.change("first", "stop", true)?;
    client.run("DELETE", "/1.0/instances/first", &Value::Null)?;
    let before = Leftovers::settled(&daemon)?;

    client.run("POST", "/1.0/instances", &creation("c1", &json!({}), false))?;
    ensure!(daemon.status("c1")? == "Stopped");
    daemon.change("c1", "start", false)?;
    ensure!(daemon.status("c1")? == "Running");
    ensure!(daemon.shell("c1", "cat /proc/1/comm")? == "init");
    ensure!(daemon.shell("c1", "hostname")? == "c1");
    daemon.change("c1", "restart", true)?;
    ensure!(daemon.status("c1")? == "Running");
    let (status, message) = client.refused("DELETE", "/1.0/instances/c1", &Value::Null)?;
    ensure!(
        status == 400 && message.to_lowercase().contains("running"),
        "{status} {message}"
    );
    daemon.change("c1", "stop", true)?;
    ensure!(daemon.status("c1")? == "Stopped");
    client.run("DELETE", "/1.0/instances/c1", &Value::Null)?;

    let (status, message) = client.refused("GET", "/1.0/instances/c1", &Value::Null)?;
    ensure!(
        status == 404 && message.ends_with("Instance not found"),
        "{status} {message}"
    );
    before.compare_with_now(&daemon)
}

#[test]
fn an_init_that_ends_stops_the_instance() -> Result<()> {
    let daemon = Daemon::start()?;
    daemon.instance("c1", &json!({}))?;
    // busybox's init: SIGUSR2 is power off.
    daemon.shell("c1", "(sleep 0.3; kill -USR2 1) >/dev/null 2>&1 &")?;
    wait_for_status(&daemon, "c1", "Stopped")?;
    daemon.change("c1", "start", false)?;
    ensure!(daemon.shell("c1", "echo again")? == "again");
    Ok(())
}

#[test]
fn a_reboot_from_inside_keeps_the_instance_running() -> Result<()> {
    let daemon = Daemon::start()?;
    daemon.instance("c1", &json!({}))?;
    let before = daemon.client().get("/1.0/instances/c1/state")?["pid"].as_i64();
    daemon.shell("c1", "touch /tmp/mark; (sleep 0.3; kill -TERM 1) >/dev/null 2>&1 &")?;
    let begun = std::time::Instant::now();
    loop {
        let state = daemon.client().get("/1.0/instances/c1/state")?;
        if state["status"] == "Running" && state["pid"].as_i64() > Some(0) && state["pid"].as_i64() != before {
            break;
        }
        ensure!(begun.elapsed().as_secs() < 30, "it did not come back: {state}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    ensure!(
        daemon.shell("c1", "test -e /tmp/mark && echo kept")? == "kept",
        "the root was lost"
    );
    Ok(())
}

#[test]
fn an_ephemeral_instance_goes_when_it_stops() -> Result<()> {
    let daemon = Daemon::start()?;
    daemon.instance("c1", &json!({ "ephemeral": true }))?;
    daemon.change("c1", "stop", true)?;
    let begun = std::time::Instant::now();
    while daemon
        .client()
        .request("GET", "/1.0/instances/c1", &Value::Null)?
        .status
        != 404
    {
        ensure!(begun.elapsed().as_secs() < 10, "it is still there");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    Ok(())
}

#[test]
fn a_paused_instance_does_nothing_until_it_is_resumed() -> Result<()> {
    let daemon = Daemon::start()?;
    daemon.instance("c1", &json!({}))?;
    daemon.shell(
        "c1",
        "(while :; do echo >> /tmp/ticks; sleep 0.05; done) >/dev/null 2>&1 & until [ -s /tmp/ticks ]; do sleep 0.02; done",
    )?;
    let ticks = || -> Result<usize> {
        let answer = daemon
            .client()
            .send("GET", "/1.0/instances/c1/files?path=/tmp/ticks", &[], b"")?;
        ensure!(answer.status == 200, "{}: {}", answer.status, answer.error());
        Ok(answer.body.len())
    };
    daemon.change("c1", "freeze", false)?;
    ensure!(daemon.status("c1")? == "Frozen");
    let paused = ticks()?;
    ensure!(paused > 0);
    std::thread::sleep(std::time::Duration::from_secs(1));
    ensure!(ticks()? == paused, "it went on while paused");
    let headers = &[("X-LXD-type", "file"), ("X-LXD-mode", "0640")];
    let pushed = daemon.client().send(
        "POST",
        "/1.0/instances/c1/files?path=/tmp/pushed",
        headers,
        b"in a pause",
    )?;
    ensure!(pushed.status == 200, "{}: {}", pushed.status, pushed.error());
    ensure!(daemon.status("c1")? == "Frozen", "reaching its files has resumed it");
    let snapshot = json!({ "name": "paused" });
    daemon.client().run("POST", "/1.0/instances/c1/snapshots", &snapshot)?;
    ensure!(
        daemon.status("c1")? == "Frozen" && ticks()? == paused,
        "a snapshot has resumed it, or closed its files"
    );

    daemon.change("c1", "unfreeze", false)?;
    ensure!(daemon.status("c1")? == "Running");
    let waited = format!("until [ $(stat -c %s /tmp/ticks) -gt {paused} ]; do sleep 0.02; done; echo on");
    ensure!(daemon.shell("c1", &waited)? == "on");
    ensure!(daemon.shell("c1", "stat -c '%a %u' /tmp/pushed; cat /tmp/pushed")? == "640 0\nin a pause");
    // What is paused can be ended.
    daemon.change("c1", "freeze", false)?;
    ensure!(ticks()? > paused);
    daemon.change("c1", "stop", true)?;
    ensure!(daemon.status("c1")? == "Stopped");
    Ok(())
}

#[test]
fn a_rename_keeps_the_files_and_the_old_name_is_free() -> Result<()> {
    let daemon = Daemon::start()?;
    let mut client = daemon.client();
    daemon.instance("old", &json!({}))?;
    daemon.shell("old", "echo kept > /root/file")?;
    let (status, message) = client.refused("POST", "/1.0/instances/old", &json!({ "name": "new" }))?;
    ensure!(
        status == 400 && message.to_lowercase().contains("running"),
        "{status} {message}"
    );
    daemon.change("old", "stop", true)?;
    client.run("POST", "/1.0/instances/old", &json!({ "name": "new" }))?;
    daemon.change("new", "start", false)?;
    ensure!(daemon.shell("new", "cat /root/file; hostname")? == "kept\nnew");
    daemon.instance("old", &json!({}))?;
    let (status, _) = client.refused("POST", "/1.0/instances", &creation("old", &json!({}), false))?;
    ensure!(status == 409 || status == 400, "a name twice: {status}");
    Ok(())
}

#[test]
fn a_copy_is_its_own_instance() -> Result<()> {
    let daemon = Daemon::start()?;
    let mut client = daemon.client();
    daemon.instance("c1", &json!({ "config": { "user.colour": "blue" } }))?;
    daemon.shell("c1", "echo original > /root/file")?;
    daemon.change("c1", "stop", true)?;
    let body = json!({ "name": "c2", "source": { "type": "copy", "source": "c1" } });
    client.run("POST", "/1.0/instances", &body)?;
    let (first, second) = (client.get("/1.0/instances/c1")?, client.get("/1.0/instances/c2")?);
    ensure!(second["config"]["user.colour"] == "blue");
    let mac = |instance: &Value| {
        instance["config"]["volatile.eth0.hwaddr"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    ensure!(
        mac(&first).is_empty() || mac(&first) != mac(&second),
        "both have {}",
        mac(&first)
    );
    daemon.change("c1", "start", false)?;
    daemon.change("c2", "start", false)?;
    daemon.shell("c2", "echo changed > /root/file")?;
    ensure!(daemon.shell("c1", "cat /root/file")? == "original");
    Ok(())
}

#[test]
fn what_is_the_daemons_to_say_stays_so_whatever_comes_back() -> Result<()> {
    let daemon = Daemon::start()?;
    let mut client = daemon.client();
    // The address of an interface is the caller's to choose, when it makes the instance and later.
    let config =
        json!({ "volatile.eth0.hwaddr": "00:16:3e:00:aa:01", "volatile.uuid": "b2d0bf0c-6a94-4a6b-9b7b-6d3b9c1d4f5e" });
    daemon.instance("c1", &json!({ "config": config }))?;
    ensure!(daemon.shell("c1", "cat /sys/class/net/eth0/address")? == "00:16:3e:00:aa:01");
    let before = client.get("/1.0/instances/c1")?;
    ensure!(before["config"]["volatile.uuid"] != config["volatile.uuid"], "{before}");

    let with = |key: &str, value: &str| {
        let mut changed = before.clone();
        changed["config"][key] = value.into();
        changed
    };
    // What clients send back from an older reading is as if they had not.
    for (key, value) in [
        ("volatile.last_state.power", "STOPPED"),
        ("volatile.eth0.host_name", "lo"),
        ("volatile.idmap.base", "0"),
    ] {
        client.run("PUT", "/1.0/instances/c1", &with(key, value))?;
        let after = client.get("/1.0/instances/c1")?;
        ensure!(after["config"] == before["config"], "{key}: {after}");
    }
    for (key, value, expected) in [
        (
            "volatile.uuid",
            "b2d0bf0c-6a94-4a6b-9b7b-6d3b9c1d4f5e",
            "volatile.uuid can't be changed",
        ),
        ("volatile.colour", "blue", "Unknown configuration key: volatile.colour"),
        ("volatile.eth0.hwaddr", "blue", "volatile.eth0.hwaddr"),
    ] {
        let (status, message) = client.refused("PUT", "/1.0/instances/c1", &with(key, value))?;
        ensure!(status == 400 && message.contains(expected), "{status} {message}");
        let patch = json!({ "config": { key: value } });
        let (status, message) = client.refused("PATCH", "/1.0/instances/c1", &patch)?;
        ensure!(status == 400 && message.contains(expected), "{status} {message}");
    }
    client.run(
        "PUT",
        "/1.0/instances/c1",
        &with("volatile.eth0.hwaddr", "00:16:3e:00:aa:02"),
    )?;
    ensure!(daemon.shell("c1", "cat /sys/class/net/eth0/address")? == "00:16:3e:00:aa:02");
    for key in ["volatile.eth0.hwaddr", "image.os"] {
        let profile = json!({ "name": "p", "config": { key: "00:16:3e:00:aa:03" } });
        let (status, message) = client.refused("POST", "/1.0/profiles", &profile)?;
        ensure!(
            status == 400 && message.contains("can only be set on instances"),
            "{status} {message}"
        );
    }
    Ok(())
}

#[test]
fn root_is_nobody_on_the_host_unless_privileged() -> Result<()> {
    let daemon = Daemon::start()?;
    daemon.instance("plain", &json!({}))?;
    daemon.instance("strong", &json!({ "config": { "security.privileged": "true" } }))?;
    let first = |map: String| map.split_whitespace().nth(1).and_then(|base| base.parse::<u64>().ok());
    let plain = first(daemon.shell("plain", "cat /proc/self/uid_map")?).context("no map")?;
    ensure!(plain >= 65536, "root is user {plain} on the host");
    ensure!(first(daemon.shell("strong", "cat /proc/self/uid_map")?) == Some(0));
    for name in ["plain", "strong"] {
        ensure!(daemon.shell(name, "stat -c %u /bin/busybox; id -u")? == "0\n0");
        ensure!(daemon.shell(name, "touch /root/x && stat -c %u /root/x")? == "0");
    }
    Ok(())
}

#[test]
fn two_instances_have_ranges_of_their_own() -> Result<()> {
    let daemon = Daemon::start()?;
    daemon.instance("c1", &json!({}))?;
    daemon.instance("c2", &json!({}))?;
    let map = |name| daemon.shell(name, "cat /proc/self/uid_map");
    ensure!(map("c1")? != map("c2")?);
    Ok(())
}

#[test]
fn the_environment_and_the_autostart_are_kept() -> Result<()> {
    let mut daemon = Daemon::start()?;
    let config = json!({ "config": { "environment.COLOUR": "blue", "boot.autostart": "true" } });
    daemon.instance("c1", &config)?;
    ensure!(daemon.shell("c1", "echo $COLOUR; tr '\\0' '\\n' < /proc/1/environ | grep COLOUR")? == "blue\nCOLOUR=blue");
    daemon.change("c1", "stop", true)?;
    daemon.stop()?;
    daemon.launch(&[])?;
    wait_for_status(&daemon, "c1", "Running")
}

#[test]
fn a_container_runs_in_a_container() -> Result<()> {
    let daemon = Daemon::start()?;
    daemon.instance("c1", &json!({ "config": { "security.nesting": "true" } }))?;
    // What a runtime needs: namespaces of all kinds with a fresh proc, sysfs and a mount of its own.
    let script = "unshare --user --map-root-user --mount --pid --fork --net --ipc --uts /bin/sh -c \
                  'mount -t proc proc /proc && mount -t sysfs sysfs /sys && mount -t tmpfs tmpfs /mnt && \
                  test \"$(cat /proc/self/comm)\" = cat && echo inner $$'";
    ensure!(daemon.shell("c1", script)? == "inner 1");
    Ok(())
}

/// This daemon in a container of this daemon: what a manager needs, from cgroups to id-mapped mounts.
#[test]
fn hutch_runs_in_a_container() -> Result<()> {
    let daemon = Daemon::start()?;
    let programs = Programs::from_environment()?;
    let share = daemon.sandbox().path().join("share");
    std::fs::create_dir_all(share.join("plugins"))?;
    let image = hutch_tests::image::busybox(&share)?;
    for (program, name) in [
        (&programs.daemon, "hutchd"),
        (&programs.cli, "hutch"),
        (&programs.keeper, "keeper"),
    ] {
        std::fs::copy(program, share.join(name))?;
    }
    let plugin = "plugins/storage-dir.wasm";
    std::fs::copy(programs.plugins.join("storage-dir.wasm"), share.join(plugin))?;
    std::fs::write(
        share.join("hutchd.toml"),
        "keeper = \"/opt/keeper\"\nplugin-directory = \"/opt/plugins\"\n",
    )?;
    let disk = |source: &std::path::Path, path: &str| json!({ "type": "disk", "source": source, "path": path, "readonly": "true" });
    // busybox is static, and the daemon is not: it finds the machine's libraries.
    let devices = json!({
        "share": disk(&share, "/opt"),
        "lib": disk("/lib".as_ref(), "/lib"),
        "lib64": disk("/lib64".as_ref(), "/lib64"),
    });
    daemon.instance(
        "outer",
        &json!({ "config": { "security.nesting": "true" }, "devices": devices }),
    )?;
    let begin = "(/opt/hutchd --state-dir /root/state --config /opt/hutchd.toml) >/root/log 2>&1 & \
                 i=0; while [ ! -S /root/state/unix.socket ] && [ $i -lt 600 ]; do sleep 0.1; i=$((i+1)); done; tail -n 5 /root/log";
    let log = daemon.shell("outer", begin)?;
    let file = image.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let script = format!(
        "h='/opt/hutch --socket /root/state/unix.socket'; \
         $h image import /opt/{file} --alias bb >/dev/null && \
         $h launch bb inner -c security.privileged=true >/dev/null && \
         $h exec inner -T -- sh -c 'hostname; id -u; cat /proc/1/comm; cat /proc/self/uid_map | tr -s \" \"; mount -t tmpfs none /mnt && echo mounted'; \
         $h config set inner limits.memory 64MiB 2>&1; $h config get inner limits.memory; $h query '/1.0/warnings?recursion=1'; \
         $h stop -f inner && $h delete inner && $h launch bb plain 2>&1"
    );
    // It compiles its plugin first, which takes an emulated machine minutes.
    let mut client = daemon.client().patience(std::time::Duration::from_secs(300));
    let outcome = exec::run(&mut client, "outer", &["/bin/sh", "-c", &script], b"")?;
    let shown = String::from_utf8_lossy(&outcome.stdout).into_owned();
    let map = daemon.shell("outer", "cat /proc/self/uid_map | tr -s ' '")?;
    let expected = format!("inner\n0\ninit\n {}\nmounted\n", map.trim());
    ensure!(
        shown.starts_with(&expected),
        "{shown:?} {:?}, and the log ends with {log}",
        String::from_utf8_lossy(&outcome.stderr)
    );
    ensure!(
        shown.contains("security.privileged=true"),
        "not said what to do: {shown}"
    );
    // Its init is in the root of its cgroups, so those below have no controllers.
    ensure!(
        shown.contains("no such controller")
            && shown.contains("Missing cgroup controllers")
            && !shown.contains("64MiB\n"),
        "a limit that can't be had: {shown}"
    );
    Ok(())
}

#[test]
fn listings_filter_and_nest() -> Result<()> {
    let daemon = Daemon::start()?;
    let mut client = daemon.client();
    daemon.instance("one", &json!({ "config": { "user.colour": "blue" } }))?;
    client.run("POST", "/1.0/instances", &creation("two", &json!({}), false))?;
    ensure!(client.get("/1.0/instances")? == json!(["/1.0/instances/one", "/1.0/instances/two"]));
    ensure!(client.get("/1.0/containers")? == json!(["/1.0/containers/one", "/1.0/containers/two"]));
    let running = client.get("/1.0/instances?recursion=1&filter=status%20eq%20Running")?;
    ensure!(
        running
            .as_array()
            .is_some_and(|all| all.len() == 1 && all[0]["name"] == "one"),
        "{running}"
    );
    let blue = client.get("/1.0/instances?recursion=1&filter=config.user.colour%20eq%20blue")?;
    ensure!(
        blue.as_array()
            .is_some_and(|all| all.len() == 1 && all[0]["name"] == "one"),
        "{blue}"
    );
    let full = client.get("/1.0/instances?recursion=2")?;
    ensure!(
        full[0]["state"]["status"] == "Running" && full[1]["state"]["status"] == "Stopped",
        "{full}"
    );
    ensure!(full[0]["state"]["memory"]["usage"].as_i64() > Some(0), "{full}");
    Ok(())
}

/// Waits until an instance has a status, by asking: what is tested is what a caller sees.
pub(crate) fn wait_for_status(daemon: &Daemon, instance: &str, status: &str) -> Result<()> {
    let begun = std::time::Instant::now();
    loop {
        let now = daemon.status(instance)?;
        if now == status {
            return Ok(());
        }
        ensure!(begun.elapsed().as_secs() < 30, "{instance} is {now} and not {status}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

//! The daemon dies and comes back; the containers do not notice, and nothing that happened meanwhile is lost.

use crate::exec::read_until;
use anyhow::{Context, Result, ensure};
use hutch_tests::daemon::Daemon;
use hutch_tests::exec::{self, attach};
use serde_json::{Value, json};
use std::time::Duration;
use tokio_tungstenite::tungstenite::Message;

fn pid(daemon: &Daemon, instance: &str) -> Result<i64> {
    daemon.client().get(&format!("/1.0/instances/{instance}/state"))?["pid"]
        .as_i64()
        .context("no pid")
}

#[test]
fn containers_run_on_and_are_found_again() -> Result<()> {
    let mut daemon = Daemon::start()?;
    daemon.instance("c1", &json!({}))?;
    daemon.shell(
        "c1",
        "(while :; do echo x >> /tmp/ticks; sleep 0.1; done) >/dev/null 2>&1 &",
    )?;
    let before = pid(&daemon, "c1")?;
    daemon.kill()?;
    std::thread::sleep(Duration::from_millis(500));
    daemon.launch(&[])?;
    ensure!(daemon.status("c1")? == "Running" && pid(&daemon, "c1")? == before);
    ensure!(
        daemon.shell("c1", "wc -l < /tmp/ticks")?.parse::<u32>()? >= 4,
        "it did not run meanwhile"
    );
    let mut client = daemon.client();
    let operation = client.begin("POST", "/1.0/instances/c1/console", &json!({ "type": "console" }))?;
    let mut console = attach(&client, &operation, "0")?;
    let control = attach(&client, &operation, "control")?;
    daemon.shell(
        "c1",
        "(read line < /dev/console; echo heard $line > /dev/console) >/dev/null 2>&1 &",
    )?;
    console.send(Message::binary(b"again\n".to_vec()))?;
    read_until(&mut console, "heard again")?;
    drop((console, control));
    daemon.change("c1", "stop", true)?;
    daemon.change("c1", "start", false)
}

#[test]
fn the_exit_status_of_a_command_that_ended_meanwhile_is_kept() -> Result<()> {
    let mut daemon = Daemon::start()?;
    daemon.instance("c1", &json!({}))?;
    let mut client = daemon.client();
    let running = exec::begin(
        &mut client,
        "c1",
        &["/bin/sh", "-c", "sleep 1; echo done > /tmp/mark; exit 5"],
        false,
    )?;
    let detached = client.begin(
        "POST",
        "/1.0/instances/c1/exec",
        &json!({ "command": ["/bin/sh", "-c", "touch /tmp/runs; sleep 30; exit 6"], "wait-for-websocket": false }),
    )?;
    // The answer tells that the command was accepted, and not yet that it runs.
    daemon.shell("c1", "until [ -e /tmp/runs ]; do sleep 0.02; done")?;
    daemon.kill()?;
    std::thread::sleep(Duration::from_millis(1500));
    daemon.launch(&[])?;
    ensure!(
        daemon.shell("c1", "cat /tmp/mark")? == "done",
        "the command died with the daemon"
    );
    let mut client = daemon.client();
    let ended = client.end_of(&running.operation)?;
    ensure!(ended["metadata"]["return"] == 5, "{ended}");
    let id = detached["id"].as_str().context("no id")?;
    let still = client.get(&format!("/1.0/operations/{id}"))?;
    ensure!(still["status"] == "Running", "a command that runs is {still}");
    Ok(())
}

/// The keeper of a running instance: the process that started its PID 1.
fn keeper_of(daemon: &Daemon, instance: &str) -> Result<nix::unistd::Pid> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid(daemon, instance)?))?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    let parent = parent.context("no parent")?.trim().parse()?;
    Ok(nix::unistd::Pid::from_raw(parent))
}

#[test]
fn a_keeper_that_does_not_answer_holds_up_its_own_instance_alone() -> Result<()> {
    let mut daemon = Daemon::start()?;
    for name in ["c1", "c2"] {
        daemon.instance(name, &json!({}))?;
    }
    let keeper = keeper_of(&daemon, "c1")?;
    daemon.kill()?;
    nix::sys::signal::kill(keeper, nix::sys::signal::Signal::SIGSTOP)?;
    let started = daemon.launch(&[]);
    let looked = started.and_then(|_| {
        ensure!(daemon.status("c1")? == "Error", "shown as {}", daemon.status("c1")?);
        ensure!(daemon.shell("c2", "echo works")? == "works");
        let mut client = daemon.client();
        let start = json!({ "action": "start" });
        for (method, path, body) in [
            ("PUT", "/1.0/instances/c1/state", &start),
            ("DELETE", "/1.0/instances/c1", &Value::Null),
            ("POST", "/1.0/instances/c1", &json!({ "name": "c3" })),
        ] {
            let (_, message) = client.refused(method, path, body)?;
            ensure!(message.contains("does not answer"), "{method} {path}: {message}");
        }
        Ok(())
    });
    nix::sys::signal::kill(keeper, nix::sys::signal::Signal::SIGCONT)?;
    looked?;
    crate::lifecycle::wait_for_status(&daemon, "c1", "Running")?;
    ensure!(daemon.shell("c1", "echo works")? == "works");
    Ok(())
}

#[test]
fn what_was_interrupted_waits_for_a_keeper_that_does_not_answer() -> Result<()> {
    use nix::sys::signal::{Signal, kill};
    const POWER: &str = "volatile.last_state.power";
    let mut daemon = Daemon::start()?;
    daemon.instance("c1", &json!({ "ephemeral": true }))?;
    daemon.instance("c2", &json!({}))?;
    // An ephemeral instance that is restarted stays; the others end.
    for (instance, action, point) in [
        ("c1", "restart", "instance-stop:begin"),
        ("c2", "stop", "instance-stop:begin"),
        ("c2", "stop", "instance-stop:asked"),
    ] {
        let before = pid(&daemon, instance)?;
        let keeper = keeper_of(&daemon, instance)?;
        daemon.stop()?;
        daemon.launch(&[("HUTCH_STOP_AT", point)])?;
        let changed = daemon.change(instance, action, true);
        ensure!(changed.is_err(), "the daemon lived on past {point}");
        ensure!(daemon.wait_for_fault()?, "{point} was not reached");
        kill(keeper, Signal::SIGSTOP)?;
        let looked = daemon.launch(&[]).and_then(|_| {
            let status = daemon.status(instance)?;
            ensure!(status == "Error", "{action}, {point}: shown as {status}");
            let shown = daemon.client().get(&format!("/1.0/instances/{instance}"))?;
            // Nobody knows that it has ended.
            ensure!(shown["config"][POWER] == "RUNNING", "{action}, {point}: {shown}");
            Ok(())
        });
        kill(keeper, Signal::SIGCONT)?;
        looked?;
        if action == "restart" {
            crate::lifecycle::wait_for_status(&daemon, instance, "Running")?;
            let begun = std::time::Instant::now();
            // Between both it does not run.
            while pid(&daemon, instance).is_ok_and(|now| now == before || now <= 0) {
                ensure!(begun.elapsed() < Duration::from_secs(20), "it was not restarted");
                std::thread::sleep(Duration::from_millis(20));
            }
            crate::lifecycle::wait_for_status(&daemon, instance, "Running")?;
            ensure!(daemon.shell(instance, "echo works")? == "works");
        } else {
            crate::lifecycle::wait_for_status(&daemon, instance, "Stopped")?;
            daemon.change(instance, "start", false)?;
        }
    }
    Ok(())
}

#[test]
fn a_container_reboots_itself_while_nobody_watches() -> Result<()> {
    let mut daemon = Daemon::start()?;
    daemon.instance("c1", &json!({}))?;
    let before = pid(&daemon, "c1")?;
    daemon.shell("c1", "touch /root/mark; (sleep 0.5; kill -TERM 1) >/dev/null 2>&1 &")?;
    daemon.kill()?;
    std::thread::sleep(Duration::from_secs(3));
    ensure!(
        !std::path::Path::new(&format!("/proc/{before}")).exists(),
        "it did not reboot"
    );
    daemon.launch(&[])?;
    ensure!(daemon.status("c1")? == "Running" && pid(&daemon, "c1")? != before);
    ensure!(daemon.shell("c1", "ls /root/mark")? == "/root/mark");
    crate::network::address(&daemon, "c1")?;
    Ok(())
}

#[test]
fn a_container_that_ended_meanwhile_is_stopped() -> Result<()> {
    let mut daemon = Daemon::start()?;
    daemon.instance("c1", &json!({}))?;
    daemon.shell("c1", "(sleep 0.5; kill -USR2 1) >/dev/null 2>&1 &")?;
    daemon.kill()?;
    std::thread::sleep(Duration::from_secs(3));
    daemon.launch(&[])?;
    crate::lifecycle::wait_for_status(&daemon, "c1", "Stopped")?;
    daemon.change("c1", "start", false)
}

#[test]
fn a_clean_stop_and_a_start_change_nothing() -> Result<()> {
    let mut daemon = Daemon::start()?;
    daemon.instance("c1", &json!({ "config": { "limits.memory": "128MiB" } }))?;
    daemon
        .client()
        .run("POST", "/1.0/instances/c1/snapshots", &json!({ "name": "s1" }))?;
    let look = |daemon: &Daemon| -> Result<Vec<Value>> {
        let mut client = daemon.client();
        [
            "/1.0/instances/c1",
            "/1.0/instances/c1/snapshots?recursion=1",
            "/1.0/networks?recursion=1",
            "/1.0/profiles?recursion=1",
            "/1.0/storage-pools?recursion=1",
            "/1.0/images?recursion=1",
        ]
        .iter()
        .map(|path| client.get(path))
        .collect()
    };
    let before = look(&daemon)?;
    daemon.stop()?;
    ensure!(
        !daemon.socket().exists(),
        "the socket of a daemon that ended is still there"
    );
    daemon.launch(&[])?;
    // Pools and networks are brought up while requests are served already.
    let begun = std::time::Instant::now();
    loop {
        let after = look(&daemon)?;
        if after == before {
            return Ok(());
        }
        ensure!(begun.elapsed() < Duration::from_secs(10), "{before:?} became {after:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

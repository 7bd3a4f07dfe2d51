//! Commands and consoles.

use anyhow::{Context, Result, ensure};
use hutch_tests::daemon::Daemon;
use hutch_tests::exec::{self, attach};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio_tungstenite::tungstenite::Message;

#[test]
fn output_status_and_errors_come_back() -> Result<()> {
    let daemon = Daemon::start()?;
    daemon.instance("c1", &json!({}))?;
    let mut client = daemon.client();
    let both = exec::run(
        &mut client,
        "c1",
        &["/bin/sh", "-c", "echo out; echo err >&2; exit 7"],
        b"",
    )?;
    ensure!(
        (both.status, both.stdout.as_slice(), both.stderr.as_slice()) == (7, b"out\n".as_slice(), b"err\n".as_slice())
    );
    ensure!(exec::run(&mut client, "c1", &["/bin/true"], b"")?.status == 0);
    let killed = exec::run(&mut client, "c1", &["/bin/sh", "-c", "kill -9 $$"], b"")?;
    ensure!(
        killed.status == 137,
        "a command that was killed gives {}",
        killed.status
    );
    let absent = exec::run(&mut client, "c1", &["/no/such/program"], b"");
    ensure!(absent.is_err() || absent.is_ok_and(|output| output.status == 127));
    Ok(())
}

#[test]
fn input_of_any_size_and_content_goes_through() -> Result<()> {
    let daemon = Daemon::start()?;
    daemon.instance("c1", &json!({}))?;
    let input: Vec<u8> = (0..3_000_000_u32)
        .map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let output = exec::run(&mut daemon.client(), "c1", &["/bin/cat"], &input)?;
    ensure!(
        output.status == 0 && output.stdout == input,
        "{} of {} bytes",
        output.stdout.len(),
        input.len()
    );
    Ok(())
}

#[test]
fn user_directory_and_environment_are_the_callers() -> Result<()> {
    let daemon = Daemon::start()?;
    daemon.instance("c1", &json!({}))?;
    let mut client = daemon.client();
    let body = json!({
        "command": ["/bin/sh", "-c", "id -u; id -g; pwd; echo $COLOUR"],
        "wait-for-websocket": false, "record-output": true, "interactive": false,
        "user": 1000, "group": 1001, "cwd": "/tmp", "environment": { "COLOUR": "blue" },
    });
    let ended = client.run("POST", "/1.0/instances/c1/exec", &body)?;
    ensure!(ended["metadata"]["return"] == 0, "{ended}");
    let path = ended["metadata"]["output"]["1"]
        .as_str()
        .context("no recorded output")?;
    let answer = client.send("GET", path, &[], b"")?;
    ensure!(
        answer.body == b"1000\n1001\n/tmp\nblue\n",
        "{:?}",
        String::from_utf8_lossy(&answer.body)
    );
    Ok(())
}

#[test]
fn a_terminal_has_a_size_and_takes_signals() -> Result<()> {
    let daemon = Daemon::start()?;
    daemon.instance("c1", &json!({}))?;
    let mut client = daemon.client();
    // What is told is told once it is listened for.
    let script = "trap 'stty size' WINCH; stty size; while :; do sleep 0.1; done";
    let mut running = exec::begin(&mut client, "c1", &["/bin/sh", "-c", script], true)?;
    let mut terminal = running.streams.remove(0);
    read_until(&mut terminal, "24 80")?;
    let resize = json!({ "command": "window-resize", "args": { "width": "100", "height": "40" } });
    running.control.send(Message::text(resize.to_string()))?;
    read_until(&mut terminal, "40 100")?;
    let signal = json!({ "command": "signal", "signal": 15 });
    running.control.send(Message::text(signal.to_string()))?;
    let ended = client.wait(&running.operation)?;
    ensure!(ended["metadata"]["return"] == 143, "{ended}");
    Ok(())
}

#[test]
fn a_hundred_commands_at_once_are_not_mixed_up() -> Result<()> {
    let daemon = Daemon::start()?;
    daemon.instance("c1", &json!({}))?;
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..100)
            .map(|number| {
                let daemon = &daemon;
                scope.spawn(move || -> Result<()> {
                    let said = daemon.shell("c1", &format!("sleep 0.1; echo {number}"))?;
                    ensure!(said == number.to_string(), "{number} was answered with {said}");
                    Ok(())
                })
            })
            .collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().map_err(|_| anyhow::anyhow!("a worker panicked"))?)
    })
}

#[test]
fn a_command_in_a_stopped_instance_is_refused() -> Result<()> {
    let daemon = Daemon::start()?;
    daemon.instance("c1", &json!({}))?;
    daemon.change("c1", "stop", true)?;
    let body = json!({ "command": ["/bin/true"], "wait-for-websocket": false });
    let (status, message) = daemon.client().refused("POST", "/1.0/instances/c1/exec", &body)?;
    // Ansible's connection looks for these words.
    ensure!(
        status == 400 && message.to_lowercase().contains("is not running"),
        "{status} {message}"
    );
    Ok(())
}

#[test]
fn a_command_that_nobody_attaches_to_does_not_stay() -> Result<()> {
    let daemon = Daemon::start()?;
    daemon.instance("c1", &json!({}))?;
    let mut client = daemon.client();
    let body = json!({ "command": ["/bin/cat"], "wait-for-websocket": true, "interactive": false });
    let operation = client.begin("POST", "/1.0/instances/c1/exec", &body)?;
    let id = operation["id"].as_str().context("no id")?.to_owned();
    drop(attach(&client, &operation, "control")?);
    // One websocket came and went; the command must end with the instance at the latest.
    daemon.change("c1", "stop", true)?;
    let begun = Instant::now();
    loop {
        let answer = client.request("GET", &format!("/1.0/operations/{id}"), &Value::Null)?;
        if answer.status == 404 || answer.json()?["metadata"]["status_code"].as_i64() >= Some(200) {
            return Ok(());
        }
        ensure!(
            begun.elapsed() < Duration::from_secs(15),
            "the operation is still there: {}",
            answer.json()?
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn the_console_shows_what_was_and_takes_what_is_typed() -> Result<()> {
    let daemon = Daemon::start()?;
    daemon.instance("c1", &json!({}))?;
    daemon.shell("c1", "echo from-inside > /dev/console")?;
    let mut client = daemon.client();
    let log = client.send("GET", "/1.0/instances/c1/console", &[], b"")?;
    ensure!(
        log.status == 200 && String::from_utf8_lossy(&log.body).contains("from-inside"),
        "{}",
        log.error()
    );
    let operation = client.begin(
        "POST",
        "/1.0/instances/c1/console",
        &json!({ "width": 80, "height": 24, "type": "console" }),
    )?;
    let mut console = attach(&client, &operation, "0")?;
    let control = attach(&client, &operation, "control")?;
    daemon.shell(
        "c1",
        "(read line < /dev/console; echo heard $line > /dev/console) >/dev/null 2>&1 &",
    )?;
    console.send(Message::binary(b"hello\n".to_vec()))?;
    read_until(&mut console, "heard hello")?;
    drop((console, control));
    client.sync("DELETE", "/1.0/instances/c1/console", &Value::Null)?;
    let log = client.send("GET", "/1.0/instances/c1/console", &[], b"")?;
    ensure!(
        !String::from_utf8_lossy(&log.body).contains("from-inside"),
        "the log was not cleared"
    );
    Ok(())
}

/// Reads a websocket until a text has come.
pub(crate) fn read_until(socket: &mut exec::Socket, text: &str) -> Result<()> {
    let begun = Instant::now();
    socket.get_ref().set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut seen = String::new();
    while !seen.contains(text) {
        let message = socket
            .read()
            .with_context(|| format!("waiting for {text:?} after {seen:?}"))?;
        if !matches!(message, Message::Ping(_) | Message::Pong(_)) {
            seen.push_str(&String::from_utf8_lossy(&message.into_data()));
        }
        ensure!(
            begun.elapsed() < Duration::from_secs(20),
            "waiting for {text:?} after {seen:?}"
        );
    }
    Ok(())
}

//! Figures about one container at a time, taken in turns.

use crate::table::{Goal, Row, Unit};
use crate::{Contest, Side};
use anyhow::Result;
use hutch_tests::daemon::creation;
use hutch_tests::exec;
use hutch_tests::rest::Client;
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

/// How often the short figures are taken of each daemon.
const TURNS: usize = 30;
/// How often whole lives are lived.
const LIVES: usize = 15;
/// How often Debian is launched.
const DEBIANS: usize = 7;

/// A command in a running container: with its standard streams as websockets, and without any.
pub(crate) fn exec(contest: &Contest) -> Result<Vec<Row>> {
    let mut attached = Row::new(
        "exec of `/bin/true`, request to exit status, streams attached",
        Unit::Milliseconds,
        Goal::AtMost(5.0),
    );
    let mut detached = Row::new(
        "exec of `/bin/true`, request to exit status, no streams",
        Unit::Milliseconds,
        Goal::AtMost(5.0),
    );
    for side in contest.sides() {
        contest.daemon(side)?.instance("bench-exec", &json!({}))?;
    }
    for turn in 0..=TURNS {
        for side in contest.sides() {
            let mut client = contest.daemon(side)?.client();
            // The connection is made before, as a client that stays has it.
            client.get("/1.0")?;
            let with = timed(|| exec::run(&mut client, "bench-exec", &["/bin/true"], b"").map(drop))?;
            let without = timed(|| run_detached(&mut client, "bench-exec"))?;
            // The first turn only warms both up.
            if turn > 0 {
                attached.of(side).push_time(with);
                detached.of(side).push_time(without);
            }
        }
    }
    for side in contest.sides() {
        remove(&mut contest.daemon(side)?.client(), "bench-exec")?;
    }
    Ok(vec![attached, detached])
}

fn run_detached(client: &mut Client, instance: &str) -> Result<()> {
    let body = json!({ "command": ["/bin/true"], "wait-for-websocket": false, "interactive": false });
    let ended = client.run("POST", &format!("/1.0/instances/{instance}/exec"), &body)?;
    anyhow::ensure!(
        ended["metadata"]["return"] == 0,
        "/bin/true ended with {}",
        ended["metadata"]["return"]
    );
    Ok(())
}

/// Creation with start, forced stop and deletion of a container, as the caller sees them.
pub(crate) fn lives(contest: &Contest) -> Result<Vec<Row>> {
    let mut launch = Row::new(
        "launch of a busybox image until PID 1 runs",
        Unit::Milliseconds,
        Goal::AtMost(100.0),
    );
    let mut stop = Row::new(
        "stop by force, as the caller sees it",
        Unit::Milliseconds,
        Goal::AtMost(40.0),
    );
    let mut delete = Row::new(
        "deletion, as the caller sees it",
        Unit::Milliseconds,
        Goal::AtMost(15.0),
    );
    for turn in 0..=LIVES {
        for side in contest.sides() {
            let mut client = contest.daemon(side)?.client();
            let name = format!("bench-{turn}");
            let launched = timed(|| {
                client
                    .run("POST", "/1.0/instances", &creation(&name, &json!({}), true))
                    .map(drop)
            })?;
            let stopped = timed(|| force_stop(&mut client, &name))?;
            let deleted = timed(|| {
                client
                    .run("DELETE", &format!("/1.0/instances/{name}"), &Value::Null)
                    .map(drop)
            })?;
            // The first launch unpacks the image.
            if turn > 0 {
                launch.of(side).push_time(launched);
                stop.of(side).push_time(stopped);
                delete.of(side).push_time(deleted);
            }
        }
    }
    Ok(vec![launch, stop, delete])
}

/// Launch of a whole Debian whose image is in the pool already.
pub(crate) fn debian(contest: &Contest, given: Option<&Path>) -> Result<Row> {
    let mut row = Row::new(
        "launch of a Debian image, cached, until PID 1 runs",
        Unit::Milliseconds,
        Goal::AtMost(100.0),
    );
    let image = match given {
        Some(path) => path.to_path_buf(),
        None => hutch_tests::debian::image(contest.daemon(Side::Hutch)?)?,
    };
    for side in contest.sides() {
        contest
            .daemon(side)?
            .client()
            .import_image(&image, Some("debian-bench"))?;
    }
    for turn in 0..=DEBIANS {
        for side in contest.sides() {
            let mut client = contest.daemon(side)?.client();
            let mut body = creation("bench-debian", &json!({}), true);
            body["source"]["alias"] = json!("debian-bench");
            let launched = timed(|| client.run("POST", "/1.0/instances", &body).map(drop))?;
            if turn > 0 {
                row.of(side).push_time(launched);
            }
            remove(&mut client, "bench-debian")?;
        }
    }
    Ok(row)
}

fn force_stop(client: &mut Client, name: &str) -> Result<()> {
    let body = json!({ "action": "stop", "timeout": -1, "force": true, "stateful": false });
    client
        .run("PUT", &format!("/1.0/instances/{name}/state"), &body)
        .map(drop)
}

/// Stops an instance by force and deletes it.
pub(crate) fn remove(client: &mut Client, name: &str) -> Result<()> {
    force_stop(client, name)?;
    client
        .run("DELETE", &format!("/1.0/instances/{name}"), &Value::Null)
        .map(drop)
}

/// How long something takes.
pub(crate) fn timed(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed())
}

//! Metrics, as Prometheus reads them.

use anyhow::{Context, Result, ensure};
use hutch_tests::daemon::Daemon;
use hutch_tests::stock::Stock;
use serde_json::{Value, json};

const OPENMETRICS: &str = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";

/// The metrics as text.
fn metrics(daemon: &Daemon, path: &str, accept: &str) -> Result<(String, String)> {
    let answer = daemon.client().send("GET", path, &[("Accept", accept)], b"")?;
    let text = String::from_utf8(answer.body.clone())?;
    ensure!(answer.status == 200, "{}: {text}", answer.status);
    let kind = answer.header("content-type").context("no type")?.to_owned();
    Ok((kind, text))
}

/// The number of the first sample that begins so, and has all these labels.
fn sample(text: &str, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
    let has = |line: &str| {
        labels
            .iter()
            .all(|(key, value)| line.contains(&format!("{key}=\"{value}\"")))
    };
    let line = text
        .lines()
        .find(|line| line.split(['{', ' ']).next() == Some(name) && has(line))
        .with_context(|| format!("{name} {labels:?} is not in:\n{text}"))?;
    line.rsplit(' ')
        .next()
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("no number: {line}"))
}

#[test]
fn what_instances_use_has_the_names_that_incus_gives_it() -> Result<()> {
    let daemon = Daemon::start()?;
    daemon.instance("c1", &json!({}))?;
    let c1 = [("name", "c1"), ("project", "default"), ("type", "container")];
    let (kind, before) = metrics(&daemon, "/1.0/metrics", OPENMETRICS)?;
    ensure!(
        kind == "application/openmetrics-text; version=1.0.0; charset=utf-8",
        "{kind}"
    );
    ensure!(before.ends_with("# EOF\n"), "{before}");
    daemon.shell("c1", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done")?;
    let (_, after) = metrics(&daemon, "/1.0/metrics", OPENMETRICS)?;
    let user = [c1.as_slice(), &[("mode", "user"), ("cpu", "0")]].concat();
    let spent = |text: &str| sample(text, "incus_cpu_seconds_total", &user);
    ensure!(spent(&after)? > spent(&before)?, "no processor time was used");
    let state = daemon.client().get("/1.0/instances/c1/state")?;
    let total = sample(&after, "incus_memory_MemTotal_bytes", &c1)?;
    ensure!(
        state["memory"]["total"].as_f64() == Some(total),
        "{total} is not the total of {state}"
    );
    ensure!(sample(&after, "incus_memory_RSS_bytes", &c1)? > 0.0);
    ensure!(sample(&after, "incus_procs_total", &c1)? >= 1.0);
    let eth0 = [c1.as_slice(), &[("device", "eth0")]].concat();
    ensure!(sample(&after, "incus_network_transmit_packets_total", &eth0)? > 0.0);
    ensure!(sample(&after, "incus_uptime_seconds", &[])? > 0.0);
    daemon.change("c1", "stop", true)?;
    let (_, stopped) = metrics(&daemon, "/1.0/metrics", "")?;
    ensure!(!stopped.contains("name=\"c1\""), "it is stopped: {stopped}");
    Ok(())
}

#[test]
fn metrics_of_a_project_are_those_of_its_instances() -> Result<()> {
    let daemon = Daemon::start()?;
    daemon.instance("c1", &json!({}))?;
    let mut client = daemon.client();
    client.sync("POST", "/1.0/projects", &json!({ "name": "other" }))?;
    let (_, other) = metrics(&daemon, "/1.0/metrics?project=other", "")?;
    ensure!(!other.contains("c1") && !other.contains("hutch_plugin"), "{other}");
    let (_, own) = metrics(&daemon, "/1.0/metrics?project=default", "")?;
    sample(&own, "incus_procs_total", &[("name", "c1")])?;
    let (status, _) = client.refused("GET", "/1.0/metrics?project=none", &Value::Null)?;
    ensure!(status == 404, "{status}");
    let server = client.get("/1.0")?;
    ensure!(server["api_extensions"].to_string().contains("\"metrics\""));
    // The stock client asks without saying what it takes.
    if let Some(incus) = Stock::incus(&daemon) {
        let text = incus.run(&["query", "--raw", "/1.0/metrics"])?;
        sample(&text, "incus_procs_total", &[("name", "c1")])?;
    }
    Ok(())
}

#[test]
fn plugins_are_measured_by_function_and_result() -> Result<()> {
    let daemon = Daemon::start()?;
    daemon.instance("c1", &json!({}))?;
    let (_, text) = metrics(&daemon, "/1.0/metrics", OPENMETRICS)?;
    let ours = ("plugin", "org.hutch.storage.overlay");
    ensure!(sample(&text, "hutch_plugin_up", &[ours])? > 0.0);
    let mount = [ours, ("function", "volume.mount"), ("result", "ok")];
    ensure!(sample(&text, "hutch_plugin_calls_total", &mount)? >= 1.0);
    let calls = sample(&text, "hutch_plugin_call_seconds_count", &[ours])?;
    ensure!(calls >= 2.0, "{calls}");
    ensure!(sample(&text, "hutch_plugin_call_seconds_bucket", &[ours, ("le", "+Inf")])? >= calls);
    let made = [ours, ("function", "fs.make-dir"), ("result", "ok")];
    ensure!(sample(&text, "hutch_plugin_host_calls_total", &made)? >= 1.0);
    ensure!(sample(&text, "hutch_plugin_memory_peak_bytes", &[ours])? >= 65536.0);
    ensure!(sample(&text, "hutch_plugin_guest_seconds_total", &[ours])? > 0.0);
    ensure!(sample(&text, "hutch_plugin_quarantined", &[ours])? == 0.0);
    Ok(())
}

/// Reads both formats by Prometheus's own parsers, which refuse what is not as it should be.
const PARSE: &str = r#"
import http.client, os, socket
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

class Connection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(os.environ["LXD_DIR"] + "/unix.socket")

def get(accept):
    connection = Connection("unix")
    connection.request("GET", "/1.0/metrics", headers={"Accept": accept})
    return connection.getresponse().read().decode()

new = {f.name: f for f in openmetrics(get("application/openmetrics-text"))}
old = {f.name: f for f in plain(get("text/plain"))}
assert new["incus_cpu_seconds"].type == "counter", new["incus_cpu_seconds"]
assert new["hutch_plugin_call_seconds"].type == "histogram"
assert new["hutch_plugin"].type == "info"
names = lambda families: {s.name for f in families.values() for s in f.samples}
assert names(new) == names(old), names(new) ^ names(old)
labels = {s.labels["name"] for s in new["incus_procs_total"].samples}
assert labels == {"c1"}, labels
print(len(names(new)))
"#;

#[test]
fn prometheus_reads_them() -> Result<()> {
    let daemon = Daemon::start()?;
    let Some(python) = Stock::prometheus(&daemon) else {
        return Ok(());
    };
    daemon.instance("c1", &json!({}))?;
    let names: usize = python.run(&["-c", PARSE])?.trim().parse()?;
    ensure!(names > 50, "{names} kinds of samples");
    Ok(())
}

#[test]
fn top_shows_what_plugins_do() -> Result<()> {
    let daemon = Daemon::start()?;
    daemon.instance("c1", &json!({}))?;
    let hutch = Stock::hutch(&daemon)?;
    let rows: Value = serde_json::from_str(&hutch.run(&["plugin", "top", "--format", "json"])?)?;
    let row = |id: &str| {
        let rows = rows.as_array().into_iter().flatten();
        rows.into_iter().find(|row| row["plugin"] == id)
    };
    let overlay = row("org.hutch.storage.overlay").context("it is not shown")?;
    ensure!(overlay["state"] == "enabled" && overlay["running"] == 0, "{overlay}");
    ensure!(overlay["memory_peak"].as_u64() > Some(0), "{overlay}");
    // Without a terminal one table, and its end.
    let table = hutch.run(&["plugin", "top"])?;
    ensure!(table.contains("CALLS/S") && !table.contains('\u{1b}'), "{table}");
    Ok(())
}

#[test]
fn a_trace_says_what_a_plugin_had_the_host_do() -> Result<()> {
    let mut daemon = Daemon::start()?;
    daemon.instance("c1", &json!({}))?;
    ensure!(!daemon.log().contains("host_call"), "nobody asked for it");
    daemon.stop()?;
    daemon.launch(&[("HUTCH_LOG", "info,hutch_plugin=debug")])?;
    daemon.instance("c2", &json!({}))?;
    let log = daemon.log();
    let line = log
        .lines()
        .find(|line| line.contains("host_call") && line.contains("fs.make-dir"))
        .with_context(|| format!("no trace of a directory that was made: {log}"))?;
    for part in [
        "org.hutch.storage.overlay",
        "version=",
        "volume.",
        "about=",
        "us=",
        "outcome=\"ok\"",
    ] {
        ensure!(line.contains(part), "{part} is not in: {line}");
    }
    Ok(())
}

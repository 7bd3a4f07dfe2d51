//! `info` and `version`.

use std::fmt::Write;

use clap::Args;
use http_body_util::BodyExt;
use hutch_api::StatusCode;
use hutch_api::instance::InstanceFull;
use hutch_api::server::Server;
use hyper::Method;
use serde_json::Value;

use crate::client::{ApiPath, Client, decode, empty_body};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::object::Place;
use crate::output;

#[derive(Debug, Args)]
pub(crate) struct InfoArgs {
    /// The instance; the daemon without it
    #[arg(value_name = "[REMOTE:][INSTANCE]")]
    instance: Option<String>,
    /// Show the end of the instance's log, too
    #[arg(long, requires = "instance")]
    show_log: bool,
    /// Show the machine instead
    #[arg(long, conflicts_with = "instance")]
    resources: bool,
}

#[derive(Debug, Args)]
pub(crate) struct VersionArgs {
    /// The daemon
    #[arg(value_name = "REMOTE:")]
    remote: Option<String>,
}

/// Prints the versions of this program and of the daemon.
pub(crate) async fn version(ctx: &Context, args: VersionArgs) -> Result<()> {
    output::print_line(&format!("Client version: {}", env!("CARGO_PKG_VERSION")))?;
    let target = ctx.daemon(args.remote.as_deref())?;
    match target.client.get::<Server>(ApiPath::new([""; 0])).await {
        Ok(server) => {
            let name = &server.environment.server;
            output::print_line(&format!(
                "Server version: {} ({name})",
                server.environment.server_version
            ))
        }
        Err(Error::Connect { .. }) => output::print_line("Server version: unreachable"),
        Err(error) => Err(error),
    }
}

/// Shows an instance, the daemon or the machine.
pub(crate) async fn info(ctx: &Context, args: InfoArgs) -> Result<()> {
    let target = ctx.target(args.instance.as_deref().unwrap_or_default())?;
    let client = &target.client;
    if args.resources {
        let resources: Value = client.get(ApiPath::new(["resources"])).await?;
        return output::print_yaml(&resources);
    }
    if target.name.is_empty() {
        let server: Server = client.get(ApiPath::new([""; 0])).await?;
        return output::print_yaml(&server);
    }
    let path = ApiPath::new(["instances", &target.name]).query("recursion", "1");
    let instance: InstanceFull = Place {
        client,
        path,
        name: &target.name,
    }
    .get()
    .await?;
    output::write_out(describe(&instance).as_bytes())?;
    if args.show_log {
        show_log(client, &target.name).await
    } else {
        Ok(())
    }
}

/// Writing into a string can't fail, so what it returns is of no use.
macro_rules! line {
    ($text:expr, $($format:tt)*) => {{
        let _ = writeln!($text, $($format)*);
    }};
}

fn describe(full: &InstanceFull) -> String {
    let instance = &full.instance;
    let mut text = String::new();
    line!(text, "Name: {}", instance.name);
    line!(text, "Description: {}", instance.description);
    line!(text, "Status: {}", instance.status.to_uppercase());
    line!(
        text,
        "Type: {}{}",
        instance.kind,
        if instance.ephemeral { " (ephemeral)" } else { "" }
    );
    line!(text, "Architecture: {}", instance.architecture);
    if !matches!(instance.location.as_str(), "" | "none") {
        line!(text, "Location: {}", instance.location);
    }
    if full.state.pid > 0 {
        line!(text, "PID: {}", full.state.pid);
    }
    line!(text, "Created: {}", output::minute(instance.created_at));
    if instance.last_used_at.get().is_some_and(|at| at.unix_timestamp() > 0) {
        line!(text, "Last Used: {}", output::minute(instance.last_used_at));
    }
    if full.state.status_code != StatusCode::STOPPED && full.state.pid > 0 {
        describe_state(full, &mut text);
    }
    if !full.snapshots.is_empty() {
        line!(text, "\nSnapshots:");
        let mut table = output::Table::new(["NAME", "TAKEN AT", "EXPIRES AT", "STATEFUL"]);
        for snapshot in &full.snapshots {
            table.row(vec![
                snapshot.name.rsplit('/').next().unwrap_or_default().to_owned(),
                output::minute(snapshot.created_at),
                output::minute(snapshot.expires_at),
                output::yes_no(snapshot.stateful),
            ]);
        }
        text.push_str(&table.bordered());
    }
    text
}

fn describe_state(full: &InstanceFull, text: &mut String) {
    let state = &full.state;
    line!(text, "\nResources:");
    if state.processes > 0 {
        line!(text, "  Processes: {}", state.processes);
    }
    if state.disk.values().any(|disk| disk.usage > 0) {
        line!(text, "  Disk usage:");
        for (name, disk) in state.disk.iter().filter(|(_, disk)| disk.usage > 0) {
            line!(text, "    {name}: {}", output::bytes(disk.usage));
        }
    }
    if state.cpu.usage > 0 {
        line!(
            text,
            "  CPU usage:\n    CPU usage (in seconds): {}",
            state.cpu.usage / 1_000_000_000
        );
    }
    let memory = [
        ("Memory (current)", state.memory.usage),
        ("Memory (peak)", state.memory.usage_peak),
        ("Swap (current)", state.memory.swap_usage),
        ("Swap (peak)", state.memory.swap_usage_peak),
    ];
    if memory.iter().any(|(_, bytes)| *bytes > 0) {
        line!(text, "  Memory usage:");
        for (name, bytes) in memory.into_iter().filter(|(_, bytes)| *bytes > 0) {
            line!(text, "    {name}: {}", output::bytes(bytes));
        }
    }
    describe_network(full, text);
}

fn describe_network(full: &InstanceFull, text: &mut String) {
    let state = &full.state;
    if !state.network.is_empty() {
        line!(text, "  Network usage:");
    }
    for (name, interface) in &state.network {
        line!(
            text,
            "    {name}:\n      Type: {}\n      State: {}",
            interface.kind,
            interface.state.to_uppercase()
        );
        for (key, value) in [
            ("Host interface", &interface.host_name),
            ("MAC address", &interface.hwaddr),
        ] {
            if !value.is_empty() {
                line!(text, "      {key}: {value}");
            }
        }
        let counters = &interface.counters;
        line!(text, "      MTU: {}", interface.mtu);
        line!(text, "      Bytes received: {}", output::bytes(counters.bytes_received));
        line!(text, "      Bytes sent: {}", output::bytes(counters.bytes_sent));
        line!(text, "      Packets received: {}", counters.packets_received);
        line!(text, "      Packets sent: {}", counters.packets_sent);
        line!(text, "      IP addresses:");
        for address in &interface.addresses {
            let (family, scope) = (&address.family, &address.scope);
            line!(
                text,
                "        {family}:  {}/{} ({scope})",
                address.address,
                address.netmask
            );
        }
    }
}

/// The instance's own log, or whichever there is if it has another name.
async fn show_log(client: &Client, name: &str) -> Result<()> {
    let logs = ApiPath::new(["instances", name, "logs"]);
    let paths: Vec<String> = client.get(logs.clone()).await.map_err(|error| error.about(name))?;
    let names: Vec<String> = paths
        .iter()
        .filter_map(|path| path.rsplit('/').next())
        .map(decode)
        .collect();
    let is_log = |log: &&String| log.ends_with(".log") && !log.starts_with("console");
    let Some(log) = names
        .iter()
        .find(|log| *log == "lxc.log")
        .or_else(|| names.iter().find(is_log))
    else {
        return output::print_line("\nThere is no log yet");
    };
    output::print_line(&format!("\nLog ({log}):\n"))?;
    let response = client
        .raw(Method::GET, logs.join([log]), &[], empty_body())
        .await
        .map_err(|error| error.about(log))?;
    let bytes = response.into_body().collect().await?.to_bytes();
    output::write_out(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_instance_is_described_with_what_it_uses() {
        let full: InstanceFull = serde_json::from_value(serde_json::json!({
            "name": "c1", "status": "Running", "status_code": 103, "type": "container", "architecture": "x86_64",
            "state": {"status_code": 103, "pid": 42, "processes": 3, "memory": {"usage": 2048},
                "network": {"eth0": {"type": "broadcast", "state": "up", "mtu": 1500, "addresses": [
                    {"family": "inet", "address": "10.0.0.2", "netmask": "24", "scope": "global"}]}}}
        }))
        .unwrap();
        let text = describe(&full);
        for part in [
            "Status: RUNNING\n",
            "PID: 42\n",
            "Processes: 3\n",
            "Memory (current): 2.00KiB\n",
            "inet:  10.0.0.2/24",
        ] {
            assert!(text.contains(part), "{part:?} in {text}");
        }
        assert!(!text.contains("Swap") && !text.contains("Snapshots") && !text.contains("Location"));
    }
}

//! `plugin info`, for people: what an operator asks about a plugin, in the order in which it is asked.

use std::fmt::Write as _;

use hutch_api::plugin::{Plugin, PluginMetrics, PluginVersion};
use serde_json::Value;

use super::{install, provides};
use crate::output;

/// Writing into a string can't fail, so what it returns is of no use.
macro_rules! line {
    ($text:expr, $($format:tt)*) => {{
        let _ = writeln!($text, $($format)*);
    }};
}

/// The plugin in words.
pub(super) fn describe(plugin: &Plugin) -> String {
    let mut text = String::new();
    line!(text, "Name: {}", plugin.id);
    line!(text, "Version: {}", plugin.version);
    line!(text, "Description: {}", plugin.description);
    line!(text, "License: {}", plugin.license);
    line!(text, "Provides: {}", provides(plugin).join("; "));
    line!(text, "Interfaces: {}", interfaces(plugin));
    line!(text, "Status: {}", plugin.state.to_uppercase());
    if !plugin.reason.is_empty() {
        line!(text, "Reason: {}", plugin.reason);
    }
    if plugin.quarantined_at.get().is_some() {
        line!(text, "In quarantine since: {}", output::minute(plugin.quarantined_at));
    }
    if plugin.recent_faults > 0 {
        line!(text, "Recent faults: {}", plugin.recent_faults);
    }
    line!(text, "Signature: {}", install::signature(&plugin.signature));
    line!(text, "Digest: sha256:{}", plugin.digest);
    line!(text, "Origin: {}", origin(plugin));
    if plugin.installed_at.get().is_some() {
        line!(text, "Installed: {}", output::minute(plugin.installed_at));
    }
    if let Some(previous) = &plugin.previous {
        line!(text, "Rollback to: {}", version(previous));
    }
    if let Some(held) = &plugin.held {
        describe_held(held, &mut text);
    }
    describe_permissions(plugin, &mut text);
    line!(text, "\nLimits:");
    let limits = &plugin.limits;
    line!(text, "  Memory: {} for each call", bytes(limits.memory));
    line!(
        text,
        "  Time of a call: {}",
        output::time(limits.call_timeout_ms.saturating_mul(1000))
    );
    line!(text, "  Calls at once: {}", limits.concurrency);
    line!(text, "  Own store: {}", bytes(limits.kv_bytes));
    describe_schema("Settings", &plugin.config_schema, &mut text);
    describe_schema("Options of what it provides", &plugin.options_schema, &mut text);
    if plugin.metrics.calls > 0 {
        describe_metrics(&plugin.metrics, &mut text);
    }
    text
}

/// The world that it is written against, with the optional interfaces that it exports.
fn interfaces(plugin: &Plugin) -> String {
    match plugin.abilities.as_slice() {
        [] => plugin.world.clone(),
        abilities => format!("{} with {}", plugin.world, abilities.join(", ")),
    }
}

fn origin(plugin: &Plugin) -> String {
    match plugin.source.as_str() {
        "" => plugin.origin.clone(),
        source => format!("{} ({source})", plugin.origin),
    }
}

fn version(version: &PluginVersion) -> String {
    let digest: String = version.digest.chars().take(12).collect();
    let signature = install::signature(&version.signature);
    format!("{} ({signature}, sha256:{digest}…)", version.version)
}

fn describe_held(held: &PluginVersion, text: &mut String) {
    line!(text, "\nWaits for you: {}", version(held));
    for doubt in &held.doubts {
        line!(text, "  it {}", doubt.reason);
    }
    if !held.missing.is_empty() {
        line!(text, "  it asks for more than was granted, to be allowed to");
        for asked in install::listed(&held.missing).lines() {
            line!(text, "  {asked}");
        }
    }
}

/// What it asks for, by whether it has it; and how much it has of what it was granted in part.
fn describe_permissions(plugin: &Plugin, text: &mut String) {
    let permissions = &plugin.permissions;
    if permissions.list.is_empty() {
        line!(text, "\nPermissions: it asks for none");
        return;
    }
    let (granted, not): (Vec<_>, Vec<_>) = permissions.list.iter().cloned().partition(|asked| asked.granted);
    if !granted.is_empty() {
        let _ = write!(text, "\nIt may:\n{}", install::listed(&granted));
    }
    if !not.is_empty() {
        let _ = write!(text, "\nIt asks for, and may not:\n{}", install::listed(&not));
    }
    let asked = |name: &String| permissions.list.iter().any(|asked| asked.name == *name);
    let parts: Vec<_> = permissions.names.iter().filter(|name| !asked(name)).collect();
    if !parts.is_empty() {
        line!(text, "\nOf these it may in part:");
        parts.iter().for_each(|name| line!(text, "  {name}"));
    }
}

/// The names of a schema's properties, each with its description.
fn describe_schema(title: &str, schema: &Value, text: &mut String) {
    let Some(properties) = schema["properties"].as_object().filter(|all| !all.is_empty()) else {
        return;
    };
    line!(text, "\n{title}:");
    let width = properties.keys().map(|name| name.chars().count()).max().unwrap_or(0);
    for (name, property) in properties {
        let meaning = property["description"].as_str().unwrap_or_default();
        line!(text, "{}", format!("  {name:width$}  {meaning}").trim_end());
    }
}

fn describe_metrics(metrics: &PluginMetrics, text: &mut String) {
    let failed: u64 = metrics.errors.values().sum();
    line!(text, "\nSince the daemon started:");
    line!(text, "  Calls: {}", metrics.calls);
    line!(
        text,
        "  Time of a call: under {} at the median, under {} at the 99th percentile",
        output::time(metrics.p50_us),
        output::time(metrics.p99_us)
    );
    line!(text, "  Most memory: {}", bytes(metrics.memory_peak));
    line!(text, "  In its store: {}", bytes(metrics.kv_bytes));
    if failed > 0 {
        let codes: Vec<_> = metrics
            .errors
            .iter()
            .map(|(code, count)| format!("{code} {count}"))
            .collect();
        line!(text, "  Failed calls: {failed} ({})", codes.join(", "));
    }
    if metrics.denials > 0 {
        let kinds: Vec<_> = metrics
            .denied
            .iter()
            .map(|(kind, count)| format!("{kind} {count}"))
            .collect();
        line!(
            text,
            "  Refused for want of permission: {} ({})",
            metrics.denials,
            kinds.join(", ")
        );
    }
    if metrics.restarts > 0 {
        line!(text, "  Its process was started anew: {} times", metrics.restarts);
    }
}

fn bytes(count: u64) -> String {
    output::bytes(i64::try_from(count).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn plugin() -> Plugin {
        serde_json::from_value(json!({
            "id": "org.example.shelf", "version": "1.2.0", "description": "pools of directories", "license": "Apache-2.0",
            "world": "hutch:storage@0.1.0", "abilities": ["snapshot"], "state": "enabled", "origin": "installed",
            "source": "shelf.wasm", "digest": "ab", "provides": {"storage": ["shelf"]},
            "signature": {"kind": "signed", "publisher": "example", "key": "1"},
            "permissions": {"names": ["fs.roots", "command=rsync -a"], "list": [
                {"name": "fs.roots", "meaning": "work in its pools", "granted": true},
                {"name": "command=rsync *", "meaning": "run rsync", "granted": false},
            ]},
            "limits": {"memory": 16_777_216, "call_timeout_ms": 2500, "concurrency": 8, "kv_bytes": 1024},
            "options_schema": {"properties": {"source": {"description": "the directory"}}},
        }))
        .unwrap()
    }

    #[test]
    fn what_it_may_and_may_not_is_told_apart() {
        let text = describe(&plugin());
        for expected in [
            "Interfaces: hutch:storage@0.1.0 with snapshot\n",
            "Signature: signed by example\n",
            "Origin: installed (shelf.wasm)\n",
            "\nIt may:\n  fs.roots  work in its pools\n",
            "\nIt asks for, and may not:\n  command=rsync *  run rsync\n",
            "\nOf these it may in part:\n  command=rsync -a\n",
            "  Memory: 16.00MiB for each call\n",
            "  Time of a call: 2.5s\n",
            "\nOptions of what it provides:\n  source  the directory\n",
        ] {
            assert!(text.contains(expected), "{expected:?} is not in:\n{text}");
        }
        assert!(!text.contains("Since the daemon started"), "{text}");
    }

    #[test]
    fn what_waits_and_what_failed_is_told() {
        let mut plugin = plugin();
        plugin.metrics.calls = 3;
        plugin.metrics.errors = [("no-space".to_owned(), 2)].into();
        plugin.held = Some(PluginVersion {
            version: "2.0.0".to_owned(),
            digest: "0123456789abcdef".to_owned(),
            missing: plugin.permissions.list.clone(),
            ..PluginVersion::default()
        });
        let text = describe(&plugin);
        assert!(text.contains("sha256:0123456789ab…"), "{text}");
        assert!(text.contains("to be allowed to\n    fs.roots"), "{text}");
        assert!(text.contains("  Failed calls: 2 (no-space 2)\n"), "{text}");
    }
}

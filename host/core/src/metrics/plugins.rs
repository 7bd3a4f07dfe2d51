//! Metrics of plugins.

use std::collections::BTreeSet;
use std::time::Duration;

use hutch_api::openmetrics::{Exposition, Family, Kind};
use hutch_api::plugin::Plugin;

/// A number of every plugin's: its name, what it is, and how it is got.
type Figure = (&'static str, Kind, &'static str, fn(&Plugin) -> u64);

const FIGURES: &[Figure] = &[
    (
        "hutch_plugin_up",
        Kind::Gauge,
        "Whether it can be called (1) or not (0).",
        |plugin| u64::from(plugin.state == "enabled"),
    ),
    (
        "hutch_plugin_quarantined",
        Kind::Gauge,
        "Whether it is in quarantine (1) or not (0).",
        |plugin| u64::from(plugin.state == "quarantined"),
    ),
    (
        "hutch_plugin_faults",
        Kind::Counter,
        "Faults that counted towards a quarantine.",
        |plugin| plugin.metrics.faults,
    ),
    (
        "hutch_plugin_recent_faults",
        Kind::Gauge,
        "Faults that count towards a quarantine now.",
        |plugin| plugin.recent_faults,
    ),
    ("hutch_plugin_traps", Kind::Counter, "Calls that trapped.", |plugin| {
        plugin.metrics.traps
    }),
    (
        "hutch_plugin_timeouts",
        Kind::Counter,
        "Calls that took too long.",
        |plugin| plugin.metrics.timeouts,
    ),
    (
        "hutch_plugin_instances",
        Kind::Gauge,
        "Instances, one for each call that is being made.",
        |plugin| plugin.metrics.running,
    ),
    (
        "hutch_plugin_worker_restarts",
        Kind::Counter,
        "Processes started in the place of one that had ended.",
        |plugin| plugin.metrics.restarts,
    ),
    (
        "hutch_plugin_memory_peak_bytes",
        Kind::Gauge,
        "The most linear memory that one of its instances had.",
        |plugin| plugin.metrics.memory_peak,
    ),
    (
        "hutch_plugin_memory_limit_bytes",
        Kind::Gauge,
        "Linear memory that an instance may have.",
        |plugin| plugin.limits.memory,
    ),
    (
        "hutch_plugin_kv_bytes",
        Kind::Gauge,
        "Bytes in its key-value store.",
        |plugin| plugin.metrics.kv_bytes,
    ),
    (
        "hutch_plugin_kv_limit_bytes",
        Kind::Gauge,
        "Bytes that its key-value store may hold.",
        |plugin| plugin.limits.kv_bytes,
    ),
];

/// Writes the metrics of `plugins`. A file that is no plugin has no id, and no metrics; nor has one that was refused for another
/// with its id, which is listed before it: no figure may be there twice.
pub(super) fn write(text: &mut Exposition, plugins: &[Plugin]) {
    let mut ids = BTreeSet::from([""]);
    let plugins: Vec<&Plugin> = plugins.iter().filter(|plugin| ids.insert(&plugin.id)).collect();
    let mut info = text.family("hutch_plugin", Kind::Info, "A plugin, its version and its family.");
    for plugin in &plugins {
        let family = plugin.provides.keys().next().map_or("", String::as_str);
        let labels = [
            ("plugin", plugin.id.as_str()),
            ("version", &plugin.version),
            ("family", family),
            ("origin", &plugin.origin),
        ];
        info.sample(&labels, 1_u64);
    }
    for (name, kind, help, figure) in FIGURES {
        let mut family = text.family(name, *kind, help);
        for plugin in &plugins {
            family.sample(&[("plugin", &plugin.id)], figure(plugin));
        }
    }
    times(text, &plugins);
    calls(text, &plugins);
    host_calls(text, &plugins);
    own(text, &plugins);
}

fn micros(time: u64) -> Duration {
    Duration::from_micros(time)
}

fn times(text: &mut Exposition, plugins: &[&Plugin]) {
    let mut seconds = text.family("hutch_plugin_call_seconds", Kind::Histogram, "Time of its calls.");
    for plugin in plugins {
        let metrics = &plugin.metrics;
        let bounds: Vec<Duration> = metrics.latency_bounds_us.iter().map(|bound| micros(*bound)).collect();
        let labels = [("plugin", plugin.id.as_str())];
        seconds.histogram(&labels, &bounds, &metrics.latency, micros(metrics.total_us));
    }
    let mut queue = text.family(
        "hutch_plugin_queue_seconds",
        Kind::Counter,
        "Time that calls waited for their turn.",
    );
    for plugin in plugins {
        queue.sample(&[("plugin", &plugin.id)], micros(plugin.metrics.queue_us));
    }
    let mut guest = text.family(
        "hutch_plugin_guest_seconds",
        Kind::Counter,
        "Processor time of its guests.",
    );
    for plugin in plugins {
        guest.sample(&[("plugin", &plugin.id)], micros(plugin.metrics.guest_us));
    }
}

fn calls(text: &mut Exposition, plugins: &[&Plugin]) {
    let help = "Calls of its functions, by how they ended.";
    let mut calls = text.family("hutch_plugin_calls", Kind::Counter, help);
    for plugin in plugins {
        for (function, metrics) in &plugin.metrics.functions {
            results(&mut calls, plugin, function, &metrics.results);
        }
    }
    let help = "Time of the calls of each of its functions.";
    let mut seconds = text.family("hutch_plugin_function_seconds", Kind::Summary, help);
    for plugin in plugins {
        for (function, metrics) in &plugin.metrics.functions {
            let labels = [("plugin", plugin.id.as_str()), ("function", function)];
            seconds.summary(&labels, metrics.calls, micros(metrics.total_us));
        }
    }
}

fn host_calls(text: &mut Exposition, plugins: &[&Plugin]) {
    let help = "Functions of the host that it called, by how they ended.";
    let mut calls = text.family("hutch_plugin_host_calls", Kind::Counter, help);
    for plugin in plugins {
        for (function, metrics) in &plugin.metrics.host_functions {
            results(&mut calls, plugin, function, &metrics.results);
        }
    }
    let help = "Time in each function of the host that it called.";
    let mut seconds = text.family("hutch_plugin_host_call_seconds", Kind::Summary, help);
    for plugin in plugins {
        for (function, metrics) in &plugin.metrics.host_functions {
            let labels = [("plugin", plugin.id.as_str()), ("function", function)];
            seconds.summary(&labels, metrics.calls, micros(metrics.total_us));
        }
    }
    let help = "Functions of the host that were refused, by the kind of permission that was missing.";
    let mut denied = text.family("hutch_plugin_denied", Kind::Counter, help);
    for plugin in plugins {
        for (permission, count) in &plugin.metrics.denied {
            denied.sample(&[("plugin", &plugin.id), ("permission", permission)], *count);
        }
    }
}

/// The plugins' own figures. Their names are labels, so that no plugin has a family that is another's.
fn own(text: &mut Exposition, plugins: &[&Plugin]) {
    let mut counts = text.family("hutch_plugin_count", Kind::Counter, "Counters of its own.");
    for plugin in plugins {
        for (metric, count) in &plugin.metrics.counts {
            counts.sample(&[("plugin", &plugin.id), ("metric", metric)], *count);
        }
    }
    let mut gauges = text.family("hutch_plugin_gauge", Kind::Gauge, "Gauges of its own.");
    for plugin in plugins {
        for (metric, value) in &plugin.metrics.gauges {
            gauges.sample(&[("plugin", &plugin.id), ("metric", metric)], *value);
        }
    }
}

fn results(to: &mut Family<'_>, plugin: &Plugin, function: &str, results: &std::collections::BTreeMap<String, u64>) {
    for (result, count) in results {
        let labels = [
            ("plugin", plugin.id.as_str()),
            ("function", function),
            ("result", result),
        ];
        to.sample(&labels, *count);
    }
}

#[cfg(test)]
mod tests {
    use hutch_api::openmetrics::Format;

    use super::*;

    #[test]
    fn a_refused_duplicate_is_no_second_row() {
        let plugin = |id: &str, state: &str| Plugin {
            id: id.to_owned(),
            state: state.to_owned(),
            ..Plugin::default()
        };
        let mut text = Exposition::new(Format::OpenMetrics);
        write(
            &mut text,
            &[
                plugin("a", "enabled"),
                plugin("b", "enabled"),
                plugin("a", "failed"),
                plugin("", "failed"),
            ],
        );
        let text = text.finish();
        let up: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("hutch_plugin_up{"))
            .collect();
        assert_eq!(
            up,
            [r#"hutch_plugin_up{plugin="a"} 1"#, r#"hutch_plugin_up{plugin="b"} 1"#]
        );
    }
}

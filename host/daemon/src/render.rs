//! Plugins as the API shows them.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use hutch_api::Timestamp;
use hutch_api::plugin::{
    Plugin, PluginDoubt, PluginFunctionMetrics, PluginHeld, PluginLimits, PluginLogLine, PluginMetrics, PluginOffer,
    PluginPermission, PluginPermissions, PluginSignature, PluginVersion,
};
use hutch_broker::Permissions;
use hutch_plugin::{Doubt, Examined, FunctionMetrics, LogLine, Origin, Outcome, PluginStatus, Provenance, Version};
use serde::Serialize;

/// A plugin with all that is known of it, and that it keeps `kv_bytes`.
pub(crate) fn plugin(status: &PluginStatus, kv_bytes: u64) -> Plugin {
    let record = status.record.as_ref();
    let active = record.and_then(|record| record.active.as_ref());
    let held = record.and_then(|record| record.held.as_ref());
    let previous = record.and_then(|record| record.previous.as_ref());
    Plugin {
        id: status.id.clone(),
        version: status.version.clone(),
        license: status.license.clone(),
        description: status.description.clone(),
        digest: status.digest.clone(),
        world: format!("hutch:{}", status.family),
        state: word(&status.state),
        reason: status.reason.clone(),
        provides: [(status.family.clone(), status.provides.clone())].into(),
        abilities: status.abilities.clone(),
        origin: word(&status.origin),
        source: status.source.clone(),
        signature: match (status.origin, active) {
            (Origin::Installed, Some(version)) => signature(&version.provenance),
            (Origin::Bundled, _) => kind_of_signature("bundled"),
            _ => kind_of_signature("configured"),
        },
        previous: previous.map(|other| version(other, &Permissions::default())),
        held: held.map(|held| PluginVersion {
            doubts: doubts(&held.doubts),
            ..version(&held.version, &held.more.beyond(&status.granted))
        }),
        permissions: PluginPermissions {
            requested: json(&status.requested),
            granted: json(&status.granted),
            list: permissions(&status.requested, &status.granted),
            names: status.requested.names_of(&status.granted),
        },
        limits: PluginLimits {
            memory: status.limits.memory.0,
            call_timeout_ms: u64::try_from(status.limits.call_timeout.0.as_millis()).unwrap_or(u64::MAX),
            concurrency: u64::from(status.limits.concurrency),
            kv_bytes: status.limits.kv_bytes.0,
        },
        config_schema: json(&status.config.schema),
        options_schema: json(&status.options.schema),
        recent_faults: status.recent_faults as u64,
        metrics: PluginMetrics {
            kv_bytes,
            ..metrics(&status.metrics)
        },
        installed_at: record.map_or(Timestamp::NEVER, |record| {
            (UNIX_EPOCH + Duration::from_secs(record.installed_at)).into()
        }),
        loaded_at: status.loaded_at.map_or(Timestamp::NEVER, Into::into),
        quarantined_at: status.quarantined_at.map_or(Timestamp::NEVER, Into::into),
    }
}

/// A line that a plugin logged.
pub(crate) fn log_line(line: LogLine) -> PluginLogLine {
    PluginLogLine {
        timestamp: line.time.into(),
        level: format!("{:?}", line.level).to_lowercase(),
        message: if line.object.is_empty() {
            line.text
        } else {
            format!("{}: {}", line.object, line.text)
        },
    }
}

/// What was found in a file, and which of the grants `proposed` it asks for.
pub(crate) fn offer(examined: Examined, proposed: &[String]) -> PluginOffer {
    let manifest = examined.manifest;
    let asks = |name: &&String| manifest.permissions.named(name).is_ok_and(|named| !named.is_nothing());
    PluginOffer {
        grants: proposed.iter().filter(asks).cloned().collect(),
        permissions: permissions(&manifest.permissions, &Permissions::default()),
        more: permissions(&examined.more, &Permissions::default()),
        doubts: doubts(&examined.doubts),
        id: manifest.id,
        version: manifest.version,
        digest: examined.version.digest,
        source: examined.version.source,
        description: manifest.description,
        license: manifest.license,
        provides: manifest.provides,
        signature: signature(&examined.version.provenance),
        present: examined.present.unwrap_or_default(),
    }
}

/// What a held version still waits for; nothing where none is held.
pub(crate) fn outcome(outcome: &Outcome) -> Option<PluginHeld> {
    match outcome {
        Outcome::Active => None,
        Outcome::Held { missing, doubts: why } => Some(PluginHeld {
            missing: permissions(missing, &Permissions::default()),
            doubts: doubts(why),
        }),
    }
}

fn doubts(doubts: &[Doubt]) -> Vec<PluginDoubt> {
    let doubts = doubts.iter().map(|doubt| PluginDoubt {
        kind: word(&doubt.kind),
        reason: doubt.reason.clone(),
    });
    doubts.collect()
}

fn permissions(requested: &Permissions, granted: &Permissions) -> Vec<PluginPermission> {
    let granted = granted.powers();
    let powers = requested.powers().into_iter();
    powers
        .map(|power| PluginPermission {
            name: power.to_string(),
            meaning: power.meaning(),
            granted: granted.iter().any(|wide| wide.covers(&power)),
        })
        .collect()
}

fn version(version: &Version, missing: &Permissions) -> PluginVersion {
    PluginVersion {
        version: version.version.clone(),
        digest: version.digest.clone(),
        source: version.source.clone(),
        signature: signature(&version.provenance),
        missing: permissions(missing, &Permissions::default()),
        doubts: Vec::new(),
    }
}

fn signature(provenance: &Provenance) -> PluginSignature {
    match provenance {
        Provenance::Signed { publisher, key } => PluginSignature {
            kind: "signed".to_owned(),
            publisher: publisher.clone(),
            key: key.clone(),
        },
        Provenance::Dev => kind_of_signature("dev"),
        Provenance::Unsigned => kind_of_signature("unsigned"),
    }
}

fn kind_of_signature(kind: &str) -> PluginSignature {
    PluginSignature {
        kind: kind.to_owned(),
        ..PluginSignature::default()
    }
}

/// Numbers, texts, and maps with texts as keys, which always can be written.
fn json<T: Serialize>(value: &T) -> serde_json::Value {
    serde_json::to_value(value).unwrap_or_default()
}

/// A variant by its name.
fn word<T: Serialize>(value: &T) -> String {
    json(value).as_str().unwrap_or_default().to_owned()
}

fn metrics(metrics: &hutch_plugin::PluginMetrics) -> PluginMetrics {
    let words = |counts: &BTreeMap<&'static str, u64>| {
        let counts = counts.iter().map(|(name, count)| ((*name).to_owned(), *count));
        counts.collect::<BTreeMap<_, _>>()
    };
    let functions = |functions: &BTreeMap<&'static str, FunctionMetrics>| {
        let function = |metrics: &FunctionMetrics| PluginFunctionMetrics {
            calls: metrics.calls,
            total_us: micros(metrics.total),
            results: words(&metrics.results),
        };
        let functions = functions
            .iter()
            .map(|(name, metrics)| ((*name).to_owned(), function(metrics)));
        functions.collect()
    };
    PluginMetrics {
        calls: metrics.calls,
        errors: metrics.errors.clone(),
        traps: metrics.traps,
        timeouts: metrics.timeouts,
        faults: metrics.faults,
        denials: metrics.denied.values().sum(),
        denied: words(&metrics.denied),
        restarts: metrics.restarts,
        running: metrics.running,
        total_us: micros(metrics.total),
        queue_us: micros(metrics.queue),
        guest_us: micros(metrics.guest),
        memory_peak: metrics.memory_peak,
        p50_us: quantile(&metrics.latency, 50),
        p99_us: quantile(&metrics.latency, 99),
        latency_bounds_us: hutch_plugin::LATENCY_BOUNDS_US.to_vec(),
        latency: metrics.latency.clone(),
        functions: functions(&metrics.functions),
        host_functions: functions(&metrics.host_functions),
        counts: metrics.counts.clone(),
        gauges: metrics.gauges.clone(),
        ..PluginMetrics::default()
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// The upper bound of the bucket in which this per cent of the calls lie; the last bucket has none, and its lower one stands
/// for it.
fn quantile(buckets: &[u64], percent: u64) -> u64 {
    let total: u64 = buckets.iter().sum();
    let mut seen = 0;
    for (bucket, count) in buckets.iter().enumerate() {
        seen += count;
        if total > 0 && seen * 100 >= total * percent {
            let bounds = hutch_plugin::LATENCY_BOUNDS_US;
            return bounds.get(bucket).or(bounds.last()).copied().unwrap_or(0);
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_bounds_of_buckets() {
        let bounds = hutch_plugin::LATENCY_BOUNDS_US;
        let mut buckets = vec![0; bounds.len() + 1];
        assert_eq!(quantile(&buckets, 50), 0);
        buckets[0] = 99;
        buckets[2] = 1;
        assert_eq!(quantile(&buckets, 50), bounds[0]);
        assert_eq!(quantile(&buckets, 100), bounds[2]);
    }
}

//! What the core is given of the plugin host and the broker: listings, and the end of a pool's root.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use hutch_api::Timestamp;
use hutch_api::plugin::{Plugin, PluginLimits, PluginLogLine, PluginMetrics, PluginPermissions};
use hutch_broker::HostBroker;
use hutch_core::plugins::PluginDirectory;
use hutch_core::pools::Roots;
use hutch_driver::{Call, DriverError, MountPlan, TreePath};
use hutch_plugin::{PluginHost, PluginStatus};

/// Has the broker let go of roots, and copy between them.
pub(crate) struct PoolRoots(pub(crate) Arc<HostBroker>);

#[async_trait]
impl Roots for PoolRoots {
    async fn release(&self, root: &Path) -> Result<(), DriverError> {
        self.0.release_root(root).await
    }

    async fn copy(&self, call: &Call, plan: &MountPlan, to: &TreePath) -> Result<(), DriverError> {
        self.0.copy_between(call, plan, to).await
    }
}

/// Lists what the plugin host has.
pub(crate) struct Directory(pub(crate) Arc<PluginHost>);

#[async_trait]
impl PluginDirectory for Directory {
    fn plugins(&self) -> Vec<Plugin> {
        self.0.plugins().iter().map(render).collect()
    }

    async fn enable(&self, id: &str) -> Result<(), DriverError> {
        self.0.enable(id).await
    }

    fn logs(&self, id: &str) -> Option<Vec<PluginLogLine>> {
        let lines = self.0.logs(id)?;
        Some(
            lines
                .into_iter()
                .map(|line| PluginLogLine {
                    timestamp: line.time.into(),
                    level: format!("{:?}", line.level).to_lowercase(),
                    message: if line.object.is_empty() {
                        line.text
                    } else {
                        format!("{}: {}", line.object, line.text)
                    },
                })
                .collect(),
        )
    }
}

fn render(status: &PluginStatus) -> Plugin {
    let json = |value: serde_json::Result<serde_json::Value>| value.unwrap_or(serde_json::Value::Null);
    Plugin {
        id: status.id.clone(),
        version: status.version.clone(),
        license: status.license.clone(),
        digest: status.digest.clone(),
        world: format!("hutch:{}", status.family),
        state: json(serde_json::to_value(status.state))
            .as_str()
            .unwrap_or_default()
            .to_owned(),
        reason: status.reason.clone(),
        provides: [(status.family.clone(), status.provides.clone())].into(),
        abilities: status.abilities.clone(),
        permissions: PluginPermissions {
            requested: json(serde_json::to_value(&status.requested)),
            granted: json(serde_json::to_value(&status.granted)),
        },
        limits: PluginLimits {
            memory: status.limits.memory.0,
            call_timeout_ms: u64::try_from(status.limits.call_timeout.0.as_millis()).unwrap_or(u64::MAX),
            concurrency: u64::from(status.limits.concurrency),
            kv_bytes: status.limits.kv_bytes.0,
        },
        config_schema: json(serde_json::to_value(&status.config.schema)),
        options_schema: json(serde_json::to_value(&status.options.schema)),
        metrics: metrics(&status.metrics),
        loaded_at: status.loaded_at.map_or(Timestamp::NEVER, Into::into),
        quarantined_at: status.quarantined_at.map_or(Timestamp::NEVER, Into::into),
    }
}

fn metrics(metrics: &hutch_plugin::PluginMetrics) -> PluginMetrics {
    PluginMetrics {
        calls: metrics.calls,
        errors: metrics.errors.clone().into_iter().collect(),
        traps: metrics.traps,
        timeouts: metrics.timeouts,
        denials: metrics.denials,
        p50_us: quantile(&metrics.latency, 50),
        p99_us: quantile(&metrics.latency, 99),
    }
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

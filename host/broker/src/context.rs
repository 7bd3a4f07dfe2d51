//! Who asks, and on whose behalf.

use std::sync::Arc;
use std::time::Duration;

use hutch_driver::{Call, Options};

use crate::{Granter, Grants, LogLevel};

/// A plugin as the broker sees it. Made once when the plugin is enabled and shared by its calls.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The plugin's id.
    pub plugin: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of its file, in lower-case hexadecimal.
    pub digest: String,
    /// The family in which it is called: `storage`, `network`, `zone`, `image`.
    pub family: String,
    /// What it asks for and what it was given.
    pub grants: Grants,
    /// Its bounds.
    pub limits: SubjectLimits,
    /// The operator's settings for it, which `config.get` reads.
    pub config: Options,
}

impl Subject {
    /// The check of what the plugin may do.
    pub fn granter(&self) -> Granter<'_> {
        Granter::new(self)
    }
}

/// Bounds of what a plugin may use on the host's side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectLimits {
    /// Bytes of keys and values that its key-value store may hold together.
    pub kv_bytes: u64,
    /// How long one `http.get` may take, redirections included.
    pub http_timeout: Duration,
}

impl Default for SubjectLimits {
    fn default() -> Self {
        Self {
            kv_bytes: 1 << 20,
            http_timeout: Duration::from_secs(60),
        }
    }
}

/// Where the lines go that a plugin logs. The broker has bounded them before.
pub trait LogSink: Send + Sync {
    /// Takes one line. Must not block.
    fn write(&self, level: LogLevel, message: &str, fields: &[(String, String)]);
}

/// Where a plugin's figures go. The broker has checked that the name is one of a metric.
pub trait MetricSink: Send + Sync {
    /// Adds to a counter.
    fn count(&self, name: &str, delta: u64);
    /// Sets a gauge.
    fn gauge(&self, name: &str, value: i64);
}

/// Figures that nobody keeps.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiscardMetrics;

impl MetricSink for DiscardMetrics {
    fn count(&self, _name: &str, _delta: u64) {}
    fn gauge(&self, _name: &str, _value: i64) {}
}

/// Writes a plugin's lines to the daemon's log and keeps nothing.
#[derive(Clone, Debug)]
pub struct TracingLog {
    /// The plugin's id, which every line carries.
    pub plugin: String,
}

impl LogSink for TracingLog {
    fn write(&self, level: LogLevel, message: &str, fields: &[(String, String)]) {
        let plugin = self.plugin.as_str();
        match level {
            LogLevel::Trace => tracing::trace!(plugin, ?fields, "{message}"),
            LogLevel::Debug => tracing::debug!(plugin, ?fields, "{message}"),
            LogLevel::Info => tracing::info!(plugin, ?fields, "{message}"),
            LogLevel::Warn => tracing::warn!(plugin, ?fields, "{message}"),
            LogLevel::Error => tracing::error!(plugin, ?fields, "{message}"),
        }
    }
}

/// One call of a plugin, as long as it lasts. The plugin host makes it and passes it with each request.
#[derive(Clone)]
pub struct CallContext {
    /// The plugin.
    pub subject: Arc<Subject>,
    /// The object that the call is for, and the grants of the moment.
    pub call: Call,
    /// Where its log lines go.
    pub log: Arc<dyn LogSink>,
    /// Where its figures go.
    pub metrics: Arc<dyn MetricSink>,
}

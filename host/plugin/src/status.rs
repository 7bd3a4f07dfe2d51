//! What an operator sees of the plugins.

use std::time::SystemTime;

use hutch_broker::Permissions;
use serde::Serialize;

use crate::counters::PluginMetrics;
use crate::manifest::{Limits, Section};
use crate::registry::Record;

/// What a plugin is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PluginState {
    /// It is being compiled or its code is being mapped; calls wait for it.
    Loading,
    /// It can be called.
    Enabled,
    /// It can't be used.
    Failed,
    /// It was taken out of service after a series of faults.
    Quarantined,
    /// The operator took it out of service.
    Disabled,
}

/// Who brought a plugin to the daemon, and so who may change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The daemon's configuration lists it, and is the place where it is changed.
    Configuration,
    /// It came with the daemon. It can be disabled, given less, and upgraded.
    Bundled,
    /// It was installed by command.
    Installed,
}

/// One plugin, as a listing shows it. Everything but `source`, `state` and `reason` is empty for a file whose manifest
/// can't be read.
#[derive(Clone, Debug, Serialize)]
pub struct PluginStatus {
    /// Its id.
    pub id: String,
    /// Its version.
    pub version: String,
    /// An SPDX expression.
    pub license: String,
    /// One line for people.
    pub description: String,
    /// SHA-256 of its file, in lower-case hexadecimal.
    pub digest: String,
    /// Where it was taken from: a file or an address; empty where the configuration names its digest.
    pub source: String,
    /// Who brought it.
    pub origin: Origin,
    /// What was decided about it by command: versions, grants, whether it is enabled.
    pub record: Option<Record>,
    /// What it is doing.
    pub state: PluginState,
    /// Why it can't be used, where it can't; or which of its names others have taken.
    pub reason: String,
    /// `storage`, `network` or `image`.
    pub family: String,
    /// The names of its drivers.
    pub provides: Vec<String>,
    /// The optional interfaces that it exports.
    pub abilities: Vec<String>,
    /// What its manifest requests.
    pub requested: Permissions,
    /// What the operator granted. It may do what is in both.
    pub granted: Permissions,
    /// Its bounds.
    pub limits: Limits,
    /// The settings that it takes.
    pub config: Section,
    /// The options that its objects take.
    pub options: Section,
    /// Faults that count towards a quarantine at this moment.
    pub recent_faults: usize,
    /// Its figures since the daemon began.
    pub metrics: PluginMetrics,
    /// The process of its own that it runs in, or last ran in; none where it runs in the daemon.
    pub process: Option<u32>,
    /// When its code was last brought into memory; none before.
    pub loaded_at: Option<SystemTime>,
    /// Since when it is in quarantine, also by an earlier run of the daemon; none where it is not.
    pub quarantined_at: Option<SystemTime>,
}

//! The plugin host: loads drivers that are WebAssembly components, calls them, and answers for what they do.
//!
//! A plugin is one file, a component with its [`manifest::Manifest`] in a custom section. [`PluginHost::start`] takes in the
//! files that the configuration lists, compiles what is new in a confined child, and implements [`hutch_driver::Drivers`]:
//! the core finds a driver by its name and never learns that WebAssembly is behind it.
//!
//! Plugins are also installed, upgraded and removed while the daemon runs (`change`, `decide.rs`): what was decided is in one file
//! (`registry.rs`), what there is at a moment in one table (`table.rs`), and every driver that the core holds reaches the version
//! that is in use when it is called (`plugin.rs`).
//!
//! What holds, and where:
//! - every call has an instance of its own, bounded in memory, running time and time altogether (`call.rs`, `state.rs`,
//!   `engine.rs`); parallel calls, crashes and upgrades need no further care;
//! - everything that reaches out goes to [`hutch_broker::Broker`] as a message, within the plugin's grants (`functions.rs`);
//! - every answer is checked before the core sees it (`adapter/`);
//! - a fault is told with the plugin's name, version and last log lines, and a series of them ends in quarantine
//!   (`call.rs`, `health.rs`); nothing that a plugin does stops the daemon;
//! - code is only run that this host has compiled itself from a validated file, by digest (`binary.rs`, `files.rs`,
//!   `compile.rs`, `mapped.rs`).

mod adapter;
pub mod binary;
mod bindings;
mod call;
mod change;
mod code;
mod compile;
mod config;
mod counters;
mod decide;
mod desk;
mod doubt;
mod engine;
mod export;
mod fault;
mod fetch;
mod files;
mod functions;
mod harm;
mod health;
mod host;
mod lingering;
mod load;
mod log;
pub mod manifest;
mod mapped;
pub mod oci;
mod plugin;
mod quarantine;
mod ready;
mod registry;
pub mod schema;
mod staged;
mod state;
mod status;
mod stdio;
mod sync;
mod table;
mod trust;
pub mod units;
pub mod versions;
mod worker;

pub use change::{ChangeError, Examined, Intake, Offer, OfferKind, Outcome};
pub use compile::{CompileError, Compiler, SUBCOMMAND, compile_child_main};
pub use config::{PluginConfig, PluginHostOptions, bundled_directory};
pub use counters::{FunctionMetrics, LATENCY_BOUNDS_US, PluginMetrics};
pub use fetch::{Address, Fetched};
pub use files::{FileError, digest_of};
pub use health::QuarantinePolicy;
pub use host::{HostError, PluginHost};
pub use log::{KEPT_LINES, LogLine};
pub use registry::{Doubt, DoubtKind, Held, Provenance, Record, RegistryError, Version};
pub use status::{Origin, PluginState, PluginStatus};
pub use trust::{TrustError, TrustedKey};
pub use worker::{WORKER_SUBCOMMAND, Workers, confine as confine_worker, worker_main};

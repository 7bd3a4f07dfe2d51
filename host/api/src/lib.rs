//! The wire types of the REST API: what LXD 4.20 and Incus 6.0 clients send and expect, and Hutch's own additions.
//!
//! There is no I/O here. A body's unknown fields are ignored, missing ones take their type's default and `null` counts as
//! missing, because the clients of both families, and of all their versions, rely on that. Where a request has to tell
//! "absent" from "empty", the field is an `Option` and its documentation says what each means.

mod wire;

pub mod cluster;
pub mod config;
pub mod envelope;
pub mod event;
pub mod extensions;
pub mod filter;
pub mod image;
pub mod instance;
pub mod network;
pub mod openmetrics;
pub mod operation;
pub mod plugin;
pub mod profile;
pub mod project;
pub mod resources;
pub mod server;
pub mod state;
pub mod status;
pub mod storage;
pub mod timestamp;
pub mod warning;

pub use config::{Config, Devices};
pub use status::StatusCode;
pub use timestamp::Timestamp;

/// The version in every path, and `api_version` in the server's information.
pub const API_VERSION: &str = "1.0";

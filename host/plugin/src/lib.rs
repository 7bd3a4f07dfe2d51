//! The plugin host.
mod bindings;
mod binary;
mod engine;
mod manifest;
mod schema;
mod units;

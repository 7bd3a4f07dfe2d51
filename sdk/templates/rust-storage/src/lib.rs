//! Storage pools of plain directories.
//!
//! ```text
//! pool.json                    whose pool it is
//! volumes/KIND/NAME/           a volume: volume.json, its tree in tree-NUMBER, its snapshots in snapshots/NAME
//! making/KIND/NAME/            a volume that is being made
//! ```
//!
//! The host may die at any moment, and the same call comes again. So everything appears by one step that is done or not: a volume
//! by a rename out of `making`, a restored tree by the number in `volume.json`, a snapshot by the host's copy, which is whole or
//! not there.

mod pool;
mod snapshot;
mod volume;

/// The driver. It has no state: each call gets a fresh instance.
pub struct Driver;

hutch_sdk::storage_plugin! { driver: Driver, exports: [pool, volume, snapshot] }

#[cfg(test)]
mod tests;

//! A small storage driver that keeps every promise, or breaks the one that the option `fault` of its pool names: what the conformance suite is
//! tried with. `tests/whole/mutants.rs` says which case has to find which.

mod fault;
mod pool;
mod snapshot;
mod volume;

/// The driver.
#[derive(Debug)]
pub struct Mutant;

hutch_sdk::storage_plugin! { driver: Mutant, exports: [pool, volume, snapshot, quota] }

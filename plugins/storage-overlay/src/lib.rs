//! Storage pools whose volumes share read-only layers.
//!
//! ```text
//! pool.json                   whose pool it is, and the version of this layout
//! volumes/KIND/NAME.json      a volume: which layers it consists of, and its snapshots (see `record`)
//! layers/ID/fs                a layer: frozen, or the writable one of exactly one volume
//! layers/ID/work              the overlay's work directory, beside a writable layer
//! layers/ID/refs/UID/         the volume UID uses this frozen layer
//! filling/KIND/NAME.json      a volume that the host is filling
//! removed/KIND/NAME.UID.json  a volume that is being deleted
//! ```
//!
//! A volume *is* its record: whatever happens to it happens by replacing or renaming that one file, so that creating it from an
//! image, a snapshot of a stopped instance, restoring, renaming and deleting take the same time whatever the size. What a
//! crash can leave are layers that no record names, and references of volumes that are not there; `reconcile` derives both
//! from the records.
//!
//! A volume has one of three forms. `layered`: a writable layer over frozen ones. `plain`: one tree, for custom volumes, which
//! several instances may have mounted at once, and for containers that need their root as the upper layer of overlays of
//! their own; its snapshots are copies. `image`: frozen layers alone.

mod copy;
mod layers;
mod layout;
mod pool;
mod reconcile;
mod record;
mod replica;
mod snapshot;
mod volume;

/// The driver.
#[derive(Debug)]
pub struct Overlay;

hutch_sdk::storage_plugin! { driver: Overlay, exports: [pool, volume, snapshot, clone, replica, quota] }

#[cfg(test)]
mod tests;

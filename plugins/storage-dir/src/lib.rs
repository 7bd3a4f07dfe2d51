//! Storage pools of plain directories, on any file system.
//!
//! ```text
//! pool.json                                  whose pool it is, and the version of this layout
//! containers/NAME/{volume.json,rootfs}       a volume; beside `containers`: `virtual-machines`, `images`, `custom`
//! containers-snapshots/NAME/SNAPSHOT/rootfs  a snapshot
//! containers-snapshots/NAME/SNAPSHOT/filling a snapshot that the host is filling
//! staging/containers/NAME/…                  a volume that is being made
//! ```
//!
//! A volume is made in `staging` and appears by one rename; a snapshot appears by the host's copy, which is complete or not
//! there. Copies share extents where the file system can (reflink), and a size is limited by a project quota where there is
//! one.

mod layout;
mod pool;
mod replica;
mod snapshot;
mod volume;

/// The driver.
#[derive(Debug)]
pub struct Dir;

hutch_sdk::storage_plugin! { driver: Dir, exports: [pool, volume, snapshot, clone, replica, quota] }

#[cfg(test)]
mod tests;

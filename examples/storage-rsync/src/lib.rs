//! Storage pools whose volumes have their home in a directory of another machine, behind an rsync daemon.
//!
//! A kernel can't give a container a root on a network file system that maps ids, and a container that waits for another machine
//! at every write is no pleasure. So a volume that is in use lies in the pool's own directory, and goes home when nobody uses it any
//! more (`release`), and at each snapshot. What is there is never changed: every time, a new tree is sent, in which files that did
//! not change are hard links to those of the tree before.
//!
//! On the other machine, below `rsync.remote`:
//!
//! ```text
//! POOL/pool.json                 whose pool it is
//! POOL/volumes/ID/volume.json    what a volume is called, which tree it is, and which ones its snapshots are
//! POOL/volumes/ID/tree-NUMBER/   a tree: complete if the note names it, else what an interrupted call left
//! ```
//!
//! Here, in the pool's directory:
//!
//! ```text
//! pool.json                      whose pool it is, and whether it was made to the end
//! pool/                          what is sent when a pool is made
//! volumes/KIND/NAME/volume.json  the volume's note, by which everything becomes so
//! volumes/KIND/NAME/tree-NUMBER  the volume, while it is here
//! volumes/KIND/NAME/shown/NUMBER a tree of a snapshot that somebody looked into
//! volumes/KIND/NAME/coming/      a tree on its way
//! making/KIND/NAME/              a volume that is being made
//! ```
//!
//! Images stay here: the daemon has them anyway. The host may die at any moment, and the other machine may be away at any moment; the
//! same call comes again. So a call first does what can be done twice, then writes the note of here, and then tells the other
//! machine, which is made up for at the next call while `told` says that it was not.

mod note;
mod pool;
mod remote;
mod snapshot;
mod tree;
mod volume;

/// The driver. It has no state: each call gets a fresh instance.
pub struct Rsync;

hutch_sdk::storage_plugin! { driver: Rsync, exports: [pool, volume, snapshot, clone, release] }

#[cfg(test)]
mod tests;

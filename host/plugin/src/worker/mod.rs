//! The second wall: plugins that don't come with the daemon run in a process of their own, one each.
//!
//! Such a process is this same program, called with [`WORKER_SUBCOMMAND`]. It has a user id of its own, no capabilities, empty
//! namespaces, no file but its socket and few system calls ([`walls`], [`filter`]), so that whoever breaks out of WebAssembly is
//! nobody, nowhere. All that a plugin asks of the host it asks over the socket ([`protocol`], [`frame`]), and the daemon answers as
//! it does for its own plugins: the call that a request belongs to is looked up, never believed, and the broker holds
//! the request against that call's grants and roots ([`client`]). What a worker says of itself decides only how its own plugin is
//! blamed. One that breaks the protocol is killed; one that ends in the middle of calls fails these, counts as a fault of its
//! plugin, and is started anew with the next call ([`supervisor`]).

mod cage;
mod child;
mod client;
mod filter;
mod frame;
mod ids;
mod process;
mod protocol;
mod supervisor;
mod walls;

use std::path::PathBuf;

pub use child::worker_main;
pub(crate) use supervisor::{StartError, Supervisor};
pub use walls::confine;

/// The hidden subcommand of the daemon that [`worker_main`] belongs to.
pub const WORKER_SUBCOMMAND: &str = "plugin-worker";

/// How workers are started.
#[derive(Clone, Debug)]
pub struct Workers {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// The directory in which the user ids of workers are locked. All plugin hosts of a machine must name the same one, so that no two
    /// workers share an id.
    pub ids: PathBuf,
}

impl Default for Workers {
    /// This program itself, with [`WORKER_SUBCOMMAND`], even if its file has been replaced since.
    fn default() -> Self {
        Self {
            program: PathBuf::from("/proc/self/exe"),
            args: vec![WORKER_SUBCOMMAND.to_owned()],
            ids: PathBuf::from("/run/hutch/worker-ids"),
        }
    }
}

//! The conformance suite: what the core relies on a driver for, as cases that are run against it.
//!
//! There is one suite for each interface that a driver can export, and [`suite`] chooses them by the list of exports. Cases are
//! written against the traits by which the core itself calls drivers (`hutch-driver`), over the real broker, so that what passes
//! here was shown with the calls that the daemon makes. Each case has an id that stays the same and one sentence that says what it
//! proves.
//!
//! The broker between the driver and the host is wrapped in [`Faults`], which counts what a driver has the host do, and can end
//! the driver at any of its steps, make the host's answer an error, or take a permission away. The cases of an interface's
//! changing functions come from one description of each, an action: repeated, killed after each step and repeated, with an
//! error of the host's at each call, and without each of its permissions.
//!
//! A [`Stand`] is where it happens: directories for pools, a network namespace, a server for images. The program that runs the
//! suite makes it and removes it.

pub mod case;
pub mod faults;
mod image;
mod network;
pub mod plan;
pub mod report;
pub mod stand;
mod storage;
pub mod tree;
mod zone;

pub use case::{Case, Outcome, Stop, Verdict};
pub use faults::{Faults, Permission};
pub use report::{Report, Result};
pub use stand::{Stand, Wanted};

/// The cases for what the driver of `stand` exports, in the order in which they are worth reading.
pub fn suite(stand: &Stand) -> Vec<Case> {
    match stand.family.as_str() {
        "storage" => storage::cases(stand),
        "network" => network::cases(stand),
        "zone" => zone::cases(stand),
        "image" => image::cases(stand),
        _ => Vec::new(),
    }
}

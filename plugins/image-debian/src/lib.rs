//! Images of Debian and Ubuntu, built on this machine by mmdebstrap(1).
//!
//! The packages come from the archive that the machine's own apt uses, or from one that is given as an option; no archive's
//! address is written here. The image boots by its own systemd, with systemd-networkd asking for addresses on interfaces
//! named `eth*` and `en*`: nothing in it is changed but for the few files that mmdebstrap has no option for.

mod build;
mod content;
mod sources;
mod suites;

/// The driver.
#[derive(Debug)]
pub struct Debian;

hutch_sdk::image_plugin! { driver: Debian, exports: [source, build] }

#[cfg(test)]
mod tests;

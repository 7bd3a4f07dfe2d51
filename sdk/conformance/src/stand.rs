//! Where a driver is tried: what the runner has made for it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hutch_broker::Permissions;
use hutch_driver::{Drivers, Options};

use crate::Faults;
use crate::faults::Permission;

/// An image that an image source has.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The server's address; empty where the source has none.
    pub server: String,
    /// Its alias.
    pub name: String,
    /// What the server serves, where that is a directory of this machine.
    pub folder: Option<PathBuf>,
}

/// See the module's documentation. The thread that runs a suite has a mount namespace of its own, in which nothing is shared, and
/// for network drivers a network namespace of its own.
pub struct Stand {
    /// Where the core would ask for drivers.
    pub drivers: Arc<dyn Drivers>,
    /// The driver's name in its family.
    pub name: String,
    /// `storage`, `network`, `zone`, `image`.
    pub family: String,
    /// The optional interfaces that it exports.
    pub abilities: Vec<String>,
    /// What its manifest requests.
    pub permissions: Permissions,
    /// The configuration of its pools, networks or zones, or the options of its requests, beside what a case needs.
    pub options: Options,
    /// What an image source is asked for.
    pub image: Option<Wanted>,
    /// Of a zone driver: a program with its arguments that prints what the backend shows of a zone, `{zone}` of `{project}`: a
    /// record on each line, with owner, time to live, `IN`, type and value, and nothing where there is no such zone.
    pub show: Vec<String>,
    /// Whether images may be built, which takes the machine's network and some minutes.
    pub builds: bool,
    /// What stands between the driver and the host.
    pub faults: Arc<Faults>,
    /// An empty directory on the file system to be used.
    pub scratch: PathBuf,
    /// Numbers for what is made.
    numbers: AtomicUsize,
}

impl Stand {
    /// A stand for the driver `name` of `family`.
    pub fn new(drivers: Arc<dyn Drivers>, faults: Arc<Faults>, family: &str, name: &str, scratch: PathBuf) -> Self {
        Self {
            drivers,
            name: name.to_owned(),
            family: family.to_owned(),
            abilities: Vec::new(),
            permissions: Permissions::default(),
            options: Options::new(),
            image: None,
            show: Vec::new(),
            builds: false,
            faults,
            scratch,
            numbers: AtomicUsize::new(0),
        }
    }

    /// Whether the driver exports the optional interface `ability`.
    pub fn can(&self, ability: &str) -> bool {
        self.abilities.iter().any(|a| a == ability)
    }

    /// A number that was not given out before.
    pub fn number(&self) -> usize {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// The permissions that the driver's manifest requests.
    pub fn requested(&self) -> impl Iterator<Item = Permission> + '_ {
        Permission::ALL
            .into_iter()
            .filter(|permission| permission.is_in(&self.permissions))
    }
}

//! Where things lie in the pool's directory, and the notes about them.

use std::collections::BTreeMap;

use hutch_sdk::paths::check_component;
use hutch_sdk::storage::{PoolRef, VolumeRef};
use hutch_sdk::{Error, Host, Result, TreePath, note};
use serde::{Deserialize, Serialize};

/// The version of this layout, here and on the other machine. A pool or volume of a newer one is refused.
const VERSION: u32 = 1;

/// The kinds of volumes, which are also the names of their directories.
pub const KINDS: [&str; 4] = ["container", "virtual-machine", "image", "custom"];

/// The note of a pool, here and there.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolNote {
    version: u32,
    driver: String,
    /// Tells it from every other pool, also from one of its name on another host.
    pub id: String,
    /// Whether it was made to the end.
    pub made: bool,
}

impl PoolNote {
    /// That of a new pool.
    pub fn new(host: &impl Host) -> Self {
        Self {
            version: VERSION,
            driver: env!("CARGO_PKG_NAME").to_owned(),
            id: new_id(host),
            made: false,
        }
    }

    /// The note in a directory; `None` where there is none.
    pub fn read(host: &impl Host, at: &TreePath) -> Result<Option<Self>> {
        let found: Option<Self> = note::read(host, &at.join("pool.json"), VERSION)?;
        match found {
            Some(other) if other.driver != env!("CARGO_PKG_NAME") => {
                Err(Error::invalid(format!("it is a pool of the driver {:?}", other.driver)))
            }
            found => Ok(found),
        }
    }

    /// Writes it into a directory.
    pub fn write(&self, host: &impl Host, at: &TreePath) -> Result<()> {
        note::write(host, &at.join("pool.json"), self)
    }
}

/// The note beside a volume's tree.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeNote {
    version: u32,
    /// What the volume was made from: the same call repeated is told from another by it.
    pub origin: String,
    /// Its directory on the other machine, which no other volume ever had.
    pub id: String,
    /// The tree there that the volume is while it is not here; 0 while there is none.
    pub home: u32,
    /// The greatest number that a tree there was ever given.
    pub last: u32,
    /// The tree here that is the volume; none while it is not here.
    pub tree: Option<u32>,
    /// The greatest number that a tree here was ever given.
    pub local: u32,
    /// The trees there that its snapshots are.
    pub snapshots: BTreeMap<String, u32>,
    /// Whether anything of it may be there.
    pub sent: bool,
    /// Whether the other machine knows what this says.
    pub told: bool,
}

impl VolumeNote {
    /// That of a volume whose tree is `tree-0`.
    pub fn new(host: &impl Host, origin: &str) -> Self {
        Self {
            version: VERSION,
            origin: origin.to_owned(),
            id: new_id(host),
            home: 0,
            last: 0,
            tree: Some(0),
            local: 0,
            snapshots: BTreeMap::new(),
            sent: false,
            told: false,
        }
    }
}

/// What the other machine is told of a volume, for whoever looks for one there.
#[derive(Serialize)]
pub struct About<'a> {
    pub version: u32,
    pub kind: &'a str,
    pub name: &'a str,
    pub tree: u32,
    pub snapshots: &'a BTreeMap<String, u32>,
}

impl<'a> About<'a> {
    /// That of a volume.
    pub fn new(volume: &'a VolumeRef, name: &'a str, note: &'a VolumeNote) -> Self {
        Self {
            version: VERSION,
            kind: &volume.kind,
            name,
            tree: note.home,
            snapshots: &note.snapshots,
        }
    }
}

/// Sixteen digits that nobody had before.
fn new_id(host: &impl Host) -> String {
    format!("{:016x}", host.random())
}

/// Where a volume lies and where it is made.
pub struct Places {
    pub home: TreePath,
    pub making: TreePath,
}

impl Places {
    /// Checks a volume and says where it lies under the name `name`.
    pub fn named(pool: &PoolRef, volume: &VolumeRef, name: &str) -> Result<Self> {
        check_component("volume", name)?;
        if !KINDS.contains(&volume.kind.as_str()) || volume.content != "filesystem" {
            return Err(Error::unsupported(format!(
                "a pool of trees has no place for the {} volume {name:?} of the kind {}",
                volume.content, volume.kind
            )));
        }
        let root = TreePath::root(&pool.root);
        let place = |below: &str| root.join(below).join(&volume.kind).join(name);
        Ok(Self {
            home: place("volumes"),
            making: place("making"),
        })
    }

    /// The same under its own name.
    pub fn of(pool: &PoolRef, volume: &VolumeRef) -> Result<Self> {
        Self::named(pool, volume, &volume.name)
    }
}

/// The note of the volume at `home`; `None` where there is none.
pub fn read(host: &impl Host, home: &TreePath) -> Result<Option<VolumeNote>> {
    note::read(host, &home.join("volume.json"), VERSION)
}

/// Writes the note of the volume at `home`: the step by which what it says becomes so.
pub fn write(host: &impl Host, home: &TreePath, volume: &VolumeNote) -> Result<()> {
    note::write(host, &home.join("volume.json"), volume)
}

/// The note of a volume that must be there.
pub fn existing(host: &impl Host, places: &Places, volume: &VolumeRef) -> Result<VolumeNote> {
    read(host, &places.home)?.ok_or_else(|| no_such(volume))
}

pub fn no_such(volume: &VolumeRef) -> Error {
    Error::not_found(format!("there is no {} volume {:?}", volume.kind, volume.name))
}

//! Where things lie in a pool, and the notes about them.

use hutch_sdk::note;
use hutch_sdk::paths::check_component;
use hutch_sdk::storage::{PoolRef, VolumeRef};
use hutch_sdk::{Error, Host, Result, TreePath};
use serde::{Deserialize, Serialize};

/// The version of the layout and of both notes. A pool or volume of a newer one is refused.
const VERSION: u32 = 1;

/// The name in a pool's note.
const DRIVER: &str = "dir";

/// The directories of the kinds of volumes.
pub(crate) const KINDS: [(&str, &str); 4] = [
    ("container", "containers"),
    ("virtual-machine", "virtual-machines"),
    ("image", "images"),
    ("custom", "custom"),
];

/// Where volumes are made.
pub(crate) const STAGING: &str = "staging";

/// The note in a pool's root.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PoolNote {
    version: u32,
    driver: String,
}

/// The note beside a volume's tree.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct VolumeNote {
    version: u32,
    /// What the volume was made from, so that the same call repeated can be told from another.
    pub(crate) origin: String,
    /// Its limit in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) quota: Option<u64>,
}

impl VolumeNote {
    pub(crate) fn new(origin: impl Into<String>) -> Self {
        Self {
            version: VERSION,
            origin: origin.into(),
            quota: None,
        }
    }
}

/// The directory of a kind, in the pool.
pub(crate) fn kind_dir(kind: &str) -> Result<&'static str> {
    let known = KINDS.iter().find(|(name, _)| *name == kind);
    known
        .map(|(_, dir)| *dir)
        .ok_or_else(|| Error::unsupported(format!("volumes of kind {kind:?} are not known")))
}

/// The places of one volume.
pub(crate) struct Places {
    /// The volume.
    pub(crate) home: TreePath,
    /// Its snapshots.
    pub(crate) snapshots: TreePath,
    /// Where it is made.
    pub(crate) staging: TreePath,
}

impl Places {
    /// Checks the volume and says where it lies.
    pub(crate) fn of(pool: &PoolRef, volume: &VolumeRef) -> Result<Self> {
        Self::named(pool, volume, &volume.name)
    }

    /// The same for another name.
    pub(crate) fn named(pool: &PoolRef, volume: &VolumeRef, name: &str) -> Result<Self> {
        check_component("volume", name)?;
        if volume.content != "filesystem" {
            return Err(Error::unsupported(format!(
                "volume {name:?}: a pool of directories holds no {} volumes",
                volume.content
            )));
        }
        let dir = kind_dir(&volume.kind)?;
        let root = TreePath::root(&pool.root);
        Ok(Self {
            home: root.join(dir).join(name),
            snapshots: root.join(&format!("{dir}-snapshots")).join(name),
            staging: root.join(STAGING).join(dir).join(name),
        })
    }

    /// The volume's tree.
    pub(crate) fn tree(&self) -> TreePath {
        self.home.join("rootfs")
    }

    /// The directory of a snapshot.
    pub(crate) fn snapshot(&self, name: &str) -> Result<TreePath> {
        check_component("snapshot", name)?;
        Ok(self.snapshots.join(name))
    }
}

/// The note of a volume that lies at `home`; `None` where there is no volume.
pub(crate) fn read_volume(host: &impl Host, home: &TreePath) -> Result<Option<VolumeNote>> {
    note::read(host, &home.join("volume.json"), VERSION)
}

pub(crate) fn write_volume(host: &impl Host, home: &TreePath, volume: &VolumeNote) -> Result<()> {
    note::write(host, &home.join("volume.json"), volume)
}

/// Whether there is a pool of this driver's.
pub(crate) fn is_pool(host: &impl Host, pool: &PoolRef) -> Result<bool> {
    let note: Option<PoolNote> = note::read(host, &TreePath::root(&pool.root).join("pool.json"), VERSION)?;
    match note {
        Some(note) if note.driver != DRIVER => Err(Error::invalid(format!(
            "pool {} belongs to the driver {:?}",
            pool.name, note.driver
        ))),
        note => Ok(note.is_some()),
    }
}

pub(crate) fn write_pool(host: &impl Host, pool: &PoolRef) -> Result<()> {
    let pool_note = PoolNote {
        version: VERSION,
        driver: DRIVER.into(),
    };
    note::write(host, &TreePath::root(&pool.root).join("pool.json"), &pool_note)
}

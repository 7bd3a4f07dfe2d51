//! Where things lie in a pool.

use hutch_sdk::paths::check_component;
use hutch_sdk::storage::{PoolRef, VolumeRef};
use hutch_sdk::{Error, Host, Result, TreePath, note};
use serde::{Deserialize, Serialize};

use crate::record::{Id, Record};

/// The version of the layout and of its notes. What is newer is refused.
pub(crate) const VERSION: u32 = 1;

/// The name in a pool's note.
const DRIVER: &str = "overlay";

/// Longer names would leave no room for what is added to a file's name, of which Linux allows 255 bytes.
const MAX_NAME: usize = 200;

/// The kinds of volumes.
pub(crate) const KINDS: [&str; 4] = ["container", "virtual-machine", "image", "custom"];

/// The directories in a pool's root.
pub(crate) const DIRECTORIES: [&str; 4] = ["filling", "layers", "removed", "volumes"];

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PoolNote {
    version: u32,
    driver: String,
}

/// A volume that the host is filling.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Filling {
    version: u32,
    pub(crate) uid: Id,
    pub(crate) layer: Id,
}

impl Filling {
    pub(crate) fn new(uid: Id, layer: Id) -> Self {
        Self {
            version: VERSION,
            uid,
            layer,
        }
    }
}

/// Places in one pool.
#[derive(Clone)]
pub(crate) struct Layout {
    root: TreePath,
}

impl Layout {
    pub(crate) fn of(pool: &PoolRef) -> Self {
        Self {
            root: TreePath::root(&pool.root),
        }
    }

    pub(crate) fn root(&self) -> &TreePath {
        &self.root
    }

    /// The directory of all layers.
    pub(crate) fn layers(&self) -> TreePath {
        self.root.join("layers")
    }

    /// A layer's directory.
    pub(crate) fn layer(&self, id: &Id) -> TreePath {
        self.layers().join(id.as_str())
    }

    /// A layer's tree.
    pub(crate) fn tree(&self, id: &Id) -> TreePath {
        self.layer(id).join("fs")
    }

    /// The trees of several layers.
    pub(crate) fn trees(&self, ids: &[Id]) -> Vec<TreePath> {
        ids.iter().map(|id| self.tree(id)).collect()
    }

    /// The directory of one kind below `volumes`, `filling` or `removed`.
    pub(crate) fn kind(&self, below: &str, kind: &str) -> TreePath {
        self.root.join(below).join(kind)
    }

    fn note(&self, below: &str, kind: &str, name: &str) -> TreePath {
        self.kind(below, kind).join(&format!("{name}.json"))
    }

    /// A volume's record.
    pub(crate) fn record(&self, volume: &VolumeRef) -> TreePath {
        self.note("volumes", &volume.kind, &volume.name)
    }

    /// The record of a volume that the host is filling.
    pub(crate) fn filling(&self, volume: &VolumeRef) -> TreePath {
        self.note("filling", &volume.kind, &volume.name)
    }

    /// The record of a volume that is being deleted.
    pub(crate) fn removed(&self, volume: &VolumeRef, uid: &Id) -> TreePath {
        self.note("removed", &volume.kind, &format!("{}.{}", volume.name, uid.as_str()))
    }

    /// The volume's record, or `None` where there is no such volume.
    pub(crate) fn read(&self, host: &impl Host, volume: &VolumeRef) -> Result<Option<Record>> {
        note::read(host, &self.record(volume), VERSION)
    }

    /// The volume's record.
    pub(crate) fn existing(&self, host: &impl Host, volume: &VolumeRef) -> Result<Record> {
        self.read(host, volume)?.ok_or_else(|| no_such(volume))
    }

    /// Makes the volume what `record` says: the one step by which anything becomes true.
    pub(crate) fn write(&self, host: &impl Host, volume: &VolumeRef, record: &Record) -> Result<()> {
        note::write(host, &self.record(volume), record)
    }

    /// Whether there is a pool of this driver's.
    pub(crate) fn is_pool(&self, host: &impl Host, pool: &PoolRef) -> Result<bool> {
        let note: Option<PoolNote> = note::read(host, &self.root.join("pool.json"), VERSION)?;
        match note {
            Some(note) if note.driver != DRIVER => Err(Error::invalid(format!(
                "pool {} belongs to the driver {:?}",
                pool.name, note.driver
            ))),
            note => Ok(note.is_some()),
        }
    }

    pub(crate) fn write_pool(&self, host: &impl Host) -> Result<()> {
        note::write(
            host,
            &self.root.join("pool.json"),
            &PoolNote {
                version: VERSION,
                driver: DRIVER.into(),
            },
        )
    }
}

/// The error for a volume that is not there.
pub(crate) fn no_such(volume: &VolumeRef) -> Error {
    Error::not_found(format!("there is no {} volume {:?}", volume.kind, volume.name))
}

/// Checks what the driver can keep: its kind, content and name.
pub(crate) fn check(volume: &VolumeRef) -> Result<()> {
    check_name("volume", &volume.name)?;
    let (kind, name) = (&volume.kind, &volume.name);
    if !KINDS.contains(&kind.as_str()) {
        return Err(Error::unsupported(format!("volumes of kind {kind:?} are not known")));
    }
    if volume.content != "filesystem" {
        return Err(Error::unsupported(format!(
            "volume {name:?}: an overlay pool holds no {} volumes",
            volume.content
        )));
    }
    Ok(())
}

/// Checks the name of a volume or a snapshot.
pub(crate) fn check_name(what: &str, name: &str) -> Result<()> {
    check_component(what, name)?;
    match name.len() > MAX_NAME {
        true => Err(Error::invalid(format!(
            "the name of the {what} {name:?} is longer than {MAX_NAME} bytes"
        ))),
        false => Ok(()),
    }
}

//! What a volume consists of. No I/O here.

use std::collections::{BTreeMap, BTreeSet};

use hutch_sdk::{Error, Host, Result};
use serde::{Deserialize, Serialize};

use crate::layout::VERSION;

/// How many frozen layers a volume may lie on. Overlayfs takes 500 (`OVL_MAX_STACK` in the kernel's `fs/overlayfs/params.h`),
/// but mount(2) takes one page of options, in which as many layers must have their names. One more is merged into a
/// single layer, which takes as long as copying what the volume shows.
pub(crate) const MAX_LAYERS: usize = 64;

/// What a layer and a volume are known by: 16 hexadecimal digits, never used twice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Id(String);

impl Id {
    pub(crate) fn new(host: &impl Host) -> Self {
        Self(format!("{:016x}", host.random()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Id {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        match text.len() == 16 && text.bytes().all(hex) {
            true => Ok(Self(text)),
            false => Err(format!("{text:?} is not an id of 16 hexadecimal digits")),
        }
    }
}

/// How a volume is put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Form {
    /// Frozen layers alone.
    Image,
    /// A writable layer over frozen ones.
    Layered,
    /// One writable tree.
    Plain,
}

/// A snapshot: the layers from `top` down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SnapshotRecord {
    pub(crate) top: Id,
    /// Of the root directory, which a writable layer above must have, too.
    pub(crate) mode: u32,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    version: u32,
    /// What references of the volume are called by; a rename doesn't change it.
    pub(crate) uid: Id,
    /// What it was made from, so that the same call repeated can be told from another.
    pub(crate) origin: String,
    pub(crate) form: Form,
    /// Frozen layers that the volume or a snapshot of it uses, each with the one below it.
    pub(crate) layers: BTreeMap<Id, Option<Id>>,
    /// The uppermost frozen layer of the volume itself.
    pub(crate) top: Option<Id>,
    /// The root directory's mode in `top`.
    pub(crate) mode: u32,
    /// The writable layer, or the one tree of a plain volume.
    pub(crate) tree: Option<Id>,
    /// Nobody can have written to `tree` since it was made: it shows what is below.
    pub(crate) clean: bool,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) snapshots: BTreeMap<String, SnapshotRecord>,
    /// Layers that the host is filling, by the snapshots that they will be.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) filling: BTreeMap<String, Id>,
    /// The limit of `tree` in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) quota: Option<u64>,
}

impl Record {
    pub(crate) fn new(uid: Id, origin: impl Into<String>, form: Form) -> Self {
        Self {
            version: VERSION,
            uid,
            origin: origin.into(),
            form,
            layers: BTreeMap::new(),
            top: None,
            mode: 0o755,
            tree: None,
            clean: false,
            snapshots: BTreeMap::new(),
            filling: BTreeMap::new(),
            quota: None,
        }
    }

    /// The layers from `top` down, uppermost first.
    ///
    /// # Errors
    /// `io` for a record whose layers go in a circle or end in one that it doesn't name.
    pub(crate) fn chain(&self, top: &Id) -> Result<Vec<Id>> {
        let mut chain = Vec::new();
        let mut next = Some(top);
        while let Some(id) = next {
            let below = self.layers.get(id).filter(|_| chain.len() < self.layers.len());
            let below = below
                .ok_or_else(|| Error::io(format!("the record of a volume made from {} is damaged", self.origin)))?;
            chain.push(id.clone());
            next = below.as_ref();
        }
        Ok(chain)
    }

    /// The frozen layers of the volume itself, uppermost first.
    pub(crate) fn own_chain(&self) -> Result<Vec<Id>> {
        self.top.as_ref().map_or_else(|| Ok(Vec::new()), |top| self.chain(top))
    }

    /// Everything that the volume shows, uppermost first.
    pub(crate) fn stack(&self) -> Result<Vec<Id>> {
        Ok(self.tree.iter().cloned().chain(self.own_chain()?).collect())
    }

    /// Takes over a chain of another volume's layers as its own.
    pub(crate) fn adopt(&mut self, chain: &[Id]) {
        self.know(chain);
        self.top = chain.first().cloned();
    }

    /// Takes over a chain of layers as that of a snapshot.
    pub(crate) fn adopt_snapshot(&mut self, name: &str, chain: &[Id], mode: u32) -> Result<()> {
        let top = chain.first().cloned();
        let top = top.ok_or_else(|| Error::internal("what a snapshot is to be made of has no layer"))?;
        self.know(chain);
        self.snapshots.insert(name.to_owned(), SnapshotRecord { top, mode });
        Ok(())
    }

    /// A layer lies on the same one wherever it is used, so that chains can have layers in common.
    fn know(&mut self, chain: &[Id]) {
        for (at, id) in chain.iter().enumerate() {
            self.layers.insert(id.clone(), chain.get(at + 1).cloned());
        }
    }

    /// Forgets the frozen layers that neither the volume nor a snapshot uses any more, and answers with them.
    pub(crate) fn prune(&mut self) -> Result<Vec<Id>> {
        let mut used: BTreeSet<Id> = self.own_chain()?.into_iter().collect();
        for snapshot in self.snapshots.values() {
            used.extend(self.chain(&snapshot.top)?);
        }
        let dropped: Vec<Id> = self.layers.keys().filter(|id| !used.contains(*id)).cloned().collect();
        self.layers.retain(|id, _| used.contains(id));
        Ok(dropped)
    }

    /// A snapshot of it.
    pub(crate) fn snapshot(&self, volume: &str, name: &str) -> Result<&SnapshotRecord> {
        self.snapshots
            .get(name)
            .ok_or_else(|| Error::not_found(format!("the volume {volume:?} has no snapshot {name:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> Id {
        Id::try_from(format!("{n:016x}")).unwrap()
    }

    #[test]
    fn ids_can_not_be_paths() {
        for bad in [
            "",
            "../../etc/passwd",
            "0123456789ABCDEF",
            "0123456789abcde",
            "0123456789abcdef0",
        ] {
            assert!(Id::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }

    #[test]
    fn pruning_keeps_what_snapshots_need() {
        let mut record = Record::new(id(0), "x", Form::Layered);
        record.adopt(&[id(3), id(2), id(1)]);
        record.snapshots.insert(
            "s".into(),
            SnapshotRecord {
                top: id(2),
                mode: 0o755,
            },
        );
        record.top = Some(id(1));
        assert_eq!(record.prune().unwrap(), vec![id(3)]);
        record.snapshots.clear();
        assert_eq!(record.prune().unwrap(), vec![id(2)]);
        assert_eq!(record.own_chain().unwrap(), vec![id(1)]);
    }

    #[test]
    fn damaged_chains_are_errors_and_end() {
        let mut record = Record::new(id(0), "x", Form::Layered);
        record.adopt(&[id(2), id(1)]);
        record.layers.insert(id(1), Some(id(2)));
        assert!(record.own_chain().is_err_and(|e| e.is("io")));
        record.layers.insert(id(1), Some(id(9)));
        assert!(record.own_chain().is_err_and(|e| e.is("io")));
    }
}

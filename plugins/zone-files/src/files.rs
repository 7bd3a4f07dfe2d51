//! The files, and what the driver knows of them.

use hutch_sdk::zone::{ZoneRef, write};
use hutch_sdk::{Error, Host, Result, TreePath};

/// The place in the manifest.
pub(crate) const ROOT: &str = "zones";
/// What a key with a zone's version begins with.
const KEY: &str = "version/";
/// Keys that are read at once.
const PAGE: u32 = 256;

/// The files through a host.
pub(crate) struct Files<'h, H> {
    host: &'h H,
}

fn at(path: String) -> TreePath {
    TreePath {
        root: ROOT.to_owned(),
        path,
    }
}

/// A zone's file.
pub(crate) fn file(name: &str) -> TreePath {
    at(name.to_owned())
}

/// Where it is written first. No zone's name begins with a dot, and the longest has 253 bytes.
fn aside(name: &str) -> TreePath {
    at(format!(".{name}"))
}

impl<'h, H: Host> Files<'h, H> {
    pub(crate) fn of(host: &'h H) -> Self {
        Self { host }
    }

    /// Writes the zone's file, unless a newer version was published before. Answers whether it was written.
    pub(crate) fn publish(&self, zone: &ZoneRef, version: u64) -> Result<bool> {
        if self.version(&zone.name)?.is_some_and(|known| version < known) {
            return Ok(false);
        }
        self.host
            .kv_set(&format!("{KEY}{}", zone.name), version.to_string().as_bytes())?;
        write(self.host, zone, version, &aside(&zone.name), &file(&zone.name))?;
        Ok(true)
    }

    fn version(&self, name: &str) -> Result<Option<u64>> {
        let key = format!("{KEY}{name}");
        let read = |held: Vec<u8>| {
            let number = std::str::from_utf8(&held).ok().and_then(|text| text.parse().ok());
            number.ok_or_else(|| Error::io(format!("what is noted of zone {name} under {key} is no version")))
        };
        self.host.kv_get(&key)?.map(read).transpose()
    }

    /// Removes what is there of a zone; the note of it last.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        self.host.fs_discard(&file(name))?;
        self.host.fs_discard(&aside(name))?;
        self.host.kv_delete(&format!("{KEY}{name}"))
    }

    /// Removes what is there of the zones that are not `wanted`, and says so.
    pub(crate) fn retain(&self, wanted: impl Fn(&str) -> bool) -> Result<Vec<String>> {
        let mut removed = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let keys = self.host.kv_keys(KEY, after.as_deref(), PAGE)?;
            let Some(last) = keys.last() else { return Ok(removed) };
            after = Some(last.clone());
            for name in keys.iter().filter_map(|key| key.strip_prefix(KEY)) {
                if !wanted(name) {
                    self.remove(name)?;
                    removed.push(format!("the file of zone {name}"));
                }
            }
        }
    }
}

//! Plugins that a test changes: another id, name, version or request in the manifest of one of ours.

use crate::programs::Programs;
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};

/// The custom section that holds the manifest.
const SECTION: &[u8] = b"hutch:manifest";

/// One of ours under a name of its own: `storage` of the plain directories' driver.
#[derive(Clone, Debug)]
pub struct Variant {
    /// The plugin's id.
    pub id: String,
    /// The name of its driver.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The table `[permissions]`, in TOML.
    pub permissions: String,
    /// The file that it is made of.
    pub base: Base,
}

/// What variants are made of.
#[derive(Clone, Copy, Debug)]
pub enum Base {
    /// The driver of plain directories.
    Dir,
    /// The driver that misbehaves when it is told to, which exports fewer interfaces.
    Guest,
}

impl Variant {
    /// A storage driver `name` with the id `org.example.storage.NAME`.
    #[must_use]
    pub fn storage(name: &str, version: &str) -> Self {
        Self {
            id: format!("org.example.storage.{name}"),
            name: name.to_owned(),
            version: version.to_owned(),
            permissions: "fs = { roots = true }".to_owned(),
            base: Base::Dir,
        }
    }

    /// The same of a driver that can do less: it clones nothing and knows no quota.
    #[must_use]
    pub fn lesser(mut self) -> Self {
        self.base = Base::Guest;
        self
    }

    /// The same with other requests.
    #[must_use]
    pub fn asking(mut self, permissions: &str) -> Self {
        permissions.clone_into(&mut self.permissions);
        self
    }

    /// Its content.
    ///
    /// # Errors
    /// When the plugin that it is made of can't be read.
    pub fn content(&self) -> Result<Vec<u8>> {
        let base = match self.base {
            Base::Dir => Programs::from_environment()?.plugins.join("storage-dir.wasm"),
            Base::Guest => crate::faulty::storage_file()?,
        };
        let base = std::fs::read(&base).with_context(|| base.display().to_string())?;
        with_manifest(&base, |manifest| {
            let mut table: toml::Table = manifest.parse()?;
            table.insert("id".to_owned(), self.id.clone().into());
            table.insert("version".to_owned(), self.version.clone().into());
            let names = toml::Table::from_iter([("storage".to_owned(), toml::Value::from(vec![self.name.clone()]))]);
            table.insert("provides".to_owned(), names.into());
            table.insert(
                "permissions".to_owned(),
                self.permissions.parse::<toml::Table>()?.into(),
            );
            Ok(toml::to_string(&table)?)
        })
    }

    /// Writes it into `directory`.
    ///
    /// # Errors
    /// When it can't be made or written.
    pub fn write(&self, directory: &Path) -> Result<PathBuf> {
        let path = directory.join(format!("{}-{}.wasm", self.name, self.version));
        std::fs::write(&path, self.content()?)?;
        Ok(path)
    }
}

/// A component with another manifest.
fn with_manifest(component: &[u8], change: impl Fn(&str) -> Result<String>) -> Result<Vec<u8>> {
    let mut found = false;
    let out = rewritten(component, true, &change, &mut found)?;
    ensure!(found, "the plugin has no manifest");
    Ok(out)
}

/// A component or one of its core modules with another manifest. The binary format: eight bytes, then sections of an id, a length
/// and their content; a custom section has the id 0 and begins with its name, and in a component 1 is a core module and 4 a
/// component (WebAssembly component model, `Binary.md`). The linker leaves the manifest in a module.
fn rewritten(
    binary: &[u8],
    component: bool,
    change: &impl Fn(&str) -> Result<String>,
    found: &mut bool,
) -> Result<Vec<u8>> {
    let (head, mut rest) = binary.split_at_checked(8).context("no component")?;
    let mut out = head.to_vec();
    while let Some((id, after)) = rest.split_first() {
        let (length, after) = number(after)?;
        let (content, next) = after.split_at_checked(length).context("a section that is cut")?;
        let content = match (id, component) {
            (1, true) => rewritten(content, false, change, found)?,
            (4, true) => rewritten(content, true, change, found)?,
            (0, _) => custom(content, change, found)?,
            _ => content.to_vec(),
        };
        out.push(*id);
        out.extend(leb(content.len()));
        out.extend(content);
        rest = next;
    }
    Ok(out)
}

fn custom(content: &[u8], change: &impl Fn(&str) -> Result<String>, found: &mut bool) -> Result<Vec<u8>> {
    let (name, text) = number(content)?;
    if text.get(..name) != Some(SECTION) {
        return Ok(content.to_vec());
    }
    *found = true;
    let manifest = change(std::str::from_utf8(&text[name..])?)?;
    Ok([leb(name), SECTION.to_vec(), manifest.into_bytes()].concat())
}

/// A number in LEB128 at the beginning of `bytes`, and what follows it.
fn number(bytes: &[u8]) -> Result<(usize, &[u8])> {
    let mut value = 0_usize;
    for (i, byte) in bytes.iter().take(5).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Ok((value, &bytes[i + 1..]));
        }
    }
    bail!("no number in LEB128")
}

fn leb(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(value & 0x7f).unwrap_or_default();
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

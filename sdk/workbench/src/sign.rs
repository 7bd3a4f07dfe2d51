//! `sign`: the publisher's signature of a plugin, beside it as `FILE.minisig`, where `hutch plugin install` and `push` look for it and
//! where minisign itself has it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use hutch_plugin::binary::{self, Inspected};
use hutch_plugin::digest_of;

use crate::component::Which;
use crate::key::{self, Password};

/// What `sign` may be told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    which: Which,
    /// The publisher's secret key, as `hutch plugin key new` or minisign made it
    #[arg(short, long, value_name = "FILE")]
    key: PathBuf,
    #[command(flatten)]
    password: Password,
}

/// A plugin's file.
pub(crate) struct Component {
    pub(crate) path: PathBuf,
    pub(crate) bytes: Vec<u8>,
    pub(crate) inspected: Inspected,
    /// SHA-256 in lower-case hexadecimal.
    pub(crate) digest: String,
}

impl Component {
    /// Reads a file that a host would take.
    ///
    /// # Errors
    /// When it is not there, or is no plugin.
    pub(crate) fn read(which: &Which) -> Result<Self> {
        let path = which.path()?;
        let bytes = std::fs::read(&path).with_context(|| format!("can't read {}", path.display()))?;
        let inspected =
            binary::inspect(&bytes).with_context(|| format!("{} is not a plugin for a host", path.display()))?;
        Ok(Self {
            digest: digest_of(&bytes),
            path,
            bytes,
            inspected,
        })
    }

    /// Where its signature lies.
    pub(crate) fn signature(&self) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(".minisig");
        path.into()
    }
}

/// Signs.
///
/// # Errors
/// When there is no plugin or key, the password is another, or the signature can't be written.
pub(crate) fn run(options: &Options) -> Result<()> {
    let component = Component::read(&options.which)?;
    let key = key::secret(&options.key, &options.password)?;
    let id = key::id_of(key.keynum());
    let manifest = &component.inspected.manifest;
    // It is signed, too: `push` tells by it that the file was built again since.
    let trusted = format!("{} {} sha256:{}", manifest.id, manifest.version, component.digest);
    let comment = format!("signature by the key {id}");
    let signature = minisign::sign(None, &key, component.bytes.as_slice(), Some(&trusted), Some(&comment))?;
    let path = component.signature();
    replace(&path, signature.to_string().as_bytes())?;
    println!(
        "{} {} is signed with the key {id}: {}",
        manifest.id,
        manifest.version,
        path.display()
    );
    Ok(())
}

/// Has a file with this content, whole or as it was.
fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let what = || format!("can't write {}", path.display());
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(directory)
        .with_context(what)?;
    std::io::Write::write_all(&mut file, content).with_context(what)?;
    file.persist(path).with_context(what)?;
    Ok(())
}

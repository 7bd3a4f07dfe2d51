//! Files that somebody wants to have as plugins: what is found out about one before anything is decided.

use std::path::PathBuf;
use std::sync::Arc;

use hutch_broker::Permissions;
use hutch_driver::Options;

use super::error::{ChangeError, Result};
use crate::doubt::doubts;
use crate::fault;
use crate::files::digest_of;
use crate::host::PluginHost;
use crate::manifest::Manifest;
use crate::plugin::{Plugin, Standing};
use crate::registry::{Doubt, Provenance, Version, now};

/// How a file came to the daemon, which says what it takes to believe it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OfferKind {
    /// Somebody who may do everything here sent it. Without a signature it is a developer's.
    Upload,
    /// It was fetched, or carried from elsewhere. It has to be signed, unless the operator waives that.
    Foreign,
}

/// A file that somebody wants to have as a plugin.
#[derive(Debug)]
pub struct Offer {
    /// Its content.
    pub bytes: Vec<u8>,
    /// Where it came from, for people.
    pub source: String,
    /// How it came.
    pub kind: OfferKind,
    /// A signature of it, as minisign writes it.
    pub signature: Option<Vec<u8>>,
    /// What its digest has to be, in lower-case hexadecimal, with or without `sha256:` before it.
    pub digest: Option<String>,
    /// Whether it may have no signature.
    pub allow_unsigned: bool,
}

/// What was found out about an offered file, which waits for a decision.
#[derive(Debug)]
pub struct Examined {
    /// Its manifest.
    pub manifest: Manifest,
    /// The optional interfaces that it exports.
    pub abilities: Vec<String>,
    /// The file with who answers for it.
    pub version: Version,
    /// The version of the same plugin that there is already.
    pub present: Option<String>,
    /// What it requests that the present version neither requests nor was granted; everything where there is none.
    pub more: Permissions,
    /// What else there is to be agreed to, where it would take the place of another version.
    pub doubts: Vec<Doubt>,
}

impl PluginHost {
    /// Takes a file into the store, says what it is, and compiles it. Nothing is decided yet: whoever decides names its digest
    /// within some minutes.
    ///
    /// # Errors
    /// When it is no plugin of this host, can't be compiled, is not what it was said to be, or nobody answers for it.
    pub async fn examine(&self, offer: Offer) -> Result<Examined> {
        let digest = digest_of(&offer.bytes);
        if let Some(wanted) = &offer.digest
            && wanted.strip_prefix("sha256:").unwrap_or(wanted) != digest
        {
            return Err(ChangeError::Invalid(format!(
                "{}: its digest is sha256:{digest}, and not {wanted}",
                offer.source
            )));
        }
        let signature = offer
            .signature
            .as_deref()
            .map(String::from_utf8_lossy)
            .map(String::from);
        let provenance = match (&signature, offer.kind, offer.allow_unsigned) {
            // One that is there has to be right, whatever the operator waives.
            (Some(signature), ..) => self.trust.lock().verify(&offer.bytes, signature)?,
            (None, OfferKind::Upload, _) => Provenance::Dev,
            (None, OfferKind::Foreign, true) => Provenance::Unsigned,
            (None, OfferKind::Foreign, false) => {
                return Err(ChangeError::Untrusted(format!(
                    "{} has no signature, and what comes from elsewhere needs one; --allow-unsigned waives it",
                    offer.source
                )));
            }
        };
        let pin = self.staged.pin(&digest);
        let (files, source) = (Arc::clone(&self.loader.files), PathBuf::from(&offer.source));
        let stored = tokio::task::spawn_blocking(move || files.add_bytes(&source, &offer.bytes)).await??;
        fault::point("plugin-install", "stored");
        let version = Version {
            digest,
            version: stored.manifest.version.clone(),
            source: offer.source,
            provenance,
            signature,
            config: Options::new(),
            taken_in: now(),
        };
        // Its own settings come with the decision; the code is the same.
        let mut trial = stored.clone();
        trial.manifest.config.schema = None;
        let standing = Arc::new(Standing::new(&stored.manifest.id));
        self.prepare(trial, standing, Options::new()).await?;
        fault::point("plugin-install", "compiled");
        pin.examined(version.clone());
        let table = self.table.load();
        let entry = table.entry(&stored.manifest.id);
        let present = entry.map(|entry| entry.slot.current());
        let taken_in = entry.and_then(|entry| entry.record.as_ref()?.active.as_ref());
        Ok(Examined {
            more: beyond(&stored.manifest, present.as_deref()),
            doubts: present
                .as_ref()
                .map_or_else(Vec::new, |present| doubts(present, taken_in, &version)),
            present: present.map(|plugin| plugin.manifest.version.clone()),
            manifest: stored.manifest,
            abilities: stored.abilities,
            version,
        })
    }
}

/// What `manifest` requests that is new: the present version neither requests it nor was granted it.
pub(super) fn beyond(manifest: &Manifest, present: Option<&Plugin>) -> Permissions {
    let requested = &manifest.permissions;
    match present {
        Some(present) => {
            let known = present.manifest.permissions.with(&present.standing.granted.get());
            requested.beyond(&known)
        }
        None => requested.clone(),
    }
}

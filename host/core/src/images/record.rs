//! What the store holds of images.

use std::collections::BTreeMap;

use hutch_api::Timestamp;
use hutch_api::image::{Image, ImageAlias, ImageSource};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::records::RECORD_VERSION;

/// Where the records of images are: project and fingerprint follow.
pub(super) const IMAGES: &str = "image/";
/// Where those of aliases are: project and name follow.
pub(super) const ALIASES: &str = "image-alias/";
/// Where those of volumes are: pool and fingerprint follow.
pub(super) const VOLUMES: &str = "image-volume/";

/// The only kind of image that there is so far; the API has `virtual-machine`, too.
pub(super) const CONTAINER: &str = "container";

/// The files that make up an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// One archive.
    Unified,
    /// One with the metadata, and one that is the root file system.
    Split,
}

/// Where an image came from, so that it is found again and can be refreshed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// The image driver's name.
    pub driver: String,
    /// The server, empty where the driver has none.
    pub server: String,
    /// The alias or fingerprint that was asked for.
    pub name: String,
    /// The driver's options.
    pub options: BTreeMap<String, String>,
    /// What stood for the content of an image that was built.
    pub build_key: Option<String>,
}

/// An image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageRecord {
    /// The version of the format.
    pub v: u32,
    /// The project.
    pub project: String,
    /// SHA-256 of its files, one after the other.
    pub fingerprint: String,
    /// What its files are.
    pub shape: Shape,
    /// The name under which it was uploaded.
    pub filename: String,
    /// `x86_64`, `aarch64`.
    pub architecture: String,
    /// Bytes of its files.
    pub size: u64,
    /// For people: `os`, `release`, `description`, …
    pub properties: BTreeMap<String, String>,
    /// Profiles of new instances.
    pub profiles: Vec<String>,
    /// Whether anybody may have it.
    pub public: bool,
    /// Whether it is kept up to date with its origin.
    pub auto_update: bool,
    /// Whether it was fetched for an instance, so that it may go when it has not been used for long.
    pub cached: bool,
    /// When it was built.
    pub created_at: Timestamp,
    /// When it is out of date.
    pub expires_at: Timestamp,
    /// When it came here.
    pub uploaded_at: Timestamp,
    /// When an instance was last made from it.
    pub last_used_at: Timestamp,
    /// Where it came from, unless it was uploaded.
    pub origin: Option<Origin>,
    /// Where the source keeps it under other names; those of the local aliases are records of their own.
    pub source_aliases: Vec<String>,
}

impl ImageRecord {
    /// As clients see it.
    pub(super) fn render(&self, aliases: Vec<ImageAlias>) -> Image {
        Image {
            fingerprint: self.fingerprint.clone(),
            aliases,
            architecture: self.architecture.clone(),
            auto_update: self.auto_update,
            cached: self.cached,
            created_at: self.created_at,
            expires_at: self.expires_at,
            last_used_at: self.last_used_at,
            uploaded_at: self.uploaded_at,
            filename: self.filename.clone(),
            profiles: self.profiles.clone(),
            project: self.project.clone(),
            properties: self.properties.clone(),
            public: self.public,
            size: i64::try_from(self.size).unwrap_or(i64::MAX),
            kind: CONTAINER.to_owned(),
            update_source: self.origin.as_ref().map(|origin| ImageSource {
                alias: origin.name.clone(),
                certificate: String::new(),
                image_type: CONTAINER.to_owned(),
                protocol: origin.driver.clone(),
                server: origin.server.clone(),
            }),
        }
    }

    /// The key of the record.
    pub(super) fn key(&self) -> String {
        image_key(&self.project, &self.fingerprint)
    }
}

/// A name of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AliasRecord {
    /// The version of the format.
    pub v: u32,
    /// The project.
    pub project: String,
    /// The name. It may hold slashes (`debian/12`).
    pub name: String,
    /// For people.
    pub description: String,
    /// The image's fingerprint.
    pub target: String,
}

impl AliasRecord {
    /// A new alias.
    pub(super) fn new(project: &str, name: &str, description: &str, target: &str) -> Self {
        Self {
            v: RECORD_VERSION,
            project: project.to_owned(),
            name: name.to_owned(),
            description: description.to_owned(),
            target: target.to_owned(),
        }
    }

    /// The key of the record.
    pub(super) fn key(&self) -> String {
        alias_key(&self.project, &self.name)
    }
}

/// That an image is unpacked in a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VolumeRecord {
    pub(super) v: u32,
    pub(super) pool: String,
    pub(super) fingerprint: String,
}

pub(super) fn image_key(project: &str, fingerprint: &str) -> String {
    format!("{IMAGES}{project}/{fingerprint}")
}

pub(super) fn alias_key(project: &str, name: &str) -> String {
    format!("{ALIASES}{project}/{name}")
}

pub(super) fn volume_key(pool: &str, fingerprint: &str) -> String {
    format!("{VOLUMES}{pool}/{fingerprint}")
}

/// Refuses a record of a newer daemon.
pub(super) fn check_version(prefix: &str, key: &str, v: u32) -> Result<()> {
    if v <= RECORD_VERSION {
        return Ok(());
    }
    let known = RECORD_VERSION;
    let what =
        format!("record {prefix}{key} has version {v}, and this daemon knows {known}: start the version that wrote it");
    Err(Error::Unavailable(what))
}

/// Names of aliases: what a URL and a command line can carry, slashes included.
///
/// # Errors
/// [`Error::Invalid`] with the rule that is broken.
pub(super) fn check_alias(name: &str) -> Result<()> {
    let bad = |why: &str| Err(Error::invalid(format!("Invalid image alias {name:.64?}: {why}")));
    if name.is_empty() || name.len() > 255 {
        return bad("it must have 1 to 255 bytes");
    }
    if name.chars().any(|c| crate::error::is_obeyed(c) || c.is_whitespace()) {
        return bad("it must not hold spaces or characters that a terminal obeys");
    }
    if name.starts_with(['/', '-'])
        || name.ends_with('/')
        || name.split('/').any(|part| matches!(part, "" | "." | ".."))
    {
        return bad("it must not look like a path or an option");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_that_are_paths_are_refused() {
        for name in [
            "",
            "/a",
            "a/",
            "a//b",
            "../a",
            "a/..",
            "a b",
            "a\n",
            "-a",
            &"a".repeat(256),
        ] {
            assert!(check_alias(name).is_err(), "{name:?}");
        }
        for name in ["debian/12", "ubuntu:22.04", "größe", "a"] {
            check_alias(name).unwrap();
        }
    }

    #[test]
    fn newer_records_are_refused() {
        check_version(IMAGES, "x", RECORD_VERSION).unwrap();
        assert!(check_version(IMAGES, "x", RECORD_VERSION + 1).is_err());
    }
}

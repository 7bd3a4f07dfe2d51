//! Image sources, as `wit/image` has them.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{Call, DriverError, DriverInfo, Options, TreePath};

/// What is asked of a source.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImageRequest {
    /// The server as the caller named it; empty where the source has none.
    pub server: String,
    /// An alias or a fingerprint.
    pub name: String,
    /// `x86_64`, `aarch64`.
    pub architecture: String,
    /// `container` or `virtual-machine`.
    pub kind: String,
    /// The source's own options.
    pub options: Options,
}

/// A file that makes up an image. The host fetches it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImageFile {
    /// `unified`, `metadata` or `rootfs`.
    pub role: String,
    /// Where it is.
    pub url: String,
    /// Lower-case hexadecimal.
    pub sha256: String,
    /// In bytes, where known.
    pub size: Option<u64>,
}

/// An image that a source has.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SourceImage {
    /// Empty for one that is built on demand.
    pub fingerprint: String,
    /// Names that it goes by at the source.
    pub aliases: Vec<String>,
    /// `x86_64`, `aarch64`.
    pub architecture: String,
    /// `container` or `virtual-machine`.
    pub kind: String,
    /// For people: `os`, `release`, `description`, …
    pub properties: Options,
    /// Seconds since 1970; 0 where unknown.
    pub created: i64,
    /// Seconds since 1970; 0 for never.
    pub expires: i64,
    /// In the order in which the fingerprint counts them.
    pub files: Vec<ImageFile>,
    /// For an image that is built: what stands for its content.
    pub build_key: Option<String>,
    /// Who named the files.
    pub named_by: NamedBy,
}

/// The version of a plugin that named something to be fetched. What it may fetch was asked of that one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedBy {
    /// The plugin's id.
    pub plugin: String,
    /// The SHA-256 of the plugin's file, in lower-case hexadecimal.
    pub digest: String,
}

/// Something small that the host puts into a built image's root after unpacking it, replacing what is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedFile {
    /// Relative to the image's root, without `..`. Directories above it that are missing are made with mode 0755.
    pub path: String,
    /// `file` or `symlink`.
    pub kind: String,
    /// Permission bits of a file, which belongs to root; 0 for a symbolic link.
    pub mode: u32,
    /// The file's bytes (at most 64 KiB), or the link's target in UTF-8.
    pub data: Vec<u8>,
}

/// An image that was built.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BuiltImage {
    /// The archive, below the scratch root of the call.
    pub rootfs: TreePath,
    /// What the archive lacks, at most 64 entries.
    pub files: Vec<PlacedFile>,
    /// As in [`SourceImage::properties`].
    pub properties: Options,
}

/// An image source; see `wit/image` for what each call means.
#[async_trait]
pub trait ImageDriver: Send + Sync {
    /// Who provides it, and its abilities: `build`, …
    fn info(&self) -> DriverInfo;

    /// `source.resolve`.
    async fn resolve(&self, call: &Call, request: &ImageRequest) -> Result<SourceImage, DriverError>;
    /// `source.list`.
    async fn list(&self, call: &Call, request: &ImageRequest) -> Result<Vec<SourceImage>, DriverError>;
    /// `build.build`.
    async fn build(&self, call: &Call, request: &ImageRequest, scratch: &TreePath) -> Result<BuiltImage, DriverError>;
}

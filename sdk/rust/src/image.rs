//! Image sources: `hutch:image`.

use crate::{Host, Result, TreePath};

pub use crate::bindings::imports::hutch::image::types::{Built, Image, ImageFile, PlacedFile, Request as ImageRequest};

/// Where images come from. Required.
pub trait Source {
    /// The image of a name.
    fn resolve(host: &impl Host, request: &ImageRequest) -> Result<Image>;
    /// All images whose names begin with `request.name`.
    fn list(host: &impl Host, request: &ImageRequest) -> Result<Vec<Image>>;
}

/// Images that are made on this machine. Optional.
pub trait Build {
    /// Builds into `scratch`, an empty directory of this call's own.
    fn build(host: &impl Host, request: &ImageRequest, scratch: &TreePath) -> Result<Built>;
}

//! Requests for the image that the run was told of, and the driver's calls with their names.

use std::sync::Arc;

use hutch_driver::image::{BuiltImage, ImageDriver, ImageRequest, SourceImage};
use hutch_driver::{Call, Root, TreePath};

use crate::Stand;
use crate::case::{Answer, Outcome, Stop, named, skip};
use crate::stand::Wanted;

/// See the module's documentation.
pub(super) struct Source {
    driver: Arc<dyn ImageDriver>,
    /// What the run was told of.
    pub(super) wanted: Wanted,
    stand_options: hutch_driver::Options,
}

impl Source {
    /// The source, where the run was told of an image that it has.
    pub(super) fn of(stand: &Stand) -> Outcome<Self> {
        let Some(wanted) = stand.image.clone() else {
            return skip(
                "no image was named that the source has: use --image NAME with --serve FOLDER or --server URL",
            );
        };
        let driver = stand
            .drivers
            .image(&stand.name)
            .map_err(|error| Stop::Fail(format!("the driver can't be called: {error}")))?;
        Ok(Self {
            driver,
            wanted,
            stand_options: stand.options.clone(),
        })
    }

    /// A request for `name`.
    pub(super) fn request(&self, name: &str) -> ImageRequest {
        ImageRequest {
            server: self.wanted.server.clone(),
            name: name.to_owned(),
            architecture: std::env::consts::ARCH.to_owned(),
            kind: "container".to_owned(),
            options: self.stand_options.clone(),
        }
    }

    /// A request for the image that the run was told of.
    pub(super) fn known(&self) -> ImageRequest {
        self.request(&self.wanted.name)
    }

    fn call(request: &ImageRequest) -> Call {
        let mut call = Call::new(
            "default",
            if request.server.is_empty() {
                "image"
            } else {
                &request.server
            },
        );
        call.origin = (!request.server.is_empty()).then(|| request.server.clone());
        call
    }

    pub(super) async fn resolve(&self, request: &ImageRequest) -> Answer<SourceImage> {
        let answer = self.driver.resolve(&Self::call(request), request).await;
        named(answer, || {
            let short: String = request.name.chars().take(40).collect();
            format!("source.resolve({short:?} for {})", request.architecture)
        })
    }

    pub(super) async fn list(&self, request: &ImageRequest) -> Answer<Vec<SourceImage>> {
        let answer = self.driver.list(&Self::call(request), request).await;
        named(answer, || format!("source.list({:?})", request.name))
    }

    /// Builds into the directory `scratch` of the stand's.
    pub(super) async fn build(&self, stand: &Stand, request: &ImageRequest, scratch: &str) -> Answer<BuiltImage> {
        let mut call = Self::call(request);
        call.roots.push(Root {
            id: "scratch".to_owned(),
            path: stand.scratch.join(scratch),
            writable: true,
        });
        let at = TreePath {
            root: "scratch".to_owned(),
            path: String::new(),
        };
        let answer = self.driver.build(&call, request, &at).await;
        named(answer, || format!("build.build({:?})", request.name))
    }
}

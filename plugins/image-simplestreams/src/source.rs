//! The source.

use hutch_sdk::image::{Image, ImageRequest, Source};
use hutch_sdk::{Error, Host, Options, Result};

use crate::{Simplestreams, catalogue, select};

/// A part of a fingerprint has at least so many digits, or short names would be taken for one.
const MIN_FINGERPRINT: usize = 12;

fn is_fingerprint(name: &str) -> bool {
    (MIN_FINGERPRINT..=64).contains(&name.len())
        && name.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c))
}

fn check(request: &ImageRequest) -> Result<()> {
    Options::new(&request.options).check_keys("an image of a simplestreams server", &[])
}

impl Source for Simplestreams {
    fn resolve(host: &impl Host, request: &ImageRequest) -> Result<Image> {
        check(request)?;
        let catalogues = catalogue::read(host, &request.server)?;
        let products = || catalogues.iter().flat_map(|catalogue| catalogue.products.values());
        if let Some(image) = select::by_alias(products(), request)? {
            return Ok(image);
        }
        let (name, server) = (&request.name, &request.server);
        let mut found = if is_fingerprint(name) {
            select::by_fingerprint(products(), request)?
        } else {
            Vec::new()
        };
        match (found.pop(), found.len()) {
            (Some(image), 0) => Ok(image),
            (Some(_), _) => Err(Error::invalid(format!(
                "several images on {server} have fingerprints that begin with {name}"
            ))),
            (None, _) => Err(Error::not_found(format!(
                "{server} has no {} image {name:?} for {}",
                request.kind, request.architecture
            ))),
        }
    }

    fn list(host: &impl Host, request: &ImageRequest) -> Result<Vec<Image>> {
        check(request)?;
        let catalogues = catalogue::read(host, &request.server)?;
        select::all(
            catalogues.iter().flat_map(|catalogue| catalogue.products.values()),
            request,
        )
    }
}

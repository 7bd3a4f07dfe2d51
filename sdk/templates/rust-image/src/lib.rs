//! Images from servers that have a file `index.json`:
//!
//! ```json
//! {"images": [{"name": "tiny", "architecture": "x86_64", "file": "tiny.tar", "sha256": "…", "size": 2560}]}
//! ```
//!
//! A file is a whole image: `metadata.yaml` and `rootfs/` in one archive. The host fetches it; what is here reads the index only.

use hutch_sdk::image::{Image, ImageFile, ImageRequest, Source};
use hutch_sdk::{Error, Host, Options, Result};
use serde::Deserialize;

/// The driver. It has no state: each call gets a fresh instance.
pub struct Driver;

hutch_sdk::image_plugin! { driver: Driver, exports: [source] }

/// The largest index that is read, in bytes.
const MAX_INDEX: u64 = 4 << 20;

#[derive(Deserialize)]
struct Index {
    images: Vec<Entry>,
}

/// An image in the index. What else an entry has is not looked at.
#[derive(Deserialize)]
struct Entry {
    name: String,
    architecture: String,
    file: String,
    sha256: String,
    size: Option<u64>,
    #[serde(default)]
    description: String,
}

impl Entry {
    fn image(self, server: &str) -> Image {
        let description = Some(("description".to_owned(), self.description));
        Image {
            // With one file, its checksum is the image's fingerprint.
            fingerprint: self.sha256.clone(),
            aliases: vec![self.name],
            architecture: self.architecture,
            kind: "container".to_owned(),
            properties: description.into_iter().filter(|(_, text)| !text.is_empty()).collect(),
            created: 0,
            expires: 0,
            files: vec![ImageFile {
                role: "unified".to_owned(),
                url: format!("{server}/{}", self.file),
                sha256: self.sha256,
                size: self.size,
            }],
            build_key: None,
        }
    }
}

/// The images of the architecture and kind that were asked for.
fn images(host: &impl Host, request: &ImageRequest) -> Result<Vec<Image>> {
    Options::new(&request.options).check_keys("an image of an index", &[])?;
    let server = &request.server;
    if server.is_empty() {
        return Err(Error::invalid("a server is needed: its address stands before the image's name"));
    }
    if request.kind != "container" {
        return Ok(Vec::new());
    }
    let address = format!("{server}/index.json");
    let response = host.http_get(&address, &[], Some(MAX_INDEX))?;
    match response.status {
        200 => {}
        404 => return Err(Error::not_found(format!("{server} has no index.json"))),
        status => return Err(Error::unavailable(format!("{address} is answered with the status {status}"))),
    }
    let index: Index = serde_json::from_slice(&response.body)
        .map_err(|error| Error::io(format!("{address} is not an index of images: {error}")))?;
    let fitting = index.images.into_iter().filter(|entry| entry.architecture == request.architecture);
    Ok(fitting.map(|entry| entry.image(server)).collect())
}

impl Source for Driver {
    fn resolve(host: &impl Host, request: &ImageRequest) -> Result<Image> {
        let (name, server) = (&request.name, &request.server);
        let is_it = |image: &Image| image.aliases.contains(name) || image.fingerprint == *name;
        let found = images(host, request)?.into_iter().find(is_it);
        found.ok_or_else(|| Error::not_found(format!("{server} has no image {name:?} for {}", request.architecture)))
    }

    fn list(host: &impl Host, request: &ImageRequest) -> Result<Vec<Image>> {
        let begins = |text: &String| text.starts_with(request.name.as_str());
        let mut all = images(host, request)?;
        all.retain(|image| image.aliases.iter().chain([&image.fingerprint]).any(begins));
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use hutch_sdk::testing::FakeHost;

    use super::*;

    fn request(name: &str) -> ImageRequest {
        ImageRequest {
            server: "https://images.test".into(),
            name: name.into(),
            architecture: "x86_64".into(),
            kind: "container".into(),
            options: Vec::new(),
        }
    }

    #[test]
    fn an_image_is_found_by_its_name_and_for_its_architecture() {
        let host = FakeHost::default();
        host.serve("https://images.test/index.json", include_str!("../testdata/index.json"));
        let image = Driver::resolve(&host, &request("tiny")).unwrap();
        assert_eq!(image.files[0].url, "https://images.test/tiny-x86_64.tar");
        assert!(Driver::resolve(&host, &request("huge")).is_err_and(|error| error.is("not-found")));
        assert_eq!(Driver::list(&host, &request("t")).unwrap().len(), 1);
    }

    #[test]
    fn nonsense_is_the_servers_fault() {
        let host = FakeHost::default();
        host.serve("https://images.test/index.json", "[1, 2");
        assert!(Driver::resolve(&host, &request("tiny")).is_err_and(|error| error.is("io")));
    }
}

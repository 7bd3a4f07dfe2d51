//! Image sources.

use std::sync::Arc;

use async_trait::async_trait;
use hutch_broker::CallContext;
use hutch_driver::image::{BuiltImage, ImageDriver, ImageFile, ImageRequest, NamedBy, PlacedFile, SourceImage};
use hutch_driver::{Call, DriverError, DriverInfo, TreePath};
use reqwest::Url;

use super::{answer, pairs, picked};
use crate::bindings::host::types::TreePath as WitTreePath;
use crate::bindings::image::types as wit;
use crate::export::{Exports, ImageExports};
use crate::log::CallLog;
use crate::plugin::{Plugin, Slot};

/// Images in one listing. The image servers that people use have a thousand.
const MAX_IMAGES: usize = 10_000;
const MAX_ALIASES: usize = 256;
const MAX_FILES: usize = 3;
const MAX_URL: usize = 4096;
const MAX_KEY: usize = 512;
/// Small files that a built image may bring along, and the bytes of one, as `wit/image` has them.
const MAX_PLACED: usize = 64;
const MAX_PLACED_BYTES: usize = 64 << 10;

/// An image source that a plugin provides under one name.
pub(crate) struct ImageAdapter {
    slot: Arc<Slot>,
    name: String,
}

impl ImageAdapter {
    pub(crate) fn new(slot: Arc<Slot>, name: &str) -> Self {
        Self {
            slot,
            name: name.to_owned(),
        }
    }
}

/// What the plugin may do in this call.
fn view(plugin: &Plugin, call: &Call) -> CallContext {
    let log = Arc::new(CallLog::new(Arc::clone(&plugin.standing.log), &call.object));
    plugin.context(call, &log)
}

/// An image that the host may fetch: its files are where the plugin itself might have looked. What a plugin may not
/// fetch, it may not have fetched.
fn fetchable(plugin: &Plugin, view: &CallContext, image: wit::Image) -> Result<SourceImage, String> {
    let mut image = checked_image(image)?;
    image.named_by = NamedBy {
        plugin: plugin.id().to_owned(),
        digest: plugin.digest.clone(),
    };
    for file in &image.files {
        let url = Url::parse(&file.url).map_err(|error| format!("the address {:?}: {error}", file.url))?;
        let granter = view.subject.granter();
        granter
            .http(view.call.origin.as_deref(), &url)
            .map_err(|error| format!("the address {url}: {}", error.message))?;
    }
    if image.files.is_empty() && !plugin.abilities.iter().any(|ability| ability == "build") {
        return Err("an image to be built, though it can't build".to_owned());
    }
    Ok(image)
}

impl Exports {
    fn image(&self) -> Option<&ImageExports> {
        match self {
            Self::Image(exports) => Some(exports),
            _ => None,
        }
    }
}

fn request(request: &ImageRequest) -> wit::Request {
    wit::Request {
        server: request.server.clone(),
        name: request.name.clone(),
        architecture: request.architecture.clone(),
        kind: request.kind.clone(),
        options: pairs(&request.options),
    }
}

fn target(request: &ImageRequest) -> String {
    format!("image/{}/{}", request.server, request.name)
}

#[async_trait]
impl ImageDriver for ImageAdapter {
    fn info(&self) -> DriverInfo {
        self.slot.current().info(&self.name)
    }

    async fn resolve(&self, call: &Call, asked: &ImageRequest) -> Result<SourceImage, DriverError> {
        let plugin = self.slot.current();
        plugin.check_options(&asked.options)?;
        let pick = picked(|e| e.image().map(|i| &i.source.resolve));
        plugin
            .call(call, target(asked), pick, (request(asked),), |image| {
                fetchable(&plugin, &view(&plugin, call), image)
            })
            .await
    }

    async fn list(&self, call: &Call, asked: &ImageRequest) -> Result<Vec<SourceImage>, DriverError> {
        let plugin = self.slot.current();
        plugin.check_options(&asked.options)?;
        let pick = picked(|e| e.image().map(|i| &i.source.list));
        let check = |images: Vec<wit::Image>| {
            if images.len() > MAX_IMAGES {
                return Ok(Err(images.len()));
            }
            let view = view(&plugin, call);
            let images = images.into_iter().map(|image| fetchable(&plugin, &view, image));
            images.collect::<Result<Vec<_>, _>>().map(Ok)
        };
        let listed = plugin.call(call, target(asked), pick, (request(asked),), check).await?;
        // How many there are may be the server's doing, and whoever runs that must not bring the plugin into quarantine.
        listed.map_err(|count| {
            let message = format!("source.list answered with {count} images, and {MAX_IMAGES} are allowed");
            DriverError::new("limit", message).from_plugin(plugin.id(), &plugin.manifest.version)
        })
    }

    async fn build(&self, call: &Call, asked: &ImageRequest, scratch: &TreePath) -> Result<BuiltImage, DriverError> {
        let plugin = self.slot.current();
        plugin.check_options(&asked.options)?;
        let pick = picked(|e| e.image()?.build.as_ref().map(|b| &b.build));
        let at = WitTreePath {
            root: scratch.root.clone(),
            path: scratch.path.clone(),
        };
        plugin
            .call(call, target(asked), pick, (request(asked), at), |built| {
                checked_built(call, scratch, built)
            })
            .await
    }
}

fn checked_image(image: wit::Image) -> Result<SourceImage, String> {
    if !image.fingerprint.is_empty() && !answer::is_sha256(&image.fingerprint) {
        return Err(format!("the fingerprint {:?}", answer::shortened(&image.fingerprint)));
    }
    if image.aliases.len() > MAX_ALIASES || image.files.len() > MAX_FILES {
        return Err("too many aliases or files".to_owned());
    }
    for alias in &image.aliases {
        // Unlike other names, an alias has slashes: `debian/12/cloud`.
        if alias.is_empty() || alias.len() > 255 || alias.chars().any(char::is_control) {
            return Err(format!("the alias {:?}", answer::shortened(alias)));
        }
    }
    answer::word("architecture", &image.architecture, 32, false)?;
    if image.kind != "container" && image.kind != "virtual-machine" {
        return Err(format!("an image of the kind {:?}", answer::shortened(&image.kind)));
    }
    match (&image.build_key, image.files.is_empty()) {
        (None, true) => return Err("an image with neither files nor a build key".to_owned()),
        (Some(_), false) => return Err("an image with both files and a build key".to_owned()),
        (Some(key), true) if key.is_empty() || key.len() > MAX_KEY || key.chars().any(char::is_control) => {
            return Err(format!("the build key {:?}", answer::shortened(key)));
        }
        _ => {}
    }
    Ok(SourceImage {
        fingerprint: image.fingerprint,
        aliases: image.aliases,
        architecture: image.architecture,
        kind: image.kind,
        properties: answer::options(image.properties)?,
        created: image.created,
        expires: image.expires,
        files: checked_files(image.files)?,
        build_key: image.build_key,
        named_by: NamedBy::default(),
    })
}

fn checked_files(files: Vec<wit::ImageFile>) -> Result<Vec<ImageFile>, String> {
    let mut roles: Vec<&str> = files.iter().map(|file| file.role.as_str()).collect();
    roles.sort_unstable();
    if !matches!(roles.as_slice(), [] | ["unified"] | ["metadata", "rootfs"]) {
        return Err("files other than one unified, or one metadata and one rootfs".to_owned());
    }
    for file in &files {
        if !answer::is_sha256(&file.sha256) {
            return Err(format!("the checksum {:?}", answer::shortened(&file.sha256)));
        }
        if file.url.len() > MAX_URL || file.url.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(format!("the address {:?}", answer::shortened(&file.url)));
        }
    }
    let known = |file: wit::ImageFile| ImageFile {
        role: file.role,
        url: file.url,
        sha256: file.sha256,
        size: file.size,
    };
    Ok(files.into_iter().map(known).collect())
}

fn checked_built(call: &Call, scratch: &TreePath, built: wit::Built) -> Result<BuiltImage, String> {
    let rootfs = answer::tree_path(call, built.rootfs)?;
    let below = rootfs.root == scratch.root
        && (scratch.path.is_empty()
            || rootfs
                .path
                .strip_prefix(&scratch.path)
                .is_some_and(|rest| rest.starts_with('/')));
    if !below || rootfs.path.is_empty() {
        return Err(format!(
            "the archive {:?}, which is not below the scratch directory",
            rootfs.path
        ));
    }
    if built.files.len() > MAX_PLACED {
        return Err(format!(
            "{} files to be placed, and {MAX_PLACED} are allowed",
            built.files.len()
        ));
    }
    Ok(BuiltImage {
        rootfs,
        files: built.files.into_iter().map(checked_placed).collect::<Result<_, _>>()?,
        properties: answer::options(built.properties)?,
    })
}

fn checked_placed(file: wit::PlacedFile) -> Result<PlacedFile, String> {
    answer::relative(&file.path, false)?;
    if file.data.len() > MAX_PLACED_BYTES {
        return Err(format!(
            "{} with {} bytes, and {MAX_PLACED_BYTES} are allowed",
            file.path,
            file.data.len()
        ));
    }
    match file.kind.as_str() {
        "file" if file.mode > 0o7777 => return Err(format!("{} with the mode {:o}", file.path, file.mode)),
        "file" => {}
        "symlink" => {
            let target = std::str::from_utf8(&file.data).unwrap_or_default();
            if target.is_empty() || target.len() > 4095 || target.contains('\0') {
                return Err(format!("{}, a symbolic link with an impossible target", file.path));
            }
        }
        other => return Err(format!("{} of the kind {:?}", file.path, answer::shortened(other))),
    }
    Ok(PlacedFile {
        path: file.path,
        kind: file.kind,
        mode: file.mode,
        data: file.data,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> wit::Image {
        let file = |role: &str| wit::ImageFile {
            role: role.into(),
            url: "https://example.org/x.tar.xz".into(),
            sha256: "a".repeat(64),
            size: Some(1),
        };
        wit::Image {
            fingerprint: "0".repeat(64),
            aliases: vec!["debian/12".into()],
            architecture: "x86_64".into(),
            kind: "container".into(),
            properties: Vec::new(),
            created: 0,
            expires: 0,
            files: vec![file("metadata"), file("rootfs")],
            build_key: None,
        }
    }

    #[test]
    fn images_are_whole() {
        assert!(checked_image(image()).is_ok());
        let to_build = wit::Image {
            files: Vec::new(),
            build_key: Some("k".into()),
            ..image()
        };
        assert!(checked_image(to_build).is_ok());
        for change in [
            |i: &mut wit::Image| i.fingerprint = "xyz".into(),
            |i: &mut wit::Image| i.fingerprint = "A".repeat(64),
            |i: &mut wit::Image| i.aliases.push("a\nb".into()),
            |i: &mut wit::Image| i.architecture = "x/y".into(),
            |i: &mut wit::Image| i.kind = "toaster".into(),
            |i: &mut wit::Image| i.build_key = Some("k".into()),
            |i: &mut wit::Image| i.files.clear(),
            |i: &mut wit::Image| i.files[0].sha256 = "..".into(),
            |i: &mut wit::Image| i.files[0].role = "unified".into(),
            |i: &mut wit::Image| i.files[0].url = "https://e x".into(),
        ] {
            let mut image = image();
            change(&mut image);
            assert!(checked_image(image).is_err());
        }
    }

    #[test]
    fn what_a_build_places_stays_in_the_image() {
        let file = |path: &str, kind: &str, mode, data: &[u8]| wit::PlacedFile {
            path: path.into(),
            kind: kind.into(),
            mode,
            data: data.into(),
        };
        assert!(checked_placed(file("etc/x", "file", 0o644, b"1")).is_ok());
        assert!(checked_placed(file("etc/x", "symlink", 0, b"../y")).is_ok());
        for bad in [
            file("../x", "file", 0o644, b""),
            file("/etc/x", "file", 0o644, b""),
            file("x", "file", 0o100_644, b""),
            file("x", "device", 0, b""),
            file("x", "symlink", 0, b""),
            file("x", "symlink", 0, b"a\0"),
            file("x", "file", 0o644, &vec![0; MAX_PLACED_BYTES + 1]),
        ] {
            assert!(checked_placed(bad).is_err());
        }
    }
}

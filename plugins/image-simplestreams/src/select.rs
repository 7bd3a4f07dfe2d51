//! What a catalogue has for a request. No I/O here.

use hutch_sdk::image::{Image, ImageFile, ImageRequest};
use hutch_sdk::{Error, Result};

use crate::catalogue::{Item, Product, Version, address, is_sha256};
use crate::date;

/// What a host takes of an image: names, and bytes of one; bytes of an architecture's name; properties, and bytes of a key and of a value.
const MAX_ALIASES: usize = 256;
const MAX_ALIAS: usize = 255;
const MAX_ARCHITECTURE: usize = 32;
const MAX_PROPERTIES: usize = 512;
const MAX_KEY: usize = 256;
const MAX_VALUE: usize = 64 << 10;
/// Images that a host takes in a list.
const MAX_LISTED: usize = 10_000;

/// Files with an image's metadata, the preferred first.
const METADATA: [&str; 2] = ["incus.tar.xz", "lxd.tar.xz"];
/// Root file systems of containers, the preferred first.
const ROOTS: [&str; 2] = ["squashfs", "root.tar.xz"];
/// Disks of virtual machines, the preferred first.
const DISKS: [&str; 2] = ["disk-kvm.img", "disk1.img"];
/// Metadata and root file system in one.
const UNIFIED: [&str; 2] = ["incus_combined.tar.gz", "lxd_combined.tar.gz"];

/// Names of architectures: the kernel's, and Debian's, which catalogues use.
const ARCHITECTURES: [(&str, &str); 7] = [
    ("x86_64", "amd64"),
    ("aarch64", "arm64"),
    ("armv7l", "armhf"),
    ("i686", "i386"),
    ("ppc64le", "ppc64el"),
    ("riscv64", "riscv64"),
    ("s390x", "s390x"),
];

/// The kernel's name of an architecture.
fn kernel_name(architecture: &str) -> &str {
    ARCHITECTURES
        .iter()
        .find(|(_, debian)| *debian == architecture)
        .map_or(architecture, |(kernel, _)| kernel)
}

/// The files of an image, in the order in which its fingerprint counts them, with that fingerprint.
struct Files<'a> {
    fingerprint: &'a str,
    files: Vec<(&'static str, &'a Item)>,
    kind: &'static str,
}

impl Version {
    fn item(&self, ftype: &str) -> Option<&Item> {
        let named = self.items.get(ftype).filter(|item| item.ftype == ftype);
        named
            .or_else(|| self.items.values().find(|item| item.ftype == ftype))
            .filter(|item| is_sha256(&item.sha256))
    }

    /// Every image that the version has for instances of `kind`, the preferred first. Without a checksum of both files
    /// together there is no fingerprint, and no image.
    fn images<'a>(&'a self, kind: &str) -> Vec<Files<'a>> {
        let (kind, roots) = match kind {
            "virtual-machine" => ("virtual-machine", DISKS),
            _ => ("container", ROOTS),
        };
        let mut found = Vec::new();
        for metadata in METADATA.iter().filter_map(|ftype| self.item(ftype)) {
            for ftype in roots {
                if let (Some(root), Some(fingerprint)) = (self.item(ftype), metadata.combined(ftype)) {
                    found.push(Files {
                        fingerprint,
                        files: vec![("metadata", metadata), ("rootfs", root)],
                        kind,
                    });
                }
            }
        }
        if kind == "container" {
            let unified = UNIFIED.iter().filter_map(|ftype| self.item(ftype));
            found.extend(unified.map(|item| Files {
                fingerprint: &item.sha256,
                files: vec![("unified", item)],
                kind,
            }));
        }
        found
    }
}

impl Product {
    fn names(&self) -> impl Iterator<Item = &str> {
        self.aliases.split(',').map(str::trim).filter(|alias| !alias.is_empty())
    }

    fn is_called(&self, name: &str) -> bool {
        let with_architecture = |alias: &str| {
            name.strip_prefix(alias)
                .and_then(|rest| rest.strip_prefix('/'))
                .is_some_and(|rest| rest == self.arch)
        };
        self.names().any(|alias| alias == name || with_architecture(alias))
    }

    fn suits(&self, request: &ImageRequest) -> bool {
        request.architecture.is_empty() || kernel_name(&self.arch) == kernel_name(&request.architecture)
    }

    fn properties(&self, serial: &str, version: &Version) -> Vec<(String, String)> {
        let title = if self.release_title.is_empty() {
            &self.release
        } else {
            &self.release_title
        };
        let description = format!("{} {title} {} ({serial})", self.os, self.arch);
        let label = version.label.as_str();
        let plain = [
            ("os", self.os.as_str()),
            ("release", &self.release),
            ("version", &self.version),
            ("architecture", &self.arch),
            ("variant", &self.variant),
            ("label", label),
            ("serial", serial),
            ("description", &description),
        ];
        let plain = plain
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(key, value)| (key.to_owned(), value.to_owned()));
        plain
            .chain(
                self.requirements
                    .iter()
                    .map(|(key, value)| (format!("requirements.{key}"), value.clone())),
            )
            .collect()
    }

    fn image(&self, server: &str, serial: &str, version: &Version, files: &Files<'_>) -> Result<Image> {
        let properties = self.properties(serial, version);
        self.check(server, &properties)?;
        let file = |(role, item): &(&str, &Item)| {
            let url = address(server, &item.path)?;
            Ok(ImageFile {
                role: (*role).to_owned(),
                url,
                sha256: item.sha256.clone(),
                size: item.size,
            })
        };
        Ok(Image {
            fingerprint: files.fingerprint.to_owned(),
            aliases: self.names().map(str::to_owned).collect(),
            architecture: kernel_name(&self.arch).to_owned(),
            kind: files.kind.to_owned(),
            properties,
            created: date::of_version(serial),
            expires: date::of_day(&self.support_eol),
            files: files.files.iter().map(file).collect::<Result<_>>()?,
            build_key: None,
        })
    }

    /// Whether it can be told to a host: if not, the server is to blame, and a host would blame this driver.
    fn check(&self, server: &str, properties: &[(String, String)]) -> Result<()> {
        let wrong = |what: &str, text: &str| {
            let text: String = text.chars().take(60).collect();
            Err(Error::io(format!(
                "{server} has a product with {what} {text:?}, which can't be one"
            )))
        };
        let word =
            |text: &str, most: usize| !text.is_empty() && text.len() <= most && !text.chars().any(char::is_control);
        if let Some(alias) = self.names().find(|alias| !word(alias, MAX_ALIAS)) {
            return wrong("the alias", alias);
        }
        let count = self.names().count();
        if count > MAX_ALIASES {
            return Err(Error::limit(format!(
                "{server} has a product with {count} aliases, more than {MAX_ALIASES}"
            )));
        }
        if !word(&self.arch, MAX_ARCHITECTURE) || self.arch.contains('/') {
            return wrong("the architecture", &self.arch);
        }
        if properties.len() > MAX_PROPERTIES {
            let count = properties.len();
            return Err(Error::limit(format!(
                "{server} has a product with {count} properties, more than {MAX_PROPERTIES}"
            )));
        }
        for (key, value) in properties {
            if !word(key, MAX_KEY) {
                return wrong("the requirement", key);
            }
            if value.len() > MAX_VALUE || value.contains('\0') {
                return wrong(&format!("the {key}"), value);
            }
        }
        Ok(())
    }

    /// The newest image of the product.
    fn newest(&self, request: &ImageRequest) -> Result<Option<Image>> {
        for (serial, version) in self.versions.iter().rev() {
            if let Some(files) = version.images(&request.kind).first() {
                return self.image(&request.server, serial, version, files).map(Some);
            }
        }
        Ok(None)
    }
}

/// The newest image of an alias; `None` where no product has it for the architecture and kind.
pub(crate) fn by_alias<'a>(
    products: impl Iterator<Item = &'a Product>,
    request: &ImageRequest,
) -> Result<Option<Image>> {
    for product in products.filter(|product| product.suits(request) && product.is_called(&request.name)) {
        if let Some(image) = product.newest(request)? {
            return Ok(Some(image));
        }
    }
    Ok(None)
}

/// The images, at most two, whose fingerprints begin with the request's name, older versions included: a fingerprint names
/// one image for ever.
pub(crate) fn by_fingerprint<'a>(
    products: impl Iterator<Item = &'a Product>,
    request: &ImageRequest,
) -> Result<Vec<Image>> {
    let mut found: Vec<Image> = Vec::new();
    for product in products {
        for (serial, version) in &product.versions {
            for files in version.images(&request.kind) {
                let is_new = !found.iter().any(|image| image.fingerprint == files.fingerprint);
                if is_new && files.fingerprint.starts_with(&request.name) {
                    found.push(product.image(&request.server, serial, version, &files)?);
                }
                if found.len() == 2 {
                    return Ok(found);
                }
            }
        }
    }
    Ok(found)
}

/// The newest image of each product with an alias that begins with the request's name.
pub(crate) fn all<'a>(products: impl Iterator<Item = &'a Product>, request: &ImageRequest) -> Result<Vec<Image>> {
    let wanted = |product: &&Product| {
        product.suits(request)
            && (request.name.is_empty() || product.names().any(|alias| alias.starts_with(&request.name)))
    };
    let mut images = Vec::new();
    for product in products.filter(wanted) {
        images.extend(product.newest(request)?);
        if images.len() > MAX_LISTED {
            let server = &request.server;
            return Err(Error::limit(format!("{server} has more than {MAX_LISTED} images")));
        }
    }
    Ok(images)
}

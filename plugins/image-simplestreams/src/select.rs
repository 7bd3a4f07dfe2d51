//! What a catalogue has for a request. No I/O here.

use hutch_sdk::Result;
use hutch_sdk::image::{Image, ImageFile, ImageRequest};

use crate::catalogue::{Item, Product, Version, address, is_sha256};
use crate::date;

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
            properties: self.properties(serial, version),
            created: date::of_version(serial),
            expires: date::of_day(&self.support_eol),
            files: files.files.iter().map(file).collect::<Result<_>>()?,
            build_key: None,
        })
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
    products
        .filter(wanted)
        .filter_map(|product| product.newest(request).transpose())
        .collect()
}

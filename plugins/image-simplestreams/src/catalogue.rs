//! The two kinds of documents, fetched and read.

use std::collections::BTreeMap;

use hutch_sdk::{Error, Host, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Where the index is.
const INDEX: &str = "streams/v1/index.json";
/// Largest index, in bytes.
const MAX_INDEX: u64 = 8 << 20;
/// Largest catalogue, in bytes: an eighth of a million versions of the usual size. Its text and what is read of it are in
/// memory at once.
const MAX_CATALOGUE: u64 = 24 << 20;
/// Most catalogues that are read for one request.
const MAX_CATALOGUES: usize = 16;

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    format: String,
    #[serde(default)]
    index: BTreeMap<String, IndexEntry>,
}

#[derive(Deserialize)]
struct IndexEntry {
    #[serde(default)]
    datatype: String,
    #[serde(default)]
    format: String,
    #[serde(default)]
    path: String,
}

/// A catalogue.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Catalogue {
    #[serde(default)]
    format: String,
    #[serde(default)]
    pub(crate) products: BTreeMap<String, Product>,
}

/// Something that there are versions of.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Product {
    /// Separated by commas.
    #[serde(default)]
    pub(crate) aliases: String,
    #[serde(default)]
    pub(crate) arch: String,
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default)]
    pub(crate) release: String,
    #[serde(default)]
    pub(crate) release_title: String,
    #[serde(default)]
    pub(crate) variant: String,
    #[serde(default)]
    pub(crate) version: String,
    #[serde(default)]
    pub(crate) support_eol: String,
    /// What an instance made from it needs to be set to.
    #[serde(default, alias = "lxd_requirements")]
    pub(crate) requirements: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) versions: BTreeMap<String, Version>,
}

/// One version of a product.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Version {
    #[serde(default)]
    pub(crate) label: String,
    #[serde(default)]
    pub(crate) items: BTreeMap<String, Item>,
}

/// A file.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Item {
    #[serde(default)]
    pub(crate) ftype: String,
    #[serde(default)]
    pub(crate) path: String,
    #[serde(default)]
    pub(crate) sha256: String,
    #[serde(default)]
    pub(crate) size: Option<u64>,
    /// Of metadata: the checksum of these and of a root file system of one kind, one after the other.
    #[serde(default)]
    combined_squashfs_sha256: String,
    #[serde(default)]
    combined_rootxz_sha256: String,
    /// The older name of the one before.
    #[serde(default)]
    combined_sha256: String,
    #[serde(default, rename = "combined_disk-kvm-img_sha256")]
    combined_disk_kvm_img_sha256: String,
    #[serde(default, rename = "combined_disk1-img_sha256")]
    combined_disk1_img_sha256: String,
}

impl Item {
    /// The fingerprint of the image of this metadata and a root file system of the kind `ftype`.
    pub(crate) fn combined(&self, ftype: &str) -> Option<&str> {
        let sums: &[&String] = match ftype {
            "squashfs" => &[&self.combined_squashfs_sha256],
            "root.tar.xz" => &[&self.combined_rootxz_sha256, &self.combined_sha256],
            "disk-kvm.img" => &[&self.combined_disk_kvm_img_sha256],
            "disk1.img" => &[&self.combined_disk1_img_sha256],
            _ => &[],
        };
        sums.iter().map(|sum| sum.as_str()).find(|sum| is_sha256(sum))
    }
}

/// Whether a text is a checksum as the host wants it.
pub(crate) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c))
}

/// The address of a file on the server. A path leads nowhere but down: not to another server, not to another directory.
///
/// # Errors
/// `invalid` for any other path.
pub(crate) fn address(server: &str, path: &str) -> Result<String> {
    let component = |part: &str| !part.is_empty() && part != "." && part != "..";
    let plain = |c: char| c.is_ascii_graphic() && !"?#\\%".contains(c);
    if path.len() > 1024 || !path.chars().all(plain) || !path.split('/').all(component) {
        return Err(Error::invalid(format!(
            "{server} names a file {path:?}, which is not a path on the server"
        )));
    }
    Ok(format!("{}/{path}", server.trim_end_matches('/')))
}

fn fetch<T: DeserializeOwned>(host: &impl Host, url: &str, limit: u64) -> Result<T> {
    let response = host.http_get(url, &[], Some(limit)).map_err(|error| {
        // The host names what it could not fetch, and refuses without.
        if error.message.contains(url) {
            error
        } else {
            error.context(format!("can't read {url}"))
        }
    })?;
    match response.status {
        200 => {}
        404 | 410 => {
            return Err(Error::not_found(format!(
                "there is no {url}: the server is not one of simplestreams images"
            )));
        }
        status => {
            let error = Error::unavailable(format!("{url} was answered with the status {status}"));
            return Err(if status >= 500 { error.retryable() } else { error });
        }
    }
    serde_json::from_slice(&response.body)
        .map_err(|error| Error::io(format!("{url} is not what simplestreams has there: {error}")))
}

/// All catalogues of images on the server.
///
/// # Errors
/// `not-found` where there is no index, `unavailable` where the server doesn't answer, `io` for documents that are none.
pub(crate) fn read(host: &impl Host, server: &str) -> Result<Vec<Catalogue>> {
    if server.is_empty() {
        return Err(Error::invalid("no image server was named"));
    }
    let url = address(server, INDEX)?;
    let index: Index = fetch(host, &url, MAX_INDEX)?;
    if index.format != "index:1.0" {
        return Err(Error::unsupported(format!(
            "{url} has the format {:?}, not index:1.0",
            index.format
        )));
    }
    let of_images = |entry: &&IndexEntry| {
        entry.datatype == "image-downloads" && matches!(entry.format.as_str(), "" | "products:1.0")
    };
    let paths: Vec<&str> = index
        .index
        .values()
        .filter(of_images)
        .map(|entry| entry.path.as_str())
        .collect();
    if paths.len() > MAX_CATALOGUES {
        return Err(Error::limit(format!(
            "{url} names {} catalogues, more than {MAX_CATALOGUES}",
            paths.len()
        )));
    }
    paths
        .into_iter()
        .map(|path| catalogue(host, &address(server, path)?))
        .collect()
}

fn catalogue(host: &impl Host, url: &str) -> Result<Catalogue> {
    let catalogue: Catalogue = fetch(host, url, MAX_CATALOGUE)?;
    match catalogue.format.as_str() {
        "products:1.0" => Ok(catalogue),
        other => Err(Error::unsupported(format!(
            "{url} has the format {other:?}, not products:1.0"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_nowhere_but_down() {
        assert_eq!(
            address("https://a.test/x/", "images/f.squashfs").unwrap(),
            "https://a.test/x/images/f.squashfs"
        );
        for bad in [
            "",
            "/etc",
            "a//b",
            "../a",
            "a/./b",
            "https://b.test/",
            "a b",
            "a?b",
            "a#b",
            "a\\b",
            "%2e%2e/a",
            "é",
        ] {
            assert!(
                address("https://a.test", bad).is_err_and(|e| e.is("invalid")),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn checksums_are_lower_case() {
        assert!(is_sha256(&"0af9".repeat(16)));
        assert!(!is_sha256(&"0AF9".repeat(16)) && !is_sha256("0af9") && !is_sha256(&"0g".repeat(32)));
    }
}

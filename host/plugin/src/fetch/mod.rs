//! Fetching plugins that are named by an address: from a web server or from an OCI registry, within the bounds of a plugin's file
//! and of a time. What comes is written to a directory of this fetch's own and is gone with it.

mod oci;

use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hutch_broker::download::{Asker, DownloadRequest, download};
use hutch_broker::{Grants, Permissions, Subject, SubjectLimits};
use hutch_driver::{Cancel, DriverError, NoProgress, Options, Progress};
use reqwest::Url;

use crate::binary::MAX_FILE;
use crate::change::{ChangeError, Result};
use crate::files::FileError;
use crate::host::PluginHost;
use crate::oci::Reference;

/// The largest signature that is fetched, in bytes.
const MAX_SIGNATURE: u64 = 8 << 10;
/// How long a fetch may take with all that belongs to it: a plugin's largest file at half a megabit a second.
const PATIENCE: Duration = Duration::from_secs(600);

/// Where a plugin is to be fetched from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Address<'a> {
    /// Where the file is: `https://…`, or `oci://…` as [`Reference`] has it. `http://…` on this machine, or where it is allowed.
    pub url: &'a str,
    /// Where its signature is; empty for the file's address with `.minisig` behind it. A registry has it with the file.
    pub signature: &'a str,
    /// What the SHA-256 of the file has to be, with or without `sha256:` before it; empty where nothing is said.
    pub digest: &'a str,
    /// Whether it may come by plain HTTP, on which everybody on the way can read and change it.
    pub plain_http: bool,
}

/// A plugin that was fetched.
#[derive(Debug)]
pub struct Fetched {
    /// The file.
    pub bytes: Vec<u8>,
    /// Its signature, if it has one.
    pub signature: Option<Vec<u8>>,
    /// Where it came from: the address, from a registry with the digest of the manifest.
    pub source: String,
}

impl PluginHost {
    /// Fetches a plugin and its signature, if it has one.
    ///
    /// # Errors
    /// When the address can't be fetched from, does not have what the digest says, or takes longer than ten minutes.
    pub async fn fetch(&self, address: Address<'_>, progress: &dyn Progress, cancel: &Cancel) -> Result<Fetched> {
        let place = Place::new(&self.incoming)?;
        let digest = address.digest.strip_prefix("sha256:").unwrap_or(address.digest);
        let digest = Some(digest).filter(|digest| !digest.is_empty());
        let fetching = async {
            if Reference::is_meant(address.url) {
                return oci::fetch(&place, address, digest, progress, cancel).await;
            }
            from_web(&place, address, digest, progress, cancel).await
        };
        let fetched = tokio::time::timeout(PATIENCE, fetching).await;
        fetched.unwrap_or_else(|_| {
            Err(ChangeError::Fetch(DriverError::new(
                "timeout",
                format!("{} was not fetched within {} s", address.url, PATIENCE.as_secs()),
            )))
        })
    }
}

async fn from_web(
    place: &Place,
    address: Address<'_>,
    digest: Option<&str>,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Fetched> {
    let get = |url: String, sha256: Option<String>, limit: u64| async move {
        let subject = fetcher(&parse(&url)?, address.plain_http)?;
        let request = DownloadRequest {
            url,
            dir: place.0.clone(),
            sha256,
            size: None,
            limit,
            headers: Vec::new(),
        };
        let progress = if limit == MAX_FILE { progress } else { &NoProgress };
        file(&request, &subject, progress, cancel).await
    };
    let bytes = get(address.url.to_owned(), digest.map(str::to_owned), MAX_FILE).await?;
    let beside = if address.signature.is_empty() {
        let mut beside = parse(address.url)?;
        beside.set_path(&format!("{}.minisig", beside.path()));
        beside.to_string()
    } else {
        address.signature.to_owned()
    };
    let signature = match get(beside, None, MAX_SIGNATURE).await {
        Ok(found) => Some(found),
        Err(ChangeError::Fetch(error)) if error.is("not-found") && address.signature.is_empty() => None,
        Err(error) => return Err(error),
    };
    Ok(Fetched {
        bytes,
        signature,
        source: address.url.to_owned(),
    })
}

/// Downloads a file and reads it.
async fn file(
    request: &DownloadRequest,
    subject: &Subject,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Vec<u8>> {
    let asker = Asker { subject, origin: None };
    let file = download(request, asker, progress, cancel).await;
    let path = file.map_err(|error| ChangeError::Fetch(plain(error)))?.path;
    let read = move || std::fs::read(&path).map_err(|source| FileError::Io { path, source });
    Ok(tokio::task::spawn_blocking(read).await??)
}

fn parse(url: &str) -> Result<Url> {
    Url::parse(url).map_err(|error| ChangeError::Invalid(format!("{url:?} is no address: {error}")))
}

/// In whose name a plugin is fetched: nobody's who may reach anything but this address and where https leads from it.
fn fetcher(url: &Url, plain_http: bool) -> Result<Subject> {
    let own = url.origin().ascii_serialization();
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    let here = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
    let http = match url.scheme() {
        "https" => vec![own, "https://*".to_owned()],
        "http" if here || plain_http => vec![own],
        _ => {
            return Err(ChangeError::Invalid(format!(
                "{url} is not fetched: plugins come by https, by http from this machine itself, or by http where --plain-http \
                 allows it"
            )));
        }
    };
    Ok(Subject {
        plugin: String::new(),
        version: String::new(),
        digest: String::new(),
        family: String::new(),
        grants: Grants::as_requested(Permissions {
            http,
            ..Permissions::default()
        }),
        limits: SubjectLimits::default(),
        config: Options::new(),
    })
}

/// A refusal of an address in the words of somebody who is no plugin.
fn plain(error: DriverError) -> DriverError {
    if error.is("not-requested") || error.is("not-granted") {
        return DriverError::new(
            "invalid",
            "the server leads on to an address that is not fetched from: plugins come by https",
        );
    }
    error
}

/// The directory of one fetch. Another of the same file has another, so that neither takes away what the other is about to read.
struct Place(PathBuf);

impl Place {
    fn new(incoming: &Path) -> Result<Self, FileError> {
        static TURN: AtomicU64 = AtomicU64::new(0);
        let path = incoming.join(TURN.fetch_add(1, Ordering::Relaxed).to_string());
        match std::fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => Ok(Self(path)),
            Err(source) => Err(FileError::Io { path, source }),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "what was fetched is left until the next start");
        }
    }
}

/// Makes the directory of files that are being fetched, and removes what is left there: what fetched it is gone.
pub(crate) fn empty(directory: &Path) -> Result<(), FileError> {
    let io = |source| FileError::Io {
        path: directory.to_owned(),
        source,
    };
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(io)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_come_by_https_or_from_the_machine_itself() {
        let http = |url: &str, plain: bool| {
            fetcher(&parse(url).expect("an address"), plain).map(|subject| subject.grants.requested.http)
        };
        assert_eq!(
            http("https://example.org:8443/x", false).expect("https"),
            ["https://example.org:8443", "https://*"]
        );
        for url in ["http://127.0.0.1:80/x", "http://[::1]:8080/x", "http://localhost/x"] {
            assert_eq!(http(url, false).expect(url).len(), 1);
        }
        for url in ["http://example.org/x", "http://127.0.0.1.example.org/"] {
            assert!(http(url, false).is_err(), "{url}");
            assert_eq!(http(url, true).expect(url).len(), 1, "it leads nowhere else");
        }
        for url in ["ftp://127.0.0.1/", "file:///etc/x"] {
            assert!(http(url, true).is_err(), "{url}");
        }
        assert!(parse("x").is_err());
    }

    #[test]
    fn two_fetches_share_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let (one, other) = (
            Place::new(directory.path()).expect("made"),
            Place::new(directory.path()).expect("made"),
        );
        std::fs::write(one.0.join("x"), "").expect("written");
        assert_ne!(one.0, other.0);
        drop(one);
        assert!(other.0.exists());
        drop(other);
        assert_eq!(std::fs::read_dir(directory.path()).expect("there").count(), 0);
    }
}

//! Fetching plugins that are named by an address: by the downloader that fetches images, within the bounds of a plugin's file.

use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use hutch_broker::download::{Asker, DownloadRequest, download};
use hutch_broker::{Grants, Permissions, Subject, SubjectLimits};
use hutch_driver::{Cancel, DriverError, NoProgress, Options, Progress};
use reqwest::Url;

use crate::binary::MAX_FILE;
use crate::change::{ChangeError, Result};
use crate::files::FileError;
use crate::host::PluginHost;

/// The largest signature that is fetched, in bytes.
const MAX_SIGNATURE: u64 = 8 << 10;

impl PluginHost {
    /// Fetches a plugin and its signature, which is at `signature`, or at the plugin's address with `.minisig` behind it; there may be
    /// none. Only https, but for this machine itself.
    ///
    /// # Errors
    /// When the address can't be fetched from, or does not have what `digest` says.
    pub async fn fetch(
        &self,
        url: &str,
        signature: &str,
        digest: &str,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<(Vec<u8>, Option<Vec<u8>>)> {
        let digest = digest.strip_prefix("sha256:").unwrap_or(digest);
        let digest = Some(digest.to_owned()).filter(|digest| !digest.is_empty());
        let bytes = self.get(url, digest, MAX_FILE, progress, cancel).await?;
        let place = if signature.is_empty() {
            let mut place = parse(url)?;
            place.set_path(&format!("{}.minisig", place.path()));
            place.to_string()
        } else {
            signature.to_owned()
        };
        match self.get(&place, None, MAX_SIGNATURE, &NoProgress, cancel).await {
            Ok(found) => Ok((bytes, Some(found))),
            Err(ChangeError::Fetch(error)) if error.is("not-found") && signature.is_empty() => Ok((bytes, None)),
            Err(error) => Err(error),
        }
    }

    async fn get(
        &self,
        url: &str,
        sha256: Option<String>,
        limit: u64,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Vec<u8>> {
        let subject = fetcher(&parse(url)?)?;
        let request = DownloadRequest {
            url: url.to_owned(),
            dir: self.incoming.clone(),
            sha256,
            size: None,
            limit,
        };
        let asker = Asker {
            subject: &subject,
            origin: None,
        };
        let file = download(&request, asker, progress, cancel).await;
        let file = file.map_err(|error| ChangeError::Fetch(plain(error)))?;
        let read = move || {
            let bytes = std::fs::read(&file.path);
            let removed = std::fs::remove_file(&file.path);
            bytes
                .and_then(|bytes| removed.map(|()| bytes))
                .map_err(|source| FileError::Io {
                    path: file.path,
                    source,
                })
        };
        Ok(tokio::task::spawn_blocking(read).await??)
    }
}

fn parse(url: &str) -> Result<Url> {
    Url::parse(url).map_err(|error| ChangeError::Invalid(format!("{url:?} is no address: {error}")))
}

/// In whose name a plugin is fetched: nobody's who may reach anything but this address and where https leads from it.
fn fetcher(url: &Url) -> Result<Subject> {
    let own = url.origin().ascii_serialization();
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    let here = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
    let http = match url.scheme() {
        "https" => vec![own, "https://*".to_owned()],
        "http" if here => vec![own],
        _ => {
            return Err(ChangeError::Invalid(format!(
                "{url} is not fetched: plugins come by https, or by http from this machine itself"
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
        let http = |url: &str| fetcher(&parse(url).expect("an address")).map(|subject| subject.grants.requested.http);
        assert_eq!(
            http("https://example.org:8443/x").expect("https"),
            ["https://example.org:8443", "https://*"]
        );
        for url in ["http://127.0.0.1:80/x", "http://[::1]:8080/x", "http://localhost/x"] {
            assert_eq!(http(url).expect(url).len(), 1);
        }
        for url in [
            "http://example.org/x",
            "http://127.0.0.1.example.org/",
            "ftp://127.0.0.1/",
            "file:///etc/x",
        ] {
            assert!(http(url).is_err(), "{url}");
        }
        assert!(parse("x").is_err());
    }
}

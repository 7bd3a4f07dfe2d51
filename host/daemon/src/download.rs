//! Fetching image files for the core, by the broker's client.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use hutch_broker::Subject;
use hutch_broker::download::{Asker, DownloadRequest, download};
use hutch_core::images::Downloader;
use hutch_driver::image::{ImageFile, NamedBy};
use hutch_driver::{Call, DriverError, Progress};
use hutch_plugin::PluginHost;

/// The largest image file that is fetched, in bytes.
const LARGEST: u64 = 64 << 30;

/// Fetches what image sources name.
pub(crate) struct Fetcher(pub(crate) Arc<PluginHost>);

#[async_trait]
impl Downloader for Fetcher {
    async fn download(&self, file: &ImageFile, dir: &Path, by: &NamedBy, call: &Call) -> Result<PathBuf, DriverError> {
        let subject = self.0.subject(&by.plugin)?;
        is_same(&subject, by)?;
        let asker = Asker {
            subject: &subject,
            origin: call.origin.as_deref(),
        };
        let request = DownloadRequest {
            url: file.url.clone(),
            dir: dir.to_owned(),
            sha256: Some(file.sha256.clone()),
            size: file.size,
            limit: file.size.unwrap_or(LARGEST).min(LARGEST),
            headers: Vec::new(),
        };
        let progress: Arc<dyn Progress> = Arc::clone(&call.progress);
        Ok(download(&request, asker, progress.as_ref(), &call.cancel).await?.path)
    }
}

/// Refuses what another version of the plugin named than the one that is in use: it was asked of that one whether it may be fetched.
fn is_same(subject: &Subject, by: &NamedBy) -> Result<(), DriverError> {
    if subject.digest == by.digest {
        return Ok(());
    }
    let message = "the file was named by another version of it than is in use by now: ask again";
    let error = DriverError {
        retryable: true,
        ..DriverError::new("unavailable", message)
    };
    Err(error.from_plugin(&subject.plugin, &subject.version))
}

#[cfg(test)]
mod tests {
    use hutch_broker::{Grants, Permissions, SubjectLimits};

    use super::*;

    #[test]
    fn what_another_version_named_is_not_fetched_in_the_name_of_this_one() {
        let subject = Subject {
            plugin: "org.example.a".to_owned(),
            version: "1.0.0".to_owned(),
            digest: "1".repeat(64),
            family: "image".to_owned(),
            grants: Grants::as_requested(Permissions::default()),
            limits: SubjectLimits::default(),
            config: hutch_driver::Options::new(),
        };
        let named = |digit: &str| NamedBy {
            plugin: subject.plugin.clone(),
            digest: digit.repeat(64),
        };
        is_same(&subject, &named("1")).expect("the same file");
        let error = is_same(&subject, &named("2")).expect_err("another of the same version");
        assert!(error.is("unavailable") && error.retryable, "{error}");
    }
}

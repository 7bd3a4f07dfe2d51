//! Fetching image files for the core, by the broker's client.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use hutch_broker::download::{Asker, DownloadRequest, download};
use hutch_core::images::Downloader;
use hutch_driver::image::ImageFile;
use hutch_driver::{Call, DriverError, Progress};
use hutch_plugin::PluginHost;

/// The largest image file that is fetched, in bytes.
const LARGEST: u64 = 64 << 30;

/// Fetches what image sources name.
pub(crate) struct Fetcher(pub(crate) Arc<PluginHost>);

#[async_trait]
impl Downloader for Fetcher {
    async fn download(&self, file: &ImageFile, dir: &Path, plugin: &str, call: &Call) -> Result<PathBuf, DriverError> {
        let subject = self.0.subject(plugin)?;
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

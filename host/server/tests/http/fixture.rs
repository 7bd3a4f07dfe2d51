//! A server of its own for each test, and a client.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use http_body_util::{BodyExt, Full};
use hutch_core::Core;
use hutch_core::images::Downloader;
use hutch_core::plugins::NoPlugins;
use hutch_driver::image::{ImageDriver, ImageFile, NamedBy};
use hutch_driver::network::NetworkDriver;
use hutch_driver::storage::StorageDriver;
use hutch_driver::zone::ZoneDriver;
use hutch_driver::{Call, DriverError, DriverEvent, DriverInfo, Drivers, EventStream};
use hyper::body::Bytes;
use hyper::{HeaderMap, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;

/// Drivers and plugins of which there are none.
struct Nothing;

fn none(name: &str) -> DriverError {
    DriverError::new("not-found", format!("nothing provides {name}"))
}

impl Drivers for Nothing {
    fn storage(&self, name: &str) -> Result<Arc<dyn StorageDriver>, DriverError> {
        Err(none(name))
    }

    fn network(&self, name: &str) -> Result<Arc<dyn NetworkDriver>, DriverError> {
        Err(none(name))
    }

    fn zone(&self, name: &str) -> Result<Arc<dyn ZoneDriver>, DriverError> {
        Err(none(name))
    }

    fn image(&self, name: &str) -> Result<Arc<dyn ImageDriver>, DriverError> {
        Err(none(name))
    }

    fn list(&self, _: &str) -> Vec<DriverInfo> {
        Vec::new()
    }

    fn settled(&self) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::ready(()))
    }

    fn events(&self) -> Box<dyn EventStream> {
        Box::new(Self)
    }
}

#[async_trait]
impl EventStream for Nothing {
    async fn next(&mut self) -> Option<DriverEvent> {
        None
    }
}

#[async_trait]
impl Downloader for Nothing {
    async fn download(&self, _: &ImageFile, _: &Path, _: &NamedBy, _: &Call) -> Result<PathBuf, DriverError> {
        Err(none("downloads"))
    }
}

/// A server with its own state.
pub(crate) struct Daemon {
    state: TempDir,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

/// An answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
    headers: HeaderMap,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl Daemon {
    pub(crate) async fn start() -> Self {
        let state = tempfile::tempdir().unwrap();
        let dir = state.path();
        let core = Core::open(hutch_core::Options {
            state_dir: dir.to_owned(),
            runtime: hutch_container::Runtime::new("/nonexistent/hutch-keeper", dir.join("run")).unwrap(),
            id_ranges: dir.join("id-ranges"),
            drivers: Arc::new(Nothing),
            plugins: Arc::new(NoPlugins),
            roots: Arc::new(KeepsNothing),
            downloader: Arc::new(Nothing),
            store: Arc::new(hutch_store::SqliteStore::open(&dir.join("state.db")).unwrap()),
        });
        let core = core.await.map_err(|error| error.report()).unwrap();
        let listener = hutch_server::Listener::bind(&dir.join("unix.socket")).unwrap();
        let (stop, stopped) = watch::channel(false);
        let serving = tokio::spawn(hutch_server::serve(core, listener, stopped));
        Self { state, stop, serving }
    }

    /// Stops the server; the socket is gone when this returns.
    pub(crate) async fn stop(self) {
        self.stop.send_replace(true);
        let socket = self.socket();
        self.serving.await.unwrap();
        assert!(!socket.exists());
    }

    fn socket(&self) -> PathBuf {
        self.state.path().join("unix.socket")
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "").await
    }

    pub(crate) async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        self.send_bytes(method, path, headers, body.as_bytes().to_vec()).await
    }

    pub(crate) async fn send_bytes(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Answer {
        let (status, headers, body) = self.exchange(method, path, headers, body).await;
        let body = serde_json::from_slice(&body).unwrap_or_else(|_| panic!("no JSON: {body:?}"));
        Answer { status, body, headers }
    }

    /// The body of an answer that is no JSON.
    pub(crate) async fn raw(&self, path: &str) -> Bytes {
        let (status, _, body) = self.exchange("GET", path, &[], Vec::new()).await;
        assert_eq!(status, 200, "{path}");
        body
    }

    async fn exchange(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> (u16, HeaderMap, Bytes) {
        let stream = UnixStream::connect(self.socket()).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header("Host", "hutch");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body))).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let (head, body) = response.into_parts();
        (
            head.status.as_u16(),
            head.headers,
            body.collect().await.unwrap().to_bytes(),
        )
    }

    pub(crate) async fn websocket(&self, path: &str) -> WebSocketStream<UnixStream> {
        let stream = UnixStream::connect(self.socket()).await.unwrap();
        let (socket, _) = tokio_tungstenite::client_async(format!("ws://hutch{path}"), stream)
            .await
            .unwrap();
        socket
    }

    /// What lies where uploads are kept until they are images.
    pub(crate) fn staged_files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.state.path().join("images/staging")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        names.filter(|name| name != "downloads").collect()
    }
}

/// A tar archive of these files.
pub(crate) fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, path, content.as_bytes()).unwrap();
    }
    archive.into_inner().unwrap()
}

/// A host whose drivers discard nothing in the background, and that copies nothing between pools.
struct KeepsNothing;

#[async_trait::async_trait]
impl hutch_core::pools::Roots for KeepsNothing {
    async fn release(&self, _root: &std::path::Path) -> Result<(), hutch_driver::DriverError> {
        Ok(())
    }

    async fn copy(
        &self,
        _call: &hutch_driver::Call,
        _plan: &hutch_driver::MountPlan,
        _to: &hutch_driver::TreePath,
    ) -> Result<(), hutch_driver::DriverError> {
        Err(hutch_driver::DriverError::new("unsupported", "not in this test"))
    }
}

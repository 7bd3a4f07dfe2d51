//! A whole core with a store on disk, whose drivers are made here: what the tests in it share. The unpacking is real and makes
//! namespaces, so this needs root.

#![allow(dead_code, unreachable_pub, reason = "each test program uses its own part")]

use std::collections::BTreeMap;
use std::future::Future;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use hutch_api::StatusCode;
use hutch_api::image::{Image, ImageAlias};
use hutch_api::instance::{InstanceSource, InstancesPost};
use hutch_api::storage::StoragePoolsPost;
use hutch_core::images::{Downloader, ImageUpload};
use hutch_core::pools::Roots;
use hutch_core::{Caller, Core, Operation, Options};
use hutch_driver::image::{BuiltImage, ImageDriver, ImageFile, ImageRequest, NamedBy, PlacedFile, SourceImage};
use hutch_driver::network::NetworkDriver;
use hutch_driver::storage::{CopySource, PoolRef, PoolSpace, StorageDriver, VolumeRef, VolumeState};
use hutch_driver::zone::ZoneDriver;
use hutch_driver::{
    Call, DriverError, DriverEvent, DriverInfo, Drivers, EventStream, MountPlan, Options as DriverOptions, TreePath,
};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

pub type Answer<T> = Result<T, DriverError>;

/// A split image: metadata and root file system.
pub type Split = (Vec<u8>, Vec<u8>);

/// What the drivers have been asked, and what they have.
#[derive(Default)]
pub struct World {
    /// Images at the source by alias: metadata and root file system.
    pub served: Mutex<BTreeMap<String, Split>>,
    pub fills: AtomicUsize,
    pub downloads: AtomicUsize,
    pub builds: AtomicUsize,
    /// The source can't be reached.
    pub down: Mutex<bool>,
    /// How often it was begun to let a volume go, and how often one was gone.
    pub released: watch::Sender<(u32, u32)>,
    /// Letting a volume go takes until it is given up.
    pub slow: AtomicBool,
}

pub fn info(name: &str, abilities: &[&str]) -> DriverInfo {
    DriverInfo {
        name: name.to_owned(),
        plugin: format!("test.{name}"),
        version: "1.0.0".to_owned(),
        abilities: abilities.iter().map(|a| (*a).to_owned()).collect(),
    }
}

/// Volumes are directories of the pool: `KIND/NAME`, and `KIND/NAME.filling` while they are filled.
pub struct Plain(Arc<World>);

pub fn root(call: &Call) -> PathBuf {
    call.roots[0].path.clone()
}

pub fn place(call: &Call, volume: &VolumeRef) -> PathBuf {
    root(call).join(&volume.kind).join(&volume.name)
}

pub fn io(error: std::io::Error) -> DriverError {
    DriverError::new("io", error.to_string())
}

pub fn unsupported<T>() -> Answer<T> {
    Err(DriverError::new("unsupported", "not in this test"))
}

#[async_trait]
impl StorageDriver for Plain {
    fn info(&self) -> DriverInfo {
        info("plain", &["release"])
    }
    async fn validate(&self, _: &Call, pool: &PoolRef, _: Option<&DriverOptions>) -> Answer<DriverOptions> {
        Ok(pool.config.clone())
    }
    async fn create_pool(&self, _: &Call, _: &PoolRef) -> Answer<()> {
        Ok(())
    }
    async fn open_pool(&self, _: &Call, _: &PoolRef) -> Answer<()> {
        Ok(())
    }
    async fn delete_pool(&self, _: &Call, _: &PoolRef) -> Answer<()> {
        Ok(())
    }
    async fn space(&self, _: &Call, _: &PoolRef) -> Answer<PoolSpace> {
        Ok(PoolSpace::default())
    }
    async fn reconcile(&self, call: &Call, _: &PoolRef, valid: &[VolumeState]) -> Answer<Vec<String>> {
        let mut removed = Vec::new();
        for entry in std::fs::read_dir(root(call).join("image"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name().into_string().unwrap();
            if !valid.iter().any(|volume| volume.kind == "image" && volume.name == name) {
                std::fs::remove_dir_all(entry.path()).map_err(io)?;
                removed.push(name);
            }
        }
        Ok(removed)
    }
    async fn create(&self, call: &Call, _: &PoolRef, volume: &VolumeRef) -> Answer<()> {
        std::fs::create_dir_all(place(call, volume)).map_err(io)
    }
    async fn begin_fill(&self, call: &Call, _: &PoolRef, volume: &VolumeRef, _: bool) -> Answer<TreePath> {
        self.0.fills.fetch_add(1, Ordering::SeqCst);
        let path = format!("{}/{}.filling", volume.kind, volume.name);
        let at = root(call).join(&path);
        drop(std::fs::remove_dir_all(&at));
        std::fs::create_dir_all(&at).map_err(io)?;
        Ok(TreePath {
            root: call.roots[0].id.clone(),
            path,
        })
    }
    async fn end_fill(&self, call: &Call, _: &PoolRef, volume: &VolumeRef, _: bool) -> Answer<()> {
        let at = place(call, volume);
        std::fs::rename(at.with_file_name(format!("{}.filling", volume.name)), at).map_err(io)
    }
    async fn create_from_image(
        &self,
        call: &Call,
        _: &PoolRef,
        image: &VolumeRef,
        volume: &VolumeRef,
        _: bool,
    ) -> Answer<()> {
        let (from, to) = (place(call, image), place(call, volume));
        std::fs::create_dir_all(&to).map_err(io)?;
        for entry in std::fs::read_dir(from)
            .map_err(io)?
            .flatten()
            .filter(|e| e.path().is_file())
        {
            std::fs::copy(entry.path(), to.join(entry.file_name())).map_err(io)?;
        }
        Ok(())
    }
    async fn delete(&self, call: &Call, _: &PoolRef, volume: &VolumeRef) -> Answer<()> {
        let at = place(call, volume);
        for path in [at.with_file_name(format!("{}.filling", volume.name)), at] {
            if path.exists() {
                std::fs::remove_dir_all(path).map_err(io)?;
            }
        }
        Ok(())
    }
    async fn rename(&self, _: &Call, _: &PoolRef, _: &VolumeRef, _: &str) -> Answer<()> {
        unsupported()
    }
    async fn mount(&self, call: &Call, _: &PoolRef, volume: &VolumeRef) -> Answer<MountPlan> {
        let tree = TreePath {
            root: call.roots[0].id.clone(),
            path: format!("{}/{}", volume.kind, volume.name),
        };
        Ok(MountPlan {
            kind: "bind".to_owned(),
            layers: vec![tree],
            upper: None,
            work: None,
            options: DriverOptions::new(),
        })
    }
    async fn usage(&self, _: &Call, _: &PoolRef, _: &VolumeRef) -> Answer<Option<u64>> {
        Ok(None)
    }
    async fn snapshot_create(&self, _: &Call, _: &PoolRef, _: &VolumeRef, _: &str, _: bool) -> Answer<()> {
        unsupported()
    }
    async fn snapshot_delete(&self, _: &Call, _: &PoolRef, _: &VolumeRef, _: &str) -> Answer<()> {
        unsupported()
    }
    async fn snapshot_rename(&self, _: &Call, _: &PoolRef, _: &VolumeRef, _: &str, _: &str) -> Answer<()> {
        unsupported()
    }
    async fn snapshot_restore(&self, _: &Call, _: &PoolRef, _: &VolumeRef, _: &str) -> Answer<()> {
        unsupported()
    }
    async fn snapshot_mount(&self, _: &Call, _: &PoolRef, _: &VolumeRef, _: &str) -> Answer<MountPlan> {
        unsupported()
    }
    async fn copy(
        &self,
        _: &Call,
        _: &PoolRef,
        _: &VolumeRef,
        _: Option<&str>,
        _: &VolumeRef,
        _: bool,
        _: bool,
    ) -> Answer<()> {
        unsupported()
    }
    async fn replica_copy(&self, _: &Call, _: &PoolRef, _: CopySource<'_>, _: &VolumeRef, _: &str) -> Answer<()> {
        unsupported()
    }
    async fn replica_begin_fill(&self, _: &Call, _: &PoolRef, _: &VolumeRef, _: &str) -> Answer<TreePath> {
        unsupported()
    }
    async fn replica_end_fill(&self, _: &Call, _: &PoolRef, _: &VolumeRef, _: &str) -> Answer<()> {
        unsupported()
    }
    async fn replica_promote(&self, _: &Call, _: &PoolRef, _: &VolumeRef, _: &str) -> Answer<()> {
        unsupported()
    }
    async fn release(&self, call: &Call, _: &PoolRef, _: &VolumeRef) -> Answer<()> {
        self.0.released.send_modify(|(begun, _)| *begun += 1);
        if self.0.slow.load(Ordering::SeqCst) {
            call.cancel.cancelled().await;
            return Err(DriverError::new("cancelled", "it is wanted"));
        }
        self.0.released.send_modify(|(_, gone)| *gone += 1);
        Ok(())
    }
    async fn set_quota(&self, _: &Call, _: &PoolRef, _: &VolumeRef, _: Option<u64>) -> Answer<()> {
        unsupported()
    }
}

/// The server that the image source of these tests knows.
pub const SERVER: &str = "http://images.test:8080/";

/// Serves what the world has; `build:NAME` is built here.
pub struct Source(Arc<World>);

#[async_trait]
impl ImageDriver for Source {
    fn info(&self) -> DriverInfo {
        info("catalogue", &["build"])
    }
    async fn resolve(&self, _: &Call, request: &ImageRequest) -> Answer<SourceImage> {
        if *self.0.down.lock().unwrap() {
            return Err(DriverError {
                retryable: true,
                ..DriverError::new("unavailable", "no route to host")
            });
        }
        let image = |fingerprint: String, files, build_key| SourceImage {
            fingerprint,
            aliases: vec![request.name.clone()],
            architecture: request.architecture.clone(),
            kind: "container".to_owned(),
            properties: BTreeMap::from([("os".to_owned(), "Test".to_owned())]),
            created: 0,
            expires: 0,
            files,
            build_key,
            named_by: NamedBy::default(),
        };
        if request.name.starts_with("build:") {
            return Ok(image(String::new(), Vec::new(), Some(request.name.clone())));
        }
        let served = self.0.served.lock().unwrap();
        let (meta, rootfs) = served
            .get(&request.name)
            .ok_or_else(|| DriverError::new("not-found", "no such image"))?;
        let host = if request.name == "elsewhere" {
            "http://169.254.169.254/"
        } else {
            SERVER
        };
        let file = |role: &str, data: &[u8]| ImageFile {
            role: role.to_owned(),
            url: format!("{host}{}/{role}", request.name),
            sha256: hex::encode(Sha256::digest(data)),
            size: Some(data.len() as u64),
        };
        let fingerprint = hex::encode(Sha256::digest([meta.clone(), rootfs.clone()].concat()));
        Ok(image(
            fingerprint,
            vec![file("metadata", meta), file("rootfs", rootfs)],
            None,
        ))
    }
    async fn list(&self, call: &Call, request: &ImageRequest) -> Answer<Vec<SourceImage>> {
        assert_eq!(
            call.origin.as_deref(),
            Some(SERVER),
            "a listing has the grants of a creation"
        );
        let mut names: Vec<String> = self.0.served.lock().unwrap().keys().cloned().collect();
        names.retain(|name| name.starts_with(&request.name));
        let mut images = Vec::new();
        for name in names {
            let request = ImageRequest {
                name,
                ..request.clone()
            };
            images.push(self.resolve(call, &request).await?);
        }
        Ok(images)
    }
    async fn build(&self, call: &Call, _: &ImageRequest, scratch: &TreePath) -> Answer<BuiltImage> {
        self.0.builds.fetch_add(1, Ordering::SeqCst);
        let archive = tar(&[("etc/", b""), ("etc/hostname", b"built\n")]);
        std::fs::write(root(call).join("root.tar"), archive).map_err(io)?;
        let file = |path: &str, kind: &str, data: &[u8]| PlacedFile {
            path: path.to_owned(),
            kind: kind.to_owned(),
            mode: 0o640,
            data: data.to_vec(),
        };
        Ok(BuiltImage {
            rootfs: TreePath {
                root: scratch.root.clone(),
                path: "root.tar".to_owned(),
            },
            files: vec![
                file("marker", "file", b"placed"),
                file("etc/link", "symlink", b"hostname"),
            ],
            properties: BTreeMap::from([("release".to_owned(), "one".to_owned())]),
        })
    }
}

#[async_trait]
impl Downloader for Source {
    async fn download(&self, file: &ImageFile, dir: &Path, _: &NamedBy, _: &Call) -> Answer<PathBuf> {
        self.0.downloads.fetch_add(1, Ordering::SeqCst);
        let served = self.0.served.lock().unwrap();
        let rest = file
            .url
            .strip_prefix(SERVER)
            .expect("only the server that was named is asked");
        let (name, role) = rest.split_once('/').unwrap();
        let (meta, rootfs) = &served[name];
        let path = dir.join(&file.sha256);
        std::fs::write(&path, if role == "metadata" { meta } else { rootfs }).map_err(io)?;
        Ok(path)
    }
}

pub struct Provided(Arc<World>);

impl Drivers for Provided {
    fn storage(&self, name: &str) -> Answer<Arc<dyn StorageDriver>> {
        if name == "plain" {
            Ok(Arc::new(Plain(Arc::clone(&self.0))))
        } else {
            unsupported()
        }
    }
    fn network(&self, _: &str) -> Answer<Arc<dyn NetworkDriver>> {
        unsupported()
    }
    fn zone(&self, _: &str) -> Answer<Arc<dyn ZoneDriver>> {
        unsupported()
    }
    fn image(&self, name: &str) -> Answer<Arc<dyn ImageDriver>> {
        if name == "catalogue" {
            Ok(Arc::new(Source(Arc::clone(&self.0))))
        } else {
            unsupported()
        }
    }
    fn list(&self, family: &str) -> Vec<DriverInfo> {
        match family {
            "storage" => vec![info("plain", &["release"])],
            "image" => vec![info("catalogue", &["build"])],
            _ => Vec::new(),
        }
    }
    fn settled(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::ready(()))
    }

    fn events(&self) -> Box<dyn EventStream> {
        struct Silence;
        #[async_trait]
        impl EventStream for Silence {
            async fn next(&mut self) -> Option<DriverEvent> {
                std::future::pending().await
            }
        }
        Box::new(Silence)
    }
}

/// A state directory and what the drivers know, for one or several lives of a daemon.
pub struct Place {
    pub dir: tempfile::TempDir,
    pub world: Arc<World>,
}

impl Place {
    pub fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            world: Arc::new(World::default()),
        }
    }

    /// Opens a core and ends it, with all its tasks, as the end of a process would.
    pub fn life<F: Future<Output = ()>>(&self, test: impl FnOnce(Bench) -> F) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let core = open(self.dir.path(), &self.world).await;
            test(Bench {
                dir: self.dir.path().to_owned(),
                world: Arc::clone(&self.world),
                core,
            })
            .await;
        });
        runtime.shutdown_timeout(std::time::Duration::from_secs(30));
    }
}

/// A core in its directory.
pub struct Bench {
    pub dir: PathBuf,
    pub world: Arc<World>,
    pub core: Arc<Core>,
}

impl Bench {
    pub fn files(&self) -> Vec<String> {
        let mut names: Vec<String> = names(&self.dir.join("images"));
        names.retain(|name| name != "staging");
        assert_eq!(
            names_but_downloads(&self.dir.join("images/staging")),
            Vec::<String>::new(),
            "left in staging"
        );
        names
    }

    pub fn volumes(&self) -> Vec<String> {
        names(&self.dir.join("storage-pools/default/image"))
    }

    pub async fn import(&self, main: &[u8], rootfs: Option<&[u8]>, alias: &str) -> Result<Arc<Image>, String> {
        let stage = |data: &[u8]| {
            let staged = self.core.stage_upload().unwrap();
            staged.file().write_all(data).unwrap();
            staged
        };
        let upload = ImageUpload {
            metadata: stage(main),
            rootfs: rootfs.map(stage),
            filename: "image.tar".to_owned(),
            public: true,
            properties: BTreeMap::from([("added".to_owned(), "yes".to_owned())]),
            aliases: vec![ImageAlias {
                name: alias.to_owned(),
                description: "for tests".to_owned(),
            }],
            fingerprint: None,
            profiles: Vec::new(),
        };
        let operation = self
            .core
            .image_import("default", upload)
            .await
            .map_err(|e| e.report())?;
        let fingerprint = finished(&operation).await?["fingerprint"].as_str().unwrap().to_owned();
        Ok(self.core.image("default", &fingerprint).unwrap().value)
    }

    pub async fn launch(&self, name: &str, source: InstanceSource) -> Result<(), String> {
        let post = InstancesPost {
            name: name.to_owned(),
            source,
            ..InstancesPost::default()
        };
        let operation = self
            .core
            .instance_create(&Caller::daemon(), "default", post)
            .await
            .map_err(|e| e.report())?;
        finished(&operation).await.map(drop)
    }
}

pub async fn open(dir: &Path, world: &Arc<World>) -> Arc<Core> {
    let store = hutch_store::SqliteStore::open(&dir.join("state.db")).unwrap();
    let keeper = PathBuf::from("/nonexistent/hutch-keeper");
    let runtime = hutch_container::Runtime::new(keeper, dir.join("run")).unwrap();
    let options = Options {
        state_dir: dir.to_owned(),
        runtime,
        id_ranges: dir.join("id-ranges"),
        drivers: Arc::new(Provided(Arc::clone(world))),
        plugins: Arc::new(hutch_core::plugins::NoPlugins),
        roots: Arc::new(KeepsNothing),
        downloader: Arc::new(Source(Arc::clone(world))),
        store: Arc::new(store),
    };
    let core = Core::open(options).await.unwrap();
    if core.pool("default").is_err() {
        let post = StoragePoolsPost {
            name: "default".to_owned(),
            ..StoragePoolsPost::default()
        };
        core.pool_create(post).await.unwrap();
    }
    core
}

pub fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

pub fn names_but_downloads(dir: &Path) -> Vec<String> {
    names(dir).into_iter().filter(|name| name != "downloads").collect()
}

pub async fn finished(operation: &Arc<Operation>) -> Result<serde_json::Map<String, serde_json::Value>, String> {
    operation.wait(None).await;
    if operation.status() == StatusCode::SUCCESS {
        Ok(operation.render().metadata)
    } else {
        Err(operation.err())
    }
}

pub fn tar(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, data) in entries {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(if name.ends_with('/') {
            tar::EntryType::Directory
        } else {
            tar::EntryType::Regular
        });
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        header.set_size(data.len() as u64);
        header.set_cksum();
        builder.append(&header, *data).unwrap();
    }
    builder.into_inner().unwrap()
}

pub fn metadata(description: &str) -> String {
    let arch = std::env::consts::ARCH;
    format!(
        "architecture: {arch}\ncreation_date: 1700000000\nproperties: {{description: {description}}}\n\
         templates: {{/etc/hostname: {{when: [create], template: h.tpl}}}}\n"
    )
}

pub fn unified(content: &[u8]) -> Vec<u8> {
    let yaml = metadata("unified");
    tar(&[
        ("metadata.yaml", yaml.as_bytes()),
        ("templates/h.tpl", b"{{ name }}"),
        ("rootfs/", b""),
        ("rootfs/marker", content),
    ])
}

pub fn split(content: &[u8]) -> Split {
    let yaml = metadata("split");
    (
        tar(&[("metadata.yaml", yaml.as_bytes()), ("templates/h.tpl", b"x")]),
        tar(&[("marker", content)]),
    )
}

pub fn by_alias(alias: &str) -> InstanceSource {
    InstanceSource {
        kind: "image".to_owned(),
        alias: alias.to_owned(),
        ..InstanceSource::default()
    }
}

pub fn elsewhere(name: &str) -> InstanceSource {
    InstanceSource {
        protocol: "catalogue".to_owned(),
        server: SERVER.to_owned(),
        ..by_alias(name)
    }
}

/// A host whose drivers discard nothing in the background, and that copies nothing between pools.
pub struct KeepsNothing;

#[async_trait]
impl Roots for KeepsNothing {
    async fn release(&self, _root: &Path) -> Answer<()> {
        Ok(())
    }

    async fn copy(&self, _call: &Call, _plan: &MountPlan, _to: &TreePath) -> Answer<()> {
        Err(DriverError::new("unsupported", "not in this test"))
    }
}

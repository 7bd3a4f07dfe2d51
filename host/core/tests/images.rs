//! Images in a whole core with a store on disk, whose drivers are made here. The unpacking is real and makes namespaces, so this
//! needs root.
//!
//! The program is its own helper: images are unpacked by another process of it, and so `main` is ours and not the usual one.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use hutch_api::StatusCode;
use hutch_api::image::{
    Image, ImageAlias, ImageAliasesEntry, ImageAliasesEntryPost, ImagePatch, ImagesPost, ImagesPostSource,
};
use hutch_api::instance::{InstanceSource, InstancesPost};
use hutch_api::storage::StoragePoolsPost;
use hutch_core::images::{Downloader, ImageUpload, SourceQuery};
use hutch_core::{Caller, Core, Error, Operation, Options};
use hutch_driver::image::{BuiltImage, ImageDriver, ImageFile, ImageRequest, PlacedFile, SourceImage};
use hutch_driver::network::NetworkDriver;
use hutch_driver::storage::{CopySource, PoolRef, PoolSpace, StorageDriver, VolumeRef, VolumeState};
use hutch_driver::zone::ZoneDriver;
use hutch_driver::{
    Call, DriverError, DriverEvent, DriverInfo, Drivers, EventStream, MountPlan, Options as DriverOptions, TreePath,
};
use sha2::{Digest, Sha256};

type Answer<T> = Result<T, DriverError>;

/// A split image: metadata and root file system.
type Split = (Vec<u8>, Vec<u8>);

/// What the drivers have been asked, and what they have.
#[derive(Default)]
struct World {
    /// Images at the source by alias: metadata and root file system.
    served: Mutex<BTreeMap<String, Split>>,
    fills: AtomicUsize,
    downloads: AtomicUsize,
    builds: AtomicUsize,
    /// The source can't be reached.
    down: Mutex<bool>,
}

fn info(name: &str, abilities: &[&str]) -> DriverInfo {
    DriverInfo {
        name: name.to_owned(),
        plugin: format!("test.{name}"),
        version: "1.0.0".to_owned(),
        abilities: abilities.iter().map(|a| (*a).to_owned()).collect(),
    }
}

/// Volumes are directories of the pool: `KIND/NAME`, and `KIND/NAME.filling` while they are filled.
struct Plain(Arc<World>);

fn root(call: &Call) -> PathBuf {
    call.roots[0].path.clone()
}

fn place(call: &Call, volume: &VolumeRef) -> PathBuf {
    root(call).join(&volume.kind).join(&volume.name)
}

fn io(error: std::io::Error) -> DriverError {
    DriverError::new("io", error.to_string())
}

fn unsupported<T>() -> Answer<T> {
    Err(DriverError::new("unsupported", "not in this test"))
}

#[async_trait]
impl StorageDriver for Plain {
    fn info(&self) -> DriverInfo {
        info("plain", &[])
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
    async fn release(&self, _: &Call, _: &PoolRef, _: &VolumeRef) -> Answer<()> {
        unsupported()
    }
    async fn set_quota(&self, _: &Call, _: &PoolRef, _: &VolumeRef, _: Option<u64>) -> Answer<()> {
        unsupported()
    }
}

/// The server that the image source of these tests knows.
const SERVER: &str = "http://images.test:8080/";

/// Serves what the world has; `build:NAME` is built here.
struct Source(Arc<World>);

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
    async fn download(&self, file: &ImageFile, dir: &Path, _: &str, _: &Call) -> Answer<PathBuf> {
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

struct Provided(Arc<World>);

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
            "storage" => vec![info("plain", &[])],
            "image" => vec![info("catalogue", &["build"])],
            _ => Vec::new(),
        }
    }
    fn settled(&self) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send + '_>> {
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
struct Place {
    dir: tempfile::TempDir,
    world: Arc<World>,
}

impl Place {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            world: Arc::new(World::default()),
        }
    }

    /// Opens a core and ends it, with all its tasks, as the end of a process would.
    fn life<F: Future<Output = ()>>(&self, test: impl FnOnce(Bench) -> F) {
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
struct Bench {
    dir: PathBuf,
    world: Arc<World>,
    core: Arc<Core>,
}

impl Bench {
    fn files(&self) -> Vec<String> {
        let mut names: Vec<String> = names(&self.dir.join("images"));
        names.retain(|name| name != "staging");
        assert_eq!(
            names_but_downloads(&self.dir.join("images/staging")),
            Vec::<String>::new(),
            "left in staging"
        );
        names
    }

    fn volumes(&self) -> Vec<String> {
        names(&self.dir.join("storage-pools/default/image"))
    }

    async fn import(&self, main: &[u8], rootfs: Option<&[u8]>, alias: &str) -> Result<Arc<Image>, String> {
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

    async fn launch(&self, name: &str, source: InstanceSource) -> Result<(), String> {
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

async fn open(dir: &Path, world: &Arc<World>) -> Arc<Core> {
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

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn names_but_downloads(dir: &Path) -> Vec<String> {
    names(dir).into_iter().filter(|name| name != "downloads").collect()
}

async fn finished(operation: &Arc<Operation>) -> Result<serde_json::Map<String, serde_json::Value>, String> {
    operation.wait(None).await;
    if operation.status() == StatusCode::SUCCESS {
        Ok(operation.render().metadata)
    } else {
        Err(operation.err())
    }
}

fn tar(entries: &[(&str, &[u8])]) -> Vec<u8> {
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

fn metadata(description: &str) -> String {
    let arch = std::env::consts::ARCH;
    format!(
        "architecture: {arch}\ncreation_date: 1700000000\nproperties: {{description: {description}}}\n\
         templates: {{/etc/hostname: {{when: [create], template: h.tpl}}}}\n"
    )
}

fn unified(content: &[u8]) -> Vec<u8> {
    let yaml = metadata("unified");
    tar(&[
        ("metadata.yaml", yaml.as_bytes()),
        ("templates/h.tpl", b"{{ name }}"),
        ("rootfs/", b""),
        ("rootfs/marker", content),
    ])
}

fn split(content: &[u8]) -> Split {
    let yaml = metadata("split");
    (
        tar(&[("metadata.yaml", yaml.as_bytes()), ("templates/h.tpl", b"x")]),
        tar(&[("marker", content)]),
    )
}

fn by_alias(alias: &str) -> InstanceSource {
    InstanceSource {
        kind: "image".to_owned(),
        alias: alias.to_owned(),
        ..InstanceSource::default()
    }
}

fn elsewhere(name: &str) -> InstanceSource {
    InstanceSource {
        protocol: "catalogue".to_owned(),
        server: SERVER.to_owned(),
        ..by_alias(name)
    }
}

fn an_uploaded_image_is_used_exported_and_deleted() {
    let place = Place::new();
    let archive = unified(b"one");
    let fingerprint = hex::encode(Sha256::digest(&archive));
    place.life(|bench| an_uploaded_image_is_used(bench, archive));
    place.life(|bench| async move {
        assert_eq!(bench.volumes(), std::slice::from_ref(&fingerprint));
        bench.launch("later", by_alias("test/1")).await.unwrap();
        assert_eq!(bench.world.fills.load(Ordering::SeqCst), 1);
        finished(&bench.core.image_delete("default", &fingerprint).await.unwrap())
            .await
            .unwrap();
        assert!(matches!(
            bench.core.image("default", &fingerprint),
            Err(Error::Missing { .. })
        ));
        assert!(matches!(
            bench.core.alias("default", "test/1"),
            Err(Error::Missing { .. })
        ));
        assert!(bench.files().is_empty() && bench.volumes().is_empty());
        assert!(bench.core.instance("default", "c3").is_ok());
    });
}

async fn a_source_says_what_it_has_and_nothing_of_it_is_here(bench: Bench) {
    for name in ["debian/12", "debian/13", "other"] {
        let mut served = bench.world.served.lock().unwrap();
        served.insert(name.to_owned(), split(name.as_bytes()));
    }
    let core = &bench.core;
    let query = SourceQuery {
        server: SERVER.to_owned(),
        ..SourceQuery::default()
    };
    let sources = core.image_sources();
    assert_eq!((sources[0].name.as_str(), sources[0].builds), ("catalogue", true));
    let listed = core
        .image_source_list("default", "catalogue", "debian", &query)
        .await
        .unwrap();
    let names: Vec<&str> = listed.iter().map(|image| image.aliases[0].name.as_str()).collect();
    assert_eq!(names, ["debian/12", "debian/13"]);
    assert_eq!(listed[0].architecture, std::env::consts::ARCH);
    assert!(listed[0].size > 0 && listed[0].created_at.is_never());
    let found = core
        .image_source_image("default", "catalogue", "debian/12", &query)
        .await
        .unwrap();
    assert_eq!(found, listed[0]);
    let built = core
        .image_source_image("default", "catalogue", "build:x", &query)
        .await
        .unwrap();
    assert_eq!((built.fingerprint.as_str(), built.size), ("", -1));

    let refused = async |project: &str, source: &str, name: &str, query: &SourceQuery| {
        let error = core.image_source_image(project, source, name, query).await.unwrap_err();
        (error.status(), error.report())
    };
    assert_eq!(refused("default", "catalogue", "none", &query).await.0, 404);
    assert_eq!(refused("default", "catalogue", "", &query).await.0, 400);
    assert_eq!(refused("default", "catalogue", &"x".repeat(1025), &query).await.0, 400);
    assert_eq!(refused("nowhere", "catalogue", "other", &query).await.0, 404);
    let longest = SourceQuery {
        server: "x".repeat(2049),
        ..query.clone()
    };
    assert_eq!(refused("default", "catalogue", "other", &longest).await.0, 400);
    *bench.world.down.lock().unwrap() = true;
    let (status, report) = refused("default", "catalogue", "other", &query).await;
    assert!(
        status == 503 && report.contains("no route to host"),
        "{status} {report}"
    );

    assert!(bench.files().is_empty() && bench.volumes().is_empty());
    assert!(core.image_list(None).unwrap().is_empty());
    assert_eq!(bench.world.downloads.load(Ordering::SeqCst), 0);
}

async fn an_uploaded_image_is_used(bench: Bench, archive: Vec<u8>) {
    let image = bench.import(&archive, None, "test/1").await.unwrap();
    assert_eq!(image.fingerprint, hex::encode(Sha256::digest(&archive)));
    assert_eq!(image.architecture, std::env::consts::ARCH);
    assert_eq!(
        (
            image.properties["description"].as_str(),
            image.properties["added"].as_str()
        ),
        ("unified", "yes")
    );
    assert_eq!(
        (image.aliases[0].name.as_str(), image.size, image.public),
        ("test/1", i64::try_from(archive.len()).unwrap(), true)
    );
    assert_eq!(
        bench.files(),
        [image.fingerprint.clone(), format!("{}.templates", image.fingerprint)]
    );
    let templates = bench.core.image_templates(&image.fingerprint).unwrap();
    assert_eq!(templates.texts["h.tpl"], "{{ name }}");

    let again = bench.import(&archive, None, "other").await.unwrap_err();
    assert!(again.contains("already exists"), "{again}");
    let taken = bench.import(&unified(b"two"), None, "test/1").await.unwrap_err();
    assert!(taken.contains("test/1"), "{taken}");
    assert_eq!(bench.files().len(), 2);

    // Many at once unpack it once.
    let launches = (0..8).map(|i| {
        let name = format!("c{i}");
        let bench = &bench;
        async move { bench.launch(&name, by_alias("test/1")).await.unwrap() }
    });
    futures_util::future::join_all(launches).await;
    assert_eq!(bench.world.fills.load(Ordering::SeqCst), 1);
    assert_eq!(bench.volumes(), std::slice::from_ref(&image.fingerprint));
    let marker = bench.dir.join("storage-pools/default/container/c3/marker");
    assert_eq!(std::fs::read(marker).unwrap(), b"one");
    let config = &bench.core.instance("default", "c3").unwrap().value.config;
    assert_eq!(config["volatile.base_image"], image.fingerprint);
    assert_eq!(config["image.description"], "unified");

    let export = bench.core.image_export("default", &image.fingerprint[..10]).unwrap();
    assert_eq!((export.files.len(), export.files[0].size), (1, archive.len() as u64));
    assert_eq!(export.files[0].filename, format!("{}.tar", image.fingerprint));
}

async fn a_split_image_has_two_files(bench: Bench) {
    let (meta, rootfs) = split(b"split");
    let image = bench.import(&meta, Some(&rootfs), "split").await.unwrap();
    assert_eq!(
        image.fingerprint,
        hex::encode(Sha256::digest([meta.clone(), rootfs.clone()].concat()))
    );
    let export = bench.core.image_export("default", &image.fingerprint).unwrap();
    let parts: Vec<(&str, u64)> = export.files.iter().map(|file| (file.part, file.size)).collect();
    assert_eq!(
        parts,
        [("metadata", meta.len() as u64), ("rootfs", rootfs.len() as u64)]
    );
    bench.launch("c1", by_alias("split")).await.unwrap();
    assert_eq!(
        std::fs::read(bench.dir.join("storage-pools/default/container/c1/marker")).unwrap(),
        b"split"
    );
}

async fn bad_uploads_leave_nothing(bench: Bench) {
    let evil = tar(&[("metadata.yaml", metadata("x").as_bytes()), ("rootfs/../../x", b"")]);
    let cut = unified(&[7; 5000]);
    let foreign = tar(&[
        ("metadata.yaml", b"architecture: pdp11\ncreation_date: 1\n"),
        ("rootfs/x", b""),
    ]);
    let cases: [(&[u8], &str); 5] = [
        (&evil, "leads upwards"),
        (&cut[..3000], "truncated"),
        (b"not an archive", "neither a tar"),
        (&foreign, "unknown architecture"),
        (&tar(&[("rootfs/x", b"")]), "no metadata.yaml"),
    ];
    for (archive, reason) in cases {
        let error = bench.import(archive, None, "bad").await.unwrap_err();
        assert!(error.contains(reason), "{error}");
        assert!(bench.files().is_empty());
    }
    assert!(bench.core.image_list(None).unwrap().is_empty() && bench.core.alias_list(None).unwrap().is_empty());
    let wrong = ImageUpload {
        metadata: bench.core.stage_upload().unwrap(),
        rootfs: None,
        filename: String::new(),
        public: false,
        properties: BTreeMap::new(),
        aliases: vec![ImageAlias {
            name: "../x".to_owned(),
            description: String::new(),
        }],
        fingerprint: None,
        profiles: Vec::new(),
    };
    assert!(matches!(
        bench.core.image_import("default", wrong).await,
        Err(Error::Invalid(_))
    ));
    let missing = bench.launch("c1", by_alias("nobody")).await.unwrap_err();
    assert!(missing.contains("not found"), "{missing}");
    assert!(bench.files().is_empty());
}

async fn images_of_a_source_are_fetched_once_and_kept(bench: Bench) {
    let (meta, rootfs) = split(b"served");
    bench
        .world
        .served
        .lock()
        .unwrap()
        .insert("one".to_owned(), (meta, rootfs));
    let launches = (0..4).map(|i| {
        let bench = &bench;
        async move { bench.launch(&format!("c{i}"), elsewhere("one")).await.unwrap() }
    });
    futures_util::future::join_all(launches).await;
    assert_eq!(bench.world.downloads.load(Ordering::SeqCst), 2);
    let images = bench.core.image_list(Some("default")).unwrap();
    assert_eq!(images.len(), 1);
    assert!(images[0].cached && images[0].update_source.as_ref().unwrap().alias == "one");

    // What is here serves when its source does not.
    *bench.world.down.lock().unwrap() = true;
    bench.launch("offline", elsewhere("one")).await.unwrap();
    let error = bench.launch("never", elsewhere("two")).await.unwrap_err();
    assert!(error.contains("no route to host"), "{error}");
    *bench.world.down.lock().unwrap() = false;

    let error = bench.launch("unknown", elsewhere("two")).await.unwrap_err();
    assert!(error.contains("no such image"), "{error}");
    let error = bench
        .launch(
            "protocol",
            InstanceSource {
                protocol: "gopher".to_owned(),
                ..elsewhere("one")
            },
        )
        .await
        .unwrap_err();
    assert!(error.contains("not in this test"), "{error}");

    // A driver can't send the host to other servers.
    bench
        .world
        .served
        .lock()
        .unwrap()
        .insert("elsewhere".to_owned(), split(b"x"));
    let error = bench.launch("ssrf", elsewhere("elsewhere")).await.unwrap_err();
    assert!(error.contains("not on the image's server"), "{error}");

    // Asked for by name, a cached image becomes a kept one.
    let source = ImagesPostSource {
        kind: "image".to_owned(),
        alias: "one".to_owned(),
        server: SERVER.to_owned(),
        protocol: "catalogue".to_owned(),
        ..ImagesPostSource::default()
    };
    let post = ImagesPost {
        source: Some(source),
        aliases: vec![ImageAlias {
            name: "mine".to_owned(),
            description: String::new(),
        }],
        ..ImagesPost::default()
    };
    finished(&bench.core.image_create("default", post).await.unwrap())
        .await
        .unwrap();
    let image = bench.core.image("default", &images[0].fingerprint).unwrap().value;
    assert!(!image.cached && image.aliases[0].name == "mine");

    // A newer one takes over the aliases.
    bench
        .world
        .served
        .lock()
        .unwrap()
        .insert("one".to_owned(), split(b"newer"));
    let keep = ImagePatch {
        auto_update: Some(true),
        ..ImagePatch::default()
    };
    bench
        .core
        .image_patch("default", &image.fingerprint, keep, None)
        .await
        .unwrap();
    bench.core.refresh_images().await;
    let target = bench.core.alias("default", "mine").unwrap().value.target;
    assert_ne!(target, image.fingerprint);
    assert!(bench.core.image("default", &image.fingerprint).is_err());
    assert_eq!(
        bench
            .files()
            .iter()
            .filter(|name| name.starts_with(&image.fingerprint))
            .count(),
        0
    );
}

async fn images_are_built_once_with_what_is_placed_in_them(bench: Bench) {
    let source = || InstanceSource {
        server: String::new(),
        ..elsewhere("build:debian")
    };
    bench.launch("c1", source()).await.unwrap();
    bench.launch("c2", source()).await.unwrap();
    assert_eq!(bench.world.builds.load(Ordering::SeqCst), 1);
    let images = bench.core.image_list(None).unwrap();
    assert_eq!((images.len(), images[0].properties["release"].as_str()), (1, "one"));
    let volume = bench
        .dir
        .join("storage-pools/default/image")
        .join(&images[0].fingerprint);
    assert_eq!(std::fs::read(volume.join("marker")).unwrap(), b"placed");
    assert_eq!(volume.join("marker").metadata().unwrap().mode() & 0o7777, 0o640);
    assert_eq!(
        std::fs::read_link(volume.join("etc/link")).unwrap(),
        Path::new("hostname")
    );
    assert_eq!(std::fs::read(volume.join("etc/hostname")).unwrap(), b"built\n");
    // What is exported is the image with everything in it.
    let export = bench.core.image_export("default", &images[0].fingerprint).unwrap();
    let mut export = export.files.into_iter().map(|file| {
        let mut data = Vec::new();
        std::io::Read::read_to_end(&mut &file.file, &mut data).unwrap();
        data
    });
    let (meta, rootfs) = (export.next().unwrap(), export.next().unwrap());
    let delete = bench.core.image_delete("default", &images[0].fingerprint);
    finished(&delete.await.unwrap()).await.unwrap();
    let imported = bench.import(&meta, Some(&rootfs), "imported").await.unwrap();
    assert_eq!(imported.fingerprint, images[0].fingerprint);
    bench.launch("c3", by_alias("imported")).await.unwrap();
    let marker = bench.dir.join("storage-pools/default/container/c3/marker");
    assert_eq!(std::fs::read(marker).unwrap(), b"placed");
}

async fn an_instance_becomes_an_image(bench: Bench) {
    bench.import(&unified(b"published"), None, "base").await.unwrap();
    bench.launch("c1", by_alias("base")).await.unwrap();
    let root = bench.dir.join("storage-pools/default/container/c1");
    std::fs::write(root.join("own"), "made in the instance").unwrap();
    let publish = |kind: &str, name: &str| {
        let source = ImagesPostSource {
            kind: kind.to_owned(),
            name: name.to_owned(),
            ..ImagesPostSource::default()
        };
        let alias = ImageAlias {
            name: "mine".to_owned(),
            description: String::new(),
        };
        ImagesPost {
            source: Some(source),
            aliases: vec![alias],
            properties: BTreeMap::from([("by".to_owned(), "test".to_owned())]),
            ..ImagesPost::default()
        }
    };
    finished(
        &bench
            .core
            .image_create("default", publish("instance", "c1"))
            .await
            .unwrap(),
    )
    .await
    .unwrap();
    let target = bench.core.alias("default", "mine").unwrap().value.target;
    let image = bench.core.image("default", &target).unwrap().value;
    assert_eq!(
        (
            image.properties["by"].as_str(),
            image.properties["description"].as_str()
        ),
        ("test", "unified")
    );
    assert_eq!(
        bench.core.image_templates(&target).unwrap().texts["h.tpl"],
        "{{ name }}"
    );
    bench.launch("c2", by_alias("mine")).await.unwrap();
    let root = bench.dir.join("storage-pools/default/container/c2");
    assert_eq!(
        std::fs::read_to_string(root.join("own")).unwrap(),
        "made in the instance"
    );
    assert_eq!(std::fs::read_to_string(root.join("marker")).unwrap(), "published");
    for (kind, name) in [
        ("instance", "nobody"),
        ("snapshot", "c1/none"),
        ("snapshot", "c1"),
        ("instance", "c1/x"),
        ("url", "x"),
    ] {
        let post = ImagesPost {
            aliases: Vec::new(),
            ..publish(kind, name)
        };
        assert!(bench.core.image_create("default", post).await.is_err(), "{kind} {name}");
    }
}

fn aliases_and_properties_change() {
    let place = Place::new();
    let fingerprint = hex::encode(Sha256::digest(unified(b"x")));
    place.life(|bench| async move {
        let image = bench.import(&unified(b"x"), None, "a").await.unwrap();
        let entry = |name: &str, target: &str| ImageAliasesEntry {
            name: name.to_owned(),
            target: target.to_owned(),
            ..ImageAliasesEntry::default()
        };
        let core = &bench.core;
        core.alias_create("default", entry("b/c", &image.fingerprint))
            .await
            .unwrap();
        assert!(matches!(
            core.alias_create("default", entry("a", &image.fingerprint)).await,
            Err(Error::Conflict(_))
        ));
        assert!(matches!(
            core.alias_create("default", entry("z", "ffff")).await,
            Err(Error::Missing { .. })
        ));
        let name = ImageAliasesEntryPost { name: "d".to_owned() };
        core.alias_rename("default", "b/c", name).await.unwrap();
    });
    place.life(|bench| async move {
        let core = &bench.core;
        let names: Vec<String> = core
            .alias_list(None)
            .unwrap()
            .into_iter()
            .map(|alias| alias.name)
            .collect();
        assert_eq!(names, ["a", "d"]);
        core.alias_delete("default", "a").await.unwrap();
        let before = core.image("default", &fingerprint).unwrap();
        let patch = || ImagePatch {
            properties: Some(BTreeMap::from([("note".to_owned(), "new".to_owned())])),
            ..ImagePatch::default()
        };
        core.image_patch("default", &fingerprint, patch(), Some(&before.etag))
            .await
            .unwrap();
        let changed = core
            .image_patch("default", &fingerprint, patch(), Some(&before.etag))
            .await;
        assert!(matches!(changed, Err(Error::Changed { .. })));
    });
    place.life(|bench| async move {
        let image = bench.core.image_list(None).unwrap().remove(0);
        assert_eq!(image.properties["note"], "new");
        bench.launch("c1", by_alias("d")).await.unwrap();
        bench.core.expire_images().await;
        assert_eq!(
            bench.core.image_list(None).unwrap().len(),
            1,
            "an image that was uploaded does not expire"
        );
    });
}

fn main() -> ExitCode {
    if let Some(code) = hutch_archive::run_if_asked() {
        return code;
    }
    let one = |test: fn(Bench) -> Pin<Box<dyn Future<Output = ()>>>| Place::new().life(test);
    let tests: [(&str, &dyn Fn()); 8] = [
        (
            "an_uploaded_image_is_used_exported_and_deleted",
            &an_uploaded_image_is_used_exported_and_deleted,
        ),
        ("a_split_image_has_two_files", &|| {
            one(|b| Box::pin(a_split_image_has_two_files(b)));
        }),
        ("bad_uploads_leave_nothing", &|| {
            one(|b| Box::pin(bad_uploads_leave_nothing(b)));
        }),
        ("images_of_a_source", &|| {
            one(|b| Box::pin(images_of_a_source_are_fetched_once_and_kept(b)));
        }),
        ("images_are_built", &|| {
            one(|b| Box::pin(images_are_built_once_with_what_is_placed_in_them(b)));
        }),
        ("a_source_says_what_it_has", &|| {
            one(|b| Box::pin(a_source_says_what_it_has_and_nothing_of_it_is_here(b)));
        }),
        ("an_instance_becomes_an_image", &|| {
            one(|b| Box::pin(an_instance_becomes_an_image(b)));
        }),
        ("aliases_and_properties_change", &aliases_and_properties_change),
    ];
    let filter = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'))
        .unwrap_or_default();
    for (name, test) in tests.iter().filter(|(name, _)| name.contains(&filter)) {
        println!("test {name}");
        test();
    }
    ExitCode::SUCCESS
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

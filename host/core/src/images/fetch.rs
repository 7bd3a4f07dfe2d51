//! Images from elsewhere: an image driver says which files they are, or builds them; the host does the rest.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use hutch_api::Timestamp;
use hutch_api::image::{ImageAlias, ImagesPost};
use hutch_api::instance::InstanceSource;
use hutch_archive::{ImageMetadata, Placed, PlacedKind};
use hutch_driver::image::{BuiltImage, ImageDriver, ImageFile, ImageRequest, PlacedFile, SourceImage};
use hutch_driver::{Call, DriverError, Progress, Root, TreePath};

use super::architecture;
use super::files::StagedFile;
use super::import::{NewImage, archive_error, check_properties, image_operation, watch};
use super::record::{CONTAINER, ImageRecord, Origin};
use super::volume::open_below;
use crate::error::{Error, Result};
use crate::projects::Feature;
use crate::{Caller, Core, Operation};

/// The id under which a driver sees the directory that it builds in.
const SCRATCH: &str = "scratch";
/// Entries that may be placed into an image, and bytes of each, as `wit/image` has it.
const MOST_PLACED: usize = 64;
const MOST_PLACED_BYTES: usize = 64 << 10;

/// The image that a request names.
pub enum ImageChoice {
    /// One that is here.
    Local(Arc<ImageRecord>),
    /// One that a driver knows.
    Elsewhere(Wanted),
}

/// An image that a driver is to be asked for.
pub struct Wanted {
    driver: Arc<dyn ImageDriver>,
    origin: Origin,
}

/// What is to become of an image that is fetched.
pub(super) struct Fetching {
    pub(super) cached: bool,
    pub(super) auto_update: bool,
    pub(super) public: bool,
    pub(super) filename: String,
    pub(super) aliases: Vec<ImageAlias>,
    pub(super) properties: BTreeMap<String, String>,
    pub(super) profiles: Vec<String>,
    pub(super) expires_at: Timestamp,
}

impl Core {
    /// Finds out which image an instance is to be made from, as far as that can be told without asking anybody else.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an alias or fingerprint that is not here, [`Error::Invalid`] for a request that names none,
    /// [`Error::Driver`] for a protocol that no plugin provides.
    pub fn image_choose(&self, project: &str, source: &InstanceSource) -> Result<ImageChoice> {
        let project = self.scope(project, Feature::Images)?;
        let elsewhere = !source.server.is_empty() || !source.protocol.is_empty();
        if !source.fingerprint.is_empty() {
            let local = self.images.find(&project, &source.fingerprint);
            if local.is_ok() || !elsewhere {
                return local.map(ImageChoice::Local);
            }
        }
        if elsewhere {
            let name = if source.alias.is_empty() {
                &source.fingerprint
            } else {
                &source.alias
            };
            return self
                .wanted(&source.protocol, &source.server, name, &source.properties)
                .map(ImageChoice::Elsewhere);
        }
        if !source.alias.is_empty() {
            // Clients also put a fingerprint where an alias belongs.
            let by_alias = self.images.by_alias(&project, &source.alias);
            return by_alias
                .or_else(|error| self.images.find(&project, &source.alias).map_err(|_| error))
                .map(ImageChoice::Local);
        }
        if source.properties.is_empty() {
            return Err(Error::invalid(
                "Must specify one of alias, fingerprint or properties for init from image",
            ));
        }
        let mut matching = self.images.records.list();
        matching.retain(|record| {
            let has = |(key, value): (&String, &String)| record.properties.get(key) == Some(value);
            record.project == project && source.properties.iter().all(has)
        });
        matching
            .into_iter()
            .max_by_key(|record| record.created_at)
            .map(ImageChoice::Local)
            .ok_or(Error::NotFound("Image"))
    }

    fn wanted(&self, driver: &str, server: &str, name: &str, options: &BTreeMap<String, String>) -> Result<Wanted> {
        if driver.is_empty() {
            let known: Vec<String> = self.drivers.list("image").into_iter().map(|info| info.name).collect();
            return Err(Error::invalid(format!(
                "The protocol of image server {server} is missing: one of {}",
                known.join(", ")
            )));
        }
        if name.is_empty() || name.len() > 1024 || server.len() > 2048 {
            return Err(Error::invalid(
                "Must specify one of alias or fingerprint for an image of a server",
            ));
        }
        let implementation = self
            .drivers
            .image(driver)
            .map_err(Error::driver(format!("finding image {name}")))?;
        let origin = Origin {
            driver: driver.to_owned(),
            server: server.to_owned(),
            name: name.to_owned(),
            options: options.clone(),
            build_key: None,
        };
        Ok(Wanted {
            driver: implementation,
            origin,
        })
    }

    /// The image that an instance is to be made from, fetched or built if it is not here; see [`Core::image_choose`] and
    /// [`Core::image_take`].
    ///
    /// # Errors
    /// Theirs.
    pub(crate) async fn image_for_instance(
        self: &Arc<Self>,
        _caller: &Caller,
        project: &str,
        source: &InstanceSource,
        operation: &Arc<Operation>,
    ) -> Result<Arc<ImageRecord>> {
        let choice = self.image_choose(project, source)?;
        self.image_take(project, choice, operation).await
    }

    /// The image that was chosen, fetched or built if it is not here. However many ask for it at a time, that is done once.
    ///
    /// # Errors
    /// The driver's and the download's, and [`Error::Invalid`] for an image that is not for this machine.
    pub async fn image_take(
        self: &Arc<Self>,
        project: &str,
        choice: ImageChoice,
        operation: &Arc<Operation>,
    ) -> Result<Arc<ImageRecord>> {
        let project = self.scope(project, Feature::Images)?;
        let record = match choice {
            ImageChoice::Local(record) => record,
            ImageChoice::Elsewhere(wanted) => {
                let fetching = Fetching {
                    cached: true,
                    auto_update: false,
                    public: false,
                    filename: String::new(),
                    aliases: Vec::new(),
                    properties: BTreeMap::new(),
                    profiles: Vec::new(),
                    expires_at: Timestamp::NEVER,
                };
                self.fetch(&project, wanted, fetching, operation).await?
            }
        };
        if record.architecture != architecture::of_this_machine() {
            return Err(Error::invalid(format!(
                "Image {} is for {}, and this machine is {}",
                record.fingerprint,
                record.architecture,
                architecture::of_this_machine()
            )));
        }
        self.image_used(&record).await
    }

    /// Makes an image of what a request describes: a copy of one at an image server.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a source that can't be, [`Error::NotFound`] for the project.
    pub async fn image_create(self: &Arc<Self>, project: &str, post: ImagesPost) -> Result<Arc<Operation>> {
        let project = self.scope(project, Feature::Images)?;
        let source = post.source.unwrap_or_default();
        check_properties(&post.properties)?;
        self.check_new_aliases(&project, &post.aliases)?;
        let profiles = self.check_image_profiles(&project, post.profiles)?;
        let fetching = Fetching {
            cached: false,
            auto_update: post.auto_update,
            public: post.public,
            filename: post.filename,
            aliases: post.aliases,
            properties: post.properties,
            profiles,
            expires_at: post.expires_at,
        };
        match source.kind.as_str() {
            "image" => {
                let name = if source.alias.is_empty() {
                    &source.fingerprint
                } else {
                    &source.alias
                };
                let wanted = self.wanted(&source.protocol, &source.server, name, &BTreeMap::new())?;
                let core = Arc::clone(self);
                let about = image_operation(&project, "Downloading image");
                let work = move |operation: Arc<Operation>| async move {
                    core.fetch(&project, wanted, fetching, &operation).await.map(drop)
                };
                self.operations.begin(about, work).await
            }
            other => Err(Error::invalid(format!(
                "Images can't be made from a source of type {other:?}"
            ))),
        }
    }

    /// Asks an image's origin for what it has now. A newer image takes over the aliases of the old one, which is deleted.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`] for an image that has no origin.
    pub async fn image_refresh(self: &Arc<Self>, project: &str, fingerprint: &str) -> Result<Arc<Operation>> {
        let project = self.scope(project, Feature::Images)?;
        let old = self.images.find(&project, fingerprint)?;
        let Some(origin) = &old.origin else {
            return Err(Error::invalid(
                "This image has no source from which it could be refreshed",
            ));
        };
        let wanted = self.wanted(&origin.driver, &origin.server, &origin.name, &origin.options)?;
        let core = Arc::clone(self);
        let about =
            image_operation(&project, "Refreshing image").also("images", format!("/1.0/images/{}", old.fingerprint));
        self.operations
            .begin(about, move |operation| async move {
                core.refresh(&old, wanted, &operation).await
            })
            .await
    }

    async fn refresh(
        self: &Arc<Self>,
        old: &Arc<ImageRecord>,
        wanted: Wanted,
        operation: &Arc<Operation>,
    ) -> Result<()> {
        let fetching = Fetching {
            cached: old.cached,
            auto_update: old.auto_update,
            public: old.public,
            filename: old.filename.clone(),
            aliases: Vec::new(),
            properties: BTreeMap::new(),
            profiles: old.profiles.clone(),
            expires_at: Timestamp::NEVER,
        };
        let new = self.fetch(&old.project, wanted, fetching, operation).await?;
        let changed = new.fingerprint != old.fingerprint;
        operation.set_metadata("refreshed", changed.into());
        if !changed {
            return Ok(());
        }
        self.move_aliases(old, &new).await?;
        self.delete_image(old, operation.id()).await
    }

    /// Fetches or builds an image, unless it is here already.
    async fn fetch(
        self: &Arc<Self>,
        project: &str,
        wanted: Wanted,
        how: Fetching,
        operation: &Arc<Operation>,
    ) -> Result<Arc<ImageRecord>> {
        let Wanted { driver, origin } = wanted;
        let key = format!(
            "{project}\0{}\0{}\0{}\0{:?}",
            origin.driver, origin.server, origin.name, origin.options
        );
        let lock = self.images.fetching.get(&key);
        let _alone = tokio::select! {
            guard = lock.write_owned() => guard,
            () = operation.cancelled() => return Err(Error::Cancelled),
        };
        let mut call = Call::new(
            project,
            if origin.server.is_empty() {
                &origin.name
            } else {
                &origin.server
            },
        );
        operation.id().clone_into(&mut call.operation);
        call.progress = Arc::clone(operation) as Arc<dyn Progress>;
        call.cancel = operation.cancel_flag();
        call.origin = Some(origin.server.clone()).filter(|server| !server.is_empty());
        let request = ImageRequest {
            server: origin.server.clone(),
            name: origin.name.clone(),
            architecture: architecture::of_this_machine().to_owned(),
            kind: CONTAINER.to_owned(),
            options: origin.options.clone(),
        };
        let action = format!("finding image {}", origin.name);
        let found = match driver.resolve(&call, &request).await {
            Ok(found) => found,
            Err(error) => return self.instead(project, &origin, &how, error, action).await,
        };
        if found.kind != CONTAINER {
            return Err(Error::invalid(format!(
                "Image {} is for a {:.32}, not for a container",
                origin.name, found.kind
            )));
        }
        if let Some(known) = self.known(project, &origin, &found) {
            self.check_new_aliases(project, &how.aliases)?;
            return self.adopt(known, how).await;
        }
        let origin = Origin {
            build_key: found.build_key.clone(),
            ..origin
        };
        if found.files.is_empty() {
            self.build(project, &driver, &call, &request, found, origin, how, operation)
                .await
        } else {
            self.download(project, &call, found, origin, how, operation).await
        }
    }

    /// What is used when a source can't be asked: what it answered last time, if that is here and only an instance is to be
    /// made of it.
    async fn instead(
        &self,
        project: &str,
        origin: &Origin,
        how: &Fetching,
        error: DriverError,
        action: String,
    ) -> Result<Arc<ImageRecord>> {
        let same = |other: &Origin| {
            (&other.driver, &other.server, &other.name, &other.options)
                == (&origin.driver, &origin.server, &origin.name, &origin.options)
        };
        let mut records = self.images.records.list();
        records.retain(|record| record.project == project && record.origin.as_ref().is_some_and(same));
        match records.into_iter().max_by_key(|record| record.uploaded_at) {
            Some(record) if how.cached && (error.retryable || error.is("unavailable") || error.is("timeout")) => {
                tracing::warn!(image = record.fingerprint, %error, "the image's source can't be reached; using what it gave last");
                Ok(record)
            }
            _ => Err(Error::Driver { action, source: error }),
        }
    }

    /// The image that a source has found, if it is here.
    fn known(&self, project: &str, origin: &Origin, found: &SourceImage) -> Option<Arc<ImageRecord>> {
        let mut records = self.images.records.list();
        records.retain(|record| {
            let built = || {
                record
                    .origin
                    .as_ref()
                    .is_some_and(|o| o.driver == origin.driver && o.build_key == found.build_key)
            };
            let same = if found.build_key.is_some() {
                built()
            } else {
                record.fingerprint == found.fingerprint
            };
            record.project == project && same
        });
        records.into_iter().max_by_key(|record| record.uploaded_at)
    }

    /// An image that was fetched for an instance stays once somebody asks for it.
    async fn adopt(&self, known: Arc<ImageRecord>, how: Fetching) -> Result<Arc<ImageRecord>> {
        let record = if known.cached && !how.cached {
            let _guard = self.images.changing.lock().await;
            let record = self.images.find(&known.project, &known.fingerprint)?;
            let record = ImageRecord {
                cached: false,
                auto_update: how.auto_update,
                public: how.public,
                ..ImageRecord::clone(&record)
            };
            self.put_image(record.clone()).await?;
            Arc::new(record)
        } else {
            known
        };
        self.add_aliases(&record.project, &record.fingerprint, &how.aliases)
            .await?;
        Ok(record)
    }

    async fn download(
        self: &Arc<Self>,
        project: &str,
        call: &Call,
        found: SourceImage,
        origin: Origin,
        how: Fetching,
        operation: &Arc<Operation>,
    ) -> Result<Arc<ImageRecord>> {
        let roles: Vec<&str> = found.files.iter().map(|file| file.role.as_str()).collect();
        if roles != ["unified"] && roles != ["metadata", "rootfs"] {
            return Err(Error::invalid(format!(
                "Image {} has files of the roles {roles:?}",
                origin.name
            )));
        }
        let action = format!("downloading image {}", origin.name);
        let mut files = Vec::new();
        for file in &found.files {
            check_file(file, call.origin.as_deref())?;
            let dir = self.images.files.downloads();
            let path = self
                .downloader
                .download(file, &dir, call)
                .await
                .map_err(Error::driver(&action))?;
            files.push(StagedFile::adopt(path)?);
        }
        let mut files = files.into_iter();
        let Some(main) = files.next() else {
            return Err(Error::NotFound("Image"));
        };
        let fingerprint = Some(found.fingerprint.clone()).filter(|fingerprint| !fingerprint.is_empty());
        let new = NewImage {
            fingerprint,
            ..new_image(project, main, files.next(), &found, origin, how)
        };
        self.take_in(new, operation).await
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one step of fetch, with all that it has found out"
    )]
    async fn build(
        self: &Arc<Self>,
        project: &str,
        driver: &Arc<dyn ImageDriver>,
        call: &Call,
        request: &ImageRequest,
        found: SourceImage,
        origin: Origin,
        how: Fetching,
        operation: &Arc<Operation>,
    ) -> Result<Arc<ImageRecord>> {
        let action = format!("building image {}", origin.name);
        let scratch = self.images.files.scratch()?;
        let mut call = call.clone();
        call.roots = vec![Root {
            id: SCRATCH.to_owned(),
            path: scratch.path().to_owned(),
            writable: true,
        }];
        let at = TreePath {
            root: SCRATCH.to_owned(),
            path: String::new(),
        };
        let built = driver
            .build(&call, request, &at)
            .await
            .map_err(Error::driver(&action))?;
        let metadata = ImageMetadata {
            architecture: found.architecture.clone(),
            creation_date: time::OffsetDateTime::now_utc().unix_timestamp(),
            expiry_date: found.expires,
            properties: found
                .properties
                .clone()
                .into_iter()
                .chain(built.properties.clone())
                .collect(),
            templates: BTreeMap::new(),
        };
        check_properties(&metadata.properties)?;
        let (main, rootfs) = self
            .pack_built(scratch.path(), built, &metadata, operation, &action)
            .await?;
        drop(scratch);
        let new = new_image(project, main, Some(rootfs), &found, origin, how);
        self.take_in(new, operation).await
    }

    /// Makes the two archives of a split image from what a driver built and what it wants placed in it.
    async fn pack_built(
        self: &Arc<Self>,
        scratch: &Path,
        built: BuiltImage,
        metadata: &ImageMetadata,
        operation: &Arc<Operation>,
        action: &str,
    ) -> Result<(StagedFile, StagedFile)> {
        let archive = open_built(scratch, &built.rootfs).map_err(Error::io(action))?;
        let placed = built.files.into_iter().map(placed).collect::<Result<Vec<Placed>>>()?;
        if placed.len() > MOST_PLACED {
            return Err(Error::invalid(format!(
                "Image driver wants more than {MOST_PLACED} files placed"
            )));
        }
        let (main, rootfs) = (self.stage_upload()?, self.stage_upload()?);
        hutch_archive::write_metadata(metadata, &BTreeMap::new(), main.file()).map_err(archive_error(action))?;
        let total = archive.metadata().map_err(Error::io(action))?.len();
        let (unpacker, operation, what) = (self.images.unpacker.clone(), Arc::clone(operation), action.to_owned());
        let work = move || {
            let watch = &mut watch(&operation, "build_image_progress", "Packing image", total);
            unpacker
                .repack(&archive, &placed, rootfs.file(), watch)
                .map_err(archive_error(&what))?;
            Ok::<_, Error>(rootfs)
        };
        let rootfs = tokio::task::spawn_blocking(work)
            .await
            .map_err(|e| Error::io(action)(std::io::Error::other(e)))??;
        Ok((main, rootfs))
    }
}

fn new_image(
    project: &str,
    main: StagedFile,
    rootfs: Option<StagedFile>,
    found: &SourceImage,
    origin: Origin,
    how: Fetching,
) -> NewImage {
    let mut properties = found.properties.clone();
    properties.extend(how.properties);
    NewImage {
        project: project.to_owned(),
        main,
        rootfs,
        filename: how.filename,
        public: how.public,
        auto_update: how.auto_update,
        cached: how.cached,
        properties,
        aliases: how.aliases,
        fingerprint: None,
        profiles: if how.profiles.is_empty() {
            vec![crate::profiles::DEFAULT.to_owned()]
        } else {
            how.profiles
        },
        expires_at: how.expires_at,
        origin: Some(origin),
        source_aliases: found.aliases.iter().take(64).cloned().collect(),
        may_exist: true,
    }
}

/// A file that a driver names is fetched only from the server that the caller named, if there is one, and only if its
/// checksum is known: the host's network reaches more than a driver may.
fn check_file(file: &ImageFile, server: Option<&str>) -> Result<()> {
    let Some(from) = origin_of(&file.url) else {
        return Err(Error::invalid(format!(
            "The image's file {:.200?} is not at an http or https address",
            file.url
        )));
    };
    if let Some(server) = server
        && origin_of(server).as_ref() != Some(&from)
    {
        return Err(Error::invalid(format!(
            "The image's file {:.200?} is not on the image's server {server}",
            file.url
        )));
    }
    if file.sha256.len() != 64 || !file.sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(Error::invalid(format!(
            "The image's file {:.200?} has no SHA-256",
            file.url
        )));
    }
    Ok(())
}

/// Scheme, host and port of an address (RFC 6454), with the port that the scheme stands for where none is named.
fn origin_of(url: &str) -> Option<(String, String)> {
    let (scheme, rest) = url.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    let port = match scheme.as_str() {
        "http" => "80",
        "https" => "443",
        _ => return None,
    };
    let authority = rest.split(['/', '?', '#']).next()?;
    // Names and passwords in an address serve only to mislead.
    if authority.is_empty() || authority.contains('@') {
        return None;
    }
    let host = authority.to_ascii_lowercase();
    let has_port = host
        .rsplit_once(':')
        .is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
    Some((
        scheme,
        if has_port {
            host
        } else {
            format!("{}:{port}", host.trim_end_matches(':'))
        },
    ))
}

/// Opens what a driver built, in its scratch directory and not behind a link.
fn open_built(scratch: &Path, built: &TreePath) -> std::io::Result<std::fs::File> {
    use rustix::fs::{Mode, OFlags, ResolveFlags};
    let not_here = || {
        std::io::Error::new(
            std::io::ErrorKind::NotFound,
            "the driver's answer is outside its scratch directory",
        )
    };
    if built.root != SCRATCH || built.path.is_empty() {
        return Err(not_here());
    }
    let root = open_below(scratch, Path::new(""))?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let below = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let file = std::fs::File::from(rustix::fs::openat2(root, &*built.path, flags, Mode::empty(), below)?);
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(not_here())
    }
}

/// Checks a file that a driver wants placed. Its path is checked where it is placed.
fn placed(file: PlacedFile) -> Result<Placed> {
    if file.data.len() > MOST_PLACED_BYTES {
        return Err(Error::invalid(format!(
            "The file {:.200?} to be placed in the image is too large",
            file.path
        )));
    }
    let kind = match file.kind.as_str() {
        "file" => PlacedKind::File {
            mode: file.mode & 0o7777,
            data: file.data,
        },
        "symlink" => PlacedKind::Symlink { target: file.data },
        other => {
            return Err(Error::invalid(format!(
                "A file of the kind {other:.32?} can't be placed in an image"
            )));
        }
    };
    Ok(Placed { path: file.path, kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins() {
        let same = |a: &str, b: &str| origin_of(a).is_some() && origin_of(a) == origin_of(b);
        assert!(same("https://images.example/x", "HTTPS://Images.example:443/y?z"));
        assert!(same("http://[::1]:8080/", "http://[::1]:8080/a"));
        assert!(same("http://[::1]/", "http://[::1]:80/a"));
        assert!(!same("http://a/", "https://a/"));
        assert!(!same("http://a/", "http://a:8080/"));
        for url in ["file:///etc/shadow", "ftp://a/", "http://", "http://user@a/", "a"] {
            assert_eq!(origin_of(url), None, "{url}");
        }
    }

    #[test]
    fn files_come_from_the_server_that_was_named() {
        let file = |url: &str| ImageFile {
            role: "unified".into(),
            url: url.into(),
            sha256: "a".repeat(64),
            size: None,
        };
        check_file(&file("https://a/x"), Some("https://a/")).unwrap();
        check_file(&file("https://b/x"), None).unwrap();
        assert!(check_file(&file("https://b/x"), Some("https://a/")).is_err());
        assert!(check_file(&file("http://169.254.169.254/"), Some("https://a/")).is_err());
        assert!(check_file(&file("file:///etc/passwd"), None).is_err());
        assert!(
            check_file(
                &ImageFile {
                    sha256: "x".into(),
                    ..file("https://a/x")
                },
                None
            )
            .is_err()
        );
    }
}

//! Images from elsewhere: a driver says which files they are, and the host downloads them.

use std::collections::BTreeMap;
use std::sync::Arc;

use hutch_api::Timestamp;
use hutch_api::image::ImageAlias;
use hutch_driver::image::{ImageFile, ImageRequest, SourceImage};
use hutch_driver::{Call, DriverError, Progress};

use super::architecture;
use super::choose::Wanted;
use super::files::StagedFile;
use super::import::NewImage;
use super::record::{CONTAINER, ImageRecord, Origin};
use crate::error::{Error, Result};
use crate::{Core, Operation};

/// Aliases at its source that are kept of an image.
const MOST_SOURCE_ALIASES: usize = 64;

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

/// An image that a source has found and that is not here.
pub(super) struct Found {
    pub(super) project: String,
    pub(super) image: SourceImage,
    pub(super) origin: Origin,
    pub(super) how: Fetching,
}

impl Core {
    /// Fetches or builds an image, unless it is here already.
    pub(super) async fn fetch(
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
        let _use = tokio::select! {
            begun = self.uses.begin("image", &origin.driver) => begun,
            () = operation.cancelled() => return Err(Error::Cancelled),
        };
        let mut call = source_call(project, &origin.server, &origin.name);
        operation.id().clone_into(&mut call.operation);
        call.progress = Arc::clone(operation) as Arc<dyn Progress>;
        call.cancel = operation.cancel_flag();
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
        let found = Found {
            project: project.to_owned(),
            image: found,
            origin,
            how,
        };
        if found.image.files.is_empty() {
            self.build(&driver, &call, &request, found, operation).await
        } else {
            self.download(&call, found, operation).await
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
            _ => Err(Error::driver(action)(error)),
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
        call: &Call,
        found: Found,
        operation: &Arc<Operation>,
    ) -> Result<Arc<ImageRecord>> {
        let (image, name) = (&found.image, &found.origin.name);
        let roles: Vec<&str> = image.files.iter().map(|file| file.role.as_str()).collect();
        if roles != ["unified"] && roles != ["metadata", "rootfs"] {
            return Err(Error::invalid(format!("Image {name} has files of the roles {roles:?}")));
        }
        let action = format!("downloading image {name}");
        let mut files = Vec::new();
        for file in &image.files {
            check_file(file, call.origin.as_deref())?;
            let dir = self.images.files.downloads();
            let path = self
                .downloader
                .download(file, &dir, &image.named_by, call)
                .await
                .map_err(Error::driver(&action))?;
            files.push(StagedFile::adopt(path)?);
        }
        let mut files = files.into_iter();
        let Some(main) = files.next() else {
            return Err(Error::NotFound("Image"));
        };
        let fingerprint = Some(image.fingerprint.clone()).filter(|fingerprint| !fingerprint.is_empty());
        let new = NewImage {
            fingerprint,
            ..found.into_new(main, files.next())
        };
        self.take_in(new, operation).await
    }
}

impl Found {
    /// The image that these archives are.
    pub(super) fn into_new(self, main: StagedFile, rootfs: Option<StagedFile>) -> NewImage {
        let Self {
            project,
            image,
            origin,
            how,
        } = self;
        let mut properties = image.properties;
        properties.extend(how.properties);
        let default = || vec![crate::profiles::DEFAULT.to_owned()];
        NewImage {
            project,
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
                default()
            } else {
                how.profiles
            },
            expires_at: how.expires_at,
            origin: Some(origin),
            source_aliases: image.aliases.into_iter().take(MOST_SOURCE_ALIASES).collect(),
            may_exist: true,
        }
    }
}

/// A call about images of a source: `server` is all that it may fetch from beyond its plugin's fixed grants, whether an image is being
/// fetched or only looked for. A source without servers is called by `name`.
pub(super) fn source_call(project: &str, server: &str, name: &str) -> Call {
    let mut call = Call::new(project, if server.is_empty() { name } else { server });
    call.origin = Some(server.to_owned()).filter(|server| !server.is_empty());
    call
}

/// A file that a driver names is fetched only from the server that the caller named, if there is one, and only if its
/// checksum is known. Whether the driver may fetch from there is asked by whoever fetches.
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

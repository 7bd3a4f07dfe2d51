//! Images and their aliases.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::Timestamp;
use crate::wire::wire;

wire! {
    /// An image.
    pub struct Image {
        /// SHA-256 of its files, in hexadecimal.
        pub fingerprint: String,
        /// Its aliases.
        pub aliases: Vec<ImageAlias>,
        /// The name of the processor architecture.
        pub architecture: String,
        /// Whether it is kept up to date with its source.
        pub auto_update: bool,
        /// Whether it was fetched for an instance rather than asked for.
        pub cached: bool,
        /// When it was built.
        pub created_at: Timestamp,
        /// When it goes away.
        pub expires_at: Timestamp,
        /// When an instance was last made from it.
        pub last_used_at: Timestamp,
        /// When it came to this server.
        pub uploaded_at: Timestamp,
        /// The name it was uploaded under.
        pub filename: String,
        /// The profiles of new instances.
        pub profiles: Vec<String>,
        /// Its project.
        pub project: String,
        /// What it says of itself: `os`, `release`, `description`, …
        pub properties: BTreeMap<String, String>,
        /// Whether anybody may have it.
        pub public: bool,
        /// Bytes of its files; -1 where its source does not know.
        pub size: i64,
        /// `container` or `virtual-machine`.
        #[serde(rename = "type")]
        pub kind: String,
        /// Where it came from and is kept up to date with.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub update_source: Option<ImageSource>,
    }

    /// A name of an image, as the image shows it.
    pub struct ImageAlias {
        /// The name.
        pub name: String,
        /// What people wrote of it.
        pub description: String,
    }

    /// Where an image came from.
    pub struct ImageSource {
        /// The alias there.
        pub alias: String,
        /// The server's certificate, in PEM.
        pub certificate: String,
        /// `container` or `virtual-machine`.
        pub image_type: String,
        /// The image source that was asked.
        pub protocol: String,
        /// The server's URL.
        pub server: String,
    }

    /// An image source that a plugin provides: `/1.0/image-sources`, Hutch's own.
    pub struct ImageSourceDriver {
        /// What it is asked by: the `protocol` of an image's source.
        pub name: String,
        /// The id of the plugin.
        pub plugin: String,
        /// The plugin's version.
        pub version: String,
        /// Whether it makes images on this machine; others are asked for those of a server.
        pub builds: bool,
    }

    /// The changeable part of an image.
    pub struct ImagePut {
        /// See [`Image::auto_update`].
        pub auto_update: bool,
        /// See [`Image::expires_at`].
        pub expires_at: Timestamp,
        /// See [`Image::profiles`].
        pub profiles: Vec<String>,
        /// See [`Image::properties`].
        pub properties: BTreeMap<String, String>,
        /// See [`Image::public`].
        pub public: bool,
    }

    /// `PATCH /1.0/images/{fingerprint}`: what is absent stays.
    pub struct ImagePatch {
        /// See [`Image::auto_update`].
        pub auto_update: Option<bool>,
        /// See [`Image::expires_at`].
        pub expires_at: Option<Timestamp>,
        /// See [`Image::profiles`].
        pub profiles: Option<Vec<String>>,
        /// Properties to change; an empty value removes its key.
        pub properties: Option<BTreeMap<String, String>>,
        /// See [`Image::public`].
        pub public: Option<bool>,
    }

    /// `POST /1.0/images`, when the body is JSON; else it is the image.
    pub struct ImagesPost {
        /// Names to give it.
        pub aliases: Vec<ImageAlias>,
        /// See [`Image::auto_update`].
        pub auto_update: bool,
        /// How an image made from an instance is compressed; empty for the server's setting.
        pub compression_algorithm: String,
        /// See [`Image::expires_at`].
        pub expires_at: Timestamp,
        /// See [`Image::filename`].
        pub filename: String,
        /// See [`Image::profiles`].
        pub profiles: Vec<String>,
        /// See [`Image::properties`].
        pub properties: BTreeMap<String, String>,
        /// See [`Image::public`].
        pub public: bool,
        /// What it is made from.
        pub source: Option<ImagesPostSource>,
    }

    /// What an image is made from.
    pub struct ImagesPostSource {
        /// `image`, `instance` (`container`, `virtual-machine`), `snapshot`, `url`.
        #[serde(rename = "type")]
        pub kind: String,
        /// The alias on the server.
        pub alias: String,
        /// The server's certificate, in PEM.
        pub certificate: String,
        /// The fingerprint on the server, or its beginning.
        pub fingerprint: String,
        /// `container` or `virtual-machine`.
        pub image_type: String,
        /// `pull` or `push`.
        pub mode: String,
        /// The instance, or `instance/snapshot`.
        pub name: String,
        /// The project on the server.
        pub project: String,
        /// The image source that `server` speaks.
        pub protocol: String,
        /// What lets one download a private image.
        pub secret: String,
        /// The server's URL.
        pub server: String,
        /// The URL of a file, for `url`.
        pub url: String,
    }

    /// An alias.
    pub struct ImageAliasesEntry {
        /// The name.
        pub name: String,
        /// What people wrote of it.
        pub description: String,
        /// The image's fingerprint.
        pub target: String,
        /// `container` or `virtual-machine`.
        #[serde(rename = "type")]
        pub kind: String,
    }

    /// `PUT /1.0/images/aliases/{name}`.
    pub struct ImageAliasesEntryPut {
        /// What people wrote of it.
        pub description: String,
        /// The image's fingerprint.
        pub target: String,
    }

    /// `PATCH /1.0/images/aliases/{name}`: what is absent stays.
    pub struct ImageAliasesEntryPatch {
        /// What people wrote of it.
        pub description: Option<String>,
        /// The image's fingerprint.
        pub target: Option<String>,
    }

    /// `POST /1.0/images/aliases/{name}`: a new name.
    pub struct ImageAliasesEntryPost {
        /// The new name.
        pub name: String,
    }
}

impl Image {
    /// The changeable part, as a PUT would send it back.
    pub fn to_put(&self) -> ImagePut {
        ImagePut {
            auto_update: self.auto_update,
            expires_at: self.expires_at,
            profiles: self.profiles.clone(),
            properties: self.properties.clone(),
            public: self.public,
        }
    }

    /// What an ETag is made of.
    pub fn etag_parts(&self) -> Value {
        serde_json::json!([
            self.public,
            self.auto_update,
            self.properties,
            self.profiles,
            self.expires_at
        ])
    }
}

impl ImagePatch {
    /// Changes `put` as the PATCH asks.
    pub fn apply(self, put: &mut ImagePut) {
        if let Some(auto_update) = self.auto_update {
            put.auto_update = auto_update;
        }
        if let Some(expires_at) = self.expires_at {
            put.expires_at = expires_at;
        }
        if let Some(profiles) = self.profiles {
            put.profiles = profiles;
        }
        if let Some(public) = self.public {
            put.public = public;
        }
        crate::config::merge(&mut put.properties, self.properties.unwrap_or_default());
    }
}

impl ImageAliasesEntry {
    /// What an ETag is made of.
    pub fn etag_parts(&self) -> Value {
        serde_json::json!([self.name, self.description, self.target])
    }
}

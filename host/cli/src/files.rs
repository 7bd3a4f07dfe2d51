//! The files of an instance, as the API serves them.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use futures_util::TryStreamExt;
use http_body_util::{BodyExt, StreamBody};
use hutch_api::envelope::Envelope;
use hyper::body::Frame;
use hyper::header::HeaderMap;
use hyper::{Method, Response};
use tokio_util::io::ReaderStream;

use crate::client::{ApiPath, Body, Client, empty_body, whole_body};
use crate::error::{Error, Result};

/// The names of both client families for the headers that describe a file.
const PREFIXES: [&str; 2] = ["X-LXD-", "X-Incus-"];

/// How much of a file is read at once.
const CHUNK: usize = 256 * 1024;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Directory => "directory",
            Self::Symlink => "symlink",
        }
    }
}

/// Owner and permissions; what is not given is left to the daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// The owner inside.
    pub(crate) uid: Option<u32>,
    /// The group inside.
    pub(crate) gid: Option<u32>,
    /// The permissions.
    pub(crate) mode: Option<u32>,
}

/// What is known of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// What it is.
    pub(crate) kind: Kind,
    /// Whose it is.
    pub(crate) attributes: Attributes,
}

/// What a file is to hold.
pub(crate) struct Content {
    body: Body,
    /// Whether it is read as it is sent, because it is large.
    streamed: bool,
}

impl Default for Content {
    fn default() -> Self {
        Self {
            body: empty_body(),
            streamed: false,
        }
    }
}

impl From<String> for Content {
    fn from(text: String) -> Self {
        text.into_bytes().into()
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Self {
            body: whole_body(bytes),
            streamed: false,
        }
    }
}

impl Content {
    /// What a local file holds, read as it is sent. A small one is read at once.
    pub(crate) async fn file(path: &Path, metadata: &fs::Metadata) -> io::Result<Self> {
        if metadata.len() <= CHUNK as u64 {
            return fs::read(path).map(Into::into);
        }
        let file = tokio::fs::File::open(path).await?;
        let stream = ReaderStream::with_capacity(file, CHUNK).map_ok(Frame::data);
        Ok(Self {
            body: BodyExt::boxed(StreamBody::new(stream)),
            streamed: true,
        })
    }
}

/// The files of one instance.
pub(crate) struct Files {
    client: Arc<Client>,
    instance: String,
}

impl Files {
    /// Those of `instance`.
    pub(crate) fn new(client: Arc<Client>, instance: String) -> Self {
        Self { client, instance }
    }

    /// The instance's name.
    pub(crate) fn instance(&self) -> &str {
        &self.instance
    }

    fn at(&self, path: &str) -> ApiPath {
        ApiPath::new(["instances", &self.instance, "files"]).query("path", path)
    }

    /// Names the file. The words of HTTP say nothing that a user wants to know.
    fn about(&self, path: &str, error: Error) -> Error {
        if error.status() == Some(404) && error.to_string() == "Not Found" {
            return Error::usage(format!("{}{path} does not exist", self.instance));
        }
        error.about(&format!("{}{path}", self.instance))
    }

    /// What is at `path`, if there is something.
    pub(crate) async fn stat(&self, path: &str) -> Result<Option<Entry>> {
        let mut response = self.request(Method::HEAD, path).await;
        if matches!(&response, Err(error) if error.status() == Some(404)) {
            // A HEAD has no words: the GET tells whether it is the file that is missing or the instance.
            response = self.request(Method::GET, path).await;
        }
        match response {
            Ok(response) => entry(response.headers(), path).map(Some),
            Err(error) if error.status() == Some(404) && !is_about_instance(&error) => Ok(None),
            Err(error) => Err(self.about(path, error)),
        }
    }

    async fn request(&self, method: Method, path: &str) -> Result<Response<hyper::body::Incoming>> {
        self.client.raw(method, self.at(path), &[], empty_body()).await
    }

    async fn get(&self, path: &str) -> Result<Response<hyper::body::Incoming>> {
        self.request(Method::GET, path)
            .await
            .map_err(|error| self.about(path, error))
    }

    /// Gives `take` the content of a file, or the target of a symbolic link, as it comes. Of a directory, nothing.
    pub(crate) async fn read(&self, path: &str, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<Entry> {
        let response = self.get(path).await?;
        let entry = entry(response.headers(), path)?;
        if entry.kind != Kind::Directory {
            let mut body = response.into_body();
            while let Some(frame) = body.frame().await {
                if let Ok(bytes) = frame?.into_data() {
                    take(&bytes)?;
                }
            }
        }
        Ok(entry)
    }

    /// The names in a directory.
    pub(crate) async fn list(&self, path: &str) -> Result<Vec<String>> {
        let response = self.get(path).await?;
        let bytes = response.into_body().collect().await?.to_bytes();
        let envelope: Envelope<Vec<String>> = serde_json::from_slice(&bytes).map_err(|source| Error::Answer {
            request: format!("GET {}", self.at(path)),
            source,
        })?;
        Ok(envelope.metadata.unwrap_or_default())
    }

    /// Writes a file or makes a symbolic link.
    pub(crate) async fn write(&self, path: &str, kind: Kind, attributes: Attributes, content: Content) -> Result<()> {
        let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
        // A daemon that refuses what is under way closes the connection, and its reason may be lost with it.
        if content.streamed && !directory.is_empty() && self.stat(directory).await?.is_none() {
            return Err(self.no_directory(directory));
        }
        let mut headers = Vec::new();
        let mut add = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                headers.extend(PREFIXES.map(|prefix| (format!("{prefix}{name}"), value.clone())));
            }
        };
        add("type", Some(kind.name().into()));
        add("uid", attributes.uid.map(|uid| uid.to_string()));
        add("gid", attributes.gid.map(|gid| gid.to_string()));
        add("mode", attributes.mode.map(|mode| format!("{mode:04o}")));
        add("write", (kind == Kind::File).then(|| "overwrite".to_owned()));
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.clone()))
            .collect();
        self.client
            .send_body(Method::POST, self.at(path), &headers, content.body)
            .await
            .map_err(|error| match error.status() {
                Some(404) if !is_about_instance(&error) => self.no_directory(directory),
                _ => self.about(path, error),
            })
            .map(drop)
    }

    fn no_directory(&self, directory: &str) -> Error {
        let instance = &self.instance;
        Error::usage(format!("{instance}{directory} does not exist; --create-dirs makes it"))
    }

    /// Makes a directory; one that is there already is left as it is.
    pub(crate) async fn make_directory(&self, path: &str, attributes: Attributes) -> Result<()> {
        match self.stat(path).await? {
            Some(Entry {
                kind: Kind::Directory, ..
            }) => Ok(()),
            Some(Entry { kind: Kind::File, .. }) => Err(Error::usage(format!(
                "{}{path} is a file, and not a directory",
                self.instance
            ))),
            // A link may lead to a directory; the daemon says if it does not.
            Some(Entry {
                kind: Kind::Symlink, ..
            }) => Ok(()),
            None => self.write(path, Kind::Directory, attributes, Content::default()).await,
        }
    }

    /// Deletes a file, a link or an empty directory.
    pub(crate) async fn delete(&self, path: &str) -> Result<()> {
        self.client
            .send_body(Method::DELETE, self.at(path), &[], empty_body())
            .await
            .map_err(|error| self.about(path, error))
            .map(drop)
    }
}

fn is_about_instance(error: &Error) -> bool {
    crate::error::report(error).ends_with("Instance not found")
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    PREFIXES
        .iter()
        .find_map(|prefix| headers.get(format!("{prefix}{name}"))?.to_str().ok())
}

/// What the headers of an answer say of a file.
fn entry(headers: &HeaderMap, path: &str) -> Result<Entry> {
    let kind = match header(headers, "type").unwrap_or("file") {
        "file" => Kind::File,
        "directory" => Kind::Directory,
        "symlink" => Kind::Symlink,
        other => return Err(Error::usage(format!("{path} is a {other:?}, which can't be copied"))),
    };
    let number = |name| header(headers, name).and_then(|text| text.parse().ok());
    let mode = header(headers, "mode").and_then(|text| u32::from_str_radix(text.trim_start_matches("0o"), 8).ok());
    Ok(Entry {
        kind,
        attributes: Attributes {
            uid: number("uid"),
            gid: number("gid"),
            mode,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn headers_of_both_families_describe_a_file() {
        let expected = Entry {
            kind: Kind::Symlink,
            attributes: Attributes {
                uid: Some(5),
                gid: None,
                mode: Some(0o755),
            },
        };
        for prefix in [
            ["X-LXD-type", "X-LXD-uid", "X-LXD-mode"],
            ["X-Incus-type", "X-Incus-uid", "X-Incus-mode"],
        ] {
            let headers = headers(&[(prefix[0], "symlink"), (prefix[1], "5"), (prefix[2], "0755")]);
            assert_eq!(entry(&headers, "/x").unwrap(), expected);
        }
        assert_eq!(entry(&HeaderMap::new(), "/x").unwrap().kind, Kind::File);
        assert!(entry(&headers(&[("X-LXD-type", "fifo")]), "/x").is_err());
    }
}

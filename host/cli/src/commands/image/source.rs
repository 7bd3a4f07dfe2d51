//! What image sources have: servers of the user's own file, and sources that the daemon's plugins offer. The daemon asks them.

use std::sync::Arc;

use hutch_api::image::{Image, ImageAliasesEntry};
use hutch_api::server::Server;

use crate::client::{ApiPath, Client};
use crate::commands::image_name;
use crate::context::Context;
use crate::error::{Error, Result};

/// The extension of daemons that ask image sources for what they have.
const LISTED: &str = "hutch_image_sources";

/// A source of images that are not on a daemon.
pub(super) struct Source {
    /// The daemon that asks it: the one that would create from it.
    client: Arc<Client>,
    /// By which driver.
    protocol: String,
    /// The server's address; empty where the source has none.
    server: String,
    /// What the user calls it.
    name: String,
}

impl Source {
    /// The source that `text` names before its colon, and what follows that; `None` where it names none.
    pub(super) async fn of<'a>(ctx: &Context, text: &'a str) -> Result<Option<(Self, &'a str)>> {
        let Some((prefix, rest)) = text.split_once(':') else {
            return Ok(None);
        };
        let source = |client, protocol, server| Self {
            client,
            protocol,
            server,
            name: prefix.to_owned(),
        };
        if let Some(remote) = ctx.config.remote(prefix) {
            if remote.socket().is_some() {
                return Ok(None);
            }
            if remote.protocol.is_empty() {
                return Err(Error::usage(format!(
                    "{prefix:?} has no protocol, so that nobody knows how to ask it: remove the remote, and add it with --protocol"
                )));
            }
            let client = ctx.default_client()?;
            return Ok(Some((source(client, remote.protocol, remote.addr), rest)));
        }
        let client = ctx.default_client()?;
        // If it is none of them, it may be a part of an alias.
        let sources = image_name::sources(&client).await?;
        if sources.iter().any(|name| name == prefix) {
            return Ok(Some((source(client, prefix.to_owned(), String::new()), rest)));
        }
        if rest.is_empty() {
            return Err(image_name::unknown(ctx, prefix, sources));
        }
        Ok(None)
    }

    /// All its images that `filters` leave. Of another architecture or type than the usual are those that a filter asks for, since a
    /// source is asked for one of each.
    pub(super) async fn images(&self, filters: &[String]) -> Result<Vec<Image>> {
        let mut path = self.path(["images"]);
        let mut left = Vec::new();
        for filter in filters {
            match filter.split_once('=') {
                Some((key @ ("architecture" | "type"), value)) if !path.has(key) => path = path.query(key, value),
                _ => left.push(filter),
            }
        }
        let mut images: Vec<Image> = self.ask(path).await?;
        images.retain(|image| left.iter().all(|filter| super::matches(image, filter)));
        Ok(images)
    }

    /// The image of a name.
    pub(super) async fn image(&self, name: &str) -> Result<Image> {
        if name.is_empty() {
            return Err(Error::usage(format!(
                "which image of {}? `hutch image list {}:` shows them",
                self.name, self.name
            )));
        }
        self.ask(self.path(["images", name]))
            .await
            .map_err(|error| error.about(name))
    }

    /// The names of its images.
    pub(super) async fn aliases(&self) -> Result<Vec<ImageAliasesEntry>> {
        let images = self.images(&[]).await?.into_iter();
        Ok(images.flat_map(aliases_of).collect())
    }

    fn path<'a>(&'a self, more: impl IntoIterator<Item = &'a str>) -> ApiPath {
        let path = ApiPath::new(["image-sources", &self.protocol]).join(more);
        if self.server.is_empty() {
            path
        } else {
            path.query("server", &self.server)
        }
    }

    async fn ask<T: serde::de::DeserializeOwned>(&self, path: ApiPath) -> Result<T> {
        let server: Server = self.client.get(ApiPath::new([""; 0])).await?;
        if !server.api_extensions.iter().any(|name| name == LISTED) {
            return Err(Error::usage(format!(
                "this daemon can't say what {} has: it is of an earlier version",
                self.name
            )));
        }
        self.client.get(path).await
    }
}

fn aliases_of(image: Image) -> impl Iterator<Item = ImageAliasesEntry> {
    let (target, kind) = (image.fingerprint, image.kind);
    let description = image.properties.get("description").cloned().unwrap_or_default();
    image.aliases.into_iter().map(move |alias| ImageAliasesEntry {
        name: alias.name,
        description: description.clone(),
        target: target.clone(),
        kind: kind.clone(),
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn a_source_is_asked_with_its_server() {
        let source = |server: &str| Source {
            client: Arc::new(Client::new(PathBuf::new(), String::new())),
            protocol: "streams".into(),
            server: server.into(),
            name: "images".into(),
        };
        let path = |server: &str, more: &[&str]| source(server).path(more.iter().copied()).to_string();
        assert_eq!(path("", &["images"]), "/1.0/image-sources/streams/images");
        assert_eq!(
            path("https://x", &["images", "debian/12"]),
            "/1.0/image-sources/streams/images/debian%2F12?server=https%3A%2F%2Fx"
        );
    }

    #[test]
    fn each_alias_is_of_its_image() {
        let image: Image = serde_json::from_value(serde_json::json!({
            "fingerprint": "39ee", "aliases": [{"name": "a"}, {"name": "b"}], "type": "container",
            "properties": {"description": "Debian"}
        }))
        .unwrap();
        let aliases: Vec<_> = aliases_of(image).collect();
        assert_eq!(
            (
                aliases[1].name.as_str(),
                aliases[1].target.as_str(),
                aliases[1].kind.as_str()
            ),
            ("b", "39ee", "container")
        );
        assert_eq!(aliases[0].description, "Debian");
    }
}

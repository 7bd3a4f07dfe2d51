//! What an image's name stands for: one that the daemon has, one of an image server, one of a source that a plugin offers.

use hutch_api::image::ImageAliasesEntry;
use hutch_api::instance::InstanceSource;
use hutch_api::plugin::Plugin;

use crate::client::{ApiPath, Client};
use crate::config::Remote;
use crate::context::Context;
use crate::error::{Error, Result};

/// The family of plugins that provide images.
const FAMILY: &str = "image";

/// Finds out where the image called `name` is for an instance on `client`.
pub(crate) async fn resolve(ctx: &Context, client: &Client, name: &str) -> Result<InstanceSource> {
    let Some((prefix, alias)) = name.split_once(':') else {
        return local(client, name).await;
    };
    if alias.is_empty() {
        return Err(Error::usage(format!(
            "{name:?}: the image's name is missing after the colon"
        )));
    }
    match ctx.config.remote(prefix) {
        Some(remote) => match remote.socket() {
            Some(_) if ctx.is_same(prefix, client) => local(client, alias).await,
            Some(_) => Err(Error::usage(format!(
                "{name:?} is on another daemon; export it there and import it here first"
            ))),
            None => Ok(of_server(&remote, alias)),
        },
        None => of_plugin(ctx, client, prefix, alias).await,
    }
}

/// The aliases that plugins' image sources and the user's image servers are known by.
pub(crate) async fn sources(client: &Client) -> Result<Vec<String>> {
    match client
        .get::<Vec<Plugin>>(ApiPath::new(["plugins"]).query("recursion", "1"))
        .await
    {
        Ok(plugins) => Ok(plugins
            .into_iter()
            .filter_map(|mut plugin| plugin.provides.remove(FAMILY))
            .flatten()
            .collect()),
        // A daemon without plugins.
        Err(error) if error.status() == Some(404) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn source() -> InstanceSource {
    InstanceSource {
        kind: "image".into(),
        ..InstanceSource::default()
    }
}

async fn local(client: &Client, name: &str) -> Result<InstanceSource> {
    // An alias may look like a fingerprint, and goes first then; what can't be a fingerprint needs no question.
    if is_fingerprint(name) {
        match client
            .get::<ImageAliasesEntry>(ApiPath::new(["images", "aliases", name]))
            .await
        {
            Ok(entry) => {
                return Ok(InstanceSource {
                    fingerprint: entry.target,
                    ..source()
                });
            }
            Err(error) if error.status() == Some(404) => {
                return Ok(InstanceSource {
                    fingerprint: name.into(),
                    ..source()
                });
            }
            Err(error) => return Err(error),
        }
    }
    Ok(InstanceSource {
        alias: name.into(),
        ..source()
    })
}

/// Whether a name may be (the beginning of) an image's fingerprint.
pub(crate) fn is_fingerprint(name: &str) -> bool {
    !name.is_empty() && name.len() <= 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn of_server(remote: &Remote, alias: &str) -> InstanceSource {
    InstanceSource {
        mode: "pull".into(),
        server: remote.addr.clone(),
        protocol: remote.protocol.clone(),
        alias: alias.into(),
        ..source()
    }
}

async fn of_plugin(ctx: &Context, client: &Client, prefix: &str, alias: &str) -> Result<InstanceSource> {
    let sources = sources(client).await?;
    if sources.iter().any(|name| name == prefix) {
        return Ok(InstanceSource {
            mode: "pull".into(),
            protocol: prefix.into(),
            alias: alias.into(),
            ..source()
        });
    }
    Err(unknown(ctx, prefix, sources))
}

/// That `prefix` names nobody who has images, with those who have.
pub(crate) fn unknown(ctx: &Context, prefix: &str, sources: Vec<String>) -> Error {
    let servers = ctx
        .config
        .remotes
        .iter()
        .filter(|(_, remote)| remote.socket().is_none())
        .map(|(name, _)| name.clone());
    let mut known: Vec<_> = servers.chain(sources).collect();
    known.sort();
    let known = if known.is_empty() {
        "none are known".into()
    } else {
        format!("there are {}", known.join(", "))
    };
    Error::usage(format!(
        "{prefix:?} is neither a remote nor an image source of the daemon's plugins ({known}); `hutch remote add` adds a server"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_told_from_names() {
        assert!(is_fingerprint("39ee91e8f729"));
        assert!(!is_fingerprint("debian/12"));
        assert!(!is_fingerprint(""));
    }

    #[test]
    fn an_image_servers_image_is_fetched_by_the_daemon() {
        let remote = Remote {
            addr: "https://x".into(),
            protocol: "p".into(),
            project: String::new(),
        };
        let source = of_server(&remote, "debian/12");
        assert_eq!(
            serde_json::to_value(source).unwrap(),
            serde_json::json!({"type": "image", "mode": "pull", "server": "https://x", "protocol": "p",
                "alias": "debian/12", "certificate": "", "allow_inconsistent": false})
        );
    }
}

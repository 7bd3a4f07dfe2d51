//! Plugins and publishers' keys in the YAML of `admin init --preseed`. What is as it is said stays as it is, so that the same file can be
//! given again and again.

use std::collections::BTreeMap;

use hutch_api::plugin::{
    Plugin, PluginDoubt, PluginGrantsPut, PluginKey, PluginKeysPost, PluginOffer, PluginStatePut, PluginsPost,
};
use hyper::Method;
use serde::{Deserialize, Serialize};

use super::install::{self, Source};
use crate::client::{ApiPath, Client, Progress};
use crate::context::{Context, Target};
use crate::error::{Error, Result};

/// A publisher's key.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeySeed {
    /// What the publisher is called.
    name: String,
    /// The public key, in base64.
    key: String,
}

/// A plugin.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PluginSeed {
    /// A file, `https://…` or `oci://…`.
    source: String,
    /// SHA-256 of its file. A daemon that has that plugin is not sent it again.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    digest: String,
    /// The signature's file or address, where it is not beside the plugin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signature: Option<String>,
    /// What it may do, by names: this and nothing else. `[all]` is all that it asks for.
    grants: Vec<String>,
    /// Whether it is in service.
    #[serde(default = "yes")]
    enabled: bool,
    /// The operator's settings for it. Without them they stay as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    config: Option<BTreeMap<String, String>>,
    /// Take it without a signature.
    #[serde(default, skip_serializing_if = "is_no")]
    allow_unsigned: bool,
    /// Take it in the place of a newer version.
    #[serde(default, skip_serializing_if = "is_no")]
    allow_downgrade: bool,
    /// Take it in the place of another publisher's.
    #[serde(default, skip_serializing_if = "is_no")]
    allow_publisher: bool,
    /// Fetch it by plain HTTP from another machine.
    #[serde(default, skip_serializing_if = "is_no")]
    plain_http: bool,
}

const fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
const fn is_no(value: &bool) -> bool {
    !*value
}

/// What there is, as it would be said in a preseed.
pub(crate) async fn dump(client: &Client) -> Result<(Vec<KeySeed>, Vec<PluginSeed>)> {
    let keys = keys(client).await?.into_iter().filter(|key| !key.revoked);
    let keys = keys.map(|key| KeySeed {
        name: key.name,
        key: key.key,
    });
    let plugins = plugins(client)
        .await?
        .into_iter()
        // One that could not be loaded has no digest, and what it was granted is not shown.
        .filter(|plugin| plugin.origin == "installed" && !plugin.digest.is_empty());
    let plugins = plugins.map(|plugin| PluginSeed {
        source: plugin.source,
        digest: format!("sha256:{}", plugin.digest),
        signature: None,
        grants: plugin.permissions.names,
        enabled: plugin.state != "disabled",
        config: None,
        allow_unsigned: plugin.signature.kind == "unsigned",
        allow_downgrade: false,
        allow_publisher: false,
        plain_http: false,
    });
    Ok((keys.collect(), plugins.collect()))
}

async fn keys(client: &Client) -> Result<Vec<PluginKey>> {
    none_without_plugins(client.get(ApiPath::new(["plugin-keys"]).query("recursion", "1")).await)
}

/// All plugins of a daemon.
pub(crate) async fn plugins(client: &Client) -> Result<Vec<Plugin>> {
    none_without_plugins(client.get(ApiPath::new(["plugins"]).query("recursion", "1")).await)
}

/// Other daemons than Hutch's have no plugins.
fn none_without_plugins<T>(found: Result<Vec<T>>) -> Result<Vec<T>> {
    match found {
        Err(error) if error.status() == Some(404) => Ok(Vec::new()),
        other => other,
    }
}

/// Has the keys trusted. One that was revoked is not trusted again by a file from before.
pub(crate) async fn apply_keys(ctx: &Context, client: &Client, seeds: &[KeySeed]) -> Result<()> {
    if seeds.is_empty() {
        return Ok(());
    }
    let known = keys(client).await?;
    for seed in seeds {
        let wanted = plain_key(&seed.key);
        match known.iter().find(|key| key.key == wanted) {
            Some(key) if key.revoked => {
                return Err(Error::usage(format!(
                    "the key {} of {} was revoked here; `hutch plugin trust add` trusts it again",
                    key.id, key.name
                )));
            }
            Some(key) if key.name == seed.name => continue,
            _ => {}
        }
        let post = PluginKeysPost {
            name: seed.name.clone(),
            key: wanted.to_owned(),
        };
        let path = ApiPath::new(["plugin-keys"]);
        client.send(Method::POST, path, &post, None).await?;
        ctx.say(&format!("Trusting the key of {}", seed.name))?;
    }
    Ok(())
}

/// A public key as the daemon shows it, of a text that may be the content of its file, with a comment before it.
fn plain_key(text: &str) -> &str {
    let mut lines = text.lines().map(str::trim);
    lines.rfind(|line| !line.is_empty()).unwrap_or_default()
}

/// Has the plugins there, in service or not, with these grants and no others.
pub(crate) async fn apply_plugins(ctx: &Context, target: &Target, seeds: &[PluginSeed]) -> Result<()> {
    for seed in seeds {
        let id = present(ctx, target, seed)
            .await
            .map_err(|error| error.about(&seed.source))?;
        settle(ctx, &target.client, &id, seed)
            .await
            .map_err(|error| error.about(&id))?;
    }
    Ok(())
}

/// Has the version there, and answers with the plugin's id.
async fn present(ctx: &Context, target: &Target, seed: &PluginSeed) -> Result<String> {
    let known = plugins(&target.client).await?;
    let wanted = seed.digest.strip_prefix("sha256:").unwrap_or(&seed.digest);
    if !wanted.is_empty()
        && seed.config.is_none()
        && let Some(plugin) = known.iter().find(|plugin| plugin.digest == wanted)
    {
        return Ok(plugin.id.clone());
    }
    let source = Source {
        place: &seed.source,
        digest: &seed.digest,
        signature: seed.signature.as_deref(),
        allow_unsigned: seed.allow_unsigned,
        plain_http: seed.plain_http,
    };
    let collection = ApiPath::new(["plugins"]);
    let offer = install::examine(ctx, target, collection.clone(), &source).await?;
    // One that could not be loaded, which has no digest, is installed anew.
    let here = known
        .iter()
        .find(|plugin| plugin.id == offer.id && !plugin.digest.is_empty());
    if seed.config.is_none() && here.is_some_and(|plugin| plugin.digest == offer.digest) {
        return Ok(offer.id);
    }
    take_in(ctx, target, seed, &offer, here).await?;
    Ok(offer.id)
}

async fn take_in(
    ctx: &Context,
    target: &Target,
    seed: &PluginSeed,
    offer: &PluginOffer,
    here: Option<&Plugin>,
) -> Result<()> {
    // Before anything is decided: a refused file leaves no version that waits.
    let despite = |doubt: &&PluginDoubt| match doubt.kind.as_str() {
        "downgrade" => seed.allow_downgrade,
        "publisher" => seed.allow_publisher,
        _ => false,
    };
    let open: Vec<&PluginDoubt> = offer.doubts.iter().filter(|doubt| !despite(doubt)).collect();
    doubted(offer, &open)?;
    let post = PluginsPost {
        grants: Some(seed.named()),
        config: seed.config.clone(),
        allow_downgrade: seed.allow_downgrade,
        allow_publisher: seed.allow_publisher,
        ..PluginsPost::default()
    };
    let path = match here {
        Some(plugin) => ApiPath::new(["plugins", &plugin.id, "upgrade"]),
        None => ApiPath::new(["plugins"]),
    };
    if let Some(held) = install::decide(ctx, target, path, offer, post).await? {
        // Somebody has brought another version meanwhile.
        doubted(offer, &held.doubts.iter().collect::<Vec<_>>())?;
        return Err(Error::usage(format!("version {} waits for a decision", offer.version)));
    }
    match here {
        Some(plugin) if plugin.digest == offer.digest => Ok(()),
        Some(_) => ctx.say(&format!("Upgraded {} to {}", offer.id, offer.version)),
        None => ctx.say(&format!("Installed {} {}", offer.id, offer.version)),
    }
}

/// Refuses a version against which something speaks.
fn doubted(offer: &PluginOffer, doubts: &[&PluginDoubt]) -> Result<()> {
    if doubts.is_empty() {
        return Ok(());
    }
    let why: Vec<&str> = doubts.iter().map(|doubt| doubt.reason.as_str()).collect();
    Err(Error::usage(format!(
        "version {} {}: allow_downgrade or allow_publisher takes it into use all the same",
        offer.version,
        why.join(", and it ")
    )))
}

/// Has it granted what is said, and in service or not.
async fn settle(ctx: &Context, client: &Client, id: &str, seed: &PluginSeed) -> Result<()> {
    let path = |what: &str| ApiPath::new(["plugins", id, what]);
    let before: Plugin = client.get(ApiPath::new(["plugins", id])).await?;
    let put = PluginGrantsPut {
        action: "set".to_owned(),
        permissions: seed.named(),
    };
    client
        .change(Method::PUT, path("grants"), &put, &Progress::hidden())
        .await?;
    if seed.enabled != (before.state != "disabled") {
        let action = if seed.enabled { "enable" } else { "disable" };
        let put = PluginStatePut {
            action: action.to_owned(),
        };
        client.send(Method::PUT, path("state"), &put, None).await?;
    }
    let after: Plugin = client.get(ApiPath::new(["plugins", id])).await?;
    if after.permissions.names != before.permissions.names {
        let names = after.permissions.names.join(", ");
        ctx.say(&format!(
            "{id} may {}",
            if names.is_empty() { "nothing" } else { &names }
        ))?;
    }
    if after.state != before.state && (after.state == "disabled" || before.state == "disabled") {
        ctx.say(&format!("{id} is {}", after.state))?;
    }
    Ok(())
}

impl PluginSeed {
    fn named(&self) -> Vec<String> {
        if self.grants.is_empty() {
            vec!["none".to_owned()]
        } else {
            self.grants.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_same_however_it_is_written() {
        for text in [
            "RWkey",
            " RWkey \n",
            "untrusted comment: x\nRWkey\n",
            "untrusted comment: x\r\n\r\nRWkey\r\n\r\n",
        ] {
            assert_eq!(plain_key(text), "RWkey", "{text:?}");
        }
        assert_eq!(plain_key(""), "");
    }
}

//! `plugin install` and `plugin upgrade`: the file goes to the daemon, which says what is in it; what it asks for is shown and
//! granted; then the daemon is told to use it.

use std::path::Path;

use clap::Args;
use hutch_api::plugin::{PluginHeld, PluginOffer, PluginPermission, PluginSignature, PluginSource, PluginsPost};
use hyper::Method;
use hyper::header::CONTENT_TYPE;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::find;
use crate::client::{ApiPath, whole_body};
use crate::context::{Context, Target};
use crate::edit;
use crate::error::{Error, Result};
use crate::keyvalue;
use crate::terminal;

/// Bytes of the largest plugin that a daemon takes.
const LARGEST: u64 = 32 << 20;
/// Bytes of the largest signature.
const LARGEST_SIGNATURE: u64 = 8 << 10;

#[derive(Debug, Args)]
pub(crate) struct InstallArgs {
    /// The plugin's file, or the address that the daemon fetches it from: https://… or, in a registry, oci://HOST/NAME:TAG
    #[arg(value_name = "FILE|URL")]
    source: String,
    /// The daemon
    #[arg(value_name = "REMOTE:")]
    remote: Option<String>,
    #[command(flatten)]
    choice: Choice,
}

#[derive(Debug, Args)]
pub(crate) struct UpgradeArgs {
    /// The plugin
    #[arg(value_name = "[REMOTE:]PLUGIN")]
    plugin: String,
    /// The new version's file, or the address that the daemon fetches it from: https://… or, in a registry, oci://HOST/NAME:TAG
    #[arg(value_name = "FILE|URL")]
    source: String,
    #[command(flatten)]
    choice: Choice,
    /// Take it into use although it is older than the version in use
    #[arg(long)]
    allow_downgrade: bool,
    /// Take it into use although another publisher signed it, or nobody
    #[arg(long)]
    allow_publisher: bool,
}

/// What is said about a file beforehand.
#[derive(Debug, Args)]
pub(crate) struct Choice {
    /// Grant this of what it asks for (link, service=dnsmasq, http, all, none); may be given several times
    #[arg(short, long = "grant", value_name = "PERMISSION")]
    grants: Vec<String>,
    /// Grant all that it asks for, of an upgrade all that is new, without asking
    #[arg(short, long, conflicts_with = "grants")]
    yes: bool,
    /// What the file's SHA-256 has to be
    #[arg(long, value_name = "sha256:DIGEST")]
    digest: Option<String>,
    /// The file's signature as minisign writes it, or its address; without this, what is beside the file with .minisig behind
    /// its name
    #[arg(long, value_name = "FILE|URL")]
    signature: Option<String>,
    /// Take what was fetched also without a signature
    #[arg(long)]
    allow_unsigned: bool,
    /// Fetch it by plain HTTP from another machine, too, where everybody on the way can read and change it
    #[arg(long)]
    plain_http: bool,
    /// A setting of the plugin's own; may be given several times
    #[arg(short, long = "config", value_name = "KEY=VALUE")]
    config: Vec<String>,
}

impl Choice {
    /// The grants, if they were said beforehand.
    fn grants(&self) -> Option<Vec<String>> {
        match (self.yes, self.grants.is_empty()) {
            (true, _) => Some(vec!["all".to_owned()]),
            (false, false) => Some(self.grants.clone()),
            (false, true) => None,
        }
    }

    fn source<'a>(&'a self, place: &'a str) -> Source<'a> {
        Source {
            place,
            digest: self.digest.as_deref().unwrap_or_default(),
            signature: self.signature.as_deref(),
            allow_unsigned: self.allow_unsigned,
            plain_http: self.plain_http,
        }
    }

    fn config(&self) -> Result<Option<std::collections::BTreeMap<String, String>>> {
        if self.config.is_empty() {
            return Ok(None);
        }
        keyvalue::pairs(&self.config).map(Some)
    }
}

/// `hutch plugin install FILE`.
pub(crate) async fn install(ctx: &Context, args: InstallArgs) -> Result<()> {
    let target = ctx.daemon(args.remote.as_deref())?;
    let path = ApiPath::new(["plugins"]);
    let offer = examine(ctx, &target, path.clone(), &args.choice.source(&args.source)).await?;
    refuse_another(&offer, &args.source)?;
    let again = format!("hutch plugin install {}", quoted(&args.source));
    let grants = match args.choice.grants() {
        Some(grants) => grants,
        None if offer.permissions.is_empty() => vec!["none".to_owned()],
        None => ask(&offer, &offer.permissions, &again)?.ok_or_else(|| Error::usage("nothing was installed"))?,
    };
    let post = PluginsPost {
        grants: Some(grants),
        config: args.choice.config()?,
        ..PluginsPost::default()
    };
    decide(ctx, &target, path, &offer, post).await?;
    is_installed(ctx, &offer)
}

/// Refuses what is there in another version.
fn refuse_another(offer: &PluginOffer, place: &str) -> Result<()> {
    if offer.present.is_empty() || offer.present == offer.version {
        return Ok(());
    }
    Err(Error::usage(format!(
        "{} {} is there already; `hutch plugin upgrade {} {}` brings this version of it",
        offer.id,
        offer.present,
        offer.id,
        quoted(place)
    )))
}

/// Installs the plugin that is at `place` with all that it asks for, once that is shown and agreed to; `None` is a no.
pub(crate) async fn if_agreed(ctx: &Context, target: &Target, place: &str) -> Result<Option<PluginOffer>> {
    let path = ApiPath::new(["plugins"]);
    let source = Source {
        place,
        digest: "",
        signature: None,
        allow_unsigned: false,
        plain_http: false,
    };
    let offer = examine(ctx, target, path.clone(), &source).await?;
    refuse_another(&offer, place)?;
    let grants = match offer.permissions.as_slice() {
        [] => Some(vec!["none".to_owned()]),
        wanted => agreed(&offer, wanted)?,
    };
    if grants.is_none() {
        return Ok(None);
    }
    let post = PluginsPost {
        grants,
        ..PluginsPost::default()
    };
    decide(ctx, target, path, &offer, post).await?;
    is_installed(ctx, &offer)?;
    Ok(Some(offer))
}

fn is_installed(ctx: &Context, offer: &PluginOffer) -> Result<()> {
    let (id, version) = (&offer.id, &offer.version);
    ctx.say(&format!(
        "{id} {version} is installed ({})",
        signature(&offer.signature)
    ))
}

/// `hutch plugin upgrade PLUGIN FILE`.
pub(crate) async fn upgrade(ctx: &Context, args: UpgradeArgs) -> Result<()> {
    let (target, id) = find(ctx, &args.plugin).await?;
    let path = ApiPath::new(["plugins", &id, "upgrade"]);
    let offer = examine(ctx, &target, path.clone(), &args.choice.source(&args.source)).await?;
    let asks = terminal::stdin_is_terminal();
    let despite = |kind: &str| match kind {
        "downgrade" => args.allow_downgrade,
        "publisher" => args.allow_publisher,
        _ => false,
    };
    let open: Vec<_> = offer.doubts.iter().filter(|doubt| !despite(&doubt.kind)).collect();
    // What was shown is agreed to, and nothing that may turn up since.
    let shown = |kind: &str| open.iter().any(|doubt| doubt.kind == kind);
    let mut agreed = false;
    if !open.is_empty() && asks && !args.choice.yes {
        for doubt in &open {
            eprintln!("{id} {} {}.", offer.version, doubt.reason);
        }
        agreed = edit::confirm("Take it into use all the same?")?;
    }
    let grants = match args.choice.grants() {
        Some(grants) => Some(grants),
        None if offer.more.is_empty() || !asks => None,
        None => ask(&offer, &offer.more, "")?,
    };
    let post = PluginsPost {
        allow_downgrade: args.allow_downgrade || agreed && shown("downgrade"),
        allow_publisher: args.allow_publisher || agreed && shown("publisher"),
        grants,
        config: args.choice.config()?,
        ..PluginsPost::default()
    };
    match decide(ctx, &target, path, &offer, post).await? {
        None => ctx.say(&format!("{id} is version {} now", offer.version)),
        Some(held) => {
            ctx.say(&format!("{id} {} is stored and not in use", offer.version))?;
            tell_held(ctx, &id, &held)
        }
    }
}

/// Where a plugin is, and what is said about it beforehand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'a> {
    /// A file or an address.
    pub(crate) place: &'a str,
    /// What the SHA-256 of its file has to be; empty where nothing is said.
    pub(crate) digest: &'a str,
    /// The file or address of its signature, where it is not beside it.
    pub(crate) signature: Option<&'a str>,
    /// Whether it may come from elsewhere without one.
    pub(crate) allow_unsigned: bool,
    /// Whether it may come by plain HTTP.
    pub(crate) plain_http: bool,
}

/// Sends the file, or has the daemon fetch it, and returns what the daemon found in it.
pub(crate) async fn examine(ctx: &Context, target: &Target, path: ApiPath, source: &Source<'_>) -> Result<PluginOffer> {
    let place = source.place;
    let post = |from: PluginSource| PluginsPost {
        source: PluginSource {
            digest: source.digest.to_owned(),
            ..from
        },
        examine: true,
        allow_unsigned: source.allow_unsigned,
        ..PluginsPost::default()
    };
    if is_address(place) {
        let post = post(PluginSource {
            kind: "url".to_owned(),
            url: place.to_owned(),
            plain_http: source.plain_http,
            signature_url: source.signature.unwrap_or_default().to_owned(),
            ..PluginSource::default()
        });
        let progress = ctx.progress(&format!("Fetching {place}"));
        let metadata = target.client.change(Method::POST, path, &post, &progress).await?;
        return field(&metadata, "plugin");
    }
    let file = Path::new(place);
    let post = post(PluginSource {
        kind: "upload".to_owned(),
        name: file.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        ..PluginSource::default()
    });
    let signature = signature_of(file, source.signature)?;
    send(ctx, target, path, &post, (read(file, LARGEST)?, signature)).await
}

/// Sends a file with its signature, and returns what the daemon found in it.
pub(super) async fn send(
    ctx: &Context,
    target: &Target,
    path: ApiPath,
    post: &PluginsPost,
    (file, signature): (Vec<u8>, Option<Vec<u8>>),
) -> Result<PluginOffer> {
    let request = serde_json::to_vec(post).map_err(|source| Error::Json {
        what: "the request".to_owned(),
        source,
    })?;
    let mut parts = vec![("request", request), ("plugin", file)];
    parts.extend(signature.map(|signature| ("signature", signature)));
    let (body, kind) = form(&parts);
    let headers = [(CONTENT_TYPE.as_str(), kind)];
    let answer = target
        .client
        .send_body(Method::POST, path, &headers, whole_body(body))
        .await?;
    let progress = ctx.progress(&format!("Examining {}", post.source.name));
    let metadata = target.client.finish(answer, &progress).await?;
    field(&metadata, "plugin")
}

fn is_address(source: &str) -> bool {
    ["https://", "http://", "oci://"]
        .iter()
        .any(|scheme| source.starts_with(scheme))
}

/// A word as a shell takes it for itself, when a line is pasted.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "%+,-./:=@_".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The signature that was named, or that lies beside the file.
fn signature_of(file: &Path, named: Option<&str>) -> Result<Option<Vec<u8>>> {
    if let Some(named) = named {
        return read(Path::new(named), LARGEST_SIGNATURE).map(Some);
    }
    let mut beside = file.as_os_str().to_owned();
    beside.push(".minisig");
    let beside = Path::new(&beside);
    if beside.exists() {
        return read(beside, LARGEST_SIGNATURE).map(Some);
    }
    Ok(None)
}

/// Has the daemon use a file that it has examined, and returns what it waits for, if it is held.
pub(crate) async fn decide(
    ctx: &Context,
    target: &Target,
    path: ApiPath,
    offer: &PluginOffer,
    post: PluginsPost,
) -> Result<Option<PluginHeld>> {
    let post = PluginsPost {
        source: PluginSource {
            kind: "stored".to_owned(),
            digest: offer.digest.clone(),
            ..PluginSource::default()
        },
        ..post
    };
    let progress = ctx.progress(&format!("Installing {}", offer.id));
    let metadata = target.client.change(Method::POST, path, &post, &progress).await?;
    let held = field::<bool>(&metadata, "held")?;
    Ok(held.then_some(PluginHeld {
        missing: field(&metadata, "missing")?,
        doubts: field(&metadata, "doubts")?,
    }))
}

fn field<T: DeserializeOwned>(metadata: &Value, name: &str) -> Result<T> {
    serde_json::from_value(metadata[name].clone()).map_err(|source| Error::Json {
        what: format!("{name} in the daemon's answer"),
        source,
    })
}

/// Shows what is asked for and asks whether it is granted; `None` is a no. `again` is what to type instead where nobody can
/// answer.
fn ask(offer: &PluginOffer, wanted: &[PluginPermission], again: &str) -> Result<Option<Vec<String>>> {
    let list = listed(wanted);
    if !terminal::stdin_is_terminal() {
        return Err(Error::usage(format!(
            "{} {} asks to be allowed to\n{list}Nobody is there to answer: add --yes to grant all of it, or --grant \
             PERMISSION for each part, or --grant none:\n  {again} --yes",
            offer.id, offer.version
        )));
    }
    agreed(offer, wanted)
}

/// Shows what is asked for, and answers with the names of that if it is granted; `None` is a no.
fn agreed(offer: &PluginOffer, wanted: &[PluginPermission]) -> Result<Option<Vec<String>>> {
    let list = listed(wanted);
    eprintln!("{} {}: {}", offer.id, offer.version, offer.description);
    eprintln!("Signature: {}", signature(&offer.signature));
    eprintln!("Digest: sha256:{}", offer.digest);
    eprintln!("From: {}", offer.source);
    eprint!("It asks to be allowed to\n{list}");
    let granted = edit::confirm("Grant all of this?")?;
    Ok(granted.then(|| wanted.iter().map(|permission| permission.name.clone()).collect()))
}

/// Permissions with their meanings, a line each.
pub(super) fn listed(permissions: &[PluginPermission]) -> String {
    let width = permissions.iter().map(|p| p.name.chars().count()).max().unwrap_or(0);
    permissions
        .iter()
        .map(|permission| format!("  {:width$}  {}\n", permission.name, permission.meaning))
        .collect()
}

/// Says what a held version waits for, and what to type.
pub(super) fn tell_held(ctx: &Context, id: &str, held: &PluginHeld) -> Result<()> {
    let mut text = String::from("It waits for you:\n");
    for doubt in &held.doubts {
        text.push_str(&format!("  it {}\n", doubt.reason));
    }
    if !held.missing.is_empty() {
        text.push_str("  it asks for more than was granted, to be allowed to\n");
        for line in listed(&held.missing).lines() {
            text.push_str(&format!("  {line}\n"));
        }
    }
    let without = if held.missing.is_empty() {
        format!("`hutch plugin grant {id} none` takes the version into use")
    } else {
        format!(
            "`hutch plugin grant {id} all` grants what is new and takes the version into use; `hutch plugin grant {id} none` takes it \
             into use without"
        )
    };
    ctx.say(&format!("{text}{without}"))
}

/// Who answers for a file, in one word or two.
pub(super) fn signature(signature: &PluginSignature) -> String {
    match signature.kind.as_str() {
        "signed" => format!("signed by {}", signature.publisher),
        other => other.to_owned(),
    }
}

fn read(path: &Path, largest: u64) -> Result<Vec<u8>> {
    let failed = |error| Error::file("cannot read", path, error);
    let size = std::fs::metadata(path).map_err(failed)?.len();
    if size > largest {
        return Err(Error::usage(format!(
            "{} has {size} bytes, and at most {largest} are taken",
            path.display()
        )));
    }
    std::fs::read(path).map_err(failed)
}

/// A body of several parts as RFC 7578 says, and its content type. The boundary is one that is in none of them.
fn form(parts: &[(&str, Vec<u8>)]) -> (Vec<u8>, String) {
    let mut number = 0_u64;
    let contains = |content: &[u8], text: &[u8]| content.windows(text.len()).any(|window| window == text);
    let boundary = loop {
        let boundary = format!("hutch-{number:016x}");
        if !parts.iter().any(|(_, content)| contains(content, boundary.as_bytes())) {
            break boundary;
        }
        number += 1;
    };
    let mut body = Vec::new();
    for (name, content) in parts {
        let head = format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n");
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    (body, format!("multipart/form-data; boundary={boundary}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boundary_is_in_no_part() {
        let (body, kind) = form(&[("a", b"hutch-0000000000000000".to_vec()), ("b", b"x".to_vec())]);
        assert_eq!(kind, "multipart/form-data; boundary=hutch-0000000000000001");
        let text = String::from_utf8(body).unwrap();
        assert!(text.ends_with("\r\n\r\nx\r\n--hutch-0000000000000001--\r\n"), "{text}");
    }

    #[test]
    fn a_pasted_line_says_what_was_meant() {
        assert_eq!(quoted("oci://h:5000/a/b:1@sha256:00"), "oci://h:5000/a/b:1@sha256:00");
        assert_eq!(quoted("a b.wasm"), "'a b.wasm'");
        assert_eq!(quoted("x'; rm -rf ~ #"), r"'x'\''; rm -rf ~ #'");
        assert_eq!(quoted("$(x)"), "'$(x)'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn permissions_are_listed_one_below_the_other() {
        let permission = |name: &str, meaning: &str| PluginPermission {
            name: name.to_owned(),
            meaning: meaning.to_owned(),
            granted: false,
        };
        assert_eq!(
            listed(&[permission("link", "do this"), permission("service=d", "do that")]),
            "  link       do this\n  service=d  do that\n"
        );
    }
}

//! `plugin save` and `plugin load`: plugins with their signatures in one file, for machines that nothing can be fetched from.

use std::io::{BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use hutch_api::plugin::{Plugin, PluginOffer, PluginSource, PluginsPost};

use super::archive::{self, Archive, ArchiveError, Saved};
use super::{all, choose, install};
use crate::client::{ApiPath, Client};
use crate::context::{Context, Target};
use crate::edit;
use crate::error::{Error, Result};
use crate::terminal;

#[derive(Debug, Args)]
pub(crate) struct SaveArgs {
    /// The plugins
    #[arg(value_name = "PLUGIN", required = true)]
    plugins: Vec<String>,
    /// The archive that is written
    #[arg(short, long, value_name = "ARCHIVE")]
    output: PathBuf,
    /// The daemon that has them
    #[arg(long, value_name = "REMOTE:")]
    remote: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// The archive
    archive: PathBuf,
    /// The daemon
    #[arg(value_name = "REMOTE:")]
    remote: Option<String>,
    /// What to grant without asking, to each plugin of that which it asks for
    #[arg(long, value_enum)]
    grants: Option<Grants>,
    /// The same as --grants saved
    #[arg(short, long, conflicts_with = "grants")]
    yes: bool,
    /// Take plugins without a signature, too
    #[arg(long)]
    allow_unsigned: bool,
}

/// Which grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Grants {
    /// What it was granted where it was saved
    Saved,
    /// All that it asks for
    All,
    /// Nothing
    None,
}

/// `hutch plugin save PLUGIN… -o ARCHIVE`.
pub(crate) async fn save(ctx: &Context, args: SaveArgs) -> Result<()> {
    let target = ctx.daemon(args.remote.as_deref())?;
    let plugins = all(&target).await?;
    let mut parts: Vec<(Saved, Vec<u8>)> = Vec::new();
    for name in &args.plugins {
        let id = choose(&plugins, name)?;
        if parts.iter().any(|(saved, _)| saved.id == id) {
            continue;
        }
        let plugin = plugins
            .iter()
            .find(|plugin| plugin.id == id)
            .cloned()
            .unwrap_or_default();
        parts.push(part(&target.client, plugin).await?);
    }
    let failed = |error| Error::file("cannot write", &args.output, error);
    let place = args.output.parent().filter(|place| !place.as_os_str().is_empty());
    let mut file = tempfile::NamedTempFile::new_in(place.unwrap_or(Path::new("."))).map_err(failed)?;
    let mut out = BufWriter::new(&mut file);
    archive::write(&mut out, &parts).map_err(|error| broken(&args.output, error))?;
    out.flush().map_err(failed)?;
    drop(out);
    file.as_file().sync_all().map_err(failed)?;
    file.persist(&args.output).map_err(|error| failed(error.error))?;
    let names: Vec<String> = parts
        .iter()
        .map(|(saved, _)| format!("{} {}", saved.id, saved.version))
        .collect();
    ctx.say(&format!("{} has {}", args.output.display(), names.join(", ")))
}

/// A plugin with its file, as the daemon has it.
async fn part(client: &Client, plugin: Plugin) -> Result<(Saved, Vec<u8>)> {
    let path = |what: &str| ApiPath::new(["plugins", &plugin.id, what]);
    let file = client.file(path("file")).await?;
    let signature = match client.file(path("signature")).await {
        Ok(signature) => Some(String::from_utf8_lossy(&signature).into_owned()),
        Err(error) if error.status() == Some(404) => None,
        Err(error) => return Err(error),
    };
    let saved = Saved {
        version: plugin.version,
        digest: plugin.digest,
        size: file.len() as u64,
        source: plugin.source,
        signature,
        grants: plugin.permissions.names,
        id: plugin.id.clone(),
    };
    Ok((saved, file))
}

fn broken(path: &Path, source: ArchiveError) -> Error {
    Error::Archive {
        path: path.to_owned(),
        source,
    }
}

/// `hutch plugin load ARCHIVE`.
pub(crate) async fn load(ctx: &Context, args: LoadArgs) -> Result<()> {
    let target = ctx.daemon(args.remote.as_deref())?;
    let present = all(&target).await?;
    let file = std::fs::File::open(&args.archive).map_err(|error| Error::file("cannot read", &args.archive, error))?;
    // Twice: nothing is loaded from an archive that is found to be broken only at its end.
    let bad = |error| broken(&args.archive, error);
    let mut archive = Archive::open(BufReader::new(&file)).map_err(bad)?;
    while archive.next().map_err(bad)?.is_some() {}
    std::io::Seek::rewind(&mut &file).map_err(|error| Error::file("cannot read", &args.archive, error))?;
    let mut archive = Archive::open(BufReader::new(&file)).map_err(bad)?;
    while let Some((saved, file)) = archive.next().map_err(bad)? {
        // One that could not be loaded, which has no digest, is taken in anew.
        let here = present
            .iter()
            .find(|plugin| plugin.id == saved.id && !plugin.digest.is_empty());
        if here.is_some_and(|plugin| plugin.digest == saved.digest) {
            ctx.say(&format!("{} {} is there already", saved.id, saved.version))?;
            continue;
        }
        one(ctx, &target, &args, saved, file, here).await?;
    }
    Ok(())
}

/// Takes in one plugin: as a new one, or as another version of the one that is there.
async fn one(
    ctx: &Context,
    target: &Target,
    args: &LoadArgs,
    saved: Saved,
    file: Vec<u8>,
    here: Option<&Plugin>,
) -> Result<()> {
    let path = match here {
        Some(plugin) => ApiPath::new(["plugins", &plugin.id, "upgrade"]),
        None => ApiPath::new(["plugins"]),
    };
    let name = args.archive.file_name().unwrap_or_default().to_string_lossy();
    let post = PluginsPost {
        source: PluginSource {
            kind: "archive".to_owned(),
            name: format!("{name} ({})", saved.source),
            digest: saved.digest.clone(),
            ..PluginSource::default()
        },
        examine: true,
        allow_unsigned: args.allow_unsigned,
        grants: Some(saved.grants.clone()),
        ..PluginsPost::default()
    };
    let signature = saved.signature.clone().map(String::into_bytes);
    let offer = install::send(ctx, target, path.clone(), &post, (file, signature)).await?;
    if offer.id != saved.id || offer.version != saved.version {
        return Err(Error::usage(format!(
            "{}: what it calls {} {} is {} {}",
            args.archive.display(),
            saved.id,
            saved.version,
            offer.id,
            offer.version
        )));
    }
    let upgrade = here.is_some();
    let post = PluginsPost {
        grants: granted(args, &offer, upgrade)?,
        ..PluginsPost::default()
    };
    match install::decide(ctx, target, path, &offer, post).await? {
        Some(held) => {
            ctx.say(&format!("{} {} is stored and not in use", offer.id, offer.version))?;
            install::tell_held(ctx, &offer.id, &held)
        }
        None => ctx.say(&format!(
            "{} {} is {} ({})",
            offer.id,
            offer.version,
            if upgrade { "in use now" } else { "installed" },
            install::signature(&offer.signature)
        )),
    }
}

/// What is granted: as was said, or as somebody answers. An upgrade without an answer is held where it asks for more.
fn granted(args: &LoadArgs, offer: &PluginOffer, upgrade: bool) -> Result<Option<Vec<String>>> {
    // What it had there and does not ask for is nothing that could be granted: the daemon has left that out.
    let proposed = offer.grants.clone();
    let named = |names: Vec<String>| {
        Some(names)
            .filter(|names| !names.is_empty())
            .or(Some(vec!["none".to_owned()]))
    };
    let which = args.grants.or(args.yes.then_some(Grants::Saved));
    match which {
        Some(Grants::Saved) => return Ok(named(proposed)),
        Some(Grants::All) => return Ok(Some(vec!["all".to_owned()])),
        Some(Grants::None) => return Ok(Some(vec!["none".to_owned()])),
        None if offer.permissions.is_empty() => return Ok(Some(vec!["none".to_owned()])),
        None => {}
    }
    if !terminal::stdin_is_terminal() {
        if upgrade {
            return Ok(None);
        }
        return Err(Error::usage(format!(
            "{} {} asks to be allowed to\n{}Nobody is there to answer: --grants saved grants what it was granted where it was saved \
             ({}), --grants all all of it, --grants none nothing",
            offer.id,
            offer.version,
            install::listed(&offer.permissions),
            if proposed.is_empty() {
                "nothing".to_owned()
            } else {
                proposed.join(", ")
            }
        )));
    }
    eprintln!("{} {}: {}", offer.id, offer.version, offer.description);
    eprintln!("Signature: {}", install::signature(&offer.signature));
    eprintln!("From: {}", offer.source);
    eprint!("It asks to be allowed to\n{}", install::listed(&offer.permissions));
    if proposed.is_empty() {
        eprintln!("Where it was saved it was granted none of this.");
    } else {
        eprintln!("Where it was saved it was granted {}.", proposed.join(", "));
    }
    if edit::confirm(if proposed.is_empty() {
        "Take it in without?"
    } else {
        "Grant that?"
    })? {
        return Ok(named(proposed));
    }
    Err(Error::usage(format!(
        "{} was not taken in; what came before it in the archive was",
        offer.id
    )))
}

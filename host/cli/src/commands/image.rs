//! `image`.

mod alias;
mod source;
pub(crate) mod transfer;

use clap::{Args, Subcommand};
use hutch_api::Timestamp;
use hutch_api::image::{Image, ImageAliasesEntry};
use hyper::Method;
use serde_json::json;

use source::Source;

use super::image_name::is_fingerprint;
use crate::client::{ApiPath, Client};
use crate::context::{Context, Target};
use crate::error::{Error, Failures, Result};
use crate::object::Place;
use crate::output::{self, FormatArg, Table};

/// The digits of a fingerprint that are shown.
const SHORT: usize = 12;

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// List images: those of a daemon, or what an image server or source offers
    #[command(alias = "ls", after_help = SOURCES)]
    List(ListArgs),
    /// Show an image, also one of an image server or source
    Info {
        /// The image
        #[arg(value_name = "[REMOTE:]IMAGE")]
        image: String,
    },
    /// Show an image's properties, also of one of an image server or source
    Show {
        /// The image
        #[arg(value_name = "[REMOTE:]IMAGE")]
        image: String,
    },
    /// Edit an image's properties in $EDITOR, or read them from standard input
    Edit {
        /// The image
        #[arg(value_name = "[REMOTE:]IMAGE")]
        image: String,
    },
    /// Import an image from files
    Import(transfer::ImportArgs),
    /// Export an image to files
    Export(transfer::ExportArgs),
    /// Copy an image from a server or an image source
    #[command(alias = "cp")]
    Copy(transfer::CopyArgs),
    /// Delete images
    #[command(alias = "rm")]
    Delete {
        /// The images
        #[arg(value_name = "[REMOTE:]IMAGE", required = true)]
        images: Vec<String>,
    },
    /// Bring images up to date with where they came from
    Refresh {
        /// The images
        #[arg(value_name = "[REMOTE:]IMAGE", required = true)]
        images: Vec<String>,
    },
    /// Manage aliases
    #[command(subcommand)]
    Alias(alias::AliasCommand),
    /// Print a property
    GetProperty {
        /// The image
        #[arg(value_name = "[REMOTE:]IMAGE")]
        image: String,
        /// The property
        key: String,
    },
    /// Set a property
    SetProperty {
        /// The image
        #[arg(value_name = "[REMOTE:]IMAGE")]
        image: String,
        /// The property
        key: String,
        /// Its value
        value: String,
    },
    /// Remove a property
    UnsetProperty {
        /// The image
        #[arg(value_name = "[REMOTE:]IMAGE")]
        image: String,
        /// The property
        key: String,
    },
}

/// What of a source is shown.
const SOURCES: &str = "\
Of an image server (`hutch remote add`) or a source of the daemon's plugins (`hutch remote list`) the images of containers for this \
machine are shown; type=virtual-machine and architecture=NAME show others.

  hutch image list images:debian
  hutch image list debian: release=bookworm";

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// A daemon, an image server or source, and what the images must be like: a part of an alias, the beginning of a fingerprint, or
    /// KEY=VALUE with a property
    #[arg(value_name = "[REMOTE:] FILTER")]
    filters: Vec<String>,
    /// Which columns to show: l alias, L all aliases, f fingerprint, F whole fingerprint, p public, d description,
    /// e project, a architecture, t type, s size, u time of upload
    #[arg(
        short,
        long,
        default_value = "lfpdatsu",
        value_name = "COLUMNS",
        hide_default_value = true
    )]
    columns: String,
    /// Images of all projects
    #[arg(long)]
    all_projects: bool,
    #[command(flatten)]
    format: FormatArg,
}

impl ImageCommand {
    /// Does it.
    pub(crate) async fn run(self, ctx: &Context) -> Result<()> {
        match self {
            Self::List(args) => list(ctx, args).await,
            Self::Info { image } => info(ctx, &image).await,
            Self::Show { image } => output::print_yaml(&look_up(ctx, &image).await?.to_put()),
            Self::Edit { image } => {
                let (target, fingerprint) = find(ctx, &image).await?;
                place(&target, &fingerprint).edit::<Image>().await
            }
            Self::Import(args) => transfer::import(ctx, args).await,
            Self::Export(args) => transfer::export(ctx, args).await,
            Self::Copy(args) => transfer::copy(ctx, args).await,
            Self::Delete { images } => {
                let mut failures = Failures::default();
                for image in &images {
                    failures.note(delete(ctx, image).await);
                }
                failures.result()
            }
            Self::Refresh { images } => {
                let mut failures = Failures::default();
                for image in &images {
                    failures.note(refresh(ctx, image).await);
                }
                failures.result()
            }
            Self::Alias(command) => command.run(ctx).await,
            Self::GetProperty { image, key } => {
                let image = look_up(ctx, &image).await?;
                let value = image.properties.get(&key).map_or("", String::as_str);
                // They are a stranger's words.
                output::print_line(&output::printable(value, &['\n', '\t']))
            }
            Self::SetProperty { image, key, value } => {
                let (target, fingerprint) = find(ctx, &image).await?;
                place(&target, &fingerprint)
                    .modify::<Image>(|_, put| {
                        put.properties.insert(key, value);
                        Ok(())
                    })
                    .await
            }
            Self::UnsetProperty { image, key } => {
                let (target, fingerprint) = find(ctx, &image).await?;
                let absent = || Error::usage(format!("{image} has no property {key}"));
                let place = place(&target, &fingerprint);
                place
                    .modify::<Image>(|_, put| put.properties.remove(&key).map(drop).ok_or_else(absent))
                    .await
            }
        }
    }
}

fn place<'a>(target: &'a Target, fingerprint: &str) -> Place<'a> {
    Place {
        client: &target.client,
        path: ApiPath::new(["images", fingerprint]),
        name: &target.name,
    }
}

/// An image of a daemon, or of a source.
async fn look_up(ctx: &Context, image: &str) -> Result<Image> {
    if let Some((source, name)) = Source::of(ctx, image).await? {
        return source.image(name).await;
    }
    let (target, fingerprint) = find(ctx, image).await?;
    place(&target, &fingerprint).get().await
}

/// The daemon that an image is on, with the name it was given, and its fingerprint or the beginning of it.
async fn find(ctx: &Context, image: &str) -> Result<(Target, String)> {
    let target = ctx.named(image)?;
    let fingerprint = fingerprint(&target.client, &target.name).await?;
    Ok((target, fingerprint))
}

/// What an alias stands for, or the fingerprint (or its beginning) itself.
async fn fingerprint(client: &Client, name: &str) -> Result<String> {
    match client
        .get::<ImageAliasesEntry>(ApiPath::new(["images", "aliases", name]))
        .await
    {
        Ok(alias) => Ok(alias.target),
        Err(error) if error.status() == Some(404) && is_fingerprint(name) => Ok(name.to_owned()),
        Err(error) if error.status() == Some(404) => Err(Error::usage(format!(
            "there is no image called {name:?}; `hutch image list` shows those there are"
        ))),
        Err(error) => Err(error),
    }
}

async fn delete(ctx: &Context, image: &str) -> Result<()> {
    let (target, fingerprint) = find(ctx, image).await?;
    let progress = ctx.progress(&target.name);
    let gone = target
        .client
        .remove(ApiPath::new(["images", &fingerprint]), &progress)
        .await;
    gone.map(drop).map_err(|error| error.about(&target.name))
}

async fn refresh(ctx: &Context, image: &str) -> Result<()> {
    let (target, fingerprint) = find(ctx, image).await?;
    let progress = ctx.progress(&target.name);
    let path = ApiPath::new(["images", &fingerprint, "refresh"]);
    let done = target.client.change(Method::POST, path, &json!({}), &progress).await;
    let metadata = done.map_err(|error| error.about(&target.name))?;
    let refreshed = metadata["refreshed"].as_bool() == Some(true);
    ctx.say(&format!(
        "{} {}",
        target.name,
        if refreshed {
            "is now up to date"
        } else {
            "was up to date already"
        }
    ))
}

/// The columns that images have.
fn title(letter: char) -> Option<&'static str> {
    Some(match letter {
        'l' => "ALIAS",
        'L' => "ALIASES",
        'f' | 'F' => "FINGERPRINT",
        'p' => "PUBLIC",
        'd' => "DESCRIPTION",
        'e' => "PROJECT",
        'a' => "ARCHITECTURE",
        't' => "TYPE",
        's' => "SIZE",
        'u' => "UPLOAD DATE",
        _ => return None,
    })
}

fn cell(letter: char, image: &Image) -> String {
    let names = || image.aliases.iter().map(|alias| alias.name.clone()).collect::<Vec<_>>();
    match letter {
        // The shortest is what people type.
        'l' => match (
            image
                .aliases
                .iter()
                .map(|alias| &alias.name)
                .min_by_key(|name| name.len()),
            image.aliases.len(),
        ) {
            (None, _) => String::new(),
            (Some(only), 1) => only.clone(),
            (Some(shortest), count) => format!("{shortest} ({} more)", count - 1),
        },
        'L' => names().join("\n"),
        'f' => image.fingerprint.chars().take(SHORT).collect(),
        'F' => image.fingerprint.clone(),
        'p' => if image.public { "yes" } else { "no" }.into(),
        'd' => image.properties.get("description").cloned().unwrap_or_default(),
        'e' => image.project.clone(),
        'a' => image.architecture.clone(),
        't' => image.kind.to_uppercase(),
        's' => output::bytes(image.size),
        'u' => output::minute(image.uploaded_at),
        _ => String::new(),
    }
}

fn matches(image: &Image, filter: &str) -> bool {
    match filter.split_once('=') {
        Some((key, value)) => {
            let property = key.strip_prefix("properties.").unwrap_or(key);
            let found = image.properties.get(property);
            let own = match key {
                "type" => image.kind == value,
                // The property has the distribution's name of it.
                "architecture" => image.architecture == value,
                _ => false,
            };
            own || found.is_some_and(|found| found.eq_ignore_ascii_case(value))
        }
        None => image.fingerprint.starts_with(filter) || image.aliases.iter().any(|alias| alias.name.contains(filter)),
    }
}

async fn list(ctx: &Context, args: ListArgs) -> Result<()> {
    if let Some(unknown) = args.columns.chars().find(|letter| title(*letter).is_none()) {
        return Err(Error::usage(format!(
            "there is no column {unknown:?}; `hutch image list --help` shows them"
        )));
    }
    let mut images = listed(ctx, &args).await?;
    images.sort_by(|a, b| cell('l', a).cmp(&cell('l', b)).then(a.fingerprint.cmp(&b.fingerprint)));
    let project = if args.all_projects && !args.columns.contains('e') {
        "e"
    } else {
        ""
    };
    let columns: Vec<char> = project.chars().chain(args.columns.chars()).collect();
    output::print_list(args.format.format, &images, |images| {
        let mut table = Table::new(columns.iter().filter_map(|letter| title(*letter)));
        for image in images {
            table.row(columns.iter().map(|letter| cell(*letter, image)).collect());
        }
        table
    })
}

/// What only the image itself could tell, where it has yet to be built.
fn or_unknown(text: String) -> String {
    if text.is_empty() { "unknown".into() } else { text }
}

/// The images that the arguments ask for.
async fn listed(ctx: &Context, args: &ListArgs) -> Result<Vec<Image>> {
    if let Some((first, rest)) = args.filters.split_first()
        && let Some((source, word)) = Source::of(ctx, first).await?
    {
        if args.all_projects {
            return Err(Error::usage("--all-projects is for the images of a daemon"));
        }
        let word = (!word.is_empty()).then(|| word.to_owned());
        let filters: Vec<String> = word.into_iter().chain(rest.iter().cloned()).collect();
        return source.images(&filters).await;
    }
    let (target, filters) = ctx.daemon_and_rest(&args.filters)?;
    let path = ApiPath::new(["images"])
        .query("recursion", "1")
        .of_all_projects(args.all_projects);
    let mut images: Vec<Image> = target.client.get(path).await?;
    images.retain(|image| filters.iter().all(|filter| matches(image, filter)));
    Ok(images)
}

async fn info(ctx: &Context, name: &str) -> Result<()> {
    let image = look_up(ctx, name).await?;
    let time = |at: Timestamp, never: &str| {
        let at = if at.get().is_some_and(|at| at.unix_timestamp() > 0) {
            output::minute(at)
        } else {
            String::new()
        };
        if at.is_empty() { never.to_owned() } else { at }
    };
    let aliases: Vec<_> = image.aliases.iter().map(|alias| json!(alias.name)).collect();
    let mut text = format!(
        "Fingerprint: {}\nSize: {}\nArchitecture: {}\nType: {}\nPublic: {}\nTimestamps:\n    Created: {}\n    \
         Uploaded: {}\n    Expires: {}\n    Last used: {}\n",
        or_unknown(image.fingerprint.clone()),
        or_unknown(output::bytes(image.size)),
        image.architecture,
        image.kind,
        if image.public { "yes" } else { "no" },
        time(image.created_at, "unknown"),
        time(image.uploaded_at, "unknown"),
        time(image.expires_at, "never"),
        time(image.last_used_at, "never"),
    );
    text.push_str(&output::to_yaml(&json!({"Properties": image.properties}))?);
    text.push_str(&output::to_yaml(&json!({"Aliases": aliases}))?);
    text.push_str(&format!(
        "Cached: {}\nAuto update: {}\n",
        if image.cached { "yes" } else { "no" },
        if image.auto_update { "enabled" } else { "disabled" }
    ));
    if let Some(source) = &image.update_source {
        text.push_str(&format!(
            "Source:\n    Server: {}\n    Protocol: {}\n    Alias: {}\n",
            source.server, source.protocol, source.alias
        ));
    }
    text.push_str(&output::to_yaml(&json!({"Profiles": image.profiles}))?);
    output::write_out(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_found_by_alias_fingerprint_and_property() {
        let image: Image = serde_json::from_value(json!({
            "fingerprint": "39ee91e8f729aa", "aliases": [{"name": "debian/12"}, {"name": "d"}], "type": "container",
            "properties": {"os": "Debian", "architecture": "amd64"}, "architecture": "x86_64", "size": 1536
        }))
        .unwrap();
        for filter in [
            "deb",
            "39ee",
            "os=debian",
            "properties.os=Debian",
            "type=container",
            "architecture=x86_64",
            "architecture=amd64",
        ] {
            assert!(matches(&image, filter), "{filter}");
        }
        assert!(!matches(&image, "os=Ubuntu") && !matches(&image, "9ee") && !matches(&image, "architecture=arm64"));
        let shown: Vec<_> = "lfsp".chars().map(|letter| cell(letter, &image)).collect();
        assert_eq!(shown, ["d (1 more)", "39ee91e8f729", "1.50KiB", "no"]);
    }
}

//! `image import`, `export` and `copy`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use hutch_api::image::{ImageAlias, ImageAliasesEntry, ImagesPost, ImagesPostSource};
use hyper::Method;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE};
use serde_json::Value;

use crate::client::{ApiPath, Client, Progress, empty_body, header_text, query_string};
use crate::commands::image_name;
use crate::context::{Context, Target};
use crate::error::{Error, Result};
use crate::upload::{self, Part};
use crate::{keyvalue, output};

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The image, or its metadata if the root filesystem is a file of its own; a directory that holds both; a URL
    #[arg(value_name = "FILE")]
    file: String,
    /// The root filesystem (or disk), a daemon, and properties of the image
    #[arg(value_name = "ROOTFS | REMOTE: | KEY=VALUE")]
    rest: Vec<String>,
    /// Give it a name (several times)
    #[arg(long, value_name = "NAME")]
    alias: Vec<String>,
    /// Move names that other images have
    #[arg(long)]
    reuse: bool,
    /// Let everybody have it
    #[arg(long)]
    public: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// The image
    #[arg(value_name = "[REMOTE:]IMAGE")]
    image: String,
    /// A directory, or the beginning of the files' names; here without it
    target: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct CopyArgs {
    /// The image
    #[arg(value_name = "REMOTE:IMAGE")]
    image: String,
    /// The daemon that gets it
    #[arg(value_name = "REMOTE:")]
    target: Option<String>,
    /// Give it a name (several times)
    #[arg(long, value_name = "NAME")]
    alias: Vec<String>,
    /// Give it the name that it has there
    #[arg(long)]
    copy_aliases: bool,
    /// Keep it up to date
    #[arg(long)]
    auto_update: bool,
    /// Let everybody have it
    #[arg(long)]
    public: bool,
    /// Move names that other images have
    #[arg(long)]
    reuse: bool,
}

/// What the arguments of `import` after the first mean.
#[derive(Debug, Default, PartialEq, Eq)]
struct Rest<'a> {
    rootfs: Option<&'a str>,
    remote: Option<&'a str>,
    properties: BTreeMap<String, String>,
}

fn sort(rest: &[String]) -> Result<Rest<'_>> {
    let mut sorted = Rest::default();
    for word in rest {
        if word.contains('=') {
            let (key, value) = keyvalue::pair(word)?;
            sorted.properties.insert(key, value);
        } else if word.ends_with(':') && sorted.remote.is_none() {
            sorted.remote = Some(word);
        } else if sorted.rootfs.is_none() {
            sorted.rootfs = Some(word);
        } else {
            return Err(Error::usage(format!(
                "{word:?} is neither the root filesystem's file nor REMOTE: nor KEY=VALUE"
            )));
        }
    }
    Ok(sorted)
}

/// Imports an image.
pub(crate) async fn import(ctx: &Context, args: ImportArgs) -> Result<()> {
    let rest = sort(&args.rest)?;
    let Target { client, .. } = ctx.daemon(rest.remote)?;
    let progress = ctx.progress("Importing");
    let metadata = if args.file.starts_with("https://") || args.file.starts_with("http://") {
        let source = ImagesPostSource {
            kind: "url".into(),
            mode: "pull".into(),
            url: args.file.clone(),
            ..ImagesPostSource::default()
        };
        let post = ImagesPost {
            public: args.public,
            properties: rest.properties,
            source: Some(source),
            ..ImagesPost::default()
        };
        client
            .change(Method::POST, ApiPath::new(["images"]), &post, &progress)
            .await?
    } else {
        upload(&client, &args, &rest, &progress).await?
    };
    let fingerprint = metadata["fingerprint"].as_str().unwrap_or_default();
    ctx.say(&format!("Image imported with fingerprint: {fingerprint}"))?;
    give_names(&client, fingerprint, &args.alias, args.reuse).await
}

async fn upload(client: &Client, args: &ImportArgs, rest: &Rest<'_>, progress: &Progress) -> Result<Value> {
    let file = Path::new(&args.file);
    let (file, rootfs) = if file.is_dir() {
        in_directory(file)?
    } else {
        (file.into(), rest.rootfs.map(PathBuf::from))
    };
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let query = query_string(&rest.properties);
    let (body, length, kind) = match rootfs {
        None => {
            let (body, length) = upload::single(&file, progress).await?;
            (body, length, "application/octet-stream".to_owned())
        }
        Some(rootfs) => {
            let field = if is_disk(&rootfs) { "rootfs.img" } else { "rootfs" };
            let parts = [
                Part {
                    field: "metadata",
                    path: file,
                },
                Part { field, path: rootfs },
            ];
            upload::form(&parts, progress).await?
        }
    };
    let mut headers = vec![
        (CONTENT_TYPE.as_str(), kind),
        (CONTENT_LENGTH.as_str(), length.to_string()),
    ];
    for (name_header, public_header, properties_header) in [
        ("X-LXD-filename", "X-LXD-public", "X-LXD-properties"),
        ("X-Incus-filename", "X-Incus-public", "X-Incus-properties"),
    ] {
        headers.push((name_header, header_text(&name)));
        if args.public {
            headers.push((public_header, "1".into()));
        }
        if !query.is_empty() {
            headers.push((properties_header, query.clone()));
        }
    }
    let answer = client
        .send_body(Method::POST, ApiPath::new(["images"]), &headers, body)
        .await?;
    client.finish(answer, progress).await
}

/// A disk of a virtual machine, by how its file begins or is called.
fn is_disk(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "qcow2" || extension == "img" || extension == "raw")
}

/// The metadata and the root filesystem in a directory, by the names that builders of images give them.
fn in_directory(directory: &Path) -> Result<(PathBuf, Option<PathBuf>)> {
    let failed = |error| Error::file("cannot read", directory, error);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    let one = |wanted: &dyn Fn(&str) -> bool| names.iter().find(|name| wanted(name)).map(|name| directory.join(name));
    let metadata = one(&|name| {
        ["incus.tar", "lxd.tar", "meta.tar", "metadata.tar"]
            .iter()
            .any(|start| name.starts_with(start))
    });
    let rootfs = one(&|name| {
        name.starts_with("rootfs.") || name == "disk.qcow2" || name.ends_with(".squashfs") || name.ends_with(".root")
    });
    match (metadata, rootfs) {
        (Some(metadata), Some(rootfs)) => Ok((metadata, Some(rootfs))),
        _ => Err(Error::usage(format!(
            "{} holds no image: an incus.tar.* (lxd.tar.*, meta.tar.*) beside a rootfs.* or disk.qcow2",
            directory.display()
        ))),
    }
}

/// Gives an image names; those of others are moved if `reuse`.
pub(crate) async fn give_names(client: &Client, fingerprint: &str, names: &[String], reuse: bool) -> Result<()> {
    for name in names {
        let path = ApiPath::new(["images", "aliases", name]);
        match client.get::<ImageAliasesEntry>(path.clone()).await {
            Ok(alias) if alias.target == fingerprint => continue,
            Ok(_) if reuse => {
                client.remove(path, &Progress::hidden()).await?;
            }
            Ok(_) => {
                return Err(Error::usage(format!(
                    "another image is called {name} already; --reuse moves the name"
                )));
            }
            Err(error) if error.status() == Some(404) => {}
            Err(error) => return Err(error),
        }
        let entry = ImageAliasesEntry {
            name: name.clone(),
            target: fingerprint.to_owned(),
            ..ImageAliasesEntry::default()
        };
        client
            .change(
                Method::POST,
                ApiPath::new(["images", "aliases"]),
                &entry,
                &Progress::hidden(),
            )
            .await?;
    }
    Ok(())
}

/// Exports an image.
pub(crate) async fn export(ctx: &Context, args: ExportArgs) -> Result<()> {
    let (target, fingerprint) = super::find(ctx, &args.image).await?;
    let path = ApiPath::new(["images", &fingerprint, "export"]);
    let response = target
        .client
        .raw(Method::GET, path, &[], empty_body())
        .await
        .map_err(|error| error.about(&target.name))?;
    let place = args.target.unwrap_or_else(|| ".".into());
    let saved = upload::save(response, &ctx.progress("Exporting"), |field, name| {
        // A name from elsewhere is only a name.
        let name = Path::new(name)
            .file_name()
            .map_or_else(|| fingerprint.clone().into(), std::ffi::OsStr::to_owned);
        if place.is_dir() {
            return place.join(name);
        }
        let name = name.to_string_lossy().into_owned();
        let end = ending(&name);
        let field = if field.starts_with("rootfs") { ".root" } else { "" };
        PathBuf::from(format!("{}{field}{end}", place.display()))
    })
    .await?;
    saved
        .iter()
        .try_for_each(|path| output::print_line(&path.display().to_string()))
}

/// The ending of an archive's name, with both of its parts: `.tar.gz`.
fn ending(name: &str) -> &str {
    for known in [
        ".tar.gz",
        ".tar.xz",
        ".tar.zst",
        ".tar.bz2",
        ".tar.lzma",
        ".tar",
        ".squashfs",
        ".qcow2",
        ".img",
    ] {
        if name.ends_with(known) {
            return known;
        }
    }
    ""
}

/// Copies an image from elsewhere.
pub(crate) async fn copy(ctx: &Context, args: CopyArgs) -> Result<()> {
    let target = ctx.daemon(args.target.as_deref())?;
    let source = image_name::resolve(ctx, &target.client, &args.image).await?;
    if source.mode.is_empty() {
        return Err(Error::usage(format!("{} is on this daemon already", args.image)));
    }
    let alias = source.alias.clone();
    let mut names = args.alias;
    if args.copy_aliases {
        names.push(alias.clone());
    }
    if !args.reuse {
        // Names that are taken are found before the image is fetched.
        for name in &names {
            let path = ApiPath::new(["images", "aliases", name]);
            if target.client.get::<ImageAliasesEntry>(path).await.is_ok() {
                return Err(Error::usage(format!(
                    "another image is called {name} already; --reuse moves the name"
                )));
            }
        }
    }
    let post = ImagesPost {
        auto_update: args.auto_update,
        public: args.public,
        aliases: if args.reuse {
            Vec::new()
        } else {
            names.iter().map(|name| named(name)).collect()
        },
        source: Some(ImagesPostSource {
            kind: "image".into(),
            mode: source.mode,
            server: source.server,
            protocol: source.protocol,
            alias,
            ..ImagesPostSource::default()
        }),
        ..ImagesPost::default()
    };
    let progress = ctx.progress(&args.image);
    let metadata = target
        .client
        .change(Method::POST, ApiPath::new(["images"]), &post, &progress)
        .await;
    let metadata = metadata.map_err(|error| error.about(&args.image))?;
    let fingerprint = metadata["fingerprint"].as_str().unwrap_or_default();
    if args.reuse {
        give_names(&target.client, fingerprint, &names, true).await?;
    }
    ctx.say(&format!("Image copied with fingerprint: {fingerprint}"))
}

fn named(name: &str) -> ImageAlias {
    ImageAlias {
        name: name.to_owned(),
        ..ImageAlias::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_after_the_file_are_told_apart() {
        let words = ["root.squashfs", "r:", "os=Debian"].map(str::to_owned);
        let sorted = sort(&words).unwrap();
        assert_eq!((sorted.rootfs, sorted.remote), (Some("root.squashfs"), Some("r:")));
        assert_eq!(sorted.properties["os"], "Debian");
        assert!(sort(&["a", "b"].map(str::to_owned)).is_err());
    }

    #[test]
    fn endings_keep_both_parts() {
        assert_eq!(ending("x.tar.xz"), ".tar.xz");
        assert_eq!(ending("x.squashfs"), ".squashfs");
        assert_eq!(ending("x"), "");
    }
}

//! `file`: files of an instance, over the API's own endpoint for them.

mod pull;
mod push;

use std::io::Write;

use clap::{Args, Subcommand, ValueEnum};

use crate::context::Context;
use crate::edit;
use crate::error::{Error, Result};
use crate::files::{Attributes, Content, Entry, Files, Kind};
use pull::Pull;
use push::Push;

#[derive(Debug, Subcommand)]
pub(crate) enum FileCommand {
    /// Create an empty file, a directory or a symbolic link
    Create(CreateArgs),
    /// Delete files and directories
    #[command(alias = "rm")]
    Delete {
        /// What to delete
        #[arg(value_name = "[REMOTE:]INSTANCE/PATH", required = true)]
        paths: Vec<String>,
        /// Delete directories with what is in them, and don't mind what is not there
        #[arg(short, long)]
        force: bool,
    },
    /// Edit a file in $EDITOR
    Edit {
        /// The file
        #[arg(value_name = "[REMOTE:]INSTANCE/PATH")]
        path: String,
    },
    /// Copy files from an instance
    Pull {
        /// The files, and where they go; - for standard output
        #[arg(value_names = ["[REMOTE:]INSTANCE/PATH", "TARGET"], required = true, num_args = 2..)]
        paths: Vec<String>,
        /// Make the directories that are missing
        #[arg(short = 'p', long)]
        create_dirs: bool,
        /// Copy directories with what is in them
        #[arg(short, long)]
        recursive: bool,
    },
    /// Copy files to an instance
    Push {
        /// The files (- for standard input), and where they go
        #[arg(value_names = ["SOURCE", "[REMOTE:]INSTANCE/PATH"], required = true, num_args = 2..)]
        paths: Vec<String>,
        /// Make the directories that are missing
        #[arg(short = 'p', long)]
        create_dirs: bool,
        /// Copy directories with what is in them
        #[arg(short, long)]
        recursive: bool,
        #[command(flatten)]
        attributes: AttributeArgs,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// What to create
    #[arg(value_name = "[REMOTE:]INSTANCE/PATH")]
    path: String,
    /// Where a symbolic link points
    target: Option<String>,
    /// What it is
    #[arg(long = "type", value_enum, default_value = "file")]
    kind: CreateKind,
    /// Make the directories that are missing
    #[arg(short = 'p', long)]
    create_dirs: bool,
    /// Replace what is there
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    attributes: AttributeArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CreateKind {
    File,
    Directory,
    Symlink,
}

/// Who owns a file, and who may do what with it.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct AttributeArgs {
    /// The owner, by number
    #[arg(long, value_name = "UID")]
    uid: Option<u32>,
    /// The group, by number
    #[arg(long, value_name = "GID")]
    gid: Option<u32>,
    /// The permissions, in octal
    #[arg(long, value_name = "MODE", value_parser = octal)]
    mode: Option<u32>,
}

fn octal(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o7777 => Ok(mode),
        _ => Err("permissions are an octal number up to 7777".into()),
    }
}

impl FileCommand {
    /// Does it.
    pub(crate) async fn run(self, ctx: &Context) -> Result<()> {
        match self {
            Self::Create(args) => create(ctx, &args).await,
            Self::Delete { paths, force } => {
                for path in &paths {
                    let (files, path) = locate(ctx, path)?;
                    delete(&files, &path, force).await?;
                }
                Ok(())
            }
            Self::Edit { path } => edit_file(ctx, &path).await,
            Self::Pull {
                mut paths,
                create_dirs,
                recursive,
            } => {
                let target = paths.pop().unwrap_or_default();
                Pull {
                    ctx,
                    create_dirs,
                    recursive,
                }
                .all(&paths, &target)
                .await
            }
            Self::Push {
                mut paths,
                create_dirs,
                recursive,
                attributes,
            } => {
                let target = paths.pop().unwrap_or_default();
                Push {
                    ctx,
                    create_dirs,
                    recursive,
                    attributes,
                }
                .all(&paths, &target)
                .await
            }
        }
    }
}

/// Splits `[remote:]instance/path`.
fn locate(ctx: &Context, text: &str) -> Result<(Files, String)> {
    let (instance, path) = text
        .split_once('/')
        .filter(|(instance, _)| !instance.is_empty())
        .ok_or_else(|| Error::usage(format!("{text:?} is not of the form INSTANCE/PATH")))?;
    let target = ctx.named(instance)?;
    Ok((Files::new(target.client, target.name), format!("/{path}")))
}

fn base(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
}

fn parent(path: &str) -> &str {
    path.trim_end_matches('/')
        .rsplit_once('/')
        .map_or("", |(parent, _)| parent)
}

fn join(directory: &str, name: &str) -> String {
    format!("{}/{name}", directory.trim_end_matches('/'))
}

/// Makes a directory and those above it.
async fn make_directories(files: &Files, path: &str) -> Result<()> {
    let mut made = String::new();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        made = format!("{made}/{part}");
        files.make_directory(&made, Attributes::default()).await?;
    }
    Ok(())
}

async fn create(ctx: &Context, args: &CreateArgs) -> Result<()> {
    let (files, path) = locate(ctx, &args.path)?;
    if args.create_dirs {
        make_directories(&files, parent(&path)).await?;
    }
    let directory = args.kind == CreateKind::Directory || path.ends_with('/');
    if args.force && !directory {
        delete(&files, &path, true).await?;
    } else if !directory && files.stat(&path).await?.is_some() {
        return Err(Error::usage(format!(
            "{} is there already; --force replaces it",
            args.path
        )));
    }
    let attributes = Attributes {
        uid: args.attributes.uid,
        gid: args.attributes.gid,
        mode: args.attributes.mode,
    };
    match (args.kind, &args.target) {
        _ if directory => files.make_directory(&path, attributes).await,
        (CreateKind::Symlink, Some(target)) => {
            files
                .write(&path, Kind::Symlink, attributes, target.clone().into())
                .await
        }
        (CreateKind::Symlink, None) => Err(Error::usage(
            "where does the symbolic link point? Name it after the path",
        )),
        (_, Some(_)) => Err(Error::usage(
            "only a symbolic link points somewhere; --type symlink makes one",
        )),
        (_, None) => files.write(&path, Kind::File, attributes, Content::default()).await,
    }
}

/// Deletes what is at `path`; a directory with what is in it if `all`.
async fn delete(files: &Files, path: &str, all: bool) -> Result<()> {
    if !all {
        return files.delete(path).await;
    }
    // Deepest last, so that the way back empties every directory before it goes.
    let mut found = vec![path.to_owned()];
    let mut at = 0;
    while at < found.len() {
        if let Some(Entry {
            kind: Kind::Directory, ..
        }) = files.stat(&found[at]).await?
        {
            let names = files.list(&found[at]).await?;
            found.extend(names.iter().map(|name| join(&found[at], name)).collect::<Vec<_>>());
        }
        at += 1;
    }
    for path in found.iter().rev() {
        match files.delete(path).await {
            Err(error) if error.status() == Some(404) => {}
            other => other?,
        }
    }
    Ok(())
}

async fn edit_file(ctx: &Context, text: &str) -> Result<()> {
    let (files, path) = locate(ctx, text)?;
    if let Some(content) = edit::piped()? {
        return files
            .write(&path, Kind::File, Attributes::default(), content.into())
            .await;
    }
    let mut before = Vec::new();
    let entry = files
        .read(&path, |bytes| {
            before
                .write_all(bytes)
                .map_err(|source| Error::io("cannot read", source))
        })
        .await?;
    if entry.kind != Kind::File {
        return Err(Error::usage(format!("{text} is not a file")));
    }
    let before = String::from_utf8(before).map_err(|_| Error::usage(format!("{text} is not text in UTF-8")))?;
    edit::until_it_works(&before, async |after| {
        files
            .write(&path, Kind::File, entry.attributes, after.to_owned().into())
            .await
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_octal() {
        assert_eq!(octal("0644"), Ok(0o644));
        assert!(octal("0999").is_err() && octal("17777").is_err());
    }

    #[test]
    fn paths_are_split_and_joined() {
        assert_eq!((base("/a/b/"), parent("/a/b/"), parent("/a")), ("b", "/a", ""));
        assert_eq!((join("/a/", "b"), join("", "b")), ("/a/b".into(), "/b".into()));
    }
}

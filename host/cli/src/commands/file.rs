//! `file`: files of an instance, over the API's own endpoint for them.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};

use crate::context::Context;
use crate::edit;
use crate::error::{Error, Result};
use crate::files::{Attributes, Content, Entry, Files, Kind};
use crate::output;

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

struct Push<'a> {
    ctx: &'a Context,
    create_dirs: bool,
    recursive: bool,
    attributes: AttributeArgs,
}

impl Push<'_> {
    async fn all(&self, sources: &[String], target: &str) -> Result<()> {
        let (files, target) = locate(self.ctx, target)?;
        if self.create_dirs {
            let directory = if target.ends_with('/') || sources.len() > 1 {
                &target
            } else {
                parent(&target)
            };
            make_directories(&files, directory).await?;
        }
        let into = target.ends_with('/')
            || sources.len() > 1
            || files
                .stat(&target)
                .await?
                .is_some_and(|entry| entry.kind == Kind::Directory);
        for source in sources {
            let path = Path::new(source);
            let to = match (into, path.file_name()) {
                (false, _) => target.clone(),
                (true, Some(name)) if source != "-" => join(&target, &name.to_string_lossy()),
                (true, _) => return Err(Error::usage(format!("{source}: the target has to name the file"))),
            };
            self.one(&files, path, &to).await?;
        }
        Ok(())
    }

    fn attributes(&self, metadata: Option<&fs::Metadata>) -> Attributes {
        Attributes {
            uid: self.attributes.uid.or(Some(metadata.map_or(0, MetadataExt::uid))),
            gid: self.attributes.gid.or(Some(metadata.map_or(0, MetadataExt::gid))),
            mode: self
                .attributes
                .mode
                .or(metadata.map(|metadata| metadata.mode() & 0o777)),
        }
    }

    /// Pushes a file, or a directory with what is in it.
    async fn one(&self, files: &Files, source: &Path, to: &str) -> Result<()> {
        if source == Path::new("-") {
            let mut content = Vec::new();
            io::stdin()
                .read_to_end(&mut content)
                .map_err(|source| Error::io("cannot read standard input", source))?;
            return files.write(to, Kind::File, self.attributes(None), content.into()).await;
        }
        let mut waiting = vec![(source.to_owned(), to.to_owned())];
        while let Some((from, to)) = waiting.pop() {
            let failed = |error| Error::file("cannot read", &from, error);
            // What the user names is followed; links within a directory are copied as links.
            let metadata = if from == source {
                fs::metadata(&from)
            } else {
                fs::symlink_metadata(&from)
            }
            .map_err(failed)?;
            if metadata.is_dir() {
                if !self.recursive {
                    return Err(Error::usage(format!(
                        "{} is a directory; --recursive copies it",
                        from.display()
                    )));
                }
                files.make_directory(&to, self.attributes(Some(&metadata))).await?;
                for entry in fs::read_dir(&from).map_err(failed)? {
                    let entry = entry.map_err(failed)?;
                    waiting.push((entry.path(), join(&to, &entry.file_name().to_string_lossy())));
                }
            } else if metadata.is_symlink() {
                let target = fs::read_link(&from).map_err(failed)?;
                let target = target.to_string_lossy().into_owned();
                files
                    .write(&to, Kind::Symlink, self.attributes(None), target.into())
                    .await?;
            } else if metadata.is_file() {
                let content = Content::file(&from, &metadata).await.map_err(failed)?;
                files
                    .write(&to, Kind::File, self.attributes(Some(&metadata)), content)
                    .await?;
            } else {
                return Err(Error::usage(format!(
                    "{} is neither a file nor a directory nor a link",
                    from.display()
                )));
            }
        }
        Ok(())
    }
}

struct Pull<'a> {
    ctx: &'a Context,
    create_dirs: bool,
    recursive: bool,
}

impl Pull<'_> {
    async fn all(&self, sources: &[String], target: &str) -> Result<()> {
        if target == "-" {
            for source in sources {
                let (files, path) = locate(self.ctx, source)?;
                let entry = files.read(&path, output::write_out).await?;
                if entry.kind == Kind::Directory {
                    return Err(Error::usage(format!("{source} is a directory")));
                }
            }
            return Ok(());
        }
        let path = Path::new(target);
        if self.create_dirs {
            let directory = if target.ends_with('/') || sources.len() > 1 {
                Some(path)
            } else {
                path.parent()
            };
            if let Some(directory) = directory {
                fs::create_dir_all(directory).map_err(|error| Error::file("cannot make", directory, error))?;
            }
        }
        let into = path.is_dir();
        if !into && (sources.len() > 1 || target.ends_with('/')) {
            return Err(Error::usage(format!(
                "{target} is not a directory; --create-dirs makes it"
            )));
        }
        for source in sources {
            let (files, from) = locate(self.ctx, source)?;
            let to = if into {
                path.join(safe_name(base(&from))?)
            } else {
                path.to_owned()
            };
            self.one(&files, source, &from, &to).await?;
        }
        Ok(())
    }

    /// Pulls a file, or a directory with what is in it.
    async fn one(&self, files: &Files, name: &str, from: &str, to: &Path) -> Result<()> {
        let mut waiting = vec![(from.to_owned(), to.to_owned())];
        while let Some((from, to)) = waiting.pop() {
            let Some(entry) = files.stat(&from).await? else {
                return Err(Error::usage(format!("{}{from} does not exist", files.instance())));
            };
            match entry.kind {
                Kind::Directory if !self.recursive => {
                    return Err(Error::usage(format!("{name} is a directory; --recursive copies it")));
                }
                Kind::Directory => {
                    make_local_directory(&to, &entry)?;
                    for child in files.list(&from).await? {
                        waiting.push((join(&from, &child), to.join(safe_name(&child)?)));
                    }
                }
                Kind::File => pull_file(files, &from, &to, &entry).await?,
                Kind::Symlink => {
                    let mut target = Vec::new();
                    files
                        .read(&from, |bytes| {
                            target.extend_from_slice(bytes);
                            Ok(())
                        })
                        .await?;
                    let target = PathBuf::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(
                        target,
                    ));
                    std::os::unix::fs::symlink(target, &to).map_err(|error| Error::file("cannot make", &to, error))?;
                }
            }
        }
        Ok(())
    }
}

/// A name from an instance, which must not lead out of the directory that it goes to.
fn safe_name(name: &str) -> Result<&str> {
    if name.is_empty() || name == "." || name == ".." || name.contains('/') {
        return Err(Error::usage(format!(
            "the instance has a file called {name:?}, which no file here can be called"
        )));
    }
    Ok(name)
}

fn make_local_directory(path: &Path, entry: &Entry) -> Result<()> {
    let failed = |error| Error::file("cannot make", path, error);
    match fs::create_dir(path) {
        Ok(()) => {
            // Its owner has to be able to fill it.
            let mode = entry.attributes.mode.unwrap_or(0o755) & 0o777 | 0o700;
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed)
        }
        // A link instead would lead what follows to somewhere else.
        Err(_) if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir()) => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

async fn pull_file(files: &Files, from: &str, to: &Path, entry: &Entry) -> Result<()> {
    let failed = |error| Error::file("cannot write", to, error);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(entry.attributes.mode.unwrap_or(0o644) & 0o777)
        .open(to)
        .map_err(failed)?;
    files
        .read(from, |bytes| file.write_all(bytes).map_err(failed))
        .await
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_an_instance_can_not_leave_the_directory() {
        assert!(safe_name("a b").is_ok());
        for name in ["", ".", "..", "a/b", "/etc"] {
            assert!(safe_name(name).is_err(), "{name:?}");
        }
    }

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

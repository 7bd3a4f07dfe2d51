//! `file push`.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{AttributeArgs, join, locate, make_directories, parent};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::files::{Attributes, Content, Files, Kind};

/// How files go to an instance.
pub(super) struct Push<'a> {
    pub(super) ctx: &'a Context,
    pub(super) create_dirs: bool,
    pub(super) recursive: bool,
    pub(super) attributes: AttributeArgs,
}

impl Push<'_> {
    /// Pushes every source.
    pub(super) async fn all(&self, sources: &[String], target: &str) -> Result<()> {
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

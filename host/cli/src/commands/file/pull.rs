//! `file pull`.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::{base, join, locate};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::files::{Entry, Files, Kind};
use crate::output;

/// How files come from an instance.
pub(super) struct Pull<'a> {
    pub(super) ctx: &'a Context,
    pub(super) create_dirs: bool,
    pub(super) recursive: bool,
}

impl Pull<'_> {
    /// Pulls every source.
    pub(super) async fn all(&self, sources: &[String], target: &str) -> Result<()> {
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
}

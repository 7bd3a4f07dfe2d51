//! The files of images: `images/FINGERPRINT` is the archive of a unified image or the metadata of a split one,
//! `images/FINGERPRINT.rootfs` the other half of that, `images/FINGERPRINT.templates` what instances are made with. What is not
//! an image yet lies in `images/staging`.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::pools::make_private_dir;

/// The directory of files that are not images yet.
const STAGING: &str = "staging";
/// The directory in it of downloads that can be resumed.
const DOWNLOADS: &str = "downloads";

/// What a file of an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The archive of a unified image, or the metadata of a split one.
    Main,
    /// The root file system of a split image.
    Rootfs,
    /// The templates, as JSON.
    Templates,
}

impl Part {
    const ALL: [Self; 3] = [Self::Main, Self::Rootfs, Self::Templates];

    fn suffix(self) -> &'static str {
        match self {
            Self::Main => "",
            Self::Rootfs => ".rootfs",
            Self::Templates => ".templates",
        }
    }
}

/// A file that goes with this value, unless it becomes an image's.
#[derive(Debug)]
pub struct StagedFile {
    path: PathBuf,
    file: File,
    keep: bool,
}

impl StagedFile {
    /// The file, open for reading and writing.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Takes over a file that somebody else made in the directory of staged files.
    pub(super) fn adopt(path: PathBuf) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(&path)
            .map_err(Error::io(format!("opening {}", path.display())))?;
        Ok(Self {
            path,
            file,
            keep: false,
        })
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = std::fs::remove_file(&self.path)
            && error.kind() != ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "a file that is not needed any more could not be removed");
        }
    }
}

/// The directory of images.
pub(super) struct Files {
    dir: PathBuf,
}

impl Files {
    /// Makes the directory where it is missing, and empties the staging area but for downloads that can be resumed.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let staging = dir.join(STAGING);
        make_private_dir(&staging.join(DOWNLOADS))?;
        let left = std::fs::read_dir(&staging).map_err(Error::io(format!("reading {}", staging.display())))?;
        for entry in left.flatten().filter(|entry| entry.file_name() != DOWNLOADS) {
            let path = entry.path();
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let removed = if is_dir {
                std::fs::remove_dir_all(&path)
            } else {
                std::fs::remove_file(&path)
            };
            removed.map_err(Error::io(format!("removing {}", path.display())))?;
        }
        Ok(Self { dir: dir.to_owned() })
    }

    /// Where a file of an image is.
    pub(super) fn path(&self, fingerprint: &str, part: Part) -> PathBuf {
        self.dir.join(format!("{fingerprint}{}", part.suffix()))
    }

    /// Opens a file of an image.
    pub(super) fn get(&self, fingerprint: &str, part: Part) -> Result<File> {
        let path = self.path(fingerprint, part);
        File::open(&path).map_err(Error::io(format!("opening {}", path.display())))
    }

    /// A new file that is not an image yet.
    pub(super) fn stage(&self) -> Result<StagedFile> {
        let path = self.dir.join(STAGING).join(uuid::Uuid::new_v4().to_string());
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let file = options
            .open(&path)
            .map_err(Error::io(format!("making {}", path.display())))?;
        Ok(StagedFile {
            path,
            file,
            keep: false,
        })
    }

    /// A new directory for what a driver builds; it goes when it is dropped.
    pub(super) fn scratch(&self) -> Result<ScratchDir> {
        let path = self.dir.join(STAGING).join(uuid::Uuid::new_v4().to_string());
        make_private_dir(&path)?;
        Ok(ScratchDir(path))
    }

    /// Where downloads are kept while they are incomplete.
    pub(super) fn downloads(&self) -> PathBuf {
        self.dir.join(STAGING).join(DOWNLOADS)
    }

    /// Makes a staged file a file of an image. It has reached the disk when this returns.
    pub(super) fn keep(&self, mut staged: StagedFile, fingerprint: &str, part: Part) -> Result<()> {
        let path = self.path(fingerprint, part);
        let action = || format!("keeping {}", path.display());
        staged.file.sync_all().map_err(Error::io(action()))?;
        std::fs::rename(&staged.path, &path).map_err(Error::io(action()))?;
        staged.keep = true;
        File::open(&self.dir)
            .and_then(|dir| dir.sync_all())
            .map_err(Error::io(action()))
    }

    /// Writes a small file of an image.
    pub(super) fn write(&self, fingerprint: &str, part: Part, content: &[u8]) -> Result<()> {
        use std::io::Write;
        let staged = self.stage()?;
        (&staged.file)
            .write_all(content)
            .map_err(Error::io(format!("writing {}", staged.path.display())))?;
        self.keep(staged, fingerprint, part)
    }

    /// Removes the files of an image.
    pub(super) fn remove(&self, fingerprint: &str) -> Result<()> {
        for part in Part::ALL {
            let path = self.path(fingerprint, part);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(Error::io(format!("removing {}", path.display()))(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes the files of images that are not among `known`.
    pub(super) fn sweep(&self, known: &BTreeSet<String>) -> Result<()> {
        let entries = std::fs::read_dir(&self.dir).map_err(Error::io(format!("reading {}", self.dir.display())))?;
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| *name != STAGING) else {
                continue;
            };
            let fingerprint = name.split('.').next().unwrap_or_default();
            if !known.contains(fingerprint) {
                tracing::info!(file = name, "removing a file of an image that is not there");
                std::fs::remove_file(entry.path())
                    .map_err(Error::io(format!("removing {}", entry.path().display())))?;
            }
        }
        Ok(())
    }
}

/// A directory that goes with this value.
pub(super) struct ScratchDir(PathBuf);

impl ScratchDir {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "a scratch directory could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_not_kept_goes() {
        let dir = std::env::temp_dir().join(format!("hutch-files-{}", uuid::Uuid::new_v4()));
        let files = Files::open(&dir).unwrap();
        let staged = files.stage().unwrap();
        staged.file().write_all(b"x").unwrap();
        assert_eq!(names(&dir.join(STAGING)).len(), 2);
        drop(staged);
        assert_eq!(names(&dir.join(STAGING)), [DOWNLOADS]);
        let kept = files.stage().unwrap();
        files.keep(kept, "abc", Part::Main).unwrap();
        files.write("abc", Part::Templates, b"{}").unwrap();
        files.write("def", Part::Main, b"orphan").unwrap();
        std::mem::forget(files.stage().unwrap());
        let files = Files::open(&dir).unwrap();
        assert_eq!(names(&dir.join(STAGING)), [DOWNLOADS]);
        files.sweep(&BTreeSet::from(["abc".to_owned()])).unwrap();
        assert_eq!(names(&dir), ["abc", "abc.templates", STAGING]);
        files.remove("abc").unwrap();
        assert_eq!(names(&dir), [STAGING]);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}

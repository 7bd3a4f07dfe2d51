//! What the entries of an archive are for, by their names.

use serde::{Deserialize, Serialize};

use crate::entry::{Entry, EntryPath, Kind};
use crate::error::{Error, Refusal, Result};
use crate::metadata::{METADATA_FILE, ROOTFS_DIR, TEMPLATES_DIR, is_template_name};

/// What an archive holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Content {
    /// `metadata.yaml`, `templates/` and `rootfs/` in one archive.
    Unified,
    /// `metadata.yaml` and `templates/`: the first half of a split image.
    Metadata,
    /// The root file system itself: the second half of a split image.
    Rootfs,
}

/// Where an entry belongs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Into the root file system; the entry's path has been made relative to it.
    Root,
    Metadata,
    /// A template of this name.
    Template(String),
    /// Nothing that the image needs.
    Elsewhere,
}

impl Content {
    /// Whether archives of this kind have a root file system.
    pub(crate) fn has_rootfs(self) -> bool {
        self != Self::Metadata
    }

    /// Whether they have `metadata.yaml`.
    pub(crate) fn has_metadata(self) -> bool {
        self != Self::Rootfs
    }

    /// Finds an entry's place, and makes its path (and that of the file it is a link to) relative to the root file system.
    pub(crate) fn place(self, entry: &mut Entry) -> Result<Place> {
        if self == Self::Rootfs {
            return Ok(Place::Root);
        }
        if let Some(below) = entry.path.below(ROOTFS_DIR.as_bytes()) {
            return if self.has_rootfs() {
                into_rootfs(entry, below)
            } else {
                Ok(Place::Elsewhere)
            };
        }
        let is_file = matches!(entry.kind, Kind::File(_));
        let name = entry.path.as_bytes();
        let place = if name == METADATA_FILE.as_bytes() {
            Place::Metadata
        } else if name == b"rootfs.img" {
            return Err(Error::Unsupported("the image of a virtual machine".to_owned()));
        } else {
            match entry.path.below(TEMPLATES_DIR.as_bytes()) {
                Some(below) if !below.is_root() && entry.kind != Kind::Directory => template(entry, &below)?,
                _ => return Ok(Place::Elsewhere),
            }
        };
        // A link here could name any file of the machine for whoever reads it later.
        if is_file {
            Ok(place)
        } else {
            Err(Error::refused(name, Refusal::NotAFile))
        }
    }
}

fn into_rootfs(entry: &mut Entry, below: EntryPath) -> Result<Place> {
    if below.is_root() && entry.kind != Kind::Directory {
        return Err(Error::refused(entry.path.as_bytes(), Refusal::NotAPath));
    }
    if let Kind::Hardlink(target) = &entry.kind {
        let inside = target.below(ROOTFS_DIR.as_bytes()).filter(|t| !t.is_root());
        let outside = || Refusal::LinkTarget(crate::error::show(target.as_bytes()));
        let target = inside.ok_or_else(|| Error::refused(entry.path.as_bytes(), outside()))?;
        entry.kind = Kind::Hardlink(target);
    }
    entry.path = below;
    Ok(Place::Root)
}

fn template(entry: &Entry, below: &EntryPath) -> Result<Place> {
    match std::str::from_utf8(below.as_bytes()) {
        Ok(name) if is_template_name(name) => Ok(Place::Template(name.to_owned())),
        _ => Err(Error::Invalid {
            file: crate::error::show(entry.path.as_bytes()),
            reason: "a template's file is not a plain name".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Time;

    fn entry(name: &str, kind: Kind) -> Entry {
        let path = EntryPath::parse(name.as_bytes(), 16).unwrap();
        Entry {
            path,
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: Time::default(),
            xattrs: vec![],
        }
    }

    fn place(content: Content, name: &str, kind: Kind) -> Result<(Place, String)> {
        let mut entry = entry(name, kind);
        let place = content.place(&mut entry)?;
        Ok((place, String::from_utf8(entry.path.as_bytes().to_vec()).unwrap()))
    }

    #[test]
    fn unified() {
        let at = |name: &str, kind| place(Content::Unified, name, kind);
        assert_eq!(
            at("rootfs/etc/x", Kind::File(1)).unwrap(),
            (Place::Root, "etc/x".into())
        );
        assert_eq!(at("rootfs", Kind::Directory).unwrap(), (Place::Root, String::new()));
        assert_eq!(at("metadata.yaml", Kind::File(1)).unwrap().0, Place::Metadata);
        assert_eq!(
            at("templates/h.tpl", Kind::File(1)).unwrap().0,
            Place::Template("h.tpl".into())
        );
        assert_eq!(at("templates", Kind::Directory).unwrap().0, Place::Elsewhere);
        assert_eq!(at("rootfsx", Kind::File(1)).unwrap().0, Place::Elsewhere);
        assert!(at("templates/a/b", Kind::File(1)).is_err());
        assert!(at("rootfs.img", Kind::File(1)).is_err());
    }

    #[test]
    fn links_instead_of_files_are_refused() {
        let link = || Kind::Symlink(b"/etc/shadow".to_vec());
        assert!(place(Content::Unified, "metadata.yaml", link()).is_err());
        assert!(place(Content::Metadata, "templates/x", link()).is_err());
        assert!(place(Content::Unified, "rootfs", link()).is_err());
    }

    #[test]
    fn hard_links_stay_in_the_root_file_system() {
        let target = |name: &str| Kind::Hardlink(EntryPath::parse(name.as_bytes(), 16).unwrap());
        let mut inside = entry("rootfs/b", target("rootfs/a"));
        assert_eq!(Content::Unified.place(&mut inside), Ok(Place::Root));
        assert_eq!(inside.kind, target("a"));
        assert!(
            Content::Unified
                .place(&mut entry("rootfs/b", target("metadata.yaml")))
                .is_err()
        );
    }
}

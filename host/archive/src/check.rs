//! A tree that exists only as a list of names: an archive is tried out on it before it is accepted.

use std::collections::HashMap;

use crate::entry::{DataSink, Entry, EntryPath, Kind};
use crate::error::{Error, Refusal, Result, show};
use crate::walk::{DataOf, Tree};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Directory,
    Symlink,
    Other,
}

/// Checks what a real tree would refuse, without making one.
#[derive(Debug, Default)]
pub(crate) struct DryTree {
    known: HashMap<Vec<u8>, Known>,
}

impl DryTree {
    /// Whether there is anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Paths of the parents of an entry that are not there, outermost first.
    pub(crate) fn missing_parents(&self, path: &EntryPath) -> Vec<Vec<u8>> {
        let bytes = path.as_bytes();
        let ends = bytes.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
        ends.map(|end| bytes[..end].to_vec())
            .filter(|parent| !self.known.contains_key(parent))
            .collect()
    }

    /// Checks that an entry's parents are directories; those that the archive does not mention come to be.
    fn parents(&mut self, path: &EntryPath) -> Result<()> {
        let (mut parent, _) = path.split();
        let mut missing = Vec::new();
        while !parent.is_empty() {
            match self.known.get(parent) {
                Some(Known::Directory) => break,
                Some(Known::Symlink) => return Err(Error::refused(path.as_bytes(), Refusal::BehindSymlink)),
                Some(Known::Other) => return Err(Error::refused(path.as_bytes(), Refusal::ParentNotDirectory)),
                None => missing.push(parent.to_vec()),
            }
            parent = parent.iter().rposition(|&b| b == b'/').map_or(&[], |at| &parent[..at]);
        }
        self.known.extend(missing.into_iter().map(|p| (p, Known::Directory)));
        Ok(())
    }
}

struct Nowhere;

impl DataSink for Nowhere {
    fn write_at(&mut self, _offset: u64, _data: &[u8]) -> Result<()> {
        Ok(())
    }
}

impl Tree for DryTree {
    fn add(&mut self, entry: &Entry, data: &mut dyn DataOf) -> Result<()> {
        let path = &entry.path;
        self.parents(path)?;
        let known = self.known.get(path.as_bytes()).copied();
        let replaces_directory = (known == Some(Known::Directory) || path.is_root()) && entry.kind != Kind::Directory;
        if replaces_directory {
            return Err(Error::refused(path.as_bytes(), Refusal::ReplacesDirectory));
        }
        let now = match &entry.kind {
            Kind::Directory => Known::Directory,
            Kind::Symlink(_) => Known::Symlink,
            Kind::Hardlink(target) => match self.known.get(target.as_bytes()) {
                Some(kind @ (Known::Symlink | Known::Other)) if target != path => *kind,
                _ => {
                    return Err(Error::refused(
                        path.as_bytes(),
                        Refusal::LinkTarget(show(target.as_bytes())),
                    ));
                }
            },
            Kind::File(_) => {
                data.copy_to(&mut Nowhere)?;
                Known::Other
            }
            Kind::Fifo | Kind::Socket | Kind::Device => Known::Other,
        };
        self.known.insert(path.as_bytes().to_vec(), now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Time;

    struct NoData;

    impl DataOf for NoData {
        fn copy_to(&mut self, _sink: &mut dyn DataSink) -> Result<()> {
            Ok(())
        }
    }

    fn add(tree: &mut DryTree, name: &str, kind: Kind) -> Result<(), Refusal> {
        let path = EntryPath::parse(name.as_bytes(), 16).unwrap();
        let entry = Entry {
            path,
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: Time::default(),
            xattrs: vec![],
        };
        match tree.add(&entry, &mut NoData) {
            Ok(()) => Ok(()),
            Err(Error::Refused { reason, .. }) => Err(reason),
            Err(e) => panic!("{e}"),
        }
    }

    #[test]
    fn links_do_not_lead_anywhere() {
        let mut tree = DryTree::default();
        add(&mut tree, "link", Kind::Symlink(b"/etc".to_vec())).unwrap();
        assert_eq!(
            add(&mut tree, "link/passwd", Kind::File(0)),
            Err(Refusal::BehindSymlink)
        );
        assert_eq!(add(&mut tree, "link/a/b/c", Kind::File(0)), Err(Refusal::BehindSymlink));
        add(&mut tree, "file", Kind::File(0)).unwrap();
        assert_eq!(
            add(&mut tree, "file/x", Kind::File(0)),
            Err(Refusal::ParentNotDirectory)
        );
        // A later directory takes the link's place, and then there is nothing behind a link any more.
        add(&mut tree, "link", Kind::Directory).unwrap();
        add(&mut tree, "link/passwd", Kind::File(0)).unwrap();
        assert_eq!(
            add(&mut tree, "link", Kind::Symlink(b"x".to_vec())),
            Err(Refusal::ReplacesDirectory)
        );
    }

    #[test]
    fn hard_links_need_their_file() {
        let hard = |to: &str| Kind::Hardlink(EntryPath::parse(to.as_bytes(), 16).unwrap());
        let mut tree = DryTree::default();
        assert_eq!(add(&mut tree, "b", hard("a")), Err(Refusal::LinkTarget("a".into())));
        add(&mut tree, "a", Kind::File(0)).unwrap();
        add(&mut tree, "b", hard("a")).unwrap();
        assert_eq!(add(&mut tree, "a", hard("a")), Err(Refusal::LinkTarget("a".into())));
        add(&mut tree, "d", Kind::Directory).unwrap();
        assert_eq!(add(&mut tree, "c", hard("d")), Err(Refusal::LinkTarget("d".into())));
    }
}

//! File trees in memory, with the semantics of `hutch:host/fs`.

use std::collections::BTreeMap;

use crate::{Error, Result, TreePath};

/// Something in a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A directory with its mode.
    Directory(u32),
    /// A file with its mode and content.
    File(u32, Vec<u8>),
    /// What an overlay marks a deleted file with.
    Whiteout,
}

impl Node {
    /// `file`, `directory`, `other`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Directory(_) => "directory",
            Self::File(..) => "file",
            Self::Whiteout => "other",
        }
    }
}

/// Nodes by root and path. The root itself has the empty path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree(BTreeMap<(String, String), Node>);

fn key(at: &TreePath) -> (String, String) {
    (at.root.clone(), at.path.clone())
}

fn show(at: &TreePath) -> String {
    format!("{}:{}", at.root, at.path)
}

fn parent(path: &str) -> Option<&str> {
    (!path.is_empty()).then(|| path.rsplit_once('/').map_or("", |(parent, _)| parent))
}

impl Tree {
    /// Adds an empty root.
    pub fn add_root(&mut self, root: &str) {
        self.0.insert((root.to_owned(), String::new()), Node::Directory(0o700));
    }

    /// What is at a place.
    pub fn get(&self, at: &TreePath) -> Option<&Node> {
        self.0.get(&key(at))
    }

    /// Puts a node at a place, with the directories above it (mode 0755).
    pub fn put(&mut self, at: &TreePath, node: Node) {
        let mut path = at.path.as_str();
        while let Some(above) = parent(path) {
            self.0
                .entry((at.root.clone(), above.to_owned()))
                .or_insert(Node::Directory(0o755));
            path = above;
        }
        self.0.insert(key(at), node);
    }

    /// Puts a text file at a place.
    pub fn put_text(&mut self, root: &str, path: &str, text: &str) {
        self.put(
            &TreePath::root(root).join(path),
            Node::File(0o644, text.as_bytes().to_vec()),
        );
    }

    /// Everything below a place, by relative paths, which are empty for the place itself.
    pub fn below(&self, at: &TreePath) -> BTreeMap<String, Node> {
        let inside = |path: &str| match (at.path.as_str(), path) {
            (base, path) if base == path => Some(String::new()),
            ("", path) => Some(path.to_owned()),
            (base, path) => path
                .strip_prefix(base)
                .and_then(|rest| rest.strip_prefix('/'))
                .map(str::to_owned),
        };
        let of_root = self.0.iter().filter(|((root, _), _)| *root == at.root);
        of_root
            .filter_map(|((_, path), node)| inside(path).map(|relative| (relative, node.clone())))
            .collect()
    }

    /// All paths of a root, for assertions.
    pub fn paths(&self, root: &str) -> Vec<String> {
        self.0
            .keys()
            .filter(|(r, path)| r == root && !path.is_empty())
            .map(|(_, path)| path.clone())
            .collect()
    }

    pub(super) fn check(&self, at: &TreePath) -> Result<()> {
        if !self.0.contains_key(&(at.root.clone(), String::new())) {
            return Err(Error::invalid(format!("there is no root {:?}", at.root)));
        }
        let plain = |c: &str| !c.is_empty() && c != "." && c != ".." && c.len() <= 255;
        if at.path.is_empty() || at.path.split('/').all(plain) {
            Ok(())
        } else {
            Err(Error::invalid(format!("{} is not a plain path", show(at))))
        }
    }

    fn need_parent(&self, at: &TreePath) -> Result<()> {
        match parent(&at.path).map(|above| self.0.get(&(at.root.clone(), above.to_owned()))) {
            None | Some(Some(Node::Directory(_))) => Ok(()),
            _ => Err(Error::not_found(format!("there is no directory for {}", show(at)))),
        }
    }

    pub(super) fn make_dir(&mut self, at: &TreePath, mode: u32) -> Result<()> {
        let mut prefix = String::new();
        for component in at.path.split('/') {
            if !prefix.is_empty() {
                prefix.push('/');
            }
            prefix.push_str(component);
            let mode = if prefix == at.path { mode } else { 0o700 };
            let node = self
                .0
                .entry((at.root.clone(), prefix.clone()))
                .or_insert(Node::Directory(mode));
            if !matches!(node, Node::Directory(_)) {
                return Err(Error::already_exists(format!("{} is not a directory", show(at))));
            }
        }
        Ok(())
    }

    pub(super) fn list(&self, at: &TreePath, after: Option<&str>, limit: usize) -> Result<Vec<(String, &'static str)>> {
        if !matches!(self.get(at), Some(Node::Directory(_))) {
            return Err(Error::not_found(format!("there is no directory {}", show(at))));
        }
        let children = self
            .below(at)
            .into_iter()
            .filter(|(path, _)| !path.is_empty() && !path.contains('/'));
        Ok(children
            .filter(|(name, _)| after.is_none_or(|after| name.as_str() > after))
            .take(limit)
            .map(|(n, node)| (n, node.kind()))
            .collect())
    }

    pub(super) fn write(&mut self, at: &TreePath, data: &[u8], mode: u32) -> Result<()> {
        self.need_parent(at)?;
        if matches!(self.get(at), Some(Node::Directory(_))) {
            return Err(Error::invalid(format!("{} is a directory", show(at))));
        }
        self.0.insert(key(at), Node::File(mode, data.to_vec()));
        Ok(())
    }

    pub(super) fn rename(&mut self, source: &TreePath, to: &TreePath) -> Result<()> {
        match (self.get(source), self.get(to)) {
            (None, Some(_)) => return Ok(()),
            (None, None) => return Err(Error::not_found(format!("there is no {}", show(source)))),
            (Some(_), Some(_)) => return Err(Error::already_exists(format!("{} is there already", show(to)))),
            (Some(_), None) => self.need_parent(to)?,
        }
        let moved = self.below(source);
        self.discard(source);
        self.insert_all(to, moved);
        Ok(())
    }

    pub(super) fn discard(&mut self, at: &TreePath) {
        for relative in self.below(at).into_keys() {
            self.0.remove(&key(&at.join(&relative)));
        }
    }

    pub(super) fn copy_merged(&mut self, layers: &[TreePath], to: &TreePath) -> Result<()> {
        let mut merged: BTreeMap<String, Node> = BTreeMap::new();
        for layer in layers.iter().rev() {
            let nodes = self.below(layer);
            if nodes.is_empty() {
                return Err(Error::not_found(format!("there is no {}", show(layer))));
            }
            for (path, node) in nodes {
                if !matches!(node, Node::Directory(_)) {
                    merged.retain(|other, _| !other.starts_with(&format!("{path}/")));
                }
                merged.insert(path, node);
            }
        }
        if layers.len() > 1 {
            merged.retain(|_, node| *node != Node::Whiteout);
        }
        if self.get(to).is_some() {
            return Err(Error::already_exists(format!("{} is there already", show(to))));
        }
        self.need_parent(to)?;
        self.insert_all(to, merged);
        Ok(())
    }

    fn insert_all(&mut self, to: &TreePath, nodes: BTreeMap<String, Node>) {
        self.0.extend(
            nodes
                .into_iter()
                .map(|(relative, node)| (key(&to.join(&relative)), node)),
        );
    }
}

//! Places below roots.

use crate::host::DirEntry;
use crate::{Error, Host, MountPlan, Result, TreePath};

impl TreePath {
    /// The root itself.
    pub fn root(root: impl Into<String>) -> Self {
        Self {
            root: root.into(),
            path: String::new(),
        }
    }

    /// A place below this one. `relative` may have several components.
    #[must_use]
    pub fn join(&self, relative: &str) -> Self {
        let path = match (self.path.is_empty(), relative.is_empty()) {
            (_, true) => self.path.clone(),
            (true, _) => relative.to_owned(),
            _ => format!("{}/{relative}", self.path),
        };
        Self {
            root: self.root.clone(),
            path,
        }
    }
}

impl MountPlan {
    /// One tree as it is.
    pub fn bind(tree: TreePath) -> Self {
        Self {
            kind: "bind".into(),
            layers: vec![tree],
            upper: None,
            work: None,
            options: Vec::new(),
        }
    }

    /// Read-only layers, uppermost first, below a writable one. `work` is an empty directory beside `upper`.
    pub fn overlay(layers: Vec<TreePath>, upper: TreePath, work: TreePath) -> Self {
        Self {
            kind: "overlay".into(),
            layers,
            upper: Some(upper),
            work: Some(work),
            options: Vec::new(),
        }
    }

    /// Read-only layers, uppermost first.
    pub fn overlay_read_only(layers: Vec<TreePath>) -> Self {
        Self {
            kind: "overlay".into(),
            layers,
            upper: None,
            work: None,
            options: Vec::new(),
        }
    }
}

/// Checks that `name` can be one component of a path: not empty, at most 255 bytes (the limit of Linux's file systems),
/// neither `.` nor `..`, without `/` and control characters.
///
/// # Errors
/// `invalid`, which says that `what` has such a name.
pub fn check_component(what: &str, name: &str) -> Result<()> {
    let plain = !name.is_empty() && name.len() <= 255 && name != "." && name != "..";
    if plain && !name.chars().any(|c| c == '/' || c.is_control()) {
        Ok(())
    } else {
        Err(Error::invalid(format!("{name:?} can't be the name of a {what}")))
    }
}

/// All entries of a directory, in the order of their names; none where there is no directory.
///
/// # Errors
/// What [`Host::fs_list_dir`] fails with, but for `not-found`.
pub fn list_all(host: &impl Host, at: &TreePath) -> Result<Vec<DirEntry>> {
    const PAGE: u32 = 1000;
    let mut all: Vec<DirEntry> = Vec::new();
    loop {
        let page = match host.fs_list_dir(at, all.last().map(|entry| entry.name.as_str()), PAGE) {
            Ok(page) => page,
            Err(error) if error.is("not-found") && all.is_empty() => return Ok(all),
            Err(error) => return Err(error),
        };
        let last = page.len() < PAGE as usize;
        all.extend(page);
        if last {
            return Ok(all);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joining_puts_one_slash_between() {
        let root = TreePath::root("pool");
        assert_eq!(root.join("a").join("b/c").path, "a/b/c");
        assert_eq!(root.join("a").join("").path, "a");
        assert_eq!(root.join("").path, "");
    }

    #[test]
    fn names_that_are_paths_are_refused() {
        for bad in ["", ".", "..", "a/b", "/", "a\0", "a\n", &"x".repeat(256)] {
            assert!(
                check_component("volume", bad).is_err_and(|e| e.is("invalid")),
                "{bad:?}"
            );
        }
        for good in ["a", "default_c1", "...", "ünïcode", &"x".repeat(255)] {
            assert!(check_component("volume", good).is_ok(), "{good:?}");
        }
    }
}

//! Opening places below a root, and never one outside.
//!
//! A root is opened by its path once per call, and everything below it by `openat2` (openat2(2)) with `RESOLVE_BENEATH`,
//! `RESOLVE_NO_SYMLINKS` and `RESOLVE_NO_MAGICLINKS`. The last component of a place is never followed: functions work on
//! the directory that holds it and its name.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use hutch_driver::{DriverError, TreePath};
use hutch_sys::command::PrivateTrees;
use hutch_sys::mount::{Flags, set_attributes};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use crate::CallContext;
use crate::error::{internal, invalid, io, os};

/// Names at the top of a root that begin so are the broker's own.
pub(super) const RESERVED: &str = ".hutch-";

/// Longest path below a root, in bytes: `PATH_MAX` without the root's own.
const MAX_PATH: usize = 3072;

/// How everything below a root is resolved.
pub(super) const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);

/// A root, open for the length of one function.
#[derive(Debug)]
pub(crate) struct OpenRoot {
    /// The name that the plugin sees.
    pub(super) id: String,
    /// Where it is, for the reaper.
    pub(super) path: PathBuf,
    /// An `O_PATH` descriptor of it.
    pub(super) fd: OwnedFd,
    /// Whether it may be changed.
    pub(super) writable: bool,
}

/// A root that the caller may use, not yet open: found on the async side, opened on the blocking one.
#[derive(Clone, Debug)]
pub(crate) struct RootGrant {
    id: String,
    path: PathBuf,
    writable: bool,
}

impl RootGrant {
    /// The root `id` of this call, or the fixed place of that name, if the caller may use it.
    ///
    /// # Errors
    /// `not-requested`, `not-granted`; `not-found` for an id that means nothing.
    pub(crate) fn find(cx: &CallContext, id: &str) -> Result<Self, DriverError> {
        let granter = cx.subject.granter();
        if let Some(root) = cx.call.roots.iter().find(|root| root.id == id) {
            granter.fs_roots()?;
            return Ok(Self {
                id: id.to_owned(),
                path: root.path.clone(),
                writable: root.writable,
            });
        }
        let (path, writable) = granter.fs_path(id)?;
        Ok(Self {
            id: id.to_owned(),
            path: path.to_owned(),
            writable,
        })
    }

    /// A root of a call that the host makes for itself.
    pub(super) fn of_host(root: &hutch_driver::Root) -> Self {
        Self {
            id: root.id.clone(),
            path: root.path.clone(),
            writable: root.writable,
        }
    }

    /// Opens it.
    ///
    /// # Errors
    /// `unavailable` when nothing is there (a disk that is not mounted).
    pub(crate) fn open(self) -> Result<OpenRoot, DriverError> {
        let fd = rustix::fs::open(
            &self.path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|e| {
            let mut error = os(
                format_args!("can't open root {:?} at {}", self.id, self.path.display()),
                e,
            );
            if e == Errno::NOENT {
                "unavailable".clone_into(&mut error.code);
            }
            error
        })?;
        Ok(OpenRoot {
            id: self.id,
            path: self.path,
            fd,
            writable: self.writable,
        })
    }
}

/// A place's directory, open, and its name there.
pub(crate) struct Place {
    /// The directory (`O_PATH`).
    pub(super) parent: OwnedFd,
    /// One component.
    pub(super) name: String,
}

impl OpenRoot {
    /// The directory of a service, which functions for files work on like on a root.
    ///
    /// # Errors
    /// `unavailable` when there is none.
    pub(crate) fn of_service(name: &str, path: PathBuf) -> Result<Self, DriverError> {
        RootGrant {
            id: format!("service {name}"),
            path,
            writable: true,
        }
        .open()
    }

    /// Fails unless the root may be changed.
    pub(super) fn require_writable(&self) -> Result<(), DriverError> {
        if self.writable {
            Ok(())
        } else {
            Err(DriverError::new(
                "not-granted",
                format!("root {:?} may be read only", self.id),
            ))
        }
    }

    /// How errors name a place.
    pub(super) fn describe(&self, path: &str) -> String {
        describe(&self.id, path)
    }

    /// The directory in which `path` lies, and its last component.
    ///
    /// # Errors
    /// `invalid` for the root itself and for what is no plain relative path; `not-found` where the directory is missing.
    pub(super) fn place(&self, path: &str) -> Result<Place, DriverError> {
        check_path(path)?;
        if path.is_empty() {
            return Err(invalid(format!("{} is the root itself", self.describe(path))));
        }
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = self
            .open_path(parent)
            .map_err(|e| os(format_args!("can't open the directory of {}", self.describe(path)), e))?;
        Ok(Place {
            parent,
            name: name.to_owned(),
        })
    }

    /// A directory below the root, for reference only.
    fn open_path(&self, path: &str) -> Result<OwnedFd, Errno> {
        open_beneath(&self.fd, path, OFlags::PATH | OFlags::DIRECTORY)
    }

    /// A directory below the root, for reading its entries.
    pub(super) fn open_dir(&self, path: &str) -> Result<OwnedFd, Errno> {
        open_beneath(&self.fd, path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// Checks a place that is handed to a program; it need not be there yet, since the program may make it.
    ///
    /// # Errors
    /// As [`OpenRoot::place`], and `invalid` for a symbolic link, which the program could not follow.
    fn check_for_program(&self, path: &str) -> Result<(), DriverError> {
        if path.is_empty() {
            return Ok(());
        }
        let place = self.place(path)?;
        match rustix::fs::statat(
            &place.parent,
            place.name.as_str(),
            rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
        ) {
            Ok(stat) if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_symlink() => {
                Err(invalid(format!("{} is a symbolic link", self.describe(path))))
            }
            Ok(_) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(os(format_args!("can't look at {}", self.describe(path)), e)),
        }
    }

    /// The root for a program alone: in it no symbolic link is followed and no device opened, whatever it is that somebody puts
    /// there before the program looks or meanwhile.
    fn for_program(&self) -> Result<OwnedFd, DriverError> {
        let fail = |e| io(format_args!("can't open {} for a program", self.describe("")), &e);
        let tree = hutch_sys::mount::clone_open(self.fd.as_fd()).map_err(fail)?;
        let flags = Flags::NO_LINKS.and(Flags::NO_DEVICES).and(Flags::NO_SUID);
        set_attributes(tree.as_fd(), true, flags, Flags::none(), None).map_err(fail)?;
        Ok(tree)
    }
}

/// Opens `path` below `dir`, never following a symbolic link; an empty path is `dir` itself.
pub(super) fn open_beneath(dir: impl AsFd, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { "." } else { path };
    openat2(
        dir,
        path,
        flags | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
        BENEATH,
    )
}

/// Like [`open_beneath`] for a path that may not be UTF-8, and that does not lead into another mount either: what walks
/// through a tree must not come out in a disk that somebody mounted there.
pub(super) fn open_within(dir: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    openat2(
        dir,
        path,
        flags | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
        BENEATH | ResolveFlags::NO_XDEV,
    )
}

/// How errors name a place.
pub(super) fn describe(root: &str, path: &str) -> String {
    if path.is_empty() {
        format!("root {root:?}")
    } else {
        format!("{path:?} in root {root:?}")
    }
}

/// Refuses what is not a plain relative path, and the broker's own names.
pub(crate) fn check_path(path: &str) -> Result<(), DriverError> {
    if path.is_empty() {
        return Ok(());
    }
    if path.len() > MAX_PATH {
        return Err(invalid(format!(
            "a path of {} bytes is longer than the {MAX_PATH} allowed",
            path.len()
        )));
    }
    if path.contains('\0') {
        return Err(invalid(format!("{path:?} has a zero byte in it")));
    }
    if path
        .split('/')
        .any(|c| c.is_empty() || c == "." || c == ".." || c.len() > 255)
    {
        return Err(invalid(format!("{path:?} is not a plain relative path")));
    }
    if path.starts_with(RESERVED) {
        return Err(invalid(format!(
            "{path:?} begins with {RESERVED}, which is kept for the host"
        )));
    }
    Ok(())
}

/// Runs `work` on the root `id`, opened, on a thread that may block.
///
/// # Errors
/// Those of [`RootGrant`] and of `work`.
pub(super) async fn on_root<T: Send + 'static>(
    cx: &CallContext,
    id: &str,
    work: impl FnOnce(OpenRoot) -> Result<T, DriverError> + Send + 'static,
) -> Result<T, DriverError> {
    let grant = RootGrant::find(cx, id)?;
    blocking(move || work(grant.open()?)).await
}

/// Runs `work` where it may block. It goes on to its end even if nobody waits any more.
///
/// # Errors
/// Those of `work`; `internal` if it panics.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DriverError> + Send + 'static,
) -> Result<T, DriverError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(internal(format!("a task of the host failed: {e}"))),
    }
}

/// The paths of `trees` for a program's arguments, and what has to be attached below `base` for the program to find them there.
/// By their own paths it would resolve them later than they are checked, and its plugin could put a link in the way meanwhile.
///
/// # Errors
/// As [`RootGrant::find`] and [`OpenRoot::check_for_program`].
pub(crate) async fn private_trees(
    cx: &CallContext,
    trees: &[TreePath],
    base: &Path,
) -> Result<(Vec<PathBuf>, PrivateTrees), DriverError> {
    let c_path = |path: &Path| {
        let text = CString::new(path.as_os_str().as_encoded_bytes());
        text.map_err(|_| internal(format!("{} has a zero byte in it", path.display())))
    };
    let mut private = PrivateTrees {
        base: c_path(base)?,
        trees: Vec::new(),
    };
    let mut paths = Vec::with_capacity(trees.len());
    let mut roots: Vec<&str> = Vec::new();
    for tree in trees {
        let number = roots.iter().position(|root| *root == tree.root);
        let (path, is_new) = (tree.path.clone(), number.is_none());
        let attached = on_root(cx, &tree.root, move |root| {
            root.require_writable()?;
            root.check_for_program(&path)?;
            is_new.then(|| root.for_program()).transpose()
        })
        .await?;
        let at = base.join(number.unwrap_or(roots.len()).to_string());
        if let Some(attached) = attached {
            private.trees.push((attached, c_path(&at)?));
            roots.push(&tree.root);
        }
        paths.push(if tree.path.is_empty() { at } else { at.join(&tree.path) });
    }
    Ok((paths, private))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_relative_paths_pass() {
        for good in ["", "a", "a/b", "a/.b", "..a", "a/b.hutch-x"] {
            assert!(check_path(good).is_ok(), "{good:?}");
        }
        for bad in [
            "/",
            "/a",
            "a/",
            "a//b",
            ".",
            "..",
            "a/..",
            "a/../b",
            "a/./b",
            "a\0b",
            ".hutch-trash/x",
        ] {
            assert_eq!(check_path(bad).unwrap_err().code, "invalid", "{bad:?}");
        }
        assert!(check_path(&"a/".repeat(2000)).is_err());
        assert!(check_path(&"a".repeat(256)).is_err());
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn whatever_passes_stays_below(path in "[a./\\x00é]{0,16}") {
            if check_path(&path).is_ok() {
                let joined = Path::new("/root/of/it").join(&path);
                proptest::prop_assert!(joined.starts_with("/root/of/it"));
                proptest::prop_assert!(joined.components().all(|part| !matches!(part, std::path::Component::ParentDir)));
                proptest::prop_assert!(!path.contains('\0'));
            }
        }
    }
}

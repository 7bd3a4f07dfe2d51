//! Showing several layers as the one tree that an overlay makes of them, for a copy.

use std::os::fd::AsRawFd as _;
use std::path::PathBuf;

use hutch_driver::DriverError;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags, fstat, mkdirat, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, mount, mount_change,
};
use rustix::thread::UnshareFlags;

use super::trash;
use super::tree::{OpenRoot, open_beneath};
use crate::error::os;

/// Most layers: one less than an overlay takes, because of the empty one below them.
pub(super) const MAX_LAYERS: usize = 499;

/// Layers shown as one tree. What was made for it goes when it is dropped.
pub(super) struct Merged {
    /// The root of the overlay, which is mounted nowhere.
    pub(super) dir: OwnedFd,
    /// The empty layer, which has to have a name for as long as the overlay is read.
    trash: OwnedFd,
    empty: String,
}

impl Drop for Merged {
    fn drop(&mut self) {
        // If it fails, the trash is emptied when the root is next opened.
        let _ = rustix::fs::unlinkat(&self.trash, self.empty.as_str(), rustix::fs::AtFlags::REMOVEDIR);
    }
}

/// Shows an overlay of `layers`, uppermost first.
///
/// An overlay has to have two layers, so an empty directory lies below them: what marks a layer by itself holds (deleted
/// names, directories that hide others) is not shown for a single one either.
///
/// # Errors
/// `unsupported` where the kernel refuses the overlay.
pub(super) fn open(root: &OpenRoot, layers: &[OwnedFd]) -> Result<Merged, DriverError> {
    let fail = |e| {
        os(
            "can't show layers as one tree",
            if e == Errno::INVAL { Errno::OPNOTSUPP } else { e },
        )
    };
    let trash = trash::open_trash(root)?;
    let name = trash::fresh_name();
    mkdirat(&trash, name.as_str(), Mode::RWXU).map_err(fail)?;
    let empty = open_beneath(&trash, &name, OFlags::PATH | OFlags::DIRECTORY).map_err(fail)?;
    let layers: Vec<&OwnedFd> = layers.iter().chain([&empty]).collect();
    let dir = match by_steps(&layers) {
        // Kernels before 6.7 know no lowerdir+.
        Err(Errno::INVAL) => by_one_string(&layers),
        other => other,
    };
    match dir {
        Ok(dir) => Ok(Merged {
            dir,
            trash,
            empty: name,
        }),
        Err(e) => {
            let _ = rustix::fs::unlinkat(&trash, name.as_str(), rustix::fs::AtFlags::REMOVEDIR);
            Err(fail(e))
        }
    }
}

fn path_of(layer: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", layer.as_raw_fd())
}

/// One layer at a time (the kernel's `filesystems/overlayfs.rst`, "Multiple lower layers").
fn by_steps(layers: &[&OwnedFd]) -> Result<OwnedFd, Errno> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for layer in layers {
        fsconfig_set_string(context.as_fd(), "lowerdir+", path_of(layer))?;
    }
    fsconfig_set_flag(context.as_fd(), "userxattr")?;
    fsconfig_create(context.as_fd())?;
    let attributes =
        MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID;
    let shown = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    openat(
        &shown,
        ".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// All layers in one string, which is longer than the newer interface takes: mount(2) takes a page. It mounts somewhere, so
/// a thread does it that has a mount namespace of its own and ends. There it needs descriptors of that namespace.
fn by_one_string(layers: &[&OwnedFd]) -> Result<OwnedFd, Errno> {
    let work = || {
        #[expect(
            deprecated,
            reason = "the safe form: the flags that its successor is unsafe for are not used here"
        )]
        rustix::thread::unshare(UnshareFlags::FS | UnshareFlags::NEWNS)?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        let here = layers
            .iter()
            .map(|layer| open_again(layer))
            .collect::<Result<Vec<_>, _>>()?;
        let Some((_, place)) = here.last() else {
            return Err(Errno::INVAL);
        };
        let options = format!(
            "userxattr,lowerdir={}",
            here.iter().map(|(fd, _)| path_of(fd)).collect::<Vec<_>>().join(":")
        );
        let options = std::ffi::CString::new(options).map_err(|_| Errno::INVAL)?;
        mount(
            "none",
            place,
            "overlay",
            MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID,
            options.as_c_str(),
        )?;
        rustix::fs::open(
            place,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("hutch-merge".to_owned())
            .spawn_scoped(scope, work);
        match thread {
            Ok(thread) => thread.join().unwrap_or(Err(Errno::IO)),
            Err(e) => Err(Errno::from_io_error(&e).unwrap_or(Errno::AGAIN)),
        }
    })
}

/// The same directory through the mounts of this thread's namespace, and its path.
fn open_again(layer: &OwnedFd) -> Result<(OwnedFd, PathBuf), Errno> {
    let path = std::fs::read_link(path_of(layer)).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    let again = rustix::fs::open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let (one, other) = (fstat(layer)?, fstat(&again)?);
    if (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino) {
        Ok((again, path))
    } else {
        Err(Errno::STALE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(dir: &std::path::Path) -> Vec<OwnedFd> {
        for (layer, file) in [("up", "a"), ("low", "b"), ("empty", "")] {
            std::fs::create_dir(dir.join(layer)).unwrap();
            if !file.is_empty() {
                std::fs::write(dir.join(layer).join(file), layer).unwrap();
            }
        }
        let open =
            |name: &str| rustix::fs::open(dir.join(name), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        ["up", "low", "empty"].map(open).into()
    }

    fn names(dir: &OwnedFd) -> Vec<String> {
        let mut names = trash::list(dir).unwrap();
        names.sort();
        names
    }

    /// The way for older kernels can be tried on newer ones, too.
    #[test]
    fn both_ways_show_the_same() {
        let dir = std::env::temp_dir().join(format!("hutch-merged-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let open = layers(&dir);
        let open: Vec<&OwnedFd> = open.iter().collect();
        let shown = [by_steps(&open), by_one_string(&open)].map(|shown| shown.map(|fd| names(&fd)));
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(
            shown,
            [
                Ok(vec!["a".to_owned(), "b".to_owned()]),
                Ok(vec!["a".to_owned(), "b".to_owned()])
            ]
        );
    }
}

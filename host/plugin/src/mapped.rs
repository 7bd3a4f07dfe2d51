//! Mapping code that was compiled before: the one place of this crate where memory safety rests on an argument.

#![allow(
    unsafe_code,
    reason = "wasmtime can't check that a file holds code of its own making"
)]

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use wasmtime::Engine;
use wasmtime::component::Component;

/// Why a file of the cache is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MapError {
    /// It can't be opened; usually it is not there.
    #[error("it can't be opened")]
    Open(#[source] std::io::Error),
    /// Somebody else could have written it.
    #[error("{0} is not the daemon's own alone: its owner or its mode allows others to change it")]
    Foreign(String),
    /// wasmtime refuses it.
    #[error("it was not compiled for this machine and this version")]
    Refused(#[source] wasmtime::Error),
}

/// Opens `file`, a file of the cache directory `directory`, to be read.
///
/// # Errors
/// The file is not there, or others could have changed it.
pub(crate) fn open(directory: &Path, file: &Path) -> Result<File, MapError> {
    let opened = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc_nofollow())
        .open(file)
        .map_err(MapError::Open)?;
    let directory_meta = std::fs::symlink_metadata(directory).map_err(MapError::Open)?;
    if !directory_meta.is_dir() || !own(&directory_meta, 0o077) {
        return Err(MapError::Foreign(directory.display().to_string()));
    }
    let meta = opened.metadata().map_err(MapError::Open)?;
    if !meta.is_file() || !own(&meta, 0o022) {
        return Err(MapError::Foreign(file.display().to_string()));
    }
    Ok(opened)
}

/// Reads code in a worker, which has nothing to lose: it was handed an open file by the daemon, which had made sure of it with
/// [`open`]. It is copied, because wasmtime maps a file by its name only and a worker has no names.
///
/// # Errors
/// [`MapError::Open`] where it can't be read, [`MapError::Refused`] where wasmtime refuses it.
pub(crate) fn read(engine: &Engine, code: &File) -> Result<Component, MapError> {
    let length = code.metadata().map_err(MapError::Open)?.len();
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    // From its beginning, wherever another worker that has the same open file has read to.
    code.read_exact_at(&mut bytes, 0).map_err(MapError::Open)?;
    // SAFETY: `deserialize` requires that the bytes were made by `Engine::precompile_component` of this version of wasmtime. The
    // daemon passes only what `open` let it have, of which the comment in `map` says why that is so. Should the compiling
    // child have been made to write something else, it harms a process that is confined for this very case before it comes here.
    unsafe { Component::deserialize(engine, bytes) }.map_err(MapError::Refused)
}

/// Maps the code in `file`, a file of the cache directory `directory`.
///
/// # Errors
/// The file is not there, others could have changed it, or wasmtime refuses it for its version or configuration. It should be
/// made again then.
pub(crate) fn map(engine: &Engine, directory: &Path, file: &Path) -> Result<Component, MapError> {
    drop(open(directory, file)?);
    // SAFETY: `deserialize_file` requires that the file was made by `Engine::precompile_component` of this version of
    // wasmtime and is not changed while it is mapped. Files appear in this directory only by the rename in `compile.rs`,
    // after our own child has written them whole and they were flushed to the disk; none is ever written again under its
    // name. The checks above show that nobody but this user (root, for the daemon) could have put the file here, changed
    // it, or exchanged it since: the directory is 0700 and both are ours, and whoever is root on the machine needs no
    // damaged cache to run code as root. The file's name holds the version of wasmtime and the hash of the
    // configuration, and wasmtime itself refuses a header with others, or code for another processor.
    unsafe { Component::deserialize_file(engine, file) }.map_err(MapError::Refused)
}

fn own(meta: &std::fs::Metadata, forbidden: u32) -> bool {
    meta.uid() == rustix::process::geteuid().as_raw() && meta.mode() & forbidden == 0
}

fn libc_nofollow() -> i32 {
    // The bits of open(2) fit, whatever the type that rustix gives them.
    i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_others_could_have_written_is_not_mapped() {
        let compiler = crate::engine::compiler().expect("a compiler");
        let runtime = crate::engine::Runtime::new(crate::engine::MAX_INSTANCES).expect("an engine");
        let engine = runtime.engine();
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("x.cwasm");
        let code = compiler
            .precompile_component(b"\0asm\x0d\0\x01\0")
            .expect("an empty component");
        std::fs::write(&file, code).expect("written");
        let mode = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
        };
        mode(dir.path(), 0o700);
        mode(&file, 0o600);
        map(engine, dir.path(), &file).expect("ours");
        mode(&file, 0o620);
        assert!(matches!(map(engine, dir.path(), &file), Err(MapError::Foreign(_))));
        mode(&file, 0o600);
        mode(dir.path(), 0o755);
        assert!(matches!(map(engine, dir.path(), &file), Err(MapError::Foreign(_))));
        mode(dir.path(), 0o700);
        let link = dir.path().join("y.cwasm");
        std::os::unix::fs::symlink(&file, &link).expect("a link");
        assert!(matches!(map(engine, dir.path(), &link), Err(MapError::Open(_))));
        std::fs::write(&file, b"not code").expect("written");
        assert!(matches!(map(engine, dir.path(), &file), Err(MapError::Refused(_))));
    }
}

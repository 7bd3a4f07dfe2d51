//! Whose a run directory is.
//!
//! Nobody listens at the sockets of a run directory that was copied with a daemon's state, whereby its keepers seem dead and what
//! their specifications name to be left over. But they are the original's, and may live. So a run directory says where it is.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The file that has the directory's path.
const PLACE: &str = "place";

/// Whether `run_dir` is a copy of another one. One that says nothing is not.
pub(crate) fn is_copy(run_dir: &Path) -> io::Result<bool> {
    let named = match std::fs::read(run_dir.join(PLACE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other?,
    };
    let named = Path::new(OsStr::from_bytes(&named));
    // After a move a link may lead there from where it was.
    let inode = |path: &Path| path.metadata().map(|found| (found.dev(), found.ino()));
    let own = inode(run_dir)?;
    Ok(run_dir.canonicalize()? != named && !inode(named).is_ok_and(|named| named == own))
}

/// Has `run_dir` say where it is. A power failure may cut the text short, after which none of its keepers lives.
pub(crate) fn mark(run_dir: &Path) -> io::Result<()> {
    let own = run_dir.canonicalize()?;
    let (file, draft) = (run_dir.join(PLACE), run_dir.join("place.new"));
    std::fs::write(&draft, own.as_os_str().as_bytes())?;
    std::fs::rename(draft, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_told_from_what_was_moved() {
        let bench = tempfile::tempdir().unwrap();
        let [first, copy] = ["first", "copy"].map(|name| bench.path().join(name));
        for directory in [&first, &copy] {
            std::fs::create_dir(directory).unwrap();
            assert!(!is_copy(directory).unwrap(), "it says nothing yet");
        }
        mark(&first).unwrap();
        assert!(!is_copy(&first).unwrap());
        std::fs::copy(first.join(PLACE), copy.join(PLACE)).unwrap();
        assert!(is_copy(&copy).unwrap());
        mark(&copy).unwrap();
        assert!(!is_copy(&copy).unwrap() && !is_copy(&first).unwrap());
        let moved = bench.path().join("moved");
        std::fs::rename(&first, &moved).unwrap();
        assert!(is_copy(&moved).unwrap());
        std::os::unix::fs::symlink("moved", &first).unwrap();
        assert!(!is_copy(&moved).unwrap());
    }
}

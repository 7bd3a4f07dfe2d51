//! Whose a pool's directory is.
//!
//! A pool is made in a directory that is missing or empty, and the first thing that is written there is a file that says which pool
//! of which daemon it is. The daemon goes by it ever after: no other pool is made in that directory or below it, a pool whose
//! directory bears another mark is not brought up (its driver would remove the volumes that it does not know), and nothing is
//! deleted where the mark is not the pool's own. A daemon whose state is a copy of another's has the same records, tokens and
//! sources, so that a mark names the daemon, too: by its state directory, which two daemons never share. Drivers neither see nor reach the file, because names that begin with `.hutch-`
//! at the top of a root are the host's.

use std::fs::{File, Metadata};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::records::PoolRecord;

/// The file at the top of a pool's directory.
const MARK: &str = ".hutch-pool";

/// Version of its format. What is newer is another's.
const VERSION: u32 = 1;

/// What `mkfs` leaves in an empty file system.
const OF_THE_FILE_SYSTEM: &str = "lost+found";

/// What the file says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mark {
    version: u32,
    /// What the pool's record has, too: random, so that no other pool has it.
    token: String,
    /// For people: the pool's name.
    pool: String,
    /// The state directory of its daemon, without symbolic links.
    daemon: PathBuf,
}

/// What a pool's directory says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// It is the pool's.
    Pool,
    /// There is no directory.
    Missing,
    /// It is not the pool's, for this reason.
    Other(String),
}

/// The directory of a pool that is to be made.
#[derive(Debug)]
pub(crate) struct Place {
    /// Without symbolic links on the way.
    pub(crate) path: PathBuf,
    /// It is not there yet.
    pub(crate) missing: bool,
}

impl Place {
    /// Where `source` is, if a pool can be made there. Changes nothing. What others than root may replace is refused, but for the
    /// daemon's own places: with the way to those its operator trusts whom he likes.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a place whose directory is missing, that is not empty, or that others than root may change;
    /// [`Error::Conflict`] for one that is a pool's or within one.
    pub(crate) fn find(source: &Path, daemons: bool) -> Result<Self> {
        let (path, missing) = resolve(source)?;
        if !missing {
            let directory = path.symlink_metadata().map_err(looking(&path))?;
            if !directory.is_dir() {
                return Err(refused(&path, "it is not a directory"));
            }
            if let Some(why) = open_to_others(&directory, false) {
                return Err(refused(&path, &why));
            }
        }
        for above in path.ancestors().skip(1).filter(|_| !daemons) {
            let directory = above.symlink_metadata().map_err(looking(above))?;
            if let Some(why) = open_to_others(&directory, true) {
                return Err(refused(&path, &format!("{}, which it is in: {why}", above.display())));
            }
        }
        let place = Self { path, missing };
        place.check_free(None)?;
        Ok(place)
    }

    /// Makes the directory where it is missing and marks it as `record`'s, then makes sure that nobody else did anything there
    /// meanwhile: of two that take places within one another, at least one sees the other's mark.
    ///
    /// # Errors
    /// As [`Place::find`], and the disk's. What was done by then is for [`unmark`] to take back.
    pub(crate) fn take(&self, record: &PoolRecord, daemon: &Path) -> Result<()> {
        if self.missing {
            make(&self.path)?;
        }
        let mark = Mark {
            version: VERSION,
            token: record.token.clone(),
            pool: record.name.clone(),
            daemon: daemon.to_owned(),
        };
        match write(&self.path, &mark) {
            Ok(()) => {}
            // Somebody else's came first: say whose.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => self.check_free(None)?,
            Err(error) => return Err(Error::io(format!("marking {} as a pool", self.path.display()))(error)),
        }
        self.check_free(Some(&record.token))
    }

    /// Fails if the directory is a pool's, within one, or holds anything; a mark with `token` is no obstacle.
    fn check_free(&self, token: Option<&str>) -> Result<()> {
        for directory in self.path.ancestors() {
            let own = directory == self.path;
            match read(directory) {
                Ok(None) => {}
                Ok(Some(mark)) if own && Some(mark.token.as_str()) == token => {}
                found => {
                    let relation = if own { "it is" } else { "it is within" };
                    let path = self.path.display();
                    return Err(Error::Conflict(format!(
                        "Storage pool source {path} can't be used: {relation} {}",
                        describe(found)
                    )));
                }
            }
        }
        if self.missing && token.is_none() {
            return Ok(());
        }
        for entry in std::fs::read_dir(&self.path).map_err(looking(&self.path))? {
            let name = entry.map_err(looking(&self.path))?.file_name();
            if name != OF_THE_FILE_SYSTEM && !(token.is_some() && name == MARK) {
                let found = format!("it is not empty, it holds {name:?}");
                return Err(refused(&self.path, &found));
            }
        }
        Ok(())
    }
}

/// Whose the directory `root` is, for the pool `record` of the daemon in the state directory `daemon`.
///
/// # Errors
/// When the directory can't be looked at.
pub(crate) fn owner(root: &Path, record: &PoolRecord, daemon: &Path) -> Result<Owner> {
    if !root.try_exists().map_err(looking(root))? {
        return Ok(Owner::Missing);
    }
    Ok(match read(root) {
        Ok(Some(mark)) if mark.token == record.token && is_same(&mark.daemon, daemon) => Owner::Pool,
        Ok(Some(mark)) if mark.token == record.token => Owner::Other(format!(
            "{} is the storage pool {:?} of the daemon in {}, and this daemon, whose state is a copy of that one's, is in {}: \
             if that one is gone for good, write this one's directory into {MARK} there, as `daemon`",
            root.display(),
            mark.pool,
            mark.daemon.display(),
            daemon.display()
        )),
        Ok(None) => Owner::Other(format!(
            "{} does not bear the mark of a storage pool ({MARK}): is its disk mounted?",
            root.display()
        )),
        found => Owner::Other(format!("{} is {}", root.display(), describe(found))),
    })
}

/// Whether the directory that a mark names is the daemon's own: after a move a link may lead there from where it was. One that
/// can't be looked at is not.
fn is_same(named: &Path, own: &Path) -> bool {
    let inode = |path: &Path| path.metadata().map(|found| (found.dev(), found.ino())).ok();
    named == own || inode(named).is_some_and(|named| inode(own) == Some(named))
}

/// Removes what [`Place::take`] made for `record` of the daemon in `daemon`, and with `everything` first all else that is in the directory. The
/// directory goes if it is `ours` and empty by then. What is another's stays, and what is gone already is no error.
pub(crate) fn unmark(root: &Path, record: &PoolRecord, daemon: &Path, ours: bool, everything: bool) -> Result<()> {
    let action = format!("removing {}", root.display());
    let gone = |result: std::io::Result<()>| match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other.map_err(Error::io(action.clone())),
    };
    gone(std::fs::remove_file(draft(root, &record.token)))?;
    if owner(root, record, daemon)? == Owner::Pool {
        if everything {
            for entry in std::fs::read_dir(root).map_err(Error::io(action.clone()))? {
                let entry = entry.map_err(Error::io(action.clone()))?;
                if entry.file_name() == MARK {
                    continue;
                }
                let is_dir = entry.file_type().map_err(Error::io(action.clone()))?.is_dir();
                gone(if is_dir {
                    std::fs::remove_dir_all(entry.path())
                } else {
                    std::fs::remove_file(entry.path())
                })?;
            }
        }
        super::uncover(root)?;
        // Last, so that whoever is killed before goes on here the next time.
        gone(std::fs::remove_file(root.join(MARK)))?;
    }
    if ours {
        match std::fs::remove_dir(root) {
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {}
            other => gone(other)?,
        }
    }
    Ok(())
}

/// A directory that only root enters: what lies below has unshifted owners and set-uid bits.
fn make(path: &Path) -> Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(Error::io(format!("making directory {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}

/// The path without symbolic links, and whether its last component is missing.
fn resolve(source: &Path) -> Result<(PathBuf, bool)> {
    match source.canonicalize() {
        Ok(path) => return Ok((path, false)),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(looking(source)(error)),
    }
    // A link that leads nowhere is there, too.
    let (Some(parent), Some(name)) = (source.parent(), source.file_name()) else {
        return Err(refused(source, "it is not a path"));
    };
    if source.symlink_metadata().is_ok() {
        return Err(refused(source, "it is a symbolic link to what is not there"));
    }
    match parent.canonicalize() {
        Ok(parent) => Ok((parent.join(name), true)),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(refused(source, &format!("there is no directory {}", parent.display())))
        }
        Err(error) => Err(looking(parent)(error)),
    }
}

/// Why somebody other than root could replace what is in a directory; in one that is `passed` on the way, the sticky bit keeps
/// others from renaming what is root's.
fn open_to_others(directory: &Metadata, passed: bool) -> Option<String> {
    let mode = directory.mode();
    let sticky = passed && mode & 0o1000 != 0;
    if directory.uid() != 0 {
        return Some(format!("it belongs to user {}, not to root", directory.uid()));
    }
    let writers = match (mode & 0o002 != 0, mode & 0o020 != 0 && directory.gid() != 0) {
        (true, _) => "everybody".to_owned(),
        (_, true) => format!("group {}", directory.gid()),
        _ => return None,
    };
    (!sticky).then(|| format!("{writers} may write to it"))
}

/// Writes the mark as a whole or not at all, and so that it outlives a loss of power.
fn write(root: &Path, mark: &Mark) -> std::io::Result<()> {
    let draft = draft(root, &mark.token);
    let mut options = File::options();
    let mut file = options.write(true).create_new(true).mode(0o600).open(&draft)?;
    file.write_all(&serde_json::to_vec(mark)?)?;
    file.sync_all()?;
    // Unlike a renaming this never replaces another's.
    let linked = std::fs::hard_link(&draft, root.join(MARK));
    std::fs::remove_file(&draft)?;
    linked?;
    File::open(root)?.sync_all()
}

fn draft(root: &Path, token: &str) -> PathBuf {
    root.join(format!("{MARK}-{token}"))
}

/// The mark of a directory; `None` where there is none. A text that is no mark is answered as the error.
fn read(directory: &Path) -> std::io::Result<Option<Mark>> {
    let text = match std::fs::read(directory.join(MARK)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mark: Mark = serde_json::from_slice(&text)?;
    if mark.version == VERSION {
        Ok(Some(mark))
    } else {
        let version = format!("its version is {}, and this daemon knows {VERSION}", mark.version);
        Err(std::io::Error::other(version))
    }
}

/// Whose the mark is, after "it is".
fn describe(found: std::io::Result<Option<Mark>>) -> String {
    match found {
        Ok(Some(mark)) => format!(
            "the storage pool {:?} of the daemon in {}",
            mark.pool,
            mark.daemon.display()
        ),
        Ok(None) => "nobody's".to_owned(),
        Err(error) => format!("a storage pool whose mark {MARK} can't be read: {error}"),
    }
}

fn looking(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    Error::io(format!("looking at the storage pool source {}", path.display()))
}

fn refused(path: &Path, why: &str) -> Error {
    Error::invalid(format!("Storage pool source {} can't be used: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "/var/lib/one";

    struct Bench(tempfile::TempDir);

    impl Bench {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn at(&self, path: &str) -> PathBuf {
            self.0.path().canonicalize().unwrap().join(path)
        }

        fn take(&self, pool: &str, source: &str) -> Result<PathBuf> {
            let place = Place::find(&self.at(source), false)?;
            place.take(&record(pool), Path::new(ONE))?;
            Ok(place.path)
        }
    }

    fn record(pool: &str) -> PoolRecord {
        PoolRecord {
            v: 1,
            name: pool.to_owned(),
            driver: "any".to_owned(),
            description: String::new(),
            config: hutch_api::Config::new(),
            token: format!("token of {pool}"),
        }
    }

    #[test]
    fn a_directory_is_one_pools() {
        let bench = Bench::new();
        std::fs::create_dir_all(bench.at("srv/disk/lost+found")).unwrap();
        std::os::unix::fs::symlink(bench.at("srv/disk"), bench.at("link")).unwrap();
        let root = bench.take("a", "link").unwrap();
        assert_eq!(root, bench.at("srv/disk"), "a pool is where the link leads");
        assert_eq!(owner(&root, &record("a"), Path::new(ONE)).unwrap(), Owner::Pool);
        assert!(
            matches!(owner(&root, &record("b"), Path::new(ONE)).unwrap(), Owner::Other(why) if why.contains("\"a\""))
        );
        for other in ["srv/disk", "link", "srv/disk/new", "link/new"] {
            let refused = bench.take("b", other).unwrap_err();
            let told = refused.to_string();
            assert!(
                refused.status() == 409 && told.contains("pool \"a\" of the daemon in /var/lib/one"),
                "{told}"
            );
        }
        assert!(
            bench.take("b", "srv").unwrap_err().to_string().contains("disk"),
            "around a pool"
        );
        assert!(!root.join("new").exists());
        unmark(&root, &record("b"), Path::new(ONE), true, true).unwrap();
        assert_eq!(
            owner(&root, &record("a"), Path::new(ONE)).unwrap(),
            Owner::Pool,
            "another's mark was taken off"
        );
        unmark(&root, &record("a"), Path::new(ONE), false, false).unwrap();
        assert_eq!(std::fs::read_dir(&root).unwrap().count(), 1, "only lost+found stays");
        bench.take("b", "srv/disk").unwrap();
    }

    #[test]
    fn a_copied_record_owns_nothing() {
        let bench = Bench::new();
        let root = bench.take("a", "new").unwrap();
        std::fs::create_dir(root.join("volumes")).unwrap();
        let copy = Path::new("/var/lib/copy");
        let told = owner(&root, &record("a"), copy).unwrap();
        assert!(
            matches!(&told, Owner::Other(why) if why.contains("the daemon in /var/lib/one,")),
            "{told:?}"
        );
        unmark(&root, &record("a"), copy, true, true).unwrap();
        assert!(root.join("volumes").exists(), "a copy removed what is the original's");
        assert_eq!(owner(&root, &record("a"), Path::new(ONE)).unwrap(), Owner::Pool);
    }

    #[test]
    fn a_daemon_that_moved_is_the_same_by_a_link() {
        let bench = Bench::new();
        let (old, new) = (bench.at("old"), bench.at("moved"));
        for directory in [&old, &new] {
            std::fs::create_dir(directory).unwrap();
        }
        let place = Place::find(&bench.at("pool"), false).unwrap();
        place.take(&record("a"), &old).unwrap();
        let is_own = |daemon: &Path| owner(&place.path, &record("a"), daemon).unwrap() == Owner::Pool;
        assert!(is_own(&old) && !is_own(&new));
        std::fs::remove_dir(&old).unwrap();
        assert!(!is_own(&new), "nobody says that it is the same");
        std::os::unix::fs::symlink("moved", &old).unwrap();
        assert!(is_own(&new));
    }

    #[test]
    fn what_is_missing_is_made_and_taken_back() {
        let bench = Bench::new();
        let root = bench.take("a", "new").unwrap();
        assert_eq!(root.metadata().unwrap().mode() & 0o7777, 0o700);
        std::fs::create_dir(root.join("volumes")).unwrap();
        unmark(&root, &record("a"), Path::new(ONE), true, true).unwrap();
        assert!(!root.exists());
        unmark(&root, &record("a"), Path::new(ONE), true, true).unwrap();
        assert_eq!(owner(&root, &record("a"), Path::new(ONE)).unwrap(), Owner::Missing);
        // Killed between the directory and the mark, and in the middle of writing it.
        make(&root).unwrap();
        std::fs::write(draft(&root, &record("a").token), "{").unwrap();
        unmark(&root, &record("a"), Path::new(ONE), true, true).unwrap();
        assert!(!root.exists());
        let refused = bench.take("a", "new/below").unwrap_err().to_string();
        assert!(refused.contains("no directory"), "{refused}");
        std::os::unix::fs::symlink("nowhere", bench.at("dangling")).unwrap();
        assert!(bench.take("a", "dangling").is_err());
    }

    #[test]
    fn what_others_can_change_is_no_place() {
        let bench = Bench::new();
        let mode = |path: &str, mode| {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
            std::fs::set_permissions(bench.at(path), mode).unwrap();
        };
        std::fs::create_dir_all(bench.at("way/pool")).unwrap();
        for (path, bits, good) in [
            ("way", 0o777, false),
            ("way", 0o1777, true),
            ("way/pool", 0o1777, false),
            ("way/pool", 0o755, true),
        ] {
            mode(path, bits);
            assert_eq!(
                Place::find(&bench.at("way/pool"), false).is_ok(),
                good,
                "{path} {bits:o}"
            );
        }
        std::os::unix::fs::chown(bench.at("way"), Some(1000), None).unwrap();
        let refused = Place::find(&bench.at("way/pool"), false).unwrap_err().to_string();
        assert!(refused.contains("user 1000"), "{refused}");
        assert!(Place::find(&bench.at("way/pool"), true).is_ok());
        std::fs::write(bench.at("file"), "").unwrap();
        assert!(Place::find(&bench.at("file"), false).is_err());
    }

    #[test]
    fn what_is_in_use_stays_as_it_is() {
        let bench = Bench::new();
        std::fs::create_dir_all(bench.at("app/volumes")).unwrap();
        std::fs::write(bench.at("app/volumes/data"), "precious").unwrap();
        let refused = bench.take("a", "app").unwrap_err().to_string();
        assert!(refused.contains("volumes"), "{refused}");
        unmark(&bench.at("app"), &record("a"), Path::new(ONE), true, true).unwrap();
        assert_eq!(
            std::fs::read_to_string(bench.at("app/volumes/data")).unwrap(),
            "precious"
        );
        assert_eq!(std::fs::read_dir(bench.at("app")).unwrap().count(), 1);
        std::fs::create_dir(bench.at("odd")).unwrap();
        std::fs::write(bench.at("odd").join(MARK), "{\"version\":9}").unwrap();
        assert!(
            bench
                .take("a", "odd")
                .unwrap_err()
                .to_string()
                .contains("can't be read")
        );
    }
}

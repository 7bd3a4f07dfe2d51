//! `hutch:host/fs`: trees below the roots of a call and granted fixed places.

mod copy;
mod features;
mod merged;
mod quota;
mod trash;
pub(crate) mod tree;

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use hutch_driver::{Cancel, DriverError, TreePath};
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, Stat, fchmod, fstat, mkdirat, openat, renameat, renameat_with, statat, unlinkat,
};
use rustix::io::Errno;

use self::tree::{OpenRoot, RootGrant, blocking, check_path, on_root};
use crate::error::{invalid, os};
use crate::{CallContext, DirEntry, FileInfo, Request, Response, Space};

/// Largest file that `read-file` and `write-file` handle, in bytes.
const MAX_FILE: usize = 1 << 20;
/// Most entries that one `list-dir` answers.
const MAX_ENTRIES: usize = 10_000;

/// The trees that plugins work in.
#[derive(Debug)]
pub(crate) struct Trees {
    reaper: trash::Reaper,
    /// What is known of roots by device and inode, so that a root is looked at again when another file system is mounted.
    known: Mutex<HashMap<(u64, u64), Arc<Known>>>,
}

/// What is found out about a root once.
#[derive(Debug, Default)]
struct Known {
    features: OnceLock<features::Features>,
}

impl Trees {
    /// Starts the removal thread.
    ///
    /// # Errors
    /// `internal` where there is no room for it.
    pub(crate) fn new() -> Result<Self, DriverError> {
        Ok(Self { reaper: trash::Reaper::start()?, known: Mutex::default() })
    }

    /// Does an `fs` request.
    pub(crate) async fn call(self: &Arc<Self>, cx: &CallContext, request: Request) -> Result<Response, DriverError> {
        match request {
            Request::FsStat { at } => self.on(cx, &at, |_, root, path| stat(&root, path)).await.map(Response::FileInfo),
            Request::FsMakeDir { at, mode } => {
                self.on(cx, &at, move |_, root, path| make_dir(&root, path, mode)).await.map(unit)
            }
            Request::FsListDir { at, after, limit } => self
                .on(cx, &at, move |_, root, path| list_dir(&root, path, after.as_deref(), limit))
                .await
                .map(Response::DirEntries),
            Request::FsReadFile { at } => self.on(cx, &at, |_, root, path| read_file(&root, path)).await.map(Response::Bytes),
            Request::FsWriteFile { at, data, mode } => {
                self.on(cx, &at, move |_, root, path| write_file(&root, path, &data, mode, true)).await.map(unit)
            }
            Request::FsRename { source, to } => {
                let to = same_root(&source, to)?;
                self.on(cx, &source, move |_, root, path| rename(&root, path, &to)).await.map(unit)
            }
            Request::FsDiscard { at } => self.on(cx, &at, |trees, root, path| trees.discard(&root, path)).await.map(unit),
            Request::FsCopyTree { source, to } => self.copy_tree(cx, source, to).await.map(unit),
            Request::FsCopyMerged { layers, to } => self.copy_merged(cx, layers, to).await.map(unit),
            Request::FsFeatures { root } => {
                self.on_root(cx, &root, |trees, root| Ok(trees.features(&root)?.names())).await.map(Response::Strings)
            }
            Request::FsSpace { root } => self.on_root(cx, &root, |_, root| space(&root)).await.map(Response::Space),
            Request::FsUsage { at } => {
                self.on(cx, &at, |trees, root, path| {
                    check_path(path)?;
                    if trees.features(&root)?.project_quota { quota::usage(&root, path) } else { Ok(None) }
                })
                .await
                .map(Response::Size)
            }
            Request::FsSetQuota { at, bytes } => {
                self.on(cx, &at, move |trees, root, path| trees.set_quota(&root, path, bytes)).await.map(unit)
            }
            other => Err(crate::error::internal(format!("{} is not a function of fs", other.function()))),
        }
    }

    /// Removes everything that the broker keeps in the root at `path`: the core calls it before it removes a pool's
    /// directory. Blocks until what was discarded there is gone.
    ///
    /// # Errors
    /// `io` and its like where something can't be removed.
    pub(crate) fn release(&self, path: &Path) -> Result<(), DriverError> {
        self.reaper.flush();
        let fail = |e| os(format_args!("can't remove {} in {}", trash::TRASH, path.display()), e);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = match rustix::fs::open(path, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(()),
            other => other.map_err(fail)?,
        };
        let stat = fstat(&root).map_err(fail)?;
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(&(stat.st_dev, stat.st_ino));
        trash::remove_tree(rustix::fd::AsFd::as_fd(&root), trash::TRASH).map_err(fail)
    }

    async fn on_root<T: Send + 'static>(
        self: &Arc<Self>,
        cx: &CallContext,
        id: &str,
        work: impl FnOnce(&Self, OpenRoot) -> Result<T, DriverError> + Send + 'static,
    ) -> Result<T, DriverError> {
        let trees = Arc::clone(self);
        on_root(cx, id, move |root| {
            trees.greet(&root)?;
            work(&trees, root)
        })
        .await
    }

    async fn on<T: Send + 'static>(
        self: &Arc<Self>,
        cx: &CallContext,
        at: &TreePath,
        work: impl FnOnce(&Self, OpenRoot, &str) -> Result<T, DriverError> + Send + 'static,
    ) -> Result<T, DriverError> {
        let path = at.path.clone();
        self.on_root(cx, &at.root, move |trees, root| work(trees, root, &path)).await
    }

    /// What is known of a root. When it is used for the first time, what an earlier daemon left in its trash is removed.
    fn greet(&self, root: &OpenRoot) -> Result<Arc<Known>, DriverError> {
        let stat = fstat(&root.fd).map_err(|e| os(format_args!("can't look at {}", root.describe("")), e))?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get(&(stat.st_dev, stat.st_ino)) {
            return Ok(Arc::clone(known));
        }
        if root.writable {
            let leftovers = match tree::open_beneath(&root.fd, trash::TRASH, OFlags::PATH | OFlags::DIRECTORY) {
                Err(Errno::NOENT) => Ok(Vec::new()),
                other => other.and_then(trash::list),
            };
            for name in leftovers.map_err(|e| os(format_args!("can't list {} in {}", trash::TRASH, root.describe("")), e))? {
                self.reaper.remove(&root.path, name);
            }
        }
        Ok(Arc::clone(known.entry((stat.st_dev, stat.st_ino)).or_default()))
    }

    fn features(&self, root: &OpenRoot) -> Result<features::Features, DriverError> {
        let known = self.greet(root)?;
        if let Some(features) = known.features.get() {
            return Ok(*features);
        }
        let found = features::probe(root)?;
        Ok(*known.features.get_or_init(|| found))
    }

    fn discard(&self, root: &OpenRoot, path: &str) -> Result<(), DriverError> {
        root.require_writable()?;
        let place = match root.place(path) {
            Err(e) if e.is("not-found") => return Ok(()),
            other => other?,
        };
        // A file and an empty directory are gone as quickly as they could be renamed.
        match remove_plain(&place) {
            Ok(true) | Err(Errno::NOENT) => return Ok(()),
            Ok(false) => {}
            Err(e) => return Err(os(format_args!("can't discard {}", root.describe(path)), e)),
        }
        let trash = trash::open_trash(root)?;
        let name = trash::fresh_name();
        match renameat(&place.parent, place.name.as_str(), &trash, name.as_str()) {
            Ok(()) => self.reaper.remove(&root.path, name),
            Err(Errno::NOENT) => {}
            Err(e) => return Err(os(format_args!("can't discard {}", root.describe(path)), e)),
        }
        Ok(())
    }

    async fn copy_tree(self: &Arc<Self>, cx: &CallContext, source: TreePath, to: TreePath) -> Result<(), DriverError> {
        let target = RootGrant::find(cx, &to.root)?;
        let cancel = cx.call.cancel.clone();
        self.on(cx, &source.clone(), move |trees, from_root, from| {
            let to_root = target.open()?;
            copy::check_apart(&from_root, from, &to_root, &to.path)?;
            let source = copy::Source::Entry(from_root.place(from)?);
            trees.copy(from_root.describe(from), source, &to_root, &to.path, &cancel)
        })
        .await
    }

    async fn copy_merged(self: &Arc<Self>, cx: &CallContext, layers: Vec<TreePath>, to: TreePath) -> Result<(), DriverError> {
        if layers.is_empty() || layers.len() > merged::MAX_LAYERS {
            return Err(invalid(format!("{} layers: 1 to {} can be merged", layers.len(), merged::MAX_LAYERS)));
        }
        let target = RootGrant::find(cx, &to.root)?;
        let grants = layers.iter().map(|layer| RootGrant::find(cx, &layer.root)).collect::<Result<Vec<_>, _>>()?;
        let (trees, cancel) = (Arc::clone(self), cx.call.cancel.clone());
        blocking(move || {
            let to_root = target.open()?;
            let mut open = Vec::with_capacity(layers.len());
            for (grant, layer) in grants.into_iter().zip(&layers) {
                let root = grant.open()?;
                trees.greet(&root)?;
                check_path(&layer.path)?;
                copy::check_apart(&root, &layer.path, &to_root, &to.path)?;
                let dir = root.open_dir(&layer.path).map_err(|e| os(format_args!("can't open {}", root.describe(&layer.path)), e))?;
                open.push(dir);
            }
            to_root.require_writable()?;
            let what = format!("{} merged layers", open.len());
            let shown = merged::open(&to_root, &open)?;
            trees.copy(what, copy::Source::Directory(&shown.dir), &to_root, &to.path, &cancel)
        })
        .await
    }

    fn copy(&self, from: String, source: copy::Source<'_>, to_root: &OpenRoot, to: &str, cancel: &Cancel) -> Result<(), DriverError> {
        self.greet(to_root)?;
        let reflink = to_root.writable && self.features(to_root)?.reflink;
        copy::copy(&copy::Job { from, to_root, to, reflink, cancel }, source)
    }

    fn set_quota(&self, root: &OpenRoot, path: &str, bytes: Option<u64>) -> Result<(), DriverError> {
        root.require_writable()?;
        check_path(path)?;
        if !self.features(root)?.project_quota {
            return Err(DriverError::new("unsupported", format!(
                "can't limit {}: its file system has no project quota (for ext4 the feature `project` and the mount option \
                 `prjquota`, for xfs `prjquota`)",
                root.describe(path)
            )));
        }
        quota::set(root, path, bytes)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "used with map")]
fn unit((): ()) -> Response {
    Response::Unit
}

fn same_root(source: &TreePath, to: TreePath) -> Result<String, DriverError> {
    if source.root == to.root {
        Ok(to.path)
    } else {
        Err(invalid(format!("can't rename from root {:?} to root {:?}: a rename stays within one root", source.root, to.root)))
    }
}

fn kind(mode: u32) -> &'static str {
    match FileType::from_raw_mode(mode) {
        FileType::RegularFile => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symlink",
        _ => "other",
    }
}

fn info(stat: &Stat) -> FileInfo {
    FileInfo {
        kind: kind(stat.st_mode).to_owned(),
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mode: stat.st_mode & 0o7777,
        modified: stat.st_mtime,
    }
}

fn stat(root: &OpenRoot, path: &str) -> Result<Option<FileInfo>, DriverError> {
    if path.is_empty() {
        let stat = fstat(&root.fd).map_err(|e| os(format_args!("can't look at {}", root.describe(path)), e))?;
        return Ok(Some(info(&stat)));
    }
    let place = match root.place(path) {
        Err(e) if e.is("not-found") => return Ok(None),
        other => other?,
    };
    match statat(&place.parent, place.name.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(info(&stat))),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(os(format_args!("can't look at {}", root.describe(path)), e)),
    }
}

/// Directories above the last one are made with mode 0700: what lies deeper is reached by those only who may pass here.
fn make_dir(root: &OpenRoot, path: &str, mode: u32) -> Result<(), DriverError> {
    root.require_writable()?;
    check_path(path)?;
    if mode & !0o7777 != 0 {
        return Err(invalid(format!("{mode:#o} is not the mode of a directory")));
    }
    let fail = |e| os(format_args!("can't make the directory {}", root.describe(path)), e);
    let mut at = openat(&root.fd, ".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(fail)?;
    let mut rest = path.split('/').filter(|c| !c.is_empty()).peekable();
    while let Some(name) = rest.next() {
        let bits = if rest.peek().is_some() { 0o700 } else { mode };
        let made = match mkdirat(&at, name, Mode::from_raw_mode(bits)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(e) => return Err(fail(e)),
        };
        let open = if made { OFlags::RDONLY } else { OFlags::PATH };
        at = tree::open_beneath(&at, name, open | OFlags::DIRECTORY).map_err(fail)?;
        if made {
            // The daemon's umask does not count.
            fchmod(&at, Mode::from_raw_mode(bits)).map_err(fail)?;
        }
    }
    Ok(())
}

fn list_dir(root: &OpenRoot, path: &str, after: Option<&str>, limit: u32) -> Result<Vec<DirEntry>, DriverError> {
    check_path(path)?;
    let fail = |e| os(format_args!("can't list {}", root.describe(path)), e);
    let limit = usize::try_from(limit).unwrap_or(MAX_ENTRIES).min(MAX_ENTRIES);
    let dir = root.open_dir(path).map_err(fail)?;
    // Only the first `limit` names are kept, so that a directory of any size needs bounded memory.
    let mut first: BTreeMap<String, FileType> = BTreeMap::new();
    for entry in Dir::read_from(&dir).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        // A name that is not UTF-8 can't have been made by a driver, and no driver could address it.
        let Ok(name) = entry.file_name().to_str() else { continue };
        let own = name == "." || name == ".." || (path.is_empty() && name.starts_with(tree::RESERVED));
        if own || after.is_some_and(|after| name <= after) {
            continue;
        }
        if first.len() < limit || first.last_key_value().is_some_and(|(last, _)| name < last.as_str()) {
            first.insert(name.to_owned(), entry.file_type());
            if first.len() > limit {
                first.pop_last();
            }
        }
    }
    let mut entries = Vec::with_capacity(first.len());
    for (name, file_type) in first {
        let kind = if file_type == FileType::Unknown {
            match statat(&dir, name.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => kind(stat.st_mode),
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(fail(e)),
            }
        } else {
            kind(file_type.as_raw_mode())
        };
        entries.push(DirEntry { name, kind: kind.to_owned() });
    }
    Ok(entries)
}

fn read_file(root: &OpenRoot, path: &str) -> Result<Option<Vec<u8>>, DriverError> {
    check_path(path)?;
    let fail = |e| os(format_args!("can't read {}", root.describe(path)), e);
    // Without O_NONBLOCK the opening of a fifo would wait for a writer.
    let fd = match tree::open_beneath(&root.fd, path, OFlags::RDONLY | OFlags::NONBLOCK) {
        Err(Errno::NOENT) => return Ok(None),
        other => other.map_err(fail)?,
    };
    let stat = fstat(&fd).map_err(fail)?;
    if !FileType::from_raw_mode(stat.st_mode).is_file() {
        return Err(invalid(format!("{} is not a regular file", root.describe(path))));
    }
    let mut data = Vec::new();
    std::io::Read::read_to_end(&mut std::io::Read::take(std::fs::File::from(fd), MAX_FILE as u64 + 1), &mut data)
        .map_err(|e| crate::error::io(format_args!("can't read {}", root.describe(path)), &e))?;
    if data.len() > MAX_FILE {
        return Err(DriverError::new("limit", format!("{} is larger than the {MAX_FILE} bytes that can be read", root.describe(path))));
    }
    Ok(Some(data))
}

/// Removes what can be removed at once, and says whether that was so.
fn remove_plain(place: &tree::Place) -> Result<bool, Errno> {
    match unlinkat(&place.parent, place.name.as_str(), AtFlags::empty()) {
        Ok(()) => return Ok(true),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(e),
    }
    match unlinkat(&place.parent, place.name.as_str(), AtFlags::REMOVEDIR) {
        Ok(()) => Ok(true),
        // An immutable file is for the removal that can deal with it.
        Err(Errno::NOTEMPTY | Errno::EXIST | Errno::PERM | Errno::NOTDIR) => Ok(false),
        Err(e) => Err(e),
    }
}

/// The file is written and, with `sync`, flushed to the disk under another name first, so that after a crash, then of the
/// machine too, it holds the old bytes or the new ones.
fn write_file(root: &OpenRoot, path: &str, data: &[u8], mode: u32, sync: bool) -> Result<(), DriverError> {
    root.require_writable()?;
    if data.len() > MAX_FILE {
        return Err(DriverError::new("limit", format!("can't write {} bytes: at most {MAX_FILE} are allowed", data.len())));
    }
    if mode & !0o7777 != 0 {
        return Err(invalid(format!("{mode:#o} is not the mode of a file")));
    }
    let place = root.place(path)?;
    let trash = trash::open_trash(root)?;
    let name = trash::fresh_name();
    let what = || format!("can't write {}", root.describe(path));
    let written = openat(&trash, name.as_str(), OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR)
        .map_err(|e| os(what(), e))
        .and_then(|fd| {
            let mut file = std::fs::File::from(fd);
            file.write_all(data).map_err(|e| crate::error::io(what(), &e))?;
            fchmod(&file, Mode::from_raw_mode(mode)).map_err(|e| os(what(), e))?;
            if sync {
                file.sync_data().map_err(|e| crate::error::io(what(), &e))?;
            }
            let rename = || renameat(&trash, name.as_str(), &place.parent, place.name.as_str());
            match rename() {
                // The directory belongs to a project, in which the file has to be before it can be moved there.
                Err(Errno::XDEV) => {
                    quota::adopt(&place.parent, rustix::fd::AsFd::as_fd(&file)).map_err(|e| crate::error::io(what(), &e))?;
                    rename()
                }
                other => other,
            }
            .map_err(|e| os(what(), e))
        });
    if written.is_err() {
        // Whether this succeeds or not, the trash is emptied when the root is next opened.
        let _ = unlinkat(&trash, name.as_str(), AtFlags::empty());
    }
    written
}

fn rename(root: &OpenRoot, source: &str, to: &str) -> Result<(), DriverError> {
    root.require_writable()?;
    let what = || format!("can't rename {} to {to:?}", root.describe(source));
    let to_place = root.place(to)?;
    let from_place = match root.place(source) {
        Err(e) if e.is("not-found") => None,
        other => Some(other?),
    };
    let renamed = from_place.map_or(Err(Errno::NOENT), |from| {
        let (name, to_name) = (from.name.as_str(), to_place.name.as_str());
        match renameat_with(&from.parent, name, &to_place.parent, to_name, RenameFlags::NOREPLACE) {
            // Few file systems lack the flag (rename(2)); there the core's lock on the object has to do.
            Err(Errno::INVAL) if exists(&to_place)? => Err(Errno::EXIST),
            Err(Errno::INVAL) => renameat(&from.parent, name, &to_place.parent, to_name),
            other => other,
        }
    });
    match renamed {
        Err(Errno::NOENT) if exists(&to_place).map_err(|e| os(what(), e))? => Ok(()),
        other => other.map_err(|e| os(what(), e)),
    }
}

fn exists(place: &tree::Place) -> Result<bool, Errno> {
    match statat(&place.parent, place.name.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(e) => Err(e),
    }
}

fn space(root: &OpenRoot) -> Result<Space, DriverError> {
    let stat = rustix::fs::fstatvfs(&root.fd).map_err(|e| os(format_args!("can't ask for the space of {}", root.describe("")), e))?;
    let used_blocks = stat.f_blocks.saturating_sub(stat.f_bavail);
    Ok(Space {
        total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
        used_bytes: used_blocks.saturating_mul(stat.f_frsize),
        total_inodes: stat.f_files,
        used_inodes: stat.f_files.saturating_sub(stat.f_ffree),
    })
}

/// Files in the directory of a service. They are not flushed to the disk: a driver writes them anew when the machine has
/// come up, and then it is what makes the service start.
impl OpenRoot {
    /// Replaces a file. Directories above it that are missing are made, open to programs that have given up root.
    pub(crate) fn write_service_file(&self, path: &str, data: &[u8]) -> Result<(), DriverError> {
        match write_file(self, path, data, 0o644, false) {
            Err(e) if e.is("not-found") => {}
            other => return other,
        }
        let (above, _) = path.rsplit_once('/').unwrap_or_default();
        let ends = above.match_indices('/').map(|(at, _)| at).chain([above.len()]);
        for end in ends {
            make_dir(self, above.get(..end).unwrap_or_default(), 0o755)?;
        }
        write_file(self, path, data, 0o644, false)
    }

    /// The bytes of a file; `None` where there is none.
    pub(crate) fn read_service_file(&self, path: &str) -> Result<Option<Vec<u8>>, DriverError> {
        read_file(self, path)
    }

    /// Removes a file. What is not there succeeds.
    pub(crate) fn remove_service_file(&self, path: &str) -> Result<(), DriverError> {
        let place = match self.place(path) {
            Err(e) if e.is("not-found") => return Ok(()),
            other => other?,
        };
        match unlinkat(&place.parent, place.name.as_str(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(os(format_args!("can't remove {}", self.describe(path)), e)),
        }
    }

    /// Names of the files in a directory, in order; none where it is not there.
    pub(crate) fn list_service_files(&self, path: &str) -> Result<Vec<String>, DriverError> {
        match list_dir(self, path, None, u32::MAX) {
            Ok(entries) => Ok(entries.into_iter().filter(|entry| entry.kind == "file").map(|entry| entry.name).collect()),
            Err(e) if e.is("not-found") => Ok(Vec::new()),
            Err(e) => Err(e),
        }
    }
}

//! `hutch:host/fs`: trees below the roots of a call and granted fixed places.

mod between;
mod copy;
mod features;
mod merged;
mod ops;
mod parts;
mod quota;
mod service_files;
mod trash;
pub(crate) mod tree;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use hutch_driver::{Call, Cancel, DriverError, Progress, TreePath};
use rustix::fs::{Mode, OFlags, fstat, renameat};
use rustix::io::Errno;

use self::tree::{OpenRoot, RootGrant, blocking, check_path, on_root};
use crate::error::{invalid, os};
use crate::{CallContext, Request, Response};

/// The trees that plugins work in.
#[derive(Debug)]
pub(crate) struct Trees {
    reaper: trash::Reaper,
    /// What is known of roots by device and inode, so that a root is looked at again when another file system is mounted.
    known: Mutex<HashMap<(u64, u64), Arc<Known>>>,
}

/// How a copy goes, and who follows it.
struct Watch {
    /// As in [`copy::Job`].
    replaces_empty: bool,
    cancel: Cancel,
    progress: Arc<dyn Progress>,
}

impl Watch {
    /// A copy for a driver, whose target is not there yet.
    fn of(call: &Call) -> Self {
        Self {
            replaces_empty: false,
            cancel: call.cancel.clone(),
            progress: Arc::clone(&call.progress),
        }
    }
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
        Ok(Self {
            reaper: trash::Reaper::start()?,
            known: Mutex::default(),
        })
    }

    /// Does an `fs` request.
    pub(crate) async fn call(self: &Arc<Self>, cx: &CallContext, request: Request) -> Result<Response, DriverError> {
        match request {
            Request::FsStat { at } => self
                .on(cx, &at, |_, root, path| ops::stat(&root, path))
                .await
                .map(Response::FileInfo),
            Request::FsMakeDir { at, mode } => self
                .on(cx, &at, move |_, root, path| ops::make_dir(&root, path, mode))
                .await
                .map(unit),
            Request::FsListDir { at, after, limit } => self
                .on(cx, &at, move |_, root, path| {
                    ops::list_dir(&root, path, after.as_deref(), limit)
                })
                .await
                .map(Response::DirEntries),
            Request::FsReadFile { at } => self
                .on(cx, &at, |_, root, path| ops::read_file(&root, path))
                .await
                .map(Response::Bytes),
            Request::FsWriteFile { at, data, mode } => self
                .on(cx, &at, move |_, root, path| {
                    ops::write_file(&root, path, &data, mode, true)
                })
                .await
                .map(unit),
            Request::FsWritePart { at, offset, data, mode } => self
                .on(cx, &at, move |_, root, path| {
                    parts::write_part(&root, path, offset, &data, mode)
                })
                .await
                .map(unit),
            Request::FsReplaceFile { source, to } => {
                let to = same_root(&source, to)?;
                self.on(cx, &source, move |_, root, path| parts::replace_file(&root, path, &to))
                    .await
                    .map(unit)
            }
            Request::FsRename { source, to } => {
                let to = same_root(&source, to)?;
                self.on(cx, &source, move |_, root, path| ops::rename(&root, path, &to))
                    .await
                    .map(unit)
            }
            Request::FsDiscard { at } => self
                .on(cx, &at, |trees, root, path| trees.discard(&root, path))
                .await
                .map(unit),
            Request::FsCopyTree { source, to } => self.copy_tree(cx, source, to).await.map(unit),
            Request::FsCopyMerged { layers, to } => self.copy_merged(cx, layers, to).await.map(unit),
            Request::FsFeatures { root } => self
                .on_root(cx, &root, |trees, root| Ok(trees.features(&root)?.names()))
                .await
                .map(Response::Strings),
            Request::FsSpace { root } => self
                .on_root(cx, &root, |_, root| ops::space(&root))
                .await
                .map(Response::Space),
            Request::FsUsage { at } => self
                .on(cx, &at, |trees, root, path| trees.usage(&root, path))
                .await
                .map(Response::Size),
            Request::FsSetQuota { at, bytes } => self
                .on(cx, &at, move |trees, root, path| trees.set_quota(&root, path, bytes))
                .await
                .map(unit),
            other => Err(crate::error::internal(format!(
                "{} is not a function of fs",
                other.function()
            ))),
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
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&(stat.st_dev, stat.st_ino));
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
        self.on_root(cx, &at.root, move |trees, root| work(trees, root, &path))
            .await
    }

    /// What is known of a root. When it is used for the first time, what an earlier daemon left in its trash is removed.
    fn greet(&self, root: &OpenRoot) -> Result<Arc<Known>, DriverError> {
        let stat = fstat(&root.fd).map_err(|e| os(format_args!("can't look at {}", root.describe("")), e))?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get(&(stat.st_dev, stat.st_ino)) {
            return Ok(Arc::clone(known));
        }
        if root.writable {
            self.empty_trash(root)?;
        }
        Ok(Arc::clone(known.entry((stat.st_dev, stat.st_ino)).or_default()))
    }

    /// Has what an earlier daemon left in the trash of a root removed. Only before the root is worked in: what is in there
    /// now is taken for abandoned.
    ///
    /// # Errors
    /// `io` and its like where the trash can't be listed.
    pub(crate) fn empty_trash(&self, root: &OpenRoot) -> Result<(), DriverError> {
        let leftovers = match tree::open_beneath(&root.fd, trash::TRASH, OFlags::PATH | OFlags::DIRECTORY) {
            Err(Errno::NOENT) => Ok(Vec::new()),
            other => other.and_then(trash::list),
        };
        for name in
            leftovers.map_err(|e| os(format_args!("can't list {} in {}", trash::TRASH, root.describe("")), e))?
        {
            self.reaper.remove(&root.path, name);
        }
        Ok(())
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
        match ops::remove_plain(&place) {
            Ok(true) | Err(Errno::NOENT) => return Ok(()),
            Ok(false) => {}
            Err(e) => return Err(os(format_args!("can't discard {}", root.describe(path)), e)),
        }
        let trash = trash::open_trash(root)?;
        let name = trash::fresh_name();
        let taken = || renameat(&place.parent, place.name.as_str(), &trash, name.as_str());
        match trash::despite_flags(&place, true, taken) {
            Ok(()) => self.reaper.remove(&root.path, name),
            Err(Errno::NOENT) => {}
            Err(e) => return Err(os(format_args!("can't discard {}", root.describe(path)), e)),
        }
        Ok(())
    }

    async fn copy_tree(self: &Arc<Self>, cx: &CallContext, source: TreePath, to: TreePath) -> Result<(), DriverError> {
        let target = RootGrant::find(cx, &to.root)?;
        let watch = Watch::of(&cx.call);
        self.on(cx, &source.clone(), move |trees, from_root, from| {
            let to_root = target.open()?;
            copy::check_apart(&from_root, from, &to_root, &to.path)?;
            let source = copy::Source::Entry(from_root.place(from)?);
            trees.copy(from_root.describe(from), source, &to_root, &to.path, &watch)
        })
        .await
    }

    async fn copy_merged(
        self: &Arc<Self>,
        cx: &CallContext,
        layers: Vec<TreePath>,
        to: TreePath,
    ) -> Result<(), DriverError> {
        if layers.is_empty() || layers.len() > merged::MAX_LAYERS {
            return Err(invalid(format!(
                "{} layers: 1 to {} can be merged",
                layers.len(),
                merged::MAX_LAYERS
            )));
        }
        let target = RootGrant::find(cx, &to.root)?;
        let grants = layers
            .iter()
            .map(|layer| RootGrant::find(cx, &layer.root))
            .collect::<Result<Vec<_>, _>>()?;
        let (trees, watch) = (Arc::clone(self), Watch::of(&cx.call));
        blocking(move || {
            let to_root = target.open()?;
            let mut open = Vec::with_capacity(layers.len());
            for (grant, layer) in grants.into_iter().zip(&layers) {
                let root = grant.open()?;
                trees.greet(&root)?;
                check_path(&layer.path)?;
                copy::check_apart(&root, &layer.path, &to_root, &to.path)?;
                let dir = root
                    .open_dir(&layer.path)
                    .map_err(|e| os(format_args!("can't open {}", root.describe(&layer.path)), e))?;
                open.push(dir);
            }
            to_root.require_writable()?;
            let what = format!("{} merged layers", open.len());
            let shown = merged::open(&to_root, &open)?;
            trees.copy(what, copy::Source::Directory(&shown.dir), &to_root, &to.path, &watch)
        })
        .await
    }

    fn copy(
        &self,
        from: String,
        source: copy::Source<'_>,
        to_root: &OpenRoot,
        to: &str,
        watch: &Watch,
    ) -> Result<(), DriverError> {
        self.greet(to_root)?;
        let reflink = to_root.writable && self.features(to_root)?.reflink;
        copy::copy(
            &copy::Job {
                from,
                to_root,
                to,
                reflink,
                replaces_empty: watch.replaces_empty,
                cancel: &watch.cancel,
                progress: watch.progress.as_ref(),
            },
            source,
        )
    }

    /// Known only where the file system counts for itself.
    fn usage(&self, root: &OpenRoot, path: &str) -> Result<Option<u64>, DriverError> {
        check_path(path)?;
        if self.features(root)?.project_quota {
            quota::usage(root, path)
        } else {
            Ok(None)
        }
    }

    fn set_quota(&self, root: &OpenRoot, path: &str, bytes: Option<u64>) -> Result<(), DriverError> {
        root.require_writable()?;
        check_path(path)?;
        if !self.features(root)?.project_quota {
            return Err(DriverError::new(
                "unsupported",
                format!(
                    "can't limit {}: its file system has no project quota (for ext4 the feature `project` and the mount option \
                 `prjquota`, for xfs `prjquota`)",
                    root.describe(path)
                ),
            ));
        }
        quota::set(root, path, bytes)
    }
}

fn unit((): ()) -> Response {
    Response::Unit
}

fn same_root(source: &TreePath, to: TreePath) -> Result<String, DriverError> {
    if source.root == to.root {
        Ok(to.path)
    } else {
        Err(invalid(format!(
            "can't rename from root {:?} to root {:?}: a rename stays within one root",
            source.root, to.root
        )))
    }
}

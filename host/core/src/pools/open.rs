//! A pool with its driver: calls on it, and what it answers in the host's terms.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hutch_container::RootFs;
use hutch_driver::storage::{PoolRef, StorageDriver};
use hutch_driver::{Call, DriverError, MountPlan, Progress, Root, TreePath};

use super::{Claim, ROOT, instance_volume};
use crate::error::{Error, Result};
use crate::records::{InstanceRecord, PoolRecord};
use crate::{Core, Operation};

/// A pool with its driver, ready for calls.
pub(crate) struct OpenPool {
    pub(crate) record: Arc<PoolRecord>,
    pub(crate) driver: Arc<dyn StorageDriver>,
    pub(super) root: PathBuf,
}

impl OpenPool {
    /// The pool as a driver sees it.
    pub(crate) fn reference(&self) -> PoolRef {
        PoolRef {
            name: self.record.name.clone(),
            root: ROOT.to_owned(),
            config: self.record.config.clone(),
        }
    }

    /// A call on the pool for `operation`, which sees its progress and can cancel it.
    pub(crate) fn call(&self, operation: Option<&Arc<Operation>>) -> Call {
        let mut call = Call::new(crate::DEFAULT_PROJECT, &self.record.name);
        call.roots = vec![self.tree()];
        if let Some(operation) = operation {
            call.operation = operation.id().to_owned();
            call.progress = Arc::clone(operation) as Arc<dyn Progress>;
            call.cancel = operation.cancel_flag();
        }
        call
    }

    /// The pool's tree, as a driver may work in it.
    pub(crate) fn tree(&self) -> Root {
        Root {
            id: ROOT.to_owned(),
            path: self.root.clone(),
            writable: true,
        }
    }

    /// Refuses an ability that the driver does not export.
    pub(crate) fn require(&self, ability: &str) -> Result<()> {
        let info = self.driver.info();
        if info.can(ability) {
            return Ok(());
        }
        let error = DriverError::new(
            "unsupported",
            format!("storage driver {} has no interface {ability}", info.name),
        );
        Err(Error::Driver {
            action: format!("using pool {}", self.record.name),
            source: Box::new(error.from_plugin(&info.plugin, &info.version)),
        })
    }

    /// The root of an instance, which nobody else gets before the claim is dropped.
    pub(crate) async fn root_of(&self, core: &Core, record: &InstanceRecord) -> Result<(RootFs, Claim)> {
        let action = || format!("mounting the root of instance {}", record.name);
        let plan = self
            .driver
            .mount(&self.call(None), &self.reference(), &instance_volume(record))
            .await
            .map_err(Error::driver(action()))?;
        let root = self.root_fs(&plan)?;
        let who = format!("instance {} of project {}", record.name, record.project);
        let claim = core.claims.take(&who, &root).map_err(|taken| {
            let info = self.driver.info();
            let error = DriverError::new("internal", format!("the mount plan {taken}"))
                .from_plugin(&info.plugin, &info.version);
            Error::driver(action())(error)
        })?;
        Ok((root, claim))
    }

    /// A plan's paths as the host has them. The broker has already kept the driver inside its roots; here a plan that the
    /// host can't carry out is refused, by name.
    pub(crate) fn root_fs(&self, plan: &MountPlan) -> Result<RootFs> {
        let bad = |why: &str| {
            let info = self.driver.info();
            let error =
                DriverError::new("internal", format!("the mount plan {why}")).from_plugin(&info.plugin, &info.version);
            Error::Driver {
                action: format!("mounting from pool {}", self.record.name),
                source: Box::new(error),
            }
        };
        let root = self.real_root()?;
        let path = |tree: &TreePath| {
            if tree.root == ROOT && is_plain(&tree.path) {
                Ok(root.join(&tree.path))
            } else {
                Err(bad("leaves the pool"))
            }
        };
        match (plan.kind.as_str(), plan.layers.as_slice(), &plan.upper, &plan.work) {
            ("bind", [tree], None, None) => Ok(RootFs::Bind { path: path(tree)? }),
            ("overlay", [_, ..], Some(upper), Some(work)) => Ok(RootFs::Overlay {
                layers: plan.layers.iter().map(path).collect::<Result<_>>()?,
                upper: path(upper)?,
                work: path(work)?,
            }),
            _ => Err(bad("is of no kind that the host knows")),
        }
    }

    /// The root without symbolic links on the way to it. What is opened below it by a driver's word is opened without following
    /// any, so that a link that a container or an image has in the pool leads nowhere.
    fn real_root(&self) -> Result<PathBuf> {
        let action = format!("finding the directory of storage pool {}", self.record.name);
        self.root.canonicalize().map_err(Error::io(action))
    }

    /// Where a tree of the pool is on the host. Whoever opens it follows no symbolic link.
    pub(crate) fn path(&self, tree: &TreePath) -> Result<PathBuf> {
        if tree.root == ROOT && is_plain(&tree.path) {
            return Ok(self.real_root()?.join(&tree.path));
        }
        let info = self.driver.info();
        let error = DriverError::new(
            "internal",
            format!(
                "the answer names {}:{}, which is outside the pool",
                tree.root, tree.path
            ),
        );
        Err(Error::Driver {
            action: format!("using pool {}", self.record.name),
            source: Box::new(error.from_plugin(&info.plugin, &info.version)),
        })
    }
}

/// Whether a path leads down, and nowhere else.
fn is_plain(path: &str) -> bool {
    Path::new(path)
        .components()
        .all(|part| matches!(part, std::path::Component::Normal(_)))
}

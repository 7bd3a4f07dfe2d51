//! Copies between the roots of two pools, which belong to different drivers: the host makes them itself, for the core.

use std::sync::Arc;

use hutch_driver::{Call, DriverError, MountPlan, TreePath};

use super::tree::{OpenRoot, RootGrant, blocking, check_path};
use super::{Trees, Watch, copy, merged};
use crate::error::{internal, invalid, os};

impl Trees {
    /// Copies what `plan` shows to the empty directory `to`, which it replaces: owners, modes, times, extended attributes, hard
    /// links and device nodes as they are. `to` is complete or as it was. The roots are those of `call`, whose progress is
    /// told and whose cancellation ends it. A tree that is mounted elsewhere must have no writers meanwhile.
    ///
    /// # Errors
    /// `cancelled`; `no-space`; `not-found` where a tree is gone; `invalid` for a plan that can't be read; `already-exists` where
    /// something is in `to`.
    pub(crate) async fn copy_between(
        self: &Arc<Self>,
        call: &Call,
        plan: &MountPlan,
        to: &TreePath,
    ) -> Result<(), DriverError> {
        let (trees, call, plan, to) = (Arc::clone(self), call.clone(), plan.clone(), to.clone());
        blocking(move || trees.copy_plan(&call, &plan, &to)).await
    }

    fn copy_plan(&self, call: &Call, plan: &MountPlan, to: &TreePath) -> Result<(), DriverError> {
        let watch = Watch {
            replaces_empty: true,
            ..Watch::of(call)
        };
        let to_root = open_root(call, &to.root)?;
        match (plan.kind.as_str(), plan.layers.as_slice()) {
            ("bind", [tree]) => {
                let root = open_root(call, &tree.root)?;
                self.greet(&root)?;
                let from = copy::Source::Entry(root.place(&tree.path)?);
                self.copy(root.describe(&tree.path), from, &to_root, &to.path, &watch)
            }
            ("overlay", [_, ..]) => {
                let layers = plan.upper.iter().chain(&plan.layers);
                let open = layers
                    .map(|layer| {
                        let root = open_root(call, &layer.root)?;
                        self.greet(&root)?;
                        check_path(&layer.path)?;
                        root.open_dir(&layer.path)
                            .map_err(|e| os(format_args!("can't open {}", root.describe(&layer.path)), e))
                    })
                    .collect::<Result<Vec<_>, _>>()?;
                if open.len() > merged::MAX_LAYERS {
                    return Err(invalid(format!("{} layers are too many to be merged", open.len())));
                }
                let shown = merged::open(&to_root, &open)?;
                let what = format!("{} merged layers", open.len());
                self.copy(what, copy::Source::Directory(&shown.dir), &to_root, &to.path, &watch)
            }
            _ => Err(invalid(format!(
                "a mount plan of the kind {:?} can't be copied",
                plan.kind
            ))),
        }
    }
}

/// A root of the host's own call, for which no plugin's grants are asked.
fn open_root(call: &Call, id: &str) -> Result<OpenRoot, DriverError> {
    let root = call.roots.iter().find(|root| root.id == id);
    let root = root.ok_or_else(|| internal(format!("the call has no root {id:?}")))?;
    RootGrant::of_host(root).open()
}

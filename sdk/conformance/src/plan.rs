//! Making a mount plan's tree appear, as the core would for a container, but for the mapping of ids.

use std::path::{Path, PathBuf};

use hutch_driver::{Call, MountPlan, TreePath};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::case::{Outcome, Stop, fail};

/// Where a place of a plan is.
///
/// # Errors
/// When the call has no such root.
pub fn place(call: &Call, at: &TreePath) -> Outcome<PathBuf> {
    match call.roots.iter().find(|root| root.id == at.root) {
        Some(root) => Ok(root.path.join(&at.path)),
        None => fail(format!(
            "the driver names the root {:?}, which the call has not",
            at.root
        )),
    }
}

/// Shows `work` the tree of `plan`. An overlay is mounted in the caller's mount namespace for as long as that takes.
///
/// # Errors
/// When the plan can't be carried out, with the reason, and what `work` fails with.
pub fn shown<T>(
    call: &Call,
    plan: &MountPlan,
    mountpoint: &Path,
    work: impl FnOnce(&Path) -> Outcome<T>,
) -> Outcome<T> {
    let layers = plan
        .layers
        .iter()
        .map(|layer| place(call, layer))
        .collect::<Outcome<Vec<_>>>()?;
    if plan.kind == "bind" {
        return match layers.as_slice() {
            [tree] => work(tree),
            _ => fail("a plan of the kind bind has one layer"),
        };
    }
    let system = |doing: &str, error: &dyn std::fmt::Display| Stop::Fail(format!("{doing} the plan {plan:?}: {error}"));
    let lower: Vec<_> = layers.iter().map(|layer| layer.display().to_string()).collect();
    let mut options = format!("userxattr,lowerdir={}", lower.join(":"));
    if let (Some(upper), Some(work)) = (&plan.upper, &plan.work) {
        let (upper, work) = (place(call, upper)?, place(call, work)?);
        options.push_str(&format!(",upperdir={},workdir={}", upper.display(), work.display()));
    }
    std::fs::create_dir_all(mountpoint).map_err(|error| system("can't make a place for", &error))?;
    let options = std::ffi::CString::new(options).map_err(|error| system("can't mount", &error))?;
    mount("overlay", mountpoint, "overlay", MountFlags::empty(), &*options)
        .map_err(|error| system("can't mount", &error))?;
    let result = work(mountpoint);
    unmount(mountpoint, UnmountFlags::empty()).map_err(|error| system("can't unmount", &error))?;
    result
}

//! A storage driver of plain directories, built from the released interfaces alone (see the README of the folder above):
//!
//! ```text
//! pool                         whose pool it is
//! volumes/KIND/NAME/           a volume: `note` says what it was made from and which of its trees is its content
//! making/KIND/NAME/            a volume that is being made
//! ```

mod bindings;
mod place;
mod pool;
mod snapshot;
mod volume;

use bindings::hutch::host::types::{Error, MountPlan, TreePath};

/// The driver. It has no state: each call gets a fresh instance.
pub struct Driver;

type Result<T> = std::result::Result<T, Error>;

fn refused<T>(code: &str, message: impl Into<String>) -> Result<T> {
    Err(Error {
        code: code.to_owned(),
        message: message.into(),
        retryable: false,
        details: Vec::new(),
    })
}

fn below(at: &TreePath, name: &str) -> TreePath {
    TreePath {
        root: at.root.clone(),
        path: match at.path.as_str() {
            "" => name.to_owned(),
            path => format!("{path}/{name}"),
        },
    }
}

/// A tree as it is.
fn bind(tree: TreePath) -> MountPlan {
    MountPlan {
        kind: "bind".to_owned(),
        layers: vec![tree],
        upper: None,
        work: None,
        options: Vec::new(),
    }
}

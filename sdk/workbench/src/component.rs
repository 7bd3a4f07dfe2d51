//! The file that a project makes: where it is when nobody says, and what is in it.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use clap::Args;

/// Which file is meant.
#[derive(Clone, Debug, Args)]
pub(crate) struct Which {
    /// The plugin; without one, the newest that was built in this folder
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
}

impl Which {
    /// The file, by an absolute path.
    ///
    /// # Errors
    /// When it is not there, or none was built here.
    pub(crate) fn path(&self) -> Result<PathBuf> {
        let path = match &self.file {
            Some(path) => path.clone(),
            None => newest()?,
        };
        std::fs::canonicalize(&path).with_context(|| format!("can't find {}", path.display()))
    }
}

/// The newest component that cargo or componentize-py left here.
///
/// # Errors
/// When there is none.
pub(crate) fn newest() -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let built = ["debug", "release"].map(|profile| target.join("wasm32-wasip2").join(profile));
    let places = built.iter().map(PathBuf::as_path).chain([Path::new(".")]);
    let found: Vec<(SystemTime, PathBuf)> = places.flat_map(components).collect();
    match found.into_iter().max() {
        Some((_, path)) => Ok(path),
        None => bail!(
            "nothing was built here yet: build the plugin first (a project in Rust: cargo build), or name its file"
        ),
    }
}

fn components(folder: &Path) -> Vec<(SystemTime, PathBuf)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "wasm"))
        .filter_map(|path| Some((path.metadata().ok()?.modified().ok()?, path)))
        .collect()
}

/// A size as people write it.
pub(crate) fn size(bytes: usize) -> String {
    match bytes {
        0..=9999 => format!("{bytes} bytes"),
        10_000..=9_999_999 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

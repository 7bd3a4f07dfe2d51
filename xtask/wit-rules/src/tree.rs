//! Which packages there are, and how one is read with all that it uses.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use wit_parser::{PackageName, Resolve, UnresolvedPackageGroup};

use crate::shape::Shape;

/// The directory below the folder of packages that holds copies of what was released: `NAME/VERSION/*.wit`.
const RELEASED: &str = "released";

/// A version, `MAJOR.MINOR.PATCH`.
pub(crate) type Version = [u64; 3];

/// A package in a directory of its own.
#[derive(Clone, Debug)]
pub(crate) struct Package {
    /// `hutch:storage`.
    pub(crate) name: String,
    /// `0.1.0`.
    pub(crate) version: String,
    /// Where its files are.
    pub(crate) directory: PathBuf,
}

/// All packages.
#[derive(Debug)]
pub(crate) struct Tree {
    /// As they are.
    pub(crate) present: Vec<Package>,
    /// As they were released.
    released: Vec<Package>,
}

/// What two versions have in common that a driver of one can be used with the other: the first number that is not 0
/// (Semantic Versioning 2.0.0, sections 4 and 8), which is also how components match names of imports.
pub(crate) fn track(version: &str) -> String {
    match numbers(version) {
        [0, 0, patch] => format!("0.0.{patch}"),
        [0, minor, _] => format!("0.{minor}"),
        [major, ..] => major.to_string(),
    }
}

fn numbers(version: &str) -> Version {
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    std::array::from_fn(|_| parts.next().unwrap_or(0))
}

impl Tree {
    /// Finds the packages below `folder` (`FAMILY/vMAJOR/*.wit`) and below `folder/released`.
    ///
    /// # Errors
    /// When something can't be read.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let mut present = Vec::new();
        for family in directories(folder)? {
            if !family.ends_with(RELEASED) {
                present.extend(packages(&family)?);
            }
        }
        let mut released = Vec::new();
        let copies = folder.join(RELEASED);
        if copies.is_dir() {
            for family in directories(&copies)? {
                released.extend(packages(&family)?);
            }
        }
        ensure!(!present.is_empty(), "there are no packages below {}", folder.display());
        Ok(Self { present, released })
    }

    /// The newest release of the package on whose track it still is, before its own version: its own is held by its digest, and was
    /// compared with this one, too.
    pub(crate) fn last_compatible_release(&self, package: &Package) -> Option<&Package> {
        self.released
            .iter()
            .filter(|other| other.name == package.name && track(&other.version) == track(&package.version))
            .filter(|other| numbers(&other.version) < numbers(&package.version))
            .max_by_key(|other| numbers(&other.version))
    }

    /// Reads a package with all that it uses.
    ///
    /// # Errors
    /// When a file is no WIT, or a package that is used is missing.
    pub(crate) fn resolve(&self, package: &Package) -> Result<Shape> {
        let mut resolve = Resolve::default();
        self.push(&mut resolve, package, &mut BTreeSet::new())?;
        let id = resolve
            .packages
            .iter()
            .find(|(_, found)| full_name(&found.name) == (package.name.clone(), package.version.clone()))
            .map(|(id, _)| id)
            .context("it is not what its first line says")?;
        Ok(Shape::of(&resolve, id))
    }

    /// Adds a package, what it uses before it.
    fn push(&self, resolve: &mut Resolve, package: &Package, done: &mut BTreeSet<(String, String)>) -> Result<()> {
        if !done.insert((package.name.clone(), package.version.clone())) {
            return Ok(());
        }
        let group = UnresolvedPackageGroup::parse_dir(&package.directory)?;
        for used in group.main.foreign_deps.keys() {
            let (name, version) = full_name(used);
            self.push(resolve, self.find(&name, &version)?, done)?;
        }
        resolve.push_group(group).map_err(|error| anyhow!("{error:?}"))?;
        Ok(())
    }

    fn find(&self, name: &str, version: &str) -> Result<&Package> {
        self.present
            .iter()
            .chain(&self.released)
            .find(|package| package.name == name && package.version == version)
            .with_context(|| format!("there is no {name}@{version}, which it uses"))
    }
}

fn full_name(name: &PackageName) -> (String, String) {
    let version = name.version.as_ref().map(ToString::to_string).unwrap_or_default();
    (format!("{}:{}", name.namespace, name.name), version)
}

fn packages(family: &Path) -> Result<Vec<Package>> {
    let mut found = Vec::new();
    for directory in directories(family)? {
        let group = UnresolvedPackageGroup::parse_dir(&directory)
            .with_context(|| format!("can't read the package in {}", directory.display()))?;
        let (name, version) = full_name(&group.main.name);
        found.push(Package {
            name,
            version,
            directory,
        });
    }
    Ok(found)
}

fn directories(folder: &Path) -> Result<Vec<PathBuf>> {
    let list = std::fs::read_dir(folder).with_context(|| format!("can't list {}", folder.display()))?;
    let mut found = Vec::new();
    for entry in list {
        let path = entry?.path();
        if path.is_dir() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

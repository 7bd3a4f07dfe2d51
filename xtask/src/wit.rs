//! `wit`: what was released of the interfaces is never changed, and what comes after it can be borne by drivers that are out there.
//! `wit/released.toml` has a digest of each released package and `wit/released/` a copy, and CI holds the tree against both.

mod doc;

use crate::run;
use anyhow::{Context, Result, bail, ensure};
use clap::Subcommand;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// What stands above the list.
const HEAD: &str = "\
# The WIT packages that were released, each with the SHA-256 of its files. Written by `cargo xtask wit release NAME`, and held
# against the tree by `cargo xtask wit check`, which is part of `cargo xtask ci`. A package that is listed here can't be changed any more:
# give it a new version (docs/wit.md says which). Entries are only ever added.
";

/// The directory below the folder of packages that holds the copies.
const RELEASED: &str = "released";

/// What to do with the interfaces.
#[derive(Debug, Subcommand)]
pub(crate) enum Options {
    /// Fail if a released package was changed, or a later version is more than drivers of the released one can bear, or the book's
    /// reference is not what the interfaces say
    Check,
    /// Write the reference of all interfaces into the book
    Doc,
    /// Record the present state of a package as released, from which on it can't be changed
    Release {
        /// The package, such as hutch:storage
        package: String,
    },
}

/// The list in `wit/released.toml`.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Released {
    #[serde(default)]
    released: Vec<Entry>,
}

#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// `hutch:storage`.
    package: String,
    /// `0.1.0`.
    version: String,
    /// Of the package's files; see [`digest`].
    sha256: String,
}

/// A package in the tree.
#[derive(Debug)]
struct Package {
    name: String,
    version: String,
    directory: PathBuf,
}

/// Does it.
///
/// # Errors
/// When a released package was changed, or something can't be read or written.
pub(crate) fn run(options: &Options) -> Result<()> {
    let folder = run::top().join("wit");
    match options {
        Options::Check => {
            check(&folder)?;
            check_examples(&folder, &run::top().join("examples"))?;
            doc::check(&folder)?;
            let mut rules = run::cargo();
            rules.args(["run", "--quiet", "--package", "wit-rules", "--"]);
            run::check(rules.arg(&folder))
        }
        Options::Doc => doc::write(&folder),
        Options::Release { package } => release(&folder, package),
    }
}

/// Holds the packages below `folder` against its list.
///
/// # Errors
/// With everything that is wrong.
pub(crate) fn check(folder: &Path) -> Result<()> {
    let packages = packages(folder)?;
    let mut wrong = Vec::new();
    let list = read(folder)?;
    for entry in &list.released {
        let (name, version) = (&entry.package, &entry.version);
        let copy = copy_of(folder, name, version);
        if !copy.is_dir() || digest(&copy)? != entry.sha256 {
            wrong.push(format!(
                "{} is not {name}@{version} as it was released: take that back",
                copy.display()
            ));
        }
        let same_name: Vec<&Package> = packages.iter().filter(|package| package.name == *name).collect();
        if let Some(package) = same_name.iter().find(|package| package.version == *version) {
            if digest(&package.directory)? != entry.sha256 {
                wrong.push(format!(
                    "{name}@{version} was released and its files in {} were changed: take that back, or give it a new version",
                    package.directory.display()
                ));
            }
        } else if !same_name.iter().any(|package| is_later(&package.version, version)) {
            wrong.push(format!(
                "{name}@{version} was released, and neither it nor a later version is there"
            ));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!(
        "wit: {} packages, {} released versions, none of them changed",
        packages.len(),
        list.released.len()
    );
    Ok(())
}

/// Fails when an example has another package below `wit/deps` than one as it was released: it is a stranger's, who has nothing else.
///
/// # Errors
/// With everything that is wrong.
fn check_examples(folder: &Path, examples: &Path) -> Result<()> {
    let list = read(folder)?;
    let mut wrong = Vec::new();
    for example in directories(examples)? {
        let copies = example.join("wit/deps");
        // One in Rust has the SDK.
        if !copies.is_dir() {
            continue;
        }
        for copy in directories(&copies)? {
            let sha256 = digest(&copy)?;
            if !list.released.iter().any(|entry| entry.sha256 == sha256) {
                wrong.push(format!("{} is no package as it was released", copy.display()));
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// Adds a package to the list, as it is.
///
/// # Errors
/// When there is no such package, or this version of it was released before.
fn release(folder: &Path, name: &str) -> Result<()> {
    check(folder)?;
    let mut list = read(folder)?;
    let newest = packages(folder)?
        .into_iter()
        .filter(|package| package.name == name)
        .max_by_key(|package| numbers(&package.version));
    let Some(package) = newest else {
        bail!("there is no package {name:?} below {}", folder.display());
    };
    let entry = Entry {
        sha256: digest(&package.directory)?,
        package: package.name.clone(),
        version: package.version.clone(),
    };
    let before = |known: &&Entry| known.package == entry.package && known.version == entry.version;
    if list.released.iter().find(before).is_some() {
        bail!(
            "{}@{} was released before: give it a new version",
            entry.package,
            entry.version
        );
    }
    let copy = copy_of(folder, &entry.package, &entry.version);
    std::fs::create_dir_all(&copy).with_context(|| format!("can't make {}", copy.display()))?;
    for file in files(&package.directory)? {
        let to = copy.join(file.file_name().unwrap_or_default());
        std::fs::copy(&file, &to).with_context(|| format!("can't copy {} to {}", file.display(), to.display()))?;
    }
    println!("wit: {}@{} is released", entry.package, entry.version);
    list.released.push(entry);
    list.released
        .sort_by_key(|entry| (entry.package.clone(), numbers(&entry.version)));
    let file = folder.join("released.toml");
    let text = format!("{HEAD}\n{}", toml::to_string(&list)?);
    std::fs::write(&file, text).with_context(|| format!("can't write {}", file.display()))
}

/// Where the copy of a released package is: `released/thing/0.1.0` for `hutch:thing@0.1.0`.
fn copy_of(folder: &Path, name: &str, version: &str) -> PathBuf {
    let short = name.rsplit(':').next().unwrap_or(name);
    folder.join(RELEASED).join(short).join(version)
}

fn read(folder: &Path) -> Result<Released> {
    let file = folder.join("released.toml");
    let text = std::fs::read_to_string(&file).with_context(|| format!("can't read {}", file.display()))?;
    toml::from_str(&text).with_context(|| format!("{} is not what it should be", file.display()))
}

/// The names and versions of the packages below `folder`.
///
/// # Errors
/// When one can't be read, or there is none.
pub(crate) fn versions(folder: &Path) -> Result<Vec<(String, String)>> {
    let packages = packages(folder)?.into_iter();
    Ok(packages.map(|package| (package.name, package.version)).collect())
}

/// Every package below `folder`: one directory each, `FAMILY/vMAJOR`.
fn packages(folder: &Path) -> Result<Vec<Package>> {
    let mut found = Vec::new();
    for family in directories(folder)? {
        if family.ends_with(RELEASED) {
            continue;
        }
        for directory in directories(&family)? {
            let mut declared = Vec::new();
            for file in files(&directory)? {
                let text = std::fs::read_to_string(&file).with_context(|| format!("can't read {}", file.display()))?;
                declared.extend(declaration(&text));
            }
            let [(name, version)] = declared.as_slice() else {
                bail!("{} does not declare one package with a version", directory.display());
            };
            found.push(Package {
                name: name.clone(),
                version: version.clone(),
                directory,
            });
        }
    }
    ensure!(!found.is_empty(), "there are no packages below {}", folder.display());
    Ok(found)
}

/// The package and version that a file declares: `package hutch:storage@0.1.0;`.
fn declaration(text: &str) -> Option<(String, String)> {
    let line = text.lines().find_map(|line| line.trim().strip_prefix("package "))?;
    let (name, version) = line.trim_end_matches(';').trim().split_once('@')?;
    Some((name.to_owned(), version.to_owned()))
}

/// SHA-256 over the files in the order of their names, each with its name and length before it.
fn digest(directory: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    for file in files(directory)? {
        let content = std::fs::read(&file).with_context(|| format!("can't read {}", file.display()))?;
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        hasher.update(format!("{name}\n{}\n", content.len()));
        hasher.update(&content);
    }
    Ok(hex::encode(hasher.finalize()))
}

fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = entries(directory)?
        .into_iter()
        .filter(|path| path.extension().is_some_and(|kind| kind == "wit"))
        .collect();
    found.sort();
    Ok(found)
}

fn directories(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = entries(folder)?.into_iter().filter(|path| path.is_dir()).collect();
    found.sort();
    Ok(found)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let list = std::fs::read_dir(folder).with_context(|| format!("can't list {}", folder.display()))?;
    list.map(|entry| Ok(entry?.path())).collect()
}

/// Whether a version has a higher precedence (Semantic Versioning 2.0.0, section 11; pre-releases are not released here).
fn is_later(version: &str, than: &str) -> bool {
    numbers(version) > numbers(than)
}

fn numbers(version: &str) -> Vec<u64> {
    version.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree with one package, which is not released yet.
    fn tree() -> (tempfile::TempDir, PathBuf) {
        let tree = tempfile::tempdir().unwrap();
        let directory = tree.path().join("thing/v0");
        std::fs::create_dir_all(&directory).unwrap();
        let file = directory.join("thing.wit");
        write(&file, "0.1.0", "do: func();");
        std::fs::write(tree.path().join("released.toml"), HEAD).unwrap();
        (tree, file)
    }

    fn write(file: &Path, version: &str, function: &str) {
        let text = format!("/// A thing.\npackage hutch:thing@{version};\ninterface a {{ {function} }}\n");
        std::fs::write(file, text).unwrap();
    }

    #[test]
    fn a_released_package_can_t_be_changed() {
        let (tree, file) = tree();
        let folder = tree.path();
        check(folder).unwrap();
        write(&file, "0.1.0", "do: func() -> u32;");
        check(folder).expect("it was not released");
        release(folder, "hutch:thing").unwrap();
        check(folder).unwrap();
        write(&file, "0.1.0", "do: func() -> u64;");
        let error = check(folder).expect_err("it was changed").to_string();
        assert!(error.contains("hutch:thing@0.1.0 was released"), "{error}");
        release(folder, "hutch:thing").expect_err("as long as it is changed");
        write(&file, "0.1.0", "do: func() -> u32;");
        check(folder).expect("that was taken back");
        release(folder, "hutch:thing").expect_err("again");
        let more = file.with_file_name("more.wit");
        std::fs::write(&more, "interface b {}\n").unwrap();
        check(folder).expect_err("a file more");
        std::fs::remove_file(&more).unwrap();
        std::fs::rename(&file, file.with_file_name("other.wit")).unwrap();
        check(folder).expect_err("another name");
    }

    #[test]
    fn the_copy_of_what_was_released_can_t_be_changed_either() {
        let (tree, _) = tree();
        let folder = tree.path();
        release(folder, "hutch:thing").unwrap();
        let copy = folder.join("released/thing/0.1.0/thing.wit");
        let text = std::fs::read_to_string(&copy).unwrap();
        std::fs::write(&copy, text.replace("do:", "undo:")).unwrap();
        let error = check(folder).expect_err("it was changed").to_string();
        assert!(error.contains("is not hutch:thing@0.1.0 as it was released"), "{error}");
        std::fs::remove_dir_all(folder.join("released")).unwrap();
        check(folder).expect_err("it is gone");
        std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
        std::fs::write(&copy, text).unwrap();
        check(folder).expect("that was taken back");
    }

    #[test]
    fn a_new_version_is_another_package() {
        let (tree, file) = tree();
        release(tree.path(), "hutch:thing").unwrap();
        write(&file, "0.2.0", "do: func() -> u64;");
        check(tree.path()).unwrap();
        release(tree.path(), "hutch:thing").unwrap();
        write(&file, "0.1.5", "do: func();");
        let error = check(tree.path())
            .expect_err("back behind what was released")
            .to_string();
        assert!(error.contains("0.2.0"), "{error}");
        std::fs::remove_dir_all(tree.path().join("thing")).unwrap();
        check(tree.path()).expect_err("nothing is left");
    }

    #[test]
    fn an_example_is_built_from_what_was_released() {
        let (tree, file) = tree();
        let (folder, place) = (tree.path(), tempfile::tempdir().unwrap());
        let examples = place.path();
        let copy = examples.join("one/wit/deps/thing");
        std::fs::create_dir_all(&copy).unwrap();
        std::fs::create_dir_all(examples.join("in-rust/src")).unwrap();
        std::fs::copy(&file, copy.join("thing.wit")).unwrap();
        check_examples(folder, examples).expect_err("it was not released");
        release(folder, "hutch:thing").unwrap();
        check_examples(folder, examples).unwrap();
        write(&file, "0.1.1", "do: func();");
        check_examples(folder, examples).expect("an older one is good, too");
        write(&copy.join("thing.wit"), "0.1.0", "undo: func();");
        check_examples(folder, examples).expect_err("it was changed");
    }

    #[test]
    fn the_tree_is_as_it_was_released() {
        check(&run::top().join("wit")).unwrap();
        check_examples(&run::top().join("wit"), &run::top().join("examples")).unwrap();
    }
}

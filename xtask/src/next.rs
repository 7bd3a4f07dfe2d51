//! A host whose interfaces went on by one version, to show that what was built against the released ones still runs there.
//!
//! It is this tree once more, below `target/`, with changes as the rules of `docs/wit.md` allow them: every package has the patch version
//! that follows, `hutch:host` has a function more, and `hutch:storage` an optional interface more, both of which its host knows. Of it, what
//! authors of plugins work with is built, which has the plugin host with the broker and the conformance suite.

use crate::{run, wit};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// What is copied: the members of the workspace, and what they are built from and with.
const COPIED: [&str; 11] = [
    ".cargo",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "host",
    "plugins",
    "rust-toolchain.toml",
    "sdk",
    "tests",
    "wit",
    "xtask",
];

/// Directories that are nobody's source.
const LEFT_OUT: [&str; 2] = ["target", "node_modules"];

/// The program, and its name there: both are built into one directory.
const PROGRAM: &str = "hutch-plugin-dev";
const NEXT: &str = "hutch-plugin-dev-next";

/// Something that is new there: what follows a text in a file.
struct Addition {
    file: &'static str,
    after: &'static str,
    text: &'static str,
}

const ADDITIONS: [Addition; 7] = [
    Addition {
        file: "wit/host/v0/host.wit",
        after: "    get: func(key: string) -> option<string>;\n",
        text: "    /// The keys that have a value.\n    keys: func() -> list<string>;\n",
    },
    Addition {
        file: "host/plugin/src/functions/mod.rs",
        after: "impl config::Host for CallState {\n",
        text: "    async fn keys(&mut self) -> wasmtime::Result<Vec<String>> {\n        Ok(Vec::new())\n    }\n",
    },
    Addition {
        file: "host/plugin/src/binary.rs",
        after: "&[\"snapshot\", \"clone\", \"replica\", \"release\", \"quota\"",
        text: ", \"resize\"",
    },
    Addition {
        file: "host/plugin/src/export.rs",
        after: "use zone::types::ZoneRef;\n",
        text: "interface! {\n    /// `hutch:storage/resize`.\n    Resize in \"storage\" {\n        \
               grow: \"resize.grow\" (PoolRef, VolumeRef, u64) -> ();\n    }\n}\n",
    },
    Addition {
        file: "host/plugin/src/export.rs",
        after: "    pub(crate) release: Option<Release>,\n",
        text: "    pub(crate) resize: Option<Resize>,\n",
    },
    Addition {
        file: "host/plugin/src/export.rs",
        after: "release: can(\"release\").then(Release::new),\n",
        text: "resize: can(\"resize\").then(Resize::new),\n",
    },
    Addition {
        file: "host/plugin/src/export.rs",
        after: "exports.release.iter().try_for_each(|e| e.visit(visitor))?;\n",
        text: "exports.resize.iter().try_for_each(|e| e.visit(visitor))?;\n",
    },
];

/// The file at whose end an interface is new, and that interface.
const STORAGE: &str = "wit/storage/v0/storage.wit";
const RESIZE: &str = "
/// Volumes that grow.
interface resize {
    use hutch:host/types@VERSION.{error};
    use types.{pool-ref, volume-ref};
    grow: func(pool: pool-ref, volume: volume-ref, bytes: u64) -> result<_, error>;
}
";

/// A package that goes on.
#[derive(Debug)]
struct Step {
    /// `hutch:storage`.
    package: String,
    /// `0.1.0`.
    from: String,
    /// `0.1.1`.
    to: String,
}

/// Builds the program in cargo's development profile, and answers with its path.
///
/// # Errors
/// When the tree can't be copied, or lacks what is changed in it, or the build fails.
pub(crate) fn build(target: &Path) -> Result<PathBuf> {
    let (top, place) = (run::top(), target.join("next"));
    let steps = steps(&top.join("wit"))?;
    for name in COPIED {
        copy(&top, &place, Path::new(name), &steps)?;
    }
    let mut cargo = run::cargo();
    cargo.current_dir(&place).env("CARGO_TARGET_DIR", target);
    run::check(cargo.args(["build", "--package", NEXT]))?;
    Ok(target.join("debug").join(NEXT))
}

/// Every package with the version that follows its own.
fn steps(folder: &Path) -> Result<Vec<Step>> {
    let step = |(package, from): (String, String)| {
        let (track, patch) = from.rsplit_once('.').context("a version without a dot")?;
        let patch: u64 = patch.parse().context("a version that is no number")?;
        let to = format!("{track}.{}", patch + 1);
        Ok(Step { package, from, to })
    };
    wit::versions(folder)?.into_iter().map(step).collect()
}

/// Copies a file or a directory with all that is below, changed. What is there already is left alone, so that cargo sees what is new; what is
/// there and no longer here is removed.
fn copy(from: &Path, to: &Path, name: &Path, steps: &[Step]) -> Result<()> {
    let (source, place) = (from.join(name), to.join(name));
    if !source.is_dir() {
        let content = std::fs::read(&source).with_context(|| format!("can't read {}", source.display()))?;
        return write(&place, &changed(name, content, steps)?);
    }
    std::fs::create_dir_all(&place).with_context(|| format!("can't make {}", place.display()))?;
    let names = entries(&source)?;
    for gone in entries(&place)?.difference(&names) {
        remove(&place.join(gone))?;
    }
    for entry in names {
        copy(from, to, &name.join(entry), steps)?;
    }
    Ok(())
}

fn entries(directory: &Path) -> Result<BTreeSet<std::ffi::OsString>> {
    let list = std::fs::read_dir(directory).with_context(|| format!("can't list {}", directory.display()))?;
    let mut names = BTreeSet::new();
    for entry in list {
        let name = entry?.file_name();
        if !LEFT_OUT.iter().any(|left_out| name == OsStr::new(left_out)) {
            names.insert(name);
        }
    }
    Ok(names)
}

fn remove(path: &Path) -> Result<()> {
    let removed = match path.is_dir() {
        true => std::fs::remove_dir_all(path),
        false => std::fs::remove_file(path),
    };
    removed.with_context(|| format!("can't remove {}", path.display()))
}

fn write(place: &Path, content: &[u8]) -> Result<()> {
    if std::fs::read(place).is_ok_and(|present| present == content) {
        return Ok(());
    }
    if let Some(directory) = place.parent() {
        std::fs::create_dir_all(directory).with_context(|| format!("can't make {}", directory.display()))?;
    }
    std::fs::write(place, content).with_context(|| format!("can't write {}", place.display()))
}

/// The content of a file as it is there.
fn changed(name: &Path, content: Vec<u8>, steps: &[Step]) -> Result<Vec<u8>> {
    let Some(file) = name.to_str() else {
        return Ok(content);
    };
    let released = file.starts_with("wit/released");
    let interfaces = file.starts_with("wit/") && file.ends_with(".wit") && !released;
    let sources = ["host/plugin/src/bindings.rs", "host/plugin/src/versions.rs"];
    let named = ["Cargo.lock", "sdk/workbench/Cargo.toml"].contains(&file);
    let more: Vec<&Addition> = ADDITIONS.iter().filter(|addition| addition.file == file).collect();
    if !(interfaces || named || sources.contains(&file) || !more.is_empty()) {
        return Ok(content);
    }
    let mut text = String::from_utf8(content).with_context(|| format!("{file} is no text"))?;
    for addition in more {
        text = added(&text, addition)?;
    }
    if file == STORAGE {
        let host = steps.iter().find(|step| step.package == "hutch:host");
        text.push_str(&RESIZE.replace("VERSION", host.map_or("", |step| &step.to)));
    }
    if named {
        text = replaced(
            file,
            &text,
            &format!("name = \"{PROGRAM}\""),
            &format!("name = \"{NEXT}\""),
        )?;
    }
    if file == "host/plugin/src/versions.rs" {
        text = counted(file, &text, steps)?;
    }
    if interfaces || sources.contains(&file) {
        text = moved(&text, steps);
    }
    Ok(text.into_bytes())
}

fn added(text: &str, addition: &Addition) -> Result<String> {
    let Addition {
        file,
        after,
        text: more,
    } = addition;
    replaced(file, text, after, &format!("{after}{more}"))
}

/// Replaces what must be there just once.
fn replaced(file: &str, text: &str, from: &str, to: &str) -> Result<String> {
    let times = text.matches(from).count();
    ensure!(
        times == 1,
        "{file} has the following {times} times and not once, so that the host that follows can't be made: {from}"
    );
    Ok(text.replacen(from, to, 1))
}

/// The host's own list of versions.
fn counted(file: &str, text: &str, steps: &[Step]) -> Result<String> {
    let mut text = text.to_owned();
    for Step { package, from, to } in steps {
        let (old, new) = match package.strip_prefix("hutch:").unwrap_or(package) {
            "host" => (format!("HOST: &str = \"{from}\""), format!("HOST: &str = \"{to}\"")),
            family => (
                format!("(\"{family}\", \"{from}\")"),
                format!("(\"{family}\", \"{to}\")"),
            ),
        };
        text = replaced(file, &text, &old, &new)?;
    }
    Ok(text)
}

/// The same with every name of a package or an interface of the version that follows: `hutch:storage@0.1.0`, `hutch:host/types@0.1.0`.
fn moved(text: &str, steps: &[Step]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("hutch:") {
        let (before, found) = rest.split_at(at);
        let part = |c: char| c.is_ascii_alphanumeric() || "-:/".contains(c);
        let (name, after) = found.split_at(found.find(|c| !part(c)).unwrap_or(found.len()));
        out.push_str(before);
        out.push_str(name);
        rest = after;
        let package = name.split('/').next().unwrap_or(name);
        let of_package = steps.iter().filter(|step| step.package == package);
        let found = of_package.filter_map(|step| Some((step, after.strip_prefix('@')?.strip_prefix(&*step.from)?)));
        // The whole version, and not the beginning of another.
        let mut whole = found.filter(|(_, after)| !after.starts_with(|c: char| c.is_ascii_alphanumeric()));
        if let Some((step, after)) = whole.next() {
            out.push('@');
            out.push_str(&step.to);
            rest = after;
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(package: &str, from: &str, to: &str) -> Step {
        Step {
            package: package.to_owned(),
            from: from.to_owned(),
            to: to.to_owned(),
        }
    }

    #[test]
    fn names_move_with_their_own_package() {
        let steps = [
            step("hutch:host", "0.1.0", "0.1.1"),
            step("hutch:zone", "0.1.2", "0.1.3"),
        ];
        for (text, expected) in [
            ("package hutch:zone@0.1.2;", "package hutch:zone@0.1.3;"),
            (
                "use hutch:host/types@0.1.0.{error}; use hutch:zone/types@0.1.2.{a};",
                "use hutch:host/types@0.1.1.{error}; use hutch:zone/types@0.1.3.{a};",
            ),
            // Of others, of other versions, and of none.
            (
                "hutch:host/fs@0.1.01 hutch:host/fs",
                "hutch:host/fs@0.1.01 hutch:host/fs",
            ),
            (
                "hutch:zone@0.1.0 hutch:hosts@0.1.0 wasi:io@0.1.0",
                "hutch:zone@0.1.0 hutch:hosts@0.1.0 wasi:io@0.1.0",
            ),
        ] {
            assert_eq!(moved(text, &steps), expected);
        }
    }

    /// So that it is told here, and not at the end of a long build, that something that is changed was changed.
    #[test]
    fn this_tree_can_go_on() {
        let top = run::top();
        let steps = steps(&top.join("wit")).unwrap();
        let files = ADDITIONS.iter().map(|addition| addition.file);
        let others = [
            STORAGE,
            "host/plugin/src/bindings.rs",
            "host/plugin/src/versions.rs",
            "Cargo.lock",
        ];
        for file in files.chain(others) {
            let content = std::fs::read(top.join(file)).unwrap();
            let after = changed(Path::new(file), content.clone(), &steps).unwrap();
            assert_ne!(after, content, "{file}");
        }
    }
}

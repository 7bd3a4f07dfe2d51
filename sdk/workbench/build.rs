//! Packs what `new` writes into the program, so that it works anywhere: the SDK, the interfaces, and the templates.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

fn main() {
    let own = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let top = own.join("../..");
    let out = PathBuf::from(variable("OUT_DIR"));
    let manifest = out.join("sdk-Cargo.toml");
    write(&manifest, &standalone(&top));
    let mut code = String::new();
    let mut vendored = files(&top, Path::new("sdk/rust/src"));
    vendored.extend(
        files(&top, Path::new("wit"))
            .into_iter()
            // What was released is what these go on from.
            .filter(|(name, _)| name.ends_with(".wit") && !name.starts_with("wit/released")),
    );
    vendored.push(("LICENSE".to_owned(), top.join("LICENSE")));
    vendored.push(("sdk/rust/Cargo.toml".to_owned(), manifest));
    list(
        &mut code,
        "The SDK and what it is built from, by their paths.",
        "VENDORED",
        &vendored,
    );
    let templates = files(&top.join("sdk/templates"), Path::new(""));
    list(&mut code, "The templates, by their paths.", "TEMPLATES", &templates);
    write(&out.join("packed.rs"), &code);
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"))
}

fn write(file: &Path, text: &str) {
    std::fs::write(file, text).unwrap_or_else(|error| panic!("can't write {}: {error}", file.display()));
}

fn read(file: &Path) -> String {
    println!("cargo:rerun-if-changed={}", file.display());
    std::fs::read_to_string(file).unwrap_or_else(|error| panic!("can't read {}: {error}", file.display()))
}

/// All files below `top/folder`, with their paths from `top`.
fn files(top: &Path, folder: &Path) -> Vec<(String, PathBuf)> {
    let place = top.join(folder);
    println!("cargo:rerun-if-changed={}", place.display());
    let entries = std::fs::read_dir(&place).unwrap_or_else(|error| panic!("can't list {}: {error}", place.display()));
    let mut names: Vec<PathBuf> = entries.flatten().map(|entry| folder.join(entry.file_name())).collect();
    names.sort();
    let mut found = Vec::new();
    for name in names {
        let path = top.join(&name);
        if path.is_dir() {
            found.extend(files(top, &name));
        } else {
            found.push((name.display().to_string(), path));
        }
    }
    found
}

fn list(code: &mut String, what: &str, name: &str, files: &[(String, PathBuf)]) {
    let _ = writeln!(code, "/// {what}\npub(crate) const {name}: &[(&str, &[u8])] = &[");
    for (path, file) in files {
        println!("cargo:rerun-if-changed={}", file.display());
        let _ = writeln!(
            code,
            "    ({path:?}, include_bytes!({:?})),",
            file.display().to_string()
        );
    }
    code.push_str("];\n");
}

/// The manifest of the SDK with what it takes from the workspace put in.
fn standalone(top: &Path) -> String {
    let workspace: toml::Table = read(&top.join("Cargo.toml"))
        .parse()
        .unwrap_or_else(|error| panic!("{error}"));
    let mut sdk: toml::Table = read(&top.join("sdk/rust/Cargo.toml"))
        .parse()
        .unwrap_or_else(|error| panic!("{error}"));
    let inherited = |section: &str| workspace["workspace"][section].as_table().cloned().unwrap_or_default();
    let (package, dependencies) = (inherited("package"), inherited("dependencies"));
    fill(&mut sdk, "package", &package);
    fill(&mut sdk, "dependencies", &dependencies);
    // How we look at our own code is no business of those who build it.
    sdk.remove("lints");
    format!("# Made from the SDK's manifest in Hutch's tree.\n{sdk}")
}

/// Replaces every `KEY.workspace = true` in a section.
fn fill(manifest: &mut toml::Table, section: &str, inherited: &toml::Table) {
    let Some(toml::Value::Table(section)) = manifest.get_mut(section) else {
        return;
    };
    for (key, value) in section.iter_mut() {
        if value.get("workspace").and_then(toml::Value::as_bool) == Some(true) {
            *value = inherited
                .get(key)
                .unwrap_or_else(|| panic!("the workspace has no {key}"))
                .clone();
        }
    }
}

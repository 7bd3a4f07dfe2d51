//! `wit doc`: the reference of all interfaces, written from the `.wit` files into the book. CI holds it against them.

use crate::run;
use anyhow::{Context, Result, bail};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// What stands above the reference.
const HEAD: &str = "\
# The interfaces

Written from the files below `wit/` by `cargo xtask wit doc`; edit those. Every function that can fail answers with an `error`, whose codes are
in [wit.md](../wit.md), with the rules that hold for all of them.

";

/// The packages in the order in which they are read.
const PACKAGES: [&str; 5] = ["host", "storage", "network", "zone", "image"];

fn place() -> PathBuf {
    run::top().join("docs/book/reference.md")
}

/// Writes the reference.
///
/// # Errors
/// When something can't be read or written.
pub(super) fn write(folder: &Path) -> Result<()> {
    let place = place();
    std::fs::write(&place, reference(folder)?).with_context(|| format!("can't write {}", place.display()))?;
    println!("wit: wrote {}", place.display());
    Ok(())
}

/// Fails when the reference is not what would be written now.
///
/// # Errors
/// See above.
pub(super) fn check(folder: &Path) -> Result<()> {
    let place = place();
    let present = std::fs::read_to_string(&place).with_context(|| format!("can't read {}", place.display()))?;
    if present != reference(folder)? {
        bail!(
            "{} is not what the interfaces say: run `cargo xtask wit doc`",
            place.display()
        );
    }
    Ok(())
}

fn reference(folder: &Path) -> Result<String> {
    let mut text = HEAD.to_owned();
    for package in PACKAGES {
        // The newest major version; older ones stand in the book of their time.
        let directory = folder.join(package);
        let newest = super::directories(&directory)?
            .pop()
            .with_context(|| format!("{} is empty", directory.display()))?;
        for file in super::files(&newest)? {
            let source = std::fs::read_to_string(&file).with_context(|| format!("can't read {}", file.display()))?;
            text.push_str(&package_text(&source));
        }
    }
    Ok(format!("{}\n", text.trim_end()))
}

/// One file: the package's heading and words, then each interface.
fn package_text(source: &str) -> String {
    let mut out = String::new();
    let mut words: Vec<&str> = Vec::new();
    let mut lines = source.lines();
    while let Some(line) = lines.next() {
        let line = line.trim();
        if let Some(word) = line.strip_prefix("///") {
            words.push(word.trim());
        } else if let Some(name) = line.strip_prefix("package ") {
            let _ = writeln!(out, "## {}\n\n{}\n", name.trim_end_matches(';'), paragraph(&words));
            words.clear();
        } else if let Some(name) = line.strip_prefix("interface ") {
            let name = name.trim_end_matches('{').trim();
            let _ = writeln!(out, "### {name}\n");
            if !words.is_empty() {
                let _ = writeln!(out, "{}\n", paragraph(&words));
            }
            words.clear();
            let body: Vec<&str> = lines.by_ref().take_while(|line| *line != "}").collect();
            out.push_str(&interface_text(&body));
        }
    }
    out
}

/// Words on several lines as one.
fn paragraph(words: &[&str]) -> String {
    words.join("\n").trim().to_owned()
}

/// The body of an interface: types as they are written, then functions with their words.
fn interface_text(body: &[&str]) -> String {
    let (mut types, mut functions) = (String::new(), String::new());
    let mut words: Vec<&str> = Vec::new();
    let mut lines = body.iter();
    while let Some(line) = lines.next() {
        let trimmed = line.trim();
        if let Some(word) = trimmed.strip_prefix("///") {
            words.push(word.trim());
        } else if let Some((name, signature)) = trimmed.split_once(": func") {
            let name = name.trim_start_matches('%');
            let _ = writeln!(functions, "- `{name}: func{}`", signature.trim_end_matches(';'));
            if !words.is_empty() {
                let _ = writeln!(functions, "  {}", words.join("\n  "));
            }
            words.clear();
        } else if !trimmed.is_empty() {
            for word in words.drain(..) {
                let _ = writeln!(types, "/// {word}");
            }
            let _ = writeln!(types, "{}", line.strip_prefix("    ").unwrap_or(line));
            let opens = |line: &str| line.contains('{') && !line.contains('}');
            if opens(trimmed) {
                for line in lines.by_ref() {
                    let _ = writeln!(types, "{}", line.strip_prefix("    ").unwrap_or(line));
                    if line.trim() == "}" {
                        break;
                    }
                }
            }
        }
    }
    let mut out = String::new();
    if !types.is_empty() {
        let _ = writeln!(out, "```wit\n{types}```\n");
    }
    if !functions.is_empty() {
        let _ = writeln!(out, "{functions}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_stand_before_functions_with_all_their_words() {
        let source = "/// A thing.\npackage hutch:thing@0.1.0;\n\n/// Of it.\ninterface a {\n    use types.{error};\n    \
                      /// Does.\n    /// More.\n    do: func(x: b) -> result<_, error>;\n    /// Holds.\n    record b {\n        \
                      /// It.\n        c: string,\n    }\n    %list: func();\n}\n";
        assert_eq!(
            package_text(source),
            "## hutch:thing@0.1.0\n\nA thing.\n\n### a\n\nOf it.\n\n```wit\nuse types.{error};\n/// Holds.\nrecord b {\n    \
             /// It.\n    c: string,\n}\n```\n\n- `do: func(x: b) -> result<_, error>`\n  Does.\n  More.\n- `list: func()`\n\n"
        );
    }

    #[test]
    fn the_reference_is_up_to_date() {
        check(&run::top().join("wit")).unwrap();
    }
}

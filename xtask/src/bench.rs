//! `bench`: the figures of SPECIFICATION.md, measured beside Incus in one run.

use crate::{artifacts, run, setup};
use anyhow::{Context, Result, bail};
use clap::Args;
use std::path::PathBuf;

/// What `bench` may be told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Measure Hutch alone where Incus is not installed
    #[arg(long)]
    pub(crate) without_peer: bool,
    /// Measure only the figures whose name contains this; the table is then printed and not written
    #[arg(long, value_name = "TEXT")]
    pub(crate) only: Option<String>,
    /// Print the table and leave SPECIFICATION.md as it is
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// How many containers run in the figures about many of them
    #[arg(long, default_value_t = 128)]
    pub(crate) count: usize,
}

/// The lines of SPECIFICATION.md between which the table stands.
const BEGIN: &str = "<!-- bench: begin -->";
const END: &str = "<!-- bench: end -->";

/// Builds, measures, and writes the table.
///
/// # Errors
/// When something can't be built or measured, or when Incus is missing and was not renounced.
pub(crate) fn run(options: &Options) -> Result<()> {
    let table = measure(options)?;
    print!("{table}");
    if !options.dry_run && options.only.is_none() {
        write(&table)?;
    }
    Ok(())
}

/// Puts a table into SPECIFICATION.md.
///
/// # Errors
/// When the file can't be read or written, or has no place for it.
pub(crate) fn write(table: &str) -> Result<()> {
    let file = run::top().join("SPECIFICATION.md");
    let text = std::fs::read_to_string(&file).with_context(|| format!("can't read {}", file.display()))?;
    let text = replaced(&text, table)?;
    std::fs::write(&file, text).with_context(|| format!("can't write {}", file.display()))?;
    println!("bench: written to {}", file.display());
    Ok(())
}

/// Runs the benchmark program and returns its table, in Markdown.
///
/// # Errors
/// See [`run()`].
pub(crate) fn measure(options: &Options) -> Result<String> {
    if !run::is_root() {
        bail!("the benchmarks make containers, which takes root: run this as root");
    }
    setup::run(&setup::Options { tests: true })?;
    let built = artifacts::with_guests(artifacts::build_release()?)?;
    run::check(run::cargo().args(["build", "--release", "--package", "hutch-tests", "--bin", "hutch-bench"]))?;
    run::check(run::cargo().args([
        "build",
        "--release",
        "--package",
        "hutch-plugin",
        "--example",
        "driver_call",
    ]))?;
    let target = artifacts::target_directory()?;
    let table = target.join("bench.md");
    let mut bench = run::program(
        &target.join("release/hutch-bench").to_string_lossy(),
        arguments(options, &table),
    );
    bench.env("HUTCH_DRIVER_CALL", target.join("release/examples/driver_call"));
    run::check(built.announce(&mut bench))?;
    std::fs::read_to_string(&table).with_context(|| format!("the benchmark wrote no {}", table.display()))
}

fn arguments(options: &Options, table: &PathBuf) -> Vec<std::ffi::OsString> {
    let mut arguments = vec![
        "--table".into(),
        table.into(),
        "--count".into(),
        options.count.to_string().into(),
    ];
    if options.without_peer {
        arguments.push("--without-peer".into());
    }
    if let Some(only) = &options.only {
        arguments.extend(["--only".into(), only.into()]);
    }
    arguments
}

/// The document with a new table between its markers.
fn replaced(document: &str, table: &str) -> Result<String> {
    let (Some(begin), Some(end)) = (document.find(BEGIN), document.find(END)) else {
        bail!("SPECIFICATION.md has no `{BEGIN}` and `{END}`");
    };
    if end < begin {
        bail!("SPECIFICATION.md has `{END}` before `{BEGIN}`");
    }
    Ok(format!(
        "{}{BEGIN}\n{}\n{}",
        &document[..begin],
        table.trim_end(),
        &document[end..]
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_replaces_the_one_before() {
        let document = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let once = replaced(&document, "| new |\n").expect("the markers are there");
        assert_eq!(once, format!("before\n{BEGIN}\n| new |\n{END}\nafter\n"));
        assert_eq!(replaced(&once, "| new |").expect("the markers are still there"), once);
    }

    #[test]
    fn a_document_without_markers_is_left_alone() {
        assert!(replaced("nothing here", "| new |").is_err());
        assert!(replaced(&format!("{END} {BEGIN}"), "| new |").is_err());
    }
}

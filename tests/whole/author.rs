//! What `hutch plugin new` makes, built as its author builds it: it is a plugin, and it conforms. The book's test has the storage
//! driver, to its end in a container.

use crate::conformance::count;
use anyhow::{Context, Result, ensure};
use hutch_tests::programs::Programs;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

fn run(command: &mut Command) -> Result<Output> {
    let output = command.output().with_context(|| format!("can't run {command:?}"))?;
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    ensure!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    Ok(output)
}

/// Makes a driver, builds it with `build`, checks it without a warning, and tries it.
fn begins(language: &str, family: &str, build: &[&str], least: usize) -> Result<()> {
    let programs = Programs::from_environment()?;
    let place = tempfile::tempdir()?;
    let hutch = |folder: &Path, arguments: &[&str]| {
        let mut command = Command::new(&programs.cli);
        command.arg("plugin").args(arguments).current_dir(folder);
        // An author's build goes to where cargo puts it by itself.
        command.env_remove("CARGO_TARGET_DIR");
        command
    };
    run(&mut hutch(
        place.path(),
        &["new", "begun", "--family", family, "--language", language],
    ))?;
    let folder = place.path().join("begun");
    let (program, arguments) = build.split_first().context("nothing to build with")?;
    // As an author's shell has it, and without asking the registry for what the workspace has fetched.
    let mut built = Command::new(program);
    built
        .args(arguments)
        .current_dir(&folder)
        .env("CARGO_NET_OFFLINE", "true");
    run(built.env_remove("CARGO_TARGET_DIR").env_remove("RUSTFLAGS"))?;
    run(&mut hutch(&folder, &["check", "--strict"]))?;
    let report: Value = serde_json::from_slice(&run(&mut hutch(&folder, &["test", "--format", "json"]))?.stdout)?;
    let passed = count(&report, "passed").len();
    ensure!(passed >= least, "only {passed} cases were shown: {report:#}");
    let again = hutch(place.path(), &["new", "begun", "--family", family]).output()?;
    ensure!(!again.status.success(), "a folder that is there is written over");
    Ok(())
}

#[test]
fn a_network_driver_in_rust_begins_whole() -> Result<()> {
    begins("rust", "network", &["cargo", "build"], 40)
}

#[test]
fn an_image_source_in_rust_begins_whole() -> Result<()> {
    begins("rust", "image", &["cargo", "build"], 13)
}

#[test]
fn drivers_in_python_begin_whole() -> Result<()> {
    let there = Command::new("componentize-py").arg("--version").output();
    if !there.is_ok_and(|output| output.status.success()) {
        println!("NOT TESTED: componentize-py is not installed (pip install componentize-py)");
        return Ok(());
    }
    for (family, least) in [("storage", 60), ("network", 40), ("image", 13)] {
        begins("python", family, &["python3", "build.py"], least)?;
    }
    Ok(())
}

#[test]
fn what_is_wrong_with_a_file_is_said() -> Result<()> {
    let programs = Programs::from_environment()?;
    let place = tempfile::tempdir()?;
    let file = place.path().join("module.wasm");
    // The empty core module: magic and version 1.
    std::fs::write(&file, b"\0asm\x01\0\0\0")?;
    let output = Command::new(&programs.cli)
        .args(["plugin", "check"])
        .arg(&file)
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(!output.status.success() && said.contains("wasm32-wasip2"), "{said}");
    Ok(())
}

//! What `hutch plugin new` makes, built as its author builds it: it is a plugin, and it conforms. The book's test has the storage
//! driver, to its end in a container.

use crate::conformance::count;
use anyhow::{Context, Result, ensure};
use hutch_tests::programs::Programs;
use hutch_tests::sample::sample;
use serde_json::Value;
use std::ffi::OsStr;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Instant;

fn run(command: &mut Command) -> Result<Output> {
    let output = command.output().with_context(|| format!("can't run {command:?}"))?;
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    ensure!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    Ok(output)
}

/// What a driver is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Language {
    Rust,
    C,
    Python,
    JavaScript,
}

impl Language {
    fn name(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::C => "c",
            Self::Python => "python",
            Self::JavaScript => "javascript",
        }
    }

    /// What its author types to build it.
    fn build(self) -> &'static [&'static str] {
        match self {
            Self::Rust => &["cargo", "build"],
            Self::C => &["hutch", "plugin", "build"],
            Self::Python => &["python3", "build.py"],
            Self::JavaScript => &["npm", "run", "build"],
        }
    }
}

/// Builds the project in `folder`, with what its author would have installed, and without asking a registry for it.
fn build(programs: &Programs, language: Language, folder: &Path) -> Result<()> {
    let tools = programs.tools.as_ref().context("HUTCH_TOOLS is not set")?;
    let (program, arguments) = language.build().split_first().context("nothing to build with")?;
    let program = if *program == "hutch" {
        programs.cli.as_os_str()
    } else {
        OsStr::new(program)
    };
    let mut path = tools.join("python/bin").into_os_string();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    if language == Language::JavaScript {
        std::os::unix::fs::symlink(tools.join("javascript/node_modules"), folder.join("node_modules"))?;
    }
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder).env("PATH", path);
    // As an author's shell has it.
    command.env("CARGO_NET_OFFLINE", "true").env_remove("CARGO_TARGET_DIR");
    run(command.env_remove("RUSTFLAGS")).map(|_| ())
}

/// Makes a driver, builds it, checks it without a warning, and tries it. Says how long that took.
fn begins(language: Language, family: &str, least: usize) -> Result<()> {
    let programs = Programs::from_environment()?;
    let place = tempfile::tempdir()?;
    let hutch = |folder: &Path, arguments: &[&str]| {
        let mut command = Command::new(&programs.cli);
        command.arg("plugin").args(arguments).current_dir(folder);
        // An author's build goes to where cargo puts it by itself.
        command.env_remove("CARGO_TARGET_DIR");
        command
    };
    let name = language.name();
    run(&mut hutch(
        place.path(),
        &["new", "begun", "--family", family, "--language", name],
    ))?;
    let folder = place.path().join("begun");
    let begun = Instant::now();
    build(&programs, language, &folder)?;
    let built = begun.elapsed();
    // Compiling an interpreter takes a while; the suite does it, too.
    let quick = matches!(language, Language::Python | Language::JavaScript);
    let check = ["check", "--strict", "--quick"];
    let check = if quick { &check[..] } else { &check[..2] };
    run(&mut hutch(&folder, check))?;
    let report: Value = serde_json::from_slice(&run(&mut hutch(&folder, &["test", "--format", "json"]))?.stdout)?;
    let passed = count(&report, "passed").len();
    ensure!(passed >= least, "only {passed} cases were shown: {report:#}");
    let again = hutch(place.path(), &["new", "begun", "--family", family]).output()?;
    ensure!(!again.status.success(), "a folder that is there is written over");
    // Not by a macro: what those print is shown of failures only.
    writeln!(
        std::io::stderr(),
        "author: a {family} driver in {name}: built in {:.1} s, checked and {passed} cases in {:.1} s",
        built.as_secs_f64(),
        (begun.elapsed() - built).as_secs_f64()
    )?;
    Ok(())
}

/// The least number of cases that a driver of a family passes.
const STORAGE: usize = 60;
const NETWORK: usize = 40;
const ZONE: usize = 35;
const IMAGE: usize = 13;

/// The families with what a driver of each passes at least. The book's test has Rust's storage driver.
const FAMILIES: [(&str, usize); 4] = [
    ("network", NETWORK),
    ("zone", ZONE),
    ("image", IMAGE),
    ("storage", STORAGE),
];

/// Some of the families where a build or a call takes long, and with `--all` every one.
fn begin(language: Language, families: &[(&str, usize)], count: usize) -> Result<()> {
    let what = format!("families of drivers in {}", language.name());
    for (family, least) in sample(&what, families, count) {
        begins(language, family, least)?;
    }
    Ok(())
}

#[test]
fn drivers_in_rust_begin_whole() -> Result<()> {
    begin(Language::Rust, &FAMILIES[..3], 1)
}

#[test]
fn drivers_in_c_begin_whole() -> Result<()> {
    begin(Language::C, &FAMILIES, 4)
}

#[test]
fn drivers_in_python_begin_whole() -> Result<()> {
    begin(Language::Python, &FAMILIES, 1)
}

#[test]
fn drivers_in_javascript_begin_whole() -> Result<()> {
    begin(Language::JavaScript, &FAMILIES, 1)
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

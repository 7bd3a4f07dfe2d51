//! `ci`: all that must pass before a change goes in, with the time that each step took.

use crate::{artifacts, run, setup, test, wit};
use anyhow::{Context, Result};
use clap::Args;
use std::time::{Duration, Instant};

/// The version of cargo-deny that is installed where there is none.
const CARGO_DENY: &str = "0.20.2";

/// What `ci` may be told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Leave out the tests
    #[arg(long)]
    pub(crate) no_test: bool,
    /// Choose the tests' samples as the run that printed this number did
    #[arg(long, value_name = "NUMBER")]
    pub(crate) seed: Option<u64>,
}

/// Runs every check, in the order in which mistakes are cheapest to find.
///
/// # Errors
/// On the first that fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut times = Times::default();
    times.step("setup", || {
        // A run that leaves the stock clients out would show less than it says.
        if !options.no_test {
            setup::backports()?;
        }
        setup::run(&setup::Options {
            tests: !options.no_test,
        })
    })?;
    times.step("format", || run::check(run::cargo().args(["fmt", "--all", "--check"])))?;
    times.step("format of the examples", || in_examples(&["fmt", "--check"]))?;
    times.step("released interfaces", || wit::run(&wit::Options::Check))?;
    times.step("cargo-deny", deny)?;
    times.step("clippy", clippy)?;
    times.step("clippy, as WebAssembly", clippy_plugins)?;
    times.step("clippy of the examples", || {
        in_examples(&["clippy", "--locked", "--", "-D", "warnings"])
    })?;
    times.step("documentation", documentation)?;
    if !options.no_test {
        let tests = test::Options {
            seed: options.seed,
            ..test::Options::default()
        };
        times.step("tests", || test::run(&tests))?;
    }
    times.describe();
    Ok(())
}

/// How long each step took.
#[derive(Default)]
struct Times(Vec<(&'static str, Duration)>);

impl Times {
    fn step(&mut self, name: &'static str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        println!("ci: {name}");
        let begun = Instant::now();
        work().with_context(|| format!("ci: {name}"))?;
        self.0.push((name, begun.elapsed()));
        Ok(())
    }

    fn describe(&self) {
        for (name, time) in &self.0 {
            println!("ci: {:>5} s  {name}", time.as_secs());
        }
        let total: Duration = self.0.iter().map(|(_, time)| *time).sum();
        println!("ci: {:>5} s  in all; everything passed", total.as_secs());
    }
}

fn clippy() -> Result<()> {
    run::check(run::cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}

/// The code that only exists in a component: the glue between a driver and its imports.
fn clippy_plugins() -> Result<()> {
    let mut command = run::cargo();
    command.args(["clippy", "--target", setup::PLUGIN_TARGET]);
    for package in artifacts::plugin_packages()? {
        command.args(["--package", &package]);
    }
    run::check(command.args(["--", "-D", "warnings"]))
}

/// Runs cargo in each example that is in Rust. They are projects of their own, with their own place for what is built and for the target.
fn in_examples(arguments: &[&str]) -> Result<()> {
    let examples = run::top().join("examples");
    let entries = std::fs::read_dir(&examples).with_context(|| format!("can't list {}", examples.display()))?;
    for entry in entries {
        let folder = entry?.path();
        if folder.join("Cargo.toml").exists() {
            let mut command = run::cargo();
            command
                .args(arguments)
                .current_dir(&folder)
                .env_remove("CARGO_TARGET_DIR");
            run::check(&mut command)?;
        }
    }
    Ok(())
}

fn documentation() -> Result<()> {
    run::check(
        run::cargo()
            .args(["doc", "--workspace", "--no-deps"])
            .env("RUSTDOCFLAGS", "-D warnings"),
    )
}

/// Licences, sources and doubled dependencies always; known vulnerabilities when their database can be fetched.
fn deny() -> Result<()> {
    if !run::succeeds(run::cargo().args(["deny", "--version"])) {
        let tools = artifacts::target_directory()?.join("tools");
        run::check(
            run::cargo()
                .args(["install", "--locked", &format!("cargo-deny@{CARGO_DENY}")])
                .env("CARGO_TARGET_DIR", tools),
        )?;
    }
    run::check(run::cargo().args(["deny", "check", "bans", "licenses", "sources"]))?;
    if run::succeeds(run::cargo().args(["deny", "fetch", "db"])) {
        run::check(run::cargo().args(["deny", "--offline", "check", "advisories"]))
    } else {
        println!("ci: NOT CHECKED: the database of known vulnerabilities can't be fetched from here");
        Ok(())
    }
}

//! `test`: the unit tests of every crate, then what needs the whole.

use crate::artifacts::{self, Artifacts};
use crate::{run, setup};
use anyhow::{Result, bail};
use clap::Args;
use std::process::Command;

/// How many inputs each property test is given when all cases are run; otherwise it is 256.
const ALL_CASES: &str = "20000";

/// What `test` may be told.
#[derive(Debug, Default, Args)]
pub(crate) struct Options {
    /// Run only the tests whose name contains this
    #[arg(long, value_name = "TEXT")]
    pub(crate) filter: Option<String>,
    /// Run only the tests that live with their crate
    #[arg(long, conflicts_with = "whole")]
    pub(crate) unit: bool,
    /// Run only those under tests/, which start daemons
    #[arg(long)]
    pub(crate) whole: bool,
    /// Run every case of the long tests instead of a sample
    #[arg(long)]
    pub(crate) all: bool,
    /// Choose the samples as the run that printed this number did
    #[arg(long, value_name = "NUMBER")]
    pub(crate) seed: Option<u64>,
    /// Print what the tests print
    #[arg(long)]
    pub(crate) nocapture: bool,
}

impl Options {
    /// Whether the host that follows is needed, which takes minutes to build anew: for all cases, and where one asks for the tests of
    /// `tests/whole/released.rs`.
    fn needs_next(&self) -> bool {
        let asked = |text: &str| text.contains("released");
        !self.unit && self.filter.as_deref().map_or(self.all, asked)
    }

    /// The arguments after `--`, for the test programs.
    fn harness_arguments(&self) -> Vec<&str> {
        let mut arguments = Vec::new();
        if let Some(filter) = &self.filter {
            arguments.push(filter.as_str());
        }
        if self.nocapture {
            arguments.push("--nocapture");
        }
        arguments
    }
}

/// Runs the tests.
///
/// # Errors
/// When one fails, or when the machine can't run them.
pub(crate) fn run(options: &Options) -> Result<()> {
    if !run::is_root() {
        bail!("the tests make containers, which takes root: run this as root");
    }
    setup::run(&setup::Options { tests: true })?;
    let built = artifacts::build_for_tests(options.needs_next())?;
    let seed = options.seed.unwrap_or_else(fresh_seed);
    println!("test: samples and random inputs are chosen with --seed {seed}");
    if !options.whole {
        let mut unit = run::cargo();
        unit.args(["test", "--workspace", "--exclude", "hutch-tests"]);
        run::check(prepared(&mut unit, options, &built, seed))?;
    }
    if !options.unit {
        let mut whole = run::cargo();
        whole.args(["test", "--package", "hutch-tests"]);
        run::check(prepared(&mut whole, options, &built, seed))?;
    }
    Ok(())
}

fn prepared<'c>(command: &'c mut Command, options: &Options, built: &Artifacts, seed: u64) -> &'c mut Command {
    command.arg("--").args(options.harness_arguments());
    // Property tests take theirs from proptest's own variables.
    command.env("HUTCH_TEST_SEED", seed.to_string());
    command.env("PROPTEST_RNG_SEED", seed.to_string());
    if options.all {
        command.env("HUTCH_TEST_ALL", "1").env("PROPTEST_CASES", ALL_CASES);
    }
    built.announce(command)
}

/// A number that differs from run to run; it only has to be printable and repeatable.
fn fresh_seed() -> u64 {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    now.as_secs() ^ u64::from(now.subsec_nanos())
}

//! Every chore of the project, so that nobody needs to remember one: `cargo xtask --help`.
//!
//! Chores are plain processes run in order with their output passed through; the first that fails ends the chore with
//! its command line. Nothing here is part of what is shipped.

mod artifacts;
mod bench;
mod ci;
mod demo;
mod kernel;
mod lab;
mod languages;
mod next;
mod prove;
mod run;
mod setup;
mod test;
mod wit;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// The command line of `cargo xtask`.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Every chore of the Hutch project"
)]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

/// What there is to do.
#[derive(Debug, Subcommand)]
enum Chore {
    /// Install what the machine lacks: distribution packages and compilation targets
    Setup(setup::Options),
    /// Build target/release/{hutchd,hutch,hutch-plugin-dev,hutch-keeper} and target/plugins/*.wasm
    Build,
    /// Build everything, start a private daemon and launch a Debian container in it
    Demo(demo::Options),
    /// Run the unit tests, then the privileged ones (as root)
    Test(test::Options),
    /// All that must pass before a change goes in: format, clippy, documentation, cargo-deny, tests
    Ci(ci::Options),
    /// Measure the figures of SPECIFICATION.md, side by side with Incus
    Bench(bench::Options),
    /// Run every fault point and every comparison, and write the dated results to docs/proof.md
    Prove(prove::Options),
    /// Check that released interfaces of plugins are unchanged, or release one
    #[command(subcommand)]
    Wit(wit::Options),
    /// Run a command in a virtual machine with another kernel, such as one with a pure cgroup v2 tree
    Lab(lab::Options),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().chore {
        Chore::Setup(options) => setup::run(&options),
        Chore::Build => setup::targets()
            .and_then(|()| artifacts::build_release())
            .map(|built| built.describe()),
        Chore::Demo(options) => demo::run(&options),
        Chore::Test(options) => test::run(&options),
        Chore::Ci(options) => ci::run(&options),
        Chore::Bench(options) => bench::run(&options),
        Chore::Prove(options) => prove::run(&options),
        Chore::Wit(options) => wit::run(&options),
        Chore::Lab(options) => lab::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

//! `hutch`, the command line of Hutch: a client of the daemon's REST API, which is LXD's with additions.

mod attach;
mod cli;
mod client;
mod commands;
mod config;
mod context;
mod edit;
mod error;
mod files;
mod interrupt;
mod keyvalue;
mod object;
mod output;
mod terminal;

use clap::Parser;

use crate::cli::Cli;
use crate::context::Context;
use crate::error::{Error, Result, report};

/// The exit status of a command that failed.
const FAILURE: i32 = 1;

fn main() {
    let Cli { globals, command } = Cli::parse();
    let status = match run(globals, command) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("Error: {}", report(&error));
            FAILURE
        }
    };
    // A thread may still wait for input that nobody needs any more.
    std::process::exit(status);
}

fn run(globals: context::GlobalArgs, command: cli::Command) -> Result<i32> {
    let context = Context::new(globals)?;
    // One thread is enough for a client, and starts sooner than several.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::io("cannot start", source))?;
    let result = runtime.block_on(command.run(&context));
    runtime.shutdown_background();
    result
}

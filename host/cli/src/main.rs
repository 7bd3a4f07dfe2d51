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
mod upload;

use std::io::IsTerminal;

use clap::Parser;

use crate::cli::Cli;
use crate::context::Context;
use crate::error::{Error, Result, report};

/// The exit status of a command that failed.
const FAILURE: i32 = 1;

fn main() {
    let status = match Cli::try_parse() {
        Ok(Cli { globals, command }) => run(globals, command).unwrap_or_else(|error| {
            eprintln!("Error: {}", report(&error));
            FAILURE
        }),
        Err(error) => explain(&error),
    };
    // A thread may still wait for input that nobody needs any more.
    std::process::exit(status);
}

/// Prints help that was asked for, or what is wrong with the arguments, and returns the exit status.
fn explain(error: &clap::Error) -> i32 {
    if !error.use_stderr() {
        // There is nobody to tell when help can't be printed.
        let _ = error.print();
        return 0;
    }
    let text = error.render();
    let text = if std::io::stderr().is_terminal() {
        text.ansi().to_string()
    } else {
        text.to_string()
    };
    // As all other errors begin.
    eprint!("{}", text.replacen("error:", "Error:", 1));
    FAILURE
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

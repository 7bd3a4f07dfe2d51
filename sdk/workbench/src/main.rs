//! What the author of a plugin works with. `hutch plugin new | build | check | test | bench | dev | key | sign | push` start this program, which lies beside them.
//!
//! It is a program of its own: it has the WebAssembly engine and the broker in it, which the command line must not carry, and it
//! does to the machine what a daemon in service should not have code for. It needs no daemon.

mod bench;
mod build;
mod check;
mod component;
mod dev;
mod key;
mod machine;
mod module;
mod new;
mod push;
mod scratch;
mod serve;
mod sign;
mod test;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The command line. As a part of `hutch plugin` it is shown as that.
#[derive(Debug, Parser)]
#[command(
    name = "hutch plugin",
    bin_name = "hutch plugin",
    version,
    about = "Write a plugin, prove it and publish it"
)]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

/// What there is to do.
#[derive(Debug, Subcommand)]
enum Chore {
    /// Make a folder with a driver that builds, to begin from
    New(new::Options),
    /// Build the plugin of this folder, whatever it is written in
    Build(build::Options),
    /// Check that a file is a plugin: its manifest, its interfaces, and what it imports against what it requests
    Check(check::Options),
    /// Run the conformance suite against a plugin, on a scratch host (as root)
    Test(test::Options),
    /// Measure what a call of the plugin costs, on a scratch host (as root)
    Bench(bench::Options),
    /// Build, check and try the plugin of this folder whenever a file changes (trying it takes root)
    Dev(dev::Options),
    /// Make the pair of keys that plugins are signed with
    #[command(subcommand)]
    Key(key::Options),
    /// Sign a plugin, so that those who trust the key can install it from anywhere
    Sign(sign::Options),
    /// Put a plugin with its signature into an OCI registry
    Push(push::Options),
}

fn main() -> ExitCode {
    // The same program does confined work in children; they must not get as far as threads.
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some(hutch_plugin::SUBCOMMAND) => return hutch_plugin::compile_child_main(arguments),
        Some(hutch_plugin::WORKER_SUBCOMMAND) => return hutch_plugin::worker_main(arguments),
        _ => {}
    }
    let done = match Arguments::parse().chore {
        Chore::New(options) => new::run(&options).map(|()| ExitCode::SUCCESS),
        Chore::Build(options) => build::run(&options),
        Chore::Check(options) => check::run(&options),
        Chore::Test(options) => test::run(&options),
        Chore::Bench(options) => bench::run(&options),
        Chore::Dev(options) => dev::run(&options),
        Chore::Key(options) => key::run(&options).map(|()| ExitCode::SUCCESS),
        Chore::Sign(options) => sign::run(&options).map(|()| ExitCode::SUCCESS),
        Chore::Push(options) => push::run(&options).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error: anyhow::Error| {
        eprintln!("hutch plugin: {error:#}");
        ExitCode::FAILURE
    })
}

/// A runtime for what is asynchronous. Its threads are in the namespaces of the one that makes it.
fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?)
}

//! `plugin new | build | check | test | bench | dev | key | sign | push`: what the author of a plugin works with. It is a program of its own
//! beside this one, which has the WebAssembly engine in it, and becomes this process.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use clap::{Args, Subcommand};

use crate::error::{Error, Result};

/// The program.
const PROGRAM: &str = "hutch-plugin-dev";

#[derive(Debug, Subcommand)]
pub(crate) enum AuthorCommand {
    /// Make a folder with a driver that builds, to begin from
    #[command(disable_help_flag = true)]
    New(Rest),
    /// Build the plugin of this folder, whatever it is written in
    #[command(disable_help_flag = true)]
    Build(Rest),
    /// Check that a file is a plugin, and that it requests what it imports
    #[command(disable_help_flag = true)]
    Check(Rest),
    /// Run the conformance suite against a plugin, on a scratch host
    #[command(disable_help_flag = true)]
    Test(Rest),
    /// Measure what a call of a plugin costs, on a scratch host
    #[command(disable_help_flag = true)]
    Bench(Rest),
    /// Build, check and try the plugin of this folder whenever a file changes
    #[command(disable_help_flag = true)]
    Dev(Rest),
    /// Make the pair of keys that plugins are signed with
    #[command(disable_help_flag = true)]
    Key(Rest),
    /// Sign a plugin, so that those who trust the key can install it from anywhere
    #[command(disable_help_flag = true)]
    Sign(Rest),
    /// Put a plugin with its signature into an OCI registry
    #[command(disable_help_flag = true)]
    Push(Rest),
}

#[derive(Debug, Args)]
pub(crate) struct Rest {
    /// As --help of the command says
    #[arg(value_name = "ARGUMENTS", trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

impl AuthorCommand {
    /// Becomes the program that does it. Returns only when that is not there.
    pub(crate) fn run(self) -> Result<()> {
        let (name, rest) = match self {
            Self::New(rest) => ("new", rest),
            Self::Build(rest) => ("build", rest),
            Self::Check(rest) => ("check", rest),
            Self::Test(rest) => ("test", rest),
            Self::Bench(rest) => ("bench", rest),
            Self::Dev(rest) => ("dev", rest),
            Self::Key(rest) => ("key", rest),
            Self::Sign(rest) => ("sign", rest),
            Self::Push(rest) => ("push", rest),
        };
        let program = program();
        let source = Command::new(&program).arg(name).args(rest.arguments).exec();
        let path = program.display();
        Err(if source.kind() == std::io::ErrorKind::NotFound {
            let message = format!("{path} is not there: it is installed beside hutch for those who write plugins");
            Error::usage(message)
        } else {
            Error::Io {
                what: format!("cannot start {path}"),
                source,
            }
        })
    }
}

/// The program beside this one.
fn program() -> PathBuf {
    let beside = std::env::current_exe().map(|own| own.with_file_name(OsStr::new(PROGRAM)));
    beside.unwrap_or_else(|_| PathBuf::from(PROGRAM))
}

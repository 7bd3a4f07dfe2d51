//! What is made from the command line's own description: completions and manual pages.

use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::cli::Cli;
use crate::error::{Error, Result};
use crate::output;

#[derive(Debug, Args)]
pub(crate) struct CompletionArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, Args)]
pub(crate) struct ManpagesArgs {
    /// The directory
    directory: PathBuf,
}

/// The command line without `help` in every place, which would double each of the documents: `--help` is there as well.
fn description() -> clap::Command {
    fn without_help(command: clap::Command) -> clap::Command {
        command.disable_help_subcommand(true).mut_subcommands(without_help)
    }
    without_help(Cli::command())
}

/// Prints a script that completes commands.
pub(crate) fn completion(args: CompletionArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut description(), "hutch", &mut script);
    output::write_out(&script)
}

/// Writes a manual page for every command.
pub(crate) fn manpages(args: &ManpagesArgs) -> Result<()> {
    let failed = |source| Error::file("cannot write manual pages into", &args.directory, source);
    std::fs::create_dir_all(&args.directory).map_err(failed)?;
    clap_mangen::generate_to(description(), &args.directory).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_argument_is_explained() {
        fn check(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            assert!(command.get_about().is_some(), "{path}");
            for argument in command.get_arguments() {
                assert!(
                    argument.get_help().is_some() || argument.is_hide_set(),
                    "{path} {}",
                    argument.get_id()
                );
            }
            command.get_subcommands().for_each(|sub| check(sub, &path));
        }
        let command = Cli::command();
        check(&command, "");
    }

    #[test]
    fn pages_are_written_for_every_command() {
        let directory = tempfile::tempdir().unwrap();
        manpages(&ManpagesArgs {
            directory: directory.path().to_owned(),
        })
        .unwrap();
        for page in ["hutch.1", "hutch-launch.1", "hutch-config-device-add.1"] {
            assert!(directory.path().join(page).exists(), "{page}");
        }
    }
}

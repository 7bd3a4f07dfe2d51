//! The command line: what there is to type.

use clap::{Parser, Subcommand};

use crate::commands::{console, create, exec, list, state};
use crate::context::{Context, GlobalArgs};
use crate::error::Result;

/// Containers and virtual machines from the command line
#[derive(Debug, Parser)]
#[command(name = "hutch", version, disable_help_subcommand = false, propagate_version = false)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create and start an instance from an image
    Launch(create::LaunchArgs),
    /// Create an instance from an image
    #[command(alias = "init")]
    Create(create::CreateArgs),
    /// List instances
    #[command(alias = "ls")]
    List(list::ListArgs),
    /// Start instances
    Start(state::StartArgs),
    /// Stop instances
    Stop(state::StopArgs),
    /// Restart instances
    Restart(state::RestartArgs),
    /// Pause instances
    #[command(alias = "freeze")]
    Pause(state::PauseArgs),
    /// Resume paused instances
    #[command(alias = "unfreeze")]
    Resume(state::PauseArgs),
    /// Delete instances and snapshots
    #[command(alias = "rm")]
    Delete(state::DeleteArgs),
    /// Run a command in an instance
    Exec(exec::ExecArgs),
    /// Open a shell in an instance
    Shell(exec::ShellArgs),
    /// Attach to an instance's console
    Console(console::ConsoleArgs),
}

impl Command {
    /// Does it, and returns the exit status.
    pub(crate) async fn run(self, ctx: &Context) -> Result<i32> {
        match self {
            Self::Exec(args) => return exec::exec(ctx, args).await,
            Self::Shell(args) => return exec::shell(ctx, args).await,
            Self::Launch(args) => create::launch(ctx, args).await,
            Self::Create(args) => create::create(ctx, args).await,
            Self::List(args) => list::list(ctx, args).await,
            Self::Start(args) => state::start(ctx, args).await,
            Self::Stop(args) => state::stop(ctx, args).await,
            Self::Restart(args) => state::restart(ctx, args).await,
            Self::Pause(args) => state::pause(ctx, args).await,
            Self::Resume(args) => state::resume(ctx, args).await,
            Self::Delete(args) => state::delete(ctx, args).await,
            Self::Console(args) => console::console(ctx, args).await,
        }
        .map(|()| 0)
    }
}

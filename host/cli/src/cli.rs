//! The command line: what there is to type.

use clap::{Parser, Subcommand};

use crate::commands::admin::AdminCommand;
use crate::commands::configure::ConfigCommand;
use crate::commands::file::FileCommand;
use crate::commands::image::ImageCommand;
use crate::commands::network::NetworkCommand;
use crate::commands::operation::OperationCommand;
use crate::commands::plugin::PluginCommand;
use crate::commands::profile::ProfileCommand;
use crate::commands::project::ProjectCommand;
use crate::commands::remote::RemoteCommand;
use crate::commands::storage::StorageCommand;
use crate::commands::{console, create, documents, exec, info, list, monitor, publish, relocate, snapshot, state};
use crate::context::{Context, GlobalArgs};
use crate::error::Result;

/// What a beginner needs.
const BEGINNING: &str = "\
To begin with:
  hutch admin init --auto     set a fresh daemon up
  hutch remote list           where images come from
  hutch image list REMOTE:    which there are
  hutch launch REMOTE:IMAGE c1
  hutch exec c1 -- bash
  hutch list";

/// System containers from the command line
#[derive(Debug, Parser)]
#[command(name = "hutch", version, after_help = BEGINNING)]
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
    /// Copy files from and to instances
    #[command(subcommand)]
    File(FileCommand),
    /// Copy an instance
    #[command(alias = "cp")]
    Copy(relocate::CopyArgs),
    /// Move an instance to another name
    #[command(alias = "mv")]
    Move(relocate::MoveArgs),
    /// Give an instance a new name
    Rename(relocate::RenameArgs),
    /// Manage snapshots
    Snapshot(snapshot::SnapshotArgs),
    /// Set an instance back to a snapshot
    Restore(snapshot::RestoreArgs),
    /// Manage the configuration of instances and of the daemon
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Manage profiles
    #[command(subcommand)]
    Profile(ProfileCommand),
    /// Manage networks
    #[command(subcommand)]
    Network(NetworkCommand),
    /// Manage storage pools
    #[command(subcommand)]
    Storage(StorageCommand),
    /// Manage projects
    #[command(subcommand)]
    Project(ProjectCommand),
    /// Manage images
    #[command(subcommand)]
    Image(ImageCommand),
    /// Make an image of an instance or a snapshot
    Publish(publish::PublishArgs),
    /// Show an instance, the daemon or the machine
    Info(info::InfoArgs),
    /// Watch and cancel what the daemon is doing
    #[command(subcommand)]
    Operation(OperationCommand),
    /// Print events as they happen
    Monitor(monitor::MonitorArgs),
    /// Manage the plugins that provide storage, networks and images
    #[command(subcommand)]
    Plugin(PluginCommand),
    /// Manage daemons and image servers
    #[command(subcommand)]
    Remote(RemoteCommand),
    /// Set a daemon up
    #[command(subcommand)]
    Admin(AdminCommand),
    /// Send a request of your own
    Query(monitor::QueryArgs),
    /// Print a script that completes commands in a shell
    Completion(documents::CompletionArgs),
    /// Write the manual's pages into a directory
    #[command(hide = true)]
    Manpages(documents::ManpagesArgs),
    /// Print the versions of this program and of the daemon
    Version(info::VersionArgs),
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
            Self::File(command) => command.run(ctx).await,
            Self::Copy(args) => relocate::copy(ctx, args).await,
            Self::Move(args) => relocate::relocate(ctx, args).await,
            Self::Rename(args) => relocate::rename(ctx, args).await,
            Self::Snapshot(args) => snapshot::snapshot(ctx, args).await,
            Self::Restore(args) => snapshot::restore(ctx, args).await,
            Self::Config(command) => command.run(ctx).await,
            Self::Profile(command) => command.run(ctx).await,
            Self::Network(command) => command.run(ctx).await,
            Self::Storage(command) => command.run(ctx).await,
            Self::Project(command) => command.run(ctx).await,
            Self::Image(command) => command.run(ctx).await,
            Self::Publish(args) => publish::publish(ctx, args).await,
            Self::Info(args) => info::info(ctx, args).await,
            Self::Operation(command) => command.run(ctx).await,
            Self::Monitor(args) => monitor::monitor(ctx, args).await,
            Self::Plugin(command) => command.run(ctx).await,
            Self::Remote(command) => command.run(ctx).await,
            Self::Admin(command) => command.run(ctx).await,
            Self::Query(args) => monitor::query(ctx, args).await,
            Self::Completion(args) => documents::completion(args),
            Self::Manpages(args) => documents::manpages(&args),
            Self::Version(args) => info::version(ctx, args).await,
        }
        .map(|()| 0)
    }
}

//! `start`, `stop`, `restart`, `pause`, `resume`, `delete`: what is done to several instances at once.

use std::sync::Arc;

use clap::Args;
use futures_util::stream::{FuturesUnordered, StreamExt};
use hutch_api::StatusCode;
use hutch_api::instance::{Instance, InstanceStatePut};
use hyper::Method;

use crate::client::{ApiPath, Client, Progress};
use crate::context::{Context, Target};
use crate::error::{Error, Failures, Result};

/// How many instances are changed at a time; more would not end sooner.
const PARALLEL: usize = 16;

#[derive(Debug, Args)]
pub(crate) struct Names {
    /// The instances
    #[arg(value_name = "[REMOTE:]INSTANCE", required_unless_present = "all")]
    instances: Vec<String>,
    /// All instances that are not in that state already
    #[arg(long, conflicts_with = "instances")]
    all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    #[command(flatten)]
    names: Names,
    /// Attach to the console at once
    #[arg(long, conflicts_with = "all")]
    console: bool,
    /// Start from the beginning, even if there is memory that was written out
    #[arg(long)]
    stateless: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    #[command(flatten)]
    names: Names,
    /// Stop at once, without asking the instance
    #[arg(short, long)]
    force: bool,
    /// Seconds to wait for a clean stop; without it, as long as it takes
    #[arg(long, default_value_t = -1, value_name = "SECONDS", hide_default_value = true, allow_negative_numbers = true)]
    timeout: i64,
    /// Write memory out, to go on with it at the next start
    #[arg(long)]
    stateful: bool,
    /// Attach to the console while it stops
    #[arg(long, conflicts_with = "all")]
    console: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RestartArgs {
    #[command(flatten)]
    names: Names,
    /// Stop at once, without asking the instance
    #[arg(short, long)]
    force: bool,
    /// Seconds to wait for a clean stop; without it, as long as it takes
    #[arg(long, default_value_t = -1, value_name = "SECONDS", hide_default_value = true, allow_negative_numbers = true)]
    timeout: i64,
    /// Attach to the console at once
    #[arg(long, conflicts_with = "all")]
    console: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PauseArgs {
    #[command(flatten)]
    names: Names,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// The instances; a snapshot is INSTANCE/SNAPSHOT
    #[arg(value_name = "[REMOTE:]INSTANCE", required = true)]
    instances: Vec<String>,
    /// Stop them first, at once
    #[arg(short, long)]
    force: bool,
    /// Ask before each
    #[arg(short, long)]
    interactive: bool,
}

/// Starts instances, and resumes those that are paused.
pub(crate) async fn start(ctx: &Context, args: StartArgs) -> Result<()> {
    let targets = select(ctx, &args.names, |code| code == StatusCode::STOPPED).await?;
    let action = |client: Arc<Client>, name: String| async move {
        let instance: Instance = client.get(ApiPath::new(["instances", &name])).await?;
        let action = if instance.status_code == StatusCode::FROZEN {
            "unfreeze"
        } else {
            "start"
        };
        let stateful = instance.stateful && !args.stateless;
        Ok(InstanceStatePut {
            action: action.into(),
            stateful,
            ..InstanceStatePut::default()
        })
    };
    act(ctx, "Starting", targets, action).await?;
    consoles(ctx, &args.names, args.console).await
}

/// Stops instances.
pub(crate) async fn stop(ctx: &Context, args: StopArgs) -> Result<()> {
    let targets = select(ctx, &args.names, |code| code != StatusCode::STOPPED).await?;
    let put = InstanceStatePut {
        action: "stop".into(),
        timeout: args.timeout,
        force: args.force,
        stateful: args.stateful,
    };
    let stopping = act(ctx, "Stopping", targets, same(put));
    if args.console {
        // The console ends when the instance does.
        let (stopped, _) = tokio::join!(stopping, consoles(ctx, &args.names, true));
        stopped
    } else {
        stopping.await
    }
}

/// Restarts instances.
pub(crate) async fn restart(ctx: &Context, args: RestartArgs) -> Result<()> {
    let targets = select(ctx, &args.names, |code| code != StatusCode::STOPPED).await?;
    let put = InstanceStatePut {
        action: "restart".into(),
        timeout: args.timeout,
        force: args.force,
        stateful: false,
    };
    act(ctx, "Restarting", targets, same(put)).await?;
    consoles(ctx, &args.names, args.console).await
}

/// Freezes instances.
pub(crate) async fn pause(ctx: &Context, args: PauseArgs) -> Result<()> {
    let targets = select(ctx, &args.names, |code| code == StatusCode::RUNNING).await?;
    act(
        ctx,
        "Pausing",
        targets,
        same(InstanceStatePut {
            action: "freeze".into(),
            ..InstanceStatePut::default()
        }),
    )
    .await
}

/// Thaws instances.
pub(crate) async fn resume(ctx: &Context, args: PauseArgs) -> Result<()> {
    let targets = select(ctx, &args.names, |code| code == StatusCode::FROZEN).await?;
    act(
        ctx,
        "Resuming",
        targets,
        same(InstanceStatePut {
            action: "unfreeze".into(),
            ..InstanceStatePut::default()
        }),
    )
    .await
}

/// Deletes instances and snapshots.
pub(crate) async fn delete(ctx: &Context, args: DeleteArgs) -> Result<()> {
    let mut targets = Vec::new();
    for text in &args.instances {
        if !args.interactive || crate::edit::confirm(&format!("Delete {text}?"))? {
            targets.push(ctx.named(text)?);
        }
    }
    let force = args.force;
    each(ctx, "Deleting", targets, |client, name, progress| async move {
        remove(&client, &name, force, &progress).await
    })
    .await
}

async fn remove(client: &Client, name: &str, force: bool, progress: &Progress) -> Result<()> {
    if let Some((instance, snapshot)) = name.split_once('/') {
        let path = ApiPath::new(["instances", instance, "snapshots", snapshot]);
        return client.remove(path, progress).await.map(drop);
    }
    let path = ApiPath::new(["instances", name]);
    if force {
        let instance: Instance = client.get(path.clone()).await?;
        if instance.status_code != StatusCode::STOPPED {
            let put = InstanceStatePut {
                action: "stop".into(),
                timeout: -1,
                force: true,
                stateful: false,
            };
            let state = path.clone().join(["state"]);
            match client.change(Method::PUT, state, &put, progress).await {
                // An ephemeral instance goes by itself once it has stopped.
                Ok(_) if instance.ephemeral => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
    }
    client.remove(path, progress).await.map(drop)
}

/// The same request for every instance.
fn same(put: InstanceStatePut) -> impl Fn(Arc<Client>, String) -> std::future::Ready<Result<InstanceStatePut>> {
    move |_, _| std::future::ready(Ok(put.clone()))
}

/// The instances that are named, or all of those whose state is worth it.
async fn select(ctx: &Context, names: &Names, worth: impl Fn(StatusCode) -> bool) -> Result<Vec<Target>> {
    if !names.all {
        return names.instances.iter().map(|text| ctx.named(text)).collect();
    }
    let client = ctx.default_client()?;
    let all: Vec<Instance> = client.get(ApiPath::new(["instances"]).query("recursion", "1")).await?;
    let all = all.into_iter().filter(|instance| worth(instance.status_code));
    Ok(all
        .map(|instance| Target {
            client: Arc::clone(&client),
            name: instance.name,
        })
        .collect())
}

async fn act<F>(
    ctx: &Context,
    verb: &str,
    targets: Vec<Target>,
    action: impl Fn(Arc<Client>, String) -> F,
) -> Result<()>
where
    F: Future<Output = Result<InstanceStatePut>>,
{
    let action = &action;
    each(ctx, verb, targets, |client, name, progress| async move {
        let put = action(Arc::clone(&client), name.clone()).await?;
        let path = ApiPath::new(["instances", &name, "state"]);
        client.change(Method::PUT, path, &put, &progress).await.map(drop)
    })
    .await
}

/// Does something to every instance, several at a time. One that fails doesn't keep the others from it.
async fn each<F>(
    ctx: &Context,
    verb: &str,
    targets: Vec<Target>,
    work: impl Fn(Arc<Client>, String, Progress) -> F,
) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let total = targets.len();
    let work = &work;
    let mut waiting = targets.into_iter().map(|target| async move {
        let progress = if total == 1 {
            ctx.progress(&format!("{verb} {}", target.name))
        } else {
            Progress::hidden()
        };
        let done = work(target.client, target.name.clone(), progress).await;
        done.map_err(|error| error.about(&target.name))
    });
    let mut running: FuturesUnordered<_> = waiting.by_ref().take(PARALLEL).collect();
    let mut failures = Failures::default();
    while let Some(done) = running.next().await {
        failures.note(done);
        running.extend(waiting.next());
    }
    failures.result()
}

async fn consoles(ctx: &Context, names: &Names, wanted: bool) -> Result<()> {
    match names.instances.as_slice() {
        _ if !wanted => Ok(()),
        [only] => super::console::attach(ctx, only).await,
        _ => Err(Error::usage("--console is for one instance")),
    }
}

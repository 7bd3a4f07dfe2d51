//! `publish`: an image made of an instance or a snapshot.

use clap::Args;
use hutch_api::StatusCode;
use hutch_api::image::{ImagesPost, ImagesPostSource};
use hutch_api::instance::{Instance, InstanceStatePut};
use hyper::Method;

use super::image::transfer::give_names;
use crate::client::{ApiPath, Client, Progress};
use crate::context::{Context, Target};
use crate::error::{Error, Result};
use crate::keyvalue;
use crate::object::Place;

#[derive(Debug, Args)]
pub(crate) struct PublishArgs {
    /// The instance, or INSTANCE/SNAPSHOT
    #[arg(value_name = "[REMOTE:]INSTANCE")]
    instance: String,
    /// Properties of the image
    #[arg(value_name = "KEY=VALUE")]
    properties: Vec<String>,
    /// Give it a name (several times)
    #[arg(long, value_name = "NAME")]
    alias: Vec<String>,
    /// Move names that other images have
    #[arg(long)]
    reuse: bool,
    /// Let everybody have it
    #[arg(long)]
    public: bool,
    /// How to compress it (gzip, zstd, xz, none, …); as the daemon is set without it
    #[arg(long, default_value = "", value_name = "ALGORITHM", hide_default_value = true)]
    compression: String,
    /// Stop the instance for as long as it takes, and start it again
    #[arg(short, long)]
    force: bool,
}

/// Makes an image.
pub(crate) async fn publish(ctx: &Context, args: PublishArgs) -> Result<()> {
    let Target { client, name } = ctx.named(&args.instance)?;
    let progress = ctx.progress(&format!("Publishing {name}"));
    let post = ImagesPost {
        public: args.public,
        compression_algorithm: args.compression,
        properties: keyvalue::pairs(&args.properties)?,
        source: Some(ImagesPostSource {
            kind: if name.contains('/') { "snapshot" } else { "instance" }.into(),
            name: name.clone(),
            ..ImagesPostSource::default()
        }),
        ..ImagesPost::default()
    };
    let stopped = args.force && stop(&client, &name, &progress).await?;
    let made = client
        .change(Method::POST, ApiPath::new(["images"]), &post, &progress)
        .await;
    if stopped {
        // It runs again whatever came of the image.
        state(&client, &name, "start", &progress).await?;
    }
    let metadata = made.map_err(|error| error.about(&name))?;
    let fingerprint = metadata["fingerprint"].as_str().unwrap_or_default();
    ctx.say(&format!("Instance published with fingerprint: {fingerprint}"))?;
    give_names(&client, fingerprint, &args.alias, args.reuse).await
}

/// Stops an instance that runs; false if it did not.
async fn stop(client: &Client, name: &str, progress: &Progress) -> Result<bool> {
    if name.contains('/') {
        return Err(Error::usage("a snapshot does not run: --force is for instances"));
    }
    let place = Place {
        client,
        path: ApiPath::new(["instances", name]),
        name,
    };
    let instance: Instance = place.get().await?;
    if instance.status_code == StatusCode::STOPPED {
        return Ok(false);
    }
    if instance.ephemeral {
        return Err(Error::usage(format!(
            "{name} is ephemeral, and would be gone once it is stopped; publish a snapshot of it"
        )));
    }
    state(client, name, "stop", progress).await?;
    Ok(true)
}

async fn state(client: &Client, name: &str, action: &str, progress: &Progress) -> Result<()> {
    let put = InstanceStatePut {
        action: action.into(),
        timeout: -1,
        force: false,
        stateful: false,
    };
    let path = ApiPath::new(["instances", name, "state"]);
    client
        .change(Method::PUT, path, &put, progress)
        .await
        .map(drop)
        .map_err(|error| error.about(name))
}

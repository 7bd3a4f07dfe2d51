//! `monitor` and `query`.

use clap::{Args, ValueEnum};
use http_body_util::BodyExt;
use hutch_api::envelope::Envelope;
use hutch_api::event::{Event, EventLifecycle, EventLogging, LIFECYCLE, LOGGING, OPERATION};
use hutch_api::operation::Operation;
use hyper::Method;
use hyper::header::CONTENT_TYPE;
use serde_json::Value;

use crate::client::websocket::Frame;
use crate::client::{ApiPath, empty_body, whole_body};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::output;

/// How events are printed; `json` and `pretty` have one line for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum EventFormat {
    #[default]
    Yaml,
    Json,
    Pretty,
}

#[derive(Debug, Args)]
pub(crate) struct MonitorArgs {
    /// The daemon
    #[arg(value_name = "REMOTE:")]
    remote: Option<String>,
    /// Which events: operation, lifecycle, logging (several times)
    #[arg(short = 't', long = "type", value_name = "TYPE")]
    kind: Vec<String>,
    /// How to print them
    #[arg(short, long, value_enum, default_value = "yaml", hide_default_value = true)]
    format: EventFormat,
    /// One line an event (the same as --format pretty)
    #[arg(long, conflicts_with = "format")]
    pretty: bool,
    /// The least severe messages of the type logging
    #[arg(long, value_enum)]
    loglevel: Option<Level>,
    /// Events of all projects
    #[arg(long)]
    all_projects: bool,
}

/// How severe a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Level {
    Error,
    Warning,
    Info,
    Debug,
    Trace,
}

impl Level {
    fn read(text: &str) -> Self {
        match text {
            "error" | "fatal" | "panic" | "crit" => Self::Error,
            "warning" | "warn" => Self::Warning,
            "info" => Self::Info,
            "debug" | "dbug" => Self::Debug,
            _ => Self::Trace,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct QueryArgs {
    /// The path, such as /1.0/instances
    #[arg(value_name = "[REMOTE:]PATH")]
    path: String,
    /// The method
    #[arg(short = 'X', long, default_value = "GET", value_name = "METHOD")]
    request: String,
    /// The body; - reads it from standard input
    #[arg(short, long, value_name = "JSON")]
    data: Option<String>,
    /// Wait for the operation
    #[arg(long)]
    wait: bool,
    /// Print the whole answer, and not only what it is about
    #[arg(long)]
    raw: bool,
}

/// Prints events as they happen.
pub(crate) async fn monitor(ctx: &Context, args: MonitorArgs) -> Result<()> {
    let target = ctx.daemon(args.remote.as_deref())?;
    let mut path = ApiPath::new(["events"]);
    if !args.kind.is_empty() {
        path = path.query("type", &args.kind.join(","));
    }
    path = path.of_all_projects(args.all_projects);
    let format = if args.pretty { EventFormat::Pretty } else { args.format };
    let (mut events, _open) = target.client.websocket(path).await?.receiver();
    while let Some(frame) = events.next().await? {
        let text = match frame {
            Frame::Text(text) => text,
            Frame::Data(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        };
        let value: Value = serde_json::from_str(&text).map_err(|source| Error::Answer {
            request: "GET /1.0/events".into(),
            source,
        })?;
        let is_shown = |level| Level::read(value["metadata"]["level"].as_str().unwrap_or_default()) <= level;
        if value["type"] == LOGGING && !args.loglevel.is_none_or(is_shown) {
            continue;
        }
        match format {
            EventFormat::Json => output::print_json(&value)?,
            EventFormat::Yaml => output::print_line(&format!("{}\n", output::to_yaml(&value)?.trim_end()))?,
            EventFormat::Pretty => output::print_line(&pretty(&value))?,
        }
    }
    Err(Error::usage("the daemon has ended the stream of events"))
}

/// An event on one line.
fn pretty(value: &Value) -> String {
    let event: Event = serde_json::from_value(value.clone()).unwrap_or_default();
    let metadata = event.metadata.clone();
    let what = match event.kind.as_str() {
        OPERATION => {
            let operation: Operation = serde_json::from_value(metadata).unwrap_or_default();
            let error = if operation.err.is_empty() {
                String::new()
            } else {
                format!(": {}", operation.err)
            };
            format!(
                "{} {} ({}){error}",
                operation.id, operation.description, operation.status
            )
        }
        LIFECYCLE => {
            let lifecycle: EventLifecycle = serde_json::from_value(metadata).unwrap_or_default();
            format!("{} {}", lifecycle.action, lifecycle.source)
        }
        LOGGING => {
            let logging: EventLogging = serde_json::from_value(metadata).unwrap_or_default();
            let context: String = logging
                .context
                .iter()
                .map(|(key, value)| format!(" {key}={value}"))
                .collect();
            format!("{} {}{context}", logging.level, logging.message)
        }
        _ => metadata.to_string(),
    };
    format!("{} [{}] {what}", event.timestamp, event.kind)
}

/// Sends a request of the user's own.
pub(crate) async fn query(ctx: &Context, args: QueryArgs) -> Result<()> {
    let (remote, path) = match args.path.split_once(":/") {
        Some((remote, path)) => (Some(format!("{remote}:")), format!("/{path}")),
        None => (None, args.path.clone()),
    };
    if !path.starts_with('/') {
        return Err(Error::usage(format!("{path:?} is not a path; it begins with /1.0")));
    }
    let target = ctx.daemon(remote.as_deref())?;
    let method = Method::from_bytes(args.request.to_uppercase().as_bytes())
        .map_err(|_| Error::usage(format!("{:?} is not a method", args.request)))?;
    let data = match args.data.as_deref() {
        Some("-") => crate::edit::piped()?,
        data => data.map(str::to_owned),
    };
    let (headers, body) = match data {
        Some(data) => (
            vec![(CONTENT_TYPE.as_str(), "application/json".to_owned())],
            whole_body(data),
        ),
        None => (Vec::new(), empty_body()),
    };
    let response = target.client.raw(method, ApiPath::raw(&path), &headers, body).await?;
    let bytes = response.into_body().collect().await?.to_bytes();
    // Some paths answer with a file instead of an envelope.
    let Ok(envelope) = serde_json::from_slice::<Envelope>(&bytes) else {
        return output::write_out(&bytes);
    };
    if envelope.kind == "error" {
        return Err(Error::Server {
            status: envelope.error_code,
            message: envelope.error,
        });
    }
    let mut shown = envelope.metadata.clone().unwrap_or_default();
    if args.wait && envelope.kind == "async" {
        let wait = ApiPath::raw(&envelope.operation).join(["wait"]).query("timeout", "-1");
        shown = target.client.get(wait).await?;
        if let Some(error) = shown["err"].as_str().filter(|error| !error.is_empty()) {
            return Err(Error::Operation(error.to_owned()));
        }
    }
    if args.raw {
        shown = serde_json::from_slice(&bytes).unwrap_or_default();
    }
    match shown {
        Value::Null => Ok(()),
        Value::String(text) => output::print_line(&text),
        shown => {
            let text = serde_json::to_string_pretty(&shown).map_err(|source| Error::Json {
                what: "the answer".into(),
                source,
            })?;
            output::print_line(&text)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_have_one_line_when_pretty() {
        let event = json!({"type": "lifecycle", "timestamp": "2026-01-02T03:04:05Z",
            "metadata": {"action": "instance-started", "source": "/1.0/instances/c1"}});
        assert_eq!(
            pretty(&event),
            "2026-01-02T03:04:05Z [lifecycle] instance-started /1.0/instances/c1"
        );
        let event = json!({"type": "operation", "timestamp": "2026-01-02T03:04:05Z",
            "metadata": {"id": "x", "description": "Starting", "status": "Failure", "err": "no"}});
        assert_eq!(
            pretty(&event),
            "2026-01-02T03:04:05Z [operation] x Starting (Failure): no"
        );
    }

    #[test]
    fn levels_are_in_order() {
        assert!(Level::read("error") < Level::read("warning"));
        assert!(Level::read("info") < Level::read("debug"));
    }
}

//! Waiting for operations: with progress on a terminal, and Ctrl-C that asks the daemon to stop.

use std::io::IsTerminal;
use std::time::Duration;

use hutch_api::StatusCode;
use hyper::Method;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::websocket::{Frame, Receiver, Sender};
use super::{ApiPath, Client, empty_body};
use crate::error::{Error, Result};
use crate::interrupt::{EXIT_STATUS, Interrupts};

/// How long an operation runs before its progress is shown: what is quicker would only flicker.
const PATIENCE: Duration = Duration::from_millis(200);

/// How the progress of an operation is shown.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    label: Option<String>,
}

impl Progress {
    /// Nothing is shown.
    pub(crate) fn hidden() -> Self {
        Self::default()
    }

    /// A line with `label`, on standard error and if that is a terminal.
    pub(crate) fn new(label: impl Into<String>, quiet: bool) -> Self {
        let shown = !quiet && std::io::stderr().is_terminal();
        Self {
            label: shown.then(|| label.into()),
        }
    }

    /// What stands before the progress, if it is shown.
    pub(crate) fn label(&self) -> Option<&str> {
        self.label.as_deref()
    }
}

/// An operation that the daemon has begun.
pub(crate) struct Operation {
    path: ApiPath,
    /// The operation as it was when it began, which holds the secrets of its websockets.
    pub(crate) initial: Value,
}

/// The line that shows progress, and where its news come from.
struct Display {
    bar: ProgressBar,
    label: String,
    events: Option<(Receiver, Sender)>,
}

impl Operation {
    pub(super) fn new(path: String, initial: Value) -> Self {
        Self {
            path: ApiPath::raw(&path),
            initial,
        }
    }

    /// The last segment of its path.
    pub(crate) fn id(&self) -> &str {
        self.initial["id"].as_str().unwrap_or_default()
    }

    /// Where one of its websockets is.
    pub(crate) fn websocket(&self, secret: &str) -> ApiPath {
        self.path.clone().join(["websocket"]).query("secret", secret)
    }

    /// Waits for its end and returns its metadata. The first Ctrl-C cancels it, the second leaves it alone.
    pub(crate) async fn wait(&self, client: &Client, progress: &Progress) -> Result<Value> {
        let mut interrupts = Interrupts::claim()?;
        let path = self.path.clone().join(["wait"]).query("timeout", "-1");
        let mut done = std::pin::pin!(client.get::<Value>(path));
        let mut patience = std::pin::pin!(tokio::time::sleep(PATIENCE));
        let mut display: Option<Display> = None;
        let mut interrupted = false;
        loop {
            tokio::select! {
                result = &mut done => {
                    drop(display);
                    return outcome(result.map_err(|error| self.lost(error))?);
                }
                () = &mut patience, if display.is_none() && progress.label.is_some() => {
                    display = Display::open(client, progress).await;
                }
                event = next_event(&mut display) => {
                    if let Some(display) = &mut display {
                        display.update(self.id(), event.as_ref());
                    }
                }
                () = interrupts.next() => {
                    if interrupted {
                        // The terminal gets its cursor back first.
                        drop(display);
                        std::process::exit(EXIT_STATUS);
                    }
                    interrupted = true;
                    self.cancel(client, display.as_ref()).await?;
                }
            }
        }
    }

    /// Waits for its end, which something else brings about, and returns it as it is then.
    pub(crate) async fn ended(&self, client: &Client) -> Result<Value> {
        let wait = self.path.clone().join(["wait"]).query("timeout", "-1");
        match client.get(wait).await {
            // Some daemons refuse to wait for what has failed, in words that leave its metadata out.
            Err(error) if error.status().is_some() => client.get(self.path.clone()).await,
            result => result,
        }
        .map_err(|error| self.lost(error))
    }

    /// What to do when the daemon went away meanwhile.
    pub(crate) fn lost(&self, error: Error) -> Error {
        match error {
            Error::Connect { .. } | Error::Http(_) | Error::WebSocket(_) => Error::About {
                name: format!(
                    "`hutch operation show {}` tells what came of it once the daemon is back",
                    self.id()
                ),
                source: Box::new(error),
            },
            other => other,
        }
    }

    async fn cancel(&self, client: &Client, display: Option<&Display>) -> Result<()> {
        let say = |text: &str| match display {
            Some(display) => display.bar.println(text),
            None => eprintln!("{text}"),
        };
        let now: Value = client.get(self.path.clone()).await?;
        if now["may_cancel"].as_bool() != Some(true) {
            say("This can't be cancelled; press Ctrl-C again to leave it to the daemon");
            return Ok(());
        }
        say("Cancelling; press Ctrl-C again not to wait for it");
        match client
            .send_body(Method::DELETE, self.path.clone(), &[], empty_body())
            .await
        {
            Ok(_) => Ok(()),
            // It ended, or passed the point where it may be cancelled, between the two requests.
            Err(error) if error.status().is_some() => Ok(()),
            Err(error) => Err(error),
        }
    }
}

async fn next_event(display: &mut Option<Display>) -> Option<Value> {
    let events = display.as_mut().and_then(|display| display.events.as_mut());
    let Some((receiver, _)) = events else {
        return std::future::pending().await;
    };
    match receiver.next().await {
        Ok(Some(Frame::Text(text))) => serde_json::from_str(&text).ok(),
        Ok(Some(Frame::Data(bytes))) => serde_json::from_slice(&bytes).ok(),
        Ok(None) | Err(_) => {
            // Progress is a courtesy: the operation's end is told on another connection.
            if let Some(display) = display {
                display.events = None;
            }
            None
        }
    }
}

impl Display {
    async fn open(client: &Client, progress: &Progress) -> Option<Self> {
        let label = progress.label.clone()?;
        let events = client
            .websocket(ApiPath::new(["events"]).query("type", "operation"))
            .await
            .ok();
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
            bar.set_style(style);
        }
        bar.set_message(label.clone());
        bar.enable_steady_tick(Duration::from_millis(120));
        Some(Self {
            bar,
            label,
            events: events.map(super::WebSocket::receiver),
        })
    }

    fn update(&mut self, id: &str, event: Option<&Value>) {
        let Some(operation) = event
            .map(|event| &event["metadata"])
            .filter(|operation| operation["id"] == id)
        else {
            return;
        };
        if let Some(text) = progress_text(&operation["metadata"]) {
            self.bar.set_message(format!("{}: {text}", self.label));
        }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// What an operation's metadata says of its progress: a ready text in a key that ends in `_progress`, or the parts of it.
fn progress_text(metadata: &Value) -> Option<String> {
    let map = metadata.as_object()?;
    let text = map
        .iter()
        .find(|(key, value)| key.ends_with("_progress") && value.is_string());
    if let Some((key, Value::String(text))) = text {
        return Some(if key == "download_progress" {
            format!("Downloading {text}")
        } else {
            text.clone()
        });
    }
    let parts = map.get("progress")?;
    let part = |key: &str| match &parts[key] {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let stage = part("stage").map(|stage| stage.replace('_', " "));
    let percent = part("percent").map(|percent| format!("{percent}%"));
    match (stage, percent) {
        (Some(stage), Some(percent)) => Some(format!("{stage} {percent}")),
        (stage, percent) => stage.or(percent),
    }
}

/// The end of an operation as a result: its metadata, or why it failed.
pub(crate) fn outcome(mut operation: Value) -> Result<Value> {
    let code = operation["status_code"].as_u64().unwrap_or_default();
    if code == u64::from(StatusCode::SUCCESS.0) {
        return Ok(operation["metadata"].take());
    }
    let error = operation["err"].as_str().unwrap_or_default();
    Err(Error::Operation(match error {
        "" if code == u64::from(StatusCode::CANCELLED.0) => "the operation was cancelled".into(),
        "" => format!(
            "the operation ended as {:?}, without a reason",
            operation["status"].as_str().unwrap_or("")
        ),
        error => error.to_owned(),
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn progress_comes_from_a_text_or_from_its_parts() {
        let text = |value| progress_text(&value);
        assert_eq!(
            text(json!({"download_progress": "rootfs: 4%"})).as_deref(),
            Some("Downloading rootfs: 4%")
        );
        assert_eq!(
            text(json!({"create_image_progress": "Packing: 9%"})).as_deref(),
            Some("Packing: 9%")
        );
        let parts = json!({"progress": {"stage": "build_root", "percent": "40"}});
        assert_eq!(text(parts).as_deref(), Some("build root 40%"));
        assert_eq!(text(json!({"progress": {"percent": 7}})).as_deref(), Some("7%"));
        assert_eq!(text(json!({"fds": {}})), None);
        assert_eq!(text(Value::Null), None);
    }

    #[test]
    fn an_operations_end_is_its_metadata_or_its_error() {
        let ended = outcome(json!({"status_code": 200, "metadata": {"return": 3}}));
        assert_eq!(ended.unwrap(), json!({"return": 3}));
        let failed = outcome(json!({"status_code": 400, "err": "no space"}));
        assert_eq!(failed.unwrap_err().to_string(), "no space");
        let cancelled = outcome(json!({"status_code": 401, "err": ""}));
        assert_eq!(cancelled.unwrap_err().to_string(), "the operation was cancelled");
    }
}

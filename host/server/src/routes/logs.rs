//! Log files of instances, among them the recorded output of commands.

use std::path::PathBuf;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use axum::routing::get;
use tokio_util::io::ReaderStream;

use super::instances::At;
use super::path;
use crate::App;
use crate::reply::{self, Failure, Result};

pub(super) fn routes(one: &str) -> Router<App> {
    Router::new()
        .route(&format!("{one}/logs"), get(list))
        .route(&format!("{one}/logs/{{file}}"), get(show).delete(delete))
        // Where Incus keeps recorded output.
        .route(&format!("{one}/logs/exec-output"), get(list_recorded))
        .route(&format!("{one}/logs/exec-output/{{file}}"), get(show).delete(delete))
}

async fn list(State(app): State<App>, at: At) -> Result {
    let names = app.core.instance_logs(&at.project, &at.name)?;
    paths(&at, "logs", &names)
}

async fn list_recorded(State(app): State<App>, at: At) -> Result {
    let mut names = app.core.instance_logs(&at.project, &at.name)?;
    names.retain(|name| name.starts_with("exec_"));
    paths(&at, "logs/exec-output", &names)
}

fn paths(at: &At, below: &str, names: &[String]) -> Result {
    let prefix = format!("{}/{below}", at.path());
    Ok(reply::sync(
        &names
            .iter()
            .map(|name| path(&prefix, name, &at.project))
            .collect::<Vec<_>>(),
    ))
}

async fn show(State(app): State<App>, at: At) -> Result {
    file(app.core.instance_log(&at.project, &at.name, at.part("file"))?).await
}

async fn delete(State(app): State<App>, at: At) -> Result {
    app.core.instance_log_delete(&at.project, &at.name, at.part("file"))?;
    Ok(reply::done())
}

/// A file of the host's that the core names, as it is now.
async fn file(path: PathBuf) -> Result {
    let file = tokio::fs::File::open(&path).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Failure::not_found(),
        _ => Failure::internal(format!("opening {}: {error}", path.display())),
    })?;
    let mut response = Response::new(Body::from_stream(ReaderStream::with_capacity(file, 64 << 10)));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    Ok(response)
}

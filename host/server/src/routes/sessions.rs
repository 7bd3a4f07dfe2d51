//! What people do in an instance: commands, the console, SFTP.

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hutch_api::instance::{InstanceConsolePost, InstanceExecPost};

use super::instances::At;
use super::unsupported;
use crate::App;
use crate::pump;
use crate::reply::{self, Result};
use crate::request::Json;
use crate::websocket::Takeover;

pub(super) fn routes(one: &str) -> Router<App> {
    Router::new()
        .route(&format!("{one}/exec"), post(exec))
        .route(
            &format!("{one}/console"),
            get(console_log).post(console).delete(console_clear),
        )
        .route(&format!("{one}/sftp"), get(sftp))
}

async fn exec(State(app): State<App>, at: At, Json(post): Json<InstanceExecPost>) -> Result {
    Ok(reply::operation(
        &*app.core.instance_exec(&at.project, &at.name, post).await?,
    ))
}

async fn console(State(app): State<App>, at: At, Json(post): Json<InstanceConsolePost>) -> Result {
    Ok(reply::operation(
        &*app.core.instance_console(&at.project, &at.name, post).await?,
    ))
}

async fn console_log(State(app): State<App>, at: At) -> Result {
    match at.params.get("type") {
        None | Some("log") => Ok(plain(app.core.console_log(&at.project, &at.name).await?)),
        Some(kind) => unsupported(&format!("a console of type {kind}")),
    }
}

async fn console_clear(State(app): State<App>, at: At) -> Result {
    app.core.console_clear(&at.project, &at.name).await?;
    Ok(reply::done())
}

async fn sftp(State(app): State<App>, at: At, request: Request) -> Result {
    let (mut parts, _) = request.into_parts();
    let takeover = Takeover::request(&mut parts, "sftp")?;
    let fd = app.core.instance_sftp(&at.project, &at.name).await?;
    Ok(takeover.answer(move |stream| pump::splice(stream, fd)))
}

/// An answer that is a file rather than JSON.
fn plain(body: Vec<u8>) -> Response {
    let mut response = body.into_response();
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    response
}

//! Operations: listed, waited for, cancelled, connected to.

use std::collections::BTreeMap;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use futures_util::poll;

use crate::App;
use crate::pump;
use crate::reply::{self, Failure, Result};
use crate::request::Params;
use crate::websocket::Handshake;

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/1.0/operations", get(list))
        .route("/1.0/operations/{id}", get(show).delete(cancel))
        .route("/1.0/operations/{id}/wait", get(wait))
        .route("/1.0/operations/{id}/websocket", get(connect))
}

/// By state, as the clients expect.
async fn list(State(app): State<App>, params: Params) -> Result {
    let _turn = app.budget.listing().await?;
    let operations = app.core.operations(params.projects());
    if params.recursion()? == 0 {
        let mut paths: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for operation in &operations {
            paths
                .entry(state(operation.status()))
                .or_default()
                .push(operation.path());
        }
        return reply::list(&app.budget, &paths).await;
    }
    let mut all: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for operation in &operations {
        let operation = operation.render();
        all.entry(state(operation.status_code)).or_default().push(operation);
    }
    reply::list(&app.budget, &all).await
}

fn state(code: hutch_api::StatusCode) -> String {
    code.name().to_lowercase()
}

async fn show(State(app): State<App>, Path(id): Path<String>) -> Result {
    Ok(reply::sync(&app.core.operation(&id)?.render()))
}

async fn cancel(State(app): State<App>, Path(id): Path<String>) -> Result {
    app.core.operation(&id)?.cancel()?;
    Ok(reply::done())
}

/// The operation once it is over, or as it is when `timeout` seconds have passed. A negative one or none is forever.
async fn wait(State(app): State<App>, Path(id): Path<String>, params: Params) -> Result {
    let operation = app.core.operation(&id)?;
    let seconds = params.get("timeout").unwrap_or("-1");
    let seconds: i64 = seconds
        .parse()
        .map_err(|_| Failure::bad(format!("timeout={seconds} is no number of seconds")))?;
    tokio::select! {
        () = operation.wait(u64::try_from(seconds).ok().map(Duration::from_secs)) => Ok(reply::sync(&operation.render())),
        // Whoever waits must not keep the daemon from being replaced, and can go on waiting at the next one.
        () = app.stopped() => Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, "the server goes down: wait again")),
    }
}

/// Connects a websocket by its secret. The handshake is answered before the other end is there, because clients connect
/// their websockets one after the other and the other end comes with the last.
async fn connect(State(app): State<App>, Path(id): Path<String>, params: Params, handshake: Handshake) -> Result {
    let secret = params
        .get("secret")
        .ok_or_else(|| Failure::bad("missing secret"))?
        .to_owned();
    let core = app.core;
    // The first poll takes the place that the secret is for, or finds that it is none.
    let mut end = Box::pin(async move { core.operation_socket(&id, &secret).await });
    let end = match poll!(end.as_mut()) {
        Poll::Ready(Err(error)) => return Err(error.into()),
        Poll::Ready(Ok(end)) => futures_util::future::Either::Left(std::future::ready(Ok(end))),
        Poll::Pending => futures_util::future::Either::Right(end),
    };
    Ok(handshake.answer(move |socket| async move {
        match end.await {
            Ok(end) => pump::run(socket, end).await,
            Err(error) => tracing::debug!(error = error.report(), "a websocket's other end never came"),
        }
    }))
}

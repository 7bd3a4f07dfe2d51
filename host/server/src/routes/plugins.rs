//! Plugins, which are Hutch's own.

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::{get, put};
use hutch_api::plugin::PluginStatePut;
use hutch_core::Error;

use super::path;
use crate::App;
use crate::reply::{self, Failure, Result};
use crate::request::{Json, Params};

const ALL: &str = "/1.0/plugins";

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route(ALL, get(list))
        .route("/1.0/plugins/{id}", get(show))
        .route("/1.0/plugins/{id}/logs", get(logs))
        .route("/1.0/plugins/{id}/state", put(change))
}

async fn list(State(app): State<App>, params: Params) -> Result {
    let mut all = app.core.plugins();
    params.filter()?.retain(&mut all).map_err(Failure::internal)?;
    if params.recursion()? > 0 {
        return reply::list(&app.budget, &all).await;
    }
    Ok(reply::sync(
        &all.iter().map(|plugin| path(ALL, &plugin.id, "")).collect::<Vec<_>>(),
    ))
}

async fn show(State(app): State<App>, Path(id): Path<String>) -> Result {
    Ok(reply::sync(&app.core.plugin(&id)?))
}

async fn change(State(app): State<App>, Path(id): Path<String>, Json(put): Json<PluginStatePut>) -> Result {
    match put.action.as_str() {
        "enable" => app.core.plugin_enable(&id).await?,
        other => return Err(Error::invalid(format!("Unknown plugin action {other:?}: there is \"enable\"")).into()),
    }
    Ok(reply::done())
}

async fn logs(State(app): State<App>, Path(id): Path<String>) -> Result {
    Ok(reply::sync(&app.core.plugin_logs(&id)?))
}

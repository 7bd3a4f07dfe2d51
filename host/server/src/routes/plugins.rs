//! Plugins, which are Hutch's own: `docs/plugins-api.yaml` describes what is here.

use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use hutch_api::plugin::{PluginGrantsPut, PluginKeysPost, PluginStatePut, PluginsPost};
use hutch_core::Error;
use hutch_core::plugins::PluginFile;
use serde_json::json;

use super::path;
use super::plugin_upload::receive;
use crate::App;
use crate::reply::{self, Failure, Result};
use crate::request::{Json, Params};

const ALL: &str = "/1.0/plugins";
const KEYS: &str = "/1.0/plugin-keys";

pub(super) fn routes() -> Router<App> {
    let any_size = DefaultBodyLimit::disable;
    Router::new()
        .route(ALL, get(list).post(install).layer(any_size()))
        .route("/1.0/plugins/{id}", get(show).delete(remove))
        .route("/1.0/plugins/{id}/file", get(file))
        .route("/1.0/plugins/{id}/grants", put(grants))
        .route("/1.0/plugins/{id}/logs", get(logs))
        .route("/1.0/plugins/{id}/rollback", post(rollback))
        .route("/1.0/plugins/{id}/signature", get(signature))
        .route("/1.0/plugins/{id}/state", put(change))
        .route(KEYS, get(keys).post(trust))
        .route("/1.0/plugin-keys/{key}", get(key).delete(distrust))
        .route("/1.0/plugins/{id}/upgrade", post(upgrade).layer(any_size()))
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

async fn install(State(app): State<App>, request: Request) -> Result {
    take_in(&app, request, None).await
}

async fn upgrade(State(app): State<App>, Path(id): Path<String>, request: Request) -> Result {
    take_in(&app, request, Some(id)).await
}

async fn take_in(app: &App, request: Request, upgrade: Option<String>) -> Result {
    let (post, file): (PluginsPost, Option<PluginFile>) = receive(app, request).await?;
    let operation = app.core.plugin_take_in(post, file, upgrade).await?;
    Ok(reply::operation(&operation))
}

async fn remove(State(app): State<App>, Path(id): Path<String>) -> Result {
    app.core.plugin_remove(&id).await?;
    Ok(reply::done())
}

async fn rollback(State(app): State<App>, Path(id): Path<String>) -> Result {
    app.core.plugin_rollback(&id).await?;
    Ok(reply::done())
}

async fn change(State(app): State<App>, Path(id): Path<String>, Json(put): Json<PluginStatePut>) -> Result {
    match put.action.as_str() {
        "enable" => app.core.plugin_enable(&id).await?,
        "disable" => app.core.plugin_disable(&id).await?,
        other => {
            return Err(Error::invalid(format!(
                "Unknown plugin action {other:?}: there are \"enable\" and \"disable\""
            ))
            .into());
        }
    }
    Ok(reply::done())
}

async fn grants(State(app): State<App>, Path(id): Path<String>, Json(put): Json<PluginGrantsPut>) -> Result {
    let held = match put.action.as_str() {
        "grant" => app.core.plugin_grant(&id, &put.permissions).await?,
        "set" => {
            app.core.plugin_set_grants(&id, &put.permissions).await?;
            None
        }
        "revoke" => {
            app.core.plugin_revoke(&id, &put.permissions).await?;
            None
        }
        other => {
            return Err(Error::invalid(format!(
                "Unknown action {other:?}: there are \"grant\", \"set\" and \"revoke\""
            ))
            .into());
        }
    };
    let is_held = held.is_some();
    let held = held.unwrap_or_default();
    Ok(reply::sync(
        &json!({ "held": is_held, "missing": held.missing, "doubts": held.doubts }),
    ))
}

async fn logs(State(app): State<App>, Path(id): Path<String>) -> Result {
    Ok(reply::sync(&app.core.plugin_logs(&id)?))
}

async fn file(State(app): State<App>, Path(id): Path<String>) -> Result {
    Ok(bytes("application/wasm", app.core.plugin_file(&id).await?.bytes))
}

async fn signature(State(app): State<App>, Path(id): Path<String>) -> Result {
    match app.core.plugin_file(&id).await?.signature {
        Some(signature) => Ok(bytes("text/plain", signature)),
        None => Err(Failure::new(
            StatusCode::NOT_FOUND,
            format!("the file of plugin {id} has no signature"),
        )),
    }
}

async fn keys(State(app): State<App>, params: Params) -> Result {
    let all = app.core.plugin_keys();
    if params.recursion()? > 0 {
        return Ok(reply::sync(&all));
    }
    Ok(reply::sync(
        &all.iter().map(|key| path(KEYS, &key.id, "")).collect::<Vec<_>>(),
    ))
}

async fn key(State(app): State<App>, Path(id): Path<String>) -> Result {
    let found = app.core.plugin_keys().into_iter().find(|key| key.id == id);
    match found {
        Some(key) => Ok(reply::sync(&key)),
        None => Err(Error::missing("Key", id).into()),
    }
}

async fn trust(State(app): State<App>, Json(post): Json<PluginKeysPost>) -> Result {
    let key = app.core.plugin_key_trust(post).await?;
    Ok(reply::created(&path(KEYS, &key.id, "")))
}

async fn distrust(State(app): State<App>, Path(key): Path<String>) -> Result {
    app.core.plugin_key_revoke(&key).await?;
    Ok(reply::done())
}

fn bytes(kind: &'static str, content: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, kind)], content).into_response()
}

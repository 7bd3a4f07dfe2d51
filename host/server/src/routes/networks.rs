//! Networks.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::routing::get;
use hutch_api::network::{NetworkPatch, NetworkPost, NetworkPut, NetworksPost};

use super::path;
use crate::App;
use crate::reply::{self, Failure, Result};
use crate::request::{Json, Params, if_match};

const ALL: &str = "/1.0/networks";

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route(ALL, get(list).post(create))
        .route(
            "/1.0/networks/{name}",
            get(show).put(update).patch(patch).post(rename).delete(delete),
        )
        .route("/1.0/networks/{name}/state", get(state))
        .route("/1.0/networks/{name}/leases", get(leases))
}

async fn list(State(app): State<App>, params: Params) -> Result {
    let mut all = app.core.networks(params.projects()).await?;
    params.filter()?.retain(&mut all).map_err(Failure::internal)?;
    if params.recursion()? > 0 {
        return reply::list(&app.budget, &all).await;
    }
    Ok(reply::sync(
        &all.iter()
            .map(|network| path(ALL, &network.name, &network.project))
            .collect::<Vec<_>>(),
    ))
}

async fn create(State(app): State<App>, params: Params, Json(post): Json<NetworksPost>) -> Result {
    params.here()?;
    let location = path(ALL, &post.name, "");
    app.core.network_create(params.project(), post).await?;
    Ok(reply::created(&location))
}

async fn show(State(app): State<App>, Path(name): Path<String>, params: Params) -> Result {
    let network = app.core.network(params.project(), &name).await?;
    Ok(reply::tagged(&network.value, &network.etag))
}

async fn update(
    State(app): State<App>,
    Path(name): Path<String>,
    params: Params,
    headers: HeaderMap,
    Json(put): Json<NetworkPut>,
) -> Result {
    app.core
        .network_update(params.project(), &name, put, if_match(&headers))
        .await?;
    Ok(reply::done())
}

async fn patch(
    State(app): State<App>,
    Path(name): Path<String>,
    params: Params,
    headers: HeaderMap,
    Json(patch): Json<NetworkPatch>,
) -> Result {
    app.core
        .network_patch(params.project(), &name, patch, if_match(&headers))
        .await?;
    Ok(reply::done())
}

async fn rename(
    State(app): State<App>,
    Path(name): Path<String>,
    params: Params,
    Json(post): Json<NetworkPost>,
) -> Result {
    let location = path(ALL, &post.name, "");
    app.core.network_rename(params.project(), &name, post).await?;
    Ok(reply::created(&location))
}

async fn delete(State(app): State<App>, Path(name): Path<String>, params: Params) -> Result {
    app.core.network_delete(params.project(), &name).await?;
    Ok(reply::done())
}

async fn state(State(app): State<App>, Path(name): Path<String>, params: Params) -> Result {
    Ok(reply::sync(&app.core.network_state(params.project(), &name).await?))
}

async fn leases(State(app): State<App>, Path(name): Path<String>, params: Params) -> Result {
    Ok(reply::sync(&app.core.network_leases(params.project(), &name).await?))
}

//! The server itself: what it is, its configuration, the machine, and what it says of things it hasn't.

use axum::Extension;
use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::get;
use hutch_api::cluster::Cluster;
use hutch_api::server::ServerPut;
use hutch_api::warning::WarningPut;
use hutch_core::Caller;

use super::path;
use crate::App;
use crate::reply::{self, Failure, Result};
use crate::request::{Json, Params, if_match};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/", get(|| async { reply::sync(&["/1.0"]) }))
        .route("/1.0", get(show).put(update).patch(patch))
        .route("/1.0/", get(show).put(update).patch(patch))
        // Whoever waits for the daemon (`incus admin waitready`) waits for an answer here.
        .route("/internal/ready", get(|| async { reply::done() }))
        // Nobody is trusted by a certificate: there is the unix socket only.
        .route("/1.0/certificates", get(|| async { reply::sync::<[(); 0]>(&[]) }))
        .route("/1.0/resources", get(resources))
        .route("/1.0/cluster", get(cluster))
        .route("/1.0/warnings", get(warnings))
        .route(
            "/1.0/warnings/{id}",
            get(warning)
                .put(warning_update)
                .patch(warning_update)
                .delete(warning_delete),
        )
}

async fn show(State(app): State<App>, Extension(caller): Extension<Caller>, params: Params) -> Result {
    let server = app.core.server(&caller, params.project());
    Ok(reply::tagged(&server.value, &server.etag))
}

async fn update(State(app): State<App>, headers: HeaderMap, Json(put): Json<ServerPut>) -> Result {
    app.core.server_update(put, if_match(&headers)).await?;
    Ok(reply::done())
}

async fn patch(State(app): State<App>, headers: HeaderMap, Json(patch): Json<ServerPut>) -> Result {
    app.core.server_patch(patch, if_match(&headers)).await?;
    Ok(reply::done())
}

async fn resources(State(app): State<App>) -> Result {
    Ok(reply::sync(&app.core.resources()?))
}

/// A machine alone is no cluster, and says so.
async fn cluster() -> Result {
    Ok(reply::sync(&Cluster::default()))
}

async fn warnings(State(app): State<App>, params: Params) -> Result {
    let mut all = app.core.warnings();
    params.filter()?.retain(&mut all).map_err(Failure::internal)?;
    if params.recursion()? > 0 {
        return Ok(reply::sync(&all));
    }
    Ok(reply::sync(
        &all.iter()
            .map(|warning| path("/1.0/warnings", &warning.uuid, ""))
            .collect::<Vec<_>>(),
    ))
}

async fn warning(State(app): State<App>, axum::extract::Path(id): axum::extract::Path<String>) -> Result {
    Ok(reply::sync(&app.core.warning(&id)?))
}

async fn warning_update(
    State(app): State<App>,
    axum::extract::Path(id): axum::extract::Path<String>,
    Json(put): Json<WarningPut>,
) -> Result {
    app.core.warning_update(&id, put).await?;
    Ok(reply::done())
}

async fn warning_delete(State(app): State<App>, axum::extract::Path(id): axum::extract::Path<String>) -> Result {
    app.core.warning_delete(&id).await?;
    Ok(reply::done())
}

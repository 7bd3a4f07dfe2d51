//! Storage pools, and the volumes in them.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use hutch_api::instance::{CONTAINER, VIRTUAL_MACHINE};
use hutch_api::storage::{StoragePoolPatch, StoragePoolPut, StoragePoolsPost, StorageVolume};

use super::{path, segment};
use crate::App;
use crate::reply::{self, Failure, Result};
use crate::request::{Json, Params, if_match};

const ALL: &str = "/1.0/storage-pools";

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route(ALL, get(list).post(create))
        .route(
            "/1.0/storage-pools/{pool}",
            get(show).put(update).patch(patch).delete(delete),
        )
        .route("/1.0/storage-pools/{pool}/resources", get(resources))
        .route("/1.0/storage-pools/{pool}/volumes", get(volumes).post(no_custom))
        .route(
            "/1.0/storage-pools/{pool}/volumes/{kind}",
            get(volumes_of_kind).post(no_custom),
        )
        .route(
            "/1.0/storage-pools/{pool}/volumes/{kind}/{name}",
            get(volume)
                .post(no_custom)
                .put(no_custom)
                .patch(no_custom)
                .delete(no_custom),
        )
}

/// What volumes there are in a pool: `container`, `virtual-machine`, `image` and `custom`, as LXD has them.
const KINDS: [&str; 4] = [CONTAINER, VIRTUAL_MACHINE, "image", "custom"];

/// Volumes come and go with their instances and images.
async fn no_custom() -> Failure {
    Failure::new(
        StatusCode::NOT_IMPLEMENTED,
        "Custom volumes are not available here, and those of instances and images change with these: \
         a disk device can show a directory of the machine (source=/DIRECTORY path=/INSIDE)",
    )
}

async fn list(State(app): State<App>, params: Params) -> Result {
    let mut all = app.core.pools();
    params.filter()?.retain(&mut all).map_err(Failure::internal)?;
    if params.recursion()? > 0 {
        return reply::list(&app.budget, &all).await;
    }
    Ok(reply::sync(
        &all.iter().map(|pool| path(ALL, &pool.name, "")).collect::<Vec<_>>(),
    ))
}

async fn create(State(app): State<App>, params: Params, Json(post): Json<StoragePoolsPost>) -> Result {
    params.here()?;
    let location = path(ALL, &post.name, "");
    app.core.pool_create(post).await?;
    Ok(reply::created(&location))
}

async fn show(State(app): State<App>, Path(name): Path<String>) -> Result {
    let pool = app.core.pool(&name)?;
    Ok(reply::tagged(&pool.value, &pool.etag))
}

async fn update(
    State(app): State<App>,
    Path(name): Path<String>,
    headers: HeaderMap,
    Json(put): Json<StoragePoolPut>,
) -> Result {
    app.core.pool_update(&name, put, if_match(&headers)).await?;
    Ok(reply::done())
}

async fn patch(
    State(app): State<App>,
    Path(name): Path<String>,
    headers: HeaderMap,
    Json(patch): Json<StoragePoolPatch>,
) -> Result {
    app.core.pool_patch(&name, patch, if_match(&headers)).await?;
    Ok(reply::done())
}

async fn delete(State(app): State<App>, Path(name): Path<String>) -> Result {
    app.core.pool_delete(&name).await?;
    Ok(reply::done())
}

async fn resources(State(app): State<App>, Path(name): Path<String>) -> Result {
    Ok(reply::sync(&app.core.pool_resources(&name).await?))
}

async fn volumes(State(app): State<App>, Path(pool): Path<String>, params: Params) -> Result {
    let all = app.core.volumes(&pool, params.projects())?;
    list_volumes(&app, &pool, &params, all).await
}

async fn volumes_of_kind(State(app): State<App>, Path((pool, kind)): Path<(String, String)>, params: Params) -> Result {
    if !KINDS.contains(&kind.as_str()) {
        return Err(Failure::bad(format!("Invalid storage volume type name {kind:?}")));
    }
    let mut all = app.core.volumes(&pool, params.projects())?;
    all.retain(|volume| volume.kind == kind);
    list_volumes(&app, &pool, &params, all).await
}

async fn list_volumes(app: &App, pool: &str, params: &Params, mut all: Vec<StorageVolume>) -> Result {
    params.filter()?.retain(&mut all).map_err(Failure::internal)?;
    if params.recursion()? > 0 {
        return reply::list(&app.budget, &all).await;
    }
    let of = |volume: &StorageVolume| format!("{ALL}/{}/volumes/{}", segment(pool), segment(&volume.kind));
    let paths: Vec<String> = all
        .iter()
        .map(|volume| path(&of(volume), &volume.name, &volume.project))
        .collect();
    reply::list(&app.budget, &paths).await
}

async fn volume(
    State(app): State<App>,
    Path((pool, kind, name)): Path<(String, String, String)>,
    params: Params,
) -> Result {
    let volume = app.core.volume(&pool, params.project(), &kind, &name)?;
    Ok(reply::tagged(&volume.value, &volume.etag))
}

//! Snapshots of instances.

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::get;
use hutch_api::instance::{InstanceSnapshotPost, InstanceSnapshotPut, InstanceSnapshotsPost};

use super::instances::{At, parts};
use crate::App;
use crate::reply::{self, Failure, Result};
use crate::request::{Json, if_match};

pub(super) fn routes(all: &str) -> Router<App> {
    Router::new().route(all, get(list).post(create)).route(
        &format!("{all}/{{snapshot}}"),
        get(show).put(update).patch(patch).post(rename).delete(delete),
    )
}

async fn list(State(app): State<App>, at: At) -> Result {
    let mut all = app.core.snapshots(&at.project, &at.name)?;
    at.params.filter()?.retain(&mut all).map_err(Failure::internal)?;
    parts(&at, "snapshots", &all, |snapshot| &snapshot.name)
}

async fn create(State(app): State<App>, at: At, Json(post): Json<InstanceSnapshotsPost>) -> Result {
    Ok(reply::operation(
        &*app.core.snapshot_create(&at.project, &at.name, post).await?,
    ))
}

async fn show(State(app): State<App>, at: At) -> Result {
    let snapshot = app.core.snapshot(&at.project, &at.name, at.part("snapshot"))?;
    Ok(reply::tagged(&snapshot.value, &snapshot.etag))
}

async fn update(State(app): State<App>, at: At, headers: HeaderMap, Json(put): Json<InstanceSnapshotPut>) -> Result {
    let snapshot = at.part("snapshot");
    let operation = app
        .core
        .snapshot_update(&at.project, &at.name, snapshot, put, if_match(&headers))
        .await?;
    Ok(reply::operation(&operation))
}

/// A PATCH that names no expiry leaves it.
async fn patch(State(app): State<App>, at: At, headers: HeaderMap, Json(mut put): Json<InstanceSnapshotPut>) -> Result {
    let current = app.core.snapshot(&at.project, &at.name, at.part("snapshot"))?;
    put.expires_at.get_or_insert(current.value.expires_at);
    update(State(app), at, headers, Json(put)).await
}

async fn rename(State(app): State<App>, at: At, Json(post): Json<InstanceSnapshotPost>) -> Result {
    Ok(reply::operation(
        &*app
            .core
            .snapshot_rename(&at.project, &at.name, at.part("snapshot"), post)
            .await?,
    ))
}

async fn delete(State(app): State<App>, at: At) -> Result {
    Ok(reply::operation(
        &*app
            .core
            .snapshot_delete(&at.project, &at.name, at.part("snapshot"))
            .await?,
    ))
}

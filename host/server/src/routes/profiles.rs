//! Profiles.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::routing::get;
use hutch_api::profile::{ProfilePatch, ProfilePost, ProfilePut, ProfilesPost};

use super::path;
use crate::App;
use crate::reply::{self, Failure, Result};
use crate::request::{Json, Params, if_match};

const ALL: &str = "/1.0/profiles";

pub(super) fn routes() -> Router<App> {
    Router::new().route(ALL, get(list).post(create)).route(
        "/1.0/profiles/{name}",
        get(show).put(update).patch(patch).post(rename).delete(delete),
    )
}

async fn list(State(app): State<App>, params: Params) -> Result {
    let mut all = app.core.profiles(params.projects())?;
    params.filter()?.retain(&mut all).map_err(Failure::internal)?;
    if params.recursion()? > 0 {
        return reply::list(&app.budget, &all).await;
    }
    Ok(reply::sync(
        &all.iter()
            .map(|profile| path(ALL, &profile.name, &profile.project))
            .collect::<Vec<_>>(),
    ))
}

async fn create(State(app): State<App>, params: Params, Json(post): Json<ProfilesPost>) -> Result {
    let location = path(ALL, &post.name, "");
    app.core.profile_create(params.project(), post).await?;
    Ok(reply::created(&location))
}

async fn show(State(app): State<App>, Path(name): Path<String>, params: Params) -> Result {
    let profile = app.core.profile(params.project(), &name)?;
    Ok(reply::tagged(&profile.value, &profile.etag))
}

async fn update(
    State(app): State<App>,
    Path(name): Path<String>,
    params: Params,
    headers: HeaderMap,
    Json(put): Json<ProfilePut>,
) -> Result {
    app.core
        .profile_update(params.project(), &name, put, if_match(&headers))
        .await?;
    Ok(reply::done())
}

async fn patch(
    State(app): State<App>,
    Path(name): Path<String>,
    params: Params,
    headers: HeaderMap,
    Json(patch): Json<ProfilePatch>,
) -> Result {
    app.core
        .profile_patch(params.project(), &name, patch, if_match(&headers))
        .await?;
    Ok(reply::done())
}

async fn rename(
    State(app): State<App>,
    Path(name): Path<String>,
    params: Params,
    Json(post): Json<ProfilePost>,
) -> Result {
    let location = path(ALL, &post.name, "");
    app.core.profile_rename(params.project(), &name, post).await?;
    Ok(reply::created(&location))
}

async fn delete(State(app): State<App>, Path(name): Path<String>, params: Params) -> Result {
    app.core.profile_delete(params.project(), &name).await?;
    Ok(reply::done())
}

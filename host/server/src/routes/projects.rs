//! Projects.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::routing::get;
use hutch_api::project::{ProjectPatch, ProjectPost, ProjectPut, ProjectsPost};

use super::path;
use crate::App;
use crate::reply::{self, Failure, Result};
use crate::request::{Json, Params, if_match};

const ALL: &str = "/1.0/projects";

pub(super) fn routes() -> Router<App> {
    Router::new().route(ALL, get(list).post(create)).route(
        "/1.0/projects/{name}",
        get(show).put(update).patch(patch).post(rename).delete(delete),
    )
}

async fn list(State(app): State<App>, params: Params) -> Result {
    let mut all = app.core.projects();
    params.filter()?.retain(&mut all).map_err(Failure::internal)?;
    if params.recursion()? > 0 {
        return reply::list(&app.budget, &all).await;
    }
    Ok(reply::sync(
        &all.iter()
            .map(|project| path(ALL, &project.name, ""))
            .collect::<Vec<_>>(),
    ))
}

async fn create(State(app): State<App>, Json(post): Json<ProjectsPost>) -> Result {
    let location = path(ALL, &post.name, "");
    app.core.project_create(post).await?;
    Ok(reply::created(&location))
}

async fn show(State(app): State<App>, Path(name): Path<String>) -> Result {
    let project = app.core.project(&name)?;
    Ok(reply::tagged(&project.value, &project.etag))
}

async fn update(
    State(app): State<App>,
    Path(name): Path<String>,
    headers: HeaderMap,
    Json(put): Json<ProjectPut>,
) -> Result {
    app.core.project_update(&name, put, if_match(&headers)).await?;
    Ok(reply::done())
}

async fn patch(
    State(app): State<App>,
    Path(name): Path<String>,
    headers: HeaderMap,
    Json(patch): Json<ProjectPatch>,
) -> Result {
    app.core.project_patch(&name, patch, if_match(&headers)).await?;
    Ok(reply::done())
}

async fn rename(State(app): State<App>, Path(name): Path<String>, Json(post): Json<ProjectPost>) -> Result {
    Ok(reply::operation(&*app.core.project_rename(&name, post).await?))
}

async fn delete(State(app): State<App>, Path(name): Path<String>) -> Result {
    app.core.project_delete(&name).await?;
    Ok(reply::done())
}

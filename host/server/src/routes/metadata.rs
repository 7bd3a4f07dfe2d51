//! What the image of an instance says of it, and its templates.

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http_body_util::{BodyExt, Limited};
use serde_json::{Map, Value};

use super::instances::At;
use crate::App;
use crate::reply::{self, Failure, Result};
use crate::request::{Json, if_match};

/// Bytes of the largest body that is read; the core says how long a template may be.
const BODY: usize = 2 << 20;

/// Routes below `instance`, an instance's path.
pub(super) fn routes(instance: &str) -> Router<App> {
    Router::new()
        .route(&format!("{instance}/metadata"), get(show).put(replace).patch(change))
        .route(
            &format!("{instance}/metadata/templates"),
            get(template)
                .post(put_template)
                .put(put_template)
                .delete(delete_template),
        )
}

async fn show(State(app): State<App>, at: At) -> Result {
    let metadata = app.core.instance_metadata(&at.project, &at.name).await?;
    Ok(reply::tagged(&metadata.value, &metadata.etag))
}

async fn replace(State(app): State<App>, at: At, headers: HeaderMap, Json(new): Json<Map<String, Value>>) -> Result {
    update(&app, &at, &headers, new, false).await
}

async fn change(State(app): State<App>, at: At, headers: HeaderMap, Json(new): Json<Map<String, Value>>) -> Result {
    update(&app, &at, &headers, new, true).await
}

async fn update(app: &App, at: &At, headers: &HeaderMap, new: Map<String, Value>, partly: bool) -> Result {
    app.core
        .instance_metadata_update(&at.project, &at.name, new, partly, if_match(headers))
        .await?;
    Ok(reply::done())
}

/// All names, or the text of the one that `path` names.
async fn template(State(app): State<App>, at: At) -> Result {
    let Some(file) = at.params.get("path") else {
        return Ok(reply::sync(&app.core.instance_templates(&at.project, &at.name).await?));
    };
    let text = app.core.instance_template(&at.project, &at.name, file).await?;
    let kind = [(header::CONTENT_TYPE, "application/octet-stream")];
    Ok((kind, Body::from(text)).into_response())
}

fn named(at: &At) -> Result<&str> {
    let file = at.params.get("path");
    file.ok_or_else(|| Failure::bad("the parameter path is missing: the file name of a template"))
}

async fn put_template(State(app): State<App>, at: At, request: Request) -> Result<Response> {
    let file = named(&at)?;
    let text = Limited::new(request.into_body(), BODY).collect().await;
    let text = text
        .map_err(|error| Failure::bad(format!("the text of template {file:?} can't be read: {error}")))?
        .to_bytes();
    app.core
        .instance_template_put(&at.project, &at.name, file, &text)
        .await?;
    Ok(reply::done())
}

async fn delete_template(State(app): State<App>, at: At) -> Result {
    let file = named(&at)?;
    app.core.instance_template_delete(&at.project, &at.name, file).await?;
    Ok(reply::done())
}

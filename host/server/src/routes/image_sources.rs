//! What image sources offer, which is Hutch's own: `docs/image-sources-api.yaml` describes what is here.

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::get;
use hutch_core::images::SourceQuery;

use super::path;
use crate::App;
use crate::reply::{self, Failure, Result};
use crate::request::Params;

const ALL: &str = "/1.0/image-sources";

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route(ALL, get(list))
        .route("/1.0/image-sources/{source}/images", get(images))
        // Names may have slashes.
        .route("/1.0/image-sources/{source}/images/{*name}", get(image))
}

/// Whether a GET makes the daemon ask a server that the caller names. Whoever may do that is who may create something from there.
pub(super) fn asks_others(path: &str) -> bool {
    path.strip_prefix(ALL).is_some_and(|rest| rest.starts_with('/'))
}

async fn list(State(app): State<App>, params: Params) -> Result {
    let mut all = app.core.image_sources();
    params.filter()?.retain(&mut all).map_err(Failure::internal)?;
    if params.recursion()? > 0 {
        return Ok(reply::sync(&all));
    }
    Ok(reply::sync(
        &all.iter().map(|source| path(ALL, &source.name, "")).collect::<Vec<_>>(),
    ))
}

fn query(params: &Params) -> SourceQuery {
    let text = |name: &str| params.get(name).unwrap_or_default().to_owned();
    SourceQuery {
        server: text("server"),
        architecture: text("architecture"),
        kind: text("type"),
    }
}

/// Always whole objects: the images are not here, and have no paths.
async fn images(State(app): State<App>, Path(source): Path<String>, params: Params) -> Result {
    let filter = params.filter()?;
    let name = params.get("name").unwrap_or_default();
    // Before the turn of a listing, which is not kept from others while a source is waited for.
    let query = query(&params);
    let mut all = app
        .core
        .image_source_list(params.project(), &source, name, &query)
        .await?;
    let _turn = app.budget.listing().await?;
    filter.retain(&mut all).map_err(Failure::internal)?;
    reply::list(&app.budget, &all).await
}

async fn image(State(app): State<App>, Path((source, name)): Path<(String, String)>, params: Params) -> Result {
    let query = query(&params);
    let found = app
        .core
        .image_source_image(params.project(), &source, &name, &query)
        .await?;
    Ok(reply::sync(&found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_asks_a_server_is_told_from_what_does_not() {
        for path in ["/1.0/image-sources/x/images", "/1.0/image-sources/x/images/a/b"] {
            assert!(asks_others(path), "{path}");
        }
        for path in ["/1.0/image-sources", "/1.0/image-sourcesx/y", "/1.0/images"] {
            assert!(!asks_others(path), "{path}");
        }
    }
}

//! `/1.0/metrics`, for Prometheus and its like.

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::routing::get;
use hutch_api::openmetrics::Format;

use crate::App;
use crate::reply::{self, Result};
use crate::request::Params;

pub(super) fn routes() -> Router<App> {
    Router::new().route("/1.0/metrics", get(metrics))
}

/// Whoever may see objects may see their metrics: there is one gate for both.
async fn metrics(State(app): State<App>, params: Params, headers: HeaderMap) -> Result {
    params.here()?;
    let accept: Vec<&str> = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    let format = Format::accepted(&accept.join(","));
    let _turn = app.budget.listing().await?;
    let text = app.core.metrics(params.get("project"), format).await?;
    reply::text(&app.budget, format.content_type(), text).await
}

//! Plugins that arrive in a request: a form of few parts, each of bounded size.

use std::time::Duration;

use axum::extract::multipart::Field;
use axum::extract::{FromRequest, Multipart, Request};
use axum::http::{StatusCode, header};
use hutch_api::plugin::PluginsPost;
use hutch_core::plugins::PluginFile;
use tokio::sync::OwnedSemaphorePermit;

use crate::App;
use crate::reply::{Failure, Result};
use crate::request::{Json, parse};

/// Bytes of the largest plugin, as the plugin host has it.
const PLUGIN: usize = 32 << 20;
/// Bytes of the largest other part: a signature has some hundred.
const OTHER: usize = 64 << 10;
/// How long an upload may stand still.
const STALLED: Duration = Duration::from_secs(60);

/// Receives what is posted: JSON, or a form with the parts `request`, `plugin` and, if there is one, `signature`.
pub(super) async fn receive(app: &App, request: Request) -> Result<(PluginsPost, Option<PluginFile>)> {
    if !is_form(&request) {
        return Json::from_request(request, app).await.map(|Json(post)| (post, None));
    }
    let mut form = Multipart::from_request(request, &())
        .await
        .map_err(|error| Failure::bad(error.body_text()))?;
    let (mut post, mut plugin, mut signature) = (None, None, None);
    let mut held = None;
    while let Some(part) = next(form.next_field()).await? {
        let name = part.name().unwrap_or_default().to_owned();
        let (place, limit) = match name.as_str() {
            "request" => (&mut post, OTHER),
            "plugin" => (&mut plugin, PLUGIN),
            "signature" => (&mut signature, OTHER),
            _ => {
                return Err(Failure::bad(format!(
                    "a part named {name:?}, where there are request, plugin and signature"
                )));
            }
        };
        if place.is_some() {
            return Err(Failure::bad(format!("two parts are named {name}")));
        }
        *place = Some(collect(app, part, limit, &mut held).await?);
    }
    let post = post.ok_or_else(|| Failure::bad("the form has no part named request"))?;
    let bytes = plugin.ok_or_else(|| Failure::bad("the form has no part named plugin"))?;
    Ok((parse(&post)?, Some(PluginFile { bytes, signature })))
}

fn is_form(request: &Request) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.trim_start()
        .to_ascii_lowercase()
        .starts_with("multipart/form-data")
}

/// The whole of a part. Room is taken as the bytes come, on top of what is `held` for the parts before.
async fn collect(
    app: &App,
    mut part: Field<'_>,
    limit: usize,
    held: &mut Option<OwnedSemaphorePermit>,
) -> Result<Vec<u8>> {
    let mut own = None;
    let mut bytes = Vec::new();
    while let Some(block) = next(part.chunk()).await? {
        if bytes.len() + block.len() > limit {
            return Err(Failure::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the part is larger than {limit} bytes"),
            ));
        }
        app.budget.body(&mut own, bytes.len() + block.len()).await?;
        bytes.extend_from_slice(&block);
    }
    match (held.as_mut(), own) {
        (Some(held), Some(own)) => held.merge(own),
        (None, own) => *held = own,
        (Some(_), None) => {}
    }
    Ok(bytes)
}

/// What comes next of a form, which may not stand still for long.
async fn next<T>(
    coming: impl Future<Output = std::result::Result<Option<T>, axum::extract::multipart::MultipartError>>,
) -> Result<Option<T>> {
    match tokio::time::timeout(STALLED, coming).await {
        Ok(piece) => piece.map_err(|error| Failure::bad(error.body_text())),
        Err(_) => Err(Failure::new(
            StatusCode::REQUEST_TIMEOUT,
            "the body took too long to arrive",
        )),
    }
}

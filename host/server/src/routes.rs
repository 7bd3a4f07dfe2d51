//! What leads where.

mod events;
mod files;
mod image_sources;
mod image_upload;
mod images;
mod instances;
mod logs;
mod metadata;
mod metrics;
mod networks;
mod operations;
mod plugin_upload;
mod plugins;
mod profiles;
mod projects;
mod server;
mod sessions;
mod snapshots;
mod storage;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use hutch_api::project;
use hutch_core::auth::{Access, Caller, authorize, on_behalf_of};

use crate::App;
use crate::leftover::Leftover;
use crate::pace::Pace;
use crate::reply::{Failure, Result};

/// The whole API.
pub(crate) fn router(app: App) -> Router {
    Router::new()
        .merge(server::routes())
        .merge(events::routes())
        .merge(operations::routes())
        .merge(instances::routes())
        .merge(images::routes())
        .merge(image_sources::routes())
        .merge(networks::routes())
        .merge(storage::routes())
        .merge(profiles::routes())
        .merge(projects::routes())
        .merge(plugins::routes())
        .merge(metrics::routes())
        .fallback(nowhere)
        .method_not_allowed_fallback(not_allowed)
        .layer(middleware::from_fn_with_state(app.clone(), admit))
        .with_state(app)
}

/// The one gate: who asks may do so, and what they change is changed whole, whether they wait for it or not.
async fn admit(State(app): State<App>, request: Request, next: Next) -> Response {
    let extensions = request.extensions();
    let (Some(caller), Some(pace)) = (extensions.get::<Caller>().cloned(), extensions.get::<Pace>().cloned()) else {
        // Connections put them there; without them nobody knows who asks.
        return Failure::new(StatusCode::FORBIDDEN, "not authorized").into_response();
    };
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let access = if reads && !image_sources::asks_others(request.uri().path()) {
        Access::Read
    } else {
        Access::Write
    };
    // Without the parameters: the secrets of websockets are among them.
    let described =
        tracing::enabled!(tracing::Level::DEBUG).then(|| format!("{} {}", request.method(), request.uri().path()));
    let (parts, body) = request.into_parts();
    let (body, left) = Leftover::of(body);
    let response = match authorize(&caller, access) {
        Ok(()) => {
            let answer = on_behalf_of(Some(caller.clone()), next.run(Request::from_parts(parts, body)));
            match reads {
                true => answer.await,
                false => app.changes.run(answer).await,
            }
        }
        Err(error) => Failure::from(error).into_response(),
    };
    if response.status().is_client_error() || response.status().is_server_error() {
        left.discard().await;
    }
    if let Some(request) = described {
        tracing::debug!(
            request,
            status = response.status().as_u16(),
            uid = caller.uid,
            pid = caller.pid
        );
    }
    if response
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind == "application/json")
    {
        return response.map(|body| pace.hurry(body));
    }
    response
}

/// 404 in the words of the API, with the path that leads nowhere.
async fn nowhere(uri: Uri) -> Failure {
    Failure::new(StatusCode::NOT_FOUND, format!("{:?}: path not found", uri.path()))
}

async fn not_allowed(method: Method) -> Failure {
    Failure::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("this path has no method {method}"),
    )
}

/// Text as one segment of a path (RFC 3986, section 3.3).
pub(crate) fn segment(text: &str) -> String {
    escape(text, b"-._~:@!$'()*,;=")
}

/// Text with everything but letters, digits and the marks `kept` escaped.
fn escape(text: &str, kept: &[u8]) -> String {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F',
    ];
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || kept.contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.extend(['%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
    }
    out
}

/// The path of an object in a project, which the default one is not named in.
pub(crate) fn path(collection: &str, name: &str, in_project: &str) -> String {
    let name = segment(name);
    if in_project == project::DEFAULT || in_project.is_empty() {
        format!("{collection}/{name}")
    } else {
        format!("{collection}/{name}?project={}", escape(in_project, b"-._~"))
    }
}

/// 400 for an action that only another kind of server has.
pub(crate) fn unsupported<T>(what: &str) -> Result<T> {
    Err(Failure::bad(format!("{what} is not supported by this server")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_in_paths() {
        assert_eq!(path("/1.0/instances", "c1", "default"), "/1.0/instances/c1");
        assert_eq!(
            path("/1.0/images/aliases", "debian/12", "p 1&x=ü"),
            "/1.0/images/aliases/debian%2F12?project=p%201%26x%3D%C3%BC"
        );
    }
}

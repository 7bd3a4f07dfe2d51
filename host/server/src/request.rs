//! What handlers take out of a request: parameters, JSON bodies, headers of both client families.

use std::collections::HashMap;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hutch_api::filter::Filter;
use hutch_api::project;
use serde::de::DeserializeOwned;
use tokio::sync::OwnedSemaphorePermit;

use crate::App;
use crate::budget::Budget;
use crate::reply::{Failure, Result};

/// Bytes of the largest JSON body.
const BODY: usize = 1 << 20;
/// How long a JSON body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(30);

/// The parameters of a request's URL.
#[derive(Debug)]
pub(crate) struct Params(HashMap<String, String>);

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        match Query::try_from_uri(&parts.uri) {
            Ok(Query(map)) => Ok(Self(map)),
            Err(error) => Err(Failure::bad(format!("the URL's parameters can't be read: {error}"))),
        }
    }
}

impl Params {
    /// A parameter's text; empty counts as absent.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Whether a parameter is set to something that means yes.
    pub(crate) fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), Some("1" | "true" | "yes" | "on"))
    }

    /// The project of one object.
    pub(crate) fn project(&self) -> &str {
        self.get("project").unwrap_or(project::DEFAULT)
    }

    /// Refuses a request for another machine.
    ///
    /// # Errors
    /// 400 where `target` names one.
    pub(crate) fn here(&self) -> Result<()> {
        match self.get("target") {
            None | Some("none") => Ok(()),
            Some(target) => Err(Failure::bad(format!(
                "Target only allowed when clustered: this server is alone, and {target:?} is not known to it"
            ))),
        }
    }

    /// The project of a listing; nothing for those of all projects.
    pub(crate) fn projects(&self) -> Option<&str> {
        if self.flag("all-projects") {
            None
        } else {
            Some(self.project())
        }
    }

    /// `recursion`: 0 for paths, 1 for objects, 2 for all about them.
    ///
    /// # Errors
    /// 400 for what is no number.
    pub(crate) fn recursion(&self) -> Result<u8> {
        // Later servers take fields after a semicolon; what is before it is the depth.
        let text = self.get("recursion").unwrap_or("0");
        let depth = text.split(';').next().unwrap_or_default();
        depth
            .parse()
            .map_err(|_| Failure::bad(format!("recursion={text} is no depth: 0, 1 and 2 are")))
    }

    /// `filter`.
    ///
    /// # Errors
    /// 400 for one that can't be read.
    pub(crate) fn filter(&self) -> Result<Filter> {
        Filter::parse(self.get("filter").unwrap_or_default()).map_err(|error| Failure::bad(error.to_string()))
    }
}

/// A JSON body of bounded size.
#[derive(Debug)]
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<App> for Json<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, app: &App) -> Result<Self> {
        let declared = content_length(request.headers());
        if declared.is_some_and(|length| length > BODY as u64) {
            return Err(too_large());
        }
        let body = collect(request.into_body(), &app.budget);
        match tokio::time::timeout(BODY_TIME, body).await {
            Ok(collected) => parse(&collected?.0).map(Self),
            Err(_) => Err(Failure::new(
                StatusCode::REQUEST_TIMEOUT,
                "the body took too long to arrive",
            )),
        }
    }
}

/// The whole of a body, with the room that it takes. Room is taken as the bytes come, so that bodies which were promised and
/// don't come keep nobody waiting.
async fn collect(body: Body, budget: &Budget) -> Result<(Vec<u8>, Option<OwnedSemaphorePermit>)> {
    let mut body = Limited::new(body, BODY);
    let (mut bytes, mut held) = (Vec::new(), None);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            if error.is::<http_body_util::LengthLimitError>() {
                too_large()
            } else {
                Failure::bad(format!("the body broke off: {error}"))
            }
        })?;
        if let Ok(data) = frame.into_data() {
            budget.body(&mut held, bytes.len() + data.len()).await?;
            bytes.extend_from_slice(&data);
        }
    }
    Ok((bytes, held))
}

/// Reads a JSON body.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(Failure::bad("the body is empty, where JSON is expected"));
    }
    // serde would take an array's items for a structure's fields.
    if body.trim_ascii_start().starts_with(b"[") {
        return Err(Failure::bad(
            "the body's JSON does not fit: it is an array, where an object is expected",
        ));
    }
    serde_json::from_slice(body).map_err(|error| {
        Failure::bad(match error.classify() {
            serde_json::error::Category::Data => format!("the body's JSON does not fit: {error}"),
            _ => format!("the body is not JSON: {error}"),
        })
    })
}

fn too_large() -> Failure {
    Failure::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        format!("the body is larger than {BODY} bytes"),
    )
}

/// The `Content-Length`, where there is one that can be read.
pub(crate) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The value of `X-LXD-name` or `X-Incus-name`, trimmed.
pub(crate) fn family<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    ["x-incus-", "x-lxd-"]
        .iter()
        .find_map(|prefix| headers.get(format!("{prefix}{name}")))
        .and_then(|value| value.to_str().ok())
        .map(str::trim)
}

/// `If-Match` without its quotation marks; `*` and an empty one ask for nothing.
pub(crate) fn if_match(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(header::IF_MATCH)?.to_str().ok()?.trim();
    let text = text.strip_prefix("W/").unwrap_or(text).trim_matches('"');
    (!text.is_empty() && text != "*").then_some(text)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use hutch_api::instance::InstancesPost;

    use super::*;

    #[test]
    fn bodies_that_are_no_json_say_why() {
        for (body, why) in [
            ("", "empty"),
            (" \n", "empty"),
            ("{", "is not JSON: EOF"),
            ("name=c1", "is not JSON: expected ident"),
            ("[]", "does not fit"),
            (
                r#"{"name":5}"#,
                "does not fit: invalid type: integer `5`, expected a string",
            ),
        ] {
            let failure = parse::<InstancesPost>(body.as_bytes()).unwrap_err();
            assert!(
                failure_text(&failure).contains(why),
                "{body}: {}",
                failure_text(&failure)
            );
        }
        assert!(parse::<InstancesPost>(br#"{"name":"c1","later":1,"profiles":null}"#).is_ok());
    }

    fn failure_text(failure: &Failure) -> String {
        format!("{failure:?}")
    }

    #[test]
    fn headers_of_both_families_are_read() {
        let mut headers = HeaderMap::new();
        headers.insert("x-lxd-mode", HeaderValue::from_static("0644"));
        assert_eq!(family(&headers, "mode"), Some("0644"));
        headers.insert("X-Incus-mode", HeaderValue::from_static(" 0600 "));
        assert_eq!(family(&headers, "mode"), Some("0600"));
        assert_eq!(family(&headers, "uid"), None);
    }

    #[test]
    fn if_match_is_unquoted() {
        let with = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_MATCH, HeaderValue::from_static(text));
            headers
        };
        assert_eq!(if_match(&with("\"abc\"")), Some("abc"));
        assert_eq!(if_match(&with("abc")), Some("abc"));
        assert_eq!(if_match(&with("W/\"abc\"")), Some("abc"));
        assert_eq!(if_match(&with("*")), None);
        assert_eq!(if_match(&HeaderMap::new()), None);
    }

    #[test]
    fn parameters_have_defaults() {
        let params = |text: &str| {
            let uri = format!("/1.0/instances?{text}").parse().unwrap();
            Params(Query::try_from_uri(&uri).unwrap().0)
        };
        assert_eq!(params("project=").project(), "default");
        assert_eq!(params("project=p").projects(), Some("p"));
        assert_eq!(params("all-projects=true").projects(), None);
        assert_eq!(params("filter=&recursion=2").recursion().unwrap(), 2);
        assert_eq!(params("recursion=2;fields=state.disk").recursion().unwrap(), 2);
        assert!(params("recursion=x").recursion().is_err());
        assert!(params("filter=name%20is%20x").filter().is_err());
    }
}

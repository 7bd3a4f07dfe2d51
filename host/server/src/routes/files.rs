//! Files in instances by REST, with the headers of both client families: `X-LXD-*` and `X-Incus-*`.

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::Response;
use axum::routing::get;
use futures_util::TryStreamExt;
use hutch_core::files::{FileBody, FileInfo, FileKind, FilePut};

use super::instances::At;
use crate::App;
use crate::reply::{self, Failure, Result};
use crate::request::family;

pub(super) fn routes(one: &str) -> Router<App> {
    Router::new().route(&format!("{one}/files"), get(show).head(head).post(put).delete(delete))
}

fn path(at: &At) -> Result<&str> {
    at.params
        .get("path")
        .ok_or_else(|| Failure::bad("missing path argument"))
}

async fn show(State(app): State<App>, at: At) -> Result {
    let file = app.core.file_get(&at.project, &at.name, path(&at)?).await?;
    let mut response = match file.body {
        FileBody::Entries(names) => reply::sync(&names),
        FileBody::Target(target) => octets(Body::from(target)),
        // Without a length: the file may grow or shrink on the way, and those of /proc say that they are empty.
        FileBody::Content(content) => octets(Body::from_stream(content)),
    };
    describe(response.headers_mut(), &file.info);
    Ok(response)
}

async fn head(State(app): State<App>, at: At) -> Result {
    let info = app.core.file_info(&at.project, &at.name, path(&at)?).await?;
    let mut response = octets(Body::empty());
    describe(response.headers_mut(), &info);
    if let Some(size) = info.size {
        response.headers_mut().insert(header::CONTENT_LENGTH, size.into());
    }
    Ok(response)
}

fn octets(body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    response
}

/// Puts what a file is into the headers of both families.
fn describe(headers: &mut HeaderMap, info: &FileInfo) {
    let modified = hutch_api::Timestamp::from_unix(info.modified).to_string();
    let mode = format!("{:04o}", info.mode);
    for (name, value) in [
        ("uid", info.uid.to_string().as_str()),
        ("gid", info.gid.to_string().as_str()),
        ("mode", &mode),
        ("type", info.kind.name()),
        ("modified", &modified),
    ] {
        for prefix in ["x-lxd-", "x-incus-"] {
            // Digits, letters and the marks of a time are fit for headers.
            if let (Ok(name), Ok(value)) = (
                format!("{prefix}{name}").parse::<HeaderName>(),
                HeaderValue::try_from(value),
            ) {
                headers.insert(name, value);
            }
        }
    }
}

async fn put(State(app): State<App>, at: At, request: Request) -> Result {
    let path = path(&at)?;
    let headers = request.headers();
    let append = match family(headers, "write").unwrap_or_default() {
        "" | "overwrite" => false,
        "append" => true,
        other => return Err(Failure::bad(format!("Bad file write mode: {other}"))),
    };
    let put = FilePut {
        kind: FileKind::parse(family(headers, "type").unwrap_or_default())?,
        uid: id(headers, "uid")?,
        gid: id(headers, "gid")?,
        mode: mode(headers)?,
        append,
        body: Box::pin(request.into_body().into_data_stream().map_err(std::io::Error::other)),
    };
    app.core.file_put(&at.project, &at.name, path, put).await?;
    Ok(reply::done())
}

/// A user's or group's number; a negative one means that the client leaves it open.
fn id(headers: &HeaderMap, name: &str) -> Result<Option<u32>> {
    let Some(text) = family(headers, name).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    match text.parse::<i64>() {
        Ok(number) if number < 0 => Ok(None),
        Ok(number) => u32::try_from(number).map(Some).map_err(|_| bad_header(name, text)),
        Err(_) => Err(bad_header(name, text)),
    }
}

/// Permissions as Go's clients write them: `0644` and `0o644` are octal, `420` is decimal.
fn mode(headers: &HeaderMap) -> Result<Option<u32>> {
    let Some(text) = family(headers, "mode").filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    if text.starts_with('-') {
        return Ok(None);
    }
    let lower = text.to_ascii_lowercase();
    let (digits, radix) = if let Some(digits) = lower.strip_prefix("0o") {
        (digits, 8)
    } else if let Some(digits) = lower.strip_prefix("0x") {
        (digits, 16)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (&lower[1..], 8)
    } else {
        (lower.as_str(), 10)
    };
    let mode = u32::from_str_radix(digits, radix).ok().filter(|mode| *mode <= 0o7777);
    mode.map(Some).ok_or_else(|| bad_header("mode", text))
}

fn bad_header(name: &str, text: &str) -> Failure {
    Failure::bad(format!(
        "the header X-LXD-{name} or X-Incus-{name} has the value {text:?}, which makes no sense"
    ))
}

async fn delete(State(app): State<App>, at: At, headers: HeaderMap) -> Result {
    let recursive = matches!(family(&headers, "force"), Some("true" | "1"));
    app.core
        .file_delete(&at.project, &at.name, path(&at)?, recursive)
        .await?;
    Ok(reply::done())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &'static str, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static(value))])
    }

    #[test]
    fn permissions_are_read_as_go_does() {
        for (text, wanted) in [
            ("0644", 0o644),
            ("0o644", 0o644),
            ("420", 0o644),
            ("0x1a4", 0o644),
            ("0", 0),
            ("04755", 0o4755),
        ] {
            assert_eq!(mode(&with("x-lxd-mode", text)).unwrap(), Some(wanted), "{text}");
        }
        assert_eq!(mode(&HeaderMap::new()).unwrap(), None);
        assert_eq!(mode(&with("x-incus-mode", "-1")).unwrap(), None);
        for text in ["0999", "99999", "rw-r--r--", "0o"] {
            assert!(mode(&with("x-lxd-mode", text)).is_err(), "{text}");
        }
    }

    #[test]
    fn owners_may_be_left_open() {
        assert_eq!(id(&with("x-lxd-uid", "1000"), "uid").unwrap(), Some(1000));
        assert_eq!(id(&with("x-lxd-uid", "-1"), "uid").unwrap(), None);
        assert!(id(&with("x-incus-uid", "root"), "uid").is_err());
        assert!(id(&with("x-incus-uid", "5000000000"), "uid").is_err());
    }
}

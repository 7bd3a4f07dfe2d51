//! Images that arrive in a request: written to disk as they come.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::multipart::Field;
use axum::extract::{FromRequest, Multipart, Query, Request};
use axum::http::{HeaderMap, StatusCode, header};
use futures_util::{Stream, StreamExt, stream};
use hutch_api::image::{ImageAlias, ImagesPost};
use hutch_core::images::{ImageUpload, StagedFile};
use tokio::io::AsyncWriteExt;

use super::unsupported;
use crate::App;
use crate::reply::{Failure, Result};
use crate::request::{family, parse};

/// Bytes of the largest JSON body.
const DESCRIPTION: usize = 1 << 20;
/// How long an upload may stand still.
const STALLED: Duration = Duration::from_secs(60);

/// What was posted.
pub(super) enum Posted {
    /// Where the image is to come from.
    Description(Box<ImagesPost>),
    /// The image.
    Files(Box<ImageUpload>),
}

/// Receives what is posted to `/1.0/images`. Whether it is JSON is told by its first byte, since old clients send it
/// under any type: no image format begins with a brace.
pub(super) async fn receive(app: &App, request: Request) -> Result<Posted> {
    let headers = request.headers().clone();
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .unwrap_or_default();
    if kind
        .trim_start()
        .to_ascii_lowercase()
        .starts_with("multipart/form-data")
    {
        let form = Multipart::from_request(request, &())
            .await
            .map_err(|error| Failure::bad(error.body_text()))?;
        return Ok(Posted::Files(Box::new(receive_form(app, &headers, form).await?)));
    }
    let mut body = request.into_body().into_data_stream();
    let mut start = Bytes::new();
    while start.iter().all(u8::is_ascii_whitespace) {
        match next(&mut body).await? {
            Some(block) => start = [start, block].concat().into(),
            None => break,
        }
        if start.len() > DESCRIPTION {
            break;
        }
    }
    let first = start.iter().find(|byte| !byte.is_ascii_whitespace()).copied();
    let mut body = stream::iter((!start.is_empty()).then_some(Ok(start))).chain(body);
    match first {
        None => Err(Failure::bad("the body is empty, where JSON or an image is expected")),
        Some(b'{') => Ok(Posted::Description(Box::new(
            receive_description(app, &mut body).await?,
        ))),
        Some(_) => Ok(Posted::Files(Box::new(receive_file(app, &headers, &mut body).await?))),
    }
}

async fn receive_description<E: Into<axum::BoxError>>(
    app: &App,
    body: &mut (impl Stream<Item = Result<Bytes, E>> + Unpin),
) -> Result<ImagesPost> {
    let (mut text, mut held) = (Vec::new(), None);
    while let Some(block) = next(body).await? {
        if text.len() + block.len() > DESCRIPTION {
            return Err(Failure::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the body is larger than {DESCRIPTION} bytes"),
            ));
        }
        app.budget.body(&mut held, text.len() + block.len()).await?;
        text.extend_from_slice(&block);
    }
    parse(&text)
}

async fn receive_file<E: Into<axum::BoxError>>(
    app: &App,
    headers: &HeaderMap,
    body: &mut (impl Stream<Item = Result<Bytes, E>> + Unpin),
) -> Result<ImageUpload> {
    let mut upload = describe(headers, app.core.stage_upload()?)?;
    store(&mut upload.metadata, body).await?;
    Ok(upload)
}

/// Two parts: `metadata`, then `rootfs`.
async fn receive_form(app: &App, headers: &HeaderMap, mut form: Multipart) -> Result<ImageUpload> {
    let mut upload = describe(headers, app.core.stage_upload()?)?;
    let mut metadata = part(&mut form)
        .await?
        .ok_or_else(|| Failure::bad("the form has no part named metadata"))?;
    expect(&metadata, "metadata")?;
    store(&mut upload.metadata, &mut metadata).await?;
    drop(metadata);
    if let Some(mut rootfs) = part(&mut form).await? {
        if rootfs.name() == Some("rootfs.img") {
            return unsupported("an image of a virtual machine");
        }
        expect(&rootfs, "rootfs")?;
        let mut file = app.core.stage_upload()?;
        store(&mut file, &mut rootfs).await?;
        upload.rootfs = Some(file);
    }
    match part(&mut form).await? {
        None => Ok(upload),
        Some(_) => Err(Failure::bad("an image has two parts, metadata and rootfs, and no more")),
    }
}

async fn part(form: &mut Multipart) -> Result<Option<Field<'_>>> {
    match tokio::time::timeout(STALLED, form.next_field()).await {
        Ok(part) => part.map_err(|error| Failure::bad(error.body_text())),
        Err(_) => Err(stalled()),
    }
}

fn expect(part: &Field<'_>, wanted: &str) -> Result<()> {
    match part.name().unwrap_or_default() {
        name if name == wanted => Ok(()),
        name => Err(Failure::bad(format!(
            "a part named {name:?} where {wanted} is expected"
        ))),
    }
}

/// Writes content to a file, which goes with its value when the content breaks off.
async fn store<E: Into<axum::BoxError>>(
    staged: &mut StagedFile,
    content: &mut (impl Stream<Item = Result<Bytes, E>> + Unpin),
) -> Result<()> {
    let failed = |error: std::io::Error| {
        let status = match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => StatusCode::INSUFFICIENT_STORAGE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Failure::new(status, format!("storing the image: {error}"))
    };
    let file = tokio::fs::File::from_std(staged.file().try_clone().map_err(failed)?);
    let mut file = tokio::io::BufWriter::with_capacity(1 << 20, file);
    while let Some(block) = next(content).await? {
        file.write_all(&block).await.map_err(failed)?;
    }
    file.flush().await.map_err(failed)
}

/// The next block of a body, which may not stand still for long.
async fn next<E: Into<axum::BoxError>>(
    body: &mut (impl Stream<Item = Result<Bytes, E>> + Unpin),
) -> Result<Option<Bytes>> {
    match tokio::time::timeout(STALLED, body.next()).await {
        Ok(block) => block
            .transpose()
            .map_err(|error| Failure::bad(format!("the body broke off: {}", error.into()))),
        Err(_) => Err(stalled()),
    }
}

fn stalled() -> Failure {
    Failure::new(StatusCode::REQUEST_TIMEOUT, "the body took too long to arrive")
}

/// What the headers say of the image: `filename`, `public`, `fingerprint`, and as a URL's parameters `properties`, `aliases`
/// (each by `alias`) and `profiles` (each by `profile`).
fn describe(headers: &HeaderMap, metadata: StagedFile) -> Result<ImageUpload> {
    let text = |name| family(headers, name).unwrap_or_default();
    let aliases = pairs(headers, "aliases")?.into_iter().filter(|(key, _)| key == "alias");
    let profiles = pairs(headers, "profiles")?
        .into_iter()
        .filter(|(key, _)| key == "profile");
    Ok(ImageUpload {
        metadata,
        rootfs: None,
        filename: text("filename").to_owned(),
        public: matches!(text("public"), "1" | "true" | "on" | "yes"),
        properties: pairs(headers, "properties")?.into_iter().collect(),
        aliases: aliases
            .map(|(_, name)| ImageAlias {
                name,
                description: String::new(),
            })
            .collect(),
        fingerprint: Some(text("fingerprint"))
            .filter(|text| !text.is_empty())
            .map(str::to_lowercase),
        profiles: profiles.map(|(_, name)| name).collect(),
    })
}

/// A header that is written as a URL's parameters are.
fn pairs(headers: &HeaderMap, name: &str) -> Result<Vec<(String, String)>> {
    let uri = format!("/?{}", family(headers, name).unwrap_or_default())
        .parse()
        .map_err(|_| bad(name))?;
    Query::try_from_uri(&uri).map(|query| query.0).map_err(|_| bad(name))
}

fn bad(name: &str) -> Failure {
    Failure::bad(format!("the header X-LXD-{name} or X-Incus-{name} can't be read"))
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn headers_are_written_as_parameters() {
        let headers = HeaderMap::from_iter([
            (
                HeaderName::from_static("x-lxd-properties"),
                HeaderValue::from_static("os=Debian&description=a%20b"),
            ),
            (
                HeaderName::from_static("x-incus-aliases"),
                HeaderValue::from_static("alias=a%2Fb&alias=c"),
            ),
        ]);
        let own = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(
            pairs(&headers, "properties").unwrap(),
            [own("os", "Debian"), own("description", "a b")]
        );
        assert_eq!(
            pairs(&headers, "aliases").unwrap(),
            [own("alias", "a/b"), own("alias", "c")]
        );
        assert_eq!(pairs(&headers, "profiles").unwrap(), []);
    }
}

//! Images that arrive in a request: written to disk as they come, hashed on the way.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, Multipart, Request};
use axum::http::{HeaderMap, StatusCode, header};
use futures_util::{Stream, StreamExt, stream};
use hutch_api::Timestamp;
use hutch_api::image::{ImageAlias, ImagesPost};
use hutch_core::images::{ImageUpload, UploadedFile};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

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
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind.trim_start().to_ascii_lowercase().starts_with("multipart/form-data") {
        let form = Multipart::from_request(request, &()).await.map_err(|error| Failure::bad(error.body_text()))?;
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
        Some(b'{') => Ok(Posted::Description(Box::new(receive_description(app, &mut body).await?))),
        Some(_) => Ok(Posted::Files(Box::new(receive_file(app, &headers, &mut body).await?))),
    }
}

async fn receive_description<E: Into<axum::BoxError>>(
    app: &App,
    body: &mut (impl Stream<Item = Result<Bytes, E>> + Unpin),
) -> Result<ImagesPost> {
    let _held = app.budget.body(DESCRIPTION).await?;
    let mut text = Vec::new();
    while let Some(block) = next(body).await? {
        if text.len() + block.len() > DESCRIPTION {
            return Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {DESCRIPTION} bytes")));
        }
        text.extend_from_slice(&block);
    }
    parse(&text)
}

async fn receive_file<E: Into<axum::BoxError>>(
    app: &App,
    headers: &HeaderMap,
    body: &mut (impl Stream<Item = Result<Bytes, E>> + Unpin),
) -> Result<ImageUpload> {
    let described = describe(headers)?;
    let dir = app.core.image_upload_dir()?;
    let mut whole = Sha256::new();
    let metadata = store(&dir.path().join("image"), described.filename.clone(), body, &mut whole).await?;
    Ok(ImageUpload {
        dir,
        metadata,
        rootfs: None,
        rootfs_is_disk: false,
        fingerprint: hex::encode(whole.finalize()),
        expected: expected(headers),
        post: described,
    })
}

/// Two parts: `metadata`, then `rootfs` or, of a virtual machine, `rootfs.img`. The fingerprint is over both in this order.
async fn receive_form(app: &App, headers: &HeaderMap, mut form: Multipart) -> Result<ImageUpload> {
    let described = describe(headers)?;
    let dir = app.core.image_upload_dir()?;
    let mut whole = Sha256::new();
    let mut stored: Vec<(String, UploadedFile)> = Vec::new();
    for wanted in [["metadata"].as_slice(), &["rootfs", "rootfs.img"]] {
        let part = form.next_field().await.map_err(|error| Failure::bad(error.body_text()))?;
        let Some(mut part) = part else { break };
        let name = part.name().unwrap_or_default().to_owned();
        if !wanted.contains(&name.as_str()) {
            return Err(Failure::bad(format!("a part named {name:?} where {} is expected", wanted.join(" or "))));
        }
        let file = part.file_name().unwrap_or_default().to_owned();
        stored.push((name, store(&dir.path().join(wanted[0]), file, &mut part, &mut whole).await?));
    }
    if form.next_field().await.is_ok_and(|more| more.is_some()) {
        return Err(Failure::bad("an image has two parts, metadata and rootfs, and no more"));
    }
    let mut stored = stored.into_iter();
    let (_, metadata) = stored.next().ok_or_else(|| Failure::bad("the form has no part named metadata"))?;
    let rootfs = stored.next();
    Ok(ImageUpload {
        dir,
        metadata,
        rootfs_is_disk: rootfs.as_ref().is_some_and(|(name, _)| name == "rootfs.img"),
        rootfs: rootfs.map(|(_, file)| file),
        fingerprint: hex::encode(whole.finalize()),
        expected: expected(headers),
        post: described,
    })
}

/// Writes content to a new file; nothing of it stays when it breaks off, because its directory goes.
async fn store<E: Into<axum::BoxError>>(
    path: &Path,
    name: String,
    content: &mut (impl Stream<Item = Result<Bytes, E>> + Unpin),
    whole: &mut Sha256,
) -> Result<UploadedFile> {
    let failed = |error: std::io::Error| {
        let status = match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => StatusCode::INSUFFICIENT_STORAGE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Failure::new(status, format!("storing the image: {error}"))
    };
    let file = tokio::fs::File::options().write(true).create_new(true).mode(0o600).open(path).await.map_err(failed)?;
    let mut file = tokio::io::BufWriter::with_capacity(1 << 20, file);
    let mut own = Sha256::new();
    let mut size = 0;
    while let Some(block) = next(content).await? {
        own.update(&block);
        whole.update(&block);
        size += block.len() as u64;
        file.write_all(&block).await.map_err(failed)?;
    }
    file.flush().await.map_err(failed)?;
    Ok(UploadedFile { path: path.to_owned(), size, sha256: hex::encode(own.finalize()), name })
}

/// The next block of a body, which may not stand still for long.
async fn next<E: Into<axum::BoxError>>(
    body: &mut (impl Stream<Item = Result<Bytes, E>> + Unpin),
) -> Result<Option<Bytes>> {
    match tokio::time::timeout(STALLED, body.next()).await {
        Ok(block) => block.transpose().map_err(|error| Failure::bad(format!("the body broke off: {}", error.into()))),
        Err(_) => Err(Failure::new(StatusCode::REQUEST_TIMEOUT, "the body took too long to arrive")),
    }
}

fn expected(headers: &HeaderMap) -> Option<String> {
    family(headers, "fingerprint").filter(|text| !text.is_empty()).map(str::to_lowercase)
}

/// What the headers say of the image: `filename`, `public`, `properties` (as a URL's parameters), `aliases` (likewise, by
/// `alias`), `expires`, `profiles`.
fn describe(headers: &HeaderMap) -> Result<ImagesPost> {
    let text = |name| family(headers, name).unwrap_or_default();
    let pairs = |name| -> Result<Vec<(String, String)>> {
        let uri = format!("/?{}", text(name)).parse().map_err(|_| bad(name))?;
        axum::extract::Query::try_from_uri(&uri).map(|query| query.0).map_err(|_| bad(name))
    };
    let properties: BTreeMap<String, String> = pairs("properties")?.into_iter().collect();
    let aliases = pairs("aliases")?.into_iter().filter(|(key, _)| key == "alias");
    Ok(ImagesPost {
        filename: text("filename").to_owned(),
        public: matches!(text("public"), "1" | "true" | "on" | "yes"),
        properties,
        aliases: aliases.map(|(_, name)| ImageAlias { name, description: String::new() }).collect(),
        expires_at: Timestamp::parse(text("expires")).map_err(|_| bad("expires"))?,
        profiles: pairs("profiles")?.into_iter().filter(|(key, _)| key == "profile").map(|(_, name)| name).collect(),
        ..ImagesPost::default()
    })
}

fn bad(name: &str) -> Failure {
    Failure::bad(format!("the header X-LXD-{name} or X-Incus-{name} can't be read"))
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn headers_describe_an_image() {
        let headers = HeaderMap::from_iter([
            (HeaderName::from_static("x-incus-filename"), HeaderValue::from_static("img.tar.gz")),
            (HeaderName::from_static("x-lxd-public"), HeaderValue::from_static("1")),
            (HeaderName::from_static("x-lxd-properties"), HeaderValue::from_static("os=Debian&description=a%20b")),
            (HeaderName::from_static("x-incus-aliases"), HeaderValue::from_static("alias=a%2Fb&alias=c")),
        ]);
        let post = describe(&headers).unwrap();
        assert_eq!(post.filename, "img.tar.gz");
        assert!(post.public && post.expires_at.is_never());
        assert_eq!(post.properties["description"], "a b");
        assert_eq!(post.aliases.iter().map(|alias| alias.name.as_str()).collect::<Vec<_>>(), ["a/b", "c"]);
    }
}

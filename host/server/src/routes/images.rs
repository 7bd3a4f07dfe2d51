//! Images and their aliases.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use axum::routing::{get, post};
use futures_util::{Stream, StreamExt, stream};
use hutch_api::image::{
    ImageAliasesEntry, ImageAliasesEntryPatch, ImageAliasesEntryPost, ImageAliasesEntryPut, ImagePatch, ImagePut,
};
use hutch_core::images::ExportFile;
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;

use super::image_upload::{self, Posted};
use super::path;
use crate::App;
use crate::reply::{self, Failure, Result};
use crate::request::{Json, Params, if_match};

const ALL: &str = "/1.0/images";
const ALIASES: &str = "/1.0/images/aliases";

pub(super) fn routes() -> Router<App> {
    Router::new()
        // An image's size is bounded by the disk alone.
        .route(ALL, get(list).post(create).layer(DefaultBodyLimit::disable()))
        .route(
            "/1.0/images/{fingerprint}",
            get(show).put(update).patch(patch).delete(delete),
        )
        .route("/1.0/images/{fingerprint}/export", get(export))
        .route("/1.0/images/{fingerprint}/refresh", post(refresh))
        .route(ALIASES, get(aliases).post(create_alias))
        // Names may have slashes, and old clients don't escape them.
        .route(
            "/1.0/images/aliases/{*name}",
            get(alias)
                .put(update_alias)
                .patch(patch_alias)
                .post(rename_alias)
                .delete(delete_alias),
        )
}

async fn list(State(app): State<App>, params: Params) -> Result {
    let _turn = app.budget.listing().await?;
    let mut all = app.core.image_list(params.projects())?;
    params.filter()?.retain(&mut all).map_err(Failure::internal)?;
    if params.recursion()? > 0 {
        return reply::list(&app.budget, &all).await;
    }
    let paths: Vec<String> = all
        .iter()
        .map(|image| path(ALL, &image.fingerprint, &image.project))
        .collect();
    reply::list(&app.budget, &paths).await
}

/// From a source, or from the body itself.
async fn create(State(app): State<App>, params: Params, request: Request) -> Result {
    let operation = match image_upload::receive(&app, request).await? {
        Posted::Description(post) => app.core.image_create(params.project(), *post).await?,
        Posted::Files(upload) => app.core.image_import(params.project(), *upload).await?,
    };
    Ok(reply::operation(&operation))
}

async fn show(State(app): State<App>, Path(fingerprint): Path<String>, params: Params) -> Result {
    let image = app.core.image(params.project(), &fingerprint)?;
    Ok(reply::tagged(&image.value, &image.etag))
}

async fn update(
    State(app): State<App>,
    Path(fingerprint): Path<String>,
    params: Params,
    headers: HeaderMap,
    Json(put): Json<ImagePut>,
) -> Result {
    app.core
        .image_update(params.project(), &fingerprint, put, if_match(&headers))
        .await?;
    Ok(reply::done())
}

async fn patch(
    State(app): State<App>,
    Path(fingerprint): Path<String>,
    params: Params,
    headers: HeaderMap,
    Json(patch): Json<ImagePatch>,
) -> Result {
    app.core
        .image_patch(params.project(), &fingerprint, patch, if_match(&headers))
        .await?;
    Ok(reply::done())
}

async fn delete(State(app): State<App>, Path(fingerprint): Path<String>, params: Params) -> Result {
    Ok(reply::operation(
        &*app.core.image_delete(params.project(), &fingerprint).await?,
    ))
}

async fn refresh(State(app): State<App>, Path(fingerprint): Path<String>, params: Params) -> Result {
    Ok(reply::operation(
        &*app.core.image_refresh(params.project(), &fingerprint).await?,
    ))
}

/// The image's files: one as it is, two as parts of a form.
async fn export(State(app): State<App>, Path(fingerprint): Path<String>, params: Params) -> Result {
    let mut files = app.core.image_export(params.project(), &fingerprint)?.files;
    if files.len() != 1 {
        return form(files);
    }
    let file = files.remove(0);
    let (name, length) = (quoted(&file.filename), file.size);
    let mut response = Response::new(Body::from_stream(content(file)));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(header::CONTENT_LENGTH, length.into());
    headers.insert(
        header::CONTENT_DISPOSITION,
        header_value(&format!("inline;filename={name}"))?,
    );
    Ok(response)
}

/// `multipart/form-data` (RFC 7578), sent as it is read from the disk.
fn form(files: Vec<ExportFile>) -> Result {
    let boundary = uuid::Uuid::new_v4().simple().to_string();
    let mut length = 0;
    let mut pieces = Vec::new();
    for (index, file) in files.into_iter().enumerate() {
        let head = format!(
            "{}--{boundary}\r\nContent-Disposition: form-data; name=\"{}\"; filename={}\r\nContent-Type: application/octet-stream\r\n\r\n",
            if index == 0 { "" } else { "\r\n" },
            file.part,
            quoted(&file.filename),
        );
        length += head.len() as u64 + file.size;
        pieces.push(stream::iter([Ok(Bytes::from(head))]).chain(content(file)).boxed());
    }
    let tail = format!("\r\n--{boundary}--\r\n");
    length += tail.len() as u64;
    pieces.push(stream::iter([Ok(Bytes::from(tail))]).boxed());
    let mut response = Response::new(Body::from_stream(stream::iter(pieces).flatten()));
    let kind = header_value(&format!("multipart/form-data; boundary={boundary}"))?;
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    Ok(response)
}

/// A file's content, and no more than was promised.
fn content(file: ExportFile) -> impl Stream<Item = std::io::Result<Bytes>> + Send {
    let content = tokio::fs::File::from_std(file.file).take(file.size);
    ReaderStream::with_capacity(content, 128 << 10)
}

/// A file's name in a header, without what would end it.
fn quoted(name: &str) -> String {
    let clean: String = name
        .chars()
        .map(|c| {
            if c.is_ascii_graphic() && c != '"' && c != '\\' {
                c
            } else {
                '_'
            }
        })
        .collect();
    format!("\"{clean}\"")
}

fn header_value(text: &str) -> Result<HeaderValue> {
    HeaderValue::try_from(text).map_err(Failure::internal)
}

async fn aliases(State(app): State<App>, params: Params) -> Result {
    let mut all = app.core.alias_list(params.projects())?;
    params.filter()?.retain(&mut all).map_err(Failure::internal)?;
    if params.recursion()? > 0 {
        return reply::list(&app.budget, &all).await;
    }
    let project = params.projects().unwrap_or_default();
    Ok(reply::sync(
        &all.iter()
            .map(|alias| path(ALIASES, &alias.name, project))
            .collect::<Vec<_>>(),
    ))
}

async fn create_alias(State(app): State<App>, params: Params, Json(post): Json<ImageAliasesEntry>) -> Result {
    let location = path(ALIASES, &post.name, "");
    app.core.alias_create(params.project(), post).await?;
    Ok(reply::created(&location))
}

async fn alias(State(app): State<App>, Path(name): Path<String>, params: Params) -> Result {
    let alias = app.core.alias(params.project(), &name)?;
    Ok(reply::tagged(&alias.value, &alias.etag))
}

async fn update_alias(
    State(app): State<App>,
    Path(name): Path<String>,
    params: Params,
    headers: HeaderMap,
    Json(put): Json<ImageAliasesEntryPut>,
) -> Result {
    app.core
        .alias_update(params.project(), &name, put, if_match(&headers))
        .await?;
    Ok(reply::done())
}

async fn patch_alias(
    State(app): State<App>,
    Path(name): Path<String>,
    params: Params,
    headers: HeaderMap,
    Json(patch): Json<ImageAliasesEntryPatch>,
) -> Result {
    app.core
        .alias_patch(params.project(), &name, patch, if_match(&headers))
        .await?;
    Ok(reply::done())
}

async fn rename_alias(
    State(app): State<App>,
    Path(name): Path<String>,
    params: Params,
    Json(post): Json<ImageAliasesEntryPost>,
) -> Result {
    let location = path(ALIASES, &post.name, "");
    app.core.alias_rename(params.project(), &name, post).await?;
    Ok(reply::created(&location))
}

async fn delete_alias(State(app): State<App>, Path(name): Path<String>, params: Params) -> Result {
    app.core.alias_delete(params.project(), &name).await?;
    Ok(reply::done())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_can_not_break_out_of_headers() {
        assert_eq!(quoted("debian 12.tar.gz"), "\"debian_12.tar.gz\"");
        assert_eq!(quoted("a\"\r\nX: y"), "\"a___X:_y\"");
    }
}

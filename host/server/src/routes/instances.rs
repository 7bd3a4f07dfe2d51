//! Instances: `/1.0/instances`, and the older names `/1.0/containers` and `/1.0/virtual-machines`, which show one type each.

use std::collections::HashMap;

use axum::Extension;
use axum::Router;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::HeaderMap;
use axum::http::request::Parts;
use axum::response::Response;
use axum::routing::{get, post};
use hutch_api::instance::{
    CONTAINER, Instance, InstancePatch, InstancePost, InstancePut, InstanceRebuildPost, InstanceStatePut,
    InstancesPost, InstancesPut, VIRTUAL_MACHINE,
};
use hutch_core::{Caller, Error};
use serde::Serialize;

use super::{files, logs, metadata, path, sessions, snapshots};
use crate::App;
use crate::reply::{self, Failure, Result};
use crate::request::{Json, Params, if_match};

pub(super) fn routes() -> Router<App> {
    let mut router = Router::new();
    for family in Family::ALL {
        let all = family.prefix;
        let one = |rest: &str| format!("{all}/{{name}}{rest}");
        router = router
            .route(all, get(list).post(create).put(change_states))
            .route(&one(""), get(show).put(update).patch(patch).post(rename).delete(delete))
            .route(&one("/state"), get(state).put(change_state))
            .route(&one("/rebuild"), post(rebuild))
            .merge(snapshots::routes(&one("/snapshots")))
            .merge(sessions::routes(&one("")))
            .merge(logs::routes(&one("")))
            .merge(metadata::routes(&one("")))
            .merge(files::routes(&one("")));
    }
    router
}

/// One of the names that instances are found under.
#[derive(Clone, Copy, Debug)]
pub(super) struct Family {
    /// The collection's path.
    pub(super) prefix: &'static str,
    /// The only type that is shown.
    kind: Option<&'static str>,
}

impl Family {
    const ALL: [Self; 3] = [
        Self {
            prefix: "/1.0/instances",
            kind: None,
        },
        Self {
            prefix: "/1.0/containers",
            kind: Some(CONTAINER),
        },
        Self {
            prefix: "/1.0/virtual-machines",
            kind: Some(VIRTUAL_MACHINE),
        },
    ];

    /// The same with what `instance-type` asks for.
    fn narrowed(self, kind: Option<&str>) -> Result<Self> {
        let kind = match kind {
            None | Some("all") => return Ok(self),
            Some(kind) => [CONTAINER, VIRTUAL_MACHINE]
                .into_iter()
                .find(|known| *known == kind)
                .ok_or_else(|| {
                    Failure::bad(format!(
                        "Invalid instance type {kind:?}: {CONTAINER} and {VIRTUAL_MACHINE} are"
                    ))
                })?,
        };
        Ok(Self {
            // Nothing is of two types.
            kind: Some(if self.kind.is_none_or(|own| own == kind) {
                kind
            } else {
                ""
            }),
            ..self
        })
    }

    fn shows(self, instance: &Instance) -> bool {
        self.kind.is_none_or(|kind| kind == instance.kind)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Family {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let path = parts.uri.path();
        Self::ALL
            .into_iter()
            .find(|family| path.starts_with(family.prefix))
            .ok_or_else(Failure::not_found)
    }
}

/// The instance that a path names.
pub(super) struct At {
    pub(super) family: Family,
    pub(super) project: String,
    pub(super) name: String,
    /// What else the path names.
    names: HashMap<String, String>,
    pub(super) params: Params,
}

impl At {
    /// Another name in the path.
    pub(super) fn part(&self, name: &str) -> &str {
        self.names.get(name).map(String::as_str).unwrap_or_default()
    }

    /// The instance's path, as the caller names it.
    pub(super) fn path(&self) -> String {
        path(self.family.prefix, &self.name, "")
    }
}

impl FromRequestParts<App> for At {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        let family = Family::from_request_parts(parts, app).await?;
        let params = Params::from_request_parts(parts, app).await?;
        let Path(mut names) = Path::<HashMap<String, String>>::from_request_parts(parts, app)
            .await
            .map_err(|error| Failure::bad(format!("the path can't be read: {error}")))?;
        let name = names.remove("name").ok_or_else(Failure::not_found)?;
        let project = params.project().to_owned();
        // Under the older names an instance of the other type isn't there.
        if family.kind.is_some() && !family.shows(&app.core.instance(&project, &name)?.value) {
            return Err(Error::missing("Instance", name).into());
        }
        Ok(Self {
            family,
            project,
            name,
            names,
            params,
        })
    }
}

async fn list(State(app): State<App>, family: Family, params: Params) -> Result {
    let family = family.narrowed(params.get("instance-type"))?;
    let (filter, recursion) = (params.filter()?, params.recursion()?);
    let _turn = app.budget.listing().await?;
    if recursion >= 2 {
        let mut all = app.core.instances_full(params.projects()).await;
        all.retain(|full| family.shows(&full.instance));
        filter.retain(&mut all).map_err(Failure::internal)?;
        return reply::list(&app.budget, &all).await;
    }
    if recursion == 0 && filter.is_empty() && family.kind.is_none() {
        let names = app.core.instance_names(params.projects());
        return paths(
            &app,
            family,
            names.iter().map(|(project, name)| (project.as_str(), name.as_str())),
        )
        .await;
    }
    let mut all = app.core.instances(params.projects());
    all.retain(|instance| family.shows(instance));
    filter.retain(&mut all).map_err(Failure::internal)?;
    if recursion == 0 {
        return paths(
            &app,
            family,
            all.iter()
                .map(|instance| (instance.project.as_str(), instance.name.as_str())),
        )
        .await;
    }
    reply::list(&app.budget, &all).await
}

async fn paths<'a>(app: &App, family: Family, names: impl Iterator<Item = (&'a str, &'a str)>) -> Result {
    let paths: Vec<String> = names
        .map(|(project, name)| path(family.prefix, name, project))
        .collect();
    reply::list(&app.budget, &paths).await
}

async fn create(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    family: Family,
    params: Params,
    Json(mut post): Json<InstancesPost>,
) -> Result {
    params.here()?;
    if post.kind.is_empty() {
        post.kind = family.kind.unwrap_or(CONTAINER).to_owned();
    }
    Ok(reply::operation(
        &*app.core.instance_create(&caller, params.project(), post).await?,
    ))
}

async fn change_states(State(app): State<App>, params: Params, Json(put): Json<InstancesPut>) -> Result {
    Ok(reply::operation(
        &*app.core.instances_state_change(params.project(), put).await?,
    ))
}

async fn show(State(app): State<App>, at: At) -> Result {
    if at.params.recursion()? > 0 {
        let full = app.core.instance_full(&at.project, &at.name).await?;
        return Ok(reply::tagged(&full.value, &full.etag));
    }
    let instance = app.core.instance(&at.project, &at.name)?;
    Ok(reply::tagged(&instance.value, &instance.etag))
}

async fn update(State(app): State<App>, at: At, headers: HeaderMap, Json(put): Json<InstancePut>) -> Result {
    Ok(reply::operation(
        &*app
            .core
            .instance_update(&at.project, &at.name, put, if_match(&headers))
            .await?,
    ))
}

async fn patch(State(app): State<App>, at: At, headers: HeaderMap, Json(patch): Json<InstancePatch>) -> Result {
    app.core
        .instance_patch(&at.project, &at.name, patch, if_match(&headers))
        .await?;
    Ok(reply::done())
}

async fn rename(State(app): State<App>, at: At, Json(post): Json<InstancePost>) -> Result {
    Ok(reply::operation(
        &*app.core.instance_rename(&at.project, &at.name, post).await?,
    ))
}

async fn rebuild(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    at: At,
    Json(post): Json<InstanceRebuildPost>,
) -> Result {
    Ok(reply::operation(
        &*app.core.instance_rebuild(&caller, &at.project, &at.name, post).await?,
    ))
}

async fn delete(State(app): State<App>, at: At) -> Result {
    Ok(reply::operation(
        &*app.core.instance_delete(&at.project, &at.name).await?,
    ))
}

async fn state(State(app): State<App>, at: At) -> Result {
    let state = app.core.instance_state(&at.project, &at.name).await?;
    Ok(reply::tagged(&state.value, &state.etag))
}

async fn change_state(State(app): State<App>, at: At, Json(put): Json<InstanceStatePut>) -> Result {
    Ok(reply::operation(
        &*app.core.instance_state_change(&at.project, &at.name, put).await?,
    ))
}

/// The parts of an instance, as paths or whole.
pub(super) fn parts<T: Serialize>(at: &At, kind: &str, all: &[T], name: impl Fn(&T) -> &str) -> Result<Response> {
    if at.params.recursion()? > 0 {
        return Ok(reply::sync(all));
    }
    let prefix = format!("{}/{kind}", at.path());
    let paths: Vec<String> = all.iter().map(|part| path(&prefix, name(part), &at.project)).collect();
    Ok(reply::sync(&paths))
}

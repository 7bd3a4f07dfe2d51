//! Projects.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::wire::wire;
use crate::{Config, config};

/// The project that is there when nobody made one.
pub const DEFAULT: &str = "default";

wire! {
    /// A project.
    pub struct Project {
        /// Its name.
        pub name: String,
        /// What people wrote of it.
        pub description: String,
        /// Its configuration.
        pub config: Config,
        /// Paths of what is in it.
        pub used_by: Vec<String>,
    }

    /// `POST /1.0/projects`.
    pub struct ProjectsPost {
        /// Its name.
        pub name: String,
        /// What people wrote of it.
        pub description: String,
        /// Its configuration.
        pub config: Config,
    }

    /// `PUT /1.0/projects/{name}`.
    pub struct ProjectPut {
        /// Its configuration.
        pub config: Config,
        /// What people wrote of it.
        pub description: String,
    }

    /// `PATCH /1.0/projects/{name}`: what is absent stays.
    pub struct ProjectPatch {
        /// Keys to change; an empty value removes its key.
        pub config: Option<Config>,
        /// What people wrote of it.
        pub description: Option<String>,
    }

    /// `POST /1.0/projects/{name}`: a new name.
    pub struct ProjectPost {
        /// The new name.
        pub name: String,
    }

    /// `GET /1.0/projects/{name}/state`.
    pub struct ProjectState {
        /// What is used, by resource.
        pub resources: BTreeMap<String, ProjectStateResource>,
    }

    /// Use of one resource.
    pub struct ProjectStateResource {
        /// The limit; -1 without one.
        #[serde(rename = "Limit")]
        pub limit: i64,
        /// The use.
        #[serde(rename = "Usage")]
        pub usage: i64,
    }
}

impl Project {
    /// The changeable part, as a PUT would send it back.
    pub fn to_put(&self) -> ProjectPut {
        ProjectPut {
            config: self.config.clone(),
            description: self.description.clone(),
        }
    }

    /// What an ETag is made of.
    pub fn etag_parts(&self) -> Value {
        serde_json::json!([self.description, self.config])
    }
}

impl ProjectPatch {
    /// Changes `put` as the PATCH asks.
    pub fn apply(self, put: &mut ProjectPut) {
        if let Some(description) = self.description {
            put.description = description;
        }
        config::merge(&mut put.config, self.config.unwrap_or_default());
    }
}

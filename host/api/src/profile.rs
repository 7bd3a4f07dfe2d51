//! Profiles: configuration and devices that instances share.

use serde_json::Value;

use crate::wire::wire;
use crate::{Config, Devices, config};

wire! {
    /// A profile.
    pub struct Profile {
        /// Its name.
        pub name: String,
        /// What people wrote of it.
        pub description: String,
        /// Its configuration.
        pub config: Config,
        /// Its devices.
        pub devices: Devices,
        /// Paths of the instances that use it.
        pub used_by: Vec<String>,
        /// Its project.
        pub project: String,
    }

    /// `POST /1.0/profiles`.
    pub struct ProfilesPost {
        /// Its name.
        pub name: String,
        /// What people wrote of it.
        pub description: String,
        /// Its configuration.
        pub config: Config,
        /// Its devices.
        pub devices: Devices,
    }

    /// `PUT /1.0/profiles/{name}`.
    pub struct ProfilePut {
        /// Its configuration.
        pub config: Config,
        /// What people wrote of it.
        pub description: String,
        /// Its devices.
        pub devices: Devices,
    }

    /// `PATCH /1.0/profiles/{name}`: what is absent stays.
    pub struct ProfilePatch {
        /// Keys to change; an empty value removes its key.
        pub config: Option<Config>,
        /// What people wrote of it.
        pub description: Option<String>,
        /// Devices to add or to replace.
        pub devices: Option<Devices>,
    }

    /// `POST /1.0/profiles/{name}`: a new name.
    pub struct ProfilePost {
        /// The new name.
        pub name: String,
    }
}

impl Profile {
    /// The changeable part, as a PUT would send it back.
    pub fn to_put(&self) -> ProfilePut {
        ProfilePut {
            config: self.config.clone(),
            description: self.description.clone(),
            devices: self.devices.clone(),
        }
    }

    /// What an ETag is made of.
    pub fn etag_parts(&self) -> Value {
        serde_json::json!([self.config, self.description, self.devices])
    }
}

impl ProfilePatch {
    /// Changes `put` as the PATCH asks.
    pub fn apply(self, put: &mut ProfilePut) {
        if let Some(description) = self.description {
            put.description = description;
        }
        config::merge(&mut put.config, self.config.unwrap_or_default());
        put.devices.extend(self.devices.unwrap_or_default());
    }
}

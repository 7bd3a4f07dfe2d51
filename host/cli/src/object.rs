//! Objects that have configuration: showing, changing and editing them is the same for all of them.

use std::collections::BTreeSet;

use hutch_api::instance::{Instance, InstancePut, InstanceSnapshot, InstanceSnapshotPut};
use hutch_api::network::{Network, NetworkPut};
use hutch_api::profile::{Profile, ProfilePut};
use hutch_api::project::{Project, ProjectPut};
use hutch_api::server::{Server, ServerPut};
use hutch_api::storage::{StoragePool, StoragePoolPut, StorageVolume, StorageVolumePut};
use hutch_api::{Config, Devices};
use hyper::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::client::{ApiPath, Client, Progress, Tagged};
use crate::edit;
use crate::error::{Error, Result};
use crate::output;

/// The HTTP status for "somebody else changed it meanwhile".
const PRECONDITION_FAILED: u16 = 412;

/// An object of the API with a part that can be changed.
pub(crate) trait Object: DeserializeOwned + Serialize + Default {
    /// The changeable part.
    type Put: DeserializeOwned + Serialize;

    /// The changeable part, as it is.
    fn to_put(&self) -> Self::Put;
}

macro_rules! objects {
    ($($object:ty => $put:ty),* $(,)?) => {
        $(impl Object for $object {
            type Put = $put;

            fn to_put(&self) -> $put {
                <$object>::to_put(self)
            }
        })*
    };
}

objects! {
    Instance => InstancePut,
    Network => NetworkPut,
    Profile => ProfilePut,
    Project => ProjectPut,
    StoragePool => StoragePoolPut,
    StorageVolume => StorageVolumePut,
    hutch_api::image::Image => hutch_api::image::ImagePut,
}

impl Object for Server {
    type Put = ServerPut;

    fn to_put(&self) -> ServerPut {
        ServerPut {
            config: self.config.clone(),
        }
    }
}

impl Object for InstanceSnapshot {
    type Put = InstanceSnapshotPut;

    fn to_put(&self) -> InstanceSnapshotPut {
        InstanceSnapshotPut {
            expires_at: Some(self.expires_at),
        }
    }
}

impl Object for hutch_api::image::ImageAliasesEntry {
    type Put = hutch_api::image::ImageAliasesEntryPut;

    fn to_put(&self) -> Self::Put {
        Self::Put {
            description: self.description.clone(),
            target: self.target.clone(),
        }
    }
}

/// Objects with devices.
pub(crate) trait WithDevices: Object {
    /// The object's own devices.
    fn devices(put: &mut Self::Put) -> &mut Devices;
}

impl WithDevices for Instance {
    fn devices(put: &mut InstancePut) -> &mut Devices {
        &mut put.devices
    }
}

impl WithDevices for Profile {
    fn devices(put: &mut ProfilePut) -> &mut Devices {
        &mut put.devices
    }
}

/// Where an object is, and what to call it.
pub(crate) struct Place<'a> {
    /// The daemon.
    pub(crate) client: &'a Client,
    /// Its path.
    pub(crate) path: ApiPath,
    /// Its name, for errors.
    pub(crate) name: &'a str,
}

impl Place<'_> {
    /// The object.
    pub(crate) async fn get<T: DeserializeOwned>(&self) -> Result<T> {
        self.client
            .get(self.path.clone())
            .await
            .map_err(|error| error.about(self.name))
    }

    /// The object and its tag.
    async fn tagged<T: DeserializeOwned>(&self) -> Result<Tagged<T>> {
        self.client
            .get_tagged(self.path.clone())
            .await
            .map_err(|error| error.about(self.name))
    }

    /// Replaces the changeable part, if it is still what the tag stands for.
    async fn put<T: Serialize>(&self, put: &T, etag: Option<String>) -> Result<()> {
        let answer = self.client.send(Method::PUT, self.path.clone(), put, etag).await;
        let done = match answer {
            Ok(answer) => self.client.finish(answer, &Progress::hidden()).await,
            Err(error) => Err(error),
        };
        match done {
            Err(error) if error.status() == Some(PRECONDITION_FAILED) => Err(Error::usage(format!(
                "{} was changed by somebody else at the same time; look at it and try again",
                self.name
            ))),
            other => other.map(drop).map_err(|error| error.about(self.name)),
        }
    }

    /// Changes the changeable part.
    pub(crate) async fn modify<T: Object>(&self, change: impl FnOnce(&T, &mut T::Put) -> Result<()>) -> Result<()> {
        let Tagged { value, etag } = self.tagged::<T>().await?;
        let mut put = value.to_put();
        change(&value, &mut put)?;
        self.put(&put, etag).await
    }

    /// Prints the object as YAML.
    pub(crate) async fn show<T: Object>(&self) -> Result<()> {
        output::print_yaml(&self.get::<T>().await?)
    }

    /// Prints the value of a key, or of a field of the object itself. What is not set is an empty line.
    pub(crate) async fn print<T: Object>(&self, key: &str, property: bool) -> Result<()> {
        let value = to_value(&self.get::<T>().await?)?;
        let found = if property { &value[key] } else { &value["config"][key] };
        if property && found.is_null() {
            return Err(Error::usage(format!("{} has no property {key:?}", self.name)));
        }
        output::print_line(&match found {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        })
    }

    /// Sets keys of the configuration, or fields of the object itself.
    pub(crate) async fn set<T: Object>(&self, settings: Config, property: bool) -> Result<()> {
        let Tagged { value, etag } = self.tagged::<T>().await?;
        let mut put = to_value(&value.to_put())?;
        for (key, text) in settings {
            if property {
                set_property(&mut put, &key, text, self.name)?;
            } else {
                put["config"][key] = Value::String(text);
            }
        }
        self.put(&put, etag).await
    }

    /// Removes a key of the configuration, or empties a field of the object itself.
    pub(crate) async fn unset<T: Object>(&self, key: &str, property: bool) -> Result<()> {
        if property {
            return self
                .set::<T>(Config::from([(key.to_owned(), String::new())]), true)
                .await;
        }
        let Tagged { value, etag } = self.tagged::<T>().await?;
        let mut put = to_value(&value.to_put())?;
        let removed = put["config"].as_object_mut().and_then(|config| config.remove(key));
        if removed.is_none() {
            return Err(Error::usage(format!("{}: {key} is not set here", self.name)));
        }
        self.put(&put, etag).await
    }

    /// Lets the user edit the changeable part, or reads it from standard input if nobody is at the terminal.
    pub(crate) async fn edit<T: Object>(&self) -> Result<()> {
        if let Some(text) = edit::piped()? {
            let put = read_put::<T>(&text, "standard input")?;
            return self.put(&put, None).await;
        }
        let Tagged { value, etag } = self.tagged::<T>().await?;
        let text = format!(
            "# {}. Lines that begin with # don't count; nothing is changed if the file is left as it is.\n{}",
            self.name,
            output::to_yaml(&value.to_put())?
        );
        edit::until_it_works(&text, async |text| {
            let put = read_put::<T>(text, "the file")?;
            self.put(&put, etag.clone()).await
        })
        .await
    }
}

fn to_value<T: Serialize>(value: &T) -> Result<Value> {
    serde_json::to_value(value).map_err(|source| Error::Json {
        what: "the object".into(),
        source,
    })
}

/// Sets a field, which keeps the type that it has.
fn set_property(put: &mut Value, key: &str, text: String, name: &str) -> Result<()> {
    let refused = |why: &str| Err(Error::usage(format!("{name}: the property {key:?} {why}")));
    match put.get_mut(key) {
        Some(field @ Value::String(_)) => *field = Value::String(text),
        Some(field @ Value::Bool(_)) => match text.as_str() {
            "true" | "yes" | "on" | "1" => *field = Value::Bool(true),
            "false" | "no" | "off" | "0" | "" => *field = Value::Bool(false),
            _ => return refused("is true or false"),
        },
        Some(_) => return refused("can't be set this way, but edited"),
        None => return refused("does not exist, or can't be changed"),
    }
    Ok(())
}

/// Reads the changeable part from what may be the whole object. A field of neither is a mistake, and would be lost.
fn read_put<T: Object>(text: &str, what: &str) -> Result<T::Put> {
    let value: Value = output::from_yaml(text, what)?;
    let known: BTreeSet<String> = [to_value(&T::default())?, to_value(&T::default().to_put())?]
        .iter()
        .filter_map(Value::as_object)
        .flat_map(|map| map.keys().cloned())
        .collect();
    let Some(given) = value.as_object() else {
        return Err(Error::usage(format!("{what} has no fields such as \"config:\"")));
    };
    if let Some(field) = given.keys().find(|field| !known.contains(*field)) {
        return Err(Error::usage(format!(
            "{what} has a field {field:?}, which does not exist"
        )));
    }
    serde_json::from_value(value).map_err(|source| Error::Json {
        what: what.into(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_shown_can_be_put_back() {
        let profile = Profile {
            name: "p".into(),
            used_by: vec!["x".into()],
            ..Profile::default()
        };
        let yaml = output::to_yaml(&profile).unwrap();
        assert_eq!(read_put::<Profile>(&yaml, "test").unwrap(), profile.to_put());
    }

    #[test]
    fn a_misspelt_field_is_refused_instead_of_lost() {
        let error = read_put::<Profile>("confg: {}\n", "the file").unwrap_err();
        assert_eq!(
            error.to_string(),
            "the file has a field \"confg\", which does not exist"
        );
        assert!(read_put::<Profile>("just text", "the file").is_err());
    }

    #[test]
    fn unquoted_values_become_texts() {
        let put = read_put::<Profile>("config: {limits.cpu: 2, boot.autostart: true}", "test").unwrap();
        assert_eq!(put.config["limits.cpu"], "2");
        assert_eq!(put.config["boot.autostart"], "true");
    }

    #[test]
    fn properties_keep_their_type() {
        let mut put = serde_json::json!({"description": "", "ephemeral": false, "profiles": []});
        set_property(&mut put, "description", "x".into(), "c1").unwrap();
        set_property(&mut put, "ephemeral", "yes".into(), "c1").unwrap();
        assert_eq!(put["description"], "x");
        assert_eq!(put["ephemeral"], true);
        assert!(set_property(&mut put, "ephemeral", "maybe".into(), "c1").is_err());
        assert!(set_property(&mut put, "profiles", "x".into(), "c1").is_err());
        assert!(set_property(&mut put, "nothing", "x".into(), "c1").is_err());
    }
}

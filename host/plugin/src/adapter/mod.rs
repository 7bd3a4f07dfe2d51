//! The driver traits of `hutch-driver`, carried out by plugins: one adapter per family, and the checks of what they answer.

mod answer;
mod image;
mod network;
mod storage;
mod zone;

pub(crate) use image::ImageAdapter;
pub(crate) use network::NetworkAdapter;
pub(crate) use storage::StorageAdapter;
pub(crate) use zone::ZoneAdapter;

use hutch_driver::{DriverError, Options};

use crate::export::{Export, Exports};
use crate::plugin::Plugin;

impl Plugin {
    /// Holds the options of an object against the schema in the manifest, where it has one, so that a mistake is told in
    /// the same words whatever the driver.
    fn check_options(&self, options: &Options) -> Result<(), DriverError> {
        match &self.manifest.options.schema {
            Some(schema) => schema
                .validate(options)
                .map_err(|reason| DriverError::new("invalid", reason).from_plugin(self.id(), &self.manifest.version)),
            None => Ok(()),
        }
    }
}

/// A choice of a function, for a type checker that needs to be told that it holds for any borrow.
fn picked<P, T, F>(pick: F) -> F
where
    F: for<'e> FnOnce(&'e Exports) -> Option<&'e Export<P, T>>,
{
    pick
}

/// Keys and values as the WIT packages have them.
fn pairs(options: &Options) -> Vec<(String, String)> {
    options
        .iter()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

//! The commands, by what they are about.

pub(crate) mod common;
pub(crate) mod configure;
pub(crate) mod console;
pub(crate) mod create;
pub(crate) mod device;
pub(crate) mod exec;
pub(crate) mod file;
pub(crate) mod image_name;
pub(crate) mod list;
pub(crate) mod network;
pub(crate) mod profile;
pub(crate) mod project;
pub(crate) mod relocate;
pub(crate) mod snapshot;
pub(crate) mod state;
pub(crate) mod storage;
pub(crate) mod volume;

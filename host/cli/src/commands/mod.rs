//! The commands, by what they are about.

pub(crate) mod admin;
pub(crate) mod common;
pub(crate) mod configure;
pub(crate) mod console;
pub(crate) mod create;
pub(crate) mod device;
pub(crate) mod documents;
pub(crate) mod exec;
pub(crate) mod file;
pub(crate) mod image;
pub(crate) mod image_name;
pub(crate) mod info;
pub(crate) mod list;
pub(crate) mod monitor;
pub(crate) mod network;
pub(crate) mod operation;
pub(crate) mod plugin;
pub(crate) mod profile;
pub(crate) mod project;
pub(crate) mod publish;
pub(crate) mod relocate;
pub(crate) mod remote;
pub(crate) mod snapshot;
pub(crate) mod state;
pub(crate) mod storage;
pub(crate) mod volume;

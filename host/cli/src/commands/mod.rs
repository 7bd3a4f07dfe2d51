//! The commands, by what they are about.

pub(crate) mod console;
pub(crate) mod create;
pub(crate) mod exec;
pub(crate) mod image_name;
pub(crate) mod list;
pub(crate) mod network;
pub(crate) mod state;

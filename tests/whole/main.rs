//! Tests of the whole, by concern. Each starts a daemon of its own, in a directory and a network namespace of its own, and
//! drives it over its socket. See the crate's documentation for how they are run.

mod author;
mod book;
mod broken;
mod clients;
mod confinement;
mod conformance;
mod copies;
mod debian;
mod devices;
mod downloads;
mod drivers;
mod exec;
mod faults;
mod files;
mod habits;
mod hostile;
mod inputs;
mod installed;
mod lifecycle;
mod limits;
mod making;
mod malice;
mod mounts;
mod network;
mod nics;
mod plugins;
mod pools;
mod profiles;
mod requests;
mod restart;
mod snapshots;
mod socket;
mod storage;
mod syscalls;
mod templates;

//! What needs the whole: a daemon with its keepers and plugins, real containers, and the clients that people have.
//!
//! The library is the harness that the tests (`whole/`) and the benchmarks (`hutch-bench`) share. It speaks to daemons over their
//! socket only, so that the same code drives Hutch and its peers. It needs root. Where the programs are is told by `HUTCHD`,
//! `HUTCH`, `HUTCH_KEEPER` and `HUTCH_PLUGINS`, which `cargo xtask test` and `cargo xtask bench` set.

pub mod daemon;
pub mod debian;
pub mod exec;
pub mod faulty;
pub mod image;
pub mod leftovers;
pub mod programs;
pub mod registry;
pub mod rest;
pub mod sample;
pub mod sandbox;
pub mod stock;
pub mod variant;
pub mod web;

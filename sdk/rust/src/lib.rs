//! What a driver in Rust is written with.
//!
//! A driver is a type that implements one trait for each interface of its family that it offers, in a library crate of type
//! `cdylib` and `rlib`, with its manifest beside `Cargo.toml`:
//!
//! ```ignore
//! use hutch_sdk::image::{Image, ImageRequest, Source};
//! use hutch_sdk::{Error, Host, Result};
//!
//! struct Catalogue;
//!
//! impl Source for Catalogue {
//!     fn resolve(host: &impl Host, request: &ImageRequest) -> Result<Image> {
//!         let index = host.http_get(&format!("{}/index.json", request.server), &[], None)?;
//!         find(&index.body, &request.name)?.ok_or_else(|| Error::not_found(format!("there is no image {:?}", request.name)))
//!     }
//!     fn list(host: &impl Host, request: &ImageRequest) -> Result<Vec<Image>> { … }
//! }
//!
//! hutch_sdk::image_plugin! { driver: Catalogue, exports: [source] }
//! ```
//!
//! `cargo build --target wasm32-wasip2` makes a finished plugin of it. No trait has default bodies: what is exported is what
//! is there, and the host takes the list of exports for the list of abilities. Calls to the host go through [`Host`], so
//! that the same code runs in unit tests on [`testing::FakeHost`], with `cargo test` and without WebAssembly.
//!
//! A call gets a fresh instance of the component. Nothing in memory lasts until the next one; what must last belongs into the
//! key-value store or onto the pool.

extern crate self as hutch_sdk;

pub mod bindings;
pub mod error;
#[doc(hidden)]
pub mod export;
pub mod host;
pub mod image;
pub mod network;
pub mod note;
pub mod options;
pub mod paths;
pub mod storage;
pub mod testing;

pub use bindings::imports::hutch::host::types::{MountPlan, TreePath};
pub use error::{Error, Result};
pub use host::Host;
pub use options::Options;

/// What generated code calls.
#[doc(hidden)]
pub use wit_bindgen::rt;

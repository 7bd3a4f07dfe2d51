//! What a driver in Rust is written with.
//!
//! A driver is a type that implements one trait for each interface of its family that it offers, in a library crate of type
//! `cdylib` and `rlib`, with its manifest beside `Cargo.toml`:
//!
//! ```
//! use hutch_sdk::image::{Image, ImageFile, ImageRequest, Source};
//! use hutch_sdk::{Error, Host, Result};
//!
//! struct Catalogue;
//!
//! /// The server has a file `sums.txt` of lines `CHECKSUM NAME`.
//! fn read(host: &impl Host, request: &ImageRequest) -> Result<Vec<Image>> {
//!     let sums = host.http_get(&format!("{}/sums.txt", request.server), &[], Some(1 << 20))?;
//!     let text = String::from_utf8(sums.body).map_err(|_| Error::io("sums.txt is not text"))?;
//!     let lines = text.lines().filter_map(|line| line.split_once(' '));
//!     let image = |(sum, name): (&str, &str)| Image {
//!         fingerprint: sum.to_owned(),
//!         aliases: vec![name.to_owned()],
//!         architecture: request.architecture.clone(),
//!         kind: "container".to_owned(),
//!         properties: Vec::new(),
//!         created: 0,
//!         expires: 0,
//!         files: vec![ImageFile {
//!             role: "unified".to_owned(),
//!             url: format!("{}/{name}.tar.xz", request.server),
//!             sha256: sum.to_owned(),
//!             size: None,
//!         }],
//!         build_key: None,
//!     };
//!     Ok(lines.map(image).collect())
//! }
//!
//! impl Source for Catalogue {
//!     fn resolve(host: &impl Host, request: &ImageRequest) -> Result<Image> {
//!         let found = read(host, request)?.into_iter().find(|image| image.aliases[0] == request.name);
//!         found.ok_or_else(|| Error::not_found(format!("there is no image {:?}", request.name)))
//!     }
//!
//!     fn list(host: &impl Host, request: &ImageRequest) -> Result<Vec<Image>> {
//!         read(host, request)
//!     }
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
pub mod zone;

pub use bindings::imports::hutch::host::types::{MountPlan, TreePath};
pub use error::{Error, Result};
pub use host::Host;
pub use options::Options;

/// What generated code calls.
#[doc(hidden)]
pub use wit_bindgen::rt;

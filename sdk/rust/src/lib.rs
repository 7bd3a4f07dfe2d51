//! What a driver in Rust is written with.
extern crate self as hutch_sdk;
pub mod bindings;
#[doc(hidden)]
pub use wit_bindgen::rt;

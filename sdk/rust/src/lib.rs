//! What a driver in Rust is written with.

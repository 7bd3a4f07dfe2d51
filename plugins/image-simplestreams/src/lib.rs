//! Image servers that speak simplestreams: files on a web server, with an index, one or more catalogues of products, and for
//! each version of a product the files that make an image, with their checksums.
//!
//! The driver reads the two kinds of JSON documents from the server that the caller named, and answers with addresses and
//! checksums: the host fetches what they stand for. Nothing is kept from one call to the next.

mod catalogue;
mod date;
mod select;
mod source;

/// The driver.
#[derive(Debug)]
pub struct Simplestreams;

hutch_sdk::image_plugin! { driver: Simplestreams, exports: [source] }

#[cfg(test)]
mod tests;

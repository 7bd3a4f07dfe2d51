//! An image source that misbehaves on request.
//!
//! The name that is asked for says how: the ways of `faults.rs`, and those of its own, which begin with `answer-` and `fetch-`. Of any other
//! name it has one image.

use hutch_sdk::image::{Image, ImageFile, ImageRequest, Source};
use hutch_sdk::{Host, Result};

#[allow(dead_code, reason = "some of it is the storage driver's alone")]
#[path = "../../src/faults.rs"]
mod faults;

/// The driver.
#[derive(Debug)]
pub struct Faulty;

hutch_sdk::image_plugin! { driver: Faulty, exports: [source] }

/// An image as it should be.
fn image(request: &ImageRequest) -> Image {
    let name = Some(request.name.as_str()).filter(|name| !name.is_empty());
    Image {
        fingerprint: "f".repeat(64),
        aliases: vec![name.unwrap_or("good").to_owned()],
        architecture: request.architecture.clone(),
        kind: request.kind.clone(),
        properties: vec![("description".to_owned(), "\u{1b}[31mred".to_owned())],
        created: 1_700_000_000,
        expires: 0,
        files: vec![file(&format!("{}/image", request.server))],
        build_key: None,
    }
}

fn file(url: &str) -> ImageFile {
    ImageFile {
        role: "unified".to_owned(),
        url: url.to_owned(),
        sha256: "f".repeat(64),
        size: Some(1 << 20),
    }
}

/// One with nothing in it, of which many take little.
fn nothing() -> Image {
    Image {
        fingerprint: String::new(),
        aliases: Vec::new(),
        architecture: String::new(),
        kind: String::new(),
        properties: Vec::new(),
        created: 0,
        expires: 0,
        files: Vec::new(),
        build_key: None,
    }
}

/// One with this text.
fn with_text(request: &ImageRequest, text: String) -> Image {
    Image {
        properties: vec![("description".to_owned(), text)],
        ..image(request)
    }
}

fn answer(host: &impl Host, request: &ImageRequest) -> Result<Vec<Image>> {
    let good = image(request);
    Ok(match request.name.as_str() {
        "answer-many" => vec![nothing(); 60_000],
        "answer-million" => vec![nothing(); 250_000],
        "answer-long" => vec![with_text(request, "x".repeat(1 << 20))],
        // Each is as long as a text may be, and all together are too much.
        "answer-texts" => vec![with_text(request, "\u{1}".repeat(60 << 10)); 100],
        "answer-alias" => vec![Image {
            aliases: vec!["a\u{1b}[2J".to_owned()],
            ..good
        }],
        "answer-fingerprint" => vec![Image {
            fingerprint: "../../etc".to_owned(),
            ..good
        }],
        "answer-kind" => vec![Image {
            kind: "toaster".to_owned(),
            ..good
        }],
        // Where the host may not be sent.
        "answer-elsewhere" => vec![Image {
            files: vec![file("http://169.254.169.254/latest")],
            ..good
        }],
        "answer-file" => vec![Image {
            files: vec![file("file:///etc/shadow")],
            ..good
        }],
        "answer-build" => vec![Image {
            files: Vec::new(),
            build_key: Some("key".to_owned()),
            ..good
        }],
        "fetch-elsewhere" => {
            host.http_get("http://127.0.0.2:9/", &[], None)?;
            vec![good]
        }
        "fetch-server" => {
            host.http_get(&request.server, &[], None)?;
            vec![good]
        }
        "" | "good" | "answer-red" => vec![good],
        fault => vec![Image {
            properties: faults::misbehave(host, fault)?,
            ..good
        }],
    })
}

impl Source for Faulty {
    fn resolve(host: &impl Host, request: &ImageRequest) -> Result<Image> {
        let mut images = answer(host, request)?;
        Ok(images.swap_remove(0))
    }

    fn list(host: &impl Host, request: &ImageRequest) -> Result<Vec<Image>> {
        answer(host, request)
    }
}

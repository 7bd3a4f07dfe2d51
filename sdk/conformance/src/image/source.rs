//! `hutch:image/source`.

use std::time::Duration;

use futures_util::future::try_join_all;
use hutch_driver::image::SourceImage;
use sha2::{Digest, Sha256};

use super::room::Source;
use super::server::{Mood, Server};
use crate::Stand;
use crate::case::{Case, Outcome, Stop, cases, ensure, fail, refused, skip};
use crate::faults::INJECTED;

/// Names that no image has.
const NOBODY: [&str; 5] = [
    "hutch-conformance-nobody",
    "../../etc/passwd",
    "a b\n",
    "%00",
    "\u{1F40C}",
];
/// How many requests of one call are looked at.
const MOST_REQUESTS: usize = 200;

pub(super) fn cases() -> Vec<Case> {
    cases! {
        "image.source.resolve.known": "the image that the source has is found by its name, for the architecture that was asked for" => known;
        "image.source.resolve.fingerprint": "an image is found by its fingerprint, too" => fingerprint;
        "image.source.resolve.content": "the files are those that size, checksum and fingerprint say" => content;
        "image.source.resolve.repeated": "asked ten times and eight times at once, the answer is the same" => repeated;
        "image.source.resolve.missing": "a name that no image has is not found, whatever it looks like" => missing;
        "image.source.resolve.longest": "a name of 1,000 bytes is not found" => longest;
        "image.source.resolve.architecture": "an image of another architecture is not passed off as the one asked for" => architecture;
        "image.source.resolve.option": "an option that nobody knows is invalid" => option;
        "image.source.resolve.server": "a server that answers nonsense, nothing or not at all is an error and no crash" => server;
        "image.source.resolve.host-error": "each error of the host's is told" => host_error;
        "image.source.resolve.denied": "without a permission the answer is not-granted" => denied;
        "image.source.list.known": "the image that the source has is in the list of all" => list_known;
        "image.source.list.prefix": "a list by the beginning of a name holds what begins so" => list_prefix;
        "image.source.list.server": "a server that answers nonsense, nothing or not at all is an error and no crash" => list_server;
    }
}

/// What every image must be.
fn sound(image: &SourceImage, what: &str) -> Outcome {
    let hex = |text: &str| text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if image.files.is_empty() {
        return ensure(image.build_key.is_some(), || {
            format!("{what} has neither files nor a build-key: there is no way to get it")
        });
    }
    ensure(hex(&image.fingerprint), || {
        format!("{what}: the fingerprint {:?} is no SHA-256", image.fingerprint)
    })?;
    let wrong = image.files.iter().find(|file| !hex(&file.sha256));
    ensure(wrong.is_none(), || {
        format!("{what}: a file's checksum is no SHA-256: {wrong:?}")
    })?;
    let mut roles: Vec<_> = image.files.iter().map(|file| file.role.as_str()).collect();
    roles.sort_unstable();
    ensure(roles == ["unified"] || roles == ["metadata", "rootfs"], || {
        format!("{what} is made of {roles:?}: it takes one file, unified, or two, metadata and rootfs")
    })
}

async fn known(stand: &Stand) -> Outcome {
    let source = Source::of(stand)?;
    let request = source.known();
    let image = source.resolve(&request).await?;
    sound(&image, "the image")?;
    ensure(image.architecture == request.architecture, || {
        format!(
            "it is of the architecture {:?}, and {:?} was asked for",
            image.architecture, request.architecture
        )
    })?;
    ensure(image.kind == request.kind, || {
        format!("it is a {}, and a {} was asked for", image.kind, request.kind)
    })
}

async fn fingerprint(stand: &Stand) -> Outcome {
    let source = Source::of(stand)?;
    let image = source.resolve(&source.known()).await?;
    if image.fingerprint.is_empty() {
        return skip("the image is built on demand, and has no fingerprint before that");
    }
    let again = source.resolve(&source.request(&image.fingerprint)).await?;
    ensure(again.fingerprint == image.fingerprint, || {
        format!("{} was found instead of {}", again.fingerprint, image.fingerprint)
    })
}

async fn content(stand: &Stand) -> Outcome {
    let source = Source::of(stand)?;
    let image = source.resolve(&source.known()).await?;
    if image.files.is_empty() {
        return skip("the image is built on demand");
    }
    let Some(folder) = &source.wanted.folder else {
        return skip("the files are not looked at without --serve FOLDER, from which they come");
    };
    let mut whole = Sha256::new();
    for file in &image.files {
        let Some(path) = file.url.strip_prefix(&source.wanted.server) else {
            return fail(format!("{} is not on the server {}", file.url, source.wanted.server));
        };
        let at = folder.join(path.trim_start_matches('/'));
        let bytes = std::fs::read(&at).map_err(|error| Stop::Fail(format!("{} is not there: {error}", file.url)))?;
        let sum = hex(&Sha256::digest(&bytes));
        ensure(sum == file.sha256, || {
            format!("{} has the checksum {sum}, and not {}", file.url, file.sha256)
        })?;
        ensure(file.size.is_none_or(|size| size == bytes.len() as u64), || {
            format!("{} has {} bytes, and not {:?}", file.url, bytes.len(), file.size)
        })?;
        whole.update(&bytes);
    }
    let whole = hex(&whole.finalize());
    ensure(whole == image.fingerprint, || {
        format!(
            "the files together have the fingerprint {whole}, and not {}",
            image.fingerprint
        )
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn same(one: &SourceImage, other: &SourceImage) -> Outcome {
    let text = |image: &SourceImage| serde_json::to_string(image).unwrap_or_default();
    ensure(text(one) == text(other), || {
        format!("the answer was {}, and then {}", text(one), text(other))
    })
}

async fn repeated(stand: &Stand) -> Outcome {
    let source = Source::of(stand)?;
    let request = source.known();
    let first = source.resolve(&request).await?;
    for _ in 0..9 {
        same(&first, &source.resolve(&request).await?)?;
    }
    let together = try_join_all((0..8).map(|_| source.resolve(&request))).await?;
    together.iter().try_for_each(|image| same(&first, image))
}

async fn missing(stand: &Stand) -> Outcome {
    let source = Source::of(stand)?;
    for name in NOBODY {
        let what = format!("resolving the name {name:?}");
        refused(
            source.resolve(&source.request(name)).await,
            &["not-found", "invalid"],
            &what,
        )?;
    }
    Ok(())
}

async fn longest(stand: &Stand) -> Outcome {
    let source = Source::of(stand)?;
    let answer = source.resolve(&source.request(&"n".repeat(1000))).await;
    refused(answer, &["not-found", "invalid"], "resolving a name of 1,000 bytes")
}

async fn architecture(stand: &Stand) -> Outcome {
    let source = Source::of(stand)?;
    let mut request = source.known();
    "pdp11".clone_into(&mut request.architecture);
    let codes = ["not-found", "invalid", "unsupported"];
    refused(
        source.resolve(&request).await,
        &codes,
        "resolving for the architecture \"pdp11\"",
    )
}

async fn option(stand: &Stand) -> Outcome {
    let source = Source::of(stand)?;
    let mut request = source.known();
    request
        .options
        .insert("hutch.conformance.nonsense".to_owned(), "1".to_owned());
    let what = "a request with the option \"hutch.conformance.nonsense\"";
    refused(source.resolve(&request).await, &["invalid"], what)
}

/// Codes for what a server did wrong.
const TOLD: [&str; 7] = [
    "not-found",
    "io",
    "unavailable",
    "invalid",
    "not-requested",
    "not-granted",
    "limit",
];

async fn server(stand: &Stand) -> Outcome {
    let source = Source::of(stand)?;
    if source.wanted.server.is_empty() {
        return skip("the source has no server");
    }
    for mood in Mood::ALL {
        let server = Server::start(mood).await?;
        let mut request = source.known();
        request.server.clone_from(&server.url);
        refused(
            source.resolve(&request).await,
            &TOLD,
            &format!("resolving at a server of the kind {mood:?}"),
        )?;
    }
    let mut request = source.known();
    // Nobody listens there: the port of discard(9), in a network without anybody.
    "http://127.0.0.1:9".clone_into(&mut request.server);
    refused(
        source.resolve(&request).await,
        &["unavailable", "io", "timeout"],
        "resolving where nobody listens",
    )
}

async fn list_server(stand: &Stand) -> Outcome {
    let source = Source::of(stand)?;
    if source.wanted.server.is_empty() {
        return skip("the source has no server");
    }
    for mood in [Mood::Broken, Mood::Garbage, Mood::Deep, Mood::Elsewhere, Mood::Cut] {
        let server = Server::start(mood).await?;
        let mut request = source.request("");
        request.server.clone_from(&server.url);
        refused(
            source.list(&request).await,
            &TOLD,
            &format!("a list of a server of the kind {mood:?}"),
        )?;
    }
    Ok(())
}

async fn host_error(stand: &Stand) -> Outcome {
    let source = Source::of(stand)?;
    let request = source.known();
    let first = source.resolve(&request).await?;
    for number in 0..MOST_REQUESTS {
        let (answer, struck) = stand.faults.failing_at(number, source.resolve(&request)).await;
        let Some(function) = struck else {
            return same(&first, &answer?);
        };
        let when = format!("{function} (call {} to the host) failed with {INJECTED}", number + 1);
        match answer {
            // What could not be had was not needed.
            Ok(image) => same(&first, &image).map_err(|stop| Stop::Fail(format!("{when}: {stop}")))?,
            Err(refused) if refused.error.is(INJECTED) => {}
            Err(refused) => return fail(format!("{when}, and the driver told another error: {refused}")),
        }
        same(&first, &source.resolve(&request).await?)?;
    }
    fail(format!("one call had the host do more than {MOST_REQUESTS} things"))
}

async fn denied(stand: &Stand) -> Outcome {
    let source = Source::of(stand)?;
    let request = source.known();
    let mut tried = 0;
    for permission in stand.requested() {
        let (answer, denied) = stand.faults.without(permission, source.resolve(&request)).await;
        let name = permission.name();
        match (answer, denied.first()) {
            (Err(refused), Some(_)) if refused.error.is("not-granted") => tried += 1,
            (Err(refused), _) => return fail(format!("without the permission {name}: {refused}")),
            (Ok(_), Some(function)) => {
                return fail(format!(
                    "without the permission {name}, {function} was refused and the call succeeded"
                ));
            }
            (Ok(_), None) => {}
        }
        source.resolve(&request).await?;
    }
    if tried == 0 {
        return skip("resolving the image takes no permission that the manifest requests");
    }
    Ok(())
}

async fn list_known(stand: &Stand) -> Outcome {
    let source = Source::of(stand)?;
    let image = source.resolve(&source.known()).await?;
    let all = source.list(&source.request("")).await?;
    all.iter()
        .try_for_each(|image| sound(image, &format!("{:?} of the list", image.aliases)))?;
    let is_it = |other: &SourceImage| {
        if image.fingerprint.is_empty() {
            other.build_key.is_some() && other.aliases.contains(&source.wanted.name)
        } else {
            other.fingerprint == image.fingerprint
        }
    };
    ensure(all.iter().any(is_it), || {
        format!(
            "{:?} is not among the {} images of the list",
            source.wanted.name,
            all.len()
        )
    })
}

async fn list_prefix(stand: &Stand) -> Outcome {
    let source = Source::of(stand)?;
    let name = &source.wanted.name;
    let some = source.list(&source.request(name)).await?;
    ensure(!some.is_empty(), || {
        format!("nothing begins with {name:?}, which is an image")
    })?;
    let other = some.iter().find(|image| {
        !image
            .aliases
            .iter()
            .chain([&image.fingerprint])
            .any(|alias| alias.starts_with(name.as_str()))
    });
    ensure(other.is_none(), || {
        format!("the list by {name:?} has an image of other names: {other:?}")
    })?;
    let none = source.list(&source.request(NOBODY[0])).await?;
    ensure(none.is_empty(), || {
        format!("{} images have names that begin with {:?}", none.len(), NOBODY[0])
    })?;
    // A list is asked for by people who wait.
    let begun = std::time::Instant::now();
    source.list(&source.request("")).await?;
    ensure(begun.elapsed() < Duration::from_secs(30), || {
        format!("a list took {:?}", begun.elapsed())
    })
}

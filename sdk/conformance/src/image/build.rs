//! `hutch:image/build`. Building takes what a source says that it takes (programs, a mirror), so it is done once and looked at.

use super::room::Source;
use crate::Stand;
use crate::case::{Case, Outcome, Stop, cases, ensure, fail, refused, skip};
use crate::plan;

pub(super) fn cases() -> Vec<Case> {
    cases! {
        "image.build.build.missing": "a name that no image has can't be built, and leaves nothing" => missing;
        "image.build.build.denied": "without a permission the answer is not-granted" => denied;
        "image.build.build.whole": "an image is built into its scratch directory, with files that lie below its root" => whole;
    }
}

/// A source whose image is built, and an empty directory.
async fn buildable(stand: &Stand) -> Outcome<(Source, String)> {
    let source = Source::of(stand)?;
    let image = source.resolve(&source.known()).await?;
    if image.build_key.is_none() {
        return skip("the image is not one that is built");
    }
    let name = format!("scratch{}", stand.number());
    std::fs::create_dir(stand.scratch.join(&name))
        .map_err(|error| Stop::Fail(format!("can't make a directory: {error}")))?;
    Ok((source, name))
}

fn left(stand: &Stand, scratch: &str) -> Outcome<Vec<String>> {
    crate::tree::names(&stand.scratch.join(scratch)).map_err(|error| Stop::Fail(format!("can't look into it: {error}")))
}

async fn missing(stand: &Stand) -> Outcome {
    let (source, scratch) = buildable(stand).await?;
    let request = source.request("hutch-conformance-nobody");
    let answer = source.build(stand, &request, &scratch).await;
    refused(answer, &["not-found", "invalid"], "building what no source has")?;
    let left = left(stand, &scratch)?;
    ensure(left.is_empty(), || format!("it left {left:?}"))
}

async fn denied(stand: &Stand) -> Outcome {
    let (source, scratch) = buildable(stand).await?;
    let request = source.known();
    let mut tried = 0;
    for permission in stand.requested() {
        if permission == crate::Permission::Fs && !stand.builds {
            // The archive is made before it is put into the scratch tree.
            continue;
        }
        let call = source.build(stand, &request, &scratch);
        let (answer, denied) = stand.faults.without(permission, call).await;
        let name = permission.name();
        match (answer, denied.first()) {
            (Err(refused), Some(_)) if refused.error.is("not-granted") => tried += 1,
            (Err(_), None) => {}
            (Err(refused), Some(_)) => return fail(format!("without the permission {name}: {refused}")),
            (Ok(_), Some(function)) => {
                return fail(format!(
                    "without the permission {name}, {function} was refused and the call succeeded"
                ));
            }
            (Ok(_), None) => {}
        }
    }
    if tried == 0 {
        return skip("building takes no permission that could be taken away here");
    }
    Ok(())
}

async fn whole(stand: &Stand) -> Outcome {
    if !stand.builds {
        return skip("building takes the machine's network: use --network machine");
    }
    let (source, scratch) = buildable(stand).await?;
    let built = source.build(stand, &source.known(), &scratch).await?;
    let mut call = hutch_driver::Call::new("default", "image");
    call.roots.push(hutch_driver::Root {
        id: "scratch".to_owned(),
        path: stand.scratch.join(&scratch),
        writable: false,
    });
    let archive = plan::place(&call, &built.rootfs)?;
    let size = std::fs::metadata(&archive).map(|found| found.len()).unwrap_or(0);
    ensure(size > 0, || format!("there is no archive at {}", built.rootfs.path))?;
    let outside = built
        .files
        .iter()
        .find(|file| file.path.starts_with('/') || file.path.split('/').any(|part| part == ".."));
    ensure(outside.is_none(), || format!("{outside:?} does not lie below the root"))
}

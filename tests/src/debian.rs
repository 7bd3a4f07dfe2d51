//! A Debian image, built by Hutch's own image source and kept outside the tree, because a mirror is slow and should be spared.

use crate::daemon::Daemon;
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The release that is tested with.
const RELEASE: &str = "bookworm";

/// How long a build may take.
const PATIENCE: Duration = Duration::from_secs(1200);

/// The image's file: from the cache, or built by `daemon`, which must reach this machine's package mirror.
///
/// # Errors
/// When it can't be built or kept.
pub fn image(daemon: &Daemon) -> Result<PathBuf> {
    // Several tests want it at once, and one builds it.
    static BUILDING: Mutex<()> = Mutex::new(());
    let _building = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    let place = cached()?;
    if place.is_file() {
        return Ok(place);
    }
    build(daemon, &place)?;
    Ok(place)
}

/// Where the image is kept: below `HUTCH_TEST_CACHE`, or else the user's cache directory.
fn cached() -> Result<PathBuf> {
    let directory = match std::env::var_os("HUTCH_TEST_CACHE") {
        Some(given) => PathBuf::from(given),
        None => match std::env::var_os("XDG_CACHE_HOME") {
            Some(cache) => PathBuf::from(cache).join("hutch-tests"),
            None => PathBuf::from(std::env::var_os("HOME").context("neither HOME nor HUTCH_TEST_CACHE is set")?)
                .join(".cache/hutch-tests"),
        },
    };
    std::fs::create_dir_all(&directory).with_context(|| format!("can't create {}", directory.display()))?;
    Ok(directory.join(format!("debian-{RELEASE}-{}.export", std::env::consts::ARCH)))
}

/// Has `daemon` build the image, and writes its export to `place`.
///
/// # Errors
/// When one of both fails.
pub fn build(daemon: &Daemon, place: &std::path::Path) -> Result<()> {
    let mut client = daemon.client().patience(PATIENCE);
    let source = json!({ "type": "image", "mode": "pull", "protocol": "debian", "server": "", "alias": RELEASE });
    let ended = client
        .run(
            "POST",
            "/1.0/images",
            &json!({ "source": source, "public": false, "auto_update": false }),
        )
        .context("building Debian")?;
    let fingerprint = ended["metadata"]["fingerprint"]
        .as_str()
        .context("an image without fingerprint")?
        .to_owned();
    let answer = client.send("GET", &format!("/1.0/images/{fingerprint}/export"), &[], b"")?;
    ensure!(
        answer.status == 200,
        "the export of the image: {}: {}",
        answer.status,
        answer.error()
    );
    let fresh = place.with_extension(format!("{}", std::process::id()));
    std::fs::write(&fresh, &answer.body).with_context(|| format!("can't write {}", fresh.display()))?;
    std::fs::rename(&fresh, place)?;
    Ok(())
}

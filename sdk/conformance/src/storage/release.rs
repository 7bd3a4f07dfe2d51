//! `hutch:storage/release`: what the action leaves out.

use super::room::{Pool, c, image, state};
use crate::Stand;
use crate::case::{Case, Outcome, cases, ensure, refused, skip};

pub(super) fn cases() -> Vec<Case> {
    cases! {
        "storage.release.volume.keeps": "a volume that is let go, used and let go again keeps everything that was written to it" => keeps;
        "storage.release.volume.complete": "what was deleted from a volume is not there again after it was let go" => complete;
        "storage.release.volume.usable": "a volume that was let go can be copied, renamed, reconciled and deleted" => usable;
        "storage.release.volume.snapshots": "snapshots are taken of a volume that was let go, and restored to one" => snapshots;
        "storage.release.volume.missing": "a volume that is not there can't be let go" => missing;
    }
}

async fn keeps(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let one = pool.add_container("c1", "0").await?;
    for mark in ["1", "2", "3"] {
        pool.write(&one, mark).await?;
        let before = pool.read(&one).await?;
        pool.release(&one).await?;
        pool.holds(&one, &before, "after it was let go").await?;
    }
    pool.says(&image(0), "image", "after a volume that was made from it was let go")
        .await
}

async fn complete(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let one = pool.add_container("c1", "one").await?;
    pool.release(&one).await?;
    pool.with(&one, |at| {
        let removed = std::fs::remove_file(at.join("run")).and_then(|()| {
            // The size and the time stay as they were, the mode does not.
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            std::fs::set_permissions(at.join("etc/deep/er/file"), mode)
        });
        removed.map_err(|error| super::room::system("change the volume", &error))
    })
    .await?;
    let changed = pool.read(&one).await?;
    ensure(!changed.contains_key("./run"), || "a file can't be removed".to_owned())?;
    pool.release(&one).await?;
    pool.holds(&one, &changed, "after it was changed and let go").await
}

async fn usable(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let one = pool.add_container("c1", "one").await?;
    pool.release(&one).await?;
    pool.reconcile(&[state(&image(0), &[]), state(&one, &[])]).await?;
    pool.rename(&one, "c2").await?;
    let two = c("c2");
    pool.release(&two).await?;
    if stand.can("clone") {
        pool.copy(&two, None, &c("copy"), false).await?;
        pool.says(&c("copy"), "one", "copied from one that was let go").await?;
    }
    pool.says(&two, "one", "renamed after it was let go").await?;
    pool.release(&two).await?;
    pool.delete(&two).await?;
    pool.lacks(&two, "deleted after it was let go").await
}

async fn snapshots(stand: &Stand) -> Outcome {
    if !stand.can("snapshot") {
        return skip("the driver exports no snapshot");
    }
    let pool = Pool::made(stand).await?;
    let one = pool.add_container("c1", "1").await?;
    pool.release(&one).await?;
    pool.snapshot(&one, "s1", false).await?;
    pool.write(&one, "2").await?;
    pool.release(&one).await?;
    pool.snapshot(&one, "s2", false).await?;
    pool.write(&one, "3").await?;
    pool.snapshot_restore(&one, "s1").await?;
    pool.release(&one).await?;
    pool.says(&one, "1", "restored and let go").await?;
    pool.snapshot_says(&one, "s2", "2", "after another one was restored")
        .await?;
    pool.release(&one).await?;
    pool.snapshot_says(&one, "s1", "1", "after its volume was let go").await
}

async fn missing(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    refused(
        pool.release(&c("nobody")).await,
        &["not-found"],
        "letting go of what is not there",
    )
}

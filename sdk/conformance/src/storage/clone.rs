//! `hutch:storage/clone`: what the actions leave out.

use futures_util::future::try_join_all;

use super::room::{HOSTILE, LONGEST_VOLUME, Pool, c, volume};
use crate::Stand;
use crate::case::{Case, Outcome, cases, ensure, refused, skip};

pub(super) fn cases() -> Vec<Case> {
    cases! {
        "storage.clone.copy.independent": "what is written to a copy is not in its source, nor the other way" => independent;
        "storage.clone.copy.outlives": "a copy keeps its content when its source is deleted, snapshots and all" => outlives;
        "storage.clone.copy.missing": "what is not there can't be copied" => missing;
        "storage.clone.copy.taken": "a copy does not take the place of another volume" => taken;
        "storage.clone.copy.plain": "a plain copy is one tree with the same content" => plain;
        "storage.clone.copy.custom": "a custom volume can be copied, too" => custom;
        "storage.clone.copy.concurrent": "four copies of one volume are made at once" => concurrent;
        "storage.clone.copy.names": "a copy may have the longest name, and none that is no name" => names;
    }
}

async fn independent(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let (one, copy) = (pool.add_container("c1", "one").await?, c("copy"));
    let before = pool.read(&one).await?;
    pool.copy(&one, None, &copy, false).await?;
    pool.holds(&copy, &before, "compared with its source").await?;
    pool.write(&copy, "copy").await?;
    pool.holds(&one, &before, "after its copy was changed").await?;
    pool.write(&one, "changed").await?;
    pool.says(&copy, "copy", "after its source was changed").await
}

async fn outlives(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let (one, copy) = (pool.add_container("c1", "one").await?, c("copy"));
    pool.copy(&one, None, &copy, false).await?;
    let from_snapshot = c("from-snapshot");
    if stand.can("snapshot") {
        pool.snapshot(&one, "s1", false).await?;
        pool.copy(&one, Some("s1"), &from_snapshot, false).await?;
        pool.snapshot_delete(&one, "s1").await?;
    }
    pool.delete(&one).await?;
    pool.delete(&super::room::image(0)).await?;
    if stand.can("snapshot") {
        pool.says(&from_snapshot, "one", "after its source was deleted").await?;
    }
    pool.says(&copy, "one", "after its source was deleted").await
}

async fn missing(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let one = pool.add_container("c1", "one").await?;
    refused(
        pool.copy(&c("nobody"), None, &c("copy"), false).await,
        &["not-found"],
        "copying what is not there",
    )?;
    if stand.can("snapshot") {
        let answer = pool.copy(&one, Some("nobody"), &c("copy"), false).await;
        refused(answer, &["not-found"], "copying a snapshot that is not there")?;
    }
    pool.lacks(&c("copy"), "of what is not there").await
}

async fn taken(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let (one, two) = (
        pool.add_container("c1", "one").await?,
        pool.add_container("c2", "two").await?,
    );
    let answer = pool.copy(&one, None, &two, false).await;
    refused(answer, &["already-exists"], "copying to a name that is taken")?;
    pool.says(&two, "two", "after a copy wanted its name").await
}

async fn plain(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let one = pool.add_container("c1", "one").await?;
    let before = pool.read(&one).await?;
    pool.copy(&one, None, &c("copy"), true).await?;
    let plan = pool.mount(&c("copy")).await?;
    ensure(plan.kind == "bind", || {
        format!("the plan of a plain copy is of the kind {:?}", plan.kind)
    })?;
    pool.holds(&c("copy"), &before, "compared with its source").await
}

async fn custom(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let (one, copy) = (volume("custom", "v1"), volume("custom", "v2"));
    pool.create(&one).await?;
    pool.write(&one, "one").await?;
    pool.copy(&one, None, &copy, false).await?;
    pool.says(&copy, "one", "copied").await
}

async fn concurrent(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let one = pool.add_container("c1", "one").await?;
    let copies: Vec<_> = (0..4).map(|number| c(&format!("copy{number}"))).collect();
    try_join_all(copies.iter().map(|copy| pool.copy(&one, None, copy, false))).await?;
    for copy in &copies {
        pool.says(copy, "one", "made beside three others").await?;
    }
    pool.says(&one, "one", "after four copies of it were made at once")
        .await
}

async fn names(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let one = pool.add_container("c1", "one").await?;
    let long = c(&"n".repeat(LONGEST_VOLUME));
    pool.copy(&one, None, &long, false).await?;
    pool.says(&long, "one", "with the longest name").await?;
    for name in HOSTILE {
        let answer = pool.copy(&one, None, &c(name), false).await;
        refused(answer, &["invalid"], &format!("clone.copy to the name {name:?}"))?;
        if stand.can("snapshot") {
            let answer = pool.copy(&one, Some(name), &c("copy"), false).await;
            refused(answer, &["invalid"], &format!("clone.copy of the snapshot {name:?}"))?;
        }
    }
    if !stand.can("snapshot") {
        return skip("the names of snapshots were not tried: the driver exports no snapshot");
    }
    Ok(())
}

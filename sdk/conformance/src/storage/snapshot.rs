//! `hutch:storage/snapshot`: what the actions leave out.

use super::room::{HOSTILE, LONGEST_SNAPSHOT, LONGEST_VOLUME, Pool, c};
use crate::Stand;
use crate::case::{Case, Outcome, cases, ensure, refused};

pub(super) fn cases() -> Vec<Case> {
    cases! {
        "storage.snapshot.create.point-in-time": "a snapshot keeps what the volume was, whatever is written later" => point_in_time;
        "storage.snapshot.create.live": "a snapshot of a mounted volume holds what was written before it" => live;
        "storage.snapshot.create.missing": "a snapshot of a volume that is not there can't be taken" => missing;
        "storage.snapshot.create.same-name": "snapshots of one name of different volumes are different snapshots, also when taken at once" => same_name;
        "storage.snapshot.delete.missing": "deleting a snapshot that never was succeeds" => delete_missing;
        "storage.snapshot.delete.others": "deleting a snapshot leaves the others and the volume as they are" => delete_others;
        "storage.snapshot.rename.missing": "a snapshot that is not there can't be renamed" => rename_missing;
        "storage.snapshot.rename.taken": "a snapshot can't take the name of another one, and both stay as they are" => rename_taken;
        "storage.snapshot.restore.there-and-back": "any snapshot can be restored in any order, and later ones stay" => there_and_back;
        "storage.snapshot.restore.missing": "a snapshot that is not there can't be restored, and the volume stays" => restore_missing;
        "storage.snapshot.mount.changes-nothing": "looking at a snapshot changes nothing" => mount_changes_nothing;
        "storage.snapshot.names.longest": "a snapshot may have the longest name, 63 bytes, of a volume with the longest name" => longest;
        "storage.snapshot.names.hostile": "a name that is no name is invalid" => hostile;
    }
}

async fn point_in_time(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let one = pool.add_container("c1", "first").await?;
    let before = pool.read(&one).await?;
    pool.snapshot(&one, "s1", false).await?;
    pool.holds(&one, &before, "after a snapshot of it was taken").await?;
    pool.write(&one, "second").await?;
    let kept = pool.read_snapshot(&one, "s1").await?;
    let difference = crate::tree::difference(&before, &kept);
    ensure(difference.is_empty(), || {
        format!("the snapshot is not what the volume was: {difference}")
    })?;
    pool.says(&one, "second", "after it was written to").await
}

async fn live(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let one = pool.add_container("c1", "first").await?;
    pool.snapshot(&one, "s1", true).await?;
    pool.write(&one, "second").await?;
    pool.snapshot(&one, "s2", true).await?;
    pool.write(&one, "third").await?;
    pool.snapshot_says(&one, "s1", "first", "taken live").await?;
    pool.snapshot_says(&one, "s2", "second", "taken live").await?;
    pool.snapshot_restore(&one, "s1").await?;
    pool.says(&one, "first", "restored from a live snapshot").await
}

async fn missing(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let answer = pool.snapshot(&c("nobody"), "s1", false).await;
    refused(answer, &["not-found"], "a snapshot of what is not there")?;
    pool.lacks_snapshot(&c("nobody"), "s1", "that is not there").await
}

async fn same_name(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let (one, two) = (
        pool.add_container("c1", "one").await?,
        pool.add_container("c2", "two").await?,
    );
    let taken = tokio::join!(pool.snapshot(&one, "same", false), pool.snapshot(&two, "same", false));
    taken.0?;
    taken.1?;
    pool.snapshot_says(&one, "same", "one", "beside one of its name")
        .await?;
    pool.snapshot_says(&two, "same", "two", "beside one of its name")
        .await?;
    pool.snapshot_delete(&one, "same").await?;
    pool.snapshot_says(&two, "same", "two", "after the other was deleted")
        .await
}

async fn delete_missing(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let one = pool.add_container("c1", "one").await?;
    pool.snapshot_delete(&one, "nobody").await?;
    pool.snapshot_delete(&c("nobody"), "s1").await?;
    pool.says(&one, "one", "after a snapshot that it has not was deleted")
        .await
}

async fn delete_others(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let one = pool.add_container("c1", "0").await?;
    for mark in ["1", "2", "3"] {
        pool.write(&one, mark).await?;
        pool.snapshot(&one, &format!("s{mark}"), false).await?;
    }
    pool.snapshot_delete(&one, "s2").await?;
    pool.snapshot_says(&one, "s1", "1", "after a later one was deleted")
        .await?;
    pool.snapshot_says(&one, "s3", "3", "after an earlier one was deleted")
        .await?;
    pool.says(&one, "3", "after a snapshot of it was deleted").await?;
    pool.snapshot_delete(&one, "s1").await?;
    pool.snapshot_delete(&one, "s3").await?;
    pool.says(&one, "3", "after all snapshots of it were deleted").await
}

async fn rename_missing(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let one = pool.add_container("c1", "one").await?;
    let answer = pool.snapshot_rename(&one, "nobody", "somebody").await;
    refused(answer, &["not-found"], "renaming a snapshot that is not there")
}

async fn rename_taken(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let one = pool.add_container("c1", "first").await?;
    pool.snapshot(&one, "s1", false).await?;
    pool.write(&one, "second").await?;
    pool.snapshot(&one, "s2", false).await?;
    let answer = pool.snapshot_rename(&one, "s1", "s2").await;
    refused(
        answer,
        &["already-exists"],
        "renaming a snapshot to a name that is taken",
    )?;
    pool.snapshot_says(&one, "s1", "first", "after it was not renamed")
        .await?;
    pool.snapshot_says(&one, "s2", "second", "after another one wanted its name")
        .await
}

async fn there_and_back(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let one = pool.add_container("c1", "0").await?;
    for mark in ["1", "2", "3"] {
        pool.write(&one, mark).await?;
        pool.snapshot(&one, &format!("s{mark}"), false).await?;
    }
    for mark in ["2", "3", "1", "1", "3"] {
        pool.snapshot_restore(&one, &format!("s{mark}")).await?;
        pool.says(&one, mark, "after it was restored").await?;
        pool.write(&one, "between").await?;
    }
    for mark in ["1", "2", "3"] {
        pool.snapshot_says(&one, &format!("s{mark}"), mark, "after all were restored")
            .await?;
    }
    Ok(())
}

async fn restore_missing(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let one = pool.add_container("c1", "one").await?;
    refused(
        pool.snapshot_restore(&one, "nobody").await,
        &["not-found"],
        "restoring what is not there",
    )?;
    pool.says(&one, "one", "after it was not restored").await
}

async fn mount_changes_nothing(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let one = pool.add_container("c1", "one").await?;
    pool.snapshot(&one, "s1", false).await?;
    let (plan, names) = (pool.snapshot_mount(&one, "s1").await?, pool.names()?);
    let again = pool.snapshot_mount(&one, "s1").await?;
    ensure(plan == again, || format!("the plan was {plan:?}, and then {again:?}"))?;
    ensure(plan.upper.is_none() && plan.work.is_none(), || {
        format!("a snapshot is read-only, and its plan has a layer to be written to: {plan:?}")
    })?;
    ensure(pool.names()? == names, || {
        "asking for the plan changed what lies in the pool".to_owned()
    })
}

async fn longest(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let one = pool.add_container(&"n".repeat(LONGEST_VOLUME), "one").await?;
    let (name, other) = ("s".repeat(LONGEST_SNAPSHOT), "t".repeat(LONGEST_SNAPSHOT));
    pool.snapshot(&one, &name, false).await?;
    pool.snapshot_rename(&one, &name, &other).await?;
    pool.snapshot_says(&one, &other, "one", "with the longest name").await?;
    pool.snapshot_restore(&one, &other).await?;
    pool.snapshot_delete(&one, &other).await?;
    pool.lacks_snapshot(&one, &other, "after it was deleted").await
}

async fn hostile(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let one = pool.add_container("c1", "one").await?;
    pool.snapshot(&one, "s1", false).await?;
    let before = pool.names()?;
    for name in HOSTILE {
        let what = |doing: &str| format!("{doing} with the name {name:?}");
        refused(
            pool.snapshot(&one, name, false).await,
            &["invalid"],
            &what("snapshot.create"),
        )?;
        refused(
            pool.snapshot_delete(&one, name).await,
            &["invalid"],
            &what("snapshot.delete"),
        )?;
        refused(
            pool.snapshot_rename(&one, "s1", name).await,
            &["invalid"],
            &what("snapshot.rename"),
        )?;
        refused(
            pool.snapshot_restore(&one, name).await,
            &["invalid"],
            &what("snapshot.restore"),
        )?;
        refused(
            pool.snapshot_mount(&one, name).await,
            &["invalid"],
            &what("snapshot.mount"),
        )?;
    }
    ensure(pool.names()? == before, || "something happened in the pool".to_owned())?;
    pool.snapshot_says(&one, "s1", "one", "after all names were refused")
        .await
}

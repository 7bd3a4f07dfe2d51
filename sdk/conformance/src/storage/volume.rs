//! `hutch:storage/volume`: what the actions leave out.

use futures_util::future::try_join_all;
use hutch_driver::storage::VolumeRef;

use super::action::write_at;
use super::room::{HOSTILE, LONGEST_VOLUME, Pool, c, image, volume};
use crate::Stand;
use crate::case::{Case, Outcome, cases, ensure, refused};

pub(super) fn cases() -> Vec<Case> {
    cases! {
        "storage.volume.create.other-origin": "a volume that is there is not made again from something else" => other_origin;
        "storage.volume.create.kinds": "volumes of one name and different kinds are different volumes" => kinds;
        "storage.volume.create.content": "a volume of blocks is made or refused as unsupported" => content;
        "storage.volume.create-from-image.independent": "what is written to a volume is in no other one and not in the image" => independent;
        "storage.volume.create-from-image.outlives": "a volume keeps its content when its image is deleted" => outlives;
        "storage.volume.create-from-image.missing": "a volume can't be made from an image that is not there" => from_missing;
        "storage.volume.create-from-image.plain": "a plain volume is one tree and no overlay" => plain;
        "storage.volume.create-from-image.concurrent": "eight volumes of one image are made at once" => concurrent;
        "storage.volume.create.concurrent-name": "volumes of one name and different kinds are made and deleted at once" => concurrent_name;
        "storage.volume.fill.again": "a volume whose filling is begun again is empty again" => fill_again;
        "storage.volume.fill.unfinished": "a volume that is not filled to its end is not there" => fill_unfinished;
        "storage.volume.fill.not-begun": "filling that was not begun can't be finished" => fill_not_begun;
        "storage.volume.fill.existing": "a volume that is there can't be filled again" => fill_existing;
        "storage.volume.fill.plain": "a volume that is filled to be plain is one tree and no overlay" => fill_plain;
        "storage.volume.delete.missing": "deleting a volume that never was succeeds" => delete_missing;
        "storage.volume.delete.again": "a name can be used again after its volume was deleted, and nothing of the old one is seen" => delete_again;
        "storage.volume.rename.missing": "a volume that is not there can't be renamed" => rename_missing;
        "storage.volume.rename.taken": "a volume can't take the name of another one, and both stay as they are" => rename_taken;
        "storage.volume.mount.missing": "a volume that is not there can't be mounted" => mount_missing;
        "storage.volume.mount.repeated": "a plan is the same each time, and asking for it changes nothing" => mount_repeated;
        "storage.volume.usage.possible": "what a volume uses is unknown or not less than was written" => usage;
        "storage.volume.names.longest": "a volume may have the longest name there is, 127 bytes" => longest;
        "storage.volume.names.hostile": "a name that is no name is invalid, and nothing happens elsewhere" => hostile;
    }
}

async fn other_origin(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let one = pool.add_container("c1", "one").await?;
    let other = pool.add_image(1, "other").await?;
    let exists = ["already-exists"];
    refused(
        pool.create(&one).await,
        &exists,
        "making an empty volume in place of one with content",
    )?;
    let answer = pool.create_from_image(&other, &one, false).await;
    refused(answer, &exists, "making it from another image")?;
    pool.says(&one, "one", "after it was refused").await
}

async fn kinds(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let one = pool.add_container("same", "one").await?;
    let custom = volume("custom", "same");
    pool.create(&custom).await?;
    pool.write(&custom, "custom").await?;
    pool.says(&one, "one", "beside a custom volume of its name").await?;
    pool.delete(&one).await?;
    pool.says(&custom, "custom", "after the container's was deleted").await
}

async fn content(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let blocks = VolumeRef {
        content: "block".to_owned(),
        ..volume("custom", "blocks")
    };
    match pool.create(&blocks).await {
        Ok(()) => Ok(()),
        answer => refused(answer, &["unsupported"], "a volume of blocks"),
    }
}

async fn independent(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let image = pool.add_image(0, "image").await?;
    let (one, two) = (c("c1"), c("c2"));
    pool.create_from_image(&image, &one, false).await?;
    let before = pool.read(&one).await?;
    pool.holds(&image, &before, "compared with a volume that was made from it")
        .await?;
    pool.write(&one, "one").await?;
    pool.create_from_image(&image, &two, false).await?;
    pool.holds(&two, &before, "made after another one was changed").await?;
    pool.write(&two, "two").await?;
    pool.says(&one, "one", "after another one was changed").await?;
    pool.holds(&image, &before, "after volumes that were made from it were changed")
        .await
}

async fn outlives(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let one = pool.add_container("c1", "one").await?;
    let before = pool.read(&one).await?;
    pool.delete(&image(0)).await?;
    pool.lacks(&image(0), "after it was deleted").await?;
    pool.holds(&one, &before, "after its image was deleted").await?;
    pool.reconcile(&[super::room::state(&one, &[])]).await?;
    pool.holds(&one, &before, "after its image was deleted and the pool reconciled")
        .await
}

async fn from_missing(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let answer = pool.create_from_image(&image(9), &c("c1"), false).await;
    refused(
        answer,
        &["not-found"],
        "making a volume from an image that is not there",
    )?;
    pool.lacks(&c("c1"), "whose image is not there").await
}

async fn plain(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let image = pool.add_image(0, "image").await?;
    pool.create_from_image(&image, &c("c1"), true).await?;
    let plan = pool.mount(&c("c1")).await?;
    ensure(plan.kind == "bind", || {
        format!("the plan of a plain volume is of the kind {:?}", plan.kind)
    })?;
    pool.says(&c("c1"), "image", "made plain").await
}

async fn concurrent(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let image = pool.add_image(0, "image").await?;
    let volumes: Vec<_> = (0..8).map(|number| c(&format!("c{number}"))).collect();
    try_join_all(
        volumes
            .iter()
            .map(|volume| pool.create_from_image(&image, volume, false)),
    )
    .await?;
    for volume in &volumes {
        pool.says(volume, "image", "made beside seven others").await?;
    }
    try_join_all(volumes.iter().map(|volume| pool.delete(volume))).await?;
    pool.says(&image, "image", "after all volumes made from it were deleted at once")
        .await
}

async fn concurrent_name(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let image = pool.add_image(0, "image").await?;
    let (container, custom) = (c("same"), volume("custom", "same"));
    for _ in 0..4 {
        let made = tokio::join!(pool.create_from_image(&image, &container, false), pool.create(&custom));
        made.0?;
        made.1?;
        pool.says(&container, "image", "made while a custom volume of its name was")
            .await?;
        pool.mount(&custom).await?;
        let deleted = tokio::join!(pool.delete(&container), pool.delete(&custom));
        deleted.0?;
        deleted.1?;
    }
    pool.lacks(&container, "after both were deleted").await?;
    pool.lacks(&custom, "after both were deleted").await
}

async fn fill_again(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let image = image(0);
    let first = pool.begin_fill(&image).await?;
    write_at(&pool, &first, "first")?;
    let second = pool.begin_fill(&image).await?;
    let place = crate::plan::place(&pool.call, &second)?;
    let left = std::fs::read_dir(&place).map_err(|error| super::room::system("look where begin-fill says", &error))?;
    ensure(left.count() == 0, || {
        "what was written before is still there".to_owned()
    })?;
    write_at(&pool, &second, "second")?;
    pool.end_fill(&image).await?;
    pool.says(&image, "second", "filled the second time").await
}

async fn fill_unfinished(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let image = image(0);
    pool.fill(&image, "half").await?;
    pool.lacks(&image, "while it is being filled").await?;
    let answer = pool.create_from_image(&image, &c("c1"), false).await;
    refused(
        answer,
        &["not-found"],
        "making a volume from an image that is being filled",
    )?;
    pool.delete(&image).await?;
    let answer = pool.end_fill(&image).await;
    refused(
        answer,
        &["not-found"],
        "finishing a volume that was deleted while it was being filled",
    )
}

async fn fill_not_begun(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    refused(
        pool.end_fill(&image(0)).await,
        &["not-found"],
        "end-fill without begin-fill",
    )?;
    pool.lacks(&image(0), "that was never filled").await
}

async fn fill_existing(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let image = pool.add_image(0, "image").await?;
    refused(
        pool.begin_fill(&image).await,
        &["already-exists"],
        "filling a volume that is there",
    )?;
    pool.says(&image, "image", "after begin-fill was refused").await
}

async fn fill_plain(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let volume = pool.add_plain("c1", "outside").await?;
    let plan = pool.mount(&volume).await?;
    ensure(plan.kind == "bind", || {
        format!("the plan of a plain volume is of the kind {:?}", plan.kind)
    })?;
    pool.says(&volume, "outside", "filled to be plain").await
}

async fn delete_missing(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    for kind in ["container", "image", "custom"] {
        pool.delete(&volume(kind, "nobody")).await?;
    }
    Ok(())
}

async fn delete_again(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let one = pool.add_container("c1", "one").await?;
    if stand.can("snapshot") {
        pool.snapshot(&one, "s1", false).await?;
    }
    pool.delete(&one).await?;
    pool.create(&one).await?;
    let tree = pool.read(&one).await?;
    ensure(tree.len() == 1, || {
        "a new volume has the content of a deleted one".to_owned()
    })?;
    if stand.can("snapshot") {
        pool.lacks_snapshot(&one, "s1", "made anew").await?;
    }
    Ok(())
}

async fn rename_missing(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    refused(
        pool.rename(&c("nobody"), "somebody").await,
        &["not-found"],
        "renaming what is not there",
    )?;
    pool.lacks(&c("somebody"), "whose name nobody had").await
}

async fn rename_taken(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let (one, two) = (
        pool.add_container("c1", "one").await?,
        pool.add_container("c2", "two").await?,
    );
    refused(
        pool.rename(&one, "c2").await,
        &["already-exists"],
        "renaming to a name that is taken",
    )?;
    pool.says(&one, "one", "after it was not renamed").await?;
    pool.says(&two, "two", "after another one wanted its name").await
}

async fn mount_missing(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    refused(
        pool.mount(&c("nobody")).await,
        &["not-found"],
        "mounting what is not there",
    )?;
    refused(pool.usage(&c("nobody")).await, &["not-found"], "asking what it uses").or_else(|stop| {
        // Nothing is what nothing uses.
        let nothing = matches!(&stop, crate::Stop::Fail(reason) if reason.contains("succeeded"));
        if nothing { Ok(()) } else { Err(stop) }
    })
}

async fn mount_repeated(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let one = pool.add_container("c1", "one").await?;
    let (plan, names) = (pool.mount(&one).await?, pool.names()?);
    for _ in 0..9 {
        let again = pool.mount(&one).await?;
        ensure(plan == again, || format!("the plan was {plan:?}, and then {again:?}"))?;
    }
    ensure(pool.names()? == names, || {
        "asking for the plan changed what lies in the pool".to_owned()
    })
}

async fn usage(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let one = pool.add_container("c1", "one").await?;
    let used = pool.usage(&one).await?;
    let written = "one\n".len() as u64 * 1000;
    ensure(used.is_none_or(|used| used >= written), || {
        format!("it says {used:?}, and {written} bytes were written")
    })
}

async fn longest(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let name = "n".repeat(LONGEST_VOLUME);
    let long = pool.add_container(&name, "long").await?;
    let other = format!("{}x", "n".repeat(LONGEST_VOLUME - 1));
    pool.says(&long, "long", "with the longest name").await?;
    pool.rename(&long, &other).await?;
    pool.says(&c(&other), "long", "renamed to another longest name").await?;
    pool.lacks(&long, "after it was renamed").await?;
    let custom = volume("custom", &name);
    pool.create(&custom).await?;
    pool.delete(&c(&other)).await?;
    pool.delete(&custom).await?;
    pool.lacks(&c(&other), "after it was deleted").await
}

async fn hostile(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let one = pool.add_container("c1", "one").await?;
    let before = pool.names()?;
    for name in HOSTILE {
        let what = |doing: &str| format!("{doing} with the name {name:?}");
        refused(pool.create(&c(name)).await, &["invalid"], &what("volume.create"))?;
        refused(pool.delete(&c(name)).await, &["invalid"], &what("volume.delete"))?;
        refused(pool.mount(&c(name)).await, &["invalid"], &what("volume.mount"))?;
        refused(pool.rename(&one, name).await, &["invalid"], &what("volume.rename"))?;
    }
    ensure(pool.names()? == before, || "something happened in the pool".to_owned())?;
    pool.says(&one, "one", "after all names were refused").await
}

//! `hutch:storage/pool`: what the actions leave out.

use hutch_driver::Options;

use super::room::{Pool, c, image, state};
use crate::Stand;
use crate::case::{Case, Outcome, cases, ensure, fail, refused};

pub(super) fn cases() -> Vec<Case> {
    cases! {
        "storage.pool.validate.completes": "a configuration that was completed once is complete and stays as it is" => completes;
        "storage.pool.validate.unknown-key": "a configuration with a key that nobody knows is invalid" => unknown_key;
        "storage.pool.open.made": "a pool that was made can be opened, and opening it changes nothing" => open_made;
        "storage.pool.open.missing": "opening a directory without a pool fails, and makes none" => open_missing;
        "storage.pool.space.possible": "no more is in use than there is" => space;
        "storage.pool.reconcile.keeps": "what belongs in the pool is left alone" => keeps;
        "storage.pool.reconcile.tells": "what reconcile removes is told once, and it is gone" => tells;
    }
}

async fn completes(stand: &Stand) -> Outcome {
    let pool = Pool::fresh(stand).await?;
    let once = &pool.pool.config;
    let twice = pool.validate(once, Some(once)).await?;
    ensure(*once == twice, || {
        format!("{once:?} became {twice:?} when it was validated again")
    })?;
    let lost = stand.options.iter().find(|(key, value)| once.get(*key) != Some(value));
    ensure(lost.is_none(), || format!("the option {lost:?} was changed or dropped"))
}

async fn unknown_key(stand: &Stand) -> Outcome {
    let pool = Pool::fresh(stand).await?;
    let mut config: Options = stand.options.clone();
    config.insert("hutch.conformance.nonsense".to_owned(), "1".to_owned());
    let what = "a configuration with the key \"hutch.conformance.nonsense\"";
    match pool.validate(&config, None).await {
        Err(answer) if !answer.error.message.contains("hutch.conformance.nonsense") => {
            fail(format!("the error does not name the key: {answer}"))
        }
        answer => refused(answer, &["invalid"], what),
    }
}

async fn open_made(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let before = pool.names()?;
    for _ in 0..2 {
        pool.open_pool().await?;
    }
    ensure(pool.names()? == before, || {
        "opening the pool changed what lies in it".to_owned()
    })
}

async fn open_missing(stand: &Stand) -> Outcome {
    let pool = Pool::fresh(stand).await?;
    refused(
        pool.open_pool().await,
        &["not-found", "invalid"],
        "opening an empty directory",
    )?;
    ensure(pool.names()?.is_empty(), || {
        "opening made something in the directory".to_owned()
    })
}

async fn space(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let space = pool.driver.space(&pool.call, &pool.pool).await;
    let space = space.map_err(|error| crate::Stop::Fail(format!("pool.space: {error}")))?;
    ensure(space.total_bytes > 0, || "the pool has no bytes at all".to_owned())
}

async fn keeps(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let one = pool.add_container("c1", "one").await?;
    let empty = c("empty");
    pool.create(&empty).await?;
    let mut valid = vec![state(&image(0), &[]), state(&empty, &[])];
    if stand.can("snapshot") {
        pool.snapshot(&one, "s1", false).await?;
        valid.push(state(&one, &["s1"]));
    } else {
        valid.push(state(&one, &[]));
    }
    let before = pool.read(&one).await?;
    for _ in 0..2 {
        let removed = pool.reconcile(&valid).await?;
        ensure(removed.is_empty(), || {
            format!("it removed what belongs there: {removed:?}")
        })?;
    }
    pool.holds(&one, &before, "after reconcile").await?;
    pool.mount(&empty).await?;
    if stand.can("snapshot") {
        pool.snapshot_says(&one, "s1", "one", "after reconcile").await?;
    }
    Ok(())
}

async fn tells(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let one = pool.add_container("c1", "one").await?;
    let two = pool.add_container("stranger", "two").await?;
    let valid = [state(&image(0), &[]), state(&one, &[])];
    let removed = pool.reconcile(&valid).await?;
    ensure(removed.iter().any(|line| line.contains("stranger")), || {
        format!("no line names the volume \"stranger\" that was removed: {removed:?}")
    })?;
    pool.lacks(&two, "after reconcile").await?;
    let again = pool.reconcile(&valid).await?;
    ensure(again.is_empty(), || format!("the second time it removes {again:?}"))?;
    let all = pool.reconcile(&[]).await?;
    ensure(!all.is_empty(), || "with nothing valid it removes nothing".to_owned())?;
    pool.delete_pool().await?;
    let left = pool.names()?;
    ensure(left.is_empty(), || {
        format!("the deleted pool's directory still holds {left:?}")
    })
}

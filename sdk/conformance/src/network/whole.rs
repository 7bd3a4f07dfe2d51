//! `hutch:network/network`: what the actions leave out.

use hutch_driver::Options;

use super::room::{Net, Surroundings, connected};
use crate::Stand;
use crate::case::{Case, Outcome, cases, ensure, refused};

pub(super) fn cases() -> Vec<Case> {
    cases! {
        "network.network.validate.completes": "a configuration that was completed once is complete and stays as it is" => completes;
        "network.network.validate.unknown-key": "a configuration with a key that nobody knows is invalid" => unknown_key;
        "network.network.validate.harmless": "checking a configuration makes nothing" => harmless;
        "network.network.start.several": "networks are independent of one another, also when they are started at once" => several;
        "network.network.stop.missing": "stopping a network that never was started succeeds" => stop_missing;
        "network.network.stop.again": "a network can be started again after it was stopped" => again;
        "network.network.names.longest": "a network may have the longest name there is, 15 bytes" => longest;
        "network.network.reconcile.keeps": "connected instances stay connected, and nothing is told" => keeps;
        "network.network.reconcile.tells": "what reconcile removes is told once" => tells;
    }
}

async fn completes(stand: &Stand) -> Outcome {
    let net = Net::fresh(stand).await?;
    let once = &net.network.config;
    let twice = net.validate(once, Some(once)).await?;
    ensure(*once == twice, || {
        format!("{once:?} became {twice:?} when it was validated again")
    })
}

async fn unknown_key(stand: &Stand) -> Outcome {
    let net = Net::fresh(stand).await?;
    let mut config: Options = net.network.config.clone();
    config.insert("hutch.conformance.nonsense".to_owned(), "1".to_owned());
    let answer = net.validate(&config, None).await;
    refused(
        answer,
        &["invalid"],
        "a configuration with the key \"hutch.conformance.nonsense\"",
    )
}

async fn harmless(stand: &Stand) -> Outcome {
    let before = Surroundings::now(stand)?;
    let net = Net::fresh(stand).await?;
    net.validate_nic(&Options::new()).await?;
    before.unchanged(stand, "after configurations were checked")
}

async fn several(stand: &Stand) -> Outcome {
    let before = Surroundings::now(stand)?;
    // Addresses are chosen when a configuration is completed, against those of networks that are up.
    let one = Net::fresh(stand).await?;
    one.start().await?;
    let two = Net::fresh(stand).await?;
    let started = tokio::join!(one.start(), two.start());
    started.0?;
    started.1?;
    let (nic, guest) = one.connect(stand, "one").await?;
    two.works(stand, "beside another network").await?;
    two.stop().await?;
    connected(&nic, &guest, "after another network was stopped")?;
    one.detach(&nic, Some(&guest)).await?;
    one.works(stand, "after another network was stopped").await?;
    one.stop().await?;
    before.unchanged(stand, "after both were stopped")
}

async fn stop_missing(stand: &Stand) -> Outcome {
    let before = Surroundings::now(stand)?;
    let net = Net::fresh(stand).await?;
    net.stop().await?;
    before.unchanged(stand, "after what was not there was stopped")
}

async fn again(stand: &Stand) -> Outcome {
    let before = Surroundings::now(stand)?;
    let net = Net::started(stand).await?;
    for _ in 0..3 {
        net.stop().await?;
        before.unchanged(stand, "after it was stopped")?;
        net.start().await?;
        net.works(stand, "started again").await?;
    }
    net.stop().await?;
    before.unchanged(stand, "after it was stopped for good")
}

async fn longest(stand: &Stand) -> Outcome {
    let before = Surroundings::now(stand)?;
    let net = Net::called(stand, "fifteen-bytes-n").await?;
    net.start().await?;
    net.works(stand, "with the longest name").await?;
    net.stop().await?;
    before.unchanged(stand, "after it was stopped")
}

async fn keeps(stand: &Stand) -> Outcome {
    let net = Net::started(stand).await?;
    let (nic, guest) = net.connect(stand, "one").await?;
    for _ in 0..2 {
        let removed = net.reconcile(std::slice::from_ref(&nic)).await?;
        ensure(removed.is_empty(), || {
            format!("it removed what belongs there: {removed:?}")
        })?;
        connected(&nic, &guest, "after reconcile")?;
    }
    net.detach(&nic, Some(&guest)).await?;
    Ok(net.stop().await?)
}

async fn tells(stand: &Stand) -> Outcome {
    let net = Net::started(stand).await?;
    let (nic, guest) = net.connect(stand, "stranger").await?;
    // Whether there is anything of it outside its namespace is the driver's matter; but not twice.
    net.reconcile(&[]).await?;
    let again = net.reconcile(&[]).await?;
    ensure(again.is_empty(), || format!("the second time it removes {again:?}"))?;
    net.detach(&nic, Some(&guest)).await?;
    Ok(net.stop().await?)
}

//! `hutch:network/nic`: what the actions leave out.

use futures_util::future::try_join_all;
use hutch_driver::Options;

use super::room::{Guest, Net, Surroundings, connected};
use crate::Stand;
use crate::case::{Case, Outcome, Stop, cases, ensure, refused};

pub(super) fn cases() -> Vec<Case> {
    cases! {
        "network.nic.validate.again": "the configuration of an interface that is valid is so again" => again;
        "network.nic.validate.unknown-key": "an interface's configuration with a key that nobody knows is invalid" => unknown_key;
        "network.nic.attach.concurrent": "eight instances are connected and disconnected at once" => concurrent;
        "network.nic.attach.restarted": "an instance that ended and was started again is connected again" => restarted;
        "network.nic.attach.two": "an instance can have two interfaces on one network" => two;
        "network.nic.attach.longest": "an instance may have the longest name, 63 bytes, in a project with the longest name" => longest;
        "network.nic.detach.missing": "disconnecting what never was connected succeeds" => missing;
        "network.nic.detach.others": "disconnecting one instance leaves the others connected" => others;
    }
}

async fn again(stand: &Stand) -> Outcome {
    let net = Net::fresh(stand).await?;
    for _ in 0..2 {
        net.validate_nic(&Options::new()).await?;
    }
    Ok(())
}

async fn unknown_key(stand: &Stand) -> Outcome {
    let net = Net::fresh(stand).await?;
    let config = Options::from([("hutch.conformance.nonsense".to_owned(), "1".to_owned())]);
    let what = "an interface with the key \"hutch.conformance.nonsense\"";
    refused(net.validate_nic(&config).await, &["invalid"], what)
}

async fn concurrent(stand: &Stand) -> Outcome {
    let before = Surroundings::now(stand)?;
    let net = Net::started(stand).await?;
    let guests = (0..8).map(|_| Guest::new(stand)).collect::<Outcome<Vec<_>>>()?;
    let nics: Vec<_> = guests
        .iter()
        .enumerate()
        .map(|(number, guest)| net.nic(stand, &format!("c{number}"), Some(guest)))
        .collect();
    try_join_all(nics.iter().zip(&guests).map(|(nic, guest)| net.attach(nic, guest))).await?;
    for (nic, guest) in nics.iter().zip(&guests) {
        connected(nic, guest, "connected beside seven others")?;
    }
    try_join_all(
        nics.iter()
            .zip(&guests)
            .map(|(nic, guest)| net.detach(nic, Some(guest))),
    )
    .await?;
    net.stop().await?;
    before.unchanged(stand, "after all were disconnected and the network stopped")
}

async fn restarted(stand: &Stand) -> Outcome {
    let before = Surroundings::now(stand)?;
    let net = Net::started(stand).await?;
    let (mut nic, guest) = net.connect(stand, "one").await?;
    net.detach(&nic, Some(&guest)).await?;
    drop(guest);
    let again = Guest::new(stand)?;
    nic.netns = net.nic(stand, "one", Some(&again)).netns;
    net.attach(&nic, &again).await?;
    connected(&nic, &again, "started again")?;
    net.detach(&nic, Some(&again)).await?;
    net.stop().await?;
    before.unchanged(stand, "after it was disconnected and the network stopped")
}

async fn two(stand: &Stand) -> Outcome {
    let net = Net::started(stand).await?;
    let guest = Guest::new(stand)?;
    let one = net.nic(stand, "one", Some(&guest));
    let mut other = net.nic(stand, "one", Some(&guest));
    "eth1".clone_into(&mut other.device);
    "eth1".clone_into(&mut other.guest_name);
    net.attach(&one, &guest).await?;
    net.attach(&other, &guest).await?;
    connected(&one, &guest, "beside another interface")?;
    connected(&other, &guest, "beside another interface")?;
    net.detach(&other, Some(&guest)).await?;
    connected(&one, &guest, "after the other interface was disconnected")?;
    net.detach(&one, Some(&guest)).await?;
    Ok(net.stop().await?)
}

async fn longest(stand: &Stand) -> Outcome {
    let net = Net::started(stand).await?;
    let guest = Guest::new(stand)?;
    let mut nic = net.nic(stand, &"n".repeat(63), Some(&guest));
    nic.project = "p".repeat(63);
    nic.device = "d".repeat(63);
    nic.guest_name = "g".repeat(15);
    net.attach(&nic, &guest).await?;
    connected(&nic, &guest, "with the longest names")?;
    net.detach(&nic, Some(&guest)).await?;
    Ok(net.stop().await?)
}

async fn missing(stand: &Stand) -> Outcome {
    let net = Net::started(stand).await?;
    let guest = Guest::new(stand)?;
    let nic = net.nic(stand, "nobody", Some(&guest));
    net.detach(&nic, Some(&guest)).await?;
    net.detach(&nic, None).await?;
    Ok(net.stop().await?)
}

async fn others(stand: &Stand) -> Outcome {
    let net = Net::started(stand).await?;
    let (one, first) = net.connect(stand, "one").await?;
    let (other, second) = net.connect(stand, "two").await?;
    net.detach(&one, Some(&first)).await?;
    ensure(first.interface(&one.guest_name)?.is_none(), || {
        "the instance that was disconnected while it runs still has its interface".to_owned()
    })?;
    connected(&other, &second, "after another instance was disconnected")
        .map_err(|stop| Stop::Fail(stop.to_string()))?;
    net.detach(&other, Some(&second)).await?;
    Ok(net.stop().await?)
}

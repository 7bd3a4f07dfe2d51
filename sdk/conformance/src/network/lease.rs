//! `hutch:network/lease`.

use super::room::Net;
use crate::Stand;
use crate::case::{Case, Outcome, cases, ensure};

pub(super) fn cases() -> Vec<Case> {
    cases! {
        "network.lease.leases.kinds": "leases are of the kinds there are, and gateways have no hardware address" => kinds;
        "network.lease.leases.known": "only instances that were named have leases" => known;
        "network.lease.leases.stopped": "a network that is not up has no leases of instances, and asking is no error" => stopped;
    }
}

async fn kinds(stand: &Stand) -> Outcome {
    let net = Net::started(stand).await?;
    let (nic, guest) = net.connect(stand, "one").await?;
    let leases = net.leases(std::slice::from_ref(&nic)).await?;
    for lease in &leases {
        let known = ["dynamic", "static", "gateway"].contains(&lease.kind.as_str());
        ensure(known, || format!("{lease:?} is of an unknown kind"))?;
        ensure((lease.kind == "gateway") == lease.hwaddr.is_empty(), || {
            format!("{lease:?}: a gateway has no hardware address, and every other has one")
        })?;
    }
    ensure(net.leases(std::slice::from_ref(&nic)).await? == leases, || {
        "asked again, it answers something else".to_owned()
    })?;
    net.detach(&nic, Some(&guest)).await?;
    Ok(net.stop().await?)
}

async fn known(stand: &Stand) -> Outcome {
    let net = Net::started(stand).await?;
    let (nic, guest) = net.connect(stand, "one").await?;
    let strangers: Vec<_> = net
        .leases(&[])
        .await?
        .into_iter()
        .filter(|lease| lease.hwaddr == nic.hwaddr)
        .collect();
    ensure(strangers.iter().all(|lease| lease.kind == "dynamic"), || {
        format!("an instance that was not named has {strangers:?}")
    })?;
    net.detach(&nic, Some(&guest)).await?;
    Ok(net.stop().await?)
}

async fn stopped(stand: &Stand) -> Outcome {
    let net = Net::fresh(stand).await?;
    let nic = net.nic(stand, "one", None);
    let leases = net.leases(std::slice::from_ref(&nic)).await?;
    let given: Vec<_> = leases
        .iter()
        .filter(|lease| lease.kind == "static" && lease.hwaddr != nic.hwaddr)
        .collect();
    ensure(given.is_empty(), || {
        format!("a network that was never started has given {given:?}")
    })
}

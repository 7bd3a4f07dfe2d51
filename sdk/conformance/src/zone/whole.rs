//! `hutch:zone/zone`: what the actions leave out, but for names and sizes.

use futures_util::future::try_join_all;

use super::room::{Zone, other, set, usual};
use crate::Stand;
use crate::case::{Case, Outcome, cases, ensure, fail, refused};

pub(super) fn cases() -> Vec<Case> {
    cases! {
        "zone.zone.validate.completes": "a configuration that was completed once is complete and stays as it is" => completes;
        "zone.zone.validate.unknown-key": "a configuration with a key that nobody knows is invalid" => unknown_key;
        "zone.zone.validate.nonsense": "name servers and contacts that are no names are invalid" => nonsense;
        "zone.zone.validate.harmless": "checking a configuration makes nothing" => harmless;
        "zone.zone.publish.kinds": "records of every usual type are shown with their times to live, quotes and wildcards" => kinds;
        "zone.zone.publish.empty": "a zone without records has a SOA record and a name server, and nothing else" => empty;
        "zone.zone.publish.newer": "a newer version takes the place of the older one as a whole" => newer;
        "zone.zone.publish.older": "an older version than was published is a success and does nothing" => older;
        "zone.zone.publish.gone": "a version that is gone from the host is told as not-found, and the zone stays as it was" => gone;
        "zone.zone.publish.nameservers": "the name servers are those of the configuration, also when it changes without the content" => nameservers;
        "zone.zone.publish.serial": "the serial number is the lower half of a version above 32 bits" => serial;
        "zone.zone.publish.several": "zones are independent of one another, also when they are published at once" => several;
        "zone.zone.delete.missing": "deleting a zone that never was published succeeds" => delete_missing;
        "zone.zone.delete.again": "a zone can be published again after it was deleted, with any version" => again;
        "zone.zone.reconcile.keeps": "zones that are valid stay as they are, and nothing is told" => keeps;
        "zone.zone.reconcile.tells": "what reconcile removes is told once, and is published again if it comes back" => tells;
    }
}

async fn completes(stand: &Stand) -> Outcome {
    let zone = Zone::fresh(stand).await?;
    let once = &zone.zone.config;
    let twice = zone.validate(once, Some(once)).await?;
    ensure(*once == twice, || {
        format!("{once:?} became {twice:?} when it was validated again")
    })
}

async fn unknown_key(stand: &Stand) -> Outcome {
    let zone = Zone::fresh(stand).await?;
    let mut config = zone.zone.config.clone();
    config.insert("hutch.conformance.nonsense".to_owned(), "1".to_owned());
    let what = "a configuration with the key \"hutch.conformance.nonsense\"";
    refused(zone.validate(&config, None).await, &["invalid"], what)
}

async fn nonsense(stand: &Stand) -> Outcome {
    let zone = Zone::fresh(stand).await?;
    for key in ["dns.nameservers", "dns.contact"] {
        for value in [
            "a b.example",
            "a..example",
            "x\n$INCLUDE /etc/passwd",
            "(",
            &"l".repeat(64),
        ] {
            let mut config = zone.zone.config.clone();
            config.insert(key.to_owned(), value.to_owned());
            refused(
                zone.validate(&config, None).await,
                &["invalid"],
                &format!("{key} {value:?}"),
            )?;
        }
    }
    Ok(())
}

async fn harmless(stand: &Stand) -> Outcome {
    let zone = Zone::fresh(stand).await?;
    zone.is_gone("after its configuration was checked")
}

async fn kinds(stand: &Stand) -> Outcome {
    let zone = Zone::fresh(stand).await?;
    let mut several = set("c1", "A", "192.0.2.1");
    several.values.push("192.0.2.2".to_owned());
    several.ttl = 60;
    let sets = vec![
        several,
        set("c1", "AAAA", "2001:db8::1"),
        set("deep.below.c1", "A", "192.0.2.3"),
        set("www", "CNAME", "c1"),
        set("elsewhere", "CNAME", "www.example.net."),
        set("*.apps", "A", "192.0.2.4"),
        set("@", "MX", "10 c1"),
        set("_http._tcp", "SRV", "0 5 80 c1"),
        set("@", "TXT", "\"v=spf1 -all\" \"a;b (c)\""),
        set("below", "NS", "ns.example.net."),
        set("4", "PTR", "c1.example.org."),
    ];
    zone.publish(1, sets.clone()).await?;
    zone.shows(1, &sets, "published")?;
    zone.delete().await?;
    zone.is_gone("deleted")
}

async fn empty(stand: &Stand) -> Outcome {
    let zone = Zone::fresh(stand).await?;
    zone.publish(1, Vec::new()).await?;
    zone.shows(1, &[], "published without records")?;
    zone.publish(2, usual()).await?;
    zone.shows(2, &usual(), "with records")?;
    zone.publish(3, Vec::new()).await?;
    zone.shows(3, &[], "without records again")?;
    Ok(zone.delete().await?)
}

async fn newer(stand: &Stand) -> Outcome {
    let zone = Zone::published(stand).await?;
    zone.publish(2, other()).await?;
    zone.shows(2, &other(), "after the second version")?;
    // Versions may be left out: whoever publishes late publishes the last.
    zone.publish(40, usual()).await?;
    zone.shows(40, &usual(), "after a later version")?;
    Ok(zone.delete().await?)
}

async fn older(stand: &Stand) -> Outcome {
    let zone = Zone::published(stand).await?;
    zone.publish(5, other()).await?;
    zone.publish(4, usual()).await?;
    zone.shows(5, &other(), "after an older version came late")?;
    Ok(zone.delete().await?)
}

async fn gone(stand: &Stand) -> Outcome {
    let zone = Zone::published(stand).await?;
    let answer = zone.publish_of(2, 3, other()).await?;
    match answer {
        Err(told) if told.error.is("not-found") && told.error.retryable => {}
        Err(told) => return fail(format!("it must fail with not-found that can be retried: {told}")),
        Ok(()) => return fail("publishing a version that is gone succeeded"),
    }
    zone.shows(1, &usual(), "after a version was gone")?;
    zone.publish(3, other()).await?;
    zone.shows(3, &other(), "after the version that is there")?;
    Ok(zone.delete().await?)
}

async fn nameservers(stand: &Stand) -> Outcome {
    let mut zone = Zone::published(stand).await?;
    for servers in ["ns1.example.net", "ns2.example.net,ns3.example.net"] {
        let current = zone.zone.config.clone();
        let mut config = current.clone();
        config.insert("dns.nameservers".to_owned(), servers.to_owned());
        config.insert("dns.contact".to_owned(), "me@example.net".to_owned());
        zone.zone.config = zone.validate(&config, Some(&current)).await?;
        zone.publish(1, usual()).await?;
        zone.shows(1, &usual(), "with other name servers")?;
        let seen = zone.shown()?.map(|shown| shown.nameservers).unwrap_or_default();
        ensure(seen.iter().map(String::as_str).eq(servers.split(',')), || {
            format!("the name servers are {seen:?}, and not {servers}")
        })?;
    }
    Ok(zone.delete().await?)
}

async fn serial(stand: &Stand) -> Outcome {
    let zone = Zone::fresh(stand).await?;
    for version in [u64::from(u32::MAX), (1 << 32) + 1] {
        zone.publish(version, usual()).await?;
        zone.shows(version, &usual(), "with a large version")?;
    }
    Ok(zone.delete().await?)
}

async fn several(stand: &Stand) -> Outcome {
    let mut zones = Vec::new();
    for _ in 0..8 {
        zones.push(Zone::fresh(stand).await?);
    }
    try_join_all(zones.iter().map(|zone| zone.publish(1, usual()))).await?;
    let (gone, stay) = zones.split_at(4);
    for zone in gone {
        zone.delete().await?;
    }
    for zone in stay {
        zone.shows(1, &usual(), "after others were deleted")?;
    }
    for zone in gone {
        zone.is_gone("deleted")?;
    }
    for zone in stay {
        zone.delete().await?;
    }
    Ok(())
}

async fn delete_missing(stand: &Stand) -> Outcome {
    let zone = Zone::fresh(stand).await?;
    zone.delete().await?;
    zone.is_gone("after what was not there was deleted")
}

async fn again(stand: &Stand) -> Outcome {
    let zone = Zone::fresh(stand).await?;
    for version in [9, 3, 1] {
        zone.publish(version, usual()).await?;
        zone.shows(version, &usual(), "published")?;
        zone.delete().await?;
        zone.is_gone("deleted")?;
    }
    Ok(())
}

async fn keeps(stand: &Stand) -> Outcome {
    let (one, two) = (Zone::published(stand).await?, Zone::published(stand).await?);
    // What was never published is valid, too.
    let three = Zone::fresh(stand).await?;
    for _ in 0..2 {
        let removed = one.reconcile(&[&one, &two, &three]).await?;
        ensure(removed.is_empty(), || {
            format!("it removed what belongs there: {removed:?}")
        })?;
        one.shows(1, &usual(), "after reconcile")?;
        two.shows(1, &usual(), "after reconcile")?;
        three.is_gone("after reconcile")?;
    }
    one.delete().await?;
    Ok(two.delete().await?)
}

async fn tells(stand: &Stand) -> Outcome {
    let (one, stranger) = (Zone::published(stand).await?, Zone::published(stand).await?);
    let removed = one.reconcile(&[&one]).await?;
    ensure(removed.iter().any(|line| line.contains(&stranger.zone.name)), || {
        format!(
            "it told {removed:?}, and the zone {} is not among it",
            stranger.zone.name
        )
    })?;
    let again = one.reconcile(&[&one]).await?;
    ensure(again.is_empty(), || format!("the second time it removes {again:?}"))?;
    stranger.is_gone("after reconcile")?;
    stranger.publish(1, other()).await?;
    stranger.shows(1, &other(), "published again")?;
    one.reconcile(&[]).await?;
    one.is_gone("after reconcile without a valid zone")?;
    stranger.is_gone("after reconcile without a valid zone")
}

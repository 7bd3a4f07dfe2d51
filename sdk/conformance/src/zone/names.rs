//! `hutch:zone/zone`: names and sizes at their limits.

use hutch_driver::zone::RecordSet;

use super::room::{Zone, set, usual};
use crate::Stand;
use crate::case::{Case, Outcome, cases};

pub(super) fn cases() -> Vec<Case> {
    cases! {
        "zone.zone.names.labels": "a name may have labels of 63 bytes, and 253 bytes in all" => labels;
        "zone.zone.names.longest": "a zone may have a name of 253 bytes" => longest;
        "zone.zone.names.reverse": "zones of reverse names, for IPv4 and IPv6" => reverse;
        "zone.zone.names.nested": "a zone and one below it are two zones" => nested;
        "zone.zone.names.alike": "names that begin alike or look like files are zones of their own" => alike;
        "zone.zone.size.sets": "10,000 record sets are shown, all and once, and so are other ones in their place" => many;
        "zone.zone.size.values": "a record set may have 500 values, and a text 4,000 bytes" => values;
    }
}

/// A name of labels of 63 bytes, with `room` bytes and one more for a dot left of the 253.
fn long(room: usize) -> String {
    let mut name = String::new();
    while name.len() + room + 1 < 253 {
        let left = 253 - room - 1 - name.len();
        if !name.is_empty() {
            name.push('.');
        }
        let length = left.saturating_sub(usize::from(!name.is_empty())).min(63);
        // A dot with nothing behind it would be no name.
        if length == 0 {
            name.pop();
            break;
        }
        name.push_str(&"l".repeat(length));
    }
    name
}

async fn labels(stand: &Stand) -> Outcome {
    let zone = Zone::fresh(stand).await?;
    let sets = vec![
        set(&"l".repeat(63), "A", "192.0.2.1"),
        set(&long(zone.zone.name.len()), "A", "192.0.2.2"),
    ];
    zone.publish(1, sets.clone()).await?;
    zone.shows(1, &sets, "with long names")?;
    Ok(zone.delete().await?)
}

async fn longest(stand: &Stand) -> Outcome {
    let zone = Zone::called(stand, &format!("{}.example", long("example".len()))).await?;
    let sets = vec![set("@", "A", "192.0.2.1")];
    zone.publish(1, sets.clone()).await?;
    zone.shows(1, &sets, "with the longest name")?;
    zone.publish(2, Vec::new()).await?;
    zone.shows(2, &[], "with the longest name, published again")?;
    zone.delete().await?;
    zone.is_gone("deleted")
}

async fn reverse(stand: &Stand) -> Outcome {
    for name in ["2.0.192.in-addr.arpa", "8.b.d.0.1.0.0.2.ip6.arpa"] {
        let zone = Zone::called(stand, name).await?;
        let sets = vec![set("1", "PTR", "c1.example.org."), set("2.1", "PTR", "c2.example.org.")];
        zone.publish(1, sets.clone()).await?;
        zone.shows(1, &sets, "published")?;
        zone.delete().await?;
        zone.is_gone("deleted")?;
    }
    Ok(())
}

async fn nested(stand: &Stand) -> Outcome {
    let above = Zone::published(stand).await?;
    let below = Zone::called(stand, &format!("below.{}", above.zone.name)).await?;
    below.publish(7, usual()).await?;
    above.shows(1, &usual(), "with a zone below")?;
    below.shows(7, &usual(), "below another")?;
    above.delete().await?;
    above.is_gone("deleted")?;
    below.shows(7, &usual(), "after the one above was deleted")?;
    Ok(below.delete().await?)
}

async fn alike(stand: &Stand) -> Outcome {
    let mut zones = Vec::new();
    for name in [
        "zone",
        "zone.zone",
        "zone.tmp",
        "zone.new",
        "zone.db",
        "zone_",
        "_zone",
        "z",
    ] {
        let zone = Zone::called(stand, name).await?;
        zone.publish(1, usual()).await?;
        zones.push(zone);
    }
    for at in 0..zones.len() {
        let (gone, stay) = zones.split_at(at);
        for zone in stay {
            zone.shows(1, &usual(), "beside names that are alike")?;
        }
        for zone in gone {
            zone.is_gone("deleted")?;
        }
        if let Some(first) = stay.first() {
            first.delete().await?;
        }
    }
    Ok(())
}

async fn many(stand: &Stand) -> Outcome {
    let zone = Zone::fresh(stand).await?;
    let sets = |net: u32| -> Vec<RecordSet> {
        (0..10_000_u32)
            .map(|n| set(&format!("n{n}"), "A", &format!("{net}.0.{}.{}", n / 250, n % 250 + 1)))
            .collect()
    };
    for (version, net) in [(1, 10), (2, 11)] {
        zone.publish(version, sets(net)).await?;
        zone.shows(version, &sets(net), "with 10,000 record sets")?;
    }
    zone.publish(3, usual()).await?;
    zone.shows(3, &usual(), "with few again")?;
    Ok(zone.delete().await?)
}

async fn values(stand: &Stand) -> Outcome {
    let zone = Zone::fresh(stand).await?;
    let mut addresses = set("many", "A", "192.0.2.1");
    addresses.values = (0..500).map(|n| format!("10.0.{}.{}", n / 250, n % 250 + 1)).collect();
    // Strings of at most 255 bytes each (RFC 1035 section 3.3.14).
    let text = vec![format!("\"{}\"", "t".repeat(250)); 16].join(" ");
    let sets = vec![addresses, set("long", "TXT", &text)];
    zone.publish(1, sets.clone()).await?;
    zone.shows(1, &sets, "with many values")?;
    Ok(zone.delete().await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_as_long_as_they_can_be() {
        for room in 1..120 {
            let name = long(room);
            assert!((251..=252).contains(&(name.len() + room)), "{room}: {}", name.len());
            assert!(
                name.split('.').all(|label| (1..=63).contains(&label.len())),
                "{room}: {name}"
            );
        }
        assert_eq!(format!("{}.example", long(7)).len(), 253);
    }
}

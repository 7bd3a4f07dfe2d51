//! Subnets of networks: no two of one daemon have addresses in common, or instances of one of them would get none.

use std::sync::{Mutex, PoisonError};

use hutch_net::Prefix;

use super::Network;
use crate::error::{Error, Result};
use crate::records::NetworkRecord;
use crate::table::Table;

/// Where LXD's API has the machine's addresses in a network, whatever its type.
const KEYS: [&str; 2] = ["ipv4.address", "ipv6.address"];

/// Subnets of networks that are being made or changed, by the networks' names.
#[derive(Debug, Default)]
pub(crate) struct Subnets(Mutex<Vec<(String, Vec<Subnet>)>>);

/// Holds subnets for a network until its record shows them.
#[derive(Debug)]
pub(crate) struct Claim<'a> {
    subnets: &'a Subnets,
    network: String,
}

#[derive(Clone, Debug)]
struct Subnet {
    key: &'static str,
    prefix: Prefix,
}

impl Subnet {
    fn of(record: &NetworkRecord) -> Vec<Self> {
        // What is no subnet (`none`, or a key that this driver has other uses for) takes none.
        let parse = |key| {
            let prefix = record.config.get(key)?.parse().ok()?;
            Some(Self { key, prefix })
        };
        KEYS.into_iter().filter_map(parse).collect()
    }

    fn overlaps(&self, other: &Self) -> bool {
        let length = self.prefix.length.min(other.prefix.length);
        let cut = |prefix: Prefix| Prefix { length, ..prefix }.network();
        self.prefix.address.is_ipv4() == other.prefix.address.is_ipv4() && cut(self.prefix) == cut(other.prefix)
    }
}

impl Subnets {
    /// Claims the subnets of a network that is to be as `record` says.
    ///
    /// # Errors
    /// [`Error::Conflict`] when one of them overlaps with that of another network, or of one that is being made.
    pub(super) fn claim(
        &self,
        record: &NetworkRecord,
        networks: &Table<(String, String), Network>,
    ) -> Result<Claim<'_>> {
        let wanted = Subnet::of(record);
        let mut claimed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Read under the lock: a claim is dropped after the network was entered.
        let known = networks.list();
        let known = known.iter().map(|network| {
            let record = network.record();
            (record.name.clone(), Subnet::of(&record))
        });
        for (name, subnets) in known.chain(claimed.iter().cloned()) {
            if name == record.name {
                continue;
            }
            for own in &wanted {
                if let Some(other) = subnets.iter().find(|other| own.overlaps(other)) {
                    return Err(Error::Conflict(format!(
                        "Network {:?} can't have {} {}: it overlaps with {} of network {name:?}",
                        record.name, own.key, own.prefix, other.prefix
                    )));
                }
            }
        }
        claimed.push((record.name.clone(), wanted));
        Ok(Claim {
            subnets: self,
            network: record.name.clone(),
        })
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut claimed = self.subnets.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A network has one change at a time, so that there is one claim of this name.
        claimed.retain(|(name, _)| *name != self.network);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::records::RECORD_VERSION;

    fn network(name: &str, v4: &str, v6: &str) -> NetworkRecord {
        NetworkRecord {
            v: RECORD_VERSION,
            project: "default".to_owned(),
            name: name.to_owned(),
            driver: "any".to_owned(),
            description: String::new(),
            config: [(KEYS[0], v4), (KEYS[1], v6)]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
        }
    }

    #[test]
    fn subnets_are_of_one_network_alone() {
        let (subnets, networks) = (Subnets::default(), Table::default());
        let known = network("br0", "10.1.2.1/24", "fd42::1/64");
        networks.insert(("default".to_owned(), "br0".to_owned()), Arc::new(Network::new(known)));
        for (v4, v6, refused) in [
            ("10.1.2.9/24", "none", true),
            ("10.1.0.1/16", "none", true),
            ("10.1.2.129/25", "none", true),
            ("10.1.3.1/24", "fd42::9/64", true),
            ("10.1.3.1/24", "fd42:0:0:1::1/64", false),
            ("none", "none", false),
        ] {
            let claim = subnets.claim(&network("br1", v4, v6), &networks);
            assert_eq!(claim.is_err(), refused, "{v4} {v6}: {claim:?}");
        }
        let message = subnets
            .claim(&network("br1", "10.1.2.9/24", "none"), &networks)
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("\"br0\"") && message.contains("10.1.2.1/24"),
            "{message}"
        );
        drop(
            subnets
                .claim(&network("br0", "10.1.2.129/25", "none"), &networks)
                .unwrap(),
        );
    }

    #[test]
    fn what_is_being_made_counts_until_it_is_given_up() {
        let (subnets, networks) = (Subnets::default(), Table::default());
        let first = subnets
            .claim(&network("br1", "10.9.0.1/24", "none"), &networks)
            .unwrap();
        let second = network("br2", "10.9.0.1/24", "none");
        assert!(subnets.claim(&second, &networks).is_err());
        drop(first);
        assert!(subnets.claim(&second, &networks).is_ok());
    }
}

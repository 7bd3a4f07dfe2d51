//! Which instances `list` shows.

use std::net::IpAddr;

use hutch_api::instance::InstanceFull;

use crate::error::{Error, Result};

/// A condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Filter {
    /// The beginning of a name, or a pattern with `*`.
    Name(String),
    /// A key and its value; a value may be a pattern with `*`.
    Key(String, String),
    /// An address or a network that an interface's address is in.
    Address(IpAddr, u8),
}

/// Reads conditions, all of which must hold.
pub(super) fn parse(texts: &[String]) -> Result<Vec<Filter>> {
    texts.iter().map(|text| one(text)).collect()
}

fn one(text: &str) -> Result<Filter> {
    match text.split_once('=') {
        None => Ok(Filter::Name(text.into())),
        Some(("ipv4" | "ipv6", network)) => {
            let failed = || Error::usage(format!("{network:?} is neither an address nor a network (10.0.0.0/8)"));
            let (address, prefix) = network.split_once('/').map_or((network, None), |(a, p)| (a, Some(p)));
            let address: IpAddr = address.parse().map_err(|_| failed())?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            let prefix = prefix.map_or(Ok(most), str::parse).map_err(|_| failed())?;
            if prefix > most {
                Err(failed())
            } else {
                Ok(Filter::Address(address, prefix))
            }
        }
        Some((key, value)) => Ok(Filter::Key(key.into(), value.into())),
    }
}

impl Filter {
    /// Whether the daemon has to look at the instances for it.
    pub(super) fn needs_state(&self) -> bool {
        matches!(self, Self::Address(..))
    }

    /// Whether an instance is such.
    pub(super) fn matches(&self, full: &InstanceFull) -> bool {
        let instance = &full.instance;
        match self {
            Self::Name(pattern) if pattern.contains('*') => matches_pattern(&instance.name, pattern),
            Self::Name(start) => instance.name.starts_with(start.as_str()),
            Self::Address(network, prefix) => {
                let mut addresses = full.state.network.values().flat_map(|interface| &interface.addresses);
                addresses.any(|address| {
                    address
                        .address
                        .parse()
                        .is_ok_and(|address| contains(*network, *prefix, address))
                })
            }
            Self::Key(key, value) => match key.as_str() {
                "name" => matches_pattern(&instance.name, value),
                "type" => matches_pattern(&instance.kind, value),
                "status" | "state" => matches_pattern(&instance.status.to_lowercase(), &value.to_lowercase()),
                "architecture" => matches_pattern(&instance.architecture, value),
                "location" => matches_pattern(&instance.location, value),
                "profiles" | "profile" => instance.profiles.iter().any(|profile| matches_pattern(profile, value)),
                key => instance
                    .expanded_config
                    .get(key)
                    .is_some_and(|found| matches_pattern(found, value)),
            },
        }
    }
}

fn contains(network: IpAddr, prefix: u8, address: IpAddr) -> bool {
    let same = |a: u128, b: u128, width: u8| {
        let shift = u32::from(width - prefix);
        a.checked_shr(shift).unwrap_or(0) == b.checked_shr(shift).unwrap_or(0)
    };
    match (network, address) {
        (IpAddr::V4(a), IpAddr::V4(b)) => same(u32::from(a).into(), u32::from(b).into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => same(a.into(), b.into(), 128),
        _ => false,
    }
}

/// Whether `text` is `pattern`, in which `*` stands for anything. Linear in both but for the last star's retries.
fn matches_pattern(text: &str, pattern: &str) -> bool {
    let (text, pattern) = (text.as_bytes(), pattern.as_bytes());
    let (mut at, mut of, mut star) = (0, 0, None);
    while at < text.len() {
        if pattern.get(of) == Some(&b'*') {
            star = Some((of, at));
            of += 1;
        } else if pattern.get(of) == text.get(at) {
            (at, of) = (at + 1, of + 1);
        } else if let Some((back, from)) = star {
            star = Some((back, from + 1));
            (at, of) = (from + 1, back + 1);
        } else {
            return false;
        }
    }
    pattern[of..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance() -> InstanceFull {
        serde_json::from_value(serde_json::json!({
            "name": "web-1", "status": "Running", "type": "container", "expanded_config": {"user.owner": "ann"},
            "state": {"network": {"eth0": {"addresses": [{"family": "inet", "address": "10.1.2.3"}]}}}
        }))
        .unwrap()
    }

    fn shown(filter: &str) -> bool {
        one(filter).unwrap().matches(&instance())
    }

    #[test]
    fn names_match_by_their_beginning_or_a_pattern() {
        assert!(shown("web") && shown("*-1") && shown("w*b*1") && shown("*"));
        assert!(!shown("eb") && !shown("w*2") && !shown("web*x"));
    }

    #[test]
    fn keys_match_whole_values() {
        assert!(
            shown("status=running") && shown("user.owner=ann") && shown("user.owner=a*") && shown("type=container")
        );
        assert!(!shown("user.owner=an") && !shown("user.none=x"));
    }

    #[test]
    fn addresses_match_in_networks() {
        assert!(shown("ipv4=10.1.0.0/16") && shown("ipv4=10.1.2.3") && shown("ipv4=0.0.0.0/0"));
        assert!(!shown("ipv4=10.2.0.0/16") && !shown("ipv6=::/0"));
        assert!(one("ipv4=10.0.0.0/33").is_err() && one("ipv4=x").is_err() && one("ipv6=::/-1").is_err());
    }
}

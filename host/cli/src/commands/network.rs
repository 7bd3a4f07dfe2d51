//! `network`.

use std::collections::BTreeMap;

use hutch_api::network::Network;

use crate::client::{ApiPath, Client};
use crate::error::{Error, Result};

/// The device that connects an instance to a network.
pub(crate) async fn nic(client: &Client, network: &str) -> Result<BTreeMap<String, String>> {
    let found: Network = client
        .get(ApiPath::new(["networks", network]))
        .await
        .map_err(|error| error.about(network))?;
    let pairs: &[(&str, &str)] = if found.managed {
        &[("type", "nic"), ("name", "eth0"), ("network", network)]
    } else if found.kind == "bridge" {
        &[
            ("type", "nic"),
            ("name", "eth0"),
            ("nictype", "bridged"),
            ("parent", network),
        ]
    } else {
        return Err(Error::usage(format!(
            "{network} is an interface of the machine's own, and not a bridge"
        )));
    };
    Ok(pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect())
}

//! `network`.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use hutch_api::instance::Instance;
use hutch_api::network::{Network, NetworkLease, NetworkState, NetworksPost};

use super::common::{Common, Kind, Naming};
use crate::client::{ApiPath, Client};
use crate::context::{Context, Target};
use crate::error::{Error, Result};
use crate::object::Place;
use crate::output::{self, FormatArg, Table};
use crate::{edit, keyvalue};

const KIND: Kind = Kind {
    collection: "networks",
    noun: "Network",
};

#[derive(Debug, Subcommand)]
pub(crate) enum NetworkCommand {
    /// List networks
    #[command(alias = "ls")]
    List(ListArgs),
    /// Create a network, from standard input if that is not a terminal
    Create {
        /// Its name
        #[arg(value_name = "[REMOTE:]NETWORK")]
        name: String,
        /// Its keys
        #[arg(value_name = "KEY=VALUE")]
        config: Vec<String>,
        /// Its type; the daemon's default without it
        #[arg(
            short = 't',
            long = "type",
            default_value = "",
            value_name = "TYPE",
            hide_default_value = true
        )]
        kind: String,
        /// Describe it
        #[arg(long, default_value = "", value_name = "TEXT", hide_default_value = true)]
        description: String,
    },
    #[command(flatten)]
    Common(Common),
    #[command(flatten)]
    Naming(Naming),
    /// Show the state of a network or interface
    Info {
        /// Its name
        #[arg(value_name = "[REMOTE:]NETWORK")]
        name: String,
    },
    /// List DHCP leases
    ListLeases {
        /// The network
        #[arg(value_name = "[REMOTE:]NETWORK")]
        name: String,
        #[command(flatten)]
        format: FormatArg,
    },
    /// Connect an instance to a network
    Attach {
        /// The network
        #[arg(value_name = "[REMOTE:]NETWORK")]
        network: String,
        /// The instance
        instance: String,
        /// The device's name; the interface's without it
        device: Option<String>,
        /// The interface's name inside; the device's without it
        interface: Option<String>,
    },
    /// Disconnect an instance from a network
    Detach {
        /// The network
        #[arg(value_name = "[REMOTE:]NETWORK")]
        network: String,
        /// The instance
        instance: String,
        /// The device, if several are connected to it
        device: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// The daemon
    #[arg(value_name = "REMOTE:")]
    remote: Option<String>,
    /// Networks of all projects
    #[arg(long)]
    all_projects: bool,
    #[command(flatten)]
    format: FormatArg,
}

impl NetworkCommand {
    /// Does it.
    pub(crate) async fn run(self, ctx: &Context) -> Result<()> {
        match self {
            Self::List(args) => list(ctx, args).await,
            Self::Create {
                name,
                config,
                kind,
                description,
            } => create(ctx, &name, &config, kind, description).await,
            Self::Common(common) => common.run::<Network>(ctx, &KIND).await,
            Self::Naming(naming) => naming.run(ctx, &KIND).await,
            Self::Info { name } => info(ctx, &name).await,
            Self::ListLeases { name, format } => leases(ctx, &name, format).await,
            Self::Attach {
                network,
                instance,
                device,
                interface,
            } => attach(ctx, &network, &instance, device, interface).await,
            Self::Detach {
                network,
                instance,
                device,
            } => detach(ctx, &network, &instance, device).await,
        }
    }
}

async fn list(ctx: &Context, args: ListArgs) -> Result<()> {
    let target = ctx.daemon(args.remote.as_deref())?;
    let path = ApiPath::new([KIND.collection])
        .query("recursion", "1")
        .of_all_projects(args.all_projects);
    let networks: Vec<Network> = target.client.get(path).await?;
    output::print_list(args.format.format, &networks, |networks| {
        let head = [
            "NAME",
            "TYPE",
            "MANAGED",
            "IPV4",
            "IPV6",
            "DESCRIPTION",
            "USED BY",
            "STATE",
        ];
        let mut table = Table::new(args.all_projects.then_some("PROJECT").into_iter().chain(head));
        for network in networks {
            let key = |key: &str| network.config.get(key).cloned().unwrap_or_default();
            let cells = [
                network.name.clone(),
                network.kind.clone(),
                output::yes_no(network.managed),
                key("ipv4.address"),
                key("ipv6.address"),
                network.description.clone(),
                output::used_by(&network.used_by),
                network.status.to_uppercase(),
            ];
            let project = args.all_projects.then(|| network.project.clone());
            table.row(project.into_iter().chain(cells).collect());
        }
        table
    })
}

async fn create(ctx: &Context, name: &str, config: &[String], kind: String, description: String) -> Result<()> {
    let Target { client, name } = ctx.named(name)?;
    let mut post = NetworksPost {
        name,
        kind,
        description,
        ..NetworksPost::default()
    };
    if let Some(text) = edit::piped_file()? {
        let given: NetworksPost = output::from_yaml(&text, "standard input")?;
        post.config = given.config;
        for (field, given) in [(&mut post.description, given.description), (&mut post.kind, given.kind)] {
            if field.is_empty() {
                *field = given;
            }
        }
    }
    post.config.extend(keyvalue::pairs(config)?);
    KIND.create(ctx, &client, &post.name, &post).await
}

async fn info(ctx: &Context, name: &str) -> Result<()> {
    let Target { client, name } = ctx.named(name)?;
    let state: NetworkState = client
        .get(KIND.path(&name).join(["state"]))
        .await
        .map_err(|error| error.about(&name))?;
    let mut text = format!(
        "Name: {name}\nMAC address: {}\nMTU: {}\nState: {}\nType: {}\n",
        state.hwaddr, state.mtu, state.state, state.kind
    );
    if !state.addresses.is_empty() {
        text.push_str("\nIP addresses:\n");
        for address in &state.addresses {
            text.push_str(&format!(
                "  {}\t{}/{} ({})\n",
                address.family, address.address, address.netmask, address.scope
            ));
        }
    }
    let counters = &state.counters;
    text.push_str(&format!(
        "\nNetwork usage:\n  Bytes received: {}\n  Bytes sent: {}\n  Packets received: {}\n  Packets sent: {}\n",
        output::bytes(counters.bytes_received),
        output::bytes(counters.bytes_sent),
        counters.packets_received,
        counters.packets_sent
    ));
    if let Some(bridge) = &state.bridge {
        text.push_str(&format!(
            "\nBridge:\n  ID: {}\n  STP: {}\n  Forward delay: {}\n  Default VLAN ID: {}\n  VLAN filtering: {}\n  \
             Upper devices: {}\n",
            bridge.id,
            bridge.stp,
            bridge.forward_delay,
            bridge.vlan_default,
            bridge.vlan_filtering,
            bridge.upper_devices.join(", ")
        ));
    }
    if let Some(bond) = &state.bond {
        text.push_str(&format!(
            "\nBond:\n  Mode: {}\n  Transmit policy: {}\n  Up delay: {}\n  Down delay: {}\n  MII frequency: {}\n  \
             MII state: {}\n  Lower devices: {}\n",
            bond.mode,
            bond.transmit_policy,
            bond.up_delay,
            bond.down_delay,
            bond.mii_frequency,
            bond.mii_state,
            bond.lower_devices.join(", ")
        ));
    }
    if let Some(vlan) = &state.vlan {
        text.push_str(&format!(
            "\nVLAN:\n  Lower device: {}\n  VLAN ID: {}\n",
            vlan.lower_device, vlan.vid
        ));
    }
    output::write_out(text.as_bytes())
}

async fn leases(ctx: &Context, name: &str, format: FormatArg) -> Result<()> {
    let Target { client, name } = ctx.named(name)?;
    let leases: Vec<NetworkLease> = client
        .get(KIND.path(&name).join(["leases"]))
        .await
        .map_err(|error| error.about(&name))?;
    output::print_list(format.format, &leases, |leases| {
        let mut table = Table::new(["HOSTNAME", "MAC ADDRESS", "IP ADDRESS", "TYPE"]);
        for lease in leases {
            table.row(vec![
                lease.hostname.clone(),
                lease.hwaddr.clone(),
                lease.address.clone(),
                lease.kind.to_uppercase(),
            ]);
        }
        table
    })
}

/// The device that connects an instance to a network, as `eth0` inside.
pub(crate) async fn nic(client: &Client, network: &str) -> Result<BTreeMap<String, String>> {
    let found: Network = client
        .get(KIND.path(network))
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

async fn attach(
    ctx: &Context,
    network: &str,
    instance: &str,
    device: Option<String>,
    interface: Option<String>,
) -> Result<()> {
    let Target { client, name: network } = ctx.named(network)?;
    let mut keys = nic(&client, &network).await?;
    keys.remove("name");
    keys.extend(interface.map(|interface| ("name".to_owned(), interface)));
    let device = device.unwrap_or_else(|| network.clone());
    let place = Place {
        client: &client,
        path: ApiPath::new(["instances", instance]),
        name: instance,
    };
    place
        .modify::<Instance>(|_, put| {
            if put.devices.contains_key(&device) {
                return Err(Error::usage(format!("{instance} has a device {device} already")));
            }
            put.devices.insert(device.clone(), keys);
            Ok(())
        })
        .await?;
    ctx.say(&format!("{instance} connected to {network} by the device {device}"))
}

async fn detach(ctx: &Context, network: &str, instance: &str, device: Option<String>) -> Result<()> {
    let Target { client, name: network } = ctx.named(network)?;
    let place = Place {
        client: &client,
        path: ApiPath::new(["instances", instance]),
        name: instance,
    };
    place
        .modify::<Instance>(|_, put| {
            let connected = |keys: &BTreeMap<String, String>| {
                keyvalue::is_type(keys, "nic")
                    && ["network", "parent"]
                        .iter()
                        .any(|key| keys.get(*key).is_some_and(|value| *value == network))
            };
            let found: Vec<_> = put
                .devices
                .iter()
                .filter(|(name, keys)| connected(keys) && device.as_ref().is_none_or(|device| device == *name))
                .map(|(name, _)| name.clone())
                .collect();
            match found.as_slice() {
                [only] => put.devices.remove(only),
                [] => {
                    return Err(Error::usage(format!(
                        "no device of {instance}'s own connects it to {network}"
                    )));
                }
                several => {
                    let several = several.join(", ");
                    return Err(Error::usage(format!(
                        "{instance} has several devices on {network}: {several}; name one"
                    )));
                }
            };
            Ok(())
        })
        .await?;
    ctx.say(&format!("{instance} disconnected from {network}"))
}

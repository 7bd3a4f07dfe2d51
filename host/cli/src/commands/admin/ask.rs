//! `admin init` with a person before it: what plugins there are decides what can be chosen, so they come first. Every question has a
//! default, and is asked again with the reason where the answer can't be. Pools and networks are made when all is answered; what the daemon
//! refuses then is asked again, too.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use hutch_api::network::{Network, NetworksPost};
use hutch_api::plugin::Plugin;
use hutch_api::profile::Profile;
use hutch_api::server::Server;
use hutch_api::storage::{StoragePool, StoragePoolsPost};
use hutch_api::{Config, Devices};
use hyper::Method;
use serde::Serialize;
use serde_json::Value;

use super::{BRIDGES, DEFAULT_POOL, InitArgs, Preseed, apply, default_profile, lacks, list, nic, root_disk};
use crate::client::{ApiPath, Client, Progress};
use crate::commands::plugin::{install, preseed};
use crate::context::{Context, Target};
use crate::error::{Error, Result, report};
use crate::{edit, keyvalue};

/// The answer that leaves something out.
const NONE: &str = "none";
/// The extension of daemons that have plugins.
const PLUGINS: &str = "hutch_plugins";
/// The families of drivers that are chosen from.
const STORAGE: &str = "storage";
const NETWORK: &str = "network";

/// Asks for all that a daemon lacks, and makes it.
pub(super) async fn set_up(ctx: &Context, args: &InitArgs) -> Result<()> {
    let target = ctx.daemon(None)?;
    let client = &*target.client;
    let server: Server = client.get(ApiPath::new([""; 0])).await?;
    let profile: Profile = client.get(ApiPath::new(["profiles", "default"])).await?;
    let is_complete = !lacks(&profile, "disk") && !lacks(&profile, "nic");
    let installed = match server.api_extensions.iter().any(|name| name == PLUGINS) {
        true => match plugins(ctx, &target).await {
            // Whoever runs it without anybody there, to be sure that nothing is missing.
            Err(Error::NoAnswer) if is_complete => Vec::new(),
            installed => installed?,
        },
        false => Vec::new(),
    };
    let pools: Vec<StoragePool> = list(client, "storage-pools").await?;
    let networks: Vec<Network> = list(client, "networks").await?;
    let drivers = Drivers::read(client, installed).await?;

    let pools: Vec<&str> = pools.iter().map(|pool| pool.name.as_str()).collect();
    let pool = Wanted::of(lacks(&profile, "disk"), &pools, drivers.fresh(STORAGE));
    let ask_pool = |again| pool_plan(&drivers, args, &pools, again);
    let managed = networks.iter().filter(|network| network.managed);
    let networks: Vec<&str> = managed.map(|network| network.name.as_str()).collect();
    let network = Wanted::of(lacks(&profile, "nic"), &networks, drivers.fresh(NETWORK));
    let ask_network = |_| network_plan(&drivers, args, &networks);
    let new_pool = if pool.is_new { ask_pool(false)? } else { None };
    let pool_is_used = pool.is_used("storage pool", new_pool.as_ref())?;
    let new_network = if network.is_new { ask_network(false)? } else { None };
    let network_is_used = network.is_used("network", new_network.as_ref())?;
    if !(pool.is_new || pool.is_lacking || network.is_new || network.is_lacking) {
        return ctx.say("Nothing is missing: the default profile has a root disk and a network interface");
    }

    let mut devices = Devices::new();
    let made = make(ctx, client, "storage-pools", new_pool, ask_pool).await?;
    if let Some(name) = made.or(pool.present).filter(|_| pool_is_used) {
        let (device, disk) = changed(&profile, "disk", ("root", root_disk(&name)));
        devices.insert(device, disk);
    }
    let made = make(ctx, client, "networks", new_network, ask_network).await?;
    if let Some(name) = made.or(network.present).filter(|_| network_is_used) {
        let (device, nic) = changed(&profile, "nic", ("eth0", nic(&name)));
        devices.insert(device, nic);
    }
    let profiles = match devices.is_empty() {
        true => Vec::new(),
        false => vec![default_profile(devices)],
    };
    let preseed = Preseed {
        profiles,
        ..Preseed::default()
    };
    apply(ctx, client, preseed).await
}

/// The device with which the profile has what it is to have: the one of that type that it has already, with its other options, or else `new`.
fn changed(profile: &Profile, kind: &str, new: (&str, Config)) -> (String, Config) {
    let (name, wanted) = new;
    let is_it = |device: &Config| {
        let is_root = device.get("path").is_some_and(|path| path == "/");
        keyvalue::is_type(device, kind) && (kind != "disk" || is_root)
    };
    match profile.devices.iter().find(|(_, device)| is_it(device)) {
        None => (name.to_owned(), wanted),
        Some((name, device)) => {
            let mut device = device.clone();
            // An interface on a network of the daemon's is on no interface of the machine's.
            device.retain(|key, _| kind != "nic" || !matches!(key.as_str(), "nictype" | "parent"));
            let which = ["pool", "network"];
            device.extend(wanted.into_iter().filter(|(key, _)| which.contains(&key.as_str())));
            (name.clone(), device)
        }
    }
}

/// Offers to install plugins, as often as one is named, and answers with the ids of those that were.
async fn plugins(ctx: &Context, target: &Target) -> Result<Vec<String>> {
    let mut installed = Vec::new();
    let mut question = "Install a plugin for other storage or networks (a file, https://… or oci://…; none)";
    loop {
        let place = edit::ask(question, NONE)?;
        if place == NONE {
            return Ok(installed);
        }
        match install::if_agreed(ctx, target, &place).await {
            Ok(Some(offer)) => installed.push(offer.id),
            Ok(None) => eprintln!("Nothing was installed."),
            Err(error) if is_refusal(&error) => eprintln!("{}", report(&error)),
            Err(error) => return Err(error),
        }
        question = "Another plugin (a file, https://… or oci://…; none)";
    }
}

/// Whether it is the answer's fault, and another one may do.
fn is_refusal(error: &Error) -> bool {
    match error {
        Error::Server { .. } | Error::Operation(_) | Error::Usage(_) | Error::Io { .. } => true,
        Error::About { source, .. } => is_refusal(source),
        _ => false,
    }
}

/// The drivers that can be chosen.
struct Drivers {
    /// Names of storage drivers, in the order in which the daemon would take them.
    storage: Vec<String>,
    plugins: Vec<Plugin>,
    /// Ids of those that came right now.
    fresh: Vec<String>,
}

impl Drivers {
    /// Those of the plugins in service; `fresh` are the ids of those that came right now.
    async fn read(client: &Client, fresh: Vec<String>) -> Result<Self> {
        let server: Server = client.get(ApiPath::new([""; 0])).await?;
        let storage = server.environment.storage_supported_drivers.into_iter();
        let mut plugins = preseed::plugins(client).await?;
        plugins.retain(|plugin| matches!(plugin.state.as_str(), "enabled" | "loading"));
        // A daemon's own are what it takes where nothing is said.
        plugins.sort_by_key(|plugin| plugin.origin == "installed");
        Ok(Self {
            storage: storage.map(|driver| driver.name).collect(),
            plugins,
            fresh,
        })
    }

    fn provided<'a>(plugin: &'a Plugin, family: &str) -> impl Iterator<Item = &'a str> {
        plugin.provides.get(family).into_iter().flatten().map(String::as_str)
    }

    fn names(&self, family: &str) -> Vec<&str> {
        if family == STORAGE {
            return self.storage.iter().map(String::as_str).collect();
        }
        let mut names = Vec::new();
        for name in self.plugins.iter().flat_map(|plugin| Self::provided(plugin, family)) {
            // The first plugin of a name is the one that is asked.
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// A driver of a plugin that came right now.
    fn fresh(&self, family: &str) -> Option<&str> {
        let mut fresh = self.plugins.iter().filter(|plugin| self.fresh.contains(&plugin.id));
        fresh.find_map(|plugin| Self::provided(plugin, family).next())
    }

    /// The first driver that makes something without being told how.
    fn simple(&self, family: &str) -> Option<&str> {
        let simple = |name: &&str| required(self.schema(family, name)).is_empty();
        self.names(family).into_iter().find(simple)
    }

    /// The driver to be taken where nothing is said.
    fn default(&self, family: &str) -> Option<&str> {
        let first = || self.names(family).first().copied();
        self.fresh(family).or_else(|| self.simple(family)).or_else(first)
    }

    /// Asks which driver it is to be.
    fn choose(&self, question: &str, family: &str, default: &str) -> Result<String> {
        let names = self.names(family);
        let question = format!("{question} ({})", names.join(", "));
        edit::ask_until(&question, default, |answer| is_one_of(answer, &names))
    }

    /// What the driver says of its options; nothing where it says nothing.
    fn schema(&self, family: &str, name: &str) -> &Value {
        let provides = |plugin: &&Plugin| Self::provided(plugin, family).any(|other| other == name);
        let found = self.plugins.iter().find(provides);
        found.map_or(&Value::Null, |plugin| &plugin.options_schema)
    }

    /// Asks for the options that a driver can't do without and has no values for, beside those of `config`; without an answer to one, the
    /// option that is missing.
    fn required(&self, family: &str, name: &str, config: &mut Config) -> Result<Option<String>> {
        let schema = self.schema(family, name);
        for key in required(schema)
            .into_iter()
            .filter(|key| !config.contains_key(*key))
            .collect::<Vec<_>>()
        {
            let about = &schema["properties"][key];
            let text = |field: &str| shown(about[field].as_str().unwrap_or_default());
            let meaning = match text("description") {
                none if none.is_empty() => none,
                meaning => format!(": {meaning}"),
            };
            let default = match text("default") {
                none if none.is_empty() => NONE.to_owned(),
                default => default,
            };
            let values: Vec<&str> = about["enum"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            let question = format!("{}, which {name} needs{meaning}", shown(key));
            let answer = edit::ask_until(&question, &default, |answer| match values.as_slice() {
                [] => Ok(answer.to_owned()),
                _ if answer == NONE => Ok(answer.to_owned()),
                values => is_one_of(answer, values),
            })?;
            if answer == NONE {
                return Ok(Some(key.to_owned()));
            }
            config.insert(key.to_owned(), answer);
        }
        Ok(None)
    }
}

/// A plugin's words in a question: on one line, and nothing that a terminal would obey.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// The options that a schema wants.
fn required(schema: &Value) -> Vec<&str> {
    schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

fn is_one_of(answer: &str, names: &[&str]) -> Result<String, String> {
    if names.contains(&answer) {
        Ok(answer.to_owned())
    } else {
        Err(format!("{answer:?} is none of {}", names.join(", ")))
    }
}

/// Whether something is to be made.
struct Wanted {
    /// The default profile has none.
    is_lacking: bool,
    /// One is made.
    is_new: bool,
    /// Else the profile is to have this one.
    present: Option<String>,
}

impl Wanted {
    /// One is made where there is none, and where a driver has just come for it.
    fn of(is_lacking: bool, present: &[&str], fresh: Option<&str>) -> Self {
        let is_new = fresh.is_some() || is_lacking && present.is_empty();
        Self {
            is_lacking,
            is_new,
            present: present.first().filter(|_| is_lacking).map(|name| (*name).to_owned()),
        }
    }

    /// Whether the default profile is to have it; asked where it has one.
    fn is_used(&self, what: &str, new: Option<&impl Named>) -> Result<bool> {
        match new {
            Some(new) if !self.is_lacking => {
                edit::confirm(&format!("Have the default profile use the {what} {}", new.name()))
            }
            _ => Ok(self.is_lacking),
        }
    }
}

/// Asks for a name that is not taken.
fn name(what: &str, default: &str, taken: &[&str], longest: usize) -> Result<String> {
    edit::ask_until(&format!("Name of the new {what}, or none"), default, |answer| {
        if taken.contains(&answer) {
            return Err(format!("there is a {what} called {answer:?} already"));
        }
        is_name(answer, longest).map(|()| answer.to_owned())
    })
}

/// Whether it may be the name of a pool or network; the daemon knows more.
fn is_name(name: &str, longest: usize) -> Result<(), String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if name.len() > longest {
        return Err(format!(
            "{name:?} has {} characters, and may have {longest}",
            name.len()
        ));
    }
    if !name.bytes().all(plain) || name.starts_with(['-', '.']) {
        return Err(format!(
            "{name:?} can't be a name: letters, digits, - _ and . can be in it, and it begins with none of the last"
        ));
    }
    Ok(())
}

/// The pool to be made. What the arguments decided, and the name where there is no other pool, is asked for `again` once it was refused.
fn pool_plan(drivers: &Drivers, args: &InitArgs, taken: &[&str], again: bool) -> Result<Option<StoragePoolsPost>> {
    let none = || Error::usage("the daemon has no storage driver; `hutch plugin list` shows why");
    let mut default = drivers.default(STORAGE).ok_or_else(none)?;
    if let Some(driver) = &args.storage_backend {
        is_one_of(driver, &drivers.names(STORAGE)).map_err(Error::usage)?;
        default = driver;
    }
    let fixed = args.storage_backend.is_some() && !again;
    let name = match taken {
        [] if !again => DEFAULT_POOL.to_owned(),
        taken => {
            let default = [DEFAULT_POOL, default].into_iter().find(|name| !taken.contains(name));
            name("storage pool", default.unwrap_or(NONE), taken, 63)?
        }
    };
    if name == NONE {
        return Ok(None);
    }
    loop {
        let driver = match fixed {
            true => default.to_owned(),
            false => drivers.choose("Storage driver of the new pool", STORAGE, default)?,
        };
        let mut config = Config::new();
        if let Some(missing) = drivers.required(STORAGE, &driver, &mut config)? {
            let message = format!("{driver} makes no pool without {}", shown(&missing));
            default = match drivers.simple(STORAGE) {
                Some(other) if !fixed => other,
                _ => return Err(Error::usage(message)),
            };
            eprintln!("{message}");
            continue;
        }
        further("pool", drivers.schema(STORAGE, &driver), &mut config)?;
        return Ok(Some(StoragePoolsPost {
            name,
            driver,
            config,
            ..StoragePoolsPost::default()
        }));
    }
}

fn network_plan(drivers: &Drivers, args: &InitArgs, taken: &[&str]) -> Result<Option<NetworksPost>> {
    let free = (0..100)
        .map(|number| format!("{BRIDGES}{number}"))
        .find(|name| !taken.contains(&name.as_str()));
    let default = args.network_name.clone().or(free).unwrap_or_else(|| NONE.to_owned());
    let name = name("network", &default, taken, 15)?;
    if name == NONE {
        return Ok(None);
    }
    let kinds = drivers.names(NETWORK);
    let mut default = drivers.default(NETWORK);
    loop {
        let kind = match (kinds.as_slice(), default) {
            ([_, _, ..], Some(default)) => drivers.choose("Type of the new network", NETWORK, default)?,
            (_, only) => only.unwrap_or_default().to_owned(),
        };
        let schema = drivers.schema(NETWORK, &kind);
        let mut config = Config::new();
        // A daemon without plugins has networks with addresses, and says nothing of its options.
        let has = |key: &str| schema.is_null() || schema["properties"][key].is_object();
        if has("ipv4.address") {
            config.insert("ipv4.address".into(), address::<Ipv4Addr>("IPv4", "10.0.0.1/24", 32)?);
        }
        if has("ipv6.address") {
            config.insert("ipv6.address".into(), address::<Ipv6Addr>("IPv6", "fd42::1/64", 128)?);
        }
        if let Some(missing) = drivers.required(NETWORK, &kind, &mut config)? {
            let message = format!("{kind} makes no network without {}", shown(&missing));
            let Some(other) = drivers.simple(NETWORK) else {
                return Err(Error::usage(message));
            };
            eprintln!("{message}");
            default = Some(other);
            continue;
        }
        further("network", schema, &mut config)?;
        return Ok(Some(NetworksPost {
            name,
            kind,
            config,
            ..NetworksPost::default()
        }));
    }
}

/// Asks for the address of a network.
fn address<T: FromStr>(family: &str, example: &str, longest: u8) -> Result<String> {
    let question = format!("{family} address of the network (as {example}; auto, none)");
    edit::ask_until(&question, "auto", |answer| {
        is_address::<T>(answer, longest)
            .then(|| answer.to_owned())
            .ok_or_else(|| format!("{answer:?} is no {family} address with the length of its network, as {example}"))
    })
}

fn is_address<T: FromStr>(text: &str, longest: u8) -> bool {
    let has_length = |(address, length): (&str, &str)| {
        address.parse::<T>().is_ok() && length.parse::<u8>().is_ok_and(|length| (1..=longest).contains(&length))
    };
    matches!(text, "auto" | NONE) || text.split_once('/').is_some_and(has_length)
}

/// Asks for options that nobody needs.
fn further(what: &str, schema: &Value, config: &mut Config) -> Result<()> {
    let known = schema["properties"].as_object();
    let open = |key: &&String| !config.contains_key(*key) && !key.starts_with("volatile.");
    let keys = known.into_iter().flat_map(|known| known.keys());
    let names: Vec<&str> = keys.filter(open).map(String::as_str).collect();
    if names.is_empty() {
        return Ok(());
    }
    let only_these = schema["additionalProperties"] == false;
    let question = format!("Further options of the {what} (KEY=VALUE …; ? shows which there are; none)");
    let answer = edit::ask_until(&question, NONE, |answer| {
        match answer {
            NONE => return Ok(Config::new()),
            "?" => return Err(names.iter().map(|name| shown(name)).collect::<Vec<_>>().join(", ")),
            _ => {}
        }
        let words: Vec<&str> = answer.split_whitespace().collect();
        let pairs = keyvalue::pairs(&words).map_err(|error| report(&error))?;
        match pairs.keys().find(|key| only_these && !names.contains(&key.as_str())) {
            Some(unknown) => Err(format!("there is no option {unknown:?}")),
            None => Ok(pairs),
        }
    })?;
    config.extend(answer);
    Ok(())
}

/// What is made by a name of its own.
trait Named {
    fn name(&self) -> &str;
}

impl Named for StoragePoolsPost {
    fn name(&self) -> &str {
        &self.name
    }
}

impl Named for NetworksPost {
    fn name(&self) -> &str {
        &self.name
    }
}

/// Makes what was planned, or what is planned instead once the daemon has refused it and said why; the name of what was made.
async fn make<T: Named + Serialize>(
    ctx: &Context,
    client: &Client,
    collection: &str,
    first: Option<T>,
    again: impl Fn(bool) -> Result<Option<T>>,
) -> Result<Option<String>> {
    let mut plan = first;
    while let Some(post) = plan {
        let path = ApiPath::new([collection]);
        match client.change(Method::POST, path, &post, &Progress::hidden()).await {
            Ok(_) => {
                ctx.say(&format!("Created {} ({})", post.name(), collection.replace('-', " ")))?;
                return Ok(Some(post.name().to_owned()));
            }
            Err(error) if is_refusal(&error) => eprintln!("{}", report(&error)),
            Err(error) => return Err(error),
        }
        plan = again(true)?;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_the_length_of_their_network() {
        for good in ["auto", "none", "10.0.0.1/24", "192.168.1.1/32"] {
            assert!(is_address::<Ipv4Addr>(good, 32), "{good}");
        }
        for bad in [
            "",
            "10.0.0.1",
            "10.0.0.1/33",
            "10.0.0.1/0",
            "10.0.0/24",
            "fd42::1/64",
            "10.0.0.1/24/1",
            "yes",
        ] {
            assert!(!is_address::<Ipv4Addr>(bad, 32), "{bad}");
        }
        assert!(is_address::<Ipv6Addr>("fd42::1/64", 128) && !is_address::<Ipv6Addr>("10.0.0.1/24", 128));
    }

    #[test]
    fn what_has_just_come_is_offered_first_and_else_what_needs_no_answers() {
        let plugin = |id: &str, name: &str, schema: Value| Plugin {
            id: id.into(),
            provides: [(NETWORK.to_owned(), vec![name.to_owned()])].into(),
            options_schema: schema,
            ..Plugin::default()
        };
        let mut drivers = Drivers {
            storage: Vec::new(),
            plugins: vec![
                plugin("a", "onto", serde_json::json!({ "required": ["parent"] })),
                plugin("b", "bridge", Value::Null),
                plugin("c", "bridge", serde_json::json!({ "required": ["never"] })),
            ],
            fresh: Vec::new(),
        };
        assert_eq!(drivers.names(NETWORK), ["onto", "bridge"]);
        assert_eq!(required(drivers.schema(NETWORK, "onto")), ["parent"]);
        assert!(drivers.schema(NETWORK, "bridge").is_null());
        assert_eq!(drivers.default(NETWORK), Some("bridge"));
        drivers.fresh.push("a".into());
        assert_eq!(drivers.default(NETWORK), Some("onto"));
        assert_eq!(drivers.default(STORAGE), None);
    }

    #[test]
    fn a_device_that_is_there_keeps_its_name_and_its_options() {
        let profile: Profile = serde_json::from_value(serde_json::json!({ "devices": {
            "disk0": { "type": "disk", "path": "/", "pool": "old", "size": "5GiB" },
            "data": { "type": "disk", "path": "/srv", "source": "/srv" },
            "lan": { "type": "nic", "nictype": "bridged", "parent": "br0", "mtu": "1400" },
        } }))
        .unwrap();
        let (name, disk) = changed(&profile, "disk", ("root", root_disk("new")));
        assert_eq!(
            (name.as_str(), disk["pool"].as_str(), disk["size"].as_str()),
            ("disk0", "new", "5GiB")
        );
        let (name, nic) = changed(&profile, "nic", ("eth0", nic("n1")));
        assert_eq!(
            (name.as_str(), nic["network"].as_str(), nic["mtu"].as_str()),
            ("lan", "n1", "1400")
        );
        assert!(!nic.contains_key("parent") && !nic.contains_key("nictype"));
        let (name, disk) = changed(&Profile::default(), "disk", ("root", root_disk("new")));
        assert_eq!((name, disk), ("root".to_owned(), root_disk("new")));
    }

    #[test]
    fn names_are_names() {
        for good in ["default", "hutchbr0", "a.b-c_1"] {
            assert!(is_name(good, 15).is_ok(), "{good}");
        }
        for bad in ["a/b", "-x", ".x", "a b", "an-interface-of-old"] {
            assert!(is_name(bad, 15).is_err(), "{bad}");
        }
    }

    #[test]
    fn one_is_made_where_there_is_none_or_a_driver_has_come_for_it() {
        let wanted = |is_lacking, present: &[&str], fresh| {
            let wanted = Wanted::of(is_lacking, present, fresh);
            (wanted.is_new, wanted.present)
        };
        assert_eq!(wanted(true, &[], None), (true, None));
        assert_eq!(wanted(true, &["p"], None), (false, Some("p".into())));
        assert_eq!(wanted(false, &["p"], None), (false, None));
        assert_eq!(wanted(false, &["p"], Some("d")), (true, None));
    }
}

//! Devices of instances: which there are, what they may hold, and what they become.

use std::collections::BTreeMap;
use std::path::PathBuf;

use hutch_api::{Config, Devices};
use hutch_container::Mount;
use hutch_driver::network::NicRef;

use crate::error::{Error, Result};
use crate::records::InstanceRecord;
use crate::settings;
use crate::{Core, names};

/// One device.
pub type Device = BTreeMap<String, String>;

/// Keys of a network interface that the host itself understands; the rest is the network driver's.
const NIC_HOST_KEYS: [&str; 7] = ["type", "network", "nictype", "parent", "name", "hwaddr", "host_name"];
/// Keys of a disk.
const DISK_KEYS: [&str; 11] = [
    "type",
    "path",
    "pool",
    "source",
    "size",
    "readonly",
    "recursive",
    "required",
    "optional",
    "shift",
    "boot.priority",
];

/// An interface and the network that it is in.
#[derive(Clone, Debug)]
pub struct Nic {
    /// The network's name.
    pub network: String,
    /// As a driver sees it, without a namespace.
    pub reference: NicRef,
}

/// The managed network that a device names: `network=NAME`, or `nictype=bridged parent=NAME` as older clients write it.
pub fn network_of(device: &Device) -> Option<&String> {
    if device.get("type").is_none_or(|kind| kind != "nic") {
        return None;
    }
    device.get("network").or_else(|| device.get("parent"))
}

/// Checks devices as far as their own keys go, and the networks and pools that they name.
///
/// # Errors
/// [`Error::Invalid`] with the device and the key, and the network driver's.
pub async fn check(core: &Core, project: &str, devices: &Devices) -> Result<()> {
    let mut guest_names = BTreeMap::new();
    let mut roots = 0;
    for (name, device) in devices {
        names::object("device", name)?;
        let bad = |why: String| Error::invalid(format!("Device {name:?}: {why}"));
        match device.get("type").map(String::as_str) {
            Some("none") => {}
            Some("nic") => {
                check_nic(core, project, name, device).await?;
                if let Some(guest) = device.get("name")
                    && let Some(other) = guest_names.insert(guest.clone(), name)
                {
                    return Err(bad(format!(
                        "the interface name {guest:?} is taken by device {other:?}"
                    )));
                }
            }
            Some("disk") => {
                check_disk(core, name, device)?;
                roots += u32::from(is_root(device));
            }
            Some(kind) => return Err(bad(format!("there is no device type {kind:?} here: nic, disk or none"))),
            None => return Err(bad("the key type is missing".to_owned())),
        }
    }
    if roots > 1 {
        return Err(Error::invalid("More than one device is a disk with path \"/\""));
    }
    Ok(())
}

async fn check_nic(core: &Core, project: &str, name: &str, device: &Device) -> Result<()> {
    let bad = |why: String| Error::invalid(format!("Device {name:?}: {why}"));
    if let Some(kind) = device.get("nictype").filter(|kind| *kind != "bridged") {
        return Err(bad(format!(
            "there is no nictype {kind:?} here: name a managed network with network="
        )));
    }
    let Some(network) = network_of(device) else {
        return Err(bad("the key network is missing".to_owned()));
    };
    for key in ["name", "host_name"] {
        if let Some(value) = device.get(key) {
            // The kernel takes neither of the two (`dev_valid_name` in `net/core/dev.c`).
            let plain = !["", ".", ".."].contains(&value.as_str())
                && value.len() <= 15
                && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
            if !plain {
                return Err(bad(format!(
                    "{key}={value:?} can't be the name of an interface (1 to 15 letters, digits, - _ .)"
                )));
            }
        }
    }
    if let Some(hwaddr) = device.get("hwaddr")
        && !is_hwaddr(hwaddr)
    {
        return Err(bad(format!(
            "hwaddr={hwaddr:?} is not an address such as 00:16:3e:00:00:01"
        )));
    }
    let open = core.open_network(project, network).await.map_err(|error| match error {
        error if error.is_not_found() => bad(format!("network {network:?} not found")),
        other => other,
    })?;
    open.driver
        .validate_nic(&open.call(), &open.reference(), &driver_options(device))
        .await
        .map_err(Error::driver(format!("Device {name:?}")))?;
    Ok(())
}

fn check_disk(core: &Core, name: &str, device: &Device) -> Result<()> {
    let bad = |why: String| Error::invalid(format!("Device {name:?}: {why}"));
    if let Some(key) = device.keys().find(|key| !DISK_KEYS.contains(&key.as_str())) {
        return Err(bad(format!("unknown key {key:?}")));
    }
    let Some(path) = device.get("path").filter(|path| !path.is_empty()) else {
        return Err(bad("the key path is missing".to_owned()));
    };
    if path.contains('\0') || path.split('/').any(|part| part == "..") {
        return Err(bad(format!("path={path:?} must not hold ..")));
    }
    for key in ["readonly", "recursive", "required", "optional", "shift"] {
        if let Some(value) = device.get(key)
            && settings::parse_bool(value).is_none()
        {
            return Err(bad(format!("{key}={value:?} must be true or false")));
        }
    }
    if is_root(device) {
        let Some(pool) = device.get("pool") else {
            return Err(bad("the root disk needs a pool".to_owned()));
        };
        if core.pools.get(pool).is_none() {
            return Err(bad(format!("storage pool {pool:?} not found")));
        }
        if device.contains_key("source") {
            return Err(bad("the root disk has no source".to_owned()));
        }
        if let Some(size) = device.get("size")
            && !size.is_empty()
            && settings::parse_size(size).is_none()
        {
            return Err(bad(format!("size={size:?} is not a size such as 10GiB")));
        }
        return Ok(());
    }
    match device.get("source").map(String::as_str) {
        Some(source) if source.starts_with('/') && !source.contains('\0') => {}
        _ => return Err(bad("the key source must be an absolute path of the host".to_owned())),
    }
    if device.contains_key("pool") {
        return Err(bad(
            "volumes of pools can't be attached; name a directory of the host as source".to_owned(),
        ));
    }
    Ok(())
}

/// Whether a device is the root disk.
pub fn is_root(device: &Device) -> bool {
    device.get("type").is_some_and(|kind| kind == "disk") && device.get("path").is_some_and(|path| path == "/")
}

/// The root disk among devices.
///
/// # Errors
/// [`Error::Invalid`] when there is none.
pub fn root(devices: &Devices) -> Result<&Device> {
    devices.values().find(|device| is_root(device)).ok_or_else(|| {
        Error::invalid(
            "No root device could be found: add a disk with path=/ and pool=NAME to the instance or its profile",
        )
    })
}

/// What a network driver gets of a device: the keys that are not the host's own.
pub fn driver_options(device: &Device) -> Config {
    device
        .iter()
        .filter(|(key, _)| !NIC_HOST_KEYS.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// The interfaces of an instance, in the order of their devices' names, with the addresses and names that were chosen for
/// them.
pub fn nics(record: &InstanceRecord, devices: &Devices) -> Vec<Nic> {
    let mut nics = Vec::new();
    let taken: Vec<&String> = devices.values().filter_map(|device| device.get("name")).collect();
    let mut next = 0;
    for (name, device) in devices {
        let Some(network) = network_of(device) else { continue };
        let volatile = |key: &str| record.config.get(&format!("volatile.{name}.{key}")).cloned();
        let guest_name = device.get("name").cloned().unwrap_or_else(|| {
            loop {
                let candidate = format!("eth{next}");
                next += 1;
                if !taken.contains(&&candidate) {
                    return candidate;
                }
            }
        });
        nics.push(Nic {
            network: network.clone(),
            reference: NicRef {
                project: record.project.clone(),
                instance: record.name.clone(),
                device: name.clone(),
                host_name: device
                    .get("host_name")
                    .cloned()
                    .or_else(|| volatile("host_name"))
                    .unwrap_or_default(),
                guest_name,
                hwaddr: device
                    .get("hwaddr")
                    .cloned()
                    .or_else(|| volatile("hwaddr"))
                    .unwrap_or_default(),
                netns: String::new(),
                config: driver_options(device),
            },
        });
    }
    nics
}

/// Chooses addresses and host names for interfaces that have none, and forgets those of devices that are gone.
pub fn complete_volatile(config: &mut Config, devices: &Devices) {
    let is_nic = |name: &str| devices.get(name).is_some_and(|device| network_of(device).is_some());
    config.retain(
        |key, _| match key.strip_prefix("volatile.").and_then(|rest| rest.rsplit_once('.')) {
            Some((device, "hwaddr" | "host_name")) => is_nic(device),
            _ => true,
        },
    );
    for (name, device) in devices {
        if network_of(device).is_none() {
            continue;
        }
        if !device.contains_key("hwaddr") {
            let [a, b, c] = rand::random::<[u8; 3]>();
            // 00:16:3e is the prefix that container managers give to virtual interfaces.
            config
                .entry(format!("volatile.{name}.hwaddr"))
                .or_insert_with(|| format!("00:16:3e:{a:02x}:{b:02x}:{c:02x}"));
        }
        if !device.contains_key("host_name") {
            let number = rand::random::<u32>();
            config
                .entry(format!("volatile.{name}.host_name"))
                .or_insert_with(|| format!("veth{number:08x}"));
        }
    }
}

/// The directories and files of the host that an instance sees, outer paths first, so that an inner one is not hidden.
pub fn mounts(devices: &Devices) -> Vec<Mount> {
    let mut mounts = Vec::new();
    for device in devices.values() {
        if device.get("type").is_none_or(|kind| kind != "disk") || is_root(device) {
            continue;
        }
        let (Some(source), Some(target)) = (device.get("source"), device.get("path")) else {
            continue;
        };
        let flag = |key: &str| device.get(key).and_then(|value| settings::parse_bool(value));
        mounts.push(Mount {
            source: PathBuf::from(source),
            target: PathBuf::from(target),
            readonly: flag("readonly").unwrap_or(false),
            recursive: flag("recursive").unwrap_or(false),
            shift: flag("shift").unwrap_or(false),
            required: flag("required").unwrap_or_else(|| !flag("optional").unwrap_or(false)),
        });
    }
    mounts.sort_by(|a, b| a.target.cmp(&b.target));
    mounts
}

/// Refuses disks whose source the host has not, unless they say that they can do without, or are what `before` has: a source that
/// is gone is no reason to refuse the change of something else.
///
/// # Errors
/// [`Error::Invalid`] with the disk and the source, [`Error::Io`] for a source that can't be looked at.
pub(crate) async fn check_sources(devices: &Devices, before: &Devices) -> Result<()> {
    for (name, device) in devices
        .iter()
        .filter(|(name, device)| before.get(*name) != Some(*device))
    {
        for mount in mounts(&Devices::from([(name.clone(), device.clone())])) {
            let source = mount.source.display();
            let found = tokio::fs::try_exists(&mount.source).await;
            let found = found.map_err(Error::io(format!("looking for {source}, the source of disk {name:?}")))?;
            if mount.required && !found {
                // It begins with LXD's words.
                return Err(Error::invalid(format!(
                    "Missing source path {:?} for disk {name:?}: make it on the host, or set required=false to start without it",
                    mount.source
                )));
            }
        }
    }
    Ok(())
}

/// Those whose source the host has.
///
/// # Errors
/// [`Error::Invalid`] for a required one that is missing.
pub fn present(mut mounts: Vec<Mount>) -> Result<Vec<Mount>> {
    let missing = |mount: &Mount| !mount.source.exists();
    if let Some(mount) = mounts.iter().find(|mount| mount.required && missing(mount)) {
        return Err(Error::invalid(format!(
            "The disk at {} can't be mounted: its source {} is missing on the host",
            mount.target.display(),
            mount.source.display()
        )));
    }
    mounts.retain(|mount| !missing(mount));
    Ok(mounts)
}

/// A call for one interface, with the instance's namespace when it has one.
pub(crate) fn nic_netns(keeper: &hutch_container::Keeper) -> Result<hutch_driver::NetnsHandle> {
    let fd = keeper
        .netns()
        .try_clone_to_owned()
        .map_err(Error::io("copying the descriptor of a network namespace"))?;
    Ok(hutch_driver::NetnsHandle {
        id: "instance".to_owned(),
        fd: std::sync::Arc::new(fd),
    })
}

/// Whether this is a hardware address, six bytes in hexadecimal with colons.
pub(crate) fn is_hwaddr(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    parts.len() == 6
        && parts
            .iter()
            .all(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(entries: &[(&str, &str)]) -> Device {
        entries
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn volatile_keys_follow_the_devices() {
        let mut devices = Devices::from([("eth0".to_owned(), device(&[("type", "nic"), ("network", "n")]))]);
        let mut config = Config::from([
            ("volatile.eth9.hwaddr".to_owned(), "x".to_owned()),
            ("volatile.uuid".to_owned(), "u".to_owned()),
        ]);
        complete_volatile(&mut config, &devices);
        assert!(is_hwaddr(&config["volatile.eth0.hwaddr"]));
        assert_eq!(config["volatile.eth0.host_name"].len(), 12);
        assert!(!config.contains_key("volatile.eth9.hwaddr"));
        assert!(config.contains_key("volatile.uuid"));
        let before = config.clone();
        complete_volatile(&mut config, &devices);
        assert_eq!(config, before);
        devices.clear();
        complete_volatile(&mut config, &devices);
        assert_eq!(config.len(), 1);
    }

    #[test]
    fn mounts_are_ordered_and_missing_sources_are_told() {
        let disk = |source: &str, path: &str| device(&[("type", "disk"), ("source", source), ("path", path)]);
        let devices = Devices::from([
            ("a".to_owned(), disk("/", "srv/x/y")),
            ("b".to_owned(), disk("/", "srv/x")),
        ]);
        let targets: Vec<_> = mounts(&devices).into_iter().map(|mount| mount.target).collect();
        assert_eq!(targets, [PathBuf::from("srv/x"), PathBuf::from("srv/x/y")]);
        let mut missing = disk("/nowhere/at/all", "x");
        let found = |device: &Device| present(mounts(&Devices::from([("a".to_owned(), device.clone())])));
        assert!(found(&missing).unwrap_err().to_string().contains("/nowhere/at/all"));
        missing.insert("optional".to_owned(), "true".to_owned());
        assert!(found(&missing).unwrap().is_empty());
    }
}

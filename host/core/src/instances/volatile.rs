//! Keys under `volatile.`: the daemon's notes about an instance, which LXD shows among its configuration.
//!
//! Clients read them with everything else and send them back when they replace it, from what they read a while ago or from another
//! instance. As LXD does it, keys that it has not are refused. What says who an instance is or what it was last seen doing stays the
//! daemon's, whatever comes back; a request has its say in what it may choose, such as the address of an interface.

use std::sync::Arc;

use hutch_api::Config;

use crate::Core;
use crate::error::{Error, Result};
use crate::instances::Instance;
use crate::instances::devices::is_hwaddr;

/// What all these keys begin with.
pub(crate) const PREFIX: &str = "volatile.";
/// Who the instance is. It does not change as long as it lives.
const UUID: &str = "volatile.uuid";
const TEMPLATE: &str = super::templates::PENDING;
/// The image that the instance was made from.
pub(crate) const BASE_IMAGE: &str = "volatile.base_image";

/// Keys of instances that LXD 4.20 and Incus 6.0 have (`ConfigKeyChecker` of either).
const KEYS: [&str; 16] = [
    TEMPLATE,
    BASE_IMAGE,
    UUID,
    super::start::POWER,
    "volatile.apply_nvram",
    "volatile.apply_quota",
    "volatile.cloud-init.instance-id",
    "volatile.container.oci",
    "volatile.evacuate.origin",
    "volatile.idmap.base",
    "volatile.idmap.current",
    "volatile.idmap.next",
    "volatile.last_state.idmap",
    "volatile.last_state.ready",
    "volatile.uuid.generation",
    "volatile.vsock_id",
];

/// Ends of their keys of devices, after `volatile.DEVICE`.
const OF_DEVICES: [&str; 22] = [
    ".apply_quota",
    ".ceph_rbd",
    ".created",
    ".driver",
    ".host_name",
    ".hwaddr",
    ".id",
    ".last_state.created",
    ".last_state.hwaddr",
    ".last_state.ip_addresses",
    ".last_state.mtu",
    ".last_state.pci.driver",
    ".last_state.pci.parent",
    ".last_state.pci.slot.name",
    ".last_state.vdpa.name",
    ".last_state.vf.hwaddr",
    ".last_state.vf.id",
    ".last_state.vf.parent",
    ".last_state.vf.spoofcheck",
    ".last_state.vf.vlan",
    ".mtu",
    ".name",
];

/// Whether this is one of them.
pub(crate) fn is_volatile(key: &str) -> bool {
    key.starts_with(PREFIX)
}

/// Whether a request chooses the value: the address of an interface, the image's fingerprint, and which templates are due.
fn is_chosen(key: &str) -> bool {
    key == BASE_IMAGE || key == TEMPLATE || key.strip_suffix(".hwaddr").is_some_and(is_device)
}

/// Whether this is the beginning of a key of a device: `volatile.NAME`, with whatever dots are in the name.
fn is_device(start: &str) -> bool {
    start
        .strip_prefix(PREFIX)
        .is_some_and(|name| !name.is_empty() && !name.ends_with(".last_state") && !name.ends_with(".vf"))
}

/// Checks a key under `volatile.` and what is to be in it.
///
/// # Errors
/// [`Error::Invalid`] for a key that LXD has not, and a value that the key can't have.
pub(crate) fn check(key: &str, value: &str) -> Result<()> {
    let of_device = |end: &str| key.strip_suffix(end).is_some_and(|start| start.len() > PREFIX.len());
    if !KEYS.contains(&key) && !OF_DEVICES.into_iter().any(of_device) {
        return Err(Error::invalid(format!("Unknown configuration key: {key}")));
    }
    let bad = |why: &str| Err(Error::invalid(format!("Invalid value {value:?} for {key}: {why}")));
    match key {
        _ if value.is_empty() => Ok(()),
        TEMPLATE if !["create", "copy", "rename"].contains(&value) => bad("it must be create, copy or rename"),
        key if is_chosen(key) && key.ends_with(".hwaddr") && !is_hwaddr(value) => {
            bad("it must be an address such as 00:16:3e:00:00:01")
        }
        _ => Ok(()),
    }
}

/// What a request for a new instance says in these keys, without what is the daemon's to say.
pub(super) fn of_request(config: &mut Config) {
    config.retain(|key, _| !is_volatile(key) || is_chosen(key));
}

impl Core {
    /// Takes these keys out of a configuration that a client has read from another instance: stock clients send it as it is when they
    /// refresh a copy, and the source's address is not the copy's. `own` is the configuration of the instance that it is for.
    pub(super) fn forget_others_identity(&self, own: Option<&Config>, wanted: &mut Config) {
        let Some(uuid) = wanted.get(UUID) else { return };
        let is_others = |instance: Arc<Instance>| instance.view().record.config.get(UUID) == Some(uuid);
        if own.and_then(|own| own.get(UUID)) != Some(uuid) && self.instances.list(None).into_iter().any(is_others) {
            wanted.retain(|key, _| !is_volatile(key) || key == BASE_IMAGE);
        }
    }
}

/// The configuration that takes the place of `own`: what a request leaves out of these keys stays, and what is the daemon's does.
///
/// # Errors
/// [`Error::Invalid`] for the identity of another instance: its configuration was not meant for this one.
pub(super) fn keep(own: &Config, mut wanted: Config) -> Result<Config> {
    if let Some(uuid) = wanted.get(UUID)
        && own.get(UUID) != Some(uuid)
    {
        return Err(Error::invalid(format!(
            "{UUID} can't be changed: it is what the daemon knows the instance by"
        )));
    }
    of_request(&mut wanted);
    for (key, value) in own.iter().filter(|(key, _)| is_volatile(key)) {
        wanted.entry(key.clone()).or_insert_with(|| value.clone());
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(entries: &[(&str, &str)]) -> Config {
        entries
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn keys_are_lxds_and_their_values_make_sense() {
        for key in [
            "volatile.uuid",
            "volatile.idmap.next",
            "volatile.eth0.hwaddr",
            "volatile.my.nic.host_name",
            "volatile.gpu.last_state.pci.driver",
        ] {
            check(key, "").unwrap();
        }
        for key in ["volatile.x", "volatile.", "volatile.hwaddr", "volatile.eth0.color"] {
            let error = check(key, "1").unwrap_err().to_string();
            assert_eq!(error, format!("Unknown configuration key: {key}"));
        }
        check("volatile.eth0.hwaddr", "00:16:3e:01:02:03").unwrap();
        assert!(check("volatile.eth0.hwaddr", "00:16:3e").is_err());
        check("volatile.apply_template", "copy").unwrap();
        assert!(check("volatile.apply_template", "always").is_err());
    }

    #[test]
    fn the_daemon_keeps_what_is_its_own() {
        let own = config(&[
            ("volatile.uuid", "1"),
            ("volatile.last_state.power", "RUNNING"),
            ("volatile.eth0.host_name", "veth1"),
            ("volatile.eth0.hwaddr", "00:16:3e:00:00:01"),
            ("limits.cpu", "1"),
        ]);
        let kept = keep(
            &own,
            config(&[
                ("volatile.last_state.power", "STOPPED"),
                ("volatile.eth0.host_name", "eth0"),
                ("volatile.eth0.hwaddr", "00:16:3e:00:00:02"),
                ("volatile.idmap.base", "0"),
                ("user.x", "y"),
            ]),
        );
        let expected = [
            ("volatile.uuid", "1"),
            ("volatile.last_state.power", "RUNNING"),
            ("volatile.eth0.host_name", "veth1"),
            ("volatile.eth0.hwaddr", "00:16:3e:00:00:02"),
            ("user.x", "y"),
        ];
        assert_eq!(kept.unwrap(), config(&expected));
        for uuid in ["2", ""] {
            let error = keep(&own, config(&[("volatile.uuid", uuid)])).unwrap_err().to_string();
            assert!(error.contains("volatile.uuid can't be changed"), "{error}");
        }
        let mut asked = config(&[
            ("volatile.uuid", "3"),
            ("volatile.eth0.hwaddr", "00:16:3e:00:00:03"),
            ("user.x", "y"),
        ]);
        of_request(&mut asked);
        assert_eq!(
            asked,
            config(&[("volatile.eth0.hwaddr", "00:16:3e:00:00:03"), ("user.x", "y")])
        );
    }
}

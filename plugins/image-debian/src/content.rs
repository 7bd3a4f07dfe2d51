//! What is in an image: packages, and the files that packages don't bring.

use hutch_sdk::image::PlacedFile;
use hutch_sdk::{Error, Options, Result};

use crate::suites::Suite;

/// What makes a bare Debian a system that boots, has a network, and can be worked in.
const PACKAGES: [&str; 12] = [
    "systemd-sysv",
    "dbus",
    "libpam-systemd",
    "libnss-myhostname",
    "iproute2",
    "iputils-ping",
    "netbase",
    "udev",
    "procps",
    "ca-certificates",
    "less",
    "nano",
];

/// The smallest sets of mmdebstrap(1) that apt works in, and larger ones.
const VARIANTS: [&str; 4] = ["minbase", "apt", "important", "standard"];

/// Asks for addresses on the interfaces that instances get, by DHCP and by router advertisements (systemd.network(5)). The
/// hardware address stands for the client, so that a static lease for it holds.
const NETWORK: &str = "[Match]
Name=eth* en*

[Network]
DHCP=yes
IPv6PrivacyExtensions=no

[DHCPv4]
ClientIdentifier=mac
UseDomains=yes

[IPv6AcceptRA]
UseDomains=yes
";

const HOSTS: &str = "127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
";

/// Where units are, on systems with and without a merged `/usr`.
const UNITS: &str = "/lib/systemd/system";

/// What mmdebstrap is asked for.
#[derive(Debug)]
pub(crate) struct Selection {
    pub(crate) variant: &'static str,
    pub(crate) packages: Vec<String>,
}

/// Debian's policy, section 5.6.7: lower-case letters, digits, `+`, `-` and `.`, two characters at least.
fn is_package(name: &str) -> bool {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"+-.".contains(&c);
    (2..=128).contains(&name.len()) && name.bytes().all(plain) && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}

/// Reads the options `variant` and `packages`.
///
/// # Errors
/// `invalid`, which names the option.
pub(crate) fn selection(options: &Options) -> Result<Selection> {
    let asked = options.get("variant").unwrap_or("minbase");
    let variant = VARIANTS.into_iter().find(|known| *known == asked).ok_or_else(|| {
        Error::invalid(format!(
            "invalid value for \"variant\": {asked:?} is not one of {}",
            VARIANTS.join(", ")
        ))
        .with("key", "variant")
    })?;
    let mut packages: Vec<String> = PACKAGES.map(str::to_owned).to_vec();
    let extra = options.get("packages").unwrap_or_default();
    for name in extra.split([',', ' ']).filter(|name| !name.is_empty()) {
        if !is_package(name) {
            return Err(Error::invalid(format!(
                "invalid value for \"packages\": {name:?} is not the name of a package"
            ))
            .with("key", "packages"));
        }
        if !packages.iter().any(|known| known == name) {
            packages.push(name.to_owned());
        }
    }
    if packages.len() > 500 {
        return Err(Error::limit("more than 500 packages were named"));
    }
    Ok(Selection { variant, packages })
}

fn file(path: &str, text: &str) -> PlacedFile {
    PlacedFile {
        path: path.into(),
        kind: "file".into(),
        mode: 0o644,
        data: text.into(),
    }
}

fn link(path: &str, target: &str) -> PlacedFile {
    PlacedFile {
        path: path.into(),
        kind: "symlink".into(),
        mode: 0,
        data: target.into(),
    }
}

/// A unit enabled under another unit or name.
fn enabled(place: &str, unit: &str) -> PlacedFile {
    link(&format!("etc/systemd/system/{place}"), &format!("{UNITS}/{unit}"))
}

/// Before 250, `udevadm trigger` gave up at the first device that it may not touch, and a container's system was `degraded`
/// for that; so it was for the socket of the kernel's audit messages, which a container doesn't get.
const LAST_STRICT_SYSTEMD: u16 = 249;

const TRIGGER: &str = "[Service]
ExecStart=
ExecStart=-udevadm trigger --type=subsystems --action=add
ExecStart=-udevadm trigger --type=devices --action=add
";

/// The files that make the system ask for addresses, and that take the building machine's name and name servers out of it.
/// An empty name leaves the one that the container was started with (hostname(5)); an empty machine id gets its value at
/// the first boot, which is no "first boot" that asks questions (machine-id(5)).
pub(crate) fn files(suite: &Suite) -> Vec<PlacedFile> {
    let mut files = vec![
        file("etc/hostname", ""),
        file("etc/hosts", HOSTS),
        file("etc/machine-id", ""),
        file("etc/systemd/network/80-hutch.network", NETWORK),
        enabled(
            "multi-user.target.wants/systemd-networkd.service",
            "systemd-networkd.service",
        ),
        enabled(
            "sockets.target.wants/systemd-networkd.socket",
            "systemd-networkd.socket",
        ),
        enabled("dbus-org.freedesktop.network1.service", "systemd-networkd.service"),
        enabled(
            "sysinit.target.wants/systemd-resolved.service",
            "systemd-resolved.service",
        ),
        enabled("dbus-org.freedesktop.resolve1.service", "systemd-resolved.service"),
        link("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf"),
    ];
    if suite.systemd <= LAST_STRICT_SYSTEMD {
        files.push(file(
            "etc/systemd/system/systemd-udev-trigger.service.d/hutch.conf",
            TRIGGER,
        ));
        files.push(link("etc/systemd/system/systemd-journald-audit.socket", "/dev/null"));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    fn select(key: &str, value: &str) -> Result<Selection> {
        selection(&[(key.to_owned(), value.to_owned())].into_iter().collect())
    }

    #[test]
    fn packages_are_added_once() {
        let packages = select("packages", "vim, openssh-server,less").unwrap().packages;
        assert_eq!(packages.iter().filter(|name| *name == "less").count(), 1);
        assert!(packages.ends_with(&["vim".into(), "openssh-server".into()]));
    }

    #[test]
    fn what_is_no_package_is_refused() {
        for bad in [
            "./evil.deb",
            "/tmp/x.deb",
            "?narrow(x)",
            "~x",
            "a",
            "Vim",
            "x;id",
            "--hook",
            "a\tb",
        ] {
            assert!(select("packages", bad).is_err_and(|e| e.is("invalid")), "{bad:?}");
        }
        assert!(select("variant", "custom").is_err_and(|e| e.is("invalid")));
    }
}

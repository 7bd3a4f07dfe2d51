//! Zone drivers: `hutch:zone`.
//!
//! [`write()`] puts a zone as a master file (RFC 1035 section 5) where a name server reads it, [`each`] is for those who take record
//! sets one by one.

use std::fmt::Write as _;

use crate::{Error, Host, Result, TreePath};

pub use crate::bindings::imports::hutch::zone::types::ZoneRef;
pub use crate::host::{Change, Position, RecordSet};

/// Zones. Required.
pub trait Zone {
    /// Checks a configuration and completes it. `current` is what the zone has, when it is changed.
    fn validate(
        host: &impl Host,
        zone: &ZoneRef,
        current: Option<&[(String, String)]>,
    ) -> Result<Vec<(String, String)>>;
    /// The content is now at `version`: what the backend shows becomes that. An older version than was published is a success and
    /// does nothing.
    fn publish(host: &impl Host, zone: &ZoneRef, version: u64) -> Result<()>;
    /// Takes the zone away. What is not there is a success.
    fn delete(host: &impl Host, zone: &ZoneRef) -> Result<()>;
    /// Removes what is there of zones that are not in `valid`, and says what.
    fn reconcile(host: &impl Host, valid: &[ZoneRef]) -> Result<Vec<String>>;
}

/// Record sets of one page.
const PAGE: u32 = 500;
/// Bytes of a master file that are kept before they are written; the host takes 1 MiB in one call.
const PART: usize = 512 << 10;

/// Gives `take` every record set of `version`, in canonical order.
///
/// # Errors
/// Those of [`Host::records_page`], and those of `take`.
pub fn each(host: &impl Host, version: u64, mut take: impl FnMut(&RecordSet) -> Result<()>) -> Result<()> {
    let mut after = None;
    loop {
        let page = host.records_page(version, after.as_ref(), PAGE)?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(Position {
            name: last.name.clone(),
            kind: last.kind.clone(),
        });
        page.iter().try_for_each(&mut take)?;
    }
}

/// What stands at a zone's apex for the zone itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Apex {
    /// The name servers, absolute without a final dot. The first is the primary in the SOA record.
    pub nameservers: Vec<String>,
    /// The mailbox of whoever is responsible, as a domain name without a final dot.
    pub contact: String,
}

/// The contact of a zone whose own name is so long that no mailbox can be in it.
const NOBODY: &str = "hostmaster.localhost";

/// The time to live of SOA and NS records, in seconds, and the timers of SOA: refresh, retry, expire and the time that a negative
/// answer is kept. Short, because instances come and go.
const SOA_TTL: u32 = 3600;
const NS_TTL: u32 = 300;
const TIMERS: &str = "120 60 86400 30";

impl Apex {
    /// From a zone's configuration: `dns.nameservers`, a list separated by commas, and `dns.contact`, a mailbox with an `@` or as a
    /// domain name. Where they are missing, the name server is `localhost`, as in zones that nobody delegates to, and the
    /// contact `hostmaster` in the zone. A server in the zone itself would need an address there, or BIND does not load the zone.
    ///
    /// # Errors
    /// `invalid` for what is no name.
    pub fn of(zone: &ZoneRef) -> Result<Self> {
        let options = crate::Options::new(&zone.config);
        let servers = options.get("dns.nameservers").unwrap_or("localhost");
        let mut nameservers = Vec::new();
        for server in servers.split(',').map(str::trim) {
            nameservers.push(domain("dns.nameservers", server)?);
        }
        let contact = match options.get("dns.contact") {
            None => domain("dns.contact", &format!("hostmaster.{}", zone.name)).unwrap_or_else(|_| NOBODY.to_owned()),
            Some(address) => mailbox(address)?,
        };
        Ok(Self { nameservers, contact })
    }

    /// The lines of SOA and NS for a master file, with the zone's version as the serial number.
    pub fn lines(&self, version: u64) -> String {
        let primary = self.nameservers.first().map_or("", String::as_str);
        let serial = version & u64::from(u32::MAX);
        let mut text = format!("@ {SOA_TTL} IN SOA {primary}. {}. {serial} {TIMERS}\n", self.contact);
        for server in &self.nameservers {
            // Writing to a string can't fail.
            let _ = writeln!(text, "@ {NS_TTL} IN NS {server}.");
        }
        text
    }
}

/// A domain name (RFC 1035 section 2.3.4), without its final dot. A dot in a label may be escaped, as mailboxes have it.
fn domain(key: &str, name: &str) -> Result<String> {
    let bare = name.strip_suffix('.').unwrap_or(name);
    let labels = bare.replace("\\.", "");
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
    let good = bare.len() <= 253
        && labels
            .split('.')
            .all(|label| (1..=63).contains(&label.len()) && label.bytes().all(plain));
    match good {
        true => Ok(bare.to_ascii_lowercase()),
        false => Err(Error::invalid(format!("invalid value for {key:?}: {name:?} is no domain name")).with("key", key)),
    }
}

/// `me.too@example.org` as the SOA record has it: `me\.too.example.org` (RFC 1035 section 8).
fn mailbox(address: &str) -> Result<String> {
    match address.split_once('@') {
        None => domain("dns.contact", address),
        // What is whole with a final dot would be so without a host, too.
        Some((_, host)) if domain("dns.contact", host).is_err() => Err(Error::invalid(format!(
            "invalid value for \"dns.contact\": {address:?} is no mailbox"
        ))
        .with("key", "dns.contact")),
        Some((user, host)) => domain("dns.contact", &format!("{}.{host}", user.replace('.', "\\."))),
    }
}

/// Writes the zone at `version` as a master file with absolute names to `to`: beside it first, at `aside`, and put in its place
/// as a whole. A host that is killed meanwhile leaves `to` as it was.
///
/// # Errors
/// Those of the host's `records` and `fs`; `invalid` for a configuration that [`Apex::of`] refuses.
pub fn write(host: &impl Host, zone: &ZoneRef, version: u64, aside: &TreePath, to: &TreePath) -> Result<()> {
    let mut text = format!(
        "; version {version}\n$ORIGIN {}.\n{}",
        zone.name,
        Apex::of(zone)?.lines(version)
    );
    let mut written = 0;
    each(host, version, |set| {
        for value in &set.values {
            let RecordSet { name, kind, ttl, .. } = set;
            let _ = writeln!(text, "{name} {ttl} IN {kind} {value}");
        }
        if text.len() > PART {
            host.fs_write_part(aside, written, text.as_bytes(), MODE)?;
            written += text.len() as u64;
            text.clear();
        }
        Ok(())
    })?;
    host.fs_write_part(aside, written, text.as_bytes(), MODE)?;
    host.fs_replace_file(aside, to)
}

/// A master file is what everybody may learn from a name server, and the server's account has to read it.
const MODE: u32 = 0o644;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeHost;

    fn zone(config: &[(&str, &str)]) -> ZoneRef {
        ZoneRef {
            project: "default".into(),
            name: "example.org".into(),
            config: config.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        }
    }

    #[test]
    fn the_apex_is_what_the_configuration_says() {
        let own = Apex::of(&zone(&[])).unwrap();
        assert_eq!(own.nameservers, ["localhost"]);
        assert_eq!(own.contact, "hostmaster.example.org");
        let long = ZoneRef {
            name: vec!["l".repeat(49); 5].join("."),
            ..zone(&[])
        };
        assert_eq!(Apex::of(&long).unwrap().contact, "hostmaster.localhost");
        let told = Apex::of(&zone(&[
            ("dns.nameservers", "NS1.example.net., ns2.example.net"),
            ("dns.contact", "me.too@example.net"),
        ]))
        .unwrap();
        assert_eq!(
            told.lines((7 << 32) + 9),
            "@ 3600 IN SOA ns1.example.net. me\\.too.example.net. 9 120 60 86400 30\n\
             @ 300 IN NS ns1.example.net.\n@ 300 IN NS ns2.example.net.\n"
        );
        for bad in ["a b", "", "a,,b", "a\nb", "(", "a..b"] {
            let refused = Apex::of(&zone(&[("dns.nameservers", &format!("x,{bad}"))])).unwrap_err();
            assert!(refused.is("invalid"), "{bad}");
        }
    }

    #[test]
    fn a_zone_larger_than_a_part_is_written_whole() {
        let host = FakeHost::new(&["zones"]);
        let sets: Vec<RecordSet> = (0..20_000)
            .map(|n| RecordSet {
                name: format!("n{n:05}"),
                kind: "TXT".into(),
                ttl: 300,
                values: vec![format!("\"{}\"", "x".repeat(50))],
            })
            .collect();
        host.set_records(5, sets);
        let at = |path: &str| TreePath {
            root: "zones".into(),
            path: path.into(),
        };
        write(&host, &zone(&[]), 5, &at(".aside"), &at("example.org")).unwrap();
        let file = host.fs_read_file(&at("example.org")).unwrap().unwrap();
        let text = String::from_utf8(file).unwrap();
        assert_eq!(text.lines().count(), 4 + 20_000);
        assert!(text.ends_with("x\"\n") && text.contains("\nn19999 300 IN TXT "));
        assert!(
            host.calls()
                .iter()
                .filter(|call| call.starts_with("fs.write-part"))
                .count()
                > 2
        );
        assert_eq!(host.fs_stat(&at(".aside")).unwrap(), None);
        assert!(
            write(&host, &zone(&[]), 4, &at(".aside"), &at("example.org"))
                .unwrap_err()
                .retryable
        );
    }
}

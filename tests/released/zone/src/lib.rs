//! A zone driver of master files (RFC 1035 section 5), built from the released interfaces alone (see the README of the folder above). It
//! notes in its store what was published before it writes anything, and puts a file in its place as a whole.

mod bindings;

use std::fmt::Write as _;

use bindings::exports::hutch::zone::zone::Guest;
use bindings::hutch::host::types::{Error, Options, TreePath};
use bindings::hutch::host::{fs, kv, records};
use bindings::hutch::zone::types::ZoneRef;

/// The driver. It has no state: each call gets a fresh instance.
pub struct Driver;

type Result<T> = std::result::Result<T, Error>;

/// The key of a zone's version in the store.
const KEY: &str = "version/";
const KEYS: [&str; 2] = ["dns.nameservers", "dns.contact"];
/// Record sets of one page, and bytes of a file that are kept before they are written.
const PAGE: u32 = 500;
const PART: usize = 512 << 10;

fn invalid<T>(message: String) -> Result<T> {
    Err(Error {
        code: "invalid".to_owned(),
        message,
        retryable: false,
        details: Vec::new(),
    })
}

/// The zone's file, and beside it where it is written first: no zone's name begins with a dot.
fn places(name: &str) -> (TreePath, TreePath) {
    let at = |path: String| TreePath {
        root: "zones".to_owned(),
        path,
    };
    (at(name.to_owned()), at(format!(".{name}")))
}

/// A domain name (RFC 1035 section 2.3.4) without its final dot. A dot in a label may be escaped, as mailboxes have it.
fn domain(key: &str, name: &str) -> Result<String> {
    let bare = name.strip_suffix('.').unwrap_or(name);
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
    let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(plain);
    if bare.len() <= 253 && bare.replace("\\.", "").split('.').all(label) {
        return Ok(bare.to_ascii_lowercase());
    }
    invalid(format!("invalid value for {key:?}: {name:?} is no domain name"))
}

/// SOA and NS.
fn apex(zone: &ZoneRef, version: u64) -> Result<String> {
    let option = |key: &str| {
        let found = zone.config.iter().find(|(known, _)| known == key);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    };
    let mut servers = Vec::new();
    for server in option("dns.nameservers").unwrap_or("localhost").split(',') {
        servers.push(domain("dns.nameservers", server.trim())?);
    }
    let contact = match option("dns.contact") {
        // No mailbox can be in a zone with the longest of names.
        None => domain("dns.contact", &format!("hostmaster.{}", zone.name))
            .unwrap_or_else(|_| "hostmaster.localhost".to_owned()),
        Some(address) => match address.split_once('@') {
            None => domain("dns.contact", address)?,
            Some((user, host)) => {
                domain("dns.contact", host)?;
                domain("dns.contact", &format!("{}.{host}", user.replace('.', "\\.")))?
            }
        },
    };
    let serial = version & u64::from(u32::MAX);
    let primary = servers.first().map_or("", String::as_str);
    let mut text = format!("@ 3600 IN SOA {primary}. {contact}. {serial} 120 60 86400 30\n");
    for server in &servers {
        // Writing to a string can't fail.
        let _ = writeln!(text, "@ 300 IN NS {server}.");
    }
    Ok(text)
}

/// Writes the zone's file, and puts it in its place.
fn write(zone: &ZoneRef, version: u64) -> Result<()> {
    let (file, aside) = places(&zone.name);
    let mut text = format!("$ORIGIN {}.\n{}", zone.name, apex(zone, version)?);
    let (mut written, mut after) = (0, None);
    loop {
        let page = records::page(version, after.as_ref(), PAGE)?;
        for set in &page {
            for value in &set.values {
                let _ = writeln!(text, "{} {} IN {} {value}", set.name, set.ttl, set.kind);
            }
        }
        if text.len() > PART {
            fs::write_part(&aside, written, text.as_bytes(), 0o644)?;
            written += text.len() as u64;
            text.clear();
        }
        let Some(last) = page.last() else { break };
        after = Some(records::Position {
            name: last.name.clone(),
            kind: last.kind.clone(),
        });
    }
    fs::write_part(&aside, written, text.as_bytes(), 0o644)?;
    fs::replace_file(&aside, &file)
}

fn remove(name: &str) -> Result<()> {
    let (file, aside) = places(name);
    fs::discard(&file)?;
    fs::discard(&aside)?;
    kv::delete(&format!("{KEY}{name}"))
}

impl Guest for Driver {
    fn validate(zone: ZoneRef, _current: Option<Options>) -> Result<Options> {
        let known = |key: &str| KEYS.contains(&key) || key.starts_with("user.");
        if let Some((key, _)) = zone.config.iter().find(|(key, _)| !known(key)) {
            return invalid(format!("invalid option for zone {}: {key:?}", zone.name));
        }
        apex(&zone, 0)?;
        Ok(zone.config)
    }

    fn publish(zone: ZoneRef, version: u64) -> Result<()> {
        let key = format!("{KEY}{}", zone.name);
        let known = kv::get(&key)?.and_then(|held| Some(u64::from_le_bytes(held.try_into().ok()?)));
        if known.is_some_and(|known| version < known) {
            return Ok(());
        }
        kv::set(&key, &version.to_le_bytes())?;
        write(&zone, version)
    }

    fn delete(zone: ZoneRef) -> Result<()> {
        remove(&zone.name)
    }

    fn reconcile(valid: Vec<ZoneRef>) -> Result<Vec<String>> {
        let mut removed = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let keys = kv::keys(KEY, after.as_deref(), 100)?;
            let Some(last) = keys.last() else { return Ok(removed) };
            after = Some(last.clone());
            for name in keys.iter().filter_map(|key| key.strip_prefix(KEY)) {
                if !valid.iter().any(|zone| zone.name == name) {
                    remove(name)?;
                    removed.push(format!("the zone {name}"));
                }
            }
        }
    }
}

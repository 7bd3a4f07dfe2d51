//! The form of what is in a zone. It is checked before a driver gets to see it, so that none can be led to write a line into a
//! name server's files that nobody meant: a value has no end of line, a name no directive.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::RecordSet;

/// The longest name in its textual form without a final dot: 255 bytes on the wire (RFC 1035 section 2.3.4), of which one is the
/// first label's length and one the root.
pub const MAX_NAME: usize = 253;
/// The longest label (RFC 1035 section 2.3.4).
const MAX_LABEL: usize = 63;
/// Bytes of one value in presentation format.
const MAX_VALUE: usize = 16 << 10;
/// Bytes of the values of one record set together. A message has at most 65,535 bytes (RFC 1035 section 4.2.2), and a name server
/// can't tell of a set that does not fit into one.
pub const MAX_SET_BYTES: usize = 48 << 10;
/// The longest name of a type: `TYPE65535` (RFC 3597 section 5) and the mnemonics of the IANA's registry are below.
const MAX_KIND: usize = 16;
/// The largest time to live (RFC 2181 section 8).
const MAX_TTL: u32 = i32::MAX as u32;

/// Whether `name` can be that of a zone.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn check_zone_name(name: &str) -> Result<(), String> {
    check_labels(name, name.split('.')).and_then(|()| match name.len() {
        0..=MAX_NAME => Ok(()),
        _ => Err(format!("the name {name:?} is longer than {MAX_NAME} bytes")),
    })
}

fn check_labels<'l>(name: &str, mut labels: impl Iterator<Item = &'l str>) -> Result<(), String> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b);
    let good = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && label.bytes().all(plain)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    match labels.find(|label| !good(label)) {
        None => Ok(()),
        Some(label) => Err(format!(
            "the name {name:?} has the label {label:?}, which is not 1 to {MAX_LABEL} of a-z, 0-9, - and _ without - at its ends"
        )),
    }
}

/// Whether `set` can be in the zone `zone`.
///
/// # Errors
/// A sentence that names the set and what is wrong with it.
pub(super) fn check(zone: &str, set: &RecordSet) -> Result<(), String> {
    check_name(zone, &set.name)?;
    let named = |what: String| format!("the record set {} {}: {what}", set.name, set.kind);
    check_kind(set).map_err(named)?;
    if set.ttl > MAX_TTL {
        return Err(named(format!("a time to live of {} s is above {MAX_TTL}", set.ttl)));
    }
    if set.values.is_empty() {
        return Err(named("it has no value".to_owned()));
    }
    if set.values.iter().map(String::len).sum::<usize>() > MAX_SET_BYTES {
        return Err(named(format!("its values have more than {MAX_SET_BYTES} bytes")));
    }
    for (at, value) in set.values.iter().enumerate() {
        check_value(&set.kind, value).map_err(named)?;
        if set.values[..at].contains(value) {
            return Err(named(format!("the value {value:?} twice")));
        }
    }
    Ok(())
}

/// A name relative to the zone: the apex, or labels of which the first may be the wildcard (RFC 4592 section 2.1.1).
fn check_name(zone: &str, name: &str) -> Result<(), String> {
    if name == "@" {
        return Ok(());
    }
    if name.len() + 1 + zone.len() > MAX_NAME {
        return Err(format!("the name {name:?} in {zone} is longer than {MAX_NAME} bytes"));
    }
    match name.strip_prefix('*') {
        Some("") => Ok(()),
        Some(rest) => check_labels(name, rest.strip_prefix('.').unwrap_or("*").split('.')),
        None => check_labels(name, name.split('.')),
    }
}

fn check_kind(set: &RecordSet) -> Result<(), String> {
    let kind = set.kind.as_str();
    let plain = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'-';
    let named = kind.len() <= MAX_KIND && kind.bytes().all(plain) && kind.starts_with(|c: char| c.is_ascii_uppercase());
    if !named {
        return Err("that is no record type".to_owned());
    }
    // Classes, which stand where a type may (RFC 1035 section 5.1), and what only questions have (section 3.2.3).
    if ["IN", "CH", "CS", "HS", "ANY", "AXFR", "IXFR", "OPT", "TSIG", "TKEY"].contains(&kind) {
        return Err("records can't have this type".to_owned());
    }
    if kind == "SOA" || (kind == "NS" && set.name == "@") {
        return Err("the zone's own records come from its configuration".to_owned());
    }
    if kind == "CNAME" && (set.values.len() > 1 || set.name == "@") {
        return Err("an alias is for one name, and never the apex (RFC 1034 section 3.6.2)".to_owned());
    }
    Ok(())
}

/// One line of printable ASCII in which quotes are closed, and nothing stands outside of them that a master file takes for something
/// else than data: parentheses and comments (RFC 1035 section 5.1).
fn check_value(kind: &str, value: &str) -> Result<(), String> {
    let wrong = |what: &str| {
        Err(format!(
            "the value {:?} {what}",
            value.chars().take(80).collect::<String>()
        ))
    };
    if value.is_empty() || value.len() > MAX_VALUE || value.starts_with(' ') || value.ends_with(' ') {
        return wrong("is empty, too long, or has space at its ends");
    }
    if !value.bytes().all(|b| (b' '..=b'~').contains(&b)) {
        return wrong("is not printable ASCII: write other bytes as \\DDD");
    }
    match kind {
        "A" if value.parse::<Ipv4Addr>().is_err() => return wrong("is no IPv4 address"),
        "AAAA" if value.parse::<Ipv6Addr>().is_err() => return wrong("is no IPv6 address"),
        "CNAME" | "PTR" | "NS" | "DNAME" if !is_domain(value) => return wrong("is no domain name"),
        _ => {}
    }
    let mut quoted = false;
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' if !escapes(&mut bytes) => return wrong("ends in the middle of an escape, or has one above \\255"),
            b'"' => quoted = !quoted,
            b'(' | b')' | b';' if !quoted => return wrong("has a parenthesis or semicolon outside of quotes"),
            _ => {}
        }
    }
    if quoted {
        return wrong("has a quote that is not closed");
    }
    Ok(())
}

/// Takes what follows a backslash: three decimal digits for a byte, or one other character.
fn escapes(bytes: &mut std::str::Bytes<'_>) -> bool {
    let first = bytes.next();
    let Some(first) = first.filter(u8::is_ascii_digit) else {
        return first.is_some();
    };
    let mut number = u16::from(first - b'0');
    for _ in 0..2 {
        let Some(digit) = bytes.next().filter(u8::is_ascii_digit) else {
            return false;
        };
        number = number * 10 + u16::from(digit - b'0');
    }
    number <= 255
}

/// A domain name as a value, absolute or relative to the zone, or the root. Unlike owners, targets may have capital letters and, in
/// reverse delegations, slashes (RFC 2317).
fn is_domain(value: &str) -> bool {
    let name = value.strip_suffix('.').unwrap_or(value);
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_/*".contains(&b);
    matches!(value, "." | "@")
        || name.len() <= MAX_NAME
            && name
                .split('.')
                .all(|label| (1..=MAX_LABEL).contains(&label.len()) && label.bytes().all(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, kind: &str, values: &[&str]) -> RecordSet {
        RecordSet {
            name: name.into(),
            kind: kind.into(),
            ttl: 300,
            values: values.iter().map(|&value| value.to_owned()).collect(),
        }
    }

    #[test]
    fn zones_have_names_of_domains() {
        for good in [
            "example.org",
            "a",
            "2.0.192.in-addr.arpa",
            "_sites.x--y.example",
            &"a.".repeat(126)[..251],
        ] {
            assert_eq!(check_zone_name(good), Ok(()), "{good}");
        }
        let long = format!("{}.org", "a".repeat(64));
        for bad in [
            "",
            ".",
            "Example.org",
            "example.org.",
            "a..b",
            "a/b",
            "../x",
            "a b",
            "-a.b",
            &long,
            &"a.".repeat(128),
        ] {
            assert!(check_zone_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_a_name_server_reads_passes() {
        for good in [
            set("@", "MX", &["10 mail.example.org."]),
            set("c1", "A", &["192.0.2.1", "192.0.2.2"]),
            set("c1.sub", "AAAA", &["2001:db8::1"]),
            set("*", "TXT", &["\"v=spf1 -all; (all)\" \"second\\034\\\"part\""]),
            set("*.web", "CNAME", &["c1"]),
            set("sub", "NS", &["ns.example.net."]),
            set("_http._tcp", "SRV", &["0 5 80 c1"]),
            set("1", "PTR", &["c1.example.org."]),
            set("odd", "TYPE65280", &["\\# 4 0A000001"]),
        ] {
            assert_eq!(check("example.org", &good), Ok(()), "{good:?}");
        }
    }

    #[test]
    fn what_would_be_read_as_something_else_is_refused() {
        for bad in [
            set("$include", "A", &["192.0.2.1"]),
            set("c1\n$ORIGIN x.", "A", &["192.0.2.1"]),
            set("C1", "A", &["192.0.2.1"]),
            set("c1.", "A", &["192.0.2.1"]),
            set("a.*", "A", &["192.0.2.1"]),
            set("*a", "A", &["192.0.2.1"]),
            set("c1", "A", &["192.0.2"]),
            set("c1", "A", &[]),
            set("c1", "A", &["192.0.2.1", "192.0.2.1"]),
            set("c1", "AAAA", &["192.0.2.1"]),
            set("c1", "a", &["192.0.2.1"]),
            set("c1", "IN", &["A 192.0.2.1"]),
            set("c1", "TXT", &["x\nevil IN A 192.0.2.66"]),
            set("c1", "TXT", &["\"open"]),
            set("c1", "TXT", &["\"escaped\\\""]),
            set("c1", "TXT", &["end\\"]),
            set("c1", "TXT", &["\\256"]),
            set("c1", "TXT", &["("]),
            set("c1", "TXT", &["a ; b"]),
            set("c1", "TXT", &["ü"]),
            set("c1", "CNAME", &["a", "b"]),
            set("c1", "CNAME", &["a b"]),
            set("@", "CNAME", &["a"]),
            set("@", "NS", &["ns.example.net."]),
            set("@", "SOA", &["a. b. 1 1 1 1 1"]),
            set(&"a.".repeat(125)[..249], "A", &["192.0.2.1"]),
            RecordSet {
                ttl: u32::MAX,
                ..set("c1", "A", &["192.0.2.1"])
            },
        ] {
            assert!(check("example.org", &bad).is_err(), "{bad:?}");
        }
        assert!(check("example.org", &set("c1", "TXT", &["x".repeat(9000).as_str(); 1])).is_ok());
        let many: Vec<String> = (0..6).map(|n| format!("{n}{}", "x".repeat(9000))).collect();
        assert!(
            check(
                "example.org",
                &set("c1", "TXT", &many.iter().map(String::as_str).collect::<Vec<_>>())
            )
            .is_err()
        );
    }
}

//! What a backend shows of a zone: the lines of a program that prints it, read and brought into a form that can be compared.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use hutch_driver::zone::{RecordSet, ZoneRef};

use crate::case::{Outcome, ensure, fail};

/// Of one name and type: the time to live and the values.
type Set = (u32, BTreeSet<String>);

/// A zone as a name server has it. Names are absolute, in lower case, without a final dot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shown {
    /// The serial number of each SOA record at the apex.
    serials: Vec<u32>,
    /// The name servers at the apex.
    pub(super) nameservers: BTreeSet<String>,
    sets: BTreeMap<(String, String), Set>,
}

impl Shown {
    /// Reads what a program printed: on each line a record with its owner, its time to live, `IN`, its type and its value
    /// (RFC 1035 section 5.1), relative to the last `$ORIGIN` or to the zone. None where there is no record.
    pub(super) fn read(zone: &str, text: &str) -> Outcome<Option<Self>> {
        let mut shown = Self::default();
        let mut origin = zone.to_owned();
        let mut any = false;
        for line in text.lines() {
            let words = words(line);
            match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
                [] => {}
                ["$ORIGIN", name, ..] => origin = absolute(name, zone),
                ["$TTL", ..] => {}
                [owner, ttl, "IN", kind, value @ ..] if !value.is_empty() => {
                    any = true;
                    let Ok(ttl) = ttl.parse() else {
                        return fail(format!("the backend shows a line without a time to live: {line:?}"));
                    };
                    shown.add(
                        zone,
                        &absolute(owner, &origin),
                        ttl,
                        kind,
                        &comparable(kind, value, &origin),
                    )?;
                }
                _ => return fail(format!("the backend shows a line that is no record: {line:?}")),
            }
        }
        Ok(any.then_some(shown))
    }

    fn add(&mut self, zone: &str, owner: &str, ttl: u32, kind: &str, value: &str) -> Outcome {
        if kind == "SOA" {
            let serial = value.split(' ').nth(2).and_then(|serial| serial.parse().ok());
            let Some(serial) = serial.filter(|_| owner == zone) else {
                return fail(format!("the backend shows a strange SOA record: {owner} {value}"));
            };
            // Whoever transfers a zone sends this record first and last (RFC 5936 section 2.2).
            if !self.serials.contains(&serial) {
                self.serials.push(serial);
            }
            return Ok(());
        }
        if kind == "NS" && owner == zone {
            self.nameservers.insert(value.to_owned());
            return Ok(());
        }
        let set = self.sets.entry((owner.to_owned(), kind.to_owned())).or_default();
        ensure(set.1.is_empty() || set.0 == ttl, || {
            format!("the backend shows {owner} {kind} with two times to live (RFC 2181 section 5.2)")
        })?;
        set.0 = ttl;
        set.1.insert(value.to_owned());
        Ok(())
    }

    /// Fails unless it is `zone` with exactly `sets`, with the serial number that `version` gives.
    pub(super) fn is(&self, zone: &ZoneRef, version: u64, sets: &[RecordSet], when: &str) -> Outcome {
        let name = &zone.name;
        let serial = u32::try_from(version & u64::from(u32::MAX)).unwrap_or_default();
        ensure(self.serials == [serial], || {
            format!(
                "{when}: {name} has SOA records with the serials {:?}, and not one with {serial}",
                self.serials
            )
        })?;
        ensure(!self.nameservers.is_empty(), || {
            format!("{when}: {name} has no name server")
        })?;
        let mut wanted = BTreeMap::new();
        for set in sets {
            let words = |value: &str| {
                let words = words(value);
                comparable(&set.kind, &words.iter().map(String::as_str).collect::<Vec<_>>(), name)
            };
            let values = set.values.iter().map(|value| words(value)).collect();
            wanted.insert((absolute(&set.name, name), set.kind.clone()), (set.ttl, values));
        }
        let missing = wanted.iter().find(|(key, set)| self.sets.get(*key) != Some(*set));
        ensure(missing.is_none(), || {
            let seen = missing.and_then(|(key, _)| self.sets.get(key));
            format!("{when}: {name} shows {seen:?} instead of {missing:?}")
        })?;
        let strange = self.sets.iter().find(|(key, _)| !wanted.contains_key(*key));
        ensure(strange.is_none(), || {
            format!("{when}: {name} shows {strange:?}, which is not in it")
        })
    }
}

/// The words of a line. What is in quotes is one, without them; a comment is none.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted, mut begun) = (Vec::new(), String::new(), false, false);
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                quoted = !quoted;
                begun = true;
            }
            '\\' => word.extend([Some(c), chars.next()].into_iter().flatten()),
            ';' if !quoted => break,
            c if c.is_whitespace() && !quoted => {
                if begun || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            c => word.push(c),
        }
    }
    if begun || !word.is_empty() {
        words.push(word);
    }
    words
}

/// A name as it is compared.
fn absolute(name: &str, origin: &str) -> String {
    let name = name.to_ascii_lowercase();
    match name.strip_suffix('.') {
        Some(bare) => bare.to_owned(),
        None if name == "@" => origin.to_owned(),
        None => format!("{name}.{origin}"),
    }
}

/// A value as it is compared: addresses in their usual form, names absolute.
fn comparable(kind: &str, words: &[&str], origin: &str) -> String {
    let domains = match kind {
        "CNAME" | "PTR" | "NS" | "DNAME" => 0..1,
        "MX" => 1..2,
        "SRV" => 3..4,
        "SOA" => 0..2,
        _ => 0..0,
    };
    let word = |(at, word): (usize, &&str)| match word.parse::<IpAddr>() {
        Ok(address) if kind == "A" || kind == "AAAA" => address.to_string(),
        _ if domains.contains(&at) => absolute(word, origin),
        _ => (*word).to_owned(),
    };
    words.iter().enumerate().map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone() -> ZoneRef {
        ZoneRef {
            project: "default".into(),
            name: "example.org".into(),
            config: hutch_driver::Options::new(),
        }
    }

    fn set(name: &str, kind: &str, value: &str) -> RecordSet {
        RecordSet {
            name: name.into(),
            kind: kind.into(),
            ttl: 300,
            values: vec![value.into()],
        }
    }

    #[test]
    fn a_zone_is_the_same_however_it_is_printed() {
        let sets = [
            set("c1", "AAAA", "2001:db8:0::1"),
            set("www", "CNAME", "c1"),
            set("@", "TXT", "plain \"a ; b\""),
            set("@", "MX", "10 mail.example.net."),
        ];
        let one = "$ORIGIN example.org.\n@ 3600 IN SOA a. b. 7 1 1 1 1 ; comment\n@ 300 IN NS ns\nc1 300 IN AAAA 2001:db8::1\n\
                   www 300 IN CNAME c1.example.org.\n@ 300 IN TXT plain \"a ; b\"\n@ 300 IN MX 10 mail.example.net.\n";
        let other = "EXAMPLE.org. 3600 IN SOA a. b. 7 1 1 1 1\nexample.org. 300 IN NS ns.example.org.\n\
                     c1.example.org.\t300\tIN\tAAAA\t2001:db8:0:0::1\nwww.example.org. 300 IN CNAME c1\n\n\
                     example.org. 300 IN TXT \"plain\" \"a ; b\"\nexample.org. 300 IN MX 10 mail.example.net.\n\
                     example.org. 3600 IN SOA a. b. 7 1 1 1 1\n";
        for text in [one, other] {
            let shown = Shown::read("example.org", text).unwrap().unwrap();
            shown.is(&zone(), (1 << 32) + 7, &sets, "printed").unwrap();
            assert!(shown.is(&zone(), 8, &sets, "").is_err());
            assert!(shown.is(&zone(), 7, &sets[1..], "").is_err());
            let mut more = sets.to_vec();
            more.push(set("c2", "A", "192.0.2.1"));
            assert!(shown.is(&zone(), 7, &more, "").is_err());
        }
        assert_eq!(Shown::read("example.org", "; nothing\n\n").unwrap(), None);
        for bad in ["c1 IN A 192.0.2.1", "nonsense", "c1 300 IN A"] {
            assert!(Shown::read("example.org", bad).is_err(), "{bad}");
        }
    }
}

//! Zones as master files (RFC 1035 section 5) in one directory, each named as its zone, for a name server that reads them.
//!
//! What was published is noted in the key-value store before anything is written, so that no file is left that nobody knows of. A file
//! is written beside its place and put there as a whole: a name server that looks meanwhile reads the old one.

use hutch_sdk::zone::{Apex, Zone, ZoneRef, write};
use hutch_sdk::{Host, Options, Result, TreePath};

/// The driver. It has no state: each call gets a fresh instance.
pub struct Driver;

hutch_sdk::zone_plugin! { driver: Driver, exports: [zone] }

/// The place in the manifest.
const ROOT: &str = "zones";
/// The key of a zone's version in the store.
const KEY: &str = "version/";
const KEYS: [&str; 2] = ["dns.nameservers", "dns.contact"];

fn at(path: String) -> TreePath {
    TreePath {
        root: ROOT.to_owned(),
        path,
    }
}

/// The zone's file.
fn file(name: &str) -> TreePath {
    at(name.to_owned())
}

/// Where it is written first. No zone's name begins with a dot.
fn aside(name: &str) -> TreePath {
    at(format!(".{name}"))
}

fn remove(host: &impl Host, name: &str) -> Result<()> {
    host.fs_discard(&file(name))?;
    host.fs_discard(&aside(name))?;
    host.kv_delete(&format!("{KEY}{name}"))
}

impl Zone for Driver {
    fn validate(
        _host: &impl Host,
        zone: &ZoneRef,
        _current: Option<&[(String, String)]>,
    ) -> Result<Vec<(String, String)>> {
        let options = Options::new(&zone.config);
        options.check_keys(&format!("zone {}", zone.name), &KEYS)?;
        Apex::of(zone)?;
        Ok(options.into_pairs())
    }

    fn publish(host: &impl Host, zone: &ZoneRef, version: u64) -> Result<()> {
        let key = format!("{KEY}{}", zone.name);
        let known = host.kv_get(&key)?.and_then(|held| Some(u64::from_le_bytes(held.try_into().ok()?)));
        if known.is_some_and(|known| version < known) {
            return Ok(());
        }
        host.kv_set(&key, &version.to_le_bytes())?;
        write(host, zone, version, &aside(&zone.name), &file(&zone.name))
    }

    fn delete(host: &impl Host, zone: &ZoneRef) -> Result<()> {
        remove(host, &zone.name)
    }

    fn reconcile(host: &impl Host, valid: &[ZoneRef]) -> Result<Vec<String>> {
        let mut removed = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let keys = host.kv_keys(KEY, after.as_deref(), 100)?;
            let Some(last) = keys.last() else { return Ok(removed) };
            after = Some(last.clone());
            for name in keys.iter().filter_map(|key| key.strip_prefix(KEY)) {
                if !valid.iter().any(|zone| zone.name == name) {
                    remove(host, name)?;
                    removed.push(format!("the zone {name}"));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use hutch_sdk::testing::{FakeHost, for_every_crash};
    use hutch_sdk::zone::RecordSet;

    use super::*;

    fn zone(name: &str) -> ZoneRef {
        ZoneRef {
            project: "default".into(),
            name: name.into(),
            config: Vec::new(),
        }
    }

    fn host(version: u64, address: &str) -> FakeHost {
        let host = FakeHost::new(&[ROOT]);
        content(&host, version, address);
        host
    }

    fn content(host: &FakeHost, version: u64, address: &str) {
        let set = RecordSet {
            name: "c1".into(),
            kind: "A".into(),
            ttl: 300,
            values: vec![address.into()],
        };
        host.set_records(version, vec![set]);
    }

    fn text(host: &FakeHost, name: &str) -> String {
        let held = host.fs_read_file(&file(name)).unwrap().unwrap_or_default();
        String::from_utf8(held).unwrap()
    }

    #[test]
    fn a_name_server_sees_the_old_or_the_new_wherever_it_was_interrupted() {
        let host = host(1, "192.0.2.1");
        Driver::publish(&host, &zone("example.org"), 1).unwrap();
        let old = text(&host, "example.org");
        assert!(old.contains("c1 300 IN A 192.0.2.1\n"), "{old}");
        content(&host, 2, "192.0.2.2");
        let publish = |host: &FakeHost| Driver::publish(host, &zone("example.org"), 2);
        for_every_crash(&host, publish, |host, crash| {
            let seen = text(host, "example.org");
            assert!(seen == old || seen.contains("192.0.2.2"), "{crash:?}: {seen}");
            publish(host).unwrap();
            assert!(text(host, "example.org").contains("192.0.2.2"), "{crash:?}");
        });
    }

    #[test]
    fn an_older_version_changes_nothing() {
        let host = host(5, "192.0.2.5");
        Driver::publish(&host, &zone("example.org"), 5).unwrap();
        Driver::publish(&host, &zone("example.org"), 4).unwrap();
        assert!(text(&host, "example.org").contains("192.0.2.5"));
    }

    #[test]
    fn only_what_is_ours_and_no_longer_valid_is_removed() {
        let host = host(1, "192.0.2.1");
        host.state().tree.put_text(ROOT, "by-hand.example", "not ours");
        for name in ["a.example", "b.example"] {
            Driver::publish(&host, &zone(name), 1).unwrap();
        }
        let removed = Driver::reconcile(&host, &[zone("a.example")]).unwrap();
        assert_eq!(removed, ["the zone b.example"]);
        assert_eq!(text(&host, "b.example"), "");
        assert_eq!(text(&host, "by-hand.example"), "not ours");
        assert_eq!(Driver::reconcile(&host, &[zone("a.example")]).unwrap(), Vec::<String>::new());
    }
}

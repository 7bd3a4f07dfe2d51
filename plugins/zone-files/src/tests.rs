use hutch_sdk::host::CommandOutput;
use hutch_sdk::testing::{FakeHost, for_every_crash};
use hutch_sdk::zone::{RecordSet, Zone as _, ZoneRef};
use hutch_sdk::{Error, Host as _};

use crate::ZoneFiles;
use crate::files::{ROOT, file};

fn zone(name: &str, config: &[(&str, &str)]) -> ZoneRef {
    ZoneRef {
        project: "default".into(),
        name: name.into(),
        config: config.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
    }
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

fn host(version: u64, address: &str) -> FakeHost {
    let host = FakeHost::new(&[ROOT]);
    content(&host, version, address);
    host
}

fn text(host: &FakeHost, name: &str) -> String {
    String::from_utf8(host.fs_read_file(&file(name)).unwrap().unwrap_or_default()).unwrap()
}

#[test]
fn a_name_server_sees_the_old_or_the_new_wherever_it_was_interrupted() {
    let host = host(1, "192.0.2.1");
    let ours = zone("example.org", &[]);
    ZoneFiles::publish(&host, &ours, 1).unwrap();
    let old = text(&host, "example.org");
    assert!(old.contains("c1 300 IN A 192.0.2.1\n"), "{old}");
    content(&host, 2, "192.0.2.2");
    let publish = |host: &FakeHost| ZoneFiles::publish(host, &ours, 2);
    for_every_crash(&host, publish, |host, crash| {
        let seen = text(host, "example.org");
        assert!(seen == old || seen.contains("192.0.2.2"), "{crash:?}: {seen}");
        publish(host).unwrap();
        assert!(text(host, "example.org").contains("192.0.2.2"), "{crash:?}");
    });
    let delete = |host: &FakeHost| ZoneFiles::delete(host, &ours);
    for_every_crash(&host, delete, |host, crash| {
        // Whether it is repeated or given up, nothing of it stays.
        ZoneFiles::reconcile(host, &[]).unwrap();
        assert_eq!(text(host, "example.org"), "", "{crash:?}");
        assert!(host.state().kv.is_empty(), "{crash:?}");
    });
}

#[test]
fn the_server_is_told_after_the_file_is_there_and_again_until_it_listens() {
    let host = host(3, "192.0.2.1");
    let ours = zone("example.org", &[("files.reload", "nsd")]);
    host.on_command(|host, command| {
        assert_eq!(
            (command.program.as_str(), command.args.join(" ").as_str()),
            ("nsd-control", "reload example.org")
        );
        assert!(text(host, "example.org").contains("192.0.2.1"));
        Ok(CommandOutput {
            status: 1,
            stdout: Vec::new(),
            stderr: b"error: could not connect\n".to_vec(),
        })
    });
    let refused = ZoneFiles::publish(&host, &ours, 3).unwrap_err();
    assert!(refused.is("unavailable") && refused.retryable, "{refused:?}");
    assert_eq!(
        refused.message,
        "nsd-control reload example.org failed: error: could not connect"
    );
    host.on_command(|_, _| {
        Ok(CommandOutput {
            status: 0,
            stdout: b"ok\n".to_vec(),
            stderr: Vec::new(),
        })
    });
    ZoneFiles::publish(&host, &ours, 3).unwrap();
    assert_eq!(host.commands().len(), 2);
    // What is older is no news.
    ZoneFiles::publish(&host, &ours, 2).unwrap();
    assert_eq!(host.commands().len(), 2);
    host.on_command(|_, _| Err(Error::not_found("there is no program nsd-control")));
    assert!(ZoneFiles::publish(&host, &ours, 3).unwrap_err().is("not-found"));
}

#[test]
fn what_others_put_there_stays() {
    let host = host(1, "192.0.2.1");
    host.state().tree.put_text(ROOT, "by-hand.example", "not ours");
    for name in ["a.example", "b.example"] {
        ZoneFiles::publish(&host, &zone(name, &[]), 1).unwrap();
    }
    let valid = [zone("a.example", &[])];
    assert_eq!(
        ZoneFiles::reconcile(&host, &valid).unwrap(),
        ["the file of zone b.example"]
    );
    assert_eq!(ZoneFiles::reconcile(&host, &valid).unwrap(), Vec::<String>::new());
    assert_eq!(text(&host, "b.example"), "");
    assert_eq!(text(&host, "by-hand.example"), "not ours");
}

#[test]
fn options_are_checked() {
    let host = FakeHost::new(&[ROOT]);
    for (key, value, good) in [
        ("files.reload", "none", true),
        ("files.reload", "knot", true),
        ("files.reload", "", true),
        ("files.reload", "dnsmasq", false),
        ("dns.contact", "me@example.org", true),
        ("dns.contact", "me@", false),
        ("dns.nameserver", "ns1", false),
        ("user.note", "anything", true),
    ] {
        let answer = ZoneFiles::validate(&host, &zone("example.org", &[(key, value)]), None);
        assert_eq!(answer.is_ok(), good, "{key}={value}");
    }
}

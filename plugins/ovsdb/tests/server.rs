//! Against a real `ovsdb-server` with OVN's own schema.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hutch_ovsdb::{Client, Condition, Error, Monitor, Mutation, Remote, Row, Transaction, Transport, Value, leader};

const DATABASE: &str = "OVN_Northbound";

struct Server {
    place: tempfile::TempDir,
    process: Child,
}

impl Server {
    fn start() -> Self {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("nb.db");
        let made = Command::new("ovsdb-tool")
            .arg("create")
            .args([&file, Path::new("/usr/share/ovn/ovn-nb.ovsschema")])
            .status();
        assert!(made.expect("openvswitch-common is installed").success());
        let mut listen = std::ffi::OsString::from("--remote=punix:");
        listen.push(place.path().join("socket"));
        let process = Command::new("ovsdb-server")
            .arg(listen)
            .args(["--no-chdir", "--unixctl=none"])
            .arg(&file)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { place, process };
        let begun = Instant::now();
        while UnixStream::connect(server.socket()).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(60), "ovsdb-server does not begin");
            std::thread::sleep(Duration::from_millis(5));
        }
        server
    }

    fn socket(&self) -> PathBuf {
        self.place.path().join("socket")
    }

    fn client(&self) -> Client<Stream> {
        Client::new(Stream(UnixStream::connect(self.socket()).unwrap()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

struct Stream(UnixStream);

impl Transport for Stream {
    fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.0.write_all(bytes).map_err(|error| error.to_string())
    }

    fn receive(&mut self) -> Result<Vec<u8>, String> {
        let mut buffer = vec![0; 4096];
        let count = self.0.read(&mut buffer).map_err(|error| error.to_string())?;
        buffer.truncate(count);
        Ok(buffer)
    }
}

/// A switch with ports of these names.
fn switch(name: &str, ports: &[&str]) -> Transaction {
    let mut change = Transaction::new(DATABASE);
    let ports: Vec<_> = ports
        .iter()
        .map(|port| change.insert("Logical_Switch_Port", Row::new().with("name", *port)))
        .collect();
    let row = Row::new()
        .with("name", name)
        .with("ports", Value::set(&ports))
        .with("external_ids", Value::map([("owner", "test")]));
    change.insert("Logical_Switch", row);
    change
}

#[test]
fn rows_refer_to_one_another_within_a_transaction() {
    let server = Server::start();
    let mut client = server.client();
    assert!(client.databases().unwrap().contains(&DATABASE.to_owned()));
    client.transact(&switch("net1", &["a", "b"])).unwrap();

    let mut asked = Transaction::new(DATABASE);
    let switches = asked.select(
        "Logical_Switch",
        [Condition::is("name", "net1")],
        ["_uuid", "ports", "external_ids"],
    );
    let ports = asked.select("Logical_Switch_Port", [], ["_uuid", "name", "up"]);
    let results = client.transact(&asked).unwrap();
    let switches = results.rows(switches).unwrap();
    let mut names = Vec::new();
    for port in results.rows(ports).unwrap() {
        assert!(switches[0].uuids("ports").unwrap().contains(&port.id().unwrap()));
        assert_eq!(port.optional_boolean("up"), Ok(None));
        names.push(port.text("name").unwrap().to_owned());
    }
    names.sort();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(switches[0].mapped("external_ids", "owner"), Ok(Some("test")));

    // A port that nothing refers to is gone with the reference.
    let a = results
        .rows(1)
        .unwrap()
        .into_iter()
        .find(|port| port.text("name") == Ok("a"))
        .unwrap();
    let mut change = Transaction::new(DATABASE);
    let changed = change.mutate(
        "Logical_Switch",
        [Condition::is("name", "net1")],
        [Mutation::delete("ports", a.id().unwrap())],
    );
    let left = change.select("Logical_Switch_Port", [], ["name"]);
    let results = client.transact(&change).unwrap();
    assert_eq!(results.count(changed), Ok(1));
    // The server collects what is unreferenced at the commit.
    assert_eq!(results.rows(left).unwrap().len(), 2);
    let mut asked = Transaction::new(DATABASE);
    let left = asked.select("Logical_Switch_Port", [], ["name"]);
    assert_eq!(client.transact(&asked).unwrap().rows(left).unwrap().len(), 1);
}

#[test]
fn a_transaction_that_fails_changes_nothing() {
    let server = Server::start();
    let mut client = server.client();
    client.transact(&switch("net1", &["a"])).unwrap();
    // The name of a port is unique in the whole database.
    let error = client.transact(&switch("net2", &["b", "a"])).unwrap_err();
    assert!(
        matches!(&error, Error::Operation { code, .. } if code == "constraint violation"),
        "{error}"
    );
    let mut asked = Transaction::new(DATABASE);
    let switches = asked.select("Logical_Switch", [], ["name"]);
    let results = client.transact(&asked).unwrap();
    assert_eq!(results.rows(switches).unwrap(), [Row::new().with("name", "net1")]);

    let mut wrong = Transaction::new(DATABASE);
    wrong.select("No_Such_Table", [], ["name"]);
    let error = client.transact(&wrong).unwrap_err().to_string();
    assert!(error.contains("select in No_Such_Table"), "{error}");
    assert!(matches!(
        client.transact(&Transaction::new("nothing")),
        Err(Error::Refused(_) | Error::Operation { .. })
    ));
}

#[test]
fn what_was_read_and_is_not_so_any_more_is_a_conflict() {
    let server = Server::start();
    let (mut one, mut other) = (server.client(), server.client());
    one.transact(&switch("net1", &[])).unwrap();
    let owner = |value: &str| Row::new().with("external_ids", Value::map([("owner", value)]));
    let here = || [Condition::is("name", "net1")];
    let take = |from: &str, to: &str| {
        let mut change = Transaction::new(DATABASE);
        change.wait("Logical_Switch", here(), ["external_ids"], [owner(from)]);
        change.update("Logical_Switch", here(), owner(to));
        change
    };
    other.transact(&take("test", "other")).unwrap();
    let error = one.transact(&take("test", "one")).unwrap_err();
    assert!(error.is_conflict(), "{error}");
    one.transact(&take("other", "one")).unwrap();
}

#[test]
fn a_replica_follows_what_others_change() {
    let server = Server::start();
    let (mut watcher, mut other) = (server.client(), server.client());
    other.transact(&switch("net1", &["a", "b"])).unwrap();
    other.transact(&switch("unwatched", &[])).unwrap();
    let monitor = Monitor::new(DATABASE)
        .table(
            "Logical_Switch",
            ["name", "ports", "external_ids"],
            [Condition::is("name", "net1")],
        )
        .table("Logical_Switch_Port", ["name", "tag"], []);
    let mut replica = watcher.monitor(&monitor).unwrap();
    assert_eq!(replica.table("Logical_Switch").count(), 1);
    assert_eq!(replica.table("Logical_Switch_Port").count(), 2);

    let mut change = Transaction::new(DATABASE);
    let port = change.insert("Logical_Switch_Port", Row::new().with("name", "c"));
    let here = || [Condition::is("name", "net1")];
    let more = Value::map([("more", "1")]);
    change.mutate(
        "Logical_Switch",
        here(),
        [Mutation::insert("ports", &port), Mutation::insert("external_ids", more)],
    );
    change.update(
        "Logical_Switch_Port",
        [Condition::is("name", "a")],
        Row::new().with("tag", 7_i64),
    );
    other.transact(&change).unwrap();
    watcher.next_change(&mut replica).unwrap();

    let mut asked = Transaction::new(DATABASE);
    let switches = asked.select("Logical_Switch", here(), ["_uuid", "name", "ports", "external_ids"]);
    let ports = asked.select("Logical_Switch_Port", [], ["_uuid", "name", "tag"]);
    // A connection that watches can be asked, too.
    let results = watcher.transact(&asked).unwrap();
    for (table, rows, empty) in [("Logical_Switch", switches, ""), ("Logical_Switch_Port", ports, "tag")] {
        let rows = results.rows(rows).unwrap();
        assert_eq!(replica.table(table).count(), rows.len());
        for mut row in rows {
            let watched = replica.row(table, row.id().unwrap()).expect("a row that is there");
            row.0.remove("_uuid");
            // A default is not told.
            if row.0.get(empty) == Some(&Value::none()) && !watched.0.contains_key(empty) {
                row.0.remove(empty);
            }
            assert_eq!(*watched, row);
        }
    }
}

#[test]
fn the_server_that_leads_is_found() {
    let server = Server::start();
    let gone = Remote::Unix("/nonexistent".to_owned());
    let here = Remote::Unix(server.socket().to_string_lossy().into_owned());
    let connect = |remote: &Remote| match remote {
        Remote::Unix(file) => UnixStream::connect(file).map(Stream).map_err(|error| error.to_string()),
        _ => Err("not tried here".to_owned()),
    };
    let mut client = leader(&[gone.clone(), here.clone()], DATABASE, connect).unwrap();
    client.transact(&switch("net1", &[])).unwrap();
    let error = leader(&[here, gone], "other", connect)
        .err()
        .map(|error| error.to_string());
    assert!(
        error.as_ref().is_some_and(|error| error.contains("unix:/nonexistent")),
        "{error:?}"
    );
}

#[test]
fn a_connection_that_ends_is_said_so() {
    let server = Server::start();
    let stream = UnixStream::connect(server.socket()).unwrap();
    let mut client = Client::new(Stream(stream.try_clone().unwrap()));
    client.databases().unwrap();
    stream.shutdown(Shutdown::Both).unwrap();
    let error = client.databases().unwrap_err();
    assert!(error.is_unavailable(), "{error}");
}

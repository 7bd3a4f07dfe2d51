//! The client against a daemon that says what it is told to.

use std::sync::{Arc, Mutex};

use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;

use super::*;
use crate::error::report;

/// What a daemon was asked, one line for each request, with the number of the connection before it.
type Asked = Arc<Mutex<Vec<String>>>;

/// A daemon that gives `answers` in their order, whatever is asked.
struct Daemon {
    client: Client,
    asked: Asked,
    _directory: tempfile::TempDir,
}

fn daemon(answers: Vec<(u16, Value)>) -> Daemon {
    daemon_in("", answers)
}

fn daemon_in(below: &str, answers: Vec<(u16, Value)>) -> Daemon {
    let directory = tempfile::tempdir().unwrap();
    let parent = directory.path().join(below);
    std::fs::create_dir_all(&parent).unwrap();
    let socket = parent.join("unix.socket");
    // Bound by a short path, for the same reason that the client has.
    let here = directory.path().join("s");
    let listener = UnixListener::bind(&here).unwrap();
    std::fs::rename(&here, &socket).unwrap();
    let asked = Asked::default();
    let answers = Arc::new(Mutex::new(answers.into_iter()));
    let log = Arc::clone(&asked);
    tokio::spawn(async move {
        for connection in 0.. {
            let Ok((stream, _)) = listener.accept().await else {
                break;
            };
            tokio::spawn(serve(stream, connection, Arc::clone(&log), Arc::clone(&answers)));
        }
    });
    Daemon {
        client: Client::new(socket, "default".into()),
        asked,
        _directory: directory,
    }
}

async fn serve(
    stream: UnixStream,
    connection: usize,
    asked: Asked,
    answers: Arc<Mutex<std::vec::IntoIter<(u16, Value)>>>,
) {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut first, mut length, mut tag) = (String::new(), 0, String::new());
        if stream.read_line(&mut first).await.unwrap_or(0) == 0 {
            return;
        }
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            let line = line.trim().to_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.parse().unwrap();
            }
            if let Some(value) = line.strip_prefix("if-match: ") {
                tag = format!(" if {value}");
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        let request = first.trim_end().trim_end_matches(" HTTP/1.1");
        let body = String::from_utf8(body).unwrap();
        asked
            .lock()
            .unwrap()
            .push(format!("{connection} {request}{tag} {body}").trim_end().to_owned());
        let Some((status, answer)) = answers.lock().unwrap().next() else {
            return;
        };
        let answer = answer.to_string();
        let head = format!(
            "HTTP/1.1 {status} X\r\nEtag: \"e\"\r\nContent-Length: {}\r\n\r\n",
            answer.len()
        );
        stream.write_all(format!("{head}{answer}").as_bytes()).await.unwrap();
    }
}

fn sync(metadata: Value) -> (u16, Value) {
    (200, json!({"type": "sync", "status_code": 200, "metadata": metadata}))
}

fn refused(status: u16, error: &str) -> (u16, Value) {
    (status, json!({"type": "error", "error_code": status, "error": error}))
}

#[test]
fn the_project_is_added_where_none_is_named() {
    let client = Client::new("/x".into(), "p 1".into());
    let path = |path| client.in_project(path).to_string();
    assert_eq!(path(ApiPath::new(["images"])), "/1.0/images?project=p%201");
    assert_eq!(
        path(ApiPath::new(["images"]).query("project", "q")),
        "/1.0/images?project=q"
    );
    let client = Client::new("/x".into(), "default".into());
    assert_eq!(client.in_project(ApiPath::new(["images"])).to_string(), "/1.0/images");
}

#[test]
fn a_refusal_without_an_envelope_still_says_something() {
    assert_eq!(
        refusal(502, b"<html>").to_string(),
        "the daemon answered with HTTP status 502"
    );
}

#[tokio::test]
async fn requests_share_a_connection() {
    let daemon = daemon(vec![sync(json!(["a"])), sync(json!(["b"]))]);
    for expected in ["a", "b"] {
        let got: Vec<String> = daemon.client.get(ApiPath::new(["images"])).await.unwrap();
        assert_eq!(got, [expected]);
    }
    assert_eq!(
        *daemon.asked.lock().unwrap(),
        ["0 GET /1.0/images", "0 GET /1.0/images"]
    );
}

#[tokio::test]
async fn a_change_waits_for_its_operation() {
    let operation = json!({"id": "u", "status_code": 103});
    let daemon = daemon(vec![
        (
            202,
            json!({"type": "async", "operation": "/1.0/operations/u", "metadata": operation}),
        ),
        sync(json!({"id": "u", "status_code": 400, "status": "Failure", "err": "pool is full"})),
    ]);
    let path = ApiPath::new(["instances"]);
    let changed = daemon
        .client
        .change(Method::POST, path, &json!({"name": "c1"}), &Progress::hidden())
        .await;
    assert_eq!(report(&changed.unwrap_err().about("c1")), "c1: pool is full");
    assert_eq!(
        *daemon.asked.lock().unwrap(),
        [
            "0 POST /1.0/instances {\"name\":\"c1\"}",
            "0 GET /1.0/operations/u/wait?timeout=-1"
        ]
    );
}

#[tokio::test]
async fn what_was_changed_meanwhile_is_not_overwritten() {
    let daemon = daemon(vec![
        sync(json!({"name": "p", "config": {}})),
        refused(412, "ETag does not match"),
    ]);
    let place = crate::object::Place {
        client: &daemon.client,
        path: ApiPath::new(["profiles", "p"]),
        name: "p",
    };
    let set = place
        .set::<hutch_api::profile::Profile>([("a".to_owned(), "b".to_owned())].into(), false)
        .await;
    let said = report(&set.unwrap_err());
    assert_eq!(
        said,
        "p was changed by somebody else at the same time; look at it and try again"
    );
    let asked = daemon.asked.lock().unwrap();
    assert!(asked[1].starts_with("0 PUT /1.0/profiles/p if \"e\" {"), "{asked:?}");
    assert!(asked[1].contains("\"a\":\"b\""), "{asked:?}");
}

#[tokio::test]
async fn a_daemon_that_goes_away_is_said_with_the_operation() {
    let operation = json!({"id": "u", "status_code": 103});
    let daemon = daemon(vec![(
        202,
        json!({"type": "async", "operation": "/1.0/operations/u", "metadata": operation}),
    )]);
    let path = ApiPath::new(["instances"]);
    let changed = daemon
        .client
        .change(Method::POST, path, &json!({}), &Progress::hidden())
        .await;
    let said = report(&changed.unwrap_err());
    assert!(
        said.starts_with("`hutch operation show u` tells what came of it once the daemon is back: "),
        "{said}"
    );
}

#[tokio::test]
async fn a_socket_may_have_a_long_path() {
    let daemon = daemon_in(&format!("{0}/{0}", "d".repeat(80)), vec![sync(json!([]))]);
    assert!(daemon.client.socket().as_os_str().len() > SUN_PATH);
    let _got: Vec<String> = daemon.client.get(ApiPath::new(["images"])).await.unwrap();
}

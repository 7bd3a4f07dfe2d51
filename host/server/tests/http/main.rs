//! The API over a real socket, against a real core whose drivers there are none of: what is said about requests before
//! anything has to be done in a container. What is done there is tested in `tests/`, with stock clients too.

mod fixture;

use std::future::Future;
use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;

use fixture::Daemon;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

type Test = fn() -> Pin<Box<dyn Future<Output = ()>>>;

macro_rules! tests {
    ($($name:ident),* $(,)?) => { [$((stringify!($name), (|| Box::pin($name())) as Test)),*] };
}

/// Runs the tests that the first argument is part of the name of; the program is also the one that unpacks images.
fn main() -> ExitCode {
    if let Some(code) = hutch_archive::run_if_asked() {
        return code;
    }
    let wanted = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'))
        .unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("threads can be started");
    let tests = tests![
        what_is_not_there_is_said_in_the_envelope,
        bad_requests_say_what_is_bad,
        changes_need_the_tag_of_what_was_read,
        the_server_says_who_asks_and_what_it_can_do,
        listeners_hear_what_they_asked_for,
        an_upload_that_is_no_image_leaves_nothing,
        many_at_once_are_all_answered,
        an_image_is_taken_in_and_given_out_again,
        the_documents_of_our_own_apis_have_their_paths_and_methods,
    ];
    for (name, test) in tests.into_iter().filter(|(name, _)| name.contains(&wanted)) {
        // A failed assertion ends the program with its message and a status that says so.
        runtime.block_on(test());
        println!("test {name} ... ok");
    }
    ExitCode::SUCCESS
}

async fn what_is_not_there_is_said_in_the_envelope() {
    let daemon = Daemon::start().await;
    let root = daemon.get("/").await;
    assert_eq!((root.status, &root.body["metadata"]), (200, &json!(["/1.0"])));
    for (path, status, error) in [
        ("/nope", 404, "\"/nope\": path not found"),
        ("/1.0/nope", 404, "\"/1.0/nope\": path not found"),
        ("/1.0/instances/c1", 404, "\"c1\": Instance not found"),
        ("/1.0/containers/c1?project=default", 404, "\"c1\": Instance not found"),
        ("/1.0/virtual-machines/c1", 404, "\"c1\": Instance not found"),
        (
            "/1.0/operations/5d1ca4e6-15a8-4a34-8ff3-d5ef5bd0e5a6",
            404,
            "\"5d1ca4e6-15a8-4a34-8ff3-d5ef5bd0e5a6\": Operation not found",
        ),
        ("/1.0/plugins/none", 404, "\"none\": Plugin not found"),
    ] {
        let answer = daemon.get(path).await;
        assert_eq!(answer.status, status, "{path}");
        assert_eq!(answer.body["error"], error, "{path}");
        assert_eq!(
            (&answer.body["type"], &answer.body["error_code"]),
            (&json!("error"), &json!(status)),
            "{path}"
        );
    }
    let answer = daemon.send("DELETE", "/1.0/networks", &[], "").await;
    assert_eq!((answer.status, answer.header("allow").is_some()), (405, true));
    daemon.stop().await;
}

async fn bad_requests_say_what_is_bad() {
    let daemon = Daemon::start().await;
    for (method, path, body, status, error) in [
        ("POST", "/1.0/instances", "name=c1", 400, "not JSON"),
        ("POST", "/1.0/instances", "", 400, "empty"),
        ("POST", "/1.0/instances", "[]", 400, "an object is expected"),
        (
            "POST",
            "/1.0/instances",
            r#"{"name":7}"#,
            400,
            "invalid type: integer `7`",
        ),
        ("GET", "/1.0/instances?filter=name+is+c1", "", 400, "no operator"),
        ("GET", "/1.0/instances?recursion=deep", "", 400, "recursion=deep"),
        ("GET", "/1.0/instances/c1/files", "", 400, "missing path"),
        ("GET", "/1.0/events", "", 400, "websocket"),
        ("GET", "/1.0/instances/c1/sftp", "", 400, "Upgrade: sftp"),
        ("POST", "/1.0/images", "", 400, "empty"),
        ("POST", "/1.0/images", r#"{"source":"#, 400, "not JSON"),
        ("POST", "/1.0/profiles", r#"{"name":"../../etc"}"#, 400, "name"),
        ("GET", "/1.0/image-sources/x/images", "", 404, "nothing provides x"),
        (
            "GET",
            "/1.0/image-sources/x/images?project=none",
            "",
            404,
            "Project not found",
        ),
        ("GET", "/1.0/image-sources/x/images?type=toaster", "", 400, "toaster"),
        (
            "GET",
            "/1.0/image-sources/x/images/a?architecture=pdp11",
            "",
            400,
            "pdp11",
        ),
        (
            "GET",
            "/1.0/image-sources/x/images?filter=name+is+c1",
            "",
            400,
            "no operator",
        ),
    ] {
        let answer = daemon.send(method, path, &[], body).await;
        assert_eq!(answer.status, status, "{method} {path} {body}: {}", answer.body);
        let text = answer.body["error"].as_str().unwrap();
        assert!(text.contains(error), "{method} {path} {body}: {text}");
    }
    // A client that is still sending reads the answer nevertheless.
    let large = format!(r#"{{"description":"{}"}}"#, "x".repeat(20 << 20));
    assert_eq!(daemon.send("POST", "/1.0/profiles", &[], &large).await.status, 413);
    daemon.stop().await;
}

async fn changes_need_the_tag_of_what_was_read() {
    let daemon = Daemon::start().await;
    let made = daemon
        .send(
            "POST",
            "/1.0/profiles",
            &[],
            r#"{"name":"web","config":{"user.a":"1"},"devices":null}"#,
        )
        .await;
    assert_eq!((made.status, made.header("location")), (201, Some("/1.0/profiles/web")));
    assert_eq!(
        (&made.body["status_code"], &made.body["metadata"]),
        (&json!(200), &Value::Null)
    );
    let again = daemon.send("POST", "/1.0/profiles", &[], r#"{"name":"web"}"#).await;
    assert_eq!(again.status, 409, "{}", again.body);

    let read = daemon.get("/1.0/profiles/web").await;
    let etag = read.header("etag").unwrap().to_owned();
    assert_eq!(etag.len(), 66, "{etag}");
    let put = r#"{"config":{"user.a":"2"},"description":"","devices":{}}"#;
    let stale = daemon
        .send("PUT", "/1.0/profiles/web", &[("If-Match", "\"0123\"")], put)
        .await;
    assert_eq!(stale.status, 412, "{}", stale.body);
    let changed = daemon
        .send("PUT", "/1.0/profiles/web", &[("If-Match", &etag)], put)
        .await;
    assert_eq!(
        (changed.status, &changed.body["metadata"]),
        (200, &json!({})),
        "{}",
        changed.body
    );
    assert_eq!(
        daemon
            .send("PUT", "/1.0/profiles/web", &[("If-Match", &etag)], put)
            .await
            .status,
        412
    );

    let patched = daemon
        .send(
            "PATCH",
            "/1.0/profiles/web",
            &[],
            r#"{"config":{"user.b":"3","user.a":""}}"#,
        )
        .await;
    assert_eq!(patched.status, 200, "{}", patched.body);
    assert_eq!(
        daemon.get("/1.0/profiles/web").await.body["metadata"]["config"],
        json!({"user.b": "3"})
    );
    let found = daemon.get("/1.0/profiles?recursion=1&filter=config.user.b+eq+3").await;
    assert_eq!(found.body["metadata"].as_array().unwrap().len(), 1);
    assert_eq!(daemon.send("DELETE", "/1.0/profiles/web", &[], "").await.status, 200);
    assert_eq!(
        daemon.get("/1.0/profiles").await.body["metadata"],
        json!(["/1.0/profiles/default"])
    );
    daemon.stop().await;
}

async fn the_server_says_who_asks_and_what_it_can_do() {
    let daemon = Daemon::start().await;
    let server = daemon.get("/1.0").await.body["metadata"].take();
    assert_eq!(
        (&server["auth"], &server["api_version"]),
        (&json!("trusted"), &json!("1.0"))
    );
    let extensions = server["api_extensions"].as_array().unwrap();
    assert!(extensions.contains(&json!("container_full")));
    assert_eq!(daemon.get("/1.0/cluster").await.body["metadata"]["enabled"], false);
    assert_eq!(
        daemon.get("/1.0/instances?recursion=2&filter=").await.body["metadata"],
        json!([])
    );
    daemon.stop().await;
}

async fn listeners_hear_what_they_asked_for() {
    let daemon = Daemon::start().await;
    let mut events = daemon.websocket("/1.0/events?type=lifecycle").await;
    daemon.send("POST", "/1.0/profiles", &[], r#"{"name":"heard"}"#).await;
    let message = tokio::time::timeout(Duration::from_secs(5), events.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    let event: Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
    assert_eq!(
        (&event["type"], &event["metadata"]["action"]),
        (&json!("lifecycle"), &json!("profile-created"))
    );
    assert_eq!(event["metadata"]["source"], "/1.0/profiles/heard");
    // Whoever listens is told when the server goes down, and does not hold it up.
    let before = std::time::Instant::now();
    daemon.stop().await;
    assert!(before.elapsed() < Duration::from_secs(3));
    let last = tokio::time::timeout(Duration::from_secs(5), events.next())
        .await
        .unwrap();
    assert!(matches!(last, Some(Ok(Message::Close(_)))), "{last:?}");
}

async fn an_upload_that_is_no_image_leaves_nothing() {
    let daemon = Daemon::start().await;
    let garbage = "this is no archive, whatever it says of itself".repeat(1000);
    let posted = daemon
        .send("POST", "/1.0/images", &[("X-LXD-filename", "image.tar.gz")], &garbage)
        .await;
    assert_eq!(posted.status, 202, "{}", posted.body);
    let operation = posted.body["operation"].as_str().unwrap().to_owned();
    assert_eq!(posted.header("location"), Some(operation.as_str()));
    let ended = daemon.get(&format!("{operation}/wait?timeout=20")).await.body["metadata"].take();
    assert_eq!(ended["status_code"], 400, "{ended}");
    let error = ended["err"].as_str().unwrap();
    assert!(error.contains("image"), "{error}");
    assert_eq!(daemon.get("/1.0/images").await.body["metadata"], json!([]));

    let wrong = "--b\r\nContent-Disposition: form-data; name=\"rootfs\"\r\n\r\nx\r\n--b--\r\n";
    let kind = [("Content-Type", "multipart/form-data; boundary=b")];
    let refused = daemon.send("POST", "/1.0/images", &kind, wrong).await;
    assert_eq!(refused.status, 400, "{}", refused.body);
    let open = "--b\r\nContent-Disposition: form-data; name=\"metadata\"\r\n\r\nx";
    assert_eq!(daemon.send("POST", "/1.0/images", &kind, open).await.status, 400);
    assert_eq!(daemon.staged_files(), Vec::<String>::new());
    daemon.stop().await;
}

async fn many_at_once_are_all_answered() {
    let daemon = Daemon::start().await;
    let requests = (0..2000).map(|_| daemon.get("/1.0/profiles?recursion=1"));
    let answers = futures_util::future::join_all(requests).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    daemon.stop().await;
}

async fn an_image_is_taken_in_and_given_out_again() {
    let daemon = Daemon::start().await;
    let metadata = fixture::archive(&[(
        "metadata.yaml",
        "architecture: x86_64\ncreation_date: 1700000000\nproperties: {os: Test}\n",
    )]);
    let rootfs = fixture::archive(&[("etc/hostname", "test\n"), ("bin/sh", "#!\n")]);
    let mut form = Vec::new();
    for (name, content) in [("metadata", &metadata), ("rootfs", &rootfs)] {
        form.extend(format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"x\"\r\n\r\n").bytes());
        form.extend(content);
        form.extend(b"\r\n");
    }
    form.extend(b"--b--\r\n");
    let headers = [
        ("Content-Type", "multipart/form-data; boundary=b"),
        ("X-Incus-aliases", "alias=test%2F1"),
        ("X-LXD-properties", "release=one"),
        ("X-LXD-Public", "1"),
    ];
    let posted = daemon.send_bytes("POST", "/1.0/images", &headers, form).await;
    assert_eq!(posted.status, 202, "{}", posted.body);
    let wait = format!("{}/wait?timeout=60", posted.body["operation"].as_str().unwrap());
    let ended = daemon.get(&wait).await.body["metadata"].take();
    assert_eq!(ended["status_code"], 200, "{ended}");
    let fingerprint = ended["metadata"]["fingerprint"].as_str().unwrap().to_owned();

    let image = daemon.get(&format!("/1.0/images/{}", &fingerprint[..12])).await.body["metadata"].take();
    assert_eq!(
        (&image["properties"]["os"], &image["properties"]["release"]),
        (&json!("Test"), &json!("one"))
    );
    assert_eq!(
        (&image["public"], &image["aliases"][0]["name"]),
        (&json!(true), &json!("test/1"))
    );
    for alias in ["/1.0/images/aliases/test%2F1", "/1.0/images/aliases/test/1"] {
        assert_eq!(
            daemon.get(alias).await.body["metadata"]["target"],
            fingerprint,
            "{alias}"
        );
    }
    let found = daemon
        .get("/1.0/images?recursion=1&filter=properties.os+eq+test+and+public+eq+true")
        .await;
    assert_eq!(found.body["metadata"].as_array().unwrap().len(), 1);

    let export = daemon.raw(&format!("/1.0/images/{fingerprint}/export")).await;
    let holds = |part: &[u8]| export.windows(part.len()).any(|window| window == part);
    assert!(holds(&metadata) && holds(&rootfs));
    let gone = daemon
        .send("DELETE", &format!("/1.0/images/{fingerprint}"), &[], "")
        .await;
    let wait = format!("{}/wait", gone.body["operation"].as_str().unwrap());
    assert_eq!(daemon.get(&wait).await.body["metadata"]["status_code"], 200);
    assert_eq!(daemon.get("/1.0/images/aliases").await.body["metadata"], json!([]));
    assert_eq!(daemon.staged_files(), Vec::<String>::new());
    daemon.stop().await;
}

/// The paths of an API's document with their methods, in the form that our documents have: paths two deep, methods four deep.
fn documented(text: &str) -> Vec<(String, Vec<String>)> {
    let mut paths: Vec<(String, Vec<String>)> = Vec::new();
    for line in text.lines() {
        let depth = line.len() - line.trim_start().len();
        let Some(key) = line.trim().strip_suffix(':') else {
            continue;
        };
        if depth == 2 && key.starts_with('/') {
            paths.push((key.to_owned(), Vec::new()));
        } else if depth == 4
            && ["get", "put", "post", "patch", "delete"].contains(&key)
            && let Some((_, methods)) = paths.last_mut()
        {
            methods.push(key.to_uppercase());
        }
    }
    paths
}

async fn the_documents_of_our_own_apis_have_their_paths_and_methods() {
    is_documented(
        include_str!("../../../../docs/plugins-api.yaml"),
        (include_str!("../../src/routes/plugins.rs"), "/1.0/plugin"),
        11,
    )
    .await;
    is_documented(
        include_str!("../../../../docs/image-sources-api.yaml"),
        (include_str!("../../src/routes/image_sources.rs"), "/1.0/image-sources"),
        3,
    )
    .await;
}

/// Fails unless the document has the paths that the code routes, which begin with `start`, with their methods: so many at least.
async fn is_documented(document: &str, (code, start): (&str, &str), least: usize) {
    let daemon = Daemon::start().await;
    let documented = documented(document);
    assert!(documented.len() >= least, "{documented:?}");
    for (path, methods) in &documented {
        let place = [
            ("{id}", "org.example.x"),
            ("{key}", "0"),
            ("{source}", "x"),
            ("{name}", "a/b"),
        ];
        let place = place
            .into_iter()
            .fold(path.clone(), |path, (name, value)| path.replace(name, value));
        for method in ["GET", "PUT", "POST", "PATCH", "DELETE"] {
            let answer = daemon.send(method, &place, &[], "{}").await;
            let error = answer.body["error"].as_str().unwrap_or_default();
            let there = answer.status != 405 && !error.contains("path not found");
            assert_eq!(
                there,
                methods.iter().any(|own| own == method),
                "{method} {path}: {} {error}",
                answer.status
            );
        }
    }
    // And the other way round: what the code routes is documented.
    let code = code.split("#[cfg(test)]").next().unwrap_or_default();
    for path in code.split('"').filter(|text| text.starts_with(start)) {
        let path = path.replace("{*", "{");
        assert!(
            documented.iter().any(|(other, _)| *other == path),
            "{path} is not documented"
        );
    }
    daemon.stop().await;
}

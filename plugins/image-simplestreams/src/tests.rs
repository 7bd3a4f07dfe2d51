//! The driver against a host in memory that serves what `incus-simplestreams` 6.0.4 makes, and what it never would.

use hutch_sdk::host::HttpResponse;
use hutch_sdk::image::{Image, ImageRequest, Source};
use hutch_sdk::testing::FakeHost;
use hutch_sdk::{Error, Result};

use crate::Simplestreams;

const SERVER: &str = "http://127.0.0.1:8080/tree";

const INDEX: &str = r#"{"index":{"images":{"datatype":"image-downloads","path":"streams/v1/images.json",
    "products":["Busy:box:default:x86_64"],"format":"products:1.0"},
    "other":{"datatype":"image-ids","path":"streams/v1/other.json","format":"products:1.0"}},"format":"index:1.0"}"#;

fn sum(digit: char) -> String {
    digit.to_string().repeat(64)
}

fn catalogue() -> String {
    let (old, meta, root, both, uni) = (sum('0'), sum('1'), sum('2'), sum('3'), sum('4'));
    format!(
        r#"{{"content_id":"images","datatype":"image-downloads","format":"products:1.0","products":{{
        "Busy:box:default:amd64":{{"aliases":"Busy/box/default,busy, busy/box","arch":"amd64","os":"Busy","release":"box",
          "release_title":"Box 1","support_eol":"2027-04-30","variant":"default","requirements":{{"secureboot":"false"}},"versions":{{
          "20231101_07:42":{{"items":{{
            "lxd.tar.xz":{{"ftype":"lxd.tar.xz","path":"images/o.lxd.tar.xz","sha256":"{old}","size":1,"combined_rootxz_sha256":"{old}"}},
            "root.tar.xz":{{"ftype":"root.tar.xz","path":"images/o.root.tar.xz","sha256":"{old}","size":2}}}}}},
          "20231114_22:13":{{"items":{{
            "incus.tar.xz":{{"ftype":"incus.tar.xz","path":"images/m.incus.tar.xz","sha256":"{meta}","size":276,"combined_squashfs_sha256":"{both}"}},
            "root.tar.xz":{{"ftype":"root.tar.xz","path":"images/r.root.tar.xz","sha256":"{root}","size":9}},
            "squashfs":{{"ftype":"squashfs","path":"images/r.squashfs","sha256":"{root}","size":1040384}}}}}},
          "20231201_00:00":{{"items":{{
            "squashfs":{{"ftype":"squashfs","path":"images/x.squashfs","sha256":"{root}","size":7}}}}}}}}}},
        "Busy:uni:default:arm64":{{"aliases":"busy,uni","arch":"arm64","os":"Busy","release":"uni","versions":{{
          "202311142223":{{"items":{{
            "incus_combined.tar.gz":{{"ftype":"incus_combined.tar.gz","path":"images/u.tar.gz","sha256":"{uni}","size":5}}}}}}}}}}}}}}"#
    )
}

fn host() -> FakeHost {
    let host = FakeHost::new(&[]);
    host.serve(&format!("{SERVER}/streams/v1/index.json"), INDEX);
    host.serve(&format!("{SERVER}/streams/v1/images.json"), catalogue());
    host
}

fn request(name: &str, architecture: &str) -> ImageRequest {
    ImageRequest {
        server: format!("{SERVER}/"),
        name: name.into(),
        architecture: architecture.into(),
        kind: "container".into(),
        options: Vec::new(),
    }
}

fn resolve(host: &FakeHost, name: &str, architecture: &str) -> Result<Image> {
    Simplestreams::resolve(host, &request(name, architecture))
}

#[test]
fn an_alias_is_the_newest_version_that_is_whole() {
    let image = resolve(&host(), "busy/box", "x86_64").unwrap();
    assert_eq!(image.fingerprint, sum('3'));
    assert_eq!(
        (image.architecture.as_str(), image.created, image.expires),
        ("x86_64", 1_699_999_980, 1_809_043_200)
    );
    let files: Vec<_> = image
        .files
        .iter()
        .map(|f| (f.role.as_str(), f.url.as_str(), f.size))
        .collect();
    let expected = [
        (
            "metadata",
            "http://127.0.0.1:8080/tree/images/m.incus.tar.xz",
            Some(276),
        ),
        (
            "rootfs",
            "http://127.0.0.1:8080/tree/images/r.squashfs",
            Some(1_040_384),
        ),
    ];
    assert_eq!(files, expected);
    assert_eq!(image.aliases, ["Busy/box/default", "busy", "busy/box"]);
    let has = |key: &str, value: &str| image.properties.contains(&(key.to_owned(), value.to_owned()));
    assert!(has("serial", "20231114_22:13") && has("requirements.secureboot", "false"));
    assert!(has("description", "Busy Box 1 amd64 (20231114_22:13)"));
    assert_eq!(resolve(&host(), "busy/amd64", "").unwrap().fingerprint, sum('3'));
}

#[test]
fn the_architecture_decides_between_products() {
    let image = resolve(&host(), "busy", "aarch64").unwrap();
    assert_eq!((image.fingerprint, image.files[0].role.as_str()), (sum('4'), "unified"));
    let error = resolve(&host(), "uni", "x86_64").unwrap_err();
    assert!(
        error.is("not-found") && error.message.contains("uni") && error.message.contains("x86_64"),
        "{error}"
    );
}

#[test]
fn a_fingerprint_names_older_versions_too() {
    let image = resolve(&host(), &sum('0'), "x86_64").unwrap();
    assert_eq!(image.files[1].url, format!("{SERVER}/images/o.root.tar.xz"));
    assert_eq!(
        resolve(&host(), &"0".repeat(12), "x86_64").unwrap().fingerprint,
        sum('0')
    );
    assert!(resolve(&host(), "000", "x86_64").is_err_and(|e| e.is("not-found")));
}

#[test]
fn the_list_has_each_product_once() {
    let names = |name: &str, architecture: &str| -> Vec<String> {
        let images = Simplestreams::list(&host(), &request(name, architecture)).unwrap();
        images.into_iter().map(|image| image.fingerprint).collect()
    };
    assert_eq!(names("", ""), [sum('3'), sum('4')]);
    assert_eq!(names("uni", ""), [sum('4')]);
    assert_eq!(names("", "x86_64"), [sum('3')]);
}

#[test]
fn what_is_no_server_says_why() {
    let empty = FakeHost::new(&[]);
    let code = |result: Result<Image>| result.unwrap_err().code;
    assert_eq!(code(resolve(&empty, "busy", "x86_64")), "not-found");
    let with = |index: &str, images: &str| {
        let host = FakeHost::new(&[]);
        host.serve(&format!("{SERVER}/streams/v1/index.json"), index);
        host.serve(&format!("{SERVER}/streams/v1/images.json"), images);
        resolve(&host, "busy", "x86_64")
    };
    assert_eq!(code(with("<html>", "")), "io");
    assert_eq!(code(with(&"[".repeat(100_000), "")), "io");
    assert_eq!(code(with(r#"{"format":"index:2.0"}"#, "")), "unsupported");
    assert_eq!(
        code(with(INDEX, r#"{"format":"products:9.0","products":{}}"#)),
        "unsupported"
    );
    assert_eq!(
        code(with(
            INDEX,
            r#"{"format":"products:1.0","products":{"a":{"versions":7}}}"#
        )),
        "io"
    );
    assert_eq!(
        code(with(&INDEX.replace("streams/v1/images.json", "../secret"), "")),
        "invalid"
    );
    assert_eq!(
        code(with(
            INDEX,
            &catalogue().replace("images/r.squashfs", "http://evil.test/x")
        )),
        "invalid"
    );
    let older = with(INDEX, &catalogue().replace(&sum('3'), "beef")).unwrap();
    assert_eq!(
        older.fingerprint,
        sum('0'),
        "a version without a checksum is passed over"
    );
    let busy = FakeHost::new(&[]);
    let response = HttpResponse {
        status: 503,
        headers: Vec::new(),
        body: Vec::new(),
    };
    busy.state()
        .documents
        .insert(format!("{SERVER}/streams/v1/index.json"), response);
    assert!(resolve(&busy, "busy", "x86_64").is_err_and(|e: Error| e.is("unavailable") && e.retryable));
    assert_eq!(
        code(Simplestreams::resolve(
            &busy,
            &ImageRequest {
                server: String::new(),
                ..request("busy", "")
            }
        )),
        "invalid"
    );
}

/// What a host would refuse, and count against this driver, is the server's fault.
#[test]
fn what_can_be_no_name_is_the_servers_fault() {
    let long = "x".repeat(300);
    let many = (0..300).map(|i| format!("a{i}")).collect::<Vec<_>>().join(",");
    for (from, to, code) in [
        ("busy, busy/box", "busy, b\\u001b[2J".to_owned(), "io"),
        ("busy, busy/box", format!("busy, {long}"), "io"),
        ("busy, busy/box", format!("busy, {many}"), "limit"),
        ("\"secureboot\"", "\"secure\\nboot\"".to_owned(), "io"),
        ("\"secureboot\"", format!("{long:?}"), "io"),
        ("\"Box 1\"", format!("\"{}\"", "x".repeat(70_000)), "io"),
        ("\"Box 1\"", "\"a\\u0000b\"".to_owned(), "io"),
    ] {
        let host = FakeHost::new(&[]);
        host.serve(&format!("{SERVER}/streams/v1/index.json"), INDEX);
        let catalogue = catalogue().replace(from, &to);
        host.serve(&format!("{SERVER}/streams/v1/images.json"), catalogue);
        let error = Simplestreams::list(&host, &request("", "x86_64")).unwrap_err();
        assert!(error.is(code) && error.message.starts_with(SERVER), "{from}: {error}");
        assert!(error.message.len() < 300, "{error}");
        assert!(
            resolve(&host, "busy", "x86_64").is_err_and(|error| error.is(code)),
            "{from}"
        );
    }
}

#[test]
fn a_list_of_more_than_a_host_takes_is_refused() {
    let item = format!(
        r#""incus_combined.tar.gz":{{"ftype":"incus_combined.tar.gz","path":"i","sha256":"{}"}}"#,
        sum('5')
    );
    let product =
        |i: usize| format!(r#""p{i}":{{"aliases":"a{i}","arch":"amd64","versions":{{"1":{{"items":{{{item}}}}}}}}}"#);
    let serve = |count: usize| {
        let host = FakeHost::new(&[]);
        host.serve(&format!("{SERVER}/streams/v1/index.json"), INDEX);
        let products = (0..count).map(product).collect::<Vec<_>>().join(",");
        let catalogue = format!(r#"{{"format":"products:1.0","products":{{{products}}}}}"#);
        host.serve(&format!("{SERVER}/streams/v1/images.json"), catalogue);
        host
    };
    let listed = Simplestreams::list(&serve(10_000), &request("", "x86_64")).unwrap();
    assert_eq!(listed.len(), 10_000);
    let error = Simplestreams::list(&serve(10_001), &request("", "x86_64")).unwrap_err();
    assert!(error.is("limit"), "{error}");
    assert_eq!(resolve(&serve(10_001), "a7", "x86_64").unwrap().aliases, ["a7"]);
}

#[test]
fn the_manifest_is_of_this_version() {
    let manifest = include_str!("../plugin.toml");
    assert!(manifest.contains(&format!("version = {:?}", env!("CARGO_PKG_VERSION"))));
}

/// Whatever a server sends: an answer that is checked, or an error that is told; a panic would count as the plugin's fault.
mod hostile {
    use proptest::prelude::*;

    use super::{SERVER, catalogue, request};
    use crate::Simplestreams;
    use hutch_sdk::image::Source;
    use hutch_sdk::testing::FakeHost;

    fn ask(index: &[u8], images: &[u8]) {
        let host = FakeHost::new(&[]);
        host.serve(&format!("{SERVER}/streams/v1/index.json"), index.to_vec());
        host.serve(&format!("{SERVER}/streams/v1/images.json"), images.to_vec());
        for name in ["busy", "", "0000"] {
            for image in Simplestreams::resolve(&host, &request(name, "amd64"))
                .into_iter()
                .chain(
                    Simplestreams::list(&host, &request(name, "amd64"))
                        .into_iter()
                        .flatten(),
                )
            {
                for file in &image.files {
                    assert!(file.url.starts_with(&format!("{SERVER}/")), "{}", file.url);
                    assert!(!file.url.contains(".."), "{}", file.url);
                    assert!(crate::catalogue::is_sha256(&file.sha256), "{}", file.sha256);
                }
            }
        }
    }

    /// Texts that mean something in one place or another.
    fn text() -> impl Strategy<Value = String> {
        prop_oneof![
            Just("products:1.0".to_owned()),
            Just("index:1.0".to_owned()),
            Just("image-downloads".to_owned()),
            Just("streams/v1/images.json".to_owned()),
            Just("../../etc/passwd".to_owned()),
            Just("http://127.0.0.2/x".to_owned()),
            Just("squashfs".to_owned()),
            Just("incus.tar.xz".to_owned()),
            Just("20231114_22:13".to_owned()),
            Just("99999999999999999999".to_owned()),
            "[a-f0-9]{64}",
            "\\PC{0,20}",
        ]
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            text().prop_map(Into::into),
        ];
        let key = prop_oneof![
            Just("format".to_owned()),
            Just("index".to_owned()),
            Just("products".to_owned()),
            Just("versions".to_owned()),
            Just("items".to_owned()),
            Just("path".to_owned()),
            Just("aliases".to_owned()),
            Just("size".to_owned()),
            Just("sha256".to_owned()),
            text(),
        ];
        leaf.prop_recursive(6, 64, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
                prop::collection::btree_map(key.clone(), inner, 0..6)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn documents_of_any_shape(index in any_json(), images in any_json()) {
            ask(index.to_string().as_bytes(), images.to_string().as_bytes());
            ask(super::INDEX.as_bytes(), images.to_string().as_bytes());
        }

        #[test]
        fn a_good_catalogue_with_bytes_changed(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
            let mut images = catalogue().into_bytes();
            let mut index = super::INDEX.as_bytes().to_vec();
            for (at, value) in changes {
                let place = at.index(images.len());
                images[place] = value;
                let place = at.index(index.len());
                index[place] = value;
            }
            ask(super::INDEX.as_bytes(), &images);
            ask(&index, catalogue().as_bytes());
        }

        #[test]
        fn a_good_catalogue_with_another_value(key in "ftype|path|sha256|size|aliases|arch|combined_squashfs_sha256|requirements", value in any_json()) {
            let text = catalogue();
            // The first value under this key, which is a text, a number or an object of texts.
            let Some(at) = text.find(&format!("\"{key}\":")) else { return Ok(()) };
            let begin = at + key.len() + 3;
            let end = begin + match text.as_bytes()[begin] {
                b'"' => text[begin + 1..].find('"').unwrap_or(0) + 2,
                b'{' => text[begin..].find('}').unwrap_or(0) + 1,
                _ => text[begin..].find([',', '}']).unwrap_or(0),
            };
            ask(super::INDEX.as_bytes(), format!("{}{value}{}", &text[..begin], &text[end..]).as_bytes());
        }
    }
}

//! Bodies of clients, as recorded.

use super::*;

#[test]
fn what_clients_send_is_understood() {
    // As recorded from the incus 6.0.4 client.
    let launch: InstancesPost = serde_json::from_str(
        r#"{"architecture":"","config":{},"devices":{},"ephemeral":false,"profiles":null,"stateful":false,
            "description":"","name":"c1","source":{"type":"image","certificate":"","fingerprint":"60905d",
            "allow_inconsistent":false},"instance_type":"","type":"container","start":true}"#,
    )
    .unwrap();
    assert_eq!(
        (launch.kind.as_str(), launch.source.kind.as_str(), launch.start),
        ("container", "image", true)
    );
    assert_eq!(launch.profiles, None);
    let rename: InstancePost = serde_json::from_str(
        r#"{"name":"c3","migration":false,"live":false,"instance_only":false,"target":null,"pool":"","project":"",
            "allow_inconsistent":false,"Config":null,"Devices":null,"Profiles":null}"#,
    )
    .unwrap();
    assert_eq!((rename.name.as_str(), rename.target, rename.config), ("c3", None, None));
    let snapshot: InstanceSnapshotsPost =
        serde_json::from_str(r#"{"name":"s1","stateful":false,"expires_at":null}"#).unwrap();
    assert_eq!(snapshot.expires_at, None);
    let restore: InstancePut = serde_json::from_str(
        r#"{"architecture":"","config":null,"devices":null,"ephemeral":false,"profiles":null,"restore":"c1/s1"}"#,
    )
    .unwrap();
    assert_eq!(
        restore,
        InstancePut {
            restore: "c1/s1".to_owned(),
            ..InstancePut::default()
        }
    );
}

#[test]
fn configuration_is_text_whatever_it_was() {
    let put: InstancePut = serde_json::from_str(
        r#"{"config":{"limits.cpu":2,"security.nesting":true,"user.x":null},"devices":{"eth0":{"type":"nic","mtu":1400}}}"#,
    )
    .unwrap();
    assert_eq!(put.config["limits.cpu"], "2");
    assert_eq!(put.config["security.nesting"], "true");
    assert_eq!(put.config["user.x"], "");
    assert_eq!(put.devices["eth0"]["mtu"], "1400");
    assert!(serde_json::from_str::<InstancePut>(r#"{"config":{"a":{}}}"#).is_err());
    assert!(serde_json::from_str::<InstancePut>(r#"{"config":["a"]}"#).is_err());
}

#[test]
fn a_patch_changes_what_it_names() {
    let mut put = InstancePut {
        description: "old".to_owned(),
        config: Config::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())]),
        profiles: vec!["default".to_owned()],
        ..InstancePut::default()
    };
    let patch: InstancePatch =
        serde_json::from_str(r#"{"config":{"a":"","c":"3"},"profiles":[],"devices":{"d":{"type":"none"}}}"#).unwrap();
    patch.apply(&mut put);
    assert_eq!(put.config.keys().collect::<Vec<_>>(), ["b", "c"]);
    assert_eq!(
        (put.description.as_str(), put.profiles.len(), put.devices.len()),
        ("old", 0, 1)
    );
}

#[test]
fn a_full_instance_is_one_object() {
    let full = InstanceFull::default();
    let value = serde_json::to_value(&full).unwrap();
    assert_eq!(value["state"]["network"], Value::Null);
    assert_eq!(value["created_at"], "0001-01-01T00:00:00Z");
    assert!(value.get("instance").is_none());
    assert_eq!(serde_json::from_value::<InstanceFull>(value).unwrap(), full);
    assert_eq!(
        serde_json::from_str::<InstanceFull>(r#"{"name":"c1","state":null,"snapshots":null}"#)
            .unwrap()
            .instance
            .name,
        "c1"
    );
}

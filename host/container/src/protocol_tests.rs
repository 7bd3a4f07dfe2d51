//! Packets between daemon and keeper: whatever arrives is read or refused, and what is read is what was written.

use proptest::prelude::*;

use super::{Packet, Reply, Request};
use crate::spec::ContainerSpec;

/// JSON with the words of the language in it, so that some of it comes close.
fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let words = [
        "hello", "start", "exec", "signal", "stop", "version", "spec", "id", "request", "do", "limits", "mounts",
        "event", "fault", "ok", "kind", "message",
    ];
    let word = prop::sample::select(words.to_vec()).prop_map(str::to_owned);
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        word.clone().prop_map(Into::into),
        "\\PC{0,12}".prop_map(Into::into),
    ];
    leaf.prop_recursive(5, 48, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
            prop::collection::btree_map(word.clone(), inner, 0..5)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn documents_of_any_shape_are_read_or_refused(mut value in any_json(), tag in prop::sample::select(vec!["hello", "start", "exec", "signal", "resize", "limits", "mount"])) {
        let _ = serde_json::from_value::<Reply>(value.clone());
        let _ = serde_json::from_value::<ContainerSpec>(value.clone());
        if let Some(object) = value.as_object_mut() {
            object.insert("do".to_owned(), tag.into());
        }
        if let Ok(request) = serde_json::from_value::<Request>(value) {
            let packet = Packet { id: 7, request };
            let again: Packet = serde_json::from_slice(&serde_json::to_vec(&packet).unwrap()).unwrap();
            prop_assert_eq!(again, packet);
        }
    }

    #[test]
    fn bytes_of_any_kind_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = serde_json::from_slice::<Packet>(&bytes);
        let _ = serde_json::from_slice::<Reply>(&bytes);
    }
}

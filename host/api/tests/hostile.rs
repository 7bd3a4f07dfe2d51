//! Whatever comes from outside is read or refused; nothing panics, and what was read can be written again.

use hutch_api::Timestamp;
use hutch_api::filter::Filter;
use hutch_api::image::ImagesPost;
use hutch_api::instance::{InstanceExecPost, InstanceFull, InstancePatch, InstancePut, InstancesPost};
use hutch_api::network::NetworksPost;
use hutch_api::storage::StorageVolumesPost;
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// JSON of some depth, with keys that mean something to the API among them.
fn any_json() -> impl Strategy<Value = Value> {
    let key = prop_oneof![
        Just("name".to_owned()),
        Just("config".to_owned()),
        Just("devices".to_owned()),
        Just("source".to_owned()),
        Just("profiles".to_owned()),
        Just("type".to_owned()),
        Just("expires_at".to_owned()),
        Just("state".to_owned()),
        Just("environment".to_owned()),
        Just("user".to_owned()),
        "[a-z.]{0,12}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 48, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..6)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// Reads JSON as `T`; what is understood is the same when it is written and read again.
fn check<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(value: &Value) {
    if let Ok(read) = serde_json::from_value::<T>(value.clone()) {
        let written = serde_json::to_string(&read).unwrap();
        assert_eq!(serde_json::from_str::<T>(&written).unwrap(), read, "{written}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bodies_are_read_or_refused(body in any_json()) {
        check::<InstancesPost>(&body);
        check::<InstancePut>(&body);
        check::<InstancePatch>(&body);
        check::<InstanceExecPost>(&body);
        check::<InstanceFull>(&body);
        check::<ImagesPost>(&body);
        check::<NetworksPost>(&body);
        check::<StorageVolumesPost>(&body);
    }

    #[test]
    fn filters_are_read_or_refused(text in any::<String>(), object in any_json()) {
        if let Ok(filter) = Filter::parse(&text) {
            filter.matches(&object);
        }
    }

    #[test]
    fn filters_of_the_right_words_are_read_or_refused(
        words in prop::collection::vec(
            prop_oneof![
                Just("name"), Just("config.a.b"), Just("eq"), Just("ne"), Just("gt"), Just("and"), Just("or"), Just("not"),
                Just("'a b'"), Just("\""), Just("a=b"), Just("a!=b"), Just("="), Just("^(a|b)*$"), Just("("), Just("7"),
            ],
            0..12,
        ),
        object in any_json(),
    ) {
        if let Ok(filter) = Filter::parse(&words.join(" ")) {
            filter.matches(&object);
        }
    }

    #[test]
    fn times_come_back_as_they_went(seconds in prop_oneof![-70_000_000_000_i64..300_000_000_000, any::<i64>()]) {
        let at = Timestamp::from_unix(seconds);
        prop_assert_eq!(serde_json::from_value::<Timestamp>(json!(at)).unwrap(), at);
    }
}

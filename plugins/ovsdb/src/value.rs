//! Values of columns (RFC 7047, 5.1).

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use uuid::Uuid;

use crate::transaction::Inserted;
use crate::{Error, Result};

/// One value that is not made of others.
#[derive(Clone, Debug)]
pub enum Atom {
    /// `integer`
    Integer(i64),
    /// `real`
    Real(f64),
    /// `boolean`
    Boolean(bool),
    /// `string`
    Text(String),
    /// `uuid`: a row's
    Uuid(Uuid),
    /// A row that is inserted by the same transaction, by the name that it has there. Only ever sent.
    Named(String),
}

impl Atom {
    fn rank(&self) -> u8 {
        match self {
            Self::Integer(_) => 0,
            Self::Real(_) => 1,
            Self::Boolean(_) => 2,
            Self::Text(_) => 3,
            Self::Uuid(_) => 4,
            Self::Named(_) => 5,
        }
    }

    /// As the protocol writes it.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Integer(number) => json!(number),
            Self::Real(number) => json!(number),
            Self::Boolean(yes) => json!(yes),
            Self::Text(text) => json!(text),
            Self::Uuid(uuid) => json!(["uuid", uuid.to_string()]),
            Self::Named(name) => json!(["named-uuid", name]),
        }
    }

    /// # Errors
    /// [`Error::Protocol`] where it is none.
    pub fn from_json(value: &serde_json::Value) -> Result<Self> {
        use serde_json::Value as Json;
        let known = match value {
            Json::Bool(yes) => Some(Self::Boolean(*yes)),
            Json::String(text) => Some(Self::Text(text.clone())),
            Json::Number(number) => match number.as_i64() {
                Some(integer) => Some(Self::Integer(integer)),
                None => number.as_f64().map(Self::Real),
            },
            Json::Array(pair) => match pair.as_slice() {
                [kind, Json::String(text)] if kind == "uuid" => Uuid::try_parse(text).ok().map(Self::Uuid),
                _ => None,
            },
            _ => None,
        };
        known.ok_or_else(|| Error::Protocol("expected an atom".to_owned()))
    }
}

impl Ord for Atom {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Integer(a), Self::Integer(b)) => a.cmp(b),
            (Self::Real(a), Self::Real(b)) => a.total_cmp(b),
            (Self::Boolean(a), Self::Boolean(b)) => a.cmp(b),
            (Self::Text(a), Self::Text(b)) | (Self::Named(a), Self::Named(b)) => a.cmp(b),
            (Self::Uuid(a), Self::Uuid(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Atom {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Atom {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Atom {}

/// What a column has. A single value is a set of one, and an optional one that is not there an empty set: the protocol tells them apart
/// no more than that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Elements without an order, each once.
    Set(BTreeSet<Atom>),
    /// Values by keys.
    Map(BTreeMap<Atom, Atom>),
}

impl Value {
    /// Nothing: an optional value that is not there, or an empty set.
    #[must_use]
    pub fn none() -> Self {
        Self::Set(BTreeSet::new())
    }

    /// A set of these.
    pub fn set<A: Into<Atom>>(elements: impl IntoIterator<Item = A>) -> Self {
        Self::Set(elements.into_iter().map(Into::into).collect())
    }

    /// A map of these.
    pub fn map<K: Into<Atom>, V: Into<Atom>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        Self::Map(
            pairs
                .into_iter()
                .map(|(key, value)| (key.into(), value.into()))
                .collect(),
        )
    }

    /// As the protocol writes it.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Set(elements) => match elements.first() {
                Some(only) if elements.len() == 1 => only.to_json(),
                _ => json!(["set", elements.iter().map(Atom::to_json).collect::<Vec<_>>()]),
            },
            Self::Map(pairs) => {
                let pairs: Vec<_> = pairs
                    .iter()
                    .map(|(key, value)| json!([key.to_json(), value.to_json()]))
                    .collect();
                json!(["map", pairs])
            }
        }
    }

    /// # Errors
    /// [`Error::Protocol`] where it is none.
    pub fn from_json(value: &serde_json::Value) -> Result<Self> {
        use serde_json::Value as Json;
        match value.as_array().map(Vec::as_slice) {
            Some([kind, Json::Array(elements)]) if kind == "set" => elements
                .iter()
                .map(Atom::from_json)
                .collect::<Result<_>>()
                .map(Self::Set),
            Some([kind, Json::Array(pairs)]) if kind == "map" => {
                let pair = |pair: &Json| match pair.as_array().map(Vec::as_slice) {
                    Some([key, value]) => Ok((Atom::from_json(key)?, Atom::from_json(value)?)),
                    _ => Err(Error::Protocol("expected a pair".to_owned())),
                };
                pairs.iter().map(pair).collect::<Result<_>>().map(Self::Map)
            }
            _ => Atom::from_json(value).map(Self::from),
        }
    }
}

impl From<Atom> for Value {
    fn from(atom: Atom) -> Self {
        Self::Set(BTreeSet::from([atom]))
    }
}

/// What becomes an atom becomes a value, too, and so does one that may not be there.
macro_rules! atoms {
    ($($from:ty, $name:ident => $atom:expr;)*) => {$(
        impl From<$from> for Atom {
            fn from($name: $from) -> Self {
                $atom
            }
        }

        impl From<$from> for Value {
            fn from($name: $from) -> Self {
                Self::from($atom)
            }
        }

        impl From<Option<$from>> for Value {
            fn from(atom: Option<$from>) -> Self {
                Self::set(atom)
            }
        }
    )*};
}

atoms! {
    &str, text => Atom::Text(text.to_owned());
    String, text => Atom::Text(text);
    &String, text => Atom::Text(text.clone());
    bool, yes => Atom::Boolean(yes);
    i64, number => Atom::Integer(number);
    Uuid, uuid => Atom::Uuid(uuid);
    &Inserted, row => Atom::Named(row.name().to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_are_written_as_the_protocol_has_them() {
        let uuid = Uuid::from_u128(0x1234);
        for (value, expected) in [
            (Value::from("x"), json!("x")),
            (Value::from(7_i64), json!(7)),
            (Value::none(), json!(["set", []])),
            (Value::set(["b", "a"]), json!(["set", ["a", "b"]])),
            (
                Value::from(uuid),
                json!(["uuid", "00000000-0000-0000-0000-000000001234"]),
            ),
            (Value::map([("k", "v")]), json!(["map", [["k", "v"]]])),
            (Value::map::<&str, &str>([]), json!(["map", []])),
        ] {
            assert_eq!(value.to_json(), expected);
            assert_eq!(Value::from_json(&expected), Ok(value));
        }
    }

    #[test]
    fn what_is_no_value_is_refused() {
        for wrong in [
            json!(null),
            json!({}),
            json!([]),
            json!(["uuid", "x"]),
            json!(["set", [["set", []]]]),
            json!(["map", [["k"]]]),
            json!(["map", {"k": "v"}]),
            json!(["other", []]),
        ] {
            assert!(Value::from_json(&wrong).is_err(), "{wrong}");
        }
    }

    fn atom() -> impl Strategy<Value = Atom> {
        prop_oneof![
            any::<i64>().prop_map(Atom::Integer),
            any::<bool>().prop_map(Atom::Boolean),
            ".{0,8}".prop_map(Atom::Text),
            any::<u128>().prop_map(|bits| Atom::Uuid(Uuid::from_u128(bits))),
        ]
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(set in prop::collection::btree_set(atom(), 0..8), map in prop::collection::btree_map(atom(), atom(), 0..8)) {
            for value in [Value::Set(set), Value::Map(map)] {
                prop_assert_eq!(Value::from_json(&value.to_json()), Ok(value));
            }
        }
    }
}

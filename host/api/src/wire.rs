//! How bodies are read: leniently, as clients written against Go's decoder expect.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

/// A type whose `null` is its default.
pub(crate) trait Lenient: Sized {
    /// Reads a value or `null`.
    fn lenient<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error>;
}

macro_rules! null_is_default {
    ($($type:ty),* $(,)?) => {
        $(impl $crate::wire::Lenient for $type {
            fn lenient<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Ok(<Option<$type> as serde::Deserialize>::deserialize(deserializer)?.unwrap_or_default())
            }
        })*
    };
}
pub(crate) use null_is_default;

null_is_default!(String, bool, i32, i64, u16, u32, u64, f64, serde_json::Map<String, serde_json::Value>);

impl Lenient for serde_json::Value {
    fn lenient<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::deserialize(deserializer)
    }
}

impl<T: Lenient> Lenient for Option<T> {
    fn lenient<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Optional<T>(PhantomData<T>);
        impl<'de, T: Lenient> Visitor<'de> for Optional<T> {
            type Value = Option<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value or null")
            }
            fn visit_none<E>(self) -> Result<Self::Value, E> {
                Ok(None)
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(None)
            }
            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
                T::lenient(deserializer).map(Some)
            }
        }
        deserializer.deserialize_option(Optional(PhantomData))
    }
}

impl<T: for<'a> Deserialize<'a>> Lenient for Vec<T> {
    fn lenient<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::<Self>::deserialize(deserializer)?.unwrap_or_default())
    }
}

/// A map's value: read leniently, and for texts a bare number or truth value is taken as its text.
pub(crate) trait MapValue: Sized {
    /// Reads one value of a map.
    fn value<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error>;
}

impl MapValue for String {
    fn value<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Scalar)
    }
}

impl<T: MapValue> MapValue for BTreeMap<String, T> {
    fn value<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_option(MapOf(PhantomData))
    }
}

impl MapValue for u64 {
    fn value<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::lenient(deserializer)
    }
}

impl MapValue for i64 {
    fn value<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::lenient(deserializer)
    }
}

impl MapValue for Vec<String> {
    fn value<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::lenient(deserializer)
    }
}

impl<T: MapValue> Lenient for BTreeMap<String, T> {
    fn lenient<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_option(MapOf(PhantomData))
    }
}

/// One value, wrapped so that serde can read it within a map.
struct Wrapped<T>(T);

impl<'de, T: MapValue> Deserialize<'de> for Wrapped<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::value(deserializer).map(Self)
    }
}

struct MapOf<T>(PhantomData<T>);

impl<'de, T: MapValue> Visitor<'de> for MapOf<T> {
    type Value = BTreeMap<String, T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or null")
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(BTreeMap::new())
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(BTreeMap::new())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut out = BTreeMap::new();
        while let Some((key, Wrapped(value))) = map.next_entry::<String, Wrapped<T>>()? {
            out.insert(key, value);
        }
        Ok(out)
    }
}

struct Scalar;

impl Visitor<'_> for Scalar {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E>(self, v: &str) -> Result<String, E> {
        Ok(v.to_owned())
    }

    fn visit_string<E>(self, v: String) -> Result<String, E> {
        Ok(v)
    }

    fn visit_bool<E>(self, v: bool) -> Result<String, E> {
        Ok(v.to_string())
    }

    fn visit_i64<E>(self, v: i64) -> Result<String, E> {
        Ok(v.to_string())
    }

    fn visit_u64<E>(self, v: u64) -> Result<String, E> {
        Ok(v.to_string())
    }

    fn visit_f64<E>(self, v: f64) -> Result<String, E> {
        Ok(v.to_string())
    }

    fn visit_unit<E>(self) -> Result<String, E> {
        Ok(String::new())
    }

    fn visit_none<E>(self) -> Result<String, E> {
        Ok(String::new())
    }
}

/// A map that Go leaves out as `null` when it has nothing in it; clients take its absence as "not running".
pub(crate) fn empty_as_null<T: serde::Serialize, S: serde::Serializer>(
    map: &BTreeMap<String, T>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    if map.is_empty() {
        serializer.serialize_none()
    } else {
        serializer.collect_map(map)
    }
}

/// Defines a structure of the wire: every field is optional on input and `null` is its default.
macro_rules! wire {
    ($($(#[$meta:meta])* pub struct $name:ident { $($(#[$fmeta:meta])* pub $field:ident : $type:ty,)* })*) => {
        $(
            $(#[$meta])*
            #[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
            #[serde(default)]
            pub struct $name {
                $(
                    $(#[$fmeta])*
                    #[serde(deserialize_with = "crate::wire::Lenient::lenient")]
                    pub $field: $type,
                )*
            }

            $crate::wire::null_is_default!($name);

            impl $crate::wire::MapValue for $name {
                fn value<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                    <Self as $crate::wire::Lenient>::lenient(deserializer)
                }
            }
        )*
    };
}
pub(crate) use wire;

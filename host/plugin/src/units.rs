//! Sizes and times as people write them in manifests and configuration: an integer and a unit.

use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number of bytes, written `"512KiB"`, `"16MiB"`, `"1GiB"` or `"4096B"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

/// A span of time, written `"500ms"`, `"60s"`, `"10m"` or `"2h"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
const TIMES: [(&str, u64); 4] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];

/// Splits `text` into its number and the factor of its unit, and multiplies them.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = units.iter().find(|(name, _)| *name == unit)?.1;
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// The largest unit that divides `value` without a rest.
fn spelled(value: u64, units: &[(&str, u64)]) -> String {
    let mut best = (value, units.iter().find(|(_, factor)| *factor == 1).map_or("", |u| u.0));
    let mut factor_of_best = 1;
    for (name, factor) in units {
        if value > 0 && value.is_multiple_of(*factor) && *factor > factor_of_best {
            best = (value / factor, name);
            factor_of_best = *factor;
        }
    }
    format!("{}{}", best.0, best.1)
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&spelled(self.0, &SIZES))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        scaled(&text, &SIZES).map(Self).ok_or_else(|| {
            D::Error::custom("expected a size such as \"16MiB\": a whole number followed by B, KiB, MiB or GiB")
        })
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        serializer.serialize_str(&spelled(millis, &TIMES))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        scaled(&text, &TIMES)
            .map(|ms| Self(Duration::from_millis(ms)))
            .ok_or_else(|| {
                D::Error::custom("expected a time such as \"60s\": a whole number followed by ms, s, m or h")
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_read_back_as_written() {
        for (text, value) in [
            ("1GiB", 1 << 30),
            ("16MiB", 16 << 20),
            ("1536KiB", 1536 << 10),
            ("7B", 7),
            ("0B", 0),
        ] {
            assert_eq!(scaled(text, &SIZES), Some(value), "{text}");
            assert_eq!(spelled(value, &SIZES), text);
        }
        for (text, value) in [("500ms", 500), ("90s", 90_000), ("10m", 600_000), ("2h", 7_200_000)] {
            assert_eq!(scaled(text, &TIMES), Some(value), "{text}");
            assert_eq!(spelled(value, &TIMES), text);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "16",
            "MiB",
            "-1MiB",
            "1.5MiB",
            "16 MiB",
            "16mib",
            "99999999999999999999B",
            "99999999999GiB",
        ] {
            assert_eq!(scaled(text, &SIZES), None, "{text}");
        }
    }
}

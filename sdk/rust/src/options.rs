//! Keys and values.

use std::collections::BTreeMap;

use crate::{Error, Result};

/// Configuration by key. The wire has it as a list of pairs; of equal keys the last counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options(BTreeMap<String, String>);

impl Options {
    /// From the pairs of a record.
    pub fn new(pairs: &[(String, String)]) -> Self {
        Self(pairs.iter().cloned().collect())
    }

    /// The pairs of a record, in the order of the keys.
    pub fn into_pairs(self) -> Vec<(String, String)> {
        self.0.into_iter().collect()
    }

    /// The value, unless it is missing or empty: setting a key to nothing is how clients take it away.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// `true`, `1`, `yes` and `on` or their opposites, as LXD's clients may write them; `default` where there is no value.
    ///
    /// # Errors
    /// `invalid` for anything else.
    pub fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key).map(str::to_ascii_lowercase).as_deref() {
            None => Ok(default),
            Some("true" | "1" | "yes" | "on") => Ok(true),
            Some("false" | "0" | "no" | "off") => Ok(false),
            Some(other) => Err(Error::invalid(format!(
                "invalid value for {key:?}: {other:?} is neither true nor false"
            ))),
        }
    }

    /// A whole number.
    ///
    /// # Errors
    /// `invalid` for a value that is not one from `range`.
    pub fn number(&self, key: &str, range: std::ops::RangeInclusive<u32>) -> Result<Option<u32>> {
        self.get(key)
            .map(|value| {
                value
                    .parse()
                    .ok()
                    .filter(|number| range.contains(number))
                    .ok_or_else(|| {
                        let (least, most) = (range.start(), range.end());
                        Error::invalid(format!(
                            "invalid value for {key:?}: {value:?} is not a number from {least} to {most}"
                        ))
                    })
            })
            .transpose()
    }

    /// Sets a key.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.0.insert(key.into(), value.into());
    }

    /// Takes a key away.
    pub fn remove(&mut self, key: &str) {
        self.0.remove(key);
    }

    /// All keys and values, empty ones included.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Checks that every key is known: named in `known` or in the free space `user.`, of which nothing is asked.
    ///
    /// # Errors
    /// `invalid`, which names the first key that is not, and the object.
    pub fn check_keys(&self, object: &str, known: &[&str]) -> Result<()> {
        match self
            .0
            .keys()
            .find(|key| !known.contains(&key.as_str()) && !key.starts_with("user."))
        {
            Some(key) => Err(Error::invalid(format!("invalid option for {object}: {key:?}")).with("key", key.as_str())),
            None => Ok(()),
        }
    }
}

impl FromIterator<(String, String)> for Options {
    fn from_iter<T: IntoIterator<Item = (String, String)>>(pairs: T) -> Self {
        Self(pairs.into_iter().collect())
    }
}

/// Reads a size in bytes: a number alone, or with one of the units `B`, `kB`, `MB`, `GB`, `TB`, `PB`, `EB` (powers of
/// 1,000) or `KiB`, `MiB`, `GiB`, `TiB`, `PiB`, `EiB` (powers of 1,024), which is how LXD writes them.
///
/// # Errors
/// `invalid` for anything else, and for what does not fit into 64 bits.
pub fn parse_size(text: &str) -> Result<u64> {
    let wrong = || Error::invalid(format!("{text:?} is not a size such as 10GiB"));
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "kB" => 1000,
        "MB" => 1000_u64.pow(2),
        "GB" => 1000_u64.pow(3),
        "TB" => 1000_u64.pow(4),
        "PB" => 1000_u64.pow(5),
        "EB" => 1000_u64.pow(6),
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "PiB" => 1 << 50,
        "EiB" => 1 << 60,
        _ => return Err(wrong()),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(factor))
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> Options {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn flags_and_numbers() {
        let o = options(&[
            ("a", "true"),
            ("b", "Off"),
            ("c", "maybe"),
            ("d", ""),
            ("n", "1500"),
            ("m", "x"),
        ]);
        assert!(o.flag("a", false).unwrap() && !o.flag("b", true).unwrap());
        assert!(o.flag("c", true).is_err());
        assert!(o.flag("d", true).unwrap() && o.flag("missing", true).unwrap());
        assert_eq!(o.number("n", 1280..=65535).unwrap(), Some(1500));
        assert!(o.number("n", 1..=10).unwrap_err().message.contains("from 1 to 10"));
        assert!(o.number("m", 0..=10).is_err());
        assert_eq!(o.number("missing", 0..=10).unwrap(), None);
    }

    #[test]
    fn unknown_keys_are_named() {
        let o = options(&[("size", "1"), ("user.any", "x"), ("siez", "1")]);
        let error = o.check_keys("pool p1", &["size"]).unwrap_err();
        assert_eq!(error.message, "invalid option for pool p1: \"siez\"");
        assert!(o.check_keys("pool p1", &["size", "siez"]).is_ok());
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("5", 5),
            ("5B", 5),
            ("1kB", 1000),
            ("10GiB", 10 << 30),
            ("2 MB", 2_000_000),
        ] {
            assert_eq!(parse_size(text).unwrap(), bytes, "{text}");
        }
        for bad in ["", "GiB", "-1", "1.5GiB", "1Gib", "99999999999EiB"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}

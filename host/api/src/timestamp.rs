//! Times as Go writes them.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// What Go's `time.Time` is before anybody sets it, and what means "never" on this API.
const ZERO: &str = "0001-01-01T00:00:00Z";

/// An instant, or "never": Go's zero time on the wire. Read from RFC 3339 text, from `null` and from empty text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(Option<OffsetDateTime>);

impl Timestamp {
    /// Never.
    pub const NEVER: Self = Self(None);

    /// This instant, by the system's clock.
    pub fn now() -> Self {
        Self(Some(OffsetDateTime::now_utc()))
    }

    /// The instant, if there is one.
    pub fn get(self) -> Option<OffsetDateTime> {
        self.0
    }

    /// Whether there is none.
    pub fn is_never(self) -> bool {
        self.0.is_none()
    }

    /// From seconds since 1970; a year that RFC 3339 can't write, or Go's zero, is "never".
    pub fn from_unix(seconds: i64) -> Self {
        OffsetDateTime::from_unix_timestamp(seconds).map_or(Self::NEVER, Self::from)
    }

    /// Reads RFC 3339 text; Go's zero time and empty text are "never".
    pub fn parse(text: &str) -> Result<Self, time::error::Parse> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        OffsetDateTime::parse(text, &Rfc3339).map(Self::from)
    }
}

impl From<OffsetDateTime> for Timestamp {
    /// Kept in UTC. Year 1 in any zone is "never", because some clients write the zero time in local time, and so is a year
    /// that RFC 3339 can't write.
    fn from(at: OffsetDateTime) -> Self {
        let at = at.checked_to_offset(time::UtcOffset::UTC);
        Self(at.filter(|at| (2..=9999).contains(&at.year())))
    }
}

impl From<std::time::SystemTime> for Timestamp {
    /// A file's owner can set its times to anything, so what no calendar has is "never" rather than a panic.
    fn from(at: std::time::SystemTime) -> Self {
        let epoch = OffsetDateTime::UNIX_EPOCH;
        let at = match at.duration_since(std::time::UNIX_EPOCH) {
            Ok(since) => since.try_into().ok().and_then(|since| epoch.checked_add(since)),
            Err(before) => before
                .duration()
                .try_into()
                .ok()
                .and_then(|before| epoch.checked_sub(before)),
        };
        at.map_or(Self::NEVER, Self::from)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            // Formatting fails only for years that RFC 3339 can't write.
            Some(at) => f.write_str(&at.format(&Rfc3339).map_err(|_| fmt::Error)?),
            None => f.write_str(ZERO),
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(at) => serializer.serialize_str(&at.format(&Rfc3339).map_err(serde::ser::Error::custom)?),
            None => serializer.serialize_str(ZERO),
        }
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Timestamp;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time as in RFC 3339")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Timestamp, E> {
                Timestamp::parse(text).map_err(|_| E::custom(format_args!("{text:?} is not a time as in RFC 3339")))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

crate::wire::null_is_default!(Timestamp);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_times_are_never() {
        for text in ["\"0001-01-01T00:00:00Z\"", "\"\"", "\"0001-01-01T01:00:00+01:00\""] {
            assert!(serde_json::from_str::<Timestamp>(text).unwrap().is_never(), "{text}");
        }
        assert_eq!(
            serde_json::to_string(&Timestamp::NEVER).unwrap(),
            "\"0001-01-01T00:00:00Z\""
        );
    }

    #[test]
    fn no_file_time_is_too_strange() {
        use std::time::{Duration, UNIX_EPOCH};
        assert!(Timestamp::from(UNIX_EPOCH + Duration::from_secs(1 << 60)).is_never());
        assert!(Timestamp::from(UNIX_EPOCH - Duration::from_secs(1 << 60)).is_never());
        let before = Timestamp::from(UNIX_EPOCH - Duration::from_millis(1500));
        assert_eq!(before.to_string(), "1969-12-31T23:59:58.5Z");
    }

    #[test]
    fn nanoseconds_survive() {
        let text = "\"2026-11-23T13:42:52.058534073Z\"";
        let at: Timestamp = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&at).unwrap(), text);
        assert!(serde_json::from_str::<Timestamp>("\"yesterday\"").is_err());
    }
}

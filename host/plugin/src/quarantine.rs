//! The record of a quarantine, which lies beside the plugin's file under its digest: it outlives the daemon, and another
//! version of the plugin, which has another digest, begins without one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// The version of the record's format.
const FORMAT: u32 = 1;

/// Since when a plugin is out of service, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Quarantine {
    /// When the last of its faults happened.
    pub(crate) since: SystemTime,
    /// How many faults there were, and what the last one was.
    pub(crate) reason: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    format: u32,
    /// Seconds since 1970-01-01 00:00 UTC.
    since: u64,
    reason: String,
}

impl Quarantine {
    /// The record's text.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let since = self.since.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let record = Record {
            format: FORMAT,
            since,
            reason: self.reason.clone(),
        };
        // Two numbers and a text, which always can be written.
        serde_json::to_vec(&record).unwrap_or_default()
    }

    /// Reads a record. One that is damaged or of a newer version still is one: a plugin that was taken out of service does not
    /// come back because nobody can read why.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        match serde_json::from_slice::<Record>(bytes) {
            Ok(record) if record.format == FORMAT => Self {
                since: UNIX_EPOCH
                    .checked_add(Duration::from_secs(record.since))
                    .unwrap_or(UNIX_EPOCH),
                reason: record.reason,
            },
            Ok(record) => Self::unreadable(&format!(
                "it has format {}, and this version reads {FORMAT}",
                record.format
            )),
            Err(error) => Self::unreadable(&error.to_string()),
        }
    }

    /// What stands for a record that can't be read, with the reason.
    pub(crate) fn unreadable(why: &str) -> Self {
        Self {
            since: UNIX_EPOCH,
            reason: format!("the record of an earlier quarantine can't be read: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let quarantine = Quarantine {
            since: UNIX_EPOCH + Duration::from_secs(1_800_000_000),
            reason: "5 faults within 600 s, the last one: \"x\"\n".to_owned(),
        };
        assert_eq!(Quarantine::from_bytes(&quarantine.to_bytes()), quarantine);
    }

    #[test]
    fn what_can_t_be_read_is_a_quarantine_all_the_same() {
        for text in [
            "",
            "{}",
            "null",
            r#"{"format":2,"since":0,"reason":""}"#,
            r#"{"format":1,"since":0,"reason":"","more":1}"#,
            r#"{"format":1,"since":-1,"reason":""}"#,
        ] {
            let read = Quarantine::from_bytes(text.as_bytes());
            assert!(read.reason.contains("can't be read"), "{text}: {read:?}");
        }
        let late = Quarantine::from_bytes(br#"{"format":1,"since":18446744073709551615,"reason":"r"}"#);
        assert_eq!(late.reason, "r");
    }
}

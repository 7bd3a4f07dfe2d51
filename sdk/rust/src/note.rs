//! A driver's own notes on a pool: small JSON files with the version of their format.
//!
//! A note of a newer version is refused, because what is in it can't be kept; fields that are not known are, too.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Error, Host, Result, TreePath};

/// What every note has.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// Reads a note whose format has at most the version `newest`; `None` where there is no file.
///
/// # Errors
/// `unsupported` for a newer format, `io` for what is not such a note, and what [`Host::fs_read_file`] fails with.
pub fn read<T: DeserializeOwned>(host: &impl Host, at: &TreePath, newest: u32) -> Result<Option<T>> {
    host.fs_read_file(at)?
        .map(|data| parse(&at.path, &data, newest))
        .transpose()
}

/// Writes a note as a whole, for root alone.
///
/// # Errors
/// What [`Host::fs_write_file`] fails with.
pub fn write<T: Serialize>(host: &impl Host, at: &TreePath, note: &T) -> Result<()> {
    let data =
        serde_json::to_vec(note).map_err(|error| Error::internal(format!("can't write {}: {error}", at.path)))?;
    host.fs_write_file(at, &data, 0o600)
}

fn parse<T: DeserializeOwned>(path: &str, data: &[u8], newest: u32) -> Result<T> {
    let damaged = |error: serde_json::Error| Error::io(format!("{path} is damaged: {error}"));
    let Version { version } = serde_json::from_slice(data).map_err(damaged)?;
    if version > newest {
        return Err(Error::unsupported(format!(
            "{path} has the format version {version}, and this driver knows none above {newest}"
        )));
    }
    serde_json::from_slice(data).map_err(damaged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeHost;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Note {
        version: u32,
        text: String,
    }

    #[test]
    fn newer_and_damaged_notes_are_told_apart() {
        let host = FakeHost::new(&["pool"]);
        let at = TreePath::root("pool").join("note.json");
        assert_eq!(read::<Note>(&host, &at, 1).unwrap(), None);
        let note = Note {
            version: 1,
            text: "x".into(),
        };
        write(&host, &at, &note).unwrap();
        assert_eq!(read(&host, &at, 1).unwrap(), Some(note));
        for (text, code) in [
            (r#"{"version":2,"text":1,"more":true}"#, "unsupported"),
            (r#"{"version":1,"text":"a","more":true}"#, "io"),
            (r#"{"version":1,"te"#, "io"),
            ("[]", "io"),
        ] {
            host.state().tree.put_text("pool", "note.json", text);
            assert!(read::<Note>(&host, &at, 1).is_err_and(|e| e.is(code)), "{text}");
        }
    }
}

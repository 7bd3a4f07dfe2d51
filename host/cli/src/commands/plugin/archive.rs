//! Archives of plugins, as `plugin save` writes them and `plugin load` reads them, for machines that nothing can be fetched from.
//!
//! An archive is a line, `hutch-plugins FORMAT LENGTH`, an index of LENGTH bytes in JSON, and the plugins' files one behind the other in
//! the order of the index, and nothing after them. The index says of each what [`Saved`] has. Who reads one believes none of it: what is
//! not as described is refused, each file has to have its digest, and who answers for it is for the daemon to find out from the
//! signature. What a plugin was granted where it was saved is a proposal.

use std::collections::BTreeSet;
use std::io::{self, BufRead, Read, Write};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The version of the format.
pub(super) const FORMAT: u32 = 1;
const MAGIC: &str = "hutch-plugins";
/// The longest first line, in bytes.
const MAX_LINE: u64 = 64;
/// The largest index, in bytes.
const MAX_INDEX: u64 = 1 << 20;
/// Plugins in one archive.
const MAX_PLUGINS: usize = 100;
/// Bytes of the largest plugin that a daemon takes, and of the largest signature.
const MAX_FILE: u64 = 32 << 20;
const MAX_SIGNATURE: usize = 8 << 10;
/// Bytes of the longest other text, and the most permissions of one plugin.
const MAX_TEXT: usize = 4096;
const MAX_GRANTS: usize = 1000;

/// Why an archive can't be written or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArchiveError {
    /// The file can't be worked with.
    #[error("the archive can't be read or written")]
    Io(#[from] io::Error),
    /// It is something else.
    #[error("it is no archive that `hutch plugin save` made")]
    Other,
    /// A newer version made it.
    #[error("it has format {0}, and this version reads format {FORMAT}")]
    Newer(u32),
    /// The index is not JSON, or says what this version does not know.
    #[error("its index can't be read")]
    Index(#[source] serde_json::Error),
    /// Something in it can't be.
    #[error("its index is not valid: {0}")]
    Invalid(String),
    /// A file is not what the index says.
    #[error("the file of {0} in it was changed: it has another digest")]
    Changed(String),
    /// It ends too early.
    #[error("it is cut off")]
    Cut,
    /// Something follows the last file.
    #[error("there is more in it than its index says")]
    More,
}

/// What an archive says of a plugin.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Saved {
    /// Its id.
    pub(crate) id: String,
    /// Its version.
    pub(crate) version: String,
    /// SHA-256 of its file in lower-case hexadecimal.
    pub(crate) digest: String,
    /// The size of its file, in bytes.
    pub(crate) size: u64,
    /// Where it came from to the machine that it was saved on.
    pub(crate) source: String,
    /// The publisher's signature of the file, as minisign writes it.
    pub(crate) signature: Option<String>,
    /// What it was granted there, by names: what whoever loads it is asked about.
    pub(crate) grants: Vec<String>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Index {
    plugins: Vec<Saved>,
}

/// Writes an archive of plugins with their files.
///
/// # Errors
/// When it can't be written, or would not be read again.
pub(crate) fn write(out: &mut impl Write, plugins: &[(Saved, Vec<u8>)]) -> Result<(), ArchiveError> {
    let index = Index {
        plugins: plugins.iter().map(|(saved, _)| saved.clone()).collect(),
    };
    check(&index)?;
    let text = serde_json::to_vec_pretty(&index).map_err(ArchiveError::Index)?;
    if text.len() as u64 > MAX_INDEX {
        return Err(ArchiveError::Invalid(format!("it has more than {MAX_INDEX} bytes")));
    }
    writeln!(out, "{MAGIC} {FORMAT} {}", text.len())?;
    out.write_all(&text)?;
    for (saved, file) in plugins {
        if file.len() as u64 != saved.size || digest(file) != saved.digest {
            return Err(ArchiveError::Changed(saved.id.clone()));
        }
        out.write_all(file)?;
    }
    Ok(())
}

/// An archive that is read, one file at a time.
#[derive(Debug)]
pub(crate) struct Archive<R> {
    plugins: std::vec::IntoIter<Saved>,
    rest: R,
}

impl<R: BufRead> Archive<R> {
    /// Reads the index.
    ///
    /// # Errors
    /// When it is not an archive of this format, or anything in it is not as it should be.
    pub(crate) fn open(mut reader: R) -> Result<Self, ArchiveError> {
        let mut line = Vec::new();
        reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)?;
        let line = line.strip_suffix(b"\n").ok_or(ArchiveError::Other)?;
        let line = std::str::from_utf8(line).map_err(|_| ArchiveError::Other)?;
        let words: Vec<&str> = line.split(' ').collect();
        let [MAGIC, format, length] = words.as_slice() else {
            return Err(ArchiveError::Other);
        };
        match format.parse() {
            Ok(FORMAT) => {}
            Ok(format) => return Err(ArchiveError::Newer(format)),
            Err(_) => return Err(ArchiveError::Other),
        }
        let length: u64 = length.parse().map_err(|_| ArchiveError::Other)?;
        if length > MAX_INDEX {
            return Err(ArchiveError::Invalid(format!(
                "it has {length} bytes, and at most {MAX_INDEX} are read"
            )));
        }
        let text = exactly(&mut reader, length)?;
        let index: Index = serde_json::from_slice(&text).map_err(ArchiveError::Index)?;
        check(&index)?;
        Ok(Self {
            plugins: index.plugins.into_iter(),
            rest: reader,
        })
    }

    /// The next plugin with its file, whose digest is right; `None` after the last, behind which nothing is left.
    ///
    /// # Errors
    /// When the archive is cut off, has more than it should, or a file was changed.
    pub(crate) fn next(&mut self) -> Result<Option<(Saved, Vec<u8>)>, ArchiveError> {
        let Some(saved) = self.plugins.next() else {
            return if self.rest.fill_buf()?.is_empty() {
                Ok(None)
            } else {
                Err(ArchiveError::More)
            };
        };
        let file = exactly(&mut self.rest, saved.size)?;
        if digest(&file) != saved.digest {
            return Err(ArchiveError::Changed(saved.id));
        }
        Ok(Some((saved, file)))
    }
}

/// So many bytes. No more room is taken than has come.
fn exactly(reader: &mut impl Read, length: u64) -> Result<Vec<u8>, ArchiveError> {
    let mut bytes = Vec::new();
    reader.take(length).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == length {
        Ok(bytes)
    } else {
        Err(ArchiveError::Cut)
    }
}

fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Refuses what no plugin has. Texts are shown to people, so that nothing in them may work a terminal.
fn check(index: &Index) -> Result<(), ArchiveError> {
    let invalid = |why: String| Err(ArchiveError::Invalid(why));
    if index.plugins.is_empty() || index.plugins.len() > MAX_PLUGINS {
        return invalid(format!(
            "it has {} plugins, and there are 1 to {MAX_PLUGINS}",
            index.plugins.len()
        ));
    }
    let mut seen = BTreeSet::new();
    for plugin in &index.plugins {
        let is_id = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' || c == '-';
        if plugin.id.is_empty() || plugin.id.len() > 255 || !plugin.id.chars().all(is_id) {
            return invalid("an id has 1 to 255 of a-z, 0-9, . and -".to_owned());
        }
        let id = &plugin.id;
        if !seen.insert(id) {
            return invalid(format!("{id} is in it twice"));
        }
        let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if plugin.digest.len() != 64 || !plugin.digest.bytes().all(is_hex) {
            return invalid(format!("the digest of {id} is none"));
        }
        if plugin.size > MAX_FILE {
            return invalid(format!(
                "{id} has {} bytes, and a plugin at most {MAX_FILE}",
                plugin.size
            ));
        }
        if plugin.signature.as_ref().is_some_and(|text| text.len() > MAX_SIGNATURE) {
            return invalid(format!("the signature of {id} is too long"));
        }
        let texts = [&plugin.version, &plugin.source].into_iter().chain(&plugin.grants);
        let bad = |text: &String| text.len() > MAX_TEXT || text.chars().any(char::is_control);
        if plugin.grants.len() > MAX_GRANTS || texts.into_iter().any(bad) {
            return invalid(format!("what it says of {id} is too much or no plain text"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn saved(id: &str, file: &[u8]) -> (Saved, Vec<u8>) {
        let saved = Saved {
            id: id.to_owned(),
            version: "1.0.0".to_owned(),
            digest: digest(file),
            size: file.len() as u64,
            source: "oci://example.org/x:1".to_owned(),
            signature: Some("x\ny\n".to_owned()),
            grants: vec!["link".to_owned()],
        };
        (saved, file.to_vec())
    }

    fn archive(plugins: &[(Saved, Vec<u8>)]) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out, plugins).expect("written");
        out
    }

    fn read(bytes: &[u8]) -> Result<Vec<(Saved, Vec<u8>)>, ArchiveError> {
        let mut archive = Archive::open(bytes)?;
        let mut all = Vec::new();
        while let Some(next) = archive.next()? {
            all.push(next);
        }
        Ok(all)
    }

    #[test]
    fn what_was_written_is_read() {
        let plugins = [saved("org.example.a", b"one"), saved("org.example.b", b"")];
        assert_eq!(read(&archive(&plugins)).expect("read"), plugins);
    }

    #[test]
    fn what_is_not_as_described_is_refused() {
        let one = saved("org.example.a", b"one");
        let good = archive(std::slice::from_ref(&one));
        let index_of = |text: &str| format!("{MAGIC} {FORMAT} {}\n{text}", text.len()).into_bytes();
        let changed = |change: &dyn Fn(&mut serde_json::Value)| {
            let mut value = serde_json::json!({ "plugins": [one.0] });
            change(&mut value);
            [index_of(&value.to_string()), b"one".to_vec()].concat()
        };
        for (bytes, why) in [
            (Vec::new(), "no archive"),
            (b"PK\x03\x04".to_vec(), "no archive"),
            (b"hutch-plugins 2 10\n".to_vec(), "has format 2"),
            (b"hutch-plugins one 10\n".to_vec(), "no archive"),
            (b"hutch-plugins 1 99999999999\n".to_vec(), "at most"),
            (b"hutch-plugins 1 10\n{}".to_vec(), "cut off"),
            (index_of("{"), "can't be read"),
            (index_of(r#"{"plugins":[]}"#), "0 plugins"),
            (index_of(r#"{"plugins":[],"more":1}"#), "can't be read"),
            (good[..good.len() - 1].to_vec(), "cut off"),
            ([&good[..], b"x"].concat(), "more in it"),
            ([&good[..good.len() - 1], b"x"].concat(), "was changed"),
            (changed(&|v| v["plugins"][0]["more"] = 1.into()), "can't be read"),
            (changed(&|v| v["plugins"][0]["id"] = "../x".into()), "an id has"),
            (changed(&|v| v["plugins"][0]["digest"] = "00".into()), "the digest"),
            (changed(&|v| v["plugins"][0]["size"] = (1_u64 << 40).into()), "at most"),
            (
                changed(&|v| v["plugins"][0]["source"] = "a\u{1b}[2J".into()),
                "no plain text",
            ),
            (
                changed(&|v| v["plugins"][0]["grants"] = serde_json::json!(["a\nb"])),
                "no plain text",
            ),
            (
                changed(&|v| v["plugins"][0]["signature"] = "x".repeat(9000).into()),
                "too long",
            ),
            (
                changed(&|v| {
                    let again = v["plugins"][0].clone();
                    v["plugins"] = serde_json::json!([again, again]);
                }),
                "twice",
            ),
        ] {
            let error = read(&bytes).expect_err(why).to_string();
            assert!(error.contains(why), "{why}: {error}");
        }
        let other = Saved {
            digest: digest(b"two"),
            ..one.0
        };
        assert!(write(&mut Vec::new(), &[(other, one.1)]).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_much(head in "(hutch-plugins )?1? ?[0-9]{0,4}\n?", bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&[head.as_bytes(), &bytes].concat());
        }

        #[test]
        fn no_damage_goes_unnoticed(at in any::<prop::sample::Index>(), with in any::<u8>()) {
            let plugins = [saved("org.example.a", b"the first file"), saved("org.example.b", b"the second")];
            let mut bytes = archive(&plugins);
            let at = at.index(bytes.len());
            let before = std::mem::replace(&mut bytes[at], with);
            if let Ok(found) = read(&bytes) {
                // Texts of the index are the writer's to choose; files are what their digests say.
                for ((_, file), (_, written)) in found.iter().zip(&plugins) {
                    prop_assert!(file == written, "{before} became {with} at {at}");
                }
            }
        }
    }
}

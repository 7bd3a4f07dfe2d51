//! Who may sign plugins: publishers' public keys in `plugins/trust.toml`, and the check of a signature against them.
//!
//! Signatures are minisign's (<https://jedisct1.github.io/minisign/#signature-format>): Ed25519 over the file or over its BLAKE2b
//! digest, with the id of the key that made it. A key that was taken out stays in the file as revoked, so that what it signed is
//! refused for that reason, and not for being unknown.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use minisign_verify::{PublicKey, Signature};
use serde::{Deserialize, Serialize};

use crate::registry::{Provenance, now, replace};

/// The version of the file's format.
const FORMAT: u32 = 1;
const FILE: &str = "trust.toml";
/// The largest signature that is read. One has some 300 bytes, with the comments that it carries.
const MAX_SIGNATURE: usize = 8 << 10;
/// Keys in the file.
const MAX_KEYS: usize = 1000;
const MAX_NAME: usize = 128;
/// Bytes of a key and of a signature before the id of the key: the algorithm.
const ALGORITHM: usize = 2;
const ID: usize = 8;

/// Why the keys can't be worked with, or a signature says nothing.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The file of keys can't be worked with.
    #[error("can't use {path}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It can't be read.
    #[error("{path} can't be read: {reason}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where and why.
        reason: String,
    },
    /// What was given is no public key.
    #[error(
        "{0:?} is not a public key of minisign's: that is the second line of its file, 56 characters that begin with RW"
    )]
    Key(String),
    /// It can't be the name of a publisher.
    #[error("{0:?} can't be the name of a publisher: it has 1 to {MAX_NAME} characters, none of them a control")]
    Name(String),
    /// There are too many keys.
    #[error("{MAX_KEYS} keys are trusted or revoked already")]
    Many,
    /// Another key has its id, by which keys are told apart.
    #[error("a key of {publisher} has the id {id} already, and this is another")]
    Taken {
        /// The id.
        id: String,
        /// Whose the other key is.
        publisher: String,
    },
    /// No key of the file is meant.
    #[error("no key is called {0:?}; `hutch plugin trust list` shows them")]
    Unknown(String),
    /// What should be a signature is none.
    #[error("the signature can't be read: {0}")]
    Signature(String),
    /// It was made with a key that nobody trusts.
    #[error(
        "it is signed with the key {0}, which is not trusted here; `hutch plugin trust add` adds a publisher's key"
    )]
    Stranger(String),
    /// It was made with a key that was revoked.
    #[error("it is signed with the key {key} of {publisher}, which was revoked here")]
    Revoked {
        /// The key's id.
        key: String,
        /// Whose it was.
        publisher: String,
    },
    /// It is not of this file.
    #[error("the signature by the key {key} of {publisher} is of another file, or one of both was changed")]
    Mismatch {
        /// The key's id.
        key: String,
        /// Whose it is.
        publisher: String,
    },
}

/// A publisher's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TrustedKey {
    /// The publisher's name, as the operator calls it.
    pub name: String,
    /// The public key, in base64.
    pub key: String,
    /// When it was added, in seconds since 1970-01-01 00:00 UTC.
    pub added: u64,
    /// Whether it was taken out.
    #[serde(default)]
    pub revoked: bool,
}

impl TrustedKey {
    /// The id of the key as minisign prints it: 16 hexadecimal digits.
    pub fn id(&self) -> String {
        key_id(&self.key).unwrap_or_default()
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    format: u32,
    #[serde(default)]
    publisher: Vec<TrustedKey>,
}

/// The publishers' keys.
#[derive(Debug)]
pub(crate) struct Trust {
    path: PathBuf,
    keys: Vec<TrustedKey>,
}

impl Trust {
    /// Reads the keys in `directory`, which exists. Without a file there are none.
    pub(crate) fn open(directory: &Path) -> Result<Self, TrustError> {
        let path = directory.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self { path, keys: Vec::new() });
            }
            Err(source) => return Err(TrustError::Io { path, source }),
        };
        let damaged = |reason: String| TrustError::Damaged {
            path: path.clone(),
            reason,
        };
        let content: Content = toml::from_str(&text).map_err(|error| damaged(error.to_string()))?;
        if content.format != FORMAT {
            return Err(damaged(format!(
                "it has format {}, and this version reads format {FORMAT}",
                content.format
            )));
        }
        for key in &content.publisher {
            check(&key.name, &key.key).map_err(|error| damaged(error.to_string()))?;
        }
        Ok(Self {
            path,
            keys: content.publisher,
        })
    }

    /// All keys, also those that were revoked.
    pub(crate) fn keys(&self) -> &[TrustedKey] {
        &self.keys
    }

    /// Trusts a key; one that was revoked is trusted again. `key` is the public key in base64, or the content of its file. Blocks.
    ///
    /// # Errors
    /// When it is none, or can't be recorded.
    pub(crate) fn add(&mut self, name: &str, key: &str) -> Result<TrustedKey, TrustError> {
        let mut lines = key.lines().map(str::trim);
        let key = lines.rfind(|line| !line.is_empty()).unwrap_or_default();
        check(name, key)?;
        let trusted = TrustedKey {
            name: name.to_owned(),
            key: key.to_owned(),
            added: now(),
            revoked: false,
        };
        let mut keys = self.keys.clone();
        keys.retain(|other| other.key != trusted.key);
        if keys.len() >= MAX_KEYS {
            return Err(TrustError::Many);
        }
        // Whoever makes a key chooses its id, and may choose another publisher's.
        let id = trusted.id();
        if let Some(other) = keys.iter().find(|other| other.id() == id) {
            let publisher = other.name.clone();
            return Err(TrustError::Taken { id, publisher });
        }
        keys.push(trusted.clone());
        self.write(keys)?;
        Ok(trusted)
    }

    /// Revokes the keys whose id or publisher's name is `which`. Blocks.
    ///
    /// # Errors
    /// When there is none that is trusted, or it can't be recorded.
    pub(crate) fn revoke(&mut self, which: &str) -> Result<(), TrustError> {
        let mut keys = self.keys.clone();
        let mut found = false;
        for key in &mut keys {
            if !key.revoked && (key.name == which || key.id().eq_ignore_ascii_case(which)) {
                key.revoked = true;
                found = true;
            }
        }
        if !found {
            return Err(TrustError::Unknown(which.to_owned()));
        }
        self.write(keys)
    }

    /// Whether `signature` is one of `bytes` by a publisher who is trusted, and who that is.
    ///
    /// # Errors
    /// Says what is wrong with the signature, and which key it has.
    pub(crate) fn verify(&self, bytes: &[u8], signature: &str) -> Result<Provenance, TrustError> {
        let unreadable = |why: &dyn std::fmt::Display| TrustError::Signature(why.to_string());
        if signature.len() > MAX_SIGNATURE {
            return Err(unreadable(&format!("it has more than {MAX_SIGNATURE} bytes")));
        }
        let decoded = Signature::decode(signature).map_err(|error| unreadable(&error))?;
        let second = signature.lines().nth(1).unwrap_or_default();
        let key = key_id(second).ok_or_else(|| unreadable(&"it has no key id"))?;
        let mut of_this_id = self.keys.iter().filter(|other| other.id() == key);
        let Some(trusted) = of_this_id.next() else {
            return Err(TrustError::Stranger(key));
        };
        let publisher = trusted.name.clone();
        if trusted.revoked {
            return Err(TrustError::Revoked { key, publisher });
        }
        let public = PublicKey::from_base64(&trusted.key).map_err(|error| unreadable(&error))?;
        // Files signed the old way, as a whole and not by their digest, are as good: they are in memory.
        match public.verify(bytes, &decoded, true) {
            Ok(()) => Ok(Provenance::Signed { publisher, key }),
            Err(_) => Err(TrustError::Mismatch { key, publisher }),
        }
    }

    fn write(&mut self, keys: Vec<TrustedKey>) -> Result<(), TrustError> {
        let content = Content {
            format: FORMAT,
            publisher: keys,
        };
        let text = toml::to_string(&content).map_err(|error| TrustError::Damaged {
            path: self.path.clone(),
            reason: error.to_string(),
        })?;
        replace(&self.path, text.as_bytes(), || ()).map_err(|source| TrustError::Io {
            path: self.path.clone(),
            source,
        })?;
        self.keys = content.publisher;
        Ok(())
    }
}

fn check(name: &str, key: &str) -> Result<(), TrustError> {
    if name.is_empty() || name.chars().count() > MAX_NAME || name.chars().any(char::is_control) {
        return Err(TrustError::Name(name.chars().take(MAX_NAME).collect()));
    }
    let shown = || key.chars().filter(|c| !c.is_control()).take(80).collect();
    if PublicKey::from_base64(key).is_err() || key_id(key).is_none() {
        return Err(TrustError::Key(shown()));
    }
    Ok(())
}

/// The id in a key or signature in base64, which minisign prints as a number of 64 bits, the least significant byte first.
fn key_id(text: &str) -> Option<String> {
    let bytes = STANDARD.decode(text.trim()).ok()?;
    let id: [u8; ID] = bytes.get(ALGORITHM..ALGORITHM + ID)?.try_into().ok()?;
    Some(format!("{:016X}", u64::from_le_bytes(id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Made with Debian's minisign 0.11 of the five bytes `hello`, for these tests.
    const KEY: &str = "RWSNTyQDZnNh2jWkxrkUdJWE4E/atOt6KCbF1PsO1zYFegiEIMBqA96v";
    const KEY_ID: &str = "DA61736603244F8D";
    const SIGNATURE: &str = "untrusted comment: signature from minisign secret key\n\
        RUSNTyQDZnNh2iSyxEaQWs/8CCeUgcU77F3cTcRLrQ4t5TFl/gtWTLJ9gIRlljZEyULd6Bi8KBx0NBl+OU50oYYxfYl+QidtmA0=\n\
        trusted comment: version 1\n\
        GQ9NXc1/Uf/uQZA5PC8tH6Cz+OQf44ZYaF7LBaB2qHa/UbcNCqOGmxuVQcCZlkFBtA7lOmFmMsef/IazUGeqBQ==\n";
    const OLD_SIGNATURE: &str = "untrusted comment: signature from minisign secret key\n\
        RWSNTyQDZnNh2hj0+V7Ys7YTNL5rghdHyolQiA/gZdvD9TjBKfE4/2QhTDyErsu4XfGFwMkHDABOv9Oc7remGL4weJwVP/+luwE=\n\
        trusted comment: version 1\n\
        kmDwaxU4tZHCMg5Y6oGtsC1dxvEo7k6SyfzChzu+mhqsRyIn667FsI6q1z7x72rC1xh9LXnleVS9YycjY2pGDQ==\n";

    fn trust() -> (tempfile::TempDir, Trust) {
        let directory = tempfile::tempdir().expect("a directory");
        let trust = Trust::open(directory.path()).expect("none yet");
        (directory, trust)
    }

    #[test]
    fn what_minisign_signed_is_known_by_its_publisher() {
        let (directory, mut trust) = trust();
        let refusal = trust.verify(b"hello", SIGNATURE).expect_err("nobody is trusted");
        assert!(refusal.to_string().contains(KEY_ID), "{refusal}");
        let added = trust
            .add("example", &format!("untrusted comment: x\n{KEY}\n"))
            .expect("a key");
        assert_eq!(added.id(), KEY_ID);
        let trust = Trust::open(directory.path()).expect("written");
        let signed = Provenance::Signed {
            publisher: "example".to_owned(),
            key: KEY_ID.to_owned(),
        };
        assert_eq!(trust.verify(b"hello", SIGNATURE).expect("signed"), signed);
        assert_eq!(
            trust.verify(b"hello", OLD_SIGNATURE).expect("signed the old way"),
            signed
        );
        let refusal = trust.verify(b"hallo", SIGNATURE).expect_err("another file");
        assert!(matches!(refusal, TrustError::Mismatch { .. }), "{refusal}");
        // The trusted comment is signed, too.
        let changed = SIGNATURE.replace("trusted comment: ", "trusted comment: x");
        let refusal = trust.verify(b"hello", &changed).expect_err("changed");
        assert!(matches!(refusal, TrustError::Mismatch { .. }), "{refusal}");
    }

    #[test]
    fn a_revoked_key_is_remembered() {
        let (directory, mut trust) = trust();
        trust.add("example", KEY).expect("a key");
        assert!(matches!(trust.revoke("other"), Err(TrustError::Unknown(_))));
        trust.revoke(&KEY_ID.to_lowercase()).expect("by its id");
        let mut trust = Trust::open(directory.path()).expect("written");
        let refusal = trust.verify(b"hello", SIGNATURE).expect_err("revoked");
        assert!(refusal.to_string().contains("which was revoked"), "{refusal}");
        assert!(matches!(trust.revoke("example"), Err(TrustError::Unknown(_))));
        trust.add("again", KEY).expect("a key");
        assert_eq!(trust.keys().len(), 1);
        assert!(trust.verify(b"hello", SIGNATURE).is_ok());
    }

    #[test]
    fn no_two_keys_have_one_id() {
        let (_directory, mut trust) = trust();
        trust.add("example", KEY).expect("a key");
        let mut other = STANDARD.decode(KEY).expect("base64");
        *other.last_mut().expect("it has bytes") ^= 1;
        let refusal = trust
            .add("other", &STANDARD.encode(other))
            .expect_err("the id is taken");
        assert!(
            matches!(&refusal, TrustError::Taken { id, publisher } if id == KEY_ID && publisher == "example"),
            "{refusal}"
        );
        trust.add("renamed", KEY).expect("the same key");
        assert_eq!(trust.keys().len(), 1);
    }

    #[test]
    fn what_is_no_key_and_no_signature_is_refused() {
        let (directory, mut trust) = trust();
        for key in ["", "RWQ", "hello", &KEY[1..], &KEY.replace("RW", "XX")] {
            assert!(matches!(trust.add("x", key), Err(TrustError::Key(_))), "{key}");
        }
        for name in ["", "a\nb", &"x".repeat(MAX_NAME + 1)] {
            assert!(matches!(trust.add(name, KEY), Err(TrustError::Name(_))), "{name}");
        }
        for signature in ["", "x\ny\nz\n", &SIGNATURE[..80], &"x".repeat(MAX_SIGNATURE + 1)] {
            let refusal = trust.verify(b"hello", signature).expect_err(signature);
            assert!(matches!(refusal, TrustError::Signature(_)), "{refusal}");
        }
        for text in [
            "format = 2",
            "format = 1\nmore = 1",
            "x",
            "format = 1\n[[publisher]]\nname = \"x\"\nkey = \"y\"\nadded = 1",
        ] {
            std::fs::write(directory.path().join(FILE), text).expect("written");
            assert!(Trust::open(directory.path()).is_err(), "{text}");
        }
    }
}

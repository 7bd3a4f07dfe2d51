//! Plugins in OCI registries: how one is named there, and how it lies there.
//!
//! A plugin is a Wasm artifact as the CNCF lays them out
//! (<https://tag-runtime.cncf.io/wgs/wasm/deliverables/wasm-oci-artifact/>): an image manifest of the OCI, whose config has the type
//! [`CONFIG_TYPE`] and whose one layer, of the type [`LAYER_TYPE`], is the file as it is. Any tool that takes such artifacts takes it.
//! The publisher's signature of the file, as minisign writes it, is the manifest's annotation [`SIGNATURE`]: who does not know it
//! ignores it, and it is copied from registry to registry with the manifest.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::Deserialize;

use crate::binary::MAX_FILE;

/// The type of a manifest (OCI image specification, `manifest.md`).
pub const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// The type of the config.
pub const CONFIG_TYPE: &str = "application/vnd.wasm.config.v0+json";
/// The type of the layer.
pub const LAYER_TYPE: &str = "application/wasm";
/// The annotation that has the signature.
pub const SIGNATURE: &str = "org.hutch.plugin.signature";
/// The largest manifest that is read, in bytes: one has about two thousand. A registry need not keep larger ones than 4 MiB (OCI
/// distribution specification, "Pushing Manifests").
pub const MAX_MANIFEST: u64 = 256 << 10;

/// How an address begins.
const SCHEME: &str = "oci://";
/// The longest name of a repository, with the registry's (OCI distribution specification, "Pulling manifests").
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;
/// Members of a list or map of a manifest that are looked at.
const MAX_MEMBERS: usize = 64;

/// Why an address names no plugin in a registry, or what lies there is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OciError {
    /// It is no address of the kind.
    #[error("{0:?} is not an address in a registry such as oci://registry.example.org/drivers/thing:1.0.0: {1}")]
    Address(String, &'static str),
    /// It can't be read as a manifest.
    #[error("the registry's manifest can't be read: {0}")]
    Syntax(String),
    /// It is the manifest of something else.
    #[error("what the registry has there is no plugin: {0}")]
    Other(String),
}

/// Where in a registry something is: `oci://HOST[:PORT]/NAME[:TAG][@sha256:DIGEST]`, with at least one of tag and digest. Where both
/// are there the digest counts, and the tag is for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    registry: String,
    name: String,
    tag: Option<String>,
    digest: Option<String>,
}

impl Reference {
    /// Whether `text` is meant to be an address in a registry.
    pub fn is_meant(text: &str) -> bool {
        text.starts_with(SCHEME)
    }

    /// The registry's host, with its port if it has one.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The tag.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// SHA-256 of the manifest in lower-case hexadecimal.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// The same, pinned to the manifest with this SHA-256.
    #[must_use]
    pub fn pinned(&self, digest: &str) -> Self {
        Self {
            digest: Some(digest.to_owned()),
            ..self.clone()
        }
    }

    /// What the registry's manifest is asked for by: the digest, if there is one, or else the tag.
    pub fn key(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => format!("sha256:{digest}"),
            (None, tag) => tag.clone().unwrap_or_default(),
        }
    }

    /// Whether the registry is on this machine, by its address or by the name `localhost`.
    pub fn is_local(&self) -> bool {
        let host = host_of(&self.registry);
        let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }
}

impl FromStr for Reference {
    type Err = OciError;

    fn from_str(text: &str) -> Result<Self, OciError> {
        let shown = || text.chars().filter(|c| !c.is_control()).take(300).collect();
        let wrong = |why| OciError::Address(shown(), why);
        let rest = text
            .strip_prefix(SCHEME)
            .ok_or_else(|| wrong("it begins with oci://"))?;
        let (registry, rest) = rest
            .split_once('/')
            .ok_or_else(|| wrong("the registry's host is followed by a slash and a name"))?;
        if !is_registry(registry) {
            return Err(wrong(
                "the registry is a host's name or address, with a port if need be",
            ));
        }
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => {
                let digest = digest.strip_prefix("sha256:").filter(|digest| is_sha256(digest));
                let digest =
                    digest.ok_or_else(|| wrong("a digest is sha256: and 64 hexadecimal digits in lower case"))?;
                (rest, Some(digest.to_owned()))
            }
            None => (rest, None),
        };
        let (name, tag) = match rest.split_once(':') {
            Some((name, tag)) => (name, Some(tag.to_owned())),
            None => (rest, None),
        };
        if registry.len() + 1 + name.len() > MAX_NAME || !name.split('/').all(is_component) {
            return Err(wrong(
                "a name has parts of a-z, 0-9 and . _ - between them, at most 255 characters",
            ));
        }
        if tag.as_deref().is_some_and(|tag| !is_tag(tag)) {
            return Err(wrong(
                "a tag has at most 128 letters, digits and . _ -, and begins with no . or -",
            ));
        }
        if tag.is_none() && digest.is_none() {
            return Err(wrong("it says neither which tag nor which digest is meant"));
        }
        Ok(Self {
            registry: registry.to_owned(),
            name: name.to_owned(),
            tag,
            digest,
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.registry, self.name)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@sha256:{digest}")?;
        }
        Ok(())
    }
}

/// The host of `HOST[:PORT]`.
fn host_of(registry: &str) -> &str {
    match registry.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => registry,
    }
}

fn is_registry(registry: &str) -> bool {
    let host = host_of(registry);
    if let Some(port) = registry.strip_prefix(host).and_then(|rest| rest.strip_prefix(':'))
        && port.parse::<u16>().is_err()
    {
        return false;
    }
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.len() <= 253 && host.split('.').all(label)
}

/// One part of a repository's name: `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
fn is_component(part: &str) -> bool {
    let separator =
        |text: &str| matches!(text, "." | "_" | "__") || !text.is_empty() && text.bytes().all(|b| b == b'-');
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    part.starts_with(is_word)
        && part.ends_with(is_word)
        && part.split(is_word).filter(|between| !between.is_empty()).all(separator)
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// What a manifest says of a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// SHA-256 of the plugin's file in lower-case hexadecimal.
    pub digest: String,
    /// Its size in bytes.
    pub size: u64,
    /// The publisher's signature of it.
    pub signature: Option<String>,
}

// Another's format, whose unknown members are to be ignored (OCI image specification, "Extensibility").
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    media_type: Option<String>,
    config: Descriptor,
    layers: Vec<Descriptor>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
}

impl Artifact {
    /// Reads a manifest that a registry answered with.
    ///
    /// # Errors
    /// When it is none, or that of something else than a plugin that this host would take.
    pub fn parse(manifest: &[u8]) -> Result<Self, OciError> {
        let other = |why: &str| OciError::Other(why.to_owned());
        if manifest.len() as u64 > MAX_MANIFEST {
            return Err(other("its manifest is larger than a plugin's"));
        }
        let manifest: Manifest =
            serde_json::from_slice(manifest).map_err(|error| OciError::Syntax(error.to_string()))?;
        if manifest.schema_version != 2 || manifest.media_type.is_some_and(|kind| kind != MANIFEST_TYPE) {
            return Err(other("its manifest is not an image manifest of the OCI"));
        }
        if manifest.config.media_type != CONFIG_TYPE {
            let kind = clean(&manifest.config.media_type);
            return Err(OciError::Other(format!(
                "its config has the type {kind:?} and not {CONFIG_TYPE}"
            )));
        }
        let [layer] = manifest.layers.as_slice() else {
            return Err(OciError::Other(format!(
                "it has {} layers and not one",
                manifest.layers.len()
            )));
        };
        if layer.media_type != LAYER_TYPE {
            let kind = clean(&layer.media_type);
            return Err(OciError::Other(format!(
                "its layer has the type {kind:?} and not {LAYER_TYPE}"
            )));
        }
        let digest = layer.digest.strip_prefix("sha256:").filter(|digest| is_sha256(digest));
        let digest = digest.ok_or_else(|| other("its layer is not named by a SHA-256 digest"))?;
        if layer.size > MAX_FILE {
            return Err(OciError::Other(format!(
                "its layer has {} bytes, and a plugin has at most {MAX_FILE}",
                layer.size
            )));
        }
        if manifest.annotations.len() > MAX_MEMBERS {
            return Err(other("it has more annotations than a plugin"));
        }
        Ok(Self {
            digest: digest.to_owned(),
            size: layer.size,
            signature: manifest.annotations.get(SIGNATURE).cloned(),
        })
    }
}

/// The beginning of a text from outside, for a message.
fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(100).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SUM: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn an_address_says_where_what_is() {
        for (text, registry, name, key, local) in [
            ("oci://example.org/a:1", "example.org", "a", "1", false),
            (
                "oci://127.0.0.1:5000/a/b-c__d.e:v1.0",
                "127.0.0.1:5000",
                "a/b-c__d.e",
                "v1.0",
                true,
            ),
            ("oci://[::1]:5000/a:latest", "[::1]:5000", "a", "latest", true),
            ("oci://localhost/a:x_", "localhost", "a", "x_", true),
            (
                "oci://127.0.0.1.example.org/a:x",
                "127.0.0.1.example.org",
                "a",
                "x",
                false,
            ),
        ] {
            let reference: Reference = text.parse().expect(text);
            assert_eq!((reference.registry(), reference.name()), (registry, name));
            assert_eq!((reference.key().as_str(), reference.is_local()), (key, local), "{text}");
            assert_eq!(reference.to_string(), text);
            let pinned = reference.pinned(SUM);
            assert_eq!(pinned.key(), format!("sha256:{SUM}"));
            assert_eq!(pinned.to_string().parse(), Ok(pinned));
        }
        for text in [
            "oci://example.org/a",
            "oci://example.org/:1",
            "oci://example.org:1",
            "oci:///a:1",
            "oci://user@example.org/a:1",
            "oci://example.org:70000/a:1",
            "oci://example.org:/a:1",
            "oci://-x.org/a:1",
            "oci://example.org/A:1",
            "oci://example.org/a//b:1",
            "oci://example.org/../a:1",
            "oci://example.org/a___b:1",
            "oci://example.org/a:1/2",
            "oci://example.org/a:.x",
            "oci://example.org/a?x=1:1",
            "oci://example.org/a@sha256:00",
            "oci://example.org/a@md5:00",
            "https://example.org/a:1",
            &format!("oci://example.org/{}:1", "a".repeat(250)),
            &format!("oci://example.org/a:{}", "a".repeat(129)),
            &format!("oci://example.org/a@sha256:{}", SUM.to_uppercase()),
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }

    fn manifest(change: impl FnOnce(&mut serde_json::Value)) -> Result<Artifact, OciError> {
        let mut value = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": { "mediaType": CONFIG_TYPE, "digest": format!("sha256:{SUM}"), "size": 2 },
            "layers": [{ "mediaType": LAYER_TYPE, "digest": format!("sha256:{SUM}"), "size": 7, "urls": [] }],
            "annotations": { SIGNATURE: "x" },
            "subject": {},
        });
        change(&mut value);
        Artifact::parse(value.to_string().as_bytes())
    }

    #[test]
    fn only_a_plugin_s_manifest_is_taken() {
        let artifact = manifest(|_| ()).expect("a plugin");
        assert_eq!((artifact.digest.as_str(), artifact.size), (SUM, 7));
        assert_eq!(artifact.signature.as_deref(), Some("x"));
        for (path, value, why) in [
            ("/schemaVersion", serde_json::json!(1), "image manifest"),
            (
                "/mediaType",
                serde_json::json!("application/vnd.oci.image.index.v1+json"),
                "image manifest",
            ),
            (
                "/config/mediaType",
                serde_json::json!("application/vnd.oci.image.config.v1+json"),
                "config",
            ),
            ("/layers", serde_json::json!([]), "0 layers"),
            (
                "/layers/0/mediaType",
                serde_json::json!("application/vnd.oci.image.layer.v1.tar"),
                "layer",
            ),
            ("/layers/0/digest", serde_json::json!("sha512:00"), "SHA-256"),
            ("/layers/0/digest", serde_json::json!("sha256:../../x"), "SHA-256"),
            ("/layers/0/size", serde_json::json!(MAX_FILE + 1), "at most"),
            ("/layers/0/size", serde_json::json!(-1), "can't be read"),
            ("/annotations", serde_json::json!({ "a": 1 }), "can't be read"),
        ] {
            let refusal = manifest(|manifest| *manifest.pointer_mut(path).expect(path) = value);
            let refusal = refusal.expect_err(path).to_string();
            assert!(refusal.contains(why), "{path}: {refusal}");
        }
        let large = vec![b' '; usize::try_from(MAX_MANIFEST).expect("small") + 1];
        assert!(Artifact::parse(&large).is_err());
    }

    proptest! {
        #[test]
        fn whatever_is_taken_for_an_address_is_written_as_it_was(text in "oci://[a-z0-9.:\\[\\]-]{0,20}/[ -~]{0,40}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string(), text);
                prop_assert!(!reference.name().contains(['?', '#', '%', '@', ':', '\\']) && !reference.name().contains(".."));
            }
        }

        #[test]
        fn no_answer_of_a_registry_is_too_much(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Artifact::parse(&bytes);
        }

        #[test]
        fn no_damage_to_a_manifest_is_too_much(at in 0_usize..400, with in any::<u8>()) {
            let text = serde_json::json!({
                "schemaVersion": 2,
                "config": { "mediaType": CONFIG_TYPE, "digest": "", "size": 2 },
                "layers": [{ "mediaType": LAYER_TYPE, "digest": format!("sha256:{SUM}"), "size": 7 }],
            });
            let mut bytes = text.to_string().into_bytes();
            let at = at % bytes.len();
            bytes[at] = with;
            if let Ok(artifact) = Artifact::parse(&bytes) {
                prop_assert!(is_sha256(&artifact.digest) && artifact.size <= MAX_FILE);
            }
        }
    }
}

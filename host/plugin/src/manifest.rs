//! The manifest: what a plugin says of itself, embedded in its file as the custom section `hutch:manifest`.
//!
//! It is TOML, its format has a version of its own, and it is read as hostile input: its size is bounded before it is
//! parsed, unknown fields are refused, and every name has a shape that is safe in a path, a table name and a log line.

use std::collections::BTreeMap;
use std::time::Duration;

use hutch_broker::Permissions;
use serde::{Deserialize, Serialize};

use crate::schema::Schema;
use crate::units::{Bytes, Span};
use crate::versions::{self, FAMILIES, Fit};

/// The name of the custom section that holds the manifest.
pub const SECTION: &str = "hutch:manifest";
/// The version of the manifest's format that this host reads.
pub const FORMAT: u32 = 1;
/// The largest manifest, in bytes.
pub const MAX_BYTES: usize = 64 * 1024;

/// Names that one plugin may provide.
const MAX_NAMES: usize = 16;
const MAX_ID: usize = 128;
const MAX_TEXT: usize = 1024;

/// Why a manifest was refused.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It is longer than [`MAX_BYTES`].
    #[error("the manifest has {0} bytes, and {MAX_BYTES} are allowed")]
    TooLarge(usize),
    /// It is not text.
    #[error("the manifest is not UTF-8")]
    NotText(#[source] std::str::Utf8Error),
    /// It is not TOML, or has fields that the format has not, or lacks some.
    #[error("the manifest can't be read")]
    Syntax(#[source] Box<toml::de::Error>),
    /// It has another format than [`FORMAT`].
    #[error("the manifest has format {0}, and this host reads format {FORMAT}")]
    Format(u32),
    /// A field's value is out of its bounds.
    #[error("the manifest's field {field} is not valid: {reason}")]
    Field {
        /// The field, with its table.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

/// A manifest as it was written, checked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Manifest {
    /// The version of the manifest's format.
    pub manifest: u32,
    /// Reverse DNS: who this is, for grants, logs and errors. The same through all versions of the plugin.
    pub id: String,
    /// A semantic version.
    pub version: String,
    /// An SPDX expression.
    pub license: String,
    /// One line for people.
    #[serde(default)]
    pub description: String,
    /// The WIT package that it implements and the version, such as `hutch:storage@0.1.0`.
    pub world: String,
    /// Where the operator has not ordered plugins, those with a larger number come first, so that among the plugins that
    /// come with the daemon one is the default.
    #[serde(default)]
    pub prefer: u8,
    /// Names by family that configuration can select the plugin by.
    pub provides: BTreeMap<String, Vec<String>>,
    /// What it wants to be allowed. Nothing by default.
    #[serde(default)]
    pub permissions: Permissions,
    /// Bounds on what it uses.
    #[serde(default)]
    pub limits: Limits,
    /// The operator's settings for the plugin as a whole.
    #[serde(default)]
    pub config: Section,
    /// The options of an object: of a pool, a network or an image request.
    #[serde(default)]
    pub options: Section,
}

/// A table that describes settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Section {
    /// A JSON Schema of the settings. Without one, none are accepted by the host for `config`, and the plugin's own check
    /// alone decides for `options`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<Schema>,
}

/// Bounds on one plugin. What the manifest leaves out has a default, and nothing exceeds the caps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Limits {
    /// Linear memory of one instance.
    pub memory: Bytes,
    /// A whole call, with the host functions that it waits for.
    pub call_timeout: Span,
    /// The guest's own running time within a call.
    pub cpu_time: Span,
    /// Calls at once.
    pub concurrency: u32,
    /// Keys and values in the plugin's store.
    pub kv_bytes: Bytes,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: Bytes(16 << 20),
            call_timeout: Span(Duration::from_secs(60)),
            cpu_time: Span(Duration::from_secs(5)),
            concurrency: 8,
            kv_bytes: Bytes(1 << 20),
        }
    }
}

impl Limits {
    /// The most that a manifest may ask for.
    pub const CAPS: Self = Self {
        memory: Bytes(64 << 20),
        call_timeout: Span(Duration::from_secs(7200)),
        cpu_time: Span(Duration::from_secs(60)),
        concurrency: 32,
        kv_bytes: Bytes(64 << 20),
    };

    fn check(&self) -> Result<(), ManifestError> {
        let caps = Self::CAPS;
        if self.memory.0 < 1 << 16 || self.memory > caps.memory {
            return Err(field("limits.memory", "it must be between 64KiB and 64MiB"));
        }
        if self.call_timeout.0 < Duration::from_millis(100) || self.call_timeout > caps.call_timeout {
            return Err(field("limits.call-timeout", "it must be between 100ms and 2h"));
        }
        if self.cpu_time.0 < Duration::from_millis(20) || self.cpu_time > caps.cpu_time {
            return Err(field("limits.cpu-time", "it must be between 20ms and 60s"));
        }
        if self.concurrency == 0 || self.concurrency > caps.concurrency {
            return Err(field("limits.concurrency", "it must be between 1 and 32"));
        }
        if self.kv_bytes > caps.kv_bytes {
            return Err(field("limits.kv-bytes", "it must be at most 64MiB"));
        }
        Ok(())
    }
}

impl Manifest {
    /// Reads and checks the content of the custom section.
    ///
    /// # Errors
    /// Says the first thing that is wrong with it.
    pub fn parse(section: &[u8]) -> Result<Self, ManifestError> {
        if section.len() > MAX_BYTES {
            return Err(ManifestError::TooLarge(section.len()));
        }
        let text = std::str::from_utf8(section).map_err(ManifestError::NotText)?;
        // The format's version comes first, so that a newer manifest is refused for being newer and not for the first
        // field that this host doesn't know.
        let table: toml::Table = text.parse().map_err(syntax)?;
        match table.get("manifest").and_then(toml::Value::as_integer) {
            Some(version) if version == i64::from(FORMAT) => {}
            Some(version) => return Err(ManifestError::Format(u32::try_from(version).unwrap_or(u32::MAX))),
            None => {
                return Err(field(
                    "manifest",
                    "the version of the format is missing; this host reads format 1",
                ));
            }
        }
        let manifest: Self = toml::from_str(text).map_err(syntax)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The driver family that the plugin belongs to: `storage`, `network`, `zone` or `image`.
    pub fn family(&self) -> &'static str {
        parse_world(&self.world).map_or("", |(family, _)| family)
    }

    /// The names that the plugin provides in its family.
    pub fn names(&self) -> &[String] {
        self.provides.get(self.family()).map_or(&[], Vec::as_slice)
    }

    fn check(&self) -> Result<(), ManifestError> {
        check_id(&self.id)?;
        if !is_semver(&self.version) {
            return Err(field("version", "it must be a semantic version such as 1.2.3"));
        }
        if self.license.is_empty() || !printable(&self.license) {
            return Err(field("license", "it must be an SPDX expression such as Apache-2.0"));
        }
        if !printable(&self.description) {
            return Err(field("description", "it must be one line of at most 1024 bytes"));
        }
        let (family, version) = parse_world(&self.world).ok_or_else(|| {
            field(
                "world",
                "it must name a family and its version, one of hutch:storage, hutch:network, hutch:zone, hutch:image",
            )
        })?;
        let ours = versions::of_family(family);
        let fit = versions::fit(version, ours);
        if fit != Fit::Fits {
            let (world, advice) = (&self.world, fit.advice());
            let reason = format!("it is {world}, and this host speaks hutch:{family}@{ours}: {advice}");
            return Err(field("world", reason));
        }
        self.check_names(family)?;
        self.permissions
            .validate()
            .map_err(|reason| field("permissions", reason))?;
        self.limits.check()?;
        for (at, section) in [("config.schema", &self.config), ("options.schema", &self.options)] {
            if let Some(schema) = &section.schema {
                schema.check().map_err(|reason| field(at, reason))?;
            }
        }
        Ok(())
    }

    fn check_names(&self, family: &str) -> Result<(), ManifestError> {
        if self.provides.keys().any(|key| key != family) {
            return Err(field(
                "provides",
                format!("a plugin of the world {} provides {family} only", self.world),
            ));
        }
        let names = self.names();
        if names.is_empty() || names.len() > MAX_NAMES {
            return Err(field(
                "provides",
                format!("{family} must list between 1 and {MAX_NAMES} names"),
            ));
        }
        for (i, name) in names.iter().enumerate() {
            if !is_driver_name(name) {
                return Err(field(
                    "provides",
                    "a name is a letter and at most 31 more of a-z, 0-9 and -",
                ));
            }
            if names[..i].contains(name) {
                return Err(field("provides", format!("{name} is listed twice")));
            }
        }
        Ok(())
    }
}

fn syntax(error: toml::de::Error) -> ManifestError {
    ManifestError::Syntax(Box::new(error))
}

fn field(field: &'static str, reason: impl Into<String>) -> ManifestError {
    ManifestError::Field {
        field,
        reason: reason.into(),
    }
}

/// Splits `hutch:storage@0.1.0` into the family and the version.
fn parse_world(world: &str) -> Option<(&'static str, &str)> {
    let (name, version) = world.strip_prefix("hutch:")?.split_once('@')?;
    let family = FAMILIES.iter().find(|(family, _)| *family == name)?.0;
    is_semver(version).then_some((family, version))
}

/// Reverse DNS: at least three labels as RFC 1035 section 2.3.1 has them, in lower case, so that an id is safe as a
/// directory's name and a log target.
fn check_id(id: &str) -> Result<(), ManifestError> {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if id.len() > MAX_ID || id.split('.').count() < 3 || !id.split('.').all(label) {
        return Err(field(
            "id",
            format!("it must be a reversed domain name such as org.example.name, lower-case, at most {MAX_ID} bytes"),
        ));
    }
    Ok(())
}

/// `MAJOR.MINOR.PATCH` with an optional pre-release, as `SemVer` 2.0.0 has it, without build metadata.
fn is_semver(version: &str) -> bool {
    let (numbers, pre) = version.split_once('-').map_or((version, None), |(n, p)| (n, Some(p)));
    let number = |n: &str| {
        !n.is_empty() && n.len() <= 9 && n.bytes().all(|b| b.is_ascii_digit()) && (n == "0" || !n.starts_with('0'))
    };
    let identifier =
        |i: &str| !i.is_empty() && i.len() <= 64 && i.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    numbers.split('.').count() == 3
        && numbers.split('.').all(number)
        && pre.is_none_or(|p| p.len() <= 64 && p.split('.').all(identifier))
}

/// Whether `name` can be a driver's name.
pub(crate) fn is_driver_name(name: &str) -> bool {
    name.len() <= 32
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn printable(text: &str) -> bool {
    text.len() <= MAX_TEXT && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        manifest = 1
        id = "org.example.storage.thing"
        version = "1.2.3-rc.1"
        license = "Apache-2.0"
        world = "hutch:storage@0.1.0"
        [provides]
        storage = ["thing", "other-thing"]
        [limits]
        memory = "8MiB"
        call-timeout = "10m"
    "#;

    fn with(old: &str, new: &str) -> Result<Manifest, ManifestError> {
        assert!(GOOD.contains(old), "{old}");
        Manifest::parse(GOOD.replace(old, new).as_bytes())
    }

    fn refusal(old: &str, new: &str) -> String {
        let error = with(old, new).expect_err(new);
        std::iter::successors(Some(&error as &dyn std::error::Error), |e| e.source())
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(": ")
    }

    #[test]
    fn a_manifest_is_read_with_its_defaults() {
        let manifest = Manifest::parse(GOOD.as_bytes()).expect("valid");
        assert_eq!(manifest.family(), "storage");
        assert_eq!(manifest.names(), ["thing", "other-thing"]);
        assert_eq!(manifest.limits.memory, Bytes(8 << 20));
        assert_eq!(manifest.limits.call_timeout, Span(Duration::from_secs(600)));
        assert_eq!(manifest.limits.concurrency, 8);
        assert_eq!(manifest.permissions, Permissions::default());
    }

    #[test]
    fn refusals_name_the_field() {
        for (old, new, expected) in [
            ("manifest = 1", "manifest = 2", "format 2"),
            ("manifest = 1", "", "version of the format is missing"),
            ("org.example.storage.thing", "../../etc", "field id"),
            ("org.example.storage.thing", "Org.Example.Thing", "field id"),
            ("1.2.3-rc.1", "01.2.3", "field version"),
            ("1.2.3-rc.1", "1.2", "field version"),
            (
                "hutch:storage@0.1.0",
                "hutch:storage@0.2.0",
                "is hutch:storage@0.2.0, and this host speaks hutch:storage@0.1.0: use",
            ),
            (
                "hutch:storage@0.1.0",
                "hutch:storage@0.1.1",
                "this host speaks hutch:storage@0.1.0: it was built for a newer host",
            ),
            (
                "hutch:storage@0.1.0",
                "hutch:storage@0.1.0-rc.1",
                "this host speaks hutch:storage@0.1.0",
            ),
            ("hutch:storage@0.1.0", "hutch:coffee@0.1.0", "field world"),
            (
                "storage = [\"thing\", \"other-thing\"]",
                "network = [\"thing\"]",
                "provides storage only",
            ),
            ("\"thing\", \"other-thing\"", "\"thing\", \"thing\"", "listed twice"),
            ("\"thing\", \"other-thing\"", "\"a/b\"", "field provides"),
            ("\"thing\", \"other-thing\"", "", "between 1 and 16"),
            ("8MiB", "65MiB", "limits.memory"),
            ("8MiB", "-1", "expected a size"),
            ("10m", "3h", "limits.call-timeout"),
            ("[limits]", "[limits]\nspeed = 3", "unknown field"),
            ("manifest = 1", "manifest = 1\nsurprise = true", "unknown field"),
        ] {
            let message = refusal(old, new);
            assert!(message.contains(expected), "{new}: {message}");
        }
    }

    #[test]
    fn size_and_encoding_are_bounded() {
        assert!(matches!(
            Manifest::parse(&vec![b'#'; MAX_BYTES + 1]),
            Err(ManifestError::TooLarge(_))
        ));
        assert!(matches!(Manifest::parse(&[0xff, 0xfe]), Err(ManifestError::NotText(_))));
        // Nesting must not exhaust the stack.
        let deep = format!("manifest = 1\nx = {}", "[".repeat(30_000));
        assert!(Manifest::parse(deep.as_bytes()).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..600)) {
            let _ = Manifest::parse(&bytes);
        }

        #[test]
        fn any_change_of_a_good_one_is_answered(at in 0..GOOD.len(), with in "[ -~\n]{0,8}") {
            let mut text = GOOD.to_owned();
            text.insert_str(at, &with);
            if let Ok(manifest) = Manifest::parse(text.as_bytes()) {
                proptest::prop_assert!(manifest.check().is_ok());
                proptest::prop_assert!(!manifest.id.contains('/'));
            }
        }
    }
}

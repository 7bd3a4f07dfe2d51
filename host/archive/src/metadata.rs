//! `metadata.yaml`: what an image says of itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The name of the file in an archive.
pub const METADATA_FILE: &str = "metadata.yaml";
/// The directory in an archive that holds the templates.
pub const TEMPLATES_DIR: &str = "templates";
/// The directory of a unified archive that holds the root file system.
pub const ROOTFS_DIR: &str = "rootfs";

/// The content of `metadata.yaml`, as LXD and Incus document it under "Image format". Unknown fields are ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageMetadata {
    /// The kernel's name of the architecture: `x86_64`, `aarch64`. Distributions' names (`amd64`) occur, too.
    pub architecture: String,
    /// Seconds since 1970.
    pub creation_date: i64,
    /// Seconds since 1970; 0 for never.
    #[serde(default)]
    pub expiry_date: i64,
    /// For people: `os`, `release`, `description`, …
    #[serde(default, deserialize_with = "null_is_default")]
    pub properties: BTreeMap<String, String>,
    /// Files that are made from templates, by their absolute path in the container.
    #[serde(default, deserialize_with = "null_is_default")]
    pub templates: BTreeMap<String, Template>,
}

/// A file of the container that is made from a template.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Template {
    /// When it is made: `create`, `copy`, `start`, `rename`.
    #[serde(default, deserialize_with = "null_is_default")]
    pub when: Vec<String>,
    /// The template's file name in `templates/`.
    #[serde(default)]
    pub template: String,
    /// Only where the container does not have the file yet.
    #[serde(default)]
    pub create_only: bool,
    /// What the template can use.
    #[serde(default, deserialize_with = "null_is_default")]
    pub properties: BTreeMap<String, String>,
}

/// `key:` with nothing after it is written for an empty map.
fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

impl ImageMetadata {
    /// Parses the file. Aliases, nesting and the number of nodes are bounded, so that small files can't become large.
    pub fn parse(yaml: &[u8]) -> Result<Self> {
        let invalid = |reason: String| Error::Invalid {
            file: METADATA_FILE.to_owned(),
            reason,
        };
        let text = std::str::from_utf8(yaml).map_err(|_| invalid("it is not UTF-8".to_owned()))?;
        let budget = serde_saphyr::budget! {
            max_events: 50_000,
            max_aliases: 64,
            max_anchors: 64,
            max_depth: 16,
            max_documents: 1,
            max_nodes: 20_000,
            max_total_scalar_bytes: 2 << 20,
            max_merge_keys: 16,
        };
        let options = serde_saphyr::options! { budget: budget, with_snippet: false };
        let parsed: Self = serde_saphyr::from_str_with_options(text, options).map_err(|e| invalid(e.to_string()))?;
        parsed.check().map_err(|reason| invalid(reason.to_owned()))?;
        Ok(parsed)
    }

    /// Writes the file.
    pub fn to_yaml(&self) -> Result<String> {
        serde_saphyr::to_string(self).map_err(|e| Error::Invalid {
            file: METADATA_FILE.to_owned(),
            reason: e.to_string(),
        })
    }

    /// Whether an image may say this.
    ///
    /// # Errors
    /// What is missing, or wrong.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.architecture.is_empty() {
            return Err("it names no architecture");
        }
        if self.creation_date <= 0 {
            return Err("it has no creation date");
        }
        for (path, template) in &self.templates {
            if !path.starts_with('/') || path.contains('\0') || path.split('/').any(|c| c == "..") {
                return Err("a template's path is not an absolute path without \"..\"");
            }
            if !is_template_name(&template.template) {
                return Err("a template's file is not a plain name");
            }
        }
        Ok(())
    }
}

/// Whether a template's file name is one plain component.
pub fn is_template_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 255 && !name.contains(['/', '\0']) && name != "." && name != ".."
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "
architecture: \"x86_64\"
creation_date: 1458040200
expiry_date: 1490000000
unknown: [1, 2]
properties:
  os: Debian
  release: 12
  default: true
templates:
  /etc/hostname:
    when: [create, copy]
    template: hostname.tpl
    properties:
  /etc/hosts:
    when:
      - create
    create_only: true
    template: hosts.tpl
    properties: {foo: bar}
";

    #[test]
    fn a_usual_file() {
        let m = ImageMetadata::parse(GOOD.as_bytes()).unwrap();
        assert_eq!(m.architecture, "x86_64");
        assert_eq!((m.creation_date, m.expiry_date), (1_458_040_200, 1_490_000_000));
        assert_eq!(m.properties["release"], "12");
        assert_eq!(m.properties["default"], "true");
        assert_eq!(m.templates["/etc/hostname"].when, ["create", "copy"]);
        assert!(m.templates["/etc/hosts"].create_only);
        assert_eq!(ImageMetadata::parse(m.to_yaml().unwrap().as_bytes()).unwrap(), m);
    }

    #[test]
    fn what_is_missing_is_named() {
        let reason = |yaml: &str| match ImageMetadata::parse(yaml.as_bytes()) {
            Err(Error::Invalid { reason, .. }) => reason,
            other => panic!("not refused: {other:?}"),
        };
        assert!(reason("creation_date: 5\n").contains("architecture"));
        assert!(reason("architecture: ''\ncreation_date: 5\n").contains("architecture"));
        assert!(reason("architecture: x86_64\ncreation_date: 0\n").contains("creation date"));
        let template = |path: &str, file: &str| {
            reason(&format!(
                "architecture: a\ncreation_date: 1\ntemplates: {{\"{path}\": {{template: \"{file}\"}}}}\n"
            ))
        };
        assert!(template("/etc/../../x", "t").contains("absolute"));
        assert!(template("etc/x", "t").contains("absolute"));
        assert!(template("/etc/x", "../t").contains("plain name"));
        assert!(template("/etc/x", "").contains("plain name"));
    }

    #[test]
    fn bombs_do_not_go_off() {
        let mut laughs = String::from("architecture: x\ncreation_date: 1\na0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..40 {
            let refs = vec![format!("*a{}", i - 1); 10].join(", ");
            laughs += &format!("a{i}: &a{i} [{refs}]\n");
        }
        laughs += "properties: {k: v}\n";
        let started = std::time::Instant::now();
        assert!(matches!(
            ImageMetadata::parse(laughs.as_bytes()),
            Err(Error::Invalid { .. })
        ));
        let deep = "[".repeat(200_000);
        assert!(ImageMetadata::parse(deep.as_bytes()).is_err());
        let wide = format!("architecture: x\ncreation_date: 1\nx: [{}]\n", "a,".repeat(400_000));
        assert!(ImageMetadata::parse(wide.as_bytes()).is_err());
        assert!(started.elapsed().as_secs() < 5);
        assert!(ImageMetadata::parse(b"\xff\xfe").is_err());
        assert!(ImageMetadata::parse(b"").is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,200}") {
            let _ = ImageMetadata::parse(text.as_bytes());
        }
    }
}

//! YAML for people to read and edit.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// An object as YAML, in the order of its fields.
pub(crate) fn to_yaml<T: Serialize>(value: &T) -> Result<String> {
    let options = serde_saphyr::ser_options! { folded_wrap_chars: usize::MAX };
    let mut text = serde_saphyr::to_string_with_options(value, options)
        .map_err(|error| Error::io("cannot write YAML", std::io::Error::other(error)))?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// Reads an object from YAML; `what` says where the text came from.
pub(crate) fn from_yaml<T: DeserializeOwned>(text: &str, what: &str) -> Result<T> {
    serde_saphyr::from_str(text).map_err(|error| {
        // The first line says all; those after it draw the place.
        let text = error.to_string();
        let reason = text
            .lines()
            .next()
            .unwrap_or_default()
            .trim_start_matches("error: ")
            .to_owned();
        Error::Yaml {
            what: what.into(),
            reason,
        }
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use hutch_api::profile::ProfilePut;

    use super::*;

    fn profile(pairs: &[(&str, &str)]) -> ProfilePut {
        let config = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        ProfilePut {
            config,
            description: String::new(),
            devices: BTreeMap::new(),
        }
    }

    #[test]
    fn texts_that_look_like_something_else_stay_texts() {
        let profile = profile(&[
            ("a", "true"),
            ("b", "2"),
            ("c", "a: b"),
            ("d", "x\ny\n"),
            ("e", ""),
            ("f", "*x"),
        ]);
        let yaml = to_yaml(&profile).unwrap();
        assert_eq!(from_yaml::<ProfilePut>(&yaml, "test").unwrap(), profile, "{yaml}");
        assert!(yaml.contains("d: |\n    x\n    y\n"), "{yaml}");
        assert!(yaml.ends_with("description: \"\"\ndevices: {}\n"), "{yaml}");
    }

    #[test]
    fn long_values_stay_on_their_line() {
        let long = "word ".repeat(60) + "end";
        let yaml = to_yaml(&profile(&[("a", &long)])).unwrap();
        assert!(yaml.contains(&format!("  a: {long}\n")), "{yaml}");
    }

    #[test]
    fn broken_yaml_is_said_with_its_place() {
        let error = from_yaml::<ProfilePut>("config: [", "standard input").unwrap_err();
        let line = crate::error::report(&error);
        assert!(line.starts_with("standard input is not the YAML"), "{line}");
    }
}

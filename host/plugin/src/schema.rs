//! The part of JSON Schema in which manifests describe settings.
//!
//! Settings are strings under string keys, so of JSON Schema (draft 2020-12) an object with flat properties is all that can
//! mean something. Other keywords are refused rather than ignored, because a restriction that is silently dropped is worse
//! than none. Patterns are not among them: a regular expression is a program that a stranger writes and the host runs.

use std::collections::BTreeMap;

use hutch_driver::Options;
use serde::{Deserialize, Serialize};

/// Properties that one schema may have.
const MAX_PROPERTIES: usize = 256;
/// Bytes of a key.
const MAX_KEY: usize = 128;

/// The description of a set of settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Schema {
    /// Always `object`.
    #[serde(rename = "type")]
    pub kind: ObjectKind,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The settings.
    #[serde(default)]
    pub properties: BTreeMap<String, Property>,
    /// Settings that must be there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub required: Vec<String>,
    /// Whether keys beside `properties` are accepted, with any value.
    #[serde(default)]
    pub additional_properties: bool,
}

/// What a schema describes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ObjectKind {
    /// Keys and values.
    #[default]
    Object,
}

/// One setting.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Property {
    /// How its text is understood.
    #[serde(rename = "type", default)]
    pub kind: PropertyKind,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// What it is where it is not given, for people: the plugin applies it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// The texts that it may be. Any where this is empty.
    #[serde(rename = "enum", default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
    /// The smallest number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum: Option<i64>,
    /// The largest number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum: Option<i64>,
    /// The most characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_length: Option<u32>,
}

/// How the text of a setting is understood.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PropertyKind {
    /// As it stands.
    #[default]
    String,
    /// A decimal number.
    Integer,
    /// `true` or `false`.
    Boolean,
}

impl Schema {
    /// Whether the schema itself makes sense. Answers with what does not.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.properties.len() > MAX_PROPERTIES {
            return Err(format!(
                "it has {} properties, and {MAX_PROPERTIES} are allowed",
                self.properties.len()
            ));
        }
        for (key, property) in &self.properties {
            if key.is_empty() || key.len() > MAX_KEY || key.chars().any(char::is_control) {
                return Err(format!("{key:?} can't be a key"));
            }
            if property.kind != PropertyKind::Integer && (property.minimum.is_some() || property.maximum.is_some()) {
                return Err(format!("{key}: only an integer has a minimum or a maximum"));
            }
            for text in property.values.iter().chain(&property.default) {
                property
                    .check_type(text)
                    .map_err(|reason| format!("{key}: {text:?} {reason}"))?;
            }
        }
        match self.required.iter().find(|key| !self.properties.contains_key(*key)) {
            Some(key) => Err(format!("{key} is required and not described")),
            None => Ok(()),
        }
    }

    /// Whether `options` are as the schema has them.
    ///
    /// # Errors
    /// A sentence that names the first key that is not.
    pub fn validate(&self, options: &Options) -> Result<(), String> {
        if let Some(key) = self.required.iter().find(|key| !options.contains_key(*key)) {
            return Err(format!("the key {key} is required"));
        }
        for (key, value) in options {
            match self.properties.get(key) {
                Some(property) => property
                    .validate(value)
                    .map_err(|reason| format!("{key}: {value:?} {reason}"))?,
                None if self.additional_properties => {}
                None => return Err(format!("there is no key {key}")),
            }
        }
        Ok(())
    }
}

impl Property {
    fn check_type(&self, value: &str) -> Result<(), &'static str> {
        match self.kind {
            PropertyKind::Integer if value.parse::<i64>().is_err() => Err("is not a whole number"),
            PropertyKind::Boolean if value != "true" && value != "false" => Err("is neither true nor false"),
            _ => Ok(()),
        }
    }

    fn validate(&self, value: &str) -> Result<(), String> {
        self.check_type(value)?;
        if !self.values.is_empty() && !self.values.iter().any(|v| v == value) {
            return Err(format!("is not one of {}", self.values.join(", ")));
        }
        if let Ok(number) = value.parse::<i64>() {
            if let Some(minimum) = self.minimum.filter(|minimum| number < *minimum) {
                return Err(format!("is less than {minimum}"));
            }
            if let Some(maximum) = self.maximum.filter(|maximum| number > *maximum) {
                return Err(format!("is more than {maximum}"));
            }
        }
        match self.max_length {
            Some(most) if value.chars().count() > most as usize => Err(format!("has more than {most} characters")),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> Schema {
        toml::from_str(
            r#"
            type = "object"
            required = ["size"]
            [properties]
            size = { type = "integer", minimum = 1, maximum = 9 }
            mode = { enum = ["a", "b"], default = "a" }
            on = { type = "boolean" }
            name = { maxLength = 3 }
            "#,
        )
        .expect("a schema")
    }

    fn options(pairs: &[(&str, &str)]) -> Options {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn options_are_held_against_the_schema() {
        let schema = schema();
        schema.check().expect("sound");
        schema
            .validate(&options(&[
                ("size", "3"),
                ("mode", "b"),
                ("on", "true"),
                ("name", "äöü"),
            ]))
            .expect("valid");
        for (pairs, expected) in [
            (&[][..], "size is required"),
            (&[("size", "10")], "more than 9"),
            (&[("size", "0")], "less than 1"),
            (&[("size", "x")], "whole number"),
            (&[("size", "3"), ("mode", "c")], "one of a, b"),
            (&[("size", "3"), ("on", "yes")], "neither true nor false"),
            (&[("size", "3"), ("name", "four")], "more than 3 characters"),
            (&[("size", "3"), ("colour", "red")], "no key colour"),
        ] {
            let reason = schema.validate(&options(pairs)).expect_err(expected);
            assert!(reason.contains(expected), "{reason}");
        }
    }

    #[test]
    fn a_schema_that_makes_no_sense_is_refused() {
        for text in [
            "type = \"object\"\nrequired = [\"x\"]",
            "type = \"object\"\n[properties]\nx = { minimum = 3 }",
            "type = \"object\"\n[properties]\nx = { type = \"integer\", default = \"a\" }",
        ] {
            assert!(
                toml::from_str::<Schema>(text).expect("syntax").check().is_err(),
                "{text}"
            );
        }
        for text in ["type = \"array\"", "type = \"object\"\npatternProperties = {}"] {
            assert!(toml::from_str::<Schema>(text).is_err(), "{text}");
        }
    }
}

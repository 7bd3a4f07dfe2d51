//! Configuration and devices, which are text throughout.

use std::collections::BTreeMap;

/// Configuration keys and values. On input a number or truth value is taken as its text and `null` as empty text.
pub type Config = BTreeMap<String, String>;

/// Devices by name, each with its keys; `type` is always among them.
pub type Devices = BTreeMap<String, BTreeMap<String, String>>;

/// Applies the `config` of a PATCH: named keys change, empty ones go away, the rest stays.
pub fn merge(config: &mut Config, patch: Config) {
    for (key, value) in patch {
        if value.is_empty() {
            config.remove(&key);
        } else {
            config.insert(key, value);
        }
    }
}

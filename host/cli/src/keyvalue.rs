//! `key=value` arguments.

use std::collections::BTreeMap;
use std::io::Read;

use hutch_api::{Config, Devices};

use crate::error::{Error, Result};

/// Reads one `key=value`.
pub(crate) fn pair(text: &str) -> Result<(String, String)> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(Error::usage(format!("{text:?} is not of the form KEY=VALUE"))),
    }
}

/// Reads several `key=value`; the last of a key counts.
pub(crate) fn pairs<S: AsRef<str>>(texts: &[S]) -> Result<Config> {
    texts.iter().map(|text| pair(text.as_ref())).collect()
}

/// Reads `key=value …`, or one key and its value as two arguments. A value of `-` is read from standard input.
pub(crate) fn settings(texts: &[String]) -> Result<Config> {
    let mut settings = match texts {
        [key, value] if !key.contains('=') => BTreeMap::from([(key.clone(), value.clone())]),
        _ => pairs(texts)?,
    };
    for value in settings.values_mut().filter(|value| *value == "-") {
        value.clear();
        std::io::stdin()
            .read_to_string(value)
            .map_err(|source| Error::io("cannot read the value from standard input", source))?;
    }
    Ok(settings)
}

/// Reads `device,key=value,…`, adding to the devices that are there.
pub(crate) fn device(devices: &mut Devices, text: &str) -> Result<()> {
    let (name, keys) = text
        .split_once(',')
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| Error::usage(format!("{text:?} is not of the form DEVICE,KEY=VALUE,…")))?;
    let device = devices.entry(name.to_owned()).or_default();
    for text in keys.split(',') {
        let (key, value) = pair(text)?;
        device.insert(key, value);
    }
    Ok(())
}

/// Whether a device is of a type.
pub(crate) fn is_type(device: &BTreeMap<String, String>, kind: &str) -> bool {
    device.get("type").is_some_and(|found| found == kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_may_be_empty_and_hold_anything() {
        assert_eq!(pair("a=").unwrap(), ("a".into(), String::new()));
        assert_eq!(pair("a=b=c").unwrap(), ("a".into(), "b=c".into()));
        assert!(pair("=b").is_err());
        assert_eq!(
            pair("ab").unwrap_err().to_string(),
            "\"ab\" is not of the form KEY=VALUE"
        );
    }

    #[test]
    fn a_key_and_its_value_may_be_two_arguments() {
        let settings = |texts: &[&str]| settings(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        assert_eq!(settings(&["limits.cpu", "2"]).unwrap()["limits.cpu"], "2");
        assert_eq!(settings(&["a=1", "b=2"]).unwrap().len(), 2);
        assert_eq!(
            settings(&["a=1", "b"]).unwrap_err().to_string(),
            "\"b\" is not of the form KEY=VALUE"
        );
    }

    #[test]
    fn devices_are_a_name_and_keys() {
        let mut devices = Devices::new();
        device(&mut devices, "root,size=10GiB,pool=default").unwrap();
        device(&mut devices, "root,size=20GiB").unwrap();
        assert_eq!(devices["root"]["size"], "20GiB");
        assert_eq!(devices["root"]["pool"], "default");
        assert!(device(&mut devices, "root").is_err());
        assert!(device(&mut devices, ",a=b").is_err());
    }
}

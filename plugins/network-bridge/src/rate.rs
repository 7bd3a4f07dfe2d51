//! Limits of an interface in bits per second.

use hutch_sdk::{Error, Options, Result};

/// Bits per second below which a packet takes longer than a connection waits for it.
const LEAST: u64 = 1000;

/// Units, as LXD has them.
const UNITS: [(&str, u64); 13] = [
    ("", 1),
    ("bit", 1),
    ("kbit", 1000),
    ("Mbit", 1_000_000),
    ("Gbit", 1_000_000_000),
    ("Tbit", 1_000_000_000_000),
    ("Pbit", 1_000_000_000_000_000),
    ("Kibit", 1 << 10),
    ("Mibit", 1 << 20),
    ("Gibit", 1 << 30),
    ("Tibit", 1 << 40),
    ("Pibit", 1 << 50),
    ("Ebit", 1_000_000_000_000_000_000),
];

fn parse(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    let (_, factor) = UNITS.into_iter().find(|(name, _)| *name == unit.trim())?;
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// The limit of `limits.ingress` or `limits.egress`, in whose place `limits.max` is taken where it is set.
///
/// # Errors
/// `invalid` with the key and what its value may be.
pub(crate) fn of(options: &Options, key: &str) -> Result<Option<u64>> {
    let set = |key| options.get(key).filter(|text| !text.is_empty()).map(|text| (key, text));
    let Some((key, text)) = set("limits.max").or_else(|| set(key)) else {
        return Ok(None);
    };
    match parse(text) {
        Some(rate) if rate >= LEAST => Ok(Some(rate)),
        _ => Err(Error::invalid(format!(
            "invalid value for {key:?}: {text:?} is not a rate of at least 1kbit, such as 10Mbit (bits per second)"
        ))
        .with("key", key)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        let options = |pairs: &[(&str, &str)]| {
            Options::new(
                &pairs
                    .iter()
                    .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                    .collect::<Vec<_>>(),
            )
        };
        for (text, rate) in [
            ("1000", 1000),
            ("10Mbit", 10_000_000),
            ("1Gibit", 1 << 30),
            ("8 kbit", 8000),
        ] {
            let options = options(&[("limits.egress", text)]);
            assert_eq!(of(&options, "limits.egress").unwrap(), Some(rate), "{text}");
            assert_eq!(of(&options, "limits.ingress").unwrap(), None);
        }
        let both = options(&[("limits.ingress", "1Mbit"), ("limits.max", "2Mbit")]);
        assert_eq!(of(&both, "limits.ingress").unwrap(), Some(2_000_000));
        for bad in ["0", "999bit", "10MB", "Mbit", "-1kbit", "99999999Pbit", "1é"] {
            let error = of(&options(&[("limits.max", bad)]), "limits.egress").unwrap_err();
            assert!(error.message.contains("limits.max"), "{bad}: {}", error.message);
        }
    }
}

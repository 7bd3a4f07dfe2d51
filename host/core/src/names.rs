//! Which names objects may have.

use crate::error::{Error, Result};

/// Instance names are host names (RFC 1123): 1 to 63 letters, digits and hyphens, beginning with a letter, not ending
/// with a hyphen.
///
/// # Errors
/// [`Error::Invalid`] with the rule that is broken.
pub fn instance(name: &str) -> Result<()> {
    let bad = |why: &str| Err(Error::invalid(format!("Invalid instance name {name:?}: {why}")));
    if name.is_empty() || name.len() > 63 {
        return bad("it must have 1 to 63 characters");
    }
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return bad("it may hold only letters, digits and hyphens");
    }
    if !name.as_bytes()[0].is_ascii_alphabetic() {
        return bad("it must begin with a letter");
    }
    if name.ends_with('-') {
        return bad("it must not end with a hyphen");
    }
    Ok(())
}

/// Names of networks are names of interfaces: 2 to 15 characters.
///
/// # Errors
/// [`Error::Invalid`] with the rule that is broken.
pub fn network(name: &str) -> Result<()> {
    object("network", name)?;
    if name.len() < 2 || name.len() > 15 {
        return Err(Error::invalid(format!(
            "Invalid network name {name:?}: as the name of an interface it must have 2 to 15 characters"
        )));
    }
    Ok(())
}

/// Names of pools, profiles, projects, snapshots and devices: one path component that a shell and a URL take as it is.
///
/// # Errors
/// [`Error::Invalid`] with the rule that is broken.
pub fn object(kind: &str, name: &str) -> Result<()> {
    let bad = |why: &str| Err(Error::invalid(format!("Invalid {kind} name {name:?}: {why}")));
    if name.is_empty() || name.len() > 63 {
        return bad("it must have 1 to 63 characters");
    }
    if name == "." || name == ".." {
        return bad("it is a directory's");
    }
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b)) {
        return bad("it may hold only letters, digits and - _ . :");
    }
    if name.starts_with('-') {
        return bad("it must not begin with a hyphen");
    }
    Ok(())
}

/// The name that an instance gets when the caller gives none: two words that can be said aloud.
pub fn random_instance() -> String {
    use rand::seq::IndexedRandom;
    const FIRST: [&str; 32] = [
        "able", "amber", "brave", "brisk", "calm", "clear", "crisp", "deft", "eager", "early", "fair", "fleet", "fond",
        "gentle", "glad", "grand", "hardy", "keen", "kind", "lively", "lucid", "mellow", "neat", "noble", "prime",
        "quick", "quiet", "ready", "solid", "swift", "warm", "wise",
    ];
    const SECOND: [&str; 32] = [
        "badger", "bison", "crane", "deer", "dove", "eagle", "falcon", "ferret", "finch", "fox", "gecko", "goose",
        "hare", "heron", "ibex", "jay", "koala", "lark", "lemur", "lynx", "marten", "mole", "otter", "owl", "pika",
        "quail", "rabbit", "raven", "seal", "stoat", "swan", "wren",
    ];
    let mut rng = rand::rng();
    let first = FIRST.choose(&mut rng).unwrap_or(&"able");
    let second = SECOND.choose(&mut rng).unwrap_or(&"hare");
    format!("{first}-{second}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_paths_are_refused() {
        for name in ["", "..", "a/b", "../x", "-a", "a b", "a\0", "é", &"a".repeat(64)] {
            assert!(instance(name).is_err(), "{name:?}");
            assert!(object("pool", name).is_err(), "{name:?}");
        }
        for name in ["1a", "a-", "a_b"] {
            assert!(instance(name).is_err(), "{name:?}");
        }
        assert!(instance("c1").is_ok());
        assert!(network("a").is_err());
        assert!(network("hutchbr0").is_ok());
        assert!(instance(&random_instance()).is_ok());
    }
}

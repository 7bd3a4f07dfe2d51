//! What makes an upgrade one that the operator has to agree to by name, whatever it asks for: it may be another's, or older. Grants
//! were given to the plugin as its publisher made it, and a version that was replaced may have been replaced for its faults.

use std::cmp::Ordering;

use semver::Version as Semver;

use crate::plugin::Plugin;
use crate::registry::{Doubt, DoubtKind, Held, Provenance, Version};

/// What there is to say against `new` taking the place of `present`, which was taken in as `taken_in` says; that is none where it came
/// with the daemon. Another taking in of the same file is no other version.
pub(crate) fn doubts(present: &Plugin, taken_in: Option<&Version>, new: &Version) -> Vec<Doubt> {
    if present.digest == new.digest {
        return of_the_same(taken_in, new);
    }
    between(&present.manifest.version, taken_in, new)
}

/// The same of a version that waits, as it is now: what is in use may be another version than when it began to wait. What was agreed to
/// when it came is.
pub(crate) fn doubts_of_held(present: &Plugin, taken_in: Option<&Version>, held: &Held) -> Vec<Doubt> {
    let mut doubts = doubts(present, taken_in, &held.version);
    doubts.retain(|doubt| !held.despite.contains(&doubt.kind));
    doubts
}

/// The same of the place of `recorded`, of which nothing but the record is known: it could not be loaded.
pub(crate) fn doubts_of_lost(recorded: &Version, new: &Version) -> Vec<Doubt> {
    if recorded.digest == new.digest {
        return of_the_same(Some(recorded), new);
    }
    between(&recorded.version, Some(recorded), new)
}

/// What there is to say against another signature of the same file: whose it is says whose next version comes without a question.
fn of_the_same(taken_in: Option<&Version>, new: &Version) -> Vec<Doubt> {
    let taken_in = taken_in.filter(|_| new.is_signed());
    let publisher = taken_in.and_then(|taken_in| other_publisher(Some(&taken_in.provenance), &new.provenance));
    publisher.map(by_another).into_iter().collect()
}

fn by_another(reason: String) -> Doubt {
    Doubt {
        kind: DoubtKind::Publisher,
        reason,
    }
}

fn between(number: &str, present: Option<&Version>, new: &Version) -> Vec<Doubt> {
    let publisher = other_publisher(present.map(|present| &present.provenance), &new.provenance);
    let publisher = publisher.map(by_another);
    let downgrade = is_older(&new.version, number).then(|| Doubt {
        kind: DoubtKind::Downgrade,
        reason: format!("is older than {number}, which is in use"),
    });
    publisher.into_iter().chain(downgrade).collect()
}

/// Whether somebody else answers for the new version, in words. Where nobody answered for the one before, nothing is lost.
fn other_publisher(present: Option<&Provenance>, new: &Provenance) -> Option<String> {
    let whose = match present {
        None => "came with the daemon".to_owned(),
        Some(Provenance::Signed { publisher, key }) => {
            if let Provenance::Signed {
                publisher: other,
                key: other_key,
            } = new
                && (other == publisher || other_key == key)
            {
                return None;
            }
            format!("is signed by {publisher}")
        }
        Some(Provenance::Dev | Provenance::Unsigned) => return None,
    };
    let new = match new {
        Provenance::Signed { publisher, .. } => format!("is signed by {publisher}"),
        Provenance::Dev | Provenance::Unsigned => "is signed by nobody".to_owned(),
    };
    Some(format!("{new}, and the version in use {whose}"))
}

/// Whether `new` comes before `present` in the order of `SemVer` 2.0.0, section 11. Manifests are checked to have such versions.
fn is_older(new: &str, present: &str) -> bool {
    match (Semver::parse(new), Semver::parse(present)) {
        (Ok(new), Ok(present)) => new.cmp_precedence(&present) == Ordering::Less,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(publisher: &str, key: &str) -> Provenance {
        Provenance::Signed {
            publisher: publisher.to_owned(),
            key: key.to_owned(),
        }
    }

    fn version(number: &str, digest: &str, provenance: Provenance) -> Version {
        Version {
            digest: digest.to_owned(),
            version: number.to_owned(),
            source: String::new(),
            provenance,
            signature: None,
            config: hutch_driver::Options::new(),
            taken_in: 0,
        }
    }

    #[test]
    fn another_s_version_and_an_older_one_are_doubted() {
        let kinds = |present: Option<(&str, Provenance)>, new: (&str, Provenance)| {
            let present = present.map(|(number, provenance)| version(number, "a", provenance));
            let number = present
                .as_ref()
                .map_or("1.0.0", |present| present.version.as_str())
                .to_owned();
            let doubts = between(&number, present.as_ref(), &version(new.0, "b", new.1));
            doubts.iter().map(|doubt| doubt.kind).collect::<Vec<_>>()
        };
        let (a, b) = (signed("a", "1"), signed("b", "2"));
        assert_eq!(kinds(Some(("1.0.0", a.clone())), ("1.0.1", a.clone())), []);
        assert_eq!(
            kinds(Some(("1.0.0", a.clone())), ("1.0.1", signed("a", "2"))),
            [],
            "another key of theirs"
        );
        assert_eq!(
            kinds(Some(("1.0.0", a.clone())), ("1.0.1", signed("x", "1"))),
            [],
            "they are called otherwise now"
        );
        assert_eq!(
            kinds(Some(("1.0.0", a.clone())), ("1.0.1", b.clone())),
            [DoubtKind::Publisher]
        );
        for nobody in [Provenance::Dev, Provenance::Unsigned] {
            assert_eq!(
                kinds(Some(("1.0.0", a.clone())), ("1.0.1", nobody.clone())),
                [DoubtKind::Publisher]
            );
            assert_eq!(kinds(None, ("1.0.1", nobody.clone())), [DoubtKind::Publisher]);
            assert_eq!(kinds(Some(("1.0.0", nobody)), ("1.0.1", b.clone())), []);
        }
        assert_eq!(kinds(None, ("1.0.1", a.clone())), [DoubtKind::Publisher]);
        assert_eq!(
            kinds(Some(("1.0.0", a)), ("1.0.0-rc.1", b)),
            [DoubtKind::Publisher, DoubtKind::Downgrade]
        );
    }

    #[test]
    fn another_s_signature_of_the_same_file_is_doubted() {
        let kinds = |before: Provenance, now: Provenance| {
            let (before, now) = (version("1.0.0", "a", before), version("1.0.0", "a", now));
            let doubts = doubts_of_lost(&before, &now);
            doubts.iter().map(|doubt| doubt.kind).collect::<Vec<_>>()
        };
        let (a, b) = (signed("a", "1"), signed("b", "2"));
        assert_eq!(kinds(a.clone(), b), [DoubtKind::Publisher]);
        assert_eq!(kinds(a.clone(), signed("a", "2")), []);
        assert_eq!(kinds(Provenance::Dev, a.clone()), []);
        assert_eq!(kinds(a, Provenance::Dev), [], "the signature that is known stays");
    }

    #[test]
    fn versions_are_ordered_as_semver_says() {
        for (new, present) in [
            ("0.9.9", "0.10.0"),
            ("1.0.0-alpha", "1.0.0-alpha.1"),
            ("1.0.0-rc.2", "1.0.0-rc.10"),
            ("1.0.0-rc.1", "1.0.0"),
        ] {
            assert!(is_older(new, present) && !is_older(present, new), "{new} {present}");
            assert!(!is_older(new, new));
        }
    }
}

//! The versions of the interfaces that this host has, and which others a plugin may have been built against: those on the same track up
//! to it, as `docs/wit.md` has it.
//!
//! Wasmtime finds an import or an export of another version on the same track as if it had the host's (`NameMap` in `wasmtime-environ`),
//! and does so whichever of the two is later. A plugin that was built against what comes after the host is refused here, where it can
//! be told why: linked, it would lack a function, or do without one that it counts on.

/// The version of `hutch:host`, which drivers import.
pub const HOST: &str = "0.1.0";

/// The driver families that this host has, each with the version of its package.
pub const FAMILIES: [(&str, &str); 4] = [
    ("storage", "0.1.0"),
    ("network", "0.1.0"),
    ("zone", "0.1.0"),
    ("image", "0.1.0"),
];

/// The version of a family's package; empty where there is no such family.
pub fn of_family(family: &str) -> &'static str {
    FAMILIES
        .iter()
        .find(|(name, _)| *name == family)
        .map_or("", |(_, version)| version)
}

/// All of them in a line, for what holds only as long as none of them moves.
pub(crate) fn all() -> String {
    let families = FAMILIES.map(|(name, version)| format!("{name} {version}"));
    format!("host {HOST}, {}", families.join(", "))
}

/// What a version that a plugin was built against is to a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// The host's, or an earlier one on its track.
    Fits,
    /// A later one on its track: a newer host has it.
    Later,
    /// One on another track, or none at all. A pre-release is on no track.
    Other,
}

/// Whether what was built against version `theirs` of a package goes with a host that has `ours`: the first number that is not 0 is the
/// same (Semantic Versioning 2.0.0, sections 4 and 8), and it is not later.
pub fn fit(theirs: &str, ours: &str) -> Fit {
    let (Some(theirs), Some(ours)) = (numbers(theirs), numbers(ours)) else {
        return Fit::Other;
    };
    let track = |[major, minor, patch]: [u64; 3]| match (major, minor) {
        (0, 0) => [0, 0, patch],
        (0, minor) => [0, minor, 0],
        (major, _) => [major, 0, 0],
    };
    match track(theirs) == track(ours) {
        true if theirs <= ours => Fit::Fits,
        true => Fit::Later,
        false => Fit::Other,
    }
}

/// The three numbers of a version without more.
fn numbers(version: &str) -> Option<[u64; 3]> {
    let numbers: Vec<u64> = version
        .split('.')
        .map(|part| part.parse().ok().filter(|_| part.bytes().all(|b| b.is_ascii_digit())))
        .collect::<Option<_>>()?;
    numbers.try_into().ok()
}

impl Fit {
    /// What is to be done about it, for people; nothing where it fits.
    pub(crate) fn advice(self) -> &'static str {
        match self {
            Self::Fits => "",
            Self::Later => "it was built for a newer host; use that, or a version of the plugin for this one",
            Self::Other => "use a version of the plugin for this one",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_fits_its_own_host_and_later_ones_on_the_track() {
        for (theirs, ours, expected) in [
            ("0.1.0", "0.1.0", Fit::Fits),
            ("0.1.0", "0.1.3", Fit::Fits),
            ("0.1.4", "0.1.3", Fit::Later),
            ("0.2.0", "0.1.3", Fit::Other),
            ("0.1.0", "0.2.0", Fit::Other),
            ("0.0.1", "0.0.2", Fit::Other),
            ("1.2.0", "1.4.0", Fit::Fits),
            ("1.4.1", "1.4.0", Fit::Later),
            ("1.10.0", "1.9.0", Fit::Later),
            ("2.0.0", "1.4.0", Fit::Other),
            ("0.9.0", "1.0.0", Fit::Other),
            ("0.1.0-rc.1", "0.1.0", Fit::Other),
            ("", "0.1.0", Fit::Other),
            ("0.1", "0.1.0", Fit::Other),
            ("99999999999999999999.0.0", "0.1.0", Fit::Other),
        ] {
            assert_eq!(fit(theirs, ours), expected, "{theirs} on {ours}");
        }
    }

    /// The packages whose types this crate was built from.
    #[test]
    fn these_are_the_versions_of_the_packages() {
        for (name, version) in FAMILIES.into_iter().chain([("host", HOST)]) {
            let file = format!("{}/../../wit/{name}/v0/{name}.wit", env!("CARGO_MANIFEST_DIR"));
            let text = std::fs::read_to_string(&file).expect(&file);
            let declared = format!("package hutch:{name}@{version};");
            assert!(text.lines().any(|line| line == declared), "{file}: {declared}");
        }
    }
}

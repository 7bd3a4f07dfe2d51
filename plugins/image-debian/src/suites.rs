//! The releases of Debian and Ubuntu. No I/O here.

/// Who makes a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Distribution {
    Debian,
    Ubuntu,
}

impl Distribution {
    /// As people write it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Debian => "Debian",
            Self::Ubuntu => "Ubuntu",
        }
    }

    /// As it stands before a release in a name such as `debian/12`.
    pub(crate) fn id(self) -> &'static str {
        match self {
            Self::Debian => "debian",
            Self::Ubuntu => "ubuntu",
        }
    }

    /// What an image needs of the archive: Ubuntu has part of it outside `main`.
    pub(crate) fn components(self) -> &'static str {
        match self {
            Self::Debian => "main",
            Self::Ubuntu => "main universe",
        }
    }
}

/// A release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Suite {
    pub(crate) distribution: Distribution,
    /// Its name in the archive.
    pub(crate) name: &'static str,
    /// Its number, or another name for it.
    pub(crate) version: &'static str,
    /// Whether it has suites of its own for updates and security fixes.
    pub(crate) is_stable: bool,
    /// The version of its systemd, at least.
    pub(crate) systemd: u16,
}

const fn debian(name: &'static str, version: &'static str, is_stable: bool, systemd: u16) -> Suite {
    Suite {
        distribution: Distribution::Debian,
        name,
        version,
        is_stable,
        systemd,
    }
}

const fn ubuntu(name: &'static str, version: &'static str, systemd: u16) -> Suite {
    Suite {
        distribution: Distribution::Ubuntu,
        name,
        version,
        is_stable: true,
        systemd,
    }
}

/// Those that can boot as a container on a machine with cgroup v2 (systemd 244 and later).
pub(crate) const SUITES: [Suite; 11] = [
    debian("bullseye", "11", true, 247),
    debian("bookworm", "12", true, 252),
    debian("trixie", "13", true, 257),
    debian("forky", "14", false, 257),
    debian("testing", "testing", false, 257),
    debian("sid", "unstable", false, 257),
    ubuntu("focal", "20.04", 245),
    ubuntu("jammy", "22.04", 249),
    ubuntu("noble", "24.04", 255),
    ubuntu("plucky", "25.04", 257),
    ubuntu("questing", "25.10", 257),
];

/// The release of a name: `bookworm`, `12`, `debian/bookworm`, `debian/12`.
pub(crate) fn find(name: &str) -> Option<Suite> {
    let (distribution, release) = match name.split_once('/') {
        Some((distribution, release)) => (Some(distribution), release),
        None => (None, name),
    };
    let fits = |suite: &&Suite| distribution.is_none_or(|id| id == suite.distribution.id());
    SUITES
        .iter()
        .filter(fits)
        .find(|suite| suite.name == release || suite.version == release)
        .copied()
}

/// The distribution that a suite of an archive belongs to, `bookworm-security` and the like included.
pub(crate) fn distribution_of(suite: &str) -> Option<Distribution> {
    let (stem, part) = suite.split_once('-').unwrap_or((suite, "updates"));
    if !["backports", "proposed", "proposed-updates", "security", "updates"].contains(&part) {
        return None;
    }
    match stem {
        "stable" | "oldstable" | "unstable" => Some(Distribution::Debian),
        _ => SUITES
            .iter()
            .find(|known| known.name == stem)
            .map(|known| known.distribution),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_have_several_names() {
        for name in ["bookworm", "12", "debian/bookworm", "debian/12"] {
            assert_eq!(find(name).map(|s| s.name), Some("bookworm"), "{name}");
        }
        assert_eq!(find("ubuntu/24.04").map(|s| s.name), Some("noble"));
        for name in ["", "bookworm-security", "ubuntu/bookworm", "../x", "debian/", "potato"] {
            assert_eq!(find(name), None, "{name}");
        }
        assert_eq!(distribution_of("bookworm-security"), Some(Distribution::Debian));
        assert_eq!(distribution_of("bookworm-pgdg"), None);
        assert_eq!(distribution_of("noble-updates"), Some(Distribution::Ubuntu));
    }
}

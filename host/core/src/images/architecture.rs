//! Names of processor architectures.

/// The kernel's name (uname(2)) for an architecture that a distribution may call otherwise; `None` for an unknown one.
pub(super) fn canonical(name: &str) -> Option<&'static str> {
    Some(match name {
        "x86_64" | "amd64" => "x86_64",
        "i686" | "i386" | "i586" => "i686",
        "aarch64" | "arm64" => "aarch64",
        "armv7l" | "armhf" | "arm" => "armv7l",
        "armv6l" | "armel" => "armv6l",
        "ppc64le" | "ppc64el" | "powerpc64le" => "ppc64le",
        "riscv64" => "riscv64",
        "s390x" => "s390x",
        "loongarch64" | "loong64" => "loongarch64",
        "mips64" | "mips64el" => "mips64",
        _ => return None,
    })
}

/// The architecture of this machine.
pub(super) fn of_this_machine() -> &'static str {
    canonical(std::env::consts::ARCH).unwrap_or(std::env::consts::ARCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_names_are_known() {
        assert_eq!(canonical("amd64"), Some("x86_64"));
        assert_eq!(canonical("arm64"), Some("aarch64"));
        assert_eq!(canonical("pdp11"), None);
        assert!(canonical(of_this_machine()).is_some());
    }
}

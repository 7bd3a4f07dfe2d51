//! Names of processor architectures.

use crate::error::{Error, Result};

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

/// The name that this daemon has for an architecture that instances are to be of.
///
/// # Errors
/// [`Error::Invalid`] for one whose programs this machine does not run.
pub(crate) fn check(name: &str) -> Result<String> {
    match canonical(name) {
        Some(known) if known == of_this_machine() => Ok(known.to_owned()),
        _ => Err(Error::invalid(format!(
            "Architecture isn't supported: {name}: this machine is {}",
            of_this_machine()
        ))),
    }
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
        assert_eq!(check(of_this_machine()).unwrap(), of_this_machine());
        assert!(check("foo").unwrap_err().to_string().ends_with(of_this_machine()));
    }
}

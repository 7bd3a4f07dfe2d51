//! Going under the container's profile of AppArmor.

use std::fs::File;
use std::io::Write;

use hutch_container::{ContainerSpec, Fault};

use crate::fault::{At, Result};

/// Where a thread asks to be confined (`apparmor(7)`, `aa_change_profile(2)`).
const CURRENT: &str = "/proc/thread-self/attr/apparmor/current";

/// The way into a profile, open.
#[must_use]
pub(crate) struct Profile<'a> {
    name: &'a str,
    file: File,
}

impl<'a> Profile<'a> {
    /// Opens it, if the container has a profile. By the very process that is to be confined, since nobody else may write there, and as
    /// long as `/proc` is the host's: what is at that path inside is what the container's root wants it to be.
    pub(crate) fn open(spec: &'a ContainerSpec) -> Result<Option<Self>> {
        let open = |name: &'a String| {
            let file = File::options().write(true).open(CURRENT).at("opening", CURRENT)?;
            Ok(Self { name, file })
        };
        spec.apparmor.as_ref().map(open).transpose()
    }

    /// Confines this process and all that it forks and executes, for good.
    pub(crate) fn enter(mut self) -> Result<()> {
        // The kernel takes it in one piece only.
        let order = format!("changeprofile {}", self.name);
        self.file
            .write_all(order.as_bytes())
            .map_err(|error| match error.raw_os_error() {
                Some(libc::ENOENT) => Fault {
                    cause: "the kernel has no such profile any more".to_owned(),
                    ..Fault::system("entering", self.described(), libc::ENOENT)
                },
                errno => Fault::system("entering", self.described(), errno.unwrap_or(libc::EIO)),
            })
    }

    fn described(&self) -> String {
        format!("the AppArmor profile {}", self.name)
    }
}

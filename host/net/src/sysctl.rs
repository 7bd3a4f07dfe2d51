//! Settings of interfaces under `/proc/sys/net` (the kernel's `networking/ip-sysctl.rst`), in the namespace of the calling
//! thread.

use std::path::PathBuf;

use rustix::io::Errno;

use crate::error::{Error, Result};

/// Whether forwarding between interfaces is on for the machine: `ipv4` or `ipv6`.
///
/// # Errors
/// [`Error::Kernel`].
pub fn forwarding(family: &str) -> Result<bool> {
    read(&path(family, "all", "forwarding")?).map(|value| value == "1")
}

/// Lets the machine forward packets of `family` (`ipv4`, `ipv6`), which takes both the interface that they come in on and
/// the one that answers come in on, so that it is a setting of the machine.
///
/// A machine that forwards IPv6 stops listening to router advertisements on interfaces with `accept_ra` 1, and would lose
/// its own address: these get 2, with which it goes on.
///
/// # Errors
/// [`Error::Kernel`].
pub fn enable_forwarding(family: &str) -> Result<()> {
    if forwarding(family)? {
        return Ok(());
    }
    if family == "ipv6" {
        let conf = PathBuf::from("/proc/sys/net/ipv6/conf");
        let entries = std::fs::read_dir(&conf).map_err(|e| io("list the interfaces with IPv6", &e))?;
        for entry in entries.filter_map(std::result::Result::ok) {
            let accept = entry.path().join("accept_ra");
            if read(&accept).is_ok_and(|value| value == "1") {
                // The interface may go away between the two.
                match write(&accept, "2") {
                    Err(e) if e.errno() == Some(Errno::NOENT) => {}
                    other => other?,
                }
            }
        }
    }
    write(&path(family, "all", "forwarding")?, "1")
}

/// Sets `key` of an interface, unless it has the value already.
///
/// # Errors
/// [`Error::NotFound`] where there is no such interface or the kernel lacks the family; [`Error::Kernel`].
pub fn set(family: &str, interface: &str, key: &str, value: &str) -> Result<()> {
    let path = path(family, interface, key)?;
    match read(&path) {
        Ok(current) if current == value => Ok(()),
        Ok(_) => write(&path, value),
        Err(e) if e.errno() == Some(Errno::NOENT) => Err(Error::NotFound {
            name: interface.to_owned(),
        }),
        Err(e) => Err(e),
    }
}

fn path(family: &str, interface: &str, key: &str) -> Result<PathBuf> {
    if interface != "all" {
        crate::handle::check_name(interface)?;
    }
    Ok(PathBuf::from(format!("/proc/sys/net/{family}/conf/{interface}/{key}")))
}

fn read(path: &std::path::Path) -> Result<String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.trim_end().to_owned()),
        Err(e) => Err(io(&format!("read {}", path.display()), &e)),
    }
}

fn write(path: &std::path::Path, value: &str) -> Result<()> {
    std::fs::write(path, value).map_err(|e| io(&format!("write {value} to {}", path.display()), &e))
}

fn io(what: &str, error: &std::io::Error) -> Error {
    Error::kernel(what, Errno::from_io_error(error).unwrap_or(Errno::IO))
}

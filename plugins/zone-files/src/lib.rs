//! Zones as master files (RFC 1035 section 5) in `/var/lib/hutch-zones`, for people who run a name server of their own.
//!
//! ```text
//! example.org      the zone's file, named as the zone: NSD's `zonefile: "/var/lib/hutch-zones/%s"`, Knot's the same
//! .example.org     the same while it is being written
//! ```
//!
//! The highest version that was to be published is noted in the key-value store before anything is written, under `version/ZONE`: so
//! an older one that comes late is known, and no file is left that nobody knows of. What others put into the directory is never
//! touched. The server is told when the file is in its place; where that fails the call fails, and is good again when it is repeated.

mod files;
mod server;

use files::Files;
use hutch_sdk::zone::{Apex, Zone, ZoneRef};
use hutch_sdk::{Host, Options, Result};
use server::Server;

/// The driver.
#[derive(Debug)]
pub struct ZoneFiles;

hutch_sdk::zone_plugin! { driver: ZoneFiles, exports: [zone] }

const KEYS: [&str; 3] = ["dns.nameservers", "dns.contact", server::KEY];

impl Zone for ZoneFiles {
    fn validate(
        _host: &impl Host,
        zone: &ZoneRef,
        _current: Option<&[(String, String)]>,
    ) -> Result<Vec<(String, String)>> {
        let options = Options::new(&zone.config);
        options.check_keys(&format!("zone {}", zone.name), &KEYS)?;
        Apex::of(zone)?;
        Server::of(zone)?;
        Ok(options.into_pairs())
    }

    fn publish(host: &impl Host, zone: &ZoneRef, version: u64) -> Result<()> {
        let server = Server::of(zone)?;
        if Files::of(host).publish(zone, version)? {
            server.reload(host, &zone.name)?;
        }
        Ok(())
    }

    fn delete(host: &impl Host, zone: &ZoneRef) -> Result<()> {
        Files::of(host).remove(&zone.name)
    }

    fn reconcile(host: &impl Host, valid: &[ZoneRef]) -> Result<Vec<String>> {
        Files::of(host).retain(|name| valid.iter().any(|zone| zone.name == name))
    }
}

#[cfg(test)]
mod tests;

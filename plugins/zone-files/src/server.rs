//! The name server that reads the files, and how it is told that one changed.

use hutch_sdk::zone::ZoneRef;
use hutch_sdk::{Error, Host, Options, Result};

/// The option.
pub(crate) const KEY: &str = "files.reload";

/// Who reads the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    /// Somebody who looks by himself.
    None,
    /// NSD: nsd-control(8).
    Nsd,
    /// BIND: rndc(8).
    Bind,
    /// Knot DNS: knotc(8).
    Knot,
}

impl Server {
    /// As the zone's configuration says.
    ///
    /// # Errors
    /// `invalid` for a server that the driver does not know.
    pub(crate) fn of(zone: &ZoneRef) -> Result<Self> {
        match Options::new(&zone.config).get(KEY) {
            None | Some("none") => Ok(Self::None),
            Some("nsd") => Ok(Self::Nsd),
            Some("bind") => Ok(Self::Bind),
            Some("knot") => Ok(Self::Knot),
            Some(other) => Err(Error::invalid(format!(
                "invalid value for {KEY:?}: {other:?} is none of none, nsd, bind and knot"
            ))
            .with("key", KEY)),
        }
    }

    /// Has the server read the zone's file again.
    ///
    /// # Errors
    /// `unavailable`, which can be retried, where the server does not: it may not run, or not have the zone in its configuration.
    pub(crate) fn reload(self, host: &impl Host, zone: &str) -> Result<()> {
        let (program, verb) = match self {
            Self::None => return Ok(()),
            Self::Nsd => ("nsd-control", "reload"),
            Self::Bind => ("rndc", "reload"),
            Self::Knot => ("knotc", "zone-reload"),
        };
        let output = host.command_run(program, &[verb.to_owned(), zone.to_owned()], &[], &[])?;
        if output.status == 0 {
            return Ok(());
        }
        let said = [&output.stderr, &output.stdout]
            .into_iter()
            .map(|bytes| String::from_utf8_lossy(bytes).trim().replace('\n', "; "))
            .find(|text| !text.is_empty())
            .unwrap_or_else(|| format!("it ended with status {}", output.status));
        Err(Error::unavailable(format!("{program} {verb} {zone} failed: {said}")).retryable())
    }
}

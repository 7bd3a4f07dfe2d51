//! Ctrl-C: the default is to end at once; a part of the program that has something better to do claims it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::{Error, Result};

/// The exit status of a program that `SIGINT` ended, as shells show it.
pub(crate) const EXIT_STATUS: i32 = 128 + 2;

/// How many claims there are.
static CLAIMS: AtomicUsize = AtomicUsize::new(0);
static GUARD: OnceLock<()> = OnceLock::new();

/// Receives Ctrl-C instead of the program's being ended, as long as it lives.
pub(crate) struct Interrupts(Signal);

impl Interrupts {
    /// Claims Ctrl-C. Everything that has claimed it gets it.
    pub(crate) fn claim() -> Result<Self> {
        let listen = || signal(SignalKind::interrupt()).map_err(|source| Error::io("cannot handle Ctrl-C", source));
        let claimed = Self(listen()?);
        CLAIMS.fetch_add(1, Ordering::Relaxed);
        if GUARD.set(()).is_ok() {
            // The handler stays once it is there, so what the kernel did by default is done here from now on.
            let mut signal = listen()?;
            tokio::spawn(async move {
                while signal.recv().await.is_some() {
                    if CLAIMS.load(Ordering::Relaxed) == 0 {
                        std::process::exit(EXIT_STATUS);
                    }
                }
            });
        }
        Ok(claimed)
    }

    /// The next Ctrl-C.
    pub(crate) async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        CLAIMS.fetch_sub(1, Ordering::Relaxed);
    }
}

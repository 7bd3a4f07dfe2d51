//! Who asks, and what they may do. This is the one place where that is decided.

use std::future::Future;

use crate::error::{Error, Result};

/// The identity of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// User id of the peer on the unix socket (`SO_PEERCRED`, unix(7)).
    pub uid: u32,
    /// Group id of the peer.
    pub gid: u32,
    /// Process id of the peer, as the daemon's pid namespace sees it; 0 when it is not in it.
    pub pid: i32,
}

impl Caller {
    /// The daemon itself.
    pub fn daemon() -> Self {
        Self {
            uid: 0,
            gid: 0,
            pid: i32::try_from(std::process::id()).unwrap_or(0),
        }
    }

    /// The user's name, or its number where the user database has none.
    pub fn name(&self) -> String {
        match nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(self.uid)) {
            Ok(Some(user)) => user.name,
            _ => self.uid.to_string(),
        }
    }
}

tokio::task_local! {
    /// Whose request the task carries out.
    static CURRENT: Caller;
}

/// Does `work` for `caller`, if it is for anybody: what happens in it is told as theirs.
pub async fn on_behalf_of<F: Future>(caller: Option<Caller>, work: F) -> F::Output {
    match caller {
        Some(caller) => CURRENT.scope(caller, work).await,
        None => work.await,
    }
}

/// The caller for whom the running task works; `None` where the daemon does something by itself.
pub fn current() -> Option<Caller> {
    CURRENT.try_with(Caller::clone).ok()
}

/// What a request wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// See objects.
    Read,
    /// Change them.
    Write,
}

/// Decides whether `caller` may have `access`. On the unix socket the file's mode and group have decided already who can
/// connect, and whoever can may do everything: it is as good as root, as the documentation says.
///
/// # Errors
/// [`Error::Forbidden`].
pub fn authorize(caller: &Caller, access: Access) -> Result<()> {
    let _ = access;
    if caller.uid == u32::MAX {
        // The overflow of an unmapped user namespace: nobody whom the machine knows.
        return Err(Error::Forbidden(
            "not authorized: the caller has no user id on this machine".to_owned(),
        ));
    }
    Ok(())
}

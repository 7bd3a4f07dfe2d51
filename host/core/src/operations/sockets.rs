//! The websockets of an operation: each has a secret, and whoever knows it gets one end of something, once.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use hutch_api::instance::ExecControl;
use serde_json::{Map, Value};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::error::{Error, Result};

/// What a websocket is connected with.
#[derive(Debug)]
pub enum Socket {
    /// What arrives is written to the descriptor; the end of the input closes it.
    Input(OwnedFd),
    /// What the descriptor gives is sent. Once the receiver says true, the process is over: what is there is sent, and then
    /// the end.
    Output(OwnedFd, watch::Receiver<bool>),
    /// A terminal: both ways; the receiver as for [`Socket::Output`].
    Terminal(OwnedFd, watch::Receiver<bool>),
    /// Commands of the client; the receiver says when the process is over.
    Control(mpsc::Sender<ExecControl>, watch::Receiver<bool>),
    /// Both ways, until either side ends.
    Stream(OwnedFd),
}

enum Slot {
    /// Nobody has come.
    Free,
    /// Somebody waits for its end.
    Waiting(oneshot::Sender<Socket>),
    /// Given.
    Taken,
}

/// See the module.
pub struct Sockets {
    by_secret: HashMap<String, String>,
    slots: Mutex<BTreeMap<String, Slot>>,
    changed: Notify,
}

impl Sockets {
    /// Websockets with these names, each under a new secret.
    pub fn new(names: &[&str]) -> Self {
        let by_secret = names
            .iter()
            .map(|name| (hex::encode(rand::random::<[u8; 32]>()), (*name).to_owned()))
            .collect();
        let slots = names.iter().map(|name| ((*name).to_owned(), Slot::Free)).collect();
        Self {
            by_secret,
            slots: Mutex::new(slots),
            changed: Notify::new(),
        }
    }

    /// Names and secrets, as an operation's metadata shows them under `fds`.
    pub fn fds(&self) -> Map<String, Value> {
        self.by_secret
            .iter()
            .map(|(secret, name)| (name.clone(), Value::String(secret.clone())))
            .collect()
    }

    /// Connects whoever knows `secret`; returns once the other end is there.
    ///
    /// # Errors
    /// [`Error::Forbidden`] for a secret that is wrong or used, [`Error::Unavailable`] when the operation ended first.
    pub async fn connect(&self, secret: &str) -> Result<Socket> {
        let refused = || Error::Forbidden("the websocket's secret is wrong or was used before".to_owned());
        let name = self.by_secret.get(secret).ok_or_else(refused)?;
        let (give, wait) = oneshot::channel();
        match self.slots.lock().unwrap_or_else(PoisonError::into_inner).get_mut(name) {
            Some(slot @ Slot::Free) => *slot = Slot::Waiting(give),
            _ => return Err(refused()),
        }
        self.changed.notify_waiters();
        wait.await
            .map_err(|_| Error::Unavailable("the operation ended before the websocket was connected".to_owned()))
    }

    /// Returns once somebody waits at each of `names`.
    pub async fn all_waiting(&self, names: &[&str]) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Armed before the look, so that a change in between is not missed.
            changed.as_mut().enable();
            {
                let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
                if names
                    .iter()
                    .all(|name| !matches!(slots.get(*name), None | Some(Slot::Free)))
                {
                    return;
                }
            }
            changed.await;
        }
    }

    /// Gives `socket` to whoever waits at `name`, and returns whether somebody did.
    pub fn give(&self, name: &str, socket: Socket) -> bool {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        match slots.get_mut(name) {
            Some(slot) => match std::mem::replace(slot, Slot::Taken) {
                Slot::Waiting(give) => give.send(socket).is_ok(),
                Slot::Free => {
                    *slot = Slot::Free;
                    false
                }
                Slot::Taken => false,
            },
            None => false,
        }
    }

    /// Returns once somebody waits at `name`.
    pub async fn waiting(&self, name: &str) {
        self.all_waiting(&[name]).await;
    }
}

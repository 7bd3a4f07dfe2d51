//! What comes with one call of a driver: the grants of the moment, and who waits for it.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

use crate::zone::Content;

/// A tree that a driver may work in for the length of one call.
#[derive(Clone, Debug)]
pub struct Root {
    /// The name that the driver sees.
    pub id: String,
    /// Where it is. The broker opens it and stays below it.
    pub path: PathBuf,
    /// Whether it may be changed.
    pub writable: bool,
}

/// A network namespace that a driver may put interfaces into, by the id that it sees.
#[derive(Clone, Debug)]
pub struct NetnsHandle {
    /// The id in `nic-ref.netns`.
    pub id: String,
    /// The namespace.
    pub fd: Arc<OwnedFd>,
}

/// Receives what a driver or the host says of long work.
pub trait Progress: Send + Sync {
    /// `total` is unknown when it is `None`; both are in the unit that `stage` names.
    fn report(&self, stage: &str, done: u64, total: Option<u64>);
}

/// Progress that nobody watches.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn report(&self, _stage: &str, _done: u64, _total: Option<u64>) {}
}

/// Whether the caller still wants the result. Clones share the answer.
#[derive(Clone, Debug, Default)]
pub struct Cancel {
    own: Arc<Wanted>,
    parent: Option<Arc<Self>>,
}

#[derive(Debug, Default)]
struct Wanted {
    given_up: AtomicBool,
    /// Who waits for [`Cancel::cancelled`].
    waiting: Mutex<Vec<Waker>>,
}

impl Cancel {
    /// From now on [`Cancel::is_cancelled`] is true.
    pub fn cancel(&self) {
        self.own.given_up.store(true, Ordering::SeqCst);
        let waiting = std::mem::take(&mut *self.own.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Whether the work should be given up at the next safe point.
    pub fn is_cancelled(&self) -> bool {
        self.own.given_up.load(Ordering::SeqCst) || self.parent.as_ref().is_some_and(|parent| parent.is_cancelled())
    }

    /// One for a part of the work: cancelled with the whole, and by itself without it.
    #[must_use]
    pub fn child(&self) -> Self {
        Self {
            own: Arc::default(),
            parent: Some(Arc::new(self.clone())),
        }
    }

    /// Returns when the work should be given up, which may be never.
    pub async fn cancelled(&self) {
        std::future::poll_fn(|context| {
            // Registered before it is asked: whoever gives up afterwards finds the waker.
            self.register(context.waker());
            if self.is_cancelled() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    fn register(&self, waker: &Waker) {
        let mut waiting = self.own.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if !waiting.iter().any(|known| known.will_wake(waker)) {
            waiting.push(waker.clone());
        }
        drop(waiting);
        if let Some(parent) = &self.parent {
            parent.register(waker);
        }
    }
}

/// The context of one call: the object it is for and what it may touch beyond the driver's fixed grants.
#[derive(Clone)]
pub struct Call {
    /// The family's object: a pool's, network's or zone's name, an image server. Names of services and tables are made with it.
    pub object: String,
    /// The project of the object.
    pub project: String,
    /// The operation that caused the call, for logs and traces; empty for the daemon's own.
    pub operation: String,
    /// Trees of the moment.
    pub roots: Vec<Root>,
    /// Names of interfaces that are this object's own.
    pub links: Vec<String>,
    /// Names of interfaces of the machine that the object's configuration names as its parent: they may be looked at, and instances
    /// put on them, but they are not the object's to change.
    pub parents: Vec<String>,
    /// Network namespaces of the moment.
    pub netns: Vec<NetnsHandle>,
    /// The server that the caller named: scheme, host and port of this address are the `origin` grant.
    pub origin: Option<String>,
    /// The content of the zone that the call is about.
    pub records: Option<Arc<Content>>,
    /// Where progress goes.
    pub progress: Arc<dyn Progress>,
    /// Whether the caller has lost interest.
    pub cancel: Cancel,
}

impl Call {
    /// A call for `object` in `project` with no grants of the moment.
    pub fn new(project: &str, object: &str) -> Self {
        Self {
            object: object.to_owned(),
            project: project.to_owned(),
            operation: String::new(),
            roots: Vec::new(),
            links: Vec::new(),
            parents: Vec::new(),
            netns: Vec::new(),
            origin: None,
            records: None,
            progress: Arc::new(NoProgress),
            cancel: Cancel::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Wake};

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_part_is_cancelled_with_the_whole_and_not_the_other_way() {
        let whole = Cancel::default();
        let (part, other) = (whole.child(), whole.child());
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut wait = pin!(part.cancelled());
        assert!(wait.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        other.cancel();
        assert!(!woken.0.load(Ordering::SeqCst) && !whole.is_cancelled() && !part.is_cancelled());
        whole.cancel();
        assert!(woken.0.load(Ordering::SeqCst) && part.is_cancelled());
        assert!(wait.as_mut().poll(&mut Context::from_waker(&waker)).is_ready());
    }
}

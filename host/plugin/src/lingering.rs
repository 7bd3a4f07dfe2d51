//! Host functions that go on although nobody waits for them any more.
//!
//! A call can end (its time is up, its caller went away, its guest was stopped) while the kernel is in the middle of a copy
//! or a mount that can't be interrupted. Such a function is not forgotten: it goes on in a task of its own, its object
//! stays locked until it ends, and the next call on the object waits for it.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use hutch_broker::Response;
use hutch_driver::DriverError;
use tokio::sync::watch;

use crate::sync::Mutex;

/// The functions that go on, by what they work on.
#[derive(Debug, Default)]
pub(crate) struct Lingering {
    // Read without the lock by every call, of which hardly one finds anything.
    count: AtomicUsize,
    running: Mutex<HashMap<Arc<str>, Vec<Entry>>>,
}

#[derive(Clone, Debug)]
struct Entry {
    function: &'static str,
    done: watch::Receiver<()>,
}

impl Lingering {
    /// The function that still works on `target`, on a part of it or on the whole that it is part of, and what tells that
    /// it has ended.
    pub(crate) fn on(&self, target: &str) -> Option<(&'static str, watch::Receiver<()>)> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let running = self.running.lock();
        let (_, entries) = running.iter().find(|(other, _)| overlap(other, target))?;
        entries.first().map(|entry| (entry.function, entry.done.clone()))
    }

    fn adopt(self: &Arc<Self>, target: Arc<str>, function: &'static str, work: Work) {
        // Without a runtime the process is going down, and the work with it.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let (ended, done) = watch::channel(());
        self.running.lock().entry(Arc::clone(&target)).or_default().push(Entry {
            function,
            done: done.clone(),
        });
        self.count.fetch_add(1, Ordering::AcqRel);
        let lingering = Arc::clone(self);
        runtime.spawn(async move {
            let _ = work.await;
            let mut running = lingering.running.lock();
            if let Some(entries) = running.get_mut(&target) {
                entries.retain(|entry| !entry.done.same_channel(&done));
                if entries.is_empty() {
                    running.remove(&target);
                }
            }
            lingering.count.fetch_sub(1, Ordering::AcqRel);
            drop(running);
            drop(ended);
        });
    }
}

/// Whether one of two targets is the other or a part of it. Parts are set off by slashes.
fn overlap(a: &str, b: &str) -> bool {
    let (short, long) = if a.len() < b.len() { (a, b) } else { (b, a) };
    long.strip_prefix(short)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

type Work = Pin<Box<dyn Future<Output = Result<Response, DriverError>> + Send>>;

/// A host function's future that is handed to [`Lingering`] when it is dropped before it has ended.
pub(crate) struct Uninterruptible {
    work: Option<Work>,
    lingering: Arc<Lingering>,
    target: Arc<str>,
    function: &'static str,
}

impl Uninterruptible {
    pub(crate) fn new(work: Work, lingering: Arc<Lingering>, target: Arc<str>, function: &'static str) -> Self {
        Self {
            work: Some(work),
            lingering,
            target,
            function,
        }
    }
}

impl Future for Uninterruptible {
    type Output = Result<Response, DriverError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(work) = self.work.as_mut() else {
            return Poll::Ready(Err(DriverError::new(
                "internal",
                "a host function was awaited after its end",
            )));
        };
        let answer = std::task::ready!(work.as_mut().poll(cx));
        self.work = None;
        Poll::Ready(answer)
    }
}

impl Drop for Uninterruptible {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            self.lingering.adopt(Arc::clone(&self.target), self.function, work);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_can_not_be_interrupted_goes_on_and_keeps_its_object() {
        let lingering = Arc::new(Lingering::default());
        let (finish, finished) = tokio::sync::oneshot::channel::<()>();
        let work: Work = Box::pin(async move {
            let _ = finished.await;
            Ok(Response::Unit)
        });
        drop(Uninterruptible::new(
            work,
            Arc::clone(&lingering),
            "pool/a".into(),
            "fs.copy-tree",
        ));
        assert!(lingering.on("pool/b").is_none());
        let (function, mut done) = lingering.on("pool/a").expect("it goes on");
        assert_eq!(function, "fs.copy-tree");
        finish.send(()).expect("it listens");
        assert!(done.changed().await.is_err(), "the sender is gone");
        assert!(lingering.on("pool/a").is_none());
        assert_eq!(lingering.count.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn parts_and_wholes_overlap() {
        assert!(overlap("pool/a", "pool/a"));
        assert!(overlap("pool", "pool/a") && overlap("pool/a", "pool"));
        assert!(!overlap("pool/a", "pool/ab") && !overlap("pool/a", "pool/b"));
    }

    #[tokio::test]
    async fn what_ends_in_time_is_not_kept() {
        let lingering = Arc::new(Lingering::default());
        let work: Work = Box::pin(async { Ok(Response::Bool(true)) });
        let answer = Uninterruptible::new(work, Arc::clone(&lingering), "a".into(), "fs.stat").await;
        assert_eq!(answer, Ok(Response::Bool(true)));
        assert!(lingering.on("a").is_none());
    }
}

//! How much memory all requests together may take, so that ten thousand at once are served one after the other or refused
//! with a clear answer.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of a unit of the budgets.
const UNIT: usize = 1 << 10;
/// How long a request waits for its turn before it is refused.
const PATIENCE: Duration = Duration::from_secs(10);

/// The budgets, all in KiB but the last.
#[derive(Debug)]
pub(crate) struct Budget {
    /// Bodies of requests that are held in memory.
    bodies: Arc<Semaphore>,
    /// Bodies of answers that their clients have yet to read.
    answers: Arc<Semaphore>,
    /// Listings that are put together at one time.
    listings: Arc<Semaphore>,
}

/// The turn didn't come.
#[derive(Debug, thiserror::Error)]
#[error("the server is busy with other requests: try again")]
pub(crate) struct Busy;

impl Budget {
    const BODIES: usize = 64 << 10;
    const ANSWERS: usize = 64 << 10;
    const LISTINGS: usize = 32;

    pub(crate) fn new() -> Self {
        Self {
            bodies: Arc::new(Semaphore::new(Self::BODIES)),
            answers: Arc::new(Semaphore::new(Self::ANSWERS)),
            listings: Arc::new(Semaphore::new(Self::LISTINGS)),
        }
    }

    /// Room for a request's body that has `bytes` by now, in addition to what is `held` for it.
    pub(crate) async fn body(&self, held: &mut Option<OwnedSemaphorePermit>, bytes: usize) -> Result<(), Busy> {
        let present = held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits) * UNIT;
        if bytes <= present {
            return Ok(());
        }
        let more = take(&self.bodies, bytes - present, Self::BODIES).await?;
        match held {
            Some(held) => held.merge(more),
            None => *held = Some(more),
        }
        Ok(())
    }

    /// Room for an answer's body of `bytes`; one that is larger than the whole budget takes all of it.
    pub(crate) async fn answer(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Busy> {
        take(&self.answers, bytes, Self::ANSWERS).await
    }

    /// The turn to put a listing together.
    pub(crate) async fn listing(&self) -> Result<OwnedSemaphorePermit, Busy> {
        take(&self.listings, 1, Self::LISTINGS).await
    }
}

async fn take(semaphore: &Arc<Semaphore>, bytes: usize, all: usize) -> Result<OwnedSemaphorePermit, Busy> {
    let units = bytes.div_ceil(UNIT).clamp(1, all);
    let units = u32::try_from(units).map_err(|_| Busy)?;
    match tokio::time::timeout(PATIENCE, Arc::clone(semaphore).acquire_many_owned(units)).await {
        Ok(Ok(permit)) => Ok(permit),
        // The semaphores are never closed, so only time runs out.
        Ok(Err(_)) | Err(_) => Err(Busy),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_comes_too_late_waits() {
        let budget = Budget::new();
        let all = budget.answer(usize::MAX).await.unwrap();
        let mut late = Box::pin(budget.answer(1));
        assert!(futures_util::poll!(late.as_mut()).is_pending());
        drop(all);
        assert!(late.await.is_ok());
    }

    #[tokio::test]
    async fn a_body_takes_room_as_it_comes() {
        let budget = Budget::new();
        let (mut held, free) = (None, budget.bodies.available_permits());
        for bytes in 1..=3 * UNIT {
            budget.body(&mut held, bytes).await.unwrap();
            assert_eq!(free - budget.bodies.available_permits(), bytes.div_ceil(UNIT));
        }
        drop(held);
        assert_eq!(budget.bodies.available_permits(), free);
    }
}

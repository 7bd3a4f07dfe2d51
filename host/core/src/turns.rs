//! One change of an object at a time, and changes of different objects side by side: a driver that takes its time over one
//! pool keeps nobody from making another.

use std::collections::HashMap;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};

use tokio::sync::{Mutex, OwnedMutexGuard};

/// Whose turn it is, by the objects' names. Objects that nobody changes take no room.
#[derive(Debug, Default)]
pub(crate) struct Turns(StdMutex<HashMap<String, Arc<Mutex<()>>>>);

/// A turn; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    turns: &'a Turns,
    object: String,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    /// Waits until nobody else changes `object`.
    pub(crate) async fn take(&self, object: &str) -> Turn<'_> {
        let lock = {
            let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(table.entry(object.to_owned()).or_default())
        };
        // Made before the wait, so that one that is given up leaves nothing in the table.
        let mut turn = Turn {
            turns: self,
            object: object.to_owned(),
            guard: None,
        };
        turn.guard = Some(lock.lock_owned().await);
        turn
    }

    /// Waits until nobody else changes either object. Whoever takes two takes them in the order of their names.
    pub(crate) async fn take_two(&self, one: &str, other: &str) -> (Turn<'_>, Option<Turn<'_>>) {
        match one.cmp(other) {
            std::cmp::Ordering::Equal => (self.take(one).await, None),
            std::cmp::Ordering::Less => {
                let first = self.take(one).await;
                (first, Some(self.take(other).await))
            }
            std::cmp::Ordering::Greater => {
                let first = self.take(other).await;
                (first, Some(self.take(one).await))
            }
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut table = self.turns.0.lock().unwrap_or_else(PoisonError::into_inner);
        self.guard = None;
        // Others hold copies of it while they wait or work, and copies are made under the table's lock.
        if table.get(&self.object).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            table.remove(&self.object);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_at_a_time_and_others_beside_it() {
        let turns = Turns::default();
        let first = turns.take("a").await;
        let mut second = Box::pin(turns.take("a"));
        assert!(futures_util::poll!(&mut second).is_pending(), "it waits for the first");
        drop(turns.take("b").await);
        drop(first);
        drop(second.await);
        assert!(turns.0.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn one_that_gives_up_leaves_nothing() {
        let turns = Turns::default();
        let first = turns.take("a").await;
        let mut second = Box::pin(turns.take("a"));
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        drop(second);
        assert!(turns.0.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn two_are_taken_in_one_order() {
        let turns = Turns::default();
        let ab = turns.take_two("a", "b").await;
        let mut ba = Box::pin(turns.take_two("b", "a"));
        assert!(futures_util::poll!(&mut ba).is_pending());
        drop(ab);
        drop(ba.await);
        drop(turns.take_two("a", "a").await);
        assert!(turns.0.lock().unwrap().is_empty());
    }
}

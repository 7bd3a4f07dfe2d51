//! Drivers' names between the moment when somebody decides to use one and that when the object that uses it can be seen, and
//! while the plugin behind it is changed. Without this a plugin could go, or lose a driver, right while a pool is made on it.
//!
//! Whoever makes something waits for a change of the plugin that it wants; whoever changes a plugin waits for nobody, and counts what
//! is being made among its users.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// A driver: its family and its name.
type Driver = (String, String);

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Uses {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Drivers on which something is being made.
    begun: Vec<Driver>,
    /// Drivers whose plugins are being changed.
    changing: Vec<Driver>,
}

/// Something is being made on a driver, as long as this lives.
#[derive(Debug)]
pub(crate) struct Use<'a> {
    uses: &'a Uses,
    driver: Driver,
}

/// The plugin of some drivers is being changed, as long as this lives.
#[derive(Debug)]
pub(crate) struct Change<'a> {
    uses: &'a Uses,
    drivers: Vec<Driver>,
}

impl Uses {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that something will be made on a driver, as soon as its plugin is not being changed. The answer is kept until the
    /// object can be seen by all.
    pub(crate) async fn begin(&self, family: &str, name: &str) -> Use<'_> {
        let driver = (family.to_owned(), name.to_owned());
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Before it is looked, so that nothing is missed in between.
            changed.as_mut().enable();
            {
                let mut state = self.state();
                if !state.changing.contains(&driver) {
                    state.begun.push(driver.clone());
                    return Use { uses: self, driver };
                }
            }
            changed.await;
        }
    }

    /// Says that the plugin of these drivers is being changed: nothing is begun on them until the answer is dropped.
    pub(crate) fn change(&self, drivers: Vec<Driver>) -> Change<'_> {
        self.state().changing.extend(drivers.iter().cloned());
        Change { uses: self, drivers }
    }
}

impl Change<'_> {
    /// The drivers, each with its family.
    pub(crate) fn drivers(&self) -> &[Driver] {
        &self.drivers
    }

    /// The names of its drivers of `family` on which something is being made.
    pub(crate) fn begun(&self, family: &str) -> Vec<String> {
        let state = self.uses.state();
        let begun = state.begun.iter().filter(|driver| self.drivers.contains(driver));
        begun
            .filter(|(of, _)| of == family)
            .map(|(_, name)| name.clone())
            .collect()
    }
}

/// Takes one of each out of a list in which others may have the same.
fn take(list: &mut Vec<Driver>, driver: &Driver) {
    if let Some(at) = list.iter().position(|other| other == driver) {
        list.swap_remove(at);
    }
}

impl Drop for Use<'_> {
    fn drop(&mut self) {
        take(&mut self.uses.state().begun, &self.driver);
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        let mut state = self.uses.state();
        for driver in &self.drivers {
            take(&mut state.changing, driver);
        }
        drop(state);
        self.uses.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::poll;

    use super::*;

    fn storage(name: &str) -> Vec<Driver> {
        vec![("storage".to_owned(), name.to_owned())]
    }

    #[tokio::test]
    async fn what_is_being_made_is_seen_by_who_changes_its_plugin() {
        let uses = Uses::default();
        let made = uses.begin("storage", "a").await;
        let other = uses.begin("network", "a").await;
        let change = uses.change(storage("a"));
        assert_eq!(change.begun("storage"), ["a"]);
        assert!(change.begun("network").is_empty(), "it is another family's");
        drop(made);
        assert!(change.begun("storage").is_empty());
        drop(other);
    }

    #[tokio::test]
    async fn nothing_is_begun_while_a_plugin_is_changed() {
        let uses = Uses::default();
        let (first, second) = (uses.change(storage("a")), uses.change(storage("a")));
        let mut making = Box::pin(uses.begin("storage", "a"));
        assert!(poll!(making.as_mut()).is_pending());
        assert!(poll!(Box::pin(uses.begin("storage", "b"))).is_ready());
        drop(first);
        assert!(poll!(making.as_mut()).is_pending(), "another change goes on");
        drop(second);
        assert!(poll!(making.as_mut()).is_ready());
    }
}

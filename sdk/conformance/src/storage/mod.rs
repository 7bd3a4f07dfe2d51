//! The suites of storage drivers: `pool`, `volume`, `snapshot`, `clone`, `release`, `quota`.

mod action;
mod clone;
mod pool;
mod quota;
mod release;
mod room;
mod snapshot;
mod volume;

use crate::{Case, Stand};

/// The cases for what the driver exports.
pub(crate) fn cases(stand: &Stand) -> Vec<Case> {
    let mut cases = pool::cases();
    cases.extend(volume::cases());
    if stand.can("snapshot") {
        cases.extend(snapshot::cases());
    }
    if stand.can("clone") {
        cases.extend(clone::cases());
    }
    if stand.can("release") {
        cases.extend(release::cases());
    }
    if stand.can("quota") {
        cases.extend(quota::cases());
    }
    let actions = action::Action::ALL.into_iter().filter(|action| action.applies(stand));
    cases.extend(actions.flat_map(action::Action::cases));
    cases
}

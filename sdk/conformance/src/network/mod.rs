//! The suites of network drivers: `network`, `nic`, `lease`.

mod action;
mod lease;
mod nic;
mod room;
mod whole;

use crate::{Case, Stand};

/// The cases for what the driver exports.
pub(crate) fn cases(stand: &Stand) -> Vec<Case> {
    let mut cases = whole::cases();
    cases.extend(nic::cases());
    if stand.can("lease") {
        cases.extend(lease::cases());
    }
    cases.extend(action::Action::ALL.into_iter().flat_map(action::Action::cases));
    cases
}

//! The suite of zone drivers: `zone`.

mod action;
mod names;
mod room;
mod shown;
mod whole;

use crate::{Case, Stand};

/// The cases for what the driver exports.
pub(crate) fn cases(_stand: &Stand) -> Vec<Case> {
    let mut cases = whole::cases();
    cases.extend(names::cases());
    cases.extend(action::Action::ALL.into_iter().flat_map(action::Action::cases));
    cases
}

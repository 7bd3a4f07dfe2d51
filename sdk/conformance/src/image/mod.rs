//! The suites of image sources: `source`, `build`.

mod build;
mod room;
mod server;
mod source;

use crate::{Case, Stand};

/// The cases for what the driver exports.
pub(crate) fn cases(stand: &Stand) -> Vec<Case> {
    let mut cases = source::cases();
    if stand.can("build") {
        cases.extend(build::cases());
    }
    cases
}

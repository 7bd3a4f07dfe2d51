//! The language of the `filter` parameter.

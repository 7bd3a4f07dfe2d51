//! What needs the whole.

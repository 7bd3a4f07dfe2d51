//! The daemon's state.

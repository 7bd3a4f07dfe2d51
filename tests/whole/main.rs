//! Tests of the whole: each starts a daemon of its own.

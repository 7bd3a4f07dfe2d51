//! The plugin host: components, grants, calls and quarantine.

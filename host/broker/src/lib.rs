//! What the host does for a plugin, and the check that it may.

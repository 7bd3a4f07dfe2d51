//! Instances, images, storage, networks, profiles, projects, operations and the journal.

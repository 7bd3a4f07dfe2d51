//! The storage-dir driver.

//! The storage-overlay driver.

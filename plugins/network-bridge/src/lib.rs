//! The network-bridge driver.

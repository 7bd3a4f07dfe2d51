//! The image-debian driver.

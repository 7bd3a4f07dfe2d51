//! The image-simplestreams driver.

//! Unpacking and reading of image archives.

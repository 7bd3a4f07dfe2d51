//! Image archives: reading, unpacking and writing them.
//!
//! An image comes as one archive with `metadata.yaml`, `templates/` and `rootfs/` in it (*unified*), or as one with the first two
//! and another that is the root file system (*split*). Archives are tar, plain or compressed with gzip, bzip2, xz or zstd, or
//! squashfs; which one is told by their content. All of it is hostile input: it is read by a process of its own that is
//! confined to the directory it writes (see `jail`), in memory-safe code that resolves every name without links (see `disk`),
//! within [`Limits`].
//!
//! What is refused, with an error that names the entry ([`Refusal`]): names that are absolute or lead upwards; entries behind a
//! symbolic link or below something that is not a directory; hard links out of the tree; block and character devices,
//! except in `dev/`, where they are left out, because distributions' archives have them there and a container's `/dev` is made
//! by its host; damaged and truncated archives; and what exceeds the limits. What is kept: owners, modes with set-uid
//! bits, times, hard links, holes of sparse files, and the extended attributes that belong to an image.
//!
//! The templates of an image are as hostile as the rest of it, and are rendered in such a process, too (see `render`).

mod check;
mod child;
mod client;
mod disk;
mod entry;
mod error;
mod fingerprint;
mod jail;
mod layout;
mod limits;
mod metadata;
mod pack;
mod render;
mod squashfs;
mod stream;
mod tar;
mod tree;
mod walk;

pub use child::{SUBCOMMAND, run_if_asked};
pub use client::Unpacker;
pub use error::{Errno, Error, Refusal, Result};
pub use fingerprint::{Fingerprint, fingerprint};
pub use layout::Content;
pub use limits::Limits;
pub use metadata::{ImageMetadata, METADATA_FILE, ROOTFS_DIR, TEMPLATES_DIR, Template, is_template_name};
pub use pack::{Placed, PlacedKind, write_metadata};
pub use render::{Page, Surroundings};
pub use stream::extension;
pub use walk::{Inspection, Progress, Report};

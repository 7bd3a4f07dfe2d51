//! Images that a driver builds on this machine.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use hutch_archive::{ImageMetadata, Placed, PlacedKind};
use hutch_driver::image::{BuiltImage, ImageDriver, ImageRequest, PlacedFile};
use hutch_driver::{Call, Root, TreePath};

use super::fetch::Found;
use super::files::StagedFile;
use super::import::{archive_error, check_properties, watch};
use super::record::ImageRecord;
use super::volume::open_below;
use crate::error::{Error, Result};
use crate::{Core, Operation};

/// The id under which a driver sees the directory that it builds in.
const SCRATCH: &str = "scratch";
/// Entries that may be placed into an image, and bytes of each, as `wit/image` has it.
const MOST_PLACED: usize = 64;
const MOST_PLACED_BYTES: usize = 64 << 10;

impl Core {
    /// Has a driver build an image, and makes it one of ours.
    pub(super) async fn build(
        self: &Arc<Self>,
        driver: &Arc<dyn ImageDriver>,
        call: &Call,
        request: &ImageRequest,
        found: Found,
        operation: &Arc<Operation>,
    ) -> Result<Arc<ImageRecord>> {
        let action = format!("building image {}", found.origin.name);
        let scratch = self.images.files.scratch()?;
        let mut call = call.clone();
        call.roots = vec![Root {
            id: SCRATCH.to_owned(),
            path: scratch.path().to_owned(),
            writable: true,
        }];
        let at = TreePath {
            root: SCRATCH.to_owned(),
            path: String::new(),
        };
        let built = driver
            .build(&call, request, &at)
            .await
            .map_err(Error::driver(&action))?;
        let metadata = ImageMetadata {
            architecture: found.image.architecture.clone(),
            creation_date: time::OffsetDateTime::now_utc().unix_timestamp(),
            expiry_date: found.image.expires,
            properties: found
                .image
                .properties
                .clone()
                .into_iter()
                .chain(built.properties.clone())
                .collect(),
            templates: BTreeMap::new(),
        };
        check_properties(&metadata.properties)?;
        let (main, rootfs) = self
            .pack_built(scratch.path(), built, &metadata, operation, &action)
            .await?;
        drop(scratch);
        self.take_in(found.into_new(main, Some(rootfs)), operation).await
    }

    /// Makes the two archives of a split image from what a driver built and what it wants placed in it.
    async fn pack_built(
        self: &Arc<Self>,
        scratch: &Path,
        built: BuiltImage,
        metadata: &ImageMetadata,
        operation: &Arc<Operation>,
        action: &str,
    ) -> Result<(StagedFile, StagedFile)> {
        let archive = open_built(scratch, &built.rootfs).map_err(Error::io(action))?;
        let placed = built.files.into_iter().map(placed).collect::<Result<Vec<Placed>>>()?;
        if placed.len() > MOST_PLACED {
            return Err(Error::invalid(format!(
                "Image driver wants more than {MOST_PLACED} files placed"
            )));
        }
        let (main, rootfs) = (self.stage_upload()?, self.stage_upload()?);
        hutch_archive::write_metadata(metadata, &BTreeMap::new(), main.file()).map_err(archive_error(action))?;
        let total = archive.metadata().map_err(Error::io(action))?.len();
        let (unpacker, operation, what) = (self.images.unpacker.clone(), Arc::clone(operation), action.to_owned());
        let work = move || {
            let watch = &mut watch(&operation, "Packing image", total);
            unpacker
                .repack(&archive, &placed, rootfs.file(), watch)
                .map_err(archive_error(&what))?;
            Ok::<_, Error>(rootfs)
        };
        let rootfs = tokio::task::spawn_blocking(work)
            .await
            .map_err(|e| Error::io(action)(std::io::Error::other(e)))??;
        Ok((main, rootfs))
    }
}

/// Opens what a driver built, in its scratch directory and not behind a link.
fn open_built(scratch: &Path, built: &TreePath) -> std::io::Result<std::fs::File> {
    use rustix::fs::{Mode, OFlags, ResolveFlags};
    let not_here = || {
        std::io::Error::new(
            std::io::ErrorKind::NotFound,
            "the driver's answer is outside its scratch directory",
        )
    };
    if built.root != SCRATCH || built.path.is_empty() {
        return Err(not_here());
    }
    let root = open_below(scratch, Path::new(""))?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let below = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let file = std::fs::File::from(rustix::fs::openat2(root, &*built.path, flags, Mode::empty(), below)?);
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(not_here())
    }
}

/// Checks a file that a driver wants placed. Its path is checked where it is placed.
fn placed(file: PlacedFile) -> Result<Placed> {
    if file.data.len() > MOST_PLACED_BYTES {
        return Err(Error::invalid(format!(
            "The file {:.200?} to be placed in the image is too large",
            file.path
        )));
    }
    let kind = match file.kind.as_str() {
        "file" => PlacedKind::File {
            mode: file.mode & 0o7777,
            data: file.data,
        },
        "symlink" => PlacedKind::Symlink { target: file.data },
        other => {
            return Err(Error::invalid(format!(
                "A file of the kind {other:.32?} can't be placed in an image"
            )));
        }
    };
    Ok(Placed { path: file.path, kind })
}

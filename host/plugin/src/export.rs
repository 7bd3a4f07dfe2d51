//! What a plugin exports: one typed function at a time, looked up and checked when the plugin is loaded.

use std::marker::PhantomData;

use wasmtime::component::types::ComponentItem;
use wasmtime::component::{ComponentExportIndex, ComponentNamedList, ComponentType, InstancePre, Lift, Lower};

use crate::bindings::{host, image, network, storage};
use crate::state::CallState;

/// A function that a plugin exports, with parameters `P` and the result `result<T, error>`.
pub(crate) struct Export<P, T> {
    pub(crate) index: ComponentExportIndex,
    /// `pool.validate`.
    pub(crate) name: &'static str,
    types: PhantomData<fn(P) -> T>,
}

/// What every exported function returns.
pub(crate) type Answer<T> = (Result<T, host::types::Error>,);

/// Why a function could not be found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExportError {
    /// The interface lacks it.
    #[error("it does not export the function {0}")]
    Missing(&'static str),
    /// It has another type.
    #[error("its function {0} has another type than the world says")]
    Type(&'static str, #[source] wasmtime::Error),
}

impl<P, T> Export<P, T>
where
    P: ComponentNamedList + Lower + 'static,
    T: ComponentType + Lift + 'static,
{
    /// Finds `name` (`interface.function`) of the package `package`.
    fn find(pre: &InstancePre<CallState>, package: Package, name: &'static str) -> Result<Self, ExportError> {
        let missing = || ExportError::Missing(name);
        let (interface, function) = name.split_once('.').ok_or_else(missing)?;
        let component = pre.component();
        let path = format!("hutch:{}/{interface}@{}", package.0, package.1);
        let instance = component.get_export_index(None, path.as_str()).ok_or_else(missing)?;
        let (item, index) = component.get_export(Some(&instance), function).ok_or_else(missing)?;
        let ComponentItem::ComponentFunc(found) = item else {
            return Err(missing());
        };
        found
            .typecheck::<P, Answer<T>>(&pre.instance_type())
            .map_err(|error| ExportError::Type(name, error))?;
        Ok(Self {
            index,
            name,
            types: PhantomData,
        })
    }
}

#[derive(Clone, Copy)]
struct Package(&'static str, &'static str);

/// Declares the functions of an interface and how they are found.
macro_rules! interface {
    ($(#[$doc:meta])* $name:ident in $package:literal { $($field:ident: $wit:literal ($($param:ty),*) -> $result:ty;)* }) => {
        $(#[$doc])*
        pub(crate) struct $name {
            $(pub(crate) $field: Export<($($param,)*), $result>,)*
        }

        impl $name {
            fn find(pre: &InstancePre<CallState>) -> Result<Self, ExportError> {
                let version = crate::manifest::FAMILIES.iter().find(|(name, _)| *name == $package).map_or("", |f| f.1);
                let package = Package($package, version);
                Ok(Self { $($field: Export::find(pre, package, $wit)?,)* })
            }
        }
    };
}

use host::types::{MountPlan, Options, TreePath};
use network::types::{Lease, NetworkRef, NicRef};
use storage::types::{PoolRef, PoolSpace, VolumeRef, VolumeState};

interface! {
    /// `hutch:storage/pool`.
    Pool in "storage" {
        validate: "pool.validate" (Options) -> Options;
        create: "pool.create" (PoolRef) -> ();
        open: "pool.open" (PoolRef) -> ();
        delete: "pool.delete" (PoolRef) -> ();
        space: "pool.space" (PoolRef) -> PoolSpace;
        reconcile: "pool.reconcile" (PoolRef, Vec<VolumeState>) -> Vec<String>;
    }
}

interface! {
    /// `hutch:storage/volume`.
    Volume in "storage" {
        create: "volume.create" (PoolRef, VolumeRef) -> ();
        begin_fill: "volume.begin-fill" (PoolRef, VolumeRef) -> TreePath;
        end_fill: "volume.end-fill" (PoolRef, VolumeRef) -> ();
        create_from_image: "volume.create-from-image" (PoolRef, VolumeRef, VolumeRef, bool) -> ();
        delete: "volume.delete" (PoolRef, VolumeRef) -> ();
        rename: "volume.rename" (PoolRef, VolumeRef, String) -> ();
        mount: "volume.mount" (PoolRef, VolumeRef) -> MountPlan;
        usage: "volume.usage" (PoolRef, VolumeRef) -> Option<u64>;
    }
}

interface! {
    /// `hutch:storage/snapshot`.
    Snapshot in "storage" {
        create: "snapshot.create" (PoolRef, VolumeRef, String, bool) -> ();
        delete: "snapshot.delete" (PoolRef, VolumeRef, String) -> ();
        rename: "snapshot.rename" (PoolRef, VolumeRef, String, String) -> ();
        restore: "snapshot.restore" (PoolRef, VolumeRef, String) -> ();
        mount: "snapshot.mount" (PoolRef, VolumeRef, String) -> MountPlan;
    }
}

interface! {
    /// `hutch:storage/clone`.
    Clone in "storage" {
        copy: "clone.copy" (PoolRef, VolumeRef, Option<String>, VolumeRef, bool, bool) -> ();
    }
}

interface! {
    /// `hutch:storage/replica`.
    Replica in "storage" {
        copy: "replica.copy" (PoolRef, VolumeRef, Option<String>, VolumeRef, String, bool) -> ();
        begin_fill: "replica.begin-fill" (PoolRef, VolumeRef, String) -> TreePath;
        end_fill: "replica.end-fill" (PoolRef, VolumeRef, String) -> ();
        promote: "replica.promote" (PoolRef, VolumeRef, String) -> ();
    }
}

interface! {
    /// `hutch:storage/quota`.
    Quota in "storage" {
        set: "quota.set" (PoolRef, VolumeRef, Option<u64>) -> ();
    }
}

interface! {
    /// `hutch:network/network`.
    Network in "network" {
        validate: "network.validate" (NetworkRef, Option<Options>) -> Options;
        start: "network.start" (NetworkRef) -> ();
        update: "network.update" (NetworkRef, Options) -> ();
        stop: "network.stop" (NetworkRef) -> ();
        reconcile: "network.reconcile" (NetworkRef, Vec<NicRef>) -> Vec<String>;
    }
}

interface! {
    /// `hutch:network/nic`.
    Nic in "network" {
        validate: "nic.validate" (NetworkRef, Options) -> Options;
        attach: "nic.attach" (NetworkRef, NicRef) -> ();
        detach: "nic.detach" (NetworkRef, NicRef) -> ();
    }
}

interface! {
    /// `hutch:network/lease`.
    Leases in "network" {
        leases: "lease.leases" (NetworkRef, Vec<NicRef>) -> Vec<Lease>;
    }
}

interface! {
    /// `hutch:image/source`.
    Source in "image" {
        resolve: "source.resolve" (image::types::Request) -> image::types::Image;
        list: "source.list" (image::types::Request) -> Vec<image::types::Image>;
    }
}

interface! {
    /// `hutch:image/build`.
    Build in "image" {
        build: "build.build" (image::types::Request, TreePath) -> image::types::Built;
    }
}

/// A storage plugin's functions. The optional interfaces are those that it has.
pub(crate) struct StorageExports {
    pub(crate) pool: Pool,
    pub(crate) volume: Volume,
    pub(crate) snapshot: Option<Snapshot>,
    pub(crate) clone: Option<Clone>,
    pub(crate) replica: Option<Replica>,
    pub(crate) quota: Option<Quota>,
}

/// A network plugin's functions.
pub(crate) struct NetworkExports {
    pub(crate) network: Network,
    pub(crate) nic: Nic,
    pub(crate) lease: Option<Leases>,
}

/// An image plugin's functions.
pub(crate) struct ImageExports {
    pub(crate) source: Source,
    pub(crate) build: Option<Build>,
}

/// What a plugin exports, by its family.
pub(crate) enum Exports {
    Storage(Box<StorageExports>),
    Network(Box<NetworkExports>),
    Image(Box<ImageExports>),
}

impl Exports {
    /// Finds the functions of a plugin of `family` with these abilities.
    pub(crate) fn find(pre: &InstancePre<CallState>, family: &str, abilities: &[String]) -> Result<Self, ExportError> {
        fn when<T>(
            abilities: &[String],
            ability: &str,
            find: impl FnOnce() -> Result<T, ExportError>,
        ) -> Result<Option<T>, ExportError> {
            abilities.iter().any(|a| a == ability).then(find).transpose()
        }
        Ok(match family {
            "network" => Self::Network(Box::new(NetworkExports {
                network: Network::find(pre)?,
                nic: Nic::find(pre)?,
                lease: when(abilities, "lease", || Leases::find(pre))?,
            })),
            "image" => Self::Image(Box::new(ImageExports {
                source: Source::find(pre)?,
                build: when(abilities, "build", || Build::find(pre))?,
            })),
            _ => Self::Storage(Box::new(StorageExports {
                pool: Pool::find(pre)?,
                volume: Volume::find(pre)?,
                snapshot: when(abilities, "snapshot", || Snapshot::find(pre))?,
                clone: when(abilities, "clone", || Clone::find(pre))?,
                replica: when(abilities, "replica", || Replica::find(pre))?,
                quota: when(abilities, "quota", || Quota::find(pre))?,
            })),
        })
    }
}

//! What a plugin exports: one typed function at a time, known by name and type wherever the plugin runs, and looked up and
//! checked where its code is.

use std::collections::HashMap;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{ComponentExportIndex, ComponentNamedList, ComponentType, InstancePre, Lift, Lower};

use crate::bindings::{host, image, network, storage, zone};
use crate::state::CallState;

/// A function that a plugin exports, with parameters `P` and the result `result<T, error>`.
pub(crate) struct Export<P, T> {
    /// `pool.validate`.
    pub(crate) name: &'static str,
    package: Package,
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
    fn new(package: Package, name: &'static str) -> Self {
        Self {
            name,
            package,
            types: PhantomData,
        }
    }

    /// The same once more.
    pub(crate) fn copy(&self) -> Self {
        Self::new(self.package, self.name)
    }

    /// Finds the function in a plugin's code and holds its type against the one that it must have.
    fn find(&self, pre: &InstancePre<CallState>) -> Result<ComponentExportIndex, ExportError> {
        let (name, package) = (self.name, self.package);
        let missing = || ExportError::Missing(name);
        let (interface, function) = name.split_once('.').ok_or_else(missing)?;
        let component = pre.component();
        // Also one of an earlier version on the same track is found by this name. A later one was refused when the file was read.
        let path = format!("hutch:{}/{interface}@{}", package.0, package.1);
        let instance = component.get_export_index(None, path.as_str()).ok_or_else(missing)?;
        let (item, index) = component.get_export(Some(&instance), function).ok_or_else(missing)?;
        let ComponentItem::ComponentFunc(found) = item else {
            return Err(missing());
        };
        found
            .typecheck::<P, Answer<T>>(&pre.instance_type())
            .map_err(|error| ExportError::Type(name, error))?;
        Ok(index)
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
            fn new() -> Self {
                let package = Package($package, crate::versions::of_family($package));
                Self { $($field: Export::new(package, $wit),)* }
            }

            fn visit(&self, visitor: &mut impl Visitor) -> Result<(), ExportError> {
                $(visitor.visit(&self.$field)?;)*
                Ok(())
            }
        }
    };
}

use host::types::{MountPlan, Options, TreePath};
use network::types::{Lease, NetworkRef, NicRef};
use storage::types::{PoolRef, PoolSpace, VolumeRef, VolumeState};
use zone::types::ZoneRef;

interface! {
    /// `hutch:storage/pool`.
    Pool in "storage" {
        validate: "pool.validate" (PoolRef, Option<Options>) -> Options;
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
        begin_fill: "volume.begin-fill" (PoolRef, VolumeRef, bool) -> TreePath;
        end_fill: "volume.end-fill" (PoolRef, VolumeRef, bool) -> ();
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
    /// `hutch:storage/release`.
    Release in "storage" {
        volume: "release.volume" (PoolRef, VolumeRef) -> ();
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
        validate: "nic.validate" (NetworkRef, Options) -> ();
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
    /// `hutch:zone/zone`.
    Zone in "zone" {
        validate: "zone.validate" (ZoneRef, Option<Options>) -> Options;
        publish: "zone.publish" (ZoneRef, u64) -> ();
        delete: "zone.delete" (ZoneRef) -> ();
        reconcile: "zone.reconcile" (Vec<ZoneRef>) -> Vec<String>;
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
    pub(crate) release: Option<Release>,
    pub(crate) quota: Option<Quota>,
}

/// A network plugin's functions.
pub(crate) struct NetworkExports {
    pub(crate) network: Network,
    pub(crate) nic: Nic,
    pub(crate) lease: Option<Leases>,
}

/// A zone plugin's functions.
pub(crate) struct ZoneExports {
    pub(crate) zone: Zone,
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
    Zone(Box<ZoneExports>),
    Image(Box<ImageExports>),
}

/// Something that is done for every function of a plugin.
pub(crate) trait Visitor {
    /// Does it for one.
    fn visit<P, T>(&mut self, export: &Export<P, T>) -> Result<(), ExportError>
    where
        P: ComponentNamedList + Lower + DeserializeOwned + Send + Sync + 'static,
        T: ComponentType + Lift + Serialize + Send + Sync + 'static;
}

/// Where a plugin's functions are in its code, by their names.
pub(crate) type Indices = HashMap<&'static str, ComponentExportIndex>;

impl Exports {
    /// The functions that a plugin of `family` with these abilities has.
    pub(crate) fn of(family: &str, abilities: &[String]) -> Self {
        let can = |ability: &str| abilities.iter().any(|a| a == ability);
        match family {
            "network" => Self::Network(Box::new(NetworkExports {
                network: Network::new(),
                nic: Nic::new(),
                lease: can("lease").then(Leases::new),
            })),
            "zone" => Self::Zone(Box::new(ZoneExports { zone: Zone::new() })),
            "image" => Self::Image(Box::new(ImageExports {
                source: Source::new(),
                build: can("build").then(Build::new),
            })),
            _ => Self::Storage(Box::new(StorageExports {
                pool: Pool::new(),
                volume: Volume::new(),
                snapshot: can("snapshot").then(Snapshot::new),
                clone: can("clone").then(Clone::new),
                replica: can("replica").then(Replica::new),
                release: can("release").then(Release::new),
                quota: can("quota").then(Quota::new),
            })),
        }
    }

    /// Finds all of them in the plugin's code.
    ///
    /// # Errors
    /// One is missing or has another type.
    pub(crate) fn find(&self, pre: &InstancePre<CallState>) -> Result<Indices, ExportError> {
        struct Find<'a>(&'a InstancePre<CallState>, Indices);
        impl Visitor for Find<'_> {
            fn visit<P, T>(&mut self, export: &Export<P, T>) -> Result<(), ExportError>
            where
                P: ComponentNamedList + Lower + 'static,
                T: ComponentType + Lift + 'static,
            {
                self.1.insert(export.name, export.find(self.0)?);
                Ok(())
            }
        }
        let mut find = Find(pre, Indices::new());
        self.visit(&mut find)?;
        Ok(find.1)
    }

    /// Does something for each of them.
    ///
    /// # Errors
    /// The visitor's first.
    pub(crate) fn visit(&self, visitor: &mut impl Visitor) -> Result<(), ExportError> {
        match self {
            Self::Storage(exports) => {
                exports.pool.visit(visitor)?;
                exports.volume.visit(visitor)?;
                exports.snapshot.iter().try_for_each(|e| e.visit(visitor))?;
                exports.clone.iter().try_for_each(|e| e.visit(visitor))?;
                exports.replica.iter().try_for_each(|e| e.visit(visitor))?;
                exports.release.iter().try_for_each(|e| e.visit(visitor))?;
                exports.quota.iter().try_for_each(|e| e.visit(visitor))
            }
            Self::Network(exports) => {
                exports.network.visit(visitor)?;
                exports.nic.visit(visitor)?;
                exports.lease.iter().try_for_each(|e| e.visit(visitor))
            }
            Self::Zone(exports) => exports.zone.visit(visitor),
            Self::Image(exports) => {
                exports.source.visit(visitor)?;
                exports.build.iter().try_for_each(|e| e.visit(visitor))
            }
        }
    }
}

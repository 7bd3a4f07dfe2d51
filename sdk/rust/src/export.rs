//! From the traits to the component's exports.

use std::marker::PhantomData;

use crate::bindings as b;
use crate::bindings::imports::hutch::host::types::{Error as WireError, MountPlan, Options, TreePath};
use crate::host::Imports;
use crate::image::{Built, Image, ImageRequest};
use crate::network::{LeaseEntry, NetworkRef, NicRef};
use crate::storage::{CopySource, PoolRef, PoolSpace, VolumeRef, VolumeState};
use crate::zone::ZoneRef;

type Wire<T> = Result<T, WireError>;

/// Implements the generated `Guest` traits with a driver's own.
#[derive(Debug)]
pub struct Adapter<D>(PhantomData<D>);

impl<D: crate::storage::Pool> b::storage_pool::exports::hutch::storage::pool::Guest for Adapter<D> {
    fn validate(pool: PoolRef, current: Option<Options>) -> Wire<Options> {
        Ok(D::validate(&Imports, &pool, current.as_deref())?)
    }
    fn create(pool: PoolRef) -> Wire<()> {
        Ok(D::create(&Imports, &pool)?)
    }
    fn open(pool: PoolRef) -> Wire<()> {
        Ok(D::open(&Imports, &pool)?)
    }
    fn delete(pool: PoolRef) -> Wire<()> {
        Ok(D::delete(&Imports, &pool)?)
    }
    fn space(pool: PoolRef) -> Wire<PoolSpace> {
        Ok(D::space(&Imports, &pool)?)
    }
    fn reconcile(pool: PoolRef, valid: Vec<VolumeState>) -> Wire<Vec<String>> {
        Ok(D::reconcile(&Imports, &pool, &valid)?)
    }
}

impl<D: crate::storage::Volume> b::storage_volume::exports::hutch::storage::volume::Guest for Adapter<D> {
    fn create(pool: PoolRef, volume: VolumeRef) -> Wire<()> {
        Ok(D::create(&Imports, &pool, &volume)?)
    }
    fn begin_fill(pool: PoolRef, volume: VolumeRef, plain: bool) -> Wire<TreePath> {
        Ok(D::begin_fill(&Imports, &pool, &volume, plain)?)
    }
    fn end_fill(pool: PoolRef, volume: VolumeRef, plain: bool) -> Wire<()> {
        Ok(D::end_fill(&Imports, &pool, &volume, plain)?)
    }
    fn create_from_image(pool: PoolRef, image: VolumeRef, volume: VolumeRef, plain: bool) -> Wire<()> {
        Ok(D::create_from_image(&Imports, &pool, &image, &volume, plain)?)
    }
    fn delete(pool: PoolRef, volume: VolumeRef) -> Wire<()> {
        Ok(D::delete(&Imports, &pool, &volume)?)
    }
    fn rename(pool: PoolRef, volume: VolumeRef, new_name: String) -> Wire<()> {
        Ok(D::rename(&Imports, &pool, &volume, &new_name)?)
    }
    fn mount(pool: PoolRef, volume: VolumeRef) -> Wire<MountPlan> {
        Ok(D::mount(&Imports, &pool, &volume)?)
    }
    fn usage(pool: PoolRef, volume: VolumeRef) -> Wire<Option<u64>> {
        Ok(D::usage(&Imports, &pool, &volume)?)
    }
}

impl<D: crate::storage::Snapshot> b::storage_snapshot::exports::hutch::storage::snapshot::Guest for Adapter<D> {
    fn create(pool: PoolRef, volume: VolumeRef, name: String, live: bool) -> Wire<()> {
        Ok(D::create(&Imports, &pool, &volume, &name, live)?)
    }
    fn delete(pool: PoolRef, volume: VolumeRef, name: String) -> Wire<()> {
        Ok(D::delete(&Imports, &pool, &volume, &name)?)
    }
    fn rename(pool: PoolRef, volume: VolumeRef, name: String, new_name: String) -> Wire<()> {
        Ok(D::rename(&Imports, &pool, &volume, &name, &new_name)?)
    }
    fn restore(pool: PoolRef, volume: VolumeRef, name: String) -> Wire<()> {
        Ok(D::restore(&Imports, &pool, &volume, &name)?)
    }
    fn mount(pool: PoolRef, volume: VolumeRef, name: String) -> Wire<MountPlan> {
        Ok(D::mount(&Imports, &pool, &volume, &name)?)
    }
}

impl<D: crate::storage::Clone> b::storage_clone::exports::hutch::storage::clone::Guest for Adapter<D> {
    fn copy(
        pool: PoolRef,
        source: VolumeRef,
        snapshot: Option<String>,
        target: VolumeRef,
        live: bool,
        plain: bool,
    ) -> Wire<()> {
        let source = CopySource {
            volume: &source,
            snapshot: snapshot.as_deref(),
            live,
        };
        Ok(D::copy(&Imports, &pool, source, &target, plain)?)
    }
}

impl<D: crate::storage::Replica> b::storage_replica::exports::hutch::storage::replica::Guest for Adapter<D> {
    fn copy(
        pool: PoolRef,
        source: VolumeRef,
        snapshot: Option<String>,
        volume: VolumeRef,
        name: String,
        live: bool,
    ) -> Wire<()> {
        let source = CopySource {
            volume: &source,
            snapshot: snapshot.as_deref(),
            live,
        };
        Ok(D::copy(&Imports, &pool, source, &volume, &name)?)
    }
    fn begin_fill(pool: PoolRef, volume: VolumeRef, name: String) -> Wire<TreePath> {
        Ok(D::begin_fill(&Imports, &pool, &volume, &name)?)
    }
    fn end_fill(pool: PoolRef, volume: VolumeRef, name: String) -> Wire<()> {
        Ok(D::end_fill(&Imports, &pool, &volume, &name)?)
    }
    fn promote(pool: PoolRef, volume: VolumeRef, name: String) -> Wire<()> {
        Ok(D::promote(&Imports, &pool, &volume, &name)?)
    }
}

impl<D: crate::storage::Release> b::storage_release::exports::hutch::storage::release::Guest for Adapter<D> {
    fn volume(pool: PoolRef, volume: VolumeRef) -> Wire<()> {
        Ok(D::volume(&Imports, &pool, &volume)?)
    }
}

impl<D: crate::storage::Quota> b::storage_quota::exports::hutch::storage::quota::Guest for Adapter<D> {
    fn set(pool: PoolRef, volume: VolumeRef, bytes: Option<u64>) -> Wire<()> {
        Ok(D::set(&Imports, &pool, &volume, bytes)?)
    }
}

impl<D: crate::network::Network> b::network_network::exports::hutch::network::network::Guest for Adapter<D> {
    fn validate(network: NetworkRef, current: Option<Options>) -> Wire<Options> {
        Ok(D::validate(&Imports, &network, current.as_deref())?)
    }
    fn start(network: NetworkRef) -> Wire<()> {
        Ok(D::start(&Imports, &network)?)
    }
    fn update(network: NetworkRef, old: Options) -> Wire<()> {
        Ok(D::update(&Imports, &network, &old)?)
    }
    fn stop(network: NetworkRef) -> Wire<()> {
        Ok(D::stop(&Imports, &network)?)
    }
    fn reconcile(network: NetworkRef, nics: Vec<NicRef>) -> Wire<Vec<String>> {
        Ok(D::reconcile(&Imports, &network, &nics)?)
    }
}

impl<D: crate::network::Nic> b::network_nic::exports::hutch::network::nic::Guest for Adapter<D> {
    fn validate(network: NetworkRef, config: Options) -> Wire<()> {
        Ok(D::validate(&Imports, &network, &config)?)
    }
    fn attach(network: NetworkRef, nic: NicRef) -> Wire<()> {
        Ok(D::attach(&Imports, &network, &nic)?)
    }
    fn detach(network: NetworkRef, nic: NicRef) -> Wire<()> {
        Ok(D::detach(&Imports, &network, &nic)?)
    }
}

impl<D: crate::network::Lease> b::network_lease::exports::hutch::network::lease::Guest for Adapter<D> {
    fn leases(network: NetworkRef, nics: Vec<NicRef>) -> Wire<Vec<LeaseEntry>> {
        Ok(D::leases(&Imports, &network, &nics)?)
    }
}

impl<D: crate::zone::Zone> b::zone_zone::exports::hutch::zone::zone::Guest for Adapter<D> {
    fn validate(zone: ZoneRef, current: Option<Options>) -> Wire<Options> {
        Ok(D::validate(&Imports, &zone, current.as_deref())?)
    }
    fn publish(zone: ZoneRef, version: u64) -> Wire<()> {
        Ok(D::publish(&Imports, &zone, version)?)
    }
    fn delete(zone: ZoneRef) -> Wire<()> {
        Ok(D::delete(&Imports, &zone)?)
    }
    fn reconcile(valid: Vec<ZoneRef>) -> Wire<Vec<String>> {
        Ok(D::reconcile(&Imports, &valid)?)
    }
}

impl<D: crate::image::Source> b::image_source::exports::hutch::image::source::Guest for Adapter<D> {
    fn resolve(request: ImageRequest) -> Wire<Image> {
        Ok(D::resolve(&Imports, &request)?)
    }
    fn list(request: ImageRequest) -> Wire<Vec<Image>> {
        Ok(D::list(&Imports, &request)?)
    }
}

impl<D: crate::image::Build> b::image_build::exports::hutch::image::build::Guest for Adapter<D> {
    fn build(request: ImageRequest, scratch: TreePath) -> Wire<Built> {
        Ok(D::build(&Imports, &request, &scratch)?)
    }
}

/// Makes a component that exports the interfaces `pool` and `volume`, and whatever else is named of `snapshot`, `clone`,
/// `replica`, `release` and `quota`, from a driver that implements the traits of [`crate::storage`]. Embeds `plugin.toml`, which lies beside
/// `Cargo.toml`.
#[macro_export]
macro_rules! storage_plugin {
    (driver: $driver:ty, exports: [$($interface:ident),+ $(,)?] $(,)?) => {
        $crate::__plugin!(storage, $driver, $($interface)+);
    };
}

/// Makes a component that exports the interfaces `network` and `nic`, and `lease` if it is named, from a driver that
/// implements the traits of [`crate::network`]. Embeds `plugin.toml`, which lies beside `Cargo.toml`.
#[macro_export]
macro_rules! network_plugin {
    (driver: $driver:ty, exports: [$($interface:ident),+ $(,)?] $(,)?) => {
        $crate::__plugin!(network, $driver, $($interface)+);
    };
}

/// Makes a component that exports the interface `zone` from a driver that implements [`crate::zone::Zone`]. Embeds `plugin.toml`,
/// which lies beside `Cargo.toml`.
#[macro_export]
macro_rules! zone_plugin {
    (driver: $driver:ty, exports: [$($interface:ident),+ $(,)?] $(,)?) => {
        $crate::__plugin!(zone, $driver, $($interface)+);
    };
}

/// Makes a component that exports the interface `source`, and `build` if it is named, from a driver that implements the traits
/// of [`crate::image`]. Embeds `plugin.toml`, which lies beside `Cargo.toml`.
#[macro_export]
macro_rules! image_plugin {
    (driver: $driver:ty, exports: [$($interface:ident),+ $(,)?] $(,)?) => {
        $crate::__plugin!(image, $driver, $($interface)+);
    };
}

/// Exists in WebAssembly alone: a native build has no use for the exported symbols, whose names its linker doesn't like.
#[doc(hidden)]
#[macro_export]
macro_rules! __plugin {
    ($family:ident, $driver:ty, $($interface:ident)+) => {
        #[cfg(target_family = "wasm")]
        type __HutchAdapter = $crate::export::Adapter<$driver>;

        #[cfg(target_family = "wasm")]
        #[used]
        #[unsafe(link_section = "hutch:manifest")]
        static __HUTCH_MANIFEST: [u8; include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/plugin.toml")).len()] =
            *include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/plugin.toml"));

        $( $crate::__export!($family $interface); )+

        // Whatever it is built for, the driver implements what it says that it exports.
        const _: () = {
            fn implements() { $( $crate::__implements!($family $interface $driver); )+ }
            let _ = implements;
        };
    };
}

macro_rules! export_tables {
    ($d:tt $(($family:ident $interface:ident $module:ident $check:ident $bound:path))+) => {
        $(
            #[doc(hidden)]
            pub fn $check<D: $bound>() {}
        )+

        #[doc(hidden)]
        #[macro_export]
        macro_rules! __export {
            $( ($family $interface) => {
                #[cfg(target_family = "wasm")]
                $d crate::bindings::$module::export!(__HutchAdapter with_types_in $d crate::bindings::$module);
            }; )+
        }

        #[doc(hidden)]
        #[macro_export]
        macro_rules! __implements {
            $( ($family $interface $d driver:ty) => { $d crate::export::$check::<$d driver>() }; )+
        }
    };
}

export_tables! { $
    (storage pool storage_pool check_pool crate::storage::Pool)
    (storage volume storage_volume check_volume crate::storage::Volume)
    (storage snapshot storage_snapshot check_snapshot crate::storage::Snapshot)
    (storage clone storage_clone check_clone crate::storage::Clone)
    (storage replica storage_replica check_replica crate::storage::Replica)
    (storage release storage_release check_release crate::storage::Release)
    (storage quota storage_quota check_quota crate::storage::Quota)
    (network network network_network check_network crate::network::Network)
    (network nic network_nic check_nic crate::network::Nic)
    (network lease network_lease check_lease crate::network::Lease)
    (zone zone zone_zone check_zone crate::zone::Zone)
    (image source image_source check_source crate::image::Source)
    (image build image_build check_build crate::image::Build)
}

//! What `wit-bindgen` makes of the WIT packages: all imports as one world, and one world per interface that a driver can
//! export, since the component's exports are the union of the worlds whose `export` macro is invoked.
//!
//! Nothing here is meant to be used directly: [`crate::Host`] and the traits of the families say the same in better Rust.

#![allow(missing_docs, reason = "generated; the documentation is in the WIT packages")]
#![allow(unsafe_code, reason = "generated: the canonical ABI passes memory by address")]
#![allow(unreachable_pub, clippy::pedantic, reason = "generated")]
#![allow(
    clippy::allow_attributes_without_reason,
    clippy::uninlined_format_args,
    reason = "generated"
)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "generated: the canonical ABI's integers"
)]
#![allow(clippy::undocumented_unsafe_blocks, reason = "generated")]

/// Everything that the host offers, and the records of every family.
pub mod imports {
    wit_bindgen::generate!({
        inline: "
            package hutch:sdk-imports;
            world imports {
                import hutch:host/log@0.1.0;
                import hutch:host/metric@0.1.0;
                import hutch:host/config@0.1.0;
                import hutch:host/kv@0.1.0;
                import hutch:host/progress@0.1.0;
                import hutch:host/fs@0.1.0;
                import hutch:host/link@0.1.0;
                import hutch:host/filter@0.1.0;
                import hutch:host/service@0.1.0;
                import hutch:host/command@0.1.0;
                import hutch:host/http@0.1.0;
                import hutch:host/watch@0.1.0;
                import hutch:host/system@0.1.0;
                import hutch:host/records@0.1.0;
                import hutch:storage/types@0.1.0;
                import hutch:network/types@0.1.0;
                import hutch:zone/types@0.1.0;
                import hutch:image/types@0.1.0;
            }
        ",
        path: ["../../wit/host/v0", "../../wit/storage/v0", "../../wit/network/v0", "../../wit/zone/v0", "../../wit/image/v0"],
        world: "hutch:sdk-imports/imports",
        generate_all,
        generate_unused_types: true,
        additional_derives: [PartialEq, Eq],
        runtime_path: "::hutch_sdk::rt",
    });
}

/// One world that exports one interface of a family, with the records shared with [`imports`].
macro_rules! export_world {
    ($module:ident, $inline:literal, $world:literal, $types:literal => $path:path) => {
        #[doc = concat!("Exporting `", $types, "`'s interface of this name.")]
        pub mod $module {
            wit_bindgen::generate!({
                inline: $inline,
                path: ["../../wit/host/v0", "../../wit/storage/v0", "../../wit/network/v0", "../../wit/zone/v0", "../../wit/image/v0"],
                world: $world,
                with: {
                    "hutch:host/types@0.1.0": crate::bindings::imports::hutch::host::types,
                    $types: $path,
                },
                pub_export_macro: true,
                runtime_path: "::hutch_sdk::rt",
            });
        }
    };
}

export_world!(
    storage_pool,
    "package hutch:sdk-storage-pool; world export-storage-pool { export hutch:storage/pool@0.1.0; }",
    "hutch:sdk-storage-pool/export-storage-pool",
    "hutch:storage/types@0.1.0" => crate::bindings::imports::hutch::storage::types
);
export_world!(
    storage_volume,
    "package hutch:sdk-storage-volume; world export-storage-volume { export hutch:storage/volume@0.1.0; }",
    "hutch:sdk-storage-volume/export-storage-volume",
    "hutch:storage/types@0.1.0" => crate::bindings::imports::hutch::storage::types
);
export_world!(
    storage_snapshot,
    "package hutch:sdk-storage-snapshot; world export-storage-snapshot { export hutch:storage/snapshot@0.1.0; }",
    "hutch:sdk-storage-snapshot/export-storage-snapshot",
    "hutch:storage/types@0.1.0" => crate::bindings::imports::hutch::storage::types
);
export_world!(
    storage_clone,
    "package hutch:sdk-storage-clone; world export-storage-clone { export hutch:storage/clone@0.1.0; }",
    "hutch:sdk-storage-clone/export-storage-clone",
    "hutch:storage/types@0.1.0" => crate::bindings::imports::hutch::storage::types
);
export_world!(
    storage_replica,
    "package hutch:sdk-storage-replica; world export-storage-replica { export hutch:storage/replica@0.1.0; }",
    "hutch:sdk-storage-replica/export-storage-replica",
    "hutch:storage/types@0.1.0" => crate::bindings::imports::hutch::storage::types
);
export_world!(
    storage_release,
    "package hutch:sdk-storage-release; world export-storage-release { export hutch:storage/release@0.1.0; }",
    "hutch:sdk-storage-release/export-storage-release",
    "hutch:storage/types@0.1.0" => crate::bindings::imports::hutch::storage::types
);
export_world!(
    storage_quota,
    "package hutch:sdk-storage-quota; world export-storage-quota { export hutch:storage/quota@0.1.0; }",
    "hutch:sdk-storage-quota/export-storage-quota",
    "hutch:storage/types@0.1.0" => crate::bindings::imports::hutch::storage::types
);
export_world!(
    network_network,
    "package hutch:sdk-network-network; world export-network-network { export hutch:network/network@0.1.0; }",
    "hutch:sdk-network-network/export-network-network",
    "hutch:network/types@0.1.0" => crate::bindings::imports::hutch::network::types
);
export_world!(
    network_nic,
    "package hutch:sdk-network-nic; world export-network-nic { export hutch:network/nic@0.1.0; }",
    "hutch:sdk-network-nic/export-network-nic",
    "hutch:network/types@0.1.0" => crate::bindings::imports::hutch::network::types
);
export_world!(
    network_lease,
    "package hutch:sdk-network-lease; world export-network-lease { export hutch:network/lease@0.1.0; }",
    "hutch:sdk-network-lease/export-network-lease",
    "hutch:network/types@0.1.0" => crate::bindings::imports::hutch::network::types
);
export_world!(
    zone_zone,
    "package hutch:sdk-zone-zone; world export-zone-zone { export hutch:zone/zone@0.1.0; }",
    "hutch:sdk-zone-zone/export-zone-zone",
    "hutch:zone/types@0.1.0" => crate::bindings::imports::hutch::zone::types
);
export_world!(
    image_source,
    "package hutch:sdk-image-source; world export-image-source { export hutch:image/source@0.1.0; }",
    "hutch:sdk-image-source/export-image-source",
    "hutch:image/types@0.1.0" => crate::bindings::imports::hutch::image::types
);
export_world!(
    image_build,
    "package hutch:sdk-image-build; world export-image-build { export hutch:image/build@0.1.0; }",
    "hutch:sdk-image-build/export-image-build",
    "hutch:image/types@0.1.0" => crate::bindings::imports::hutch::image::types
);

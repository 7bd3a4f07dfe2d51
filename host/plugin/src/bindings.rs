//! Rust types for the WIT packages, and the traits of the host's functions.
//!
//! Only imports are generated. A driver's exports are called through [`crate::export`], one typed function at a time,
//! because which of them are there is a matter of each plugin.

#![allow(
    missing_docs,
    unreachable_pub,
    reason = "what is generated here is documented in the WIT packages"
)]
#![allow(clippy::all, reason = "generated code")]

wasmtime::component::bindgen!({
    path: ["../../wit/host/v0", "../../wit/storage/v0", "../../wit/network/v0", "../../wit/zone/v0", "../../wit/image/v0"],
    inline: "
        package hutch:plugin-host;

        world everything {
            import hutch:host/types@0.1.0;
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
    world: "hutch:plugin-host/everything",
    imports: { default: async | trappable },
    // Parameters and answers travel to and from plugins that run in a process of their own (`worker/`).
    additional_derives: [serde::Serialize, serde::Deserialize],
});

pub use hutch::{host, image, network, storage, zone};

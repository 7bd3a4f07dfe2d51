//! What `wit-bindgen` makes of the released packages, and what makes a plugin of it.

#![allow(missing_docs, reason = "generated; the documentation is in the WIT packages")]
#![allow(unsafe_code, reason = "generated: the canonical ABI passes memory by address")]
#![allow(unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]
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

wit_bindgen::generate!({
    inline: "
        package hutch:released-zone;
        world driver {
            import hutch:host/fs@0.1.0;
            import hutch:host/kv@0.1.0;
            import hutch:host/records@0.1.0;
            export hutch:zone/zone@0.1.0;
        }
    ",
    path: ["../../../wit/released/host/0.1.0", "../../../wit/released/zone/0.1.0"],
    world: "hutch:released-zone/driver",
    generate_all,
});

#[cfg(target_family = "wasm")]
use crate::Driver;

// A native build has no use for the exported symbols, whose names its linker doesn't like.
#[cfg(target_family = "wasm")]
export!(Driver with_types_in self);

#[cfg(target_family = "wasm")]
#[used]
#[unsafe(link_section = "hutch:manifest")]
static MANIFEST: [u8; include_bytes!("../plugin.toml").len()] = *include_bytes!("../plugin.toml");

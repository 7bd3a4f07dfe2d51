//! Reading a plugin's file before anything is compiled: the whole of it is validated, its manifest taken out, and its
//! imports and exports held against what this host has.

use wasmparser::{ComponentExternalKind, Encoding, Parser, Payload, ValidPayload, Validator, WasmFeatures};

use crate::manifest::{self, Manifest, ManifestError};

/// The largest file that is taken for a plugin, in bytes.
pub const MAX_FILE: u64 = 32 << 20;

/// Interfaces of each family: the required ones and the optional ones, which are its abilities.
const INTERFACES: [(&str, &[&str], &[&str]); 3] = [
    ("storage", &["pool", "volume"], &["snapshot", "clone", "quota"]),
    ("network", &["network", "nic"], &["lease"]),
    ("image", &["source"], &["build"]),
];

/// Interfaces of `hutch:host` that a plugin may import.
const HOST_INTERFACES: [&str; 14] = [
    "types", "log", "metric", "config", "kv", "progress", "fs", "link", "filter", "service", "command", "http",
    "watch", "system",
];

/// Why a file was refused as a plugin.
#[derive(Debug, thiserror::Error)]
pub enum BinaryError {
    /// It has more than [`MAX_FILE`] bytes.
    #[error("it has {0} bytes, and {MAX_FILE} are allowed")]
    TooLarge(u64),
    /// It is not WebAssembly, or damaged, or uses what this host has not.
    #[error("it is not a valid component")]
    Invalid(#[source] wasmparser::BinaryReaderError),
    /// It is a core module.
    #[error("it is a core module and not a component: build it for the target wasm32-wasip2")]
    NotAComponent,
    /// It has no manifest.
    #[error(
        "it has no custom section {}: it was not built with the SDK, or was stripped",
        manifest::SECTION
    )]
    NoManifest,
    /// It has several manifests.
    #[error("it has more than one custom section {}", manifest::SECTION)]
    TwoManifests,
    /// Its manifest is refused.
    #[error("its manifest is not valid")]
    Manifest(#[source] ManifestError),
    /// It wants something that this host does not offer.
    #[error("it imports {0}, which this host does not offer")]
    Import(String),
    /// It lacks a required interface.
    #[error("it does not export {0}, which its world requires")]
    Missing(String),
}

/// What a plugin's file says.
#[derive(Clone, Debug)]
pub struct Inspected {
    /// The manifest.
    pub manifest: Manifest,
    /// The manifest as it stands in the file.
    pub manifest_text: String,
    /// The optional interfaces that it exports.
    pub abilities: Vec<String>,
}

/// Validates `bytes` and reads what it is.
///
/// # Errors
/// Says the first reason why it can't be a plugin of this host.
pub fn inspect(bytes: &[u8]) -> Result<Inspected, BinaryError> {
    if bytes.len() as u64 > MAX_FILE {
        return Err(BinaryError::TooLarge(bytes.len() as u64));
    }
    let surface = read_surface(bytes)?;
    let section = match surface.manifests.as_slice() {
        [] => return Err(BinaryError::NoManifest),
        [one] => *one,
        _ => return Err(BinaryError::TwoManifests),
    };
    let manifest = Manifest::parse(section).map_err(BinaryError::Manifest)?;
    check_imports(manifest.family(), &surface.imports)?;
    let abilities = abilities(&manifest, &surface.exports)?;
    // `parse` has found it to be text.
    let manifest_text = String::from_utf8_lossy(section).into_owned();
    Ok(Inspected {
        manifest,
        manifest_text,
        abilities,
    })
}

#[derive(Default)]
struct Surface<'a> {
    manifests: Vec<&'a [u8]>,
    imports: Vec<String>,
    exports: Vec<String>,
}

/// Walks the whole file, nested modules and components included, so that a damaged one is found here.
fn read_surface(bytes: &[u8]) -> Result<Surface<'_>, BinaryError> {
    let features = WasmFeatures::default() - WasmFeatures::CM_ASYNC - WasmFeatures::THREADS - WasmFeatures::MEMORY64;
    let mut validator = Validator::new_with_features(features);
    let mut allocations = wasmparser::FuncValidatorAllocations::default();
    let mut surface = Surface::default();
    let mut depth = 0_u32;
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload.map_err(BinaryError::Invalid)?;
        match &payload {
            Payload::Version {
                encoding: Encoding::Module,
                ..
            } if depth == 0 => return Err(BinaryError::NotAComponent),
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            // Compilers put a custom section of the source into the core module.
            Payload::CustomSection(section) if section.name() == manifest::SECTION => {
                surface.manifests.push(section.data());
            }
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section.clone() {
                    surface
                        .imports
                        .push(import.map_err(BinaryError::Invalid)?.name.0.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section.clone() {
                    let export = export.map_err(BinaryError::Invalid)?;
                    if export.kind == ComponentExternalKind::Instance {
                        surface.exports.push(export.name.0.to_owned());
                    }
                }
            }
            Payload::End(_) => depth = depth.saturating_sub(1),
            _ => {}
        }
        match validator.payload(&payload).map_err(BinaryError::Invalid)? {
            ValidPayload::Func(function, body) => {
                let mut function = function.into_validator(std::mem::take(&mut allocations));
                function.validate(&body).map_err(BinaryError::Invalid)?;
                allocations = function.into_allocations();
            }
            ValidPayload::Ok | ValidPayload::Parser(_) | ValidPayload::End(_) => {}
        }
    }
    Ok(surface)
}

/// Every import must be one that the linker has. WASI is there as a whole (and empty); the rest is ours.
fn check_imports(family: &str, imports: &[String]) -> Result<(), BinaryError> {
    let types = format!("hutch:{family}/types");
    for import in imports {
        let name = import.split('@').next().unwrap_or_default();
        let ours = name
            .strip_prefix("hutch:host/")
            .is_some_and(|interface| HOST_INTERFACES.contains(&interface));
        let wasi = [
            "wasi:cli/",
            "wasi:clocks/",
            "wasi:filesystem/",
            "wasi:io/",
            "wasi:random/",
            "wasi:sockets/",
        ];
        if !(ours || name == types || wasi.iter().any(|package| name.starts_with(package))) {
            return Err(BinaryError::Import(import.clone()));
        }
    }
    Ok(())
}

/// The export list is the capability flag: the optional interfaces that are there.
fn abilities(manifest: &Manifest, exports: &[String]) -> Result<Vec<String>, BinaryError> {
    let family = manifest.family();
    let has = |interface: &str| {
        let wanted = format!("hutch:{family}/{interface}");
        exports.iter().any(|export| export.split('@').next() == Some(&wanted))
    };
    let (_, required, optional) = INTERFACES
        .iter()
        .find(|(name, ..)| *name == family)
        .unwrap_or(&INTERFACES[0]);
    if let Some(missing) = required.iter().find(|interface| !has(interface)) {
        return Err(BinaryError::Missing(format!("hutch:{family}/{missing}")));
    }
    Ok(optional
        .iter()
        .filter(|interface| has(interface))
        .map(|&interface| interface.to_owned())
        .collect())
}

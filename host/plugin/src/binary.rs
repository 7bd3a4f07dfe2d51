//! Reading a plugin's file before anything is compiled: the whole of it is validated, its manifest taken out, and its
//! imports and exports held against what this host has.

use wasmparser::{ComponentExternalKind, Encoding, Parser, Payload, ValidPayload, Validator, WasmFeatures};

use crate::manifest::{self, Manifest, ManifestError};
use crate::versions::{self, Fit};

/// The largest file that is taken for a plugin, in bytes.
pub const MAX_FILE: u64 = 32 << 20;

/// Interfaces of each family: the required ones and the optional ones, which are its abilities.
const INTERFACES: [(&str, &[&str], &[&str]); 4] = [
    (
        "storage",
        &["pool", "volume"],
        &["snapshot", "clone", "replica", "release", "quota"],
    ),
    ("network", &["network", "nic"], &["lease"]),
    ("zone", &["zone"], &[]),
    ("image", &["source"], &["build"]),
];

/// Interfaces of `hutch:host` that a plugin may import.
const HOST_INTERFACES: [&str; 15] = [
    "types", "log", "metric", "config", "kv", "progress", "fs", "link", "filter", "service", "command", "http",
    "watch", "system", "records",
];

/// Why a file was refused as a plugin.
#[derive(Debug, thiserror::Error)]
pub enum BinaryError {
    /// It has more than [`MAX_FILE`] bytes.
    #[error("it has {0} bytes, and {MAX_FILE} are allowed")]
    TooLarge(u64),
    /// It is something else than WebAssembly.
    #[error("it is not WebAssembly: it does not begin as such a file does")]
    NotWasm,
    /// It is damaged, or uses what this host has not.
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
    /// It was built against a version of an interface that does not go with this host's.
    #[error("it {does} {interface}, and this host has hutch:{package}@{ours}: {}", .fit.advice())]
    Version {
        /// `imports` or `exports`.
        does: &'static str,
        /// The interface, with its version.
        interface: String,
        /// Its package's name, without the namespace.
        package: &'static str,
        /// The version that the host has.
        ours: &'static str,
        /// What the plugin's is to it: never [`Fit::Fits`].
        fit: Fit,
    },
    /// It has an interface in several versions.
    #[error("it exports {0} in more than one version")]
    Twice(String),
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
    /// The instances that it imports, in the order of the file, each with its package and version.
    pub imports: Vec<String>,
    /// The instances that it exports, in the order of the file, each with its package and version.
    pub exports: Vec<String>,
}

/// Validates `bytes` and reads what it is.
///
/// # Errors
/// Says the first reason why it can't be a plugin of this host.
pub fn inspect(bytes: &[u8]) -> Result<Inspected, BinaryError> {
    if bytes.len() as u64 > MAX_FILE {
        return Err(BinaryError::TooLarge(bytes.len() as u64));
    }
    // The parser would say so in bytes.
    if !bytes.starts_with(b"\0asm") {
        return Err(BinaryError::NotWasm);
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
        imports: surface.imports,
        exports: surface.exports,
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

/// Refuses an interface of `package` whose version does not go with the host's.
fn check_version(
    does: &'static str,
    interface: &str,
    package: &'static str,
    ours: &'static str,
) -> Result<(), BinaryError> {
    let theirs = interface.split_once('@').map_or("", |(_, version)| version);
    match versions::fit(theirs, ours) {
        Fit::Fits => Ok(()),
        fit => Err(BinaryError::Version {
            does,
            interface: interface.to_owned(),
            package,
            ours,
            fit,
        }),
    }
}

/// Every import must be one that the linker has. WASI is there as a whole (and empty); the rest is ours.
fn check_imports(family: &'static str, imports: &[String]) -> Result<(), BinaryError> {
    let types = format!("hutch:{family}/types");
    for import in imports {
        let name = import.split('@').next().unwrap_or_default();
        let host = name.strip_prefix("hutch:host/");
        let wasi = [
            "wasi:cli/",
            "wasi:clocks/",
            "wasi:filesystem/",
            "wasi:io/",
            "wasi:random/",
            "wasi:sockets/",
        ];
        if host.is_some() {
            check_version("imports", import, "host", versions::HOST)?;
        } else if name == types {
            check_version("imports", import, family, versions::of_family(family))?;
        }
        let offered = host.is_some_and(|interface| HOST_INTERFACES.contains(&interface));
        if !(offered || name == types || wasi.iter().any(|package| name.starts_with(package))) {
            return Err(BinaryError::Import(import.clone()));
        }
    }
    Ok(())
}

/// The export list is the capability flag: the optional interfaces that are there. One that this host does not know, of whatever
/// version, is none of them.
fn abilities(manifest: &Manifest, exports: &[String]) -> Result<Vec<String>, BinaryError> {
    let family = manifest.family();
    let all = |interface: &str| {
        let wanted = format!("hutch:{family}/{interface}");
        exports
            .iter()
            .filter(move |export| export.split('@').next() == Some(&wanted))
    };
    let find = |interface: &str| all(interface).next();
    let (_, required, optional) = INTERFACES
        .iter()
        .find(|(name, ..)| *name == family)
        .unwrap_or(&INTERFACES[0]);
    if let Some(missing) = required.iter().find(|interface| find(interface).is_none()) {
        return Err(BinaryError::Missing(format!("hutch:{family}/{missing}")));
    }
    let ours = versions::of_family(family);
    for interface in required.iter().chain(*optional) {
        for export in all(interface) {
            check_version("exports", export, family, ours)?;
        }
        // Which of them is called would be the engine's choice.
        if all(interface).count() > 1 {
            return Err(BinaryError::Twice(format!("hutch:{family}/{interface}")));
        }
    }
    let there = optional.iter().filter(|interface| find(interface).is_some());
    Ok(there.map(|&interface| interface.to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use wasm_encoder::{
        Component, ComponentExportKind, ComponentExportSection, ComponentImportSection, ComponentTypeRef,
        ComponentTypeSection, CustomSection, InstanceType, Module, ModuleSection,
    };

    use super::*;

    const MANIFEST: &str = r#"
        manifest = 1
        id = "org.example.image.thing"
        version = "1.0.0"
        license = "MIT"
        world = "hutch:image@0.1.0"
        [provides]
        image = ["thing"]
    "#;

    fn custom(text: &str) -> CustomSection<'_> {
        CustomSection {
            name: Cow::Borrowed(manifest::SECTION),
            data: Cow::Borrowed(text.as_bytes()),
        }
    }

    /// A component that imports instances without functions under these names and exports them again under the others.
    fn component(manifests: &[&str], imports: &[&str], exports: &[&str]) -> Vec<u8> {
        let mut component = Component::new();
        for manifest in manifests {
            component.section(&custom(manifest));
        }
        let mut types = ComponentTypeSection::new();
        types.instance(&InstanceType::new());
        component.section(&types);
        let mut section = ComponentImportSection::new();
        for &import in imports {
            section.import(import, ComponentTypeRef::Instance(0));
        }
        component.section(&section);
        let mut section = ComponentExportSection::new();
        for &export in exports {
            section.export(export, ComponentExportKind::Instance, 0, None);
        }
        component.section(&section);
        component.finish()
    }

    const TYPES: &str = "hutch:image/types@0.1.0";
    const SOURCE: &str = "hutch:image/source@0.1.0";

    #[test]
    fn the_export_list_is_the_list_of_abilities() {
        let imports = [TYPES, "hutch:host/fs@0.1.0", "wasi:cli/stdout@0.2.6"];
        let plain = inspect(&component(&[MANIFEST], &imports, &[SOURCE])).expect("a plugin");
        assert_eq!(plain.manifest.id, "org.example.image.thing");
        assert!(plain.abilities.is_empty());
        assert_eq!(plain.manifest_text, MANIFEST);
        let exports = [SOURCE, "hutch:image/build@0.1.0", "hutch:image/something-new@0.1.0"];
        assert_eq!(
            inspect(&component(&[MANIFEST], &imports, &exports))
                .expect("a plugin")
                .abilities,
            ["build"]
        );
    }

    #[test]
    fn a_manifest_in_a_core_module_counts() {
        let mut module = Module::new();
        module.section(&custom(MANIFEST));
        let mut outer = component(&[], &[TYPES], &[SOURCE]);
        let mut with_module = Component::new();
        with_module.section(&ModuleSection(&module));
        // Without the second header: sections of one component follow one another.
        outer.splice(8..8, with_module.finish().split_off(8));
        assert_eq!(inspect(&outer).expect("a plugin").manifest.names(), ["thing"]);
    }

    #[test]
    fn refusals_say_what_is_wrong() {
        for (bytes, expected) in [
            (component(&[], &[TYPES], &[SOURCE]), "no custom section"),
            (
                component(&[MANIFEST, MANIFEST], &[TYPES], &[SOURCE]),
                "more than one custom section",
            ),
            (
                component(&["nonsense"], &[TYPES], &[SOURCE]),
                "its manifest is not valid",
            ),
            (
                component(&[MANIFEST], &[TYPES, "wasi:http/types@0.2.0"], &[SOURCE]),
                "imports wasi:http/types@0.2.0",
            ),
            (
                component(&[MANIFEST], &[TYPES, "hutch:host/root-shell@0.1.0"], &[SOURCE]),
                "hutch:host/root-shell",
            ),
            (
                component(&[MANIFEST], &[TYPES, "hutch:storage/types@0.1.0"], &[SOURCE]),
                "hutch:storage/types",
            ),
            (
                component(&[MANIFEST], &[TYPES], &["hutch:image/build@0.1.0"]),
                "does not export hutch:image/source",
            ),
            (
                component(&[MANIFEST], &[TYPES, "hutch:host/fs@0.1.1"], &[SOURCE]),
                "imports hutch:host/fs@0.1.1, and this host has hutch:host@0.1.0: it was built for a newer host",
            ),
            (
                component(&[MANIFEST], &["hutch:image/types@0.2.0"], &[SOURCE]),
                "imports hutch:image/types@0.2.0, and this host has hutch:image@0.1.0: use a version",
            ),
            (
                component(&[MANIFEST], &[TYPES, "hutch:host/fs"], &[SOURCE]),
                "imports hutch:host/fs, and this host has hutch:host@0.1.0",
            ),
            (
                component(&[MANIFEST], &[TYPES], &["hutch:image/source@0.1.1"]),
                "exports hutch:image/source@0.1.1, and this host has hutch:image@0.1.0: it was built for a newer host",
            ),
            (
                component(&[MANIFEST], &[TYPES], &[SOURCE, "hutch:image/build@0.2.0"]),
                "exports hutch:image/build@0.2.0, and this host has hutch:image@0.1.0",
            ),
            (
                component(&[MANIFEST], &[TYPES], &[SOURCE, "hutch:image/source@0.1.9"]),
                "it was built for a newer host",
            ),
            (Module::new().finish(), "core module"),
            (b"MZ".to_vec(), "it is not WebAssembly"),
            (b"\0asm\x0d\0\x01\0\xff".to_vec(), "not a valid component"),
        ] {
            let error = inspect(&bytes).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn damage_is_answered(at in 0_usize..600, with in proptest::num::u8::ANY, cut in 0_usize..600) {
            let mut bytes = component(&[MANIFEST], &[TYPES, "wasi:io/streams@0.2.0"], &[SOURCE]);
            if let Some(byte) = bytes.get_mut(at) {
                *byte = with;
            }
            let _ = inspect(&bytes);
            bytes.truncate(cut);
            let _ = inspect(&bytes);
        }
    }
}

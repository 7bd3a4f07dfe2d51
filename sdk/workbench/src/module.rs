//! A project in C as a component: its bindings are written from the interfaces, clang makes a core module of them and the driver, and
//! that becomes a component with its manifest in it. All but the compiler is in this program.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use hutch_plugin::manifest;
use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wasm_encoder::{ComponentSection as _, CustomSection};
use wit_bindgen_core::Files;
use wit_bindgen_core::wit_parser::Resolve;
use wit_component::ComponentEncoder;

/// The world that a project's `wit/world.wit` has.
const WORLD: &str = "plugin";
/// Where what is made on the way lies.
const WORKSHOP: &str = "build";

/// Builds the project in `folder` into `NAME.wasm` there, by the name of the driver.
///
/// # Errors
/// When a file can't be read or written, clang is missing or refuses the source, or the module does not fit its world.
pub(crate) fn build(folder: &Path) -> Result<()> {
    let manifest = folder.join("plugin.toml");
    let text = std::fs::read(&manifest).with_context(|| format!("can't read {}", manifest.display()))?;
    let parsed = manifest::Manifest::parse(&text).context("plugin.toml is not what it should be")?;
    let name = parsed.names().first().context("plugin.toml provides nothing")?.clone();
    let workshop = folder.join(WORKSHOP);
    bindings(&folder.join("wit"), &workshop)?;
    let module = workshop.join("module.wasm");
    compile(folder, &workshop, &module)?;
    let bytes = std::fs::read(&module).with_context(|| format!("can't read {}", module.display()))?;
    let mut component = component(&bytes)?;
    let section = CustomSection {
        name: Cow::Borrowed(manifest::SECTION),
        data: Cow::Borrowed(&text),
    };
    section.append_to_component(&mut component);
    // It appears whole: somebody may be reading the one before.
    let (fresh, made) = (workshop.join("component.wasm"), folder.join(format!("{name}.wasm")));
    std::fs::write(&fresh, component).with_context(|| format!("can't write {}", fresh.display()))?;
    std::fs::rename(&fresh, &made).with_context(|| format!("can't replace {}", made.display()))
}

/// Writes what the source includes: the types and functions of the world's interfaces.
fn bindings(wit: &Path, workshop: &Path) -> Result<()> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve
        .push_path(wit)
        .with_context(|| format!("the interfaces in {} can't be read", wit.display()))?;
    let world = resolve
        .select_world(&[package], Some(WORLD))
        .with_context(|| format!("{} has no world {WORLD}", wit.display()))?;
    let mut files = Files::default();
    wit_bindgen_c::Opts::default()
        .build()
        .generate(&mut resolve, world, &mut files)
        .context("the bindings can't be written")?;
    std::fs::create_dir_all(workshop).with_context(|| format!("can't create {}", workshop.display()))?;
    for (name, content) in files.iter() {
        let file = workshop.join(name);
        std::fs::write(&file, content).with_context(|| format!("can't write {}", file.display()))?;
    }
    Ok(())
}

/// Has clang make one core module of the driver's files in `src`, the bindings, and WASI's C library.
fn compile(folder: &Path, workshop: &Path, module: &Path) -> Result<()> {
    let clang = std::env::var_os("CLANG").unwrap_or_else(|| "clang".into());
    let shown = clang.to_string_lossy().into_owned();
    let mut command = Command::new(&clang);
    // A reactor has no main(): each function that it exports may be called.
    command.args(["--target=wasm32-wasi", "-mexec-model=reactor", "-std=c11", "-Os"]);
    command.args(["-Wall", "-Wextra", "-Wl,--strip-debug", "-I"]);
    command.arg(workshop).arg("-o").arg(module);
    command.args(sources(&folder.join("src"))?);
    command.arg(workshop.join(format!("{WORLD}.c")));
    command.arg(workshop.join(format!("{WORLD}_component_type.o")));
    let status = command.status().with_context(|| {
        format!(
            "can't run {shown}: on Debian and Ubuntu, `apt install clang lld wasi-libc libclang-rt-dev-wasm32` brings it (CLANG may \
             name another)"
        )
    })?;
    if !status.success() {
        bail!("{shown} failed ({status})");
    }
    Ok(())
}

/// The files in C below `src`, in the order of their names, so that the same source makes the same file.
fn sources(src: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(src).with_context(|| format!("can't list {}", src.display()))?;
    let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    found.retain(|path| path.extension().is_some_and(|kind| kind == "c"));
    found.sort();
    Ok(found)
}

/// A core module as a component. What it calls of WASI's first version goes to the second through the adapter, of which only that
/// much is taken.
fn component(module: &[u8]) -> Result<Vec<u8>> {
    ComponentEncoder::default()
        .validate(true)
        .module(module)
        .context("the module does not fit its world")?
        .adapter(
            WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME,
            WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
        )
        .context("the adapter of WASI does not fit")?
        .encode()
        .context("the module can't be made a component")
}

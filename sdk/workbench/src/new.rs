//! `new`: a folder with a driver that builds, to begin from. Everything that it writes is in this program, so that it needs neither
//! Hutch's tree nor a network.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

mod packed {
    include!(concat!(env!("OUT_DIR"), "/packed.rs"));
}

/// What a driver is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Family {
    /// Pools of volumes
    Storage,
    /// Networks and the interfaces of instances
    Network,
    /// Zones of the domain name system, where name servers find them
    Zone,
    /// Where images come from
    Image,
}

impl Family {
    fn name(self) -> &'static str {
        match self {
            Self::Storage => "storage",
            Self::Network => "network",
            Self::Zone => "zone",
            Self::Image => "image",
        }
    }
}

/// What it is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Language {
    /// With the SDK and cargo
    Rust,
    /// With componentize-py
    Python,
    /// With componentize-js
    #[value(name = "javascript", alias = "js")]
    JavaScript,
    /// With clang and WASI's C library
    C,
}

impl Language {
    fn name(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Python => "python",
            Self::JavaScript => "javascript",
            Self::C => "c",
        }
    }

    /// Folders of files that a driver of a family is tried with.
    fn data(self, family: Family) -> &'static [&'static str] {
        match (family, self) {
            // Its template has an index of lines, which C reads more easily than JSON.
            (Family::Image, Self::C) => &["image-testdata"],
            (Family::Image, _) => &["image-testdata", "image-index"],
            (Family::Zone, _) => &["zone-testdata"],
            (Family::Storage | Family::Network, _) => &[],
        }
    }

    /// What to type after the folder was made.
    fn next(self) -> &'static str {
        match self {
            Self::Rust => "cargo build && hutch plugin check && sudo hutch plugin test",
            Self::Python => {
                "pip install componentize-py && python3 build.py && hutch plugin check && sudo hutch plugin test"
            }
            Self::JavaScript => "npm install && npm run build && hutch plugin check && sudo hutch plugin test",
            Self::C => "hutch plugin build && hutch plugin check && sudo hutch plugin test",
        }
    }
}

/// What `new` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The folder to be made. Its last part is the name of the driver: a letter, and at most 31 more of a-z, 0-9 and -
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// What the driver is for
    #[arg(long)]
    family: Family,
    /// What it is written in
    #[arg(long, default_value = "rust")]
    language: Language,
    /// The plugin's id, a reversed domain name of yours; org.example.FAMILY.NAME otherwise
    #[arg(long)]
    id: Option<String>,
    /// Of a project in Rust: use the SDK in this folder (sdk/rust of Hutch's tree) instead of a copy in the new one
    #[arg(long, value_name = "FOLDER")]
    sdk: Option<PathBuf>,
}

/// Makes the folder.
///
/// # Errors
/// When it is there already, its name is none for a driver, or something can't be written.
pub(crate) fn run(options: &Options) -> Result<()> {
    let name = name(&options.folder)?;
    let family = options.family.name();
    let id = options
        .id
        .clone()
        .unwrap_or_else(|| format!("org.example.{family}.{name}"));
    let sdk = match &options.sdk {
        None => "vendor/sdk/rust".to_owned(),
        Some(path) => {
            let path = std::fs::canonicalize(path).with_context(|| format!("can't find {}", path.display()))?;
            path.display().to_string()
        }
    };
    let machine = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let krate = name.replace('-', "_");
    let values = [
        ("@name@", name.as_str()),
        ("@crate@", &krate),
        ("@family@", family),
        ("@id@", &id),
        ("@sdk@", &sdk),
        ("@machine@", &machine),
    ];
    let language = options.language.name();
    let template = below(packed::TEMPLATES, &format!("{language}-{family}"));
    if template.is_empty() {
        bail!("there is no template for a {family} driver in {language}");
    }
    let shared = below(packed::TEMPLATES, language);
    let data = options.language.data(options.family).iter();
    let data = data.flat_map(|folder| below(packed::TEMPLATES, folder));
    std::fs::create_dir(&options.folder).with_context(|| format!("can't create {}", options.folder.display()))?;
    for (path, content) in shared.into_iter().chain(template).chain(data) {
        write(&options.folder.join(path), &filled(content, &values)?)?;
    }
    vendor(options, family)?;
    println!(
        "made {} ({id}): a driver of the family {family}, in {language}",
        options.folder.display()
    );
    println!("next: cd {} && {}", options.folder.display(), options.language.next());
    Ok(())
}

/// Writes what the project is built against, so that it needs nothing of ours: for Rust the SDK with all interfaces, otherwise the
/// interfaces of its family.
fn vendor(options: &Options, family: &str) -> Result<()> {
    match options.language {
        Language::Rust if options.sdk.is_some() => Ok(()),
        Language::Rust => {
            let below = options.folder.join("vendor");
            let mut files = packed::VENDORED.iter();
            files.try_for_each(|(path, content)| write(&below.join(path), content))
        }
        Language::Python | Language::JavaScript | Language::C => {
            for package in ["host", family] {
                for (path, content) in below(packed::VENDORED, &format!("wit/{package}")) {
                    let file = Path::new(path).file_name().context("a file has a name")?;
                    write(&options.folder.join("wit/deps").join(package).join(file), content)?;
                }
            }
            Ok(())
        }
    }
}

/// The driver's name: the last part of the folder's path.
fn name(folder: &Path) -> Result<String> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let good = name.len() <= 32
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !good {
        bail!("{name:?} can't be the name of a driver: a letter, and at most 31 more of a-z, 0-9 and -");
    }
    Ok(name)
}

/// The files below a folder, with their paths from there.
fn below<'f>(files: &'f [(&str, &[u8])], folder: &str) -> Vec<(&'f str, &'f [u8])> {
    let inside = |path: &'f str| path.strip_prefix(folder)?.strip_prefix('/');
    files
        .iter()
        .filter_map(|(path, content)| Some((inside(path)?, *content)))
        .collect()
}

fn filled(content: &[u8], values: &[(&str, &str)]) -> Result<Vec<u8>> {
    let text = std::str::from_utf8(content).context("a template is not text")?;
    let text = values
        .iter()
        .fold(text.to_owned(), |text, (key, value)| text.replace(key, value));
    Ok(text.into_bytes())
}

fn write(file: &Path, content: &[u8]) -> Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("can't create {}", folder.display()))?;
    }
    std::fs::write(file, content).with_context(|| format!("can't write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_the_name_of_a_driver() {
        assert_eq!(name(Path::new("some/where/zfs-2")).unwrap(), "zfs-2");
        for bad in ["Zfs", "2zfs", "z fs", "..", "zfs-", "z_fs", &"z".repeat(33)] {
            assert!(name(Path::new(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn there_is_a_template_for_every_family_in_every_language() {
        for family in Family::value_variants() {
            for language in Language::value_variants() {
                let name = format!("{}-{}", language.name(), family.name());
                let files = below(packed::TEMPLATES, &name);
                assert!(files.iter().any(|(path, _)| *path == "plugin.toml"), "{name}");
            }
        }
    }

    #[test]
    fn nothing_is_left_to_be_filled_in() {
        for (path, content) in packed::TEMPLATES {
            let values = ["@name@", "@crate@", "@family@", "@id@", "@sdk@", "@machine@"].map(|key| (key, "x"));
            let text = String::from_utf8(filled(content, &values).unwrap()).unwrap();
            let left = text
                .split('@')
                .nth(1)
                .filter(|word| word.chars().all(|c| c.is_ascii_lowercase()) && !word.is_empty());
            assert_eq!(left, None, "{path}");
        }
        let sdk = packed::VENDORED
            .iter()
            .find(|(path, _)| *path == "sdk/rust/Cargo.toml")
            .unwrap();
        let text = std::str::from_utf8(sdk.1).unwrap();
        assert!(!text.contains("workspace") && text.contains("wit-bindgen"), "{text}");
    }
}

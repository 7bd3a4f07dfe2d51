//! Resolving a name, and building what it stands for.

use hutch_sdk::host::CommandOutput;
use hutch_sdk::image::{Build, Built, Image, ImageRequest, Source};
use hutch_sdk::{Error, Host, Options, Result, TreePath};

use crate::content::{Selection, files, selection};
use crate::suites::{Distribution, SUITES, Suite, find};
use crate::{Debian, sources};

/// Goes into the build key, so that images are built again when what is done here changes.
const RECIPE: u32 = 1;

/// The archive, in the scratch directory.
const ARCHIVE: &str = "rootfs.tar";

/// How many of mmdebstrap's last lines go into an error.
const TAIL: usize = 12;

/// What a request asks for, checked.
struct Order {
    suite: Suite,
    /// As Debian names it.
    architecture: String,
    selection: Selection,
    lines: Vec<String>,
}

/// Names of architectures: the kernel's, and Debian's.
const ARCHITECTURES: [(&str, &str); 7] = [
    ("x86_64", "amd64"),
    ("aarch64", "arm64"),
    ("armv7l", "armhf"),
    ("i686", "i386"),
    ("ppc64le", "ppc64el"),
    ("riscv64", "riscv64"),
    ("s390x", "s390x"),
];

/// The architecture, which must be the machine's own: packages run their scripts when they are installed.
fn architecture(host: &impl Host, request: &ImageRequest) -> Result<String> {
    let own = host.system_architecture();
    let wanted = request.architecture.as_str();
    let known = ARCHITECTURES
        .iter()
        .find(|(kernel, _)| *kernel == wanted)
        .map_or(wanted, |(_, debian)| debian);
    if wanted.is_empty() || known == own {
        return Ok(own);
    }
    Err(Error::unsupported(format!(
        "an image for {wanted} can't be built on this machine, which is {own}"
    )))
}

fn kernel_name(architecture: &str) -> String {
    let known = ARCHITECTURES.iter().find(|(_, debian)| *debian == architecture);
    known.map_or(architecture, |(kernel, _)| kernel).to_owned()
}

fn check_kind(request: &ImageRequest) -> Result<()> {
    match request.kind.as_str() {
        "" | "container" => Ok(()),
        kind => Err(Error::unsupported(format!(
            "images are built for containers, not for a {kind}"
        ))),
    }
}

fn order(host: &impl Host, request: &ImageRequest) -> Result<Order> {
    check_kind(request)?;
    let suite = find(&request.name).ok_or_else(|| {
        let names: Vec<&str> = SUITES.iter().map(|suite| suite.name).collect();
        Error::not_found(format!(
            "there is no release {:?} of Debian or Ubuntu; known are {}",
            request.name,
            names.join(", ")
        ))
    })?;
    let options = Options::new(&request.options);
    options.check_keys(
        "an image of Debian",
        &["mirror", "packages", "security-mirror", "variant"],
    )?;
    Ok(Order {
        suite,
        architecture: architecture(host, request)?,
        selection: selection(&options)?,
        lines: sources::lines(host, &suite, &options)?,
    })
}

impl Order {
    /// Two orders with the same key give images that are as good as each other.
    fn build_key(&self) -> String {
        let Selection { variant, packages } = &self.selection;
        let (suite, architecture) = (self.suite.name, &self.architecture);
        let (packages, lines) = (packages.join(","), self.lines.join(";"));
        format!(
            "recipe={RECIPE} suite={suite} architecture={architecture} variant={variant} packages={packages} sources={lines}"
        )
    }

    fn properties(&self) -> Vec<(String, String)> {
        let distribution = self.suite.distribution.name();
        let (suite, architecture) = (self.suite.name, &self.architecture);
        [
            ("os", distribution.to_owned()),
            ("release", suite.to_owned()),
            ("version", self.suite.version.to_owned()),
            ("architecture", architecture.clone()),
            ("variant", self.selection.variant.to_owned()),
            (
                "description",
                format!("{distribution} {suite} {architecture} (built on this machine)"),
            ),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .to_vec()
    }

    /// mmdebstrap's arguments, exactly as the manifest allows them. What follows `--` can be no option.
    fn arguments(&self) -> Vec<String> {
        let mut args = vec![
            "--mode=root".to_owned(),
            "--format=tar".to_owned(),
            format!("--variant={}", self.selection.variant),
            format!("--architectures={}", self.architecture),
            format!("--include={}", self.selection.packages.join(",")),
            // A package of its own in some releases and part of systemd in others: the pattern may match nothing.
            "--include=?exact-name(systemd-resolved)".to_owned(),
            "--".to_owned(),
            self.suite.name.to_owned(),
            format!("{{tree:0}}/{ARCHIVE}"),
        ];
        args.extend(self.lines.iter().cloned());
        args
    }

    fn image(&self) -> Image {
        let (id, name, version) = (self.suite.distribution.id(), self.suite.name, self.suite.version);
        Image {
            fingerprint: String::new(),
            aliases: vec![name.to_owned(), format!("{id}/{name}"), format!("{id}/{version}")],
            architecture: kernel_name(&self.architecture),
            kind: "container".into(),
            properties: self.properties(),
            created: 0,
            expires: 0,
            files: Vec::new(),
            build_key: Some(self.build_key()),
        }
    }
}

/// The last lines of what a program said, for a person.
fn tail(output: &CommandOutput) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines
        .iter()
        .skip(lines.len().saturating_sub(TAIL))
        .copied()
        .collect::<Vec<_>>()
        .join("; ")
}

impl Source for Debian {
    fn resolve(host: &impl Host, request: &ImageRequest) -> Result<Image> {
        Ok(order(host, request)?.image())
    }

    fn list(host: &impl Host, request: &ImageRequest) -> Result<Vec<Image>> {
        let mut images = Vec::new();
        for suite in SUITES {
            let named = ImageRequest {
                name: suite.name.to_owned(),
                ..request.clone()
            };
            match order(host, &named) {
                Ok(order) => images.push(order.image()),
                // The machine's archive is Debian's or Ubuntu's, seldom both.
                Err(error) if error.is("invalid") && suite.distribution == Distribution::Ubuntu => {}
                Err(error) if error.is("invalid") && !images.is_empty() => {}
                Err(error) => return Err(error),
            }
        }
        images.retain(|image| image.aliases.iter().any(|alias| alias.starts_with(&request.name)));
        Ok(images)
    }
}

impl Build for Debian {
    fn build(host: &impl Host, request: &ImageRequest, scratch: &TreePath) -> Result<Built> {
        let order = order(host, request)?;
        let archive = scratch.join(ARCHIVE);
        // Left by an attempt that was interrupted.
        host.fs_discard(&archive)?;
        let release = format!("{} {}", order.suite.distribution.name(), order.suite.name);
        host.progress(&format!("building {release}"), 0, None);
        let output = host
            .command_run("mmdebstrap", &order.arguments(), &[], std::slice::from_ref(scratch))
            .map_err(|error| {
                error.context(format!(
                    "can't build {release} (it takes the program mmdebstrap, from the package of that name)"
                ))
            })?;
        if output.status != 0 {
            let (status, tail) = (output.status, tail(&output));
            return Err(Error::io(format!(
                "mmdebstrap could not build {release} (exit status {status}): {tail}"
            ))
            .retryable());
        }
        if host.fs_stat(&archive)?.is_none_or(|info| info.size == 0) {
            return Err(Error::io(format!("mmdebstrap left no archive of {release}")));
        }
        Ok(Built {
            rootfs: archive,
            files: files(&order.suite),
            properties: order.properties(),
        })
    }
}

//! `hutch:host/system`: facts about the machine.

use std::path::{Path, PathBuf};

use hutch_driver::DriverError;

use crate::error::{internal, io};
use crate::fs::tree::blocking;
use crate::{CallContext, Request, Response};

/// Largest file of package sources that is read, in bytes, and most lines that are answered.
const MAX_FILE: u64 = 1 << 20;
const MAX_LINES: usize = 1000;

/// Does a `system` request.
pub(crate) async fn call(cx: &CallContext, request: Request) -> Result<Response, DriverError> {
    cx.subject.granter().system()?;
    match request {
        Request::SystemArchitecture => Ok(Response::Text(Some(architecture().to_owned()))),
        Request::SystemPackageSources => blocking(|| package_sources(Path::new("/")))
            .await
            .map(Response::Strings),
        other => Err(internal(format!("{} is not a function of system", other.function()))),
    }
}

/// As Debian and its descendants name it (dpkg-architecture(1)).
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "x86" => "i386",
        "aarch64" => "arm64",
        "arm" => "armhf",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64el",
        "loongarch64" => "loong64",
        other => other,
    }
}

/// A source of packages (sources.list(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Source {
    uri: String,
    suite: String,
    components: Vec<String>,
}

impl Source {
    fn line(&self) -> String {
        let components: String = self.components.iter().map(|c| format!(" {c}")).collect();
        format!("deb {} {}{components}", self.uri, self.suite)
    }

    /// Whether it is of the release that the machine runs: its own archive, not somebody's additions to it.
    fn rank(&self, release: Option<&str>) -> u8 {
        let own = release.is_some_and(|release| self.suite == release);
        let beside = release.is_some_and(|release| {
            self.suite
                .strip_prefix(release)
                .is_some_and(|rest| rest.starts_with(['-', '/']))
        });
        match (own, beside, self.components.iter().any(|c| c == "main")) {
            (true, _, true) => 0,
            (_, true, true) => 1,
            (_, _, true) => 2,
            _ => 3,
        }
    }
}

/// The lines of all sources that are enabled, over HTTP and without options that change what they mean, those of the
/// machine's own release first.
fn package_sources(root: &Path) -> Result<Vec<String>, DriverError> {
    let mut sources = Vec::new();
    for path in source_files(root)? {
        let text = read(&path)?;
        if path.extension().is_some_and(|extension| extension == "sources") {
            sources.extend(stanzas(&text));
        } else {
            sources.extend(text.lines().filter_map(one_line));
        }
    }
    let mut found: Vec<Source> = Vec::new();
    for mut source in sources {
        let Some(uri) = resolve_mirror(root, &source.uri) else {
            continue;
        };
        source.uri = uri;
        if !found.contains(&source) {
            found.push(source);
        }
    }
    let release = release(root);
    found.sort_by_key(|source| source.rank(release.as_deref()));
    Ok(found.iter().take(MAX_LINES).map(Source::line).collect())
}

/// The files that apt reads, in its order. A machine without apt has none.
fn source_files(root: &Path) -> Result<Vec<PathBuf>, DriverError> {
    let mut files = vec![root.join("etc/apt/sources.list")];
    let dir = root.join("etc/apt/sources.list.d");
    let mut more = Vec::new();
    match std::fs::read_dir(&dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(io(format_args!("can't list {}", dir.display()), &e)),
        Ok(entries) => {
            for entry in entries {
                let path = entry
                    .map_err(|e| io(format_args!("can't list {}", dir.display()), &e))?
                    .path();
                if path
                    .extension()
                    .is_some_and(|extension| extension == "list" || extension == "sources")
                {
                    more.push(path);
                }
            }
        }
    }
    more.sort();
    files.append(&mut more);
    files.retain(|path| path.exists());
    Ok(files)
}

fn read(path: &Path) -> Result<String, DriverError> {
    use std::io::Read as _;
    let fail = |e| io(format_args!("can't read {}", path.display()), &e);
    let mut text = Vec::new();
    std::fs::File::open(path)
        .map_err(fail)?
        .take(MAX_FILE)
        .read_to_end(&mut text)
        .map_err(fail)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// `deb uri suite [component…]`. Lines with options are somebody's additions: their keys and architectures are lost without
/// them.
fn one_line(line: &str) -> Option<Source> {
    let line = line.split('#').next().unwrap_or_default();
    let mut words = line.split_whitespace();
    if words.next() != Some("deb") {
        return None;
    }
    let uri = words.next().filter(|uri| !uri.starts_with('['))?;
    let suite = words.next()?;
    Some(Source {
        uri: uri.to_owned(),
        suite: suite.to_owned(),
        components: words.map(str::to_owned).collect(),
    })
}

/// Sources in the format deb822(5): every combination of the addresses and suites of a stanza.
fn stanzas(text: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in text.lines().chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            found.extend(stanza(&std::mem::take(&mut fields)));
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    found
}

/// One stanza. `Signed-By` is usual for the distribution's own and does not change what a mirror is good for.
fn stanza(fields: &[(String, String)]) -> Vec<Source> {
    let field = |name: &str| fields.iter().rfind(|(n, _)| n == name).map(|(_, value)| value.as_str());
    let words = |name: &str| {
        field(name)
            .unwrap_or_default()
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let disabled = field("enabled").is_some_and(|value| {
        ["no", "false", "without", "off", "disable"].contains(&value.to_ascii_lowercase().as_str())
    });
    let plain = fields.iter().all(|(name, _)| {
        [
            "types",
            "uris",
            "suites",
            "components",
            "enabled",
            "signed-by",
            "x-repolib-name",
        ]
        .contains(&name.as_str())
    });
    if disabled || !plain || !words("types").iter().any(|kind| kind == "deb") {
        return Vec::new();
    }
    let mut found = Vec::new();
    for uri in words("uris") {
        for suite in words("suites") {
            found.push(Source {
                uri: uri.clone(),
                suite,
                components: words("components"),
            });
        }
    }
    found
}

/// An address over HTTP. Images of cloud providers name a file with a list of mirrors (apt-transport-mirror(1)), of which the
/// first is taken. What comes from discs and local trees is of no use elsewhere.
fn resolve_mirror(root: &Path, uri: &str) -> Option<String> {
    let is_http = |uri: &str| uri.starts_with("http://") || uri.starts_with("https://");
    if is_http(uri) {
        return Some(uri.to_owned());
    }
    let path = uri.strip_prefix("mirror+file:")?;
    let list = read(&root.join(path.trim_start_matches('/'))).ok()?;
    list.lines()
        .filter_map(|line| line.split_whitespace().next())
        .find(|uri| is_http(uri))
        .map(str::to_owned)
}

/// The code name in os-release(5).
fn release(root: &Path) -> Option<String> {
    let text = read(&root.join("etc/os-release")).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    Some(value.trim().trim_matches(['"', '\'']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_of_both_formats_are_read_and_the_own_release_comes_first() {
        let root = std::env::temp_dir().join(format!("hutch-sources-{}", std::process::id()));
        let dir = root.join("etc/apt/sources.list.d");
        std::fs::create_dir_all(&dir).unwrap();
        let write = |path: &str, text: &str| std::fs::write(root.join(path), text).unwrap();
        write("etc/os-release", "NAME=x\nVERSION_CODENAME=\"alpha\"\n");
        write(
            "etc/apt/sources.list",
            "# deb http://off.example/ alpha main\ndeb [trusted=yes] http://options.example/ alpha main\n\
             deb-src http://source.example/ alpha main\ndeb cdrom:[x]/ alpha main\ndeb http://other.example/repo stable tool # why\n",
        );
        write(
            "etc/apt/sources.list.d/b.sources",
            "Types: deb deb-src\nURIs: http://mirror.example/d\nSuites: alpha-updates alpha\nComponents: main\n contrib\nSigned-By: /usr/share/keyrings/x.gpg\n\n\
             Enabled: no\nTypes: deb\nURIs: http://disabled.example\nSuites: alpha\nComponents: main\n\n\
             Types: deb\nURIs: http://arch.example\nSuites: alpha\nComponents: main\nArchitectures: armhf\n",
        );
        write(
            "etc/apt/sources.list.d/a.list",
            "deb mirror+file:/etc/apt/mirrors/m.list alpha-security main\n",
        );
        write(
            "etc/apt/sources.list.d/ignored.bak",
            "deb http://ignored.example alpha main\n",
        );
        std::fs::create_dir_all(root.join("etc/apt/mirrors")).unwrap();
        write(
            "etc/apt/mirrors/m.list",
            "https://first.example/sec\thigh\nhttps://second.example\n",
        );
        let lines = package_sources(&root);
        std::fs::remove_dir_all(&root).unwrap();
        assert_eq!(
            lines.unwrap(),
            [
                "deb http://mirror.example/d alpha main contrib",
                "deb https://first.example/sec alpha-security main",
                "deb http://mirror.example/d alpha-updates main contrib",
                "deb http://other.example/repo stable tool",
            ]
        );
    }

    #[test]
    fn a_machine_without_apt_has_no_sources() {
        assert_eq!(
            package_sources(Path::new("/nonexistent")).unwrap(),
            Vec::<String>::new()
        );
    }
}

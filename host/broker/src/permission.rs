//! What a plugin's manifest requests and what an operator grants: the same shape, written in TOML.
//!
//! ```toml
//! [permissions]
//! fs = { roots = true }
//! link = true
//! filter = true
//! service = ["some-daemon"]
//! http = ["origin", "https://example.org/images/"]
//! watch = true
//! system = true
//! records = true
//!
//! [[permissions.command]]
//! program = "some-tool"
//! args = ["--format=*", "*", "**"]
//! deny = ["--hook*"]
//! ```

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A set of powers. What is not named is not part of it, so that the empty set is the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Permissions {
    /// Trees.
    pub fs: FsPermission,
    /// Network interfaces of the call's object.
    pub link: bool,
    /// Packet filter tables of the call's object.
    pub filter: bool,
    /// Programs that may run as helper services, by their names without directories. A program that is named here may be
    /// given any arguments, so that it is as trusted as what they can make it do.
    pub service: Vec<String>,
    /// Programs that may be run to their end.
    pub command: Vec<CommandPermission>,
    /// Addresses that may be fetched: `origin` for the server that the caller of the operation named, else
    /// `scheme://host[:port][/prefix]`, where the host may be `*` or begin with `*.`.
    pub http: Vec<String>,
    /// Events to the core.
    pub watch: bool,
    /// Facts about the machine.
    pub system: bool,
    /// The content of the call's zone.
    pub records: bool,
}

/// Trees that a plugin may work in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct FsPermission {
    /// The roots that come with a call (the pool's directory, a scratch directory).
    pub roots: bool,
    /// Fixed places. One is usable when the manifest and the grant name the same path.
    pub paths: Vec<FixedPath>,
}

/// A fixed place in the machine's file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct FixedPath {
    /// The id under which the plugin addresses it as a root. Roots of a call take precedence.
    pub id: String,
    /// Absolute.
    pub path: PathBuf,
    /// Whether it may be changed.
    #[serde(default)]
    pub writable: bool,
}

/// A program and the arguments that it may be given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct CommandPermission {
    /// The program's name without a directory. It is looked for in the host's fixed search path.
    pub program: String,
    /// One pattern per argument. In a pattern `*` stands for any characters, so that `*` alone is any one argument; `**`
    /// alone, as the last pattern, stands for any further arguments. A placeholder `{tree:N}` is matched as written.
    #[serde(default)]
    pub args: Vec<String>,
    /// Patterns of arguments that are refused wherever they stand.
    #[serde(default)]
    pub deny: Vec<String>,
    /// Names of environment variables that may be set.
    #[serde(default)]
    pub env: Vec<String>,
    /// Seconds until the program is killed. The smaller of request and grant counts; without either it is 600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u64>,
}

impl CommandPermission {
    /// Whether `program` with these arguments and additions to its environment is within this permission.
    pub fn allows(&self, program: &str, args: &[String], env: &[(String, String)]) -> bool {
        self.program == program
            && self.matches_args(args)
            && !args
                .iter()
                .any(|arg| self.deny.iter().any(|pattern| glob(pattern, arg)))
            && env
                .iter()
                .all(|(name, _)| self.env.iter().any(|allowed| allowed == name))
    }

    fn matches_args(&self, args: &[String]) -> bool {
        let (patterns, open) = match self.args.split_last() {
            Some((last, rest)) if last == "**" => (rest, true),
            _ => (self.args.as_slice(), false),
        };
        (args.len() == patterns.len() || open && args.len() > patterns.len())
            && patterns.iter().zip(args).all(|(pattern, arg)| glob(pattern, arg))
    }
}

impl Permissions {
    /// Checks that the patterns mean something, so that a mistake is found when a manifest or a configuration is read.
    ///
    /// # Errors
    /// A sentence that names the permission and what is wrong with it.
    pub fn validate(&self) -> Result<(), String> {
        for path in &self.fs.paths {
            let plain = path
                .path
                .components()
                .all(|c| !matches!(c, std::path::Component::ParentDir));
            if !path.path.is_absolute() || !plain {
                return Err(format!(
                    "fs.paths: {} is not an absolute path without ..",
                    path.path.display()
                ));
            }
            if path.id.is_empty() {
                return Err(format!("fs.paths: {} has no id", path.path.display()));
            }
        }
        for program in self.service.iter().chain(self.command.iter().map(|c| &c.program)) {
            if program.is_empty() || program.contains('/') || program.starts_with('.') {
                return Err(format!("{program:?} is not the name of a program without a directory"));
            }
        }
        for command in &self.command {
            let inner = command.args.len().saturating_sub(1);
            if command.args.iter().take(inner).any(|pattern| pattern == "**") {
                return Err(format!(
                    "command: ** may only be the last pattern of {}",
                    command.program
                ));
            }
        }
        self.http
            .iter()
            .try_for_each(|pattern| UrlPattern::parse(pattern).map(|_| ()))
    }
}

/// Matches `*` in `pattern` with any characters of `text`, everything else with itself. Linear in the product of the
/// lengths, whatever the pattern.
pub(crate) fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == text.get(t) {
            p += 1;
            t += 1;
        } else if let Some((star_p, star_t)) = star {
            star = Some((star_p, star_t + 1));
            p = star_p + 1;
            t = star_t + 1;
        } else {
            return false;
        }
    }
    pattern.get(p..).is_some_and(|rest| rest.iter().all(|&c| c == b'*'))
}

enum UrlPattern<'a> {
    Origin,
    Fixed {
        scheme: &'a str,
        host: &'a str,
        port: Option<u16>,
        prefix: &'a str,
    },
}

impl<'a> UrlPattern<'a> {
    fn parse(pattern: &'a str) -> Result<Self, String> {
        if pattern == "origin" {
            return Ok(Self::Origin);
        }
        let wrong = || format!("http: {pattern:?} is neither origin nor scheme://host[:port][/prefix]");
        let (scheme, rest) = pattern.split_once("://").ok_or_else(wrong)?;
        if scheme != "http" && scheme != "https" {
            return Err(wrong());
        }
        let (authority, prefix) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port.parse().map_err(|_| wrong())?)),
            _ => (authority, None),
        };
        let plain = host.strip_prefix("*.").unwrap_or(host);
        if plain.is_empty() || plain.contains('@') || (plain.contains('*') && host != "*") {
            return Err(wrong());
        }
        Ok(Self::Fixed {
            scheme,
            host,
            port,
            prefix,
        })
    }
}

/// Whether every address that `narrow` names is among those that `wide` names. A pattern that can't be read is within none.
pub(crate) fn url_pattern_covers(wide: &str, narrow: &str) -> bool {
    match (UrlPattern::parse(wide), UrlPattern::parse(narrow)) {
        (Ok(UrlPattern::Origin), Ok(UrlPattern::Origin)) => true,
        (
            Ok(UrlPattern::Fixed {
                scheme,
                host,
                port,
                prefix,
            }),
            Ok(UrlPattern::Fixed {
                scheme: narrow_scheme,
                host: narrow_host,
                port: narrow_port,
                prefix: narrow_prefix,
            }),
        ) => {
            let (host, narrow_host) = (host.to_ascii_lowercase(), narrow_host.to_ascii_lowercase());
            let below = host.strip_prefix('*').filter(|tail| !tail.is_empty());
            let default = Some(if scheme == "http" { 80 } else { 443 });
            scheme == narrow_scheme
                && (host == "*" || host == narrow_host || below.is_some_and(|tail| narrow_host.ends_with(tail)))
                && port.or(default) == narrow_port.or(default)
                && narrow_prefix.starts_with(prefix)
        }
        _ => false,
    }
}

/// Whether `url` is among the addresses that `pattern` names. `origin` is the server that the caller named.
pub(crate) fn url_matches(pattern: &str, url: &reqwest::Url, origin: Option<&reqwest::Url>) -> bool {
    if url.scheme() != "http" && url.scheme() != "https" {
        return false;
    }
    match UrlPattern::parse(pattern) {
        Err(_) => false,
        Ok(UrlPattern::Origin) => origin.is_some_and(|origin| origin.origin() == url.origin()),
        Ok(UrlPattern::Fixed {
            scheme,
            host,
            port,
            prefix,
        }) => {
            let actual = url.host_str().unwrap_or_default();
            let host_matches = host == "*"
                || host.eq_ignore_ascii_case(actual)
                || host
                    .strip_prefix('*')
                    .is_some_and(|tail| actual.to_ascii_lowercase().ends_with(&tail.to_ascii_lowercase()));
            let port = port.or(match scheme {
                "http" => Some(80),
                _ => Some(443),
            });
            scheme == url.scheme()
                && host_matches
                && port == url.port_or_known_default()
                && url.path().starts_with(prefix)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|&s| s.to_owned()).collect()
    }

    fn command(args: &[&str], deny: &[&str]) -> CommandPermission {
        CommandPermission {
            program: "tool".into(),
            args: strings(args),
            deny: strings(deny),
            env: vec!["TZ".into()],
            timeout: None,
        }
    }

    #[test]
    fn globs_match_whole_arguments() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("--a=*", "--a=", true),
            ("--a=*", "--b=1", false),
            ("*hook*", "--setup-hook=x", true),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "aXbY", false),
            ("", "x", false),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
        assert!(!glob(&"*a".repeat(200), &"a".repeat(100)));
    }

    #[test]
    fn commands_are_matched_argument_by_argument() {
        let open = command(&["--mode=*", "**"], &["--*hook*"]);
        assert!(open.allows("tool", &strings(&["--mode=x"]), &[]));
        assert!(open.allows(
            "tool",
            &strings(&["--mode=x", "a", "b"]),
            &[("TZ".into(), "UTC".into())]
        ));
        assert!(!open.allows("tool", &strings(&["--mode=x", "--setup-hook=id"]), &[]));
        assert!(!open.allows("tool", &strings(&["x"]), &[]));
        assert!(!open.allows("other", &strings(&["--mode=x"]), &[]));
        assert!(!open.allows("tool", &strings(&["--mode=x"]), &[("LD_PRELOAD".into(), "x".into())]));
        let closed = command(&["a", "*"], &[]);
        assert!(closed.allows("tool", &strings(&["a", "b"]), &[]));
        assert!(!closed.allows("tool", &strings(&["a", "b", "c"]), &[]));
        assert!(!command(&[], &[]).allows("tool", &strings(&["a"]), &[]));
    }

    #[test]
    fn addresses_are_matched_by_scheme_host_port_and_prefix() {
        let url = |s: &str| reqwest::Url::parse(s).unwrap();
        for (pattern, address, expected) in [
            ("https://example.org/", "https://example.org/a", true),
            ("https://example.org", "https://example.org:8443/a", false),
            ("https://example.org", "http://example.org/a", false),
            ("https://example.org/images/", "https://example.org/other", false),
            ("https://*.example.org", "https://a.example.org/", true),
            ("https://*.example.org", "https://badexample.org/", false),
            ("https://example.org", "https://example.org.evil.net/", false),
            ("https://example.org", "https://example.org@evil.net/", false),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080/x", true),
            ("https://*", "https://anything/", true),
            ("https://*", "ftp://anything/", false),
        ] {
            assert_eq!(
                url_matches(pattern, &url(address), None),
                expected,
                "{pattern} {address}"
            );
        }
        assert!(url_matches(
            "origin",
            &url("http://127.0.0.1:1234/x"),
            Some(&url("http://127.0.0.1:1234"))
        ));
        assert!(!url_matches(
            "origin",
            &url("http://127.0.0.1:1235/x"),
            Some(&url("http://127.0.0.1:1234"))
        ));
        assert!(!url_matches("origin", &url("http://127.0.0.1:1234/x"), None));
    }

    #[test]
    fn nonsense_is_found_when_it_is_read() {
        let bad = |p: Permissions| assert!(p.validate().is_err(), "{p:?}");
        bad(Permissions {
            http: strings(&["ftp://x"]),
            ..Default::default()
        });
        bad(Permissions {
            http: strings(&["https://a*b"]),
            ..Default::default()
        });
        bad(Permissions {
            service: strings(&["/usr/sbin/x"]),
            ..Default::default()
        });
        bad(Permissions {
            command: vec![command(&["**", "a"], &[])],
            ..Default::default()
        });
        let path = FixedPath {
            id: "a".into(),
            path: "/srv/../etc".into(),
            writable: true,
        };
        bad(Permissions {
            fs: FsPermission {
                roots: false,
                paths: vec![path],
            },
            ..Default::default()
        });
        assert!(
            Permissions {
                http: strings(&["origin", "https://*.a.b:8/x"]),
                ..Default::default()
            }
            .validate()
            .is_ok()
        );
        assert!(serde_json::from_str::<Permissions>(r#"{"fs":{"roots":true},"lnik":true}"#).is_err());
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]

        /// The matcher against the definition of what it matches.
        #[test]
        fn globs_match_as_they_are_defined(pattern in "[ab*]{0,8}", text in "[ab]{0,8}") {
            fn defined(pattern: &[u8], text: &[u8]) -> bool {
                match pattern.split_first() {
                    None => text.is_empty(),
                    Some((b'*', rest)) => (0..=text.len()).any(|taken| defined(rest, &text[taken..])),
                    Some((first, rest)) => text.split_first().is_some_and(|(c, left)| c == first && defined(rest, left)),
                }
            }
            proptest::prop_assert_eq!(glob(&pattern, &text), defined(pattern.as_bytes(), text.as_bytes()));
        }

        /// An address that passes is on the host that was granted, below the path that was.
        #[test]
        fn no_address_leaves_its_pattern(rest in "[a-z./:@%#?\\\\0-9]{0,30}") {
            let text = format!("https://good.test{rest}");
            if let Ok(url) = reqwest::Url::parse(&text)
                && url_matches("https://good.test/images/", &url, None)
            {
                proptest::prop_assert_eq!(url.host_str(), Some("good.test"), "{}", text);
                proptest::prop_assert!(url.path().starts_with("/images/") && !url.path().contains("/.."), "{}", text);
            }
        }
    }
}

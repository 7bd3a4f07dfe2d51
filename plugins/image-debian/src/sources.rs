//! Where packages come from.

use hutch_sdk::{Error, Host, Options, Result};

use crate::suites::{Distribution, Suite, distribution_of};

/// Longest address.
const MAX_URL: usize = 512;

/// Whether an address is `http` or `https`, and has nothing in it that means something to apt, in a line of its sources or in
/// a pattern.
fn is_plain_url(url: &str) -> bool {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~/:+%".contains(c);
    rest.is_some_and(|rest| {
        rest.starts_with(|c: char| c.is_ascii_alphanumeric()) && rest.chars().all(plain) && url.len() <= MAX_URL
    })
}

fn check_url(key: &str, url: &str) -> Result<String> {
    match is_plain_url(url) {
        true => Ok(url.trim_end_matches('/').to_owned()),
        false => Err(Error::invalid(format!(
            "invalid value for {key:?}: {url:?} is not a plain http or https address"
        ))
        .with("key", key)),
    }
}

/// The archive that the machine uses for a distribution, and the one with its security fixes. Others offer packages for the
/// same suites: an address that ends as the distribution's own archives do comes before those that don't.
fn of_machine(lines: &[String], distribution: Distribution) -> (Option<String>, Option<String>) {
    let (mut main, mut security) = (Vec::new(), Vec::new());
    for line in lines {
        let mut fields = line.split_ascii_whitespace();
        let (Some("deb"), Some(url), Some(suite)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        if distribution_of(suite) == Some(distribution)
            && fields.any(|component| component == "main")
            && is_plain_url(url)
        {
            let place = if suite.ends_with("-security") {
                &mut security
            } else {
                &mut main
            };
            place.push(url.trim_end_matches('/').to_owned());
        }
    }
    let own = |url: &String| {
        let last = url.rsplit('/').next().unwrap_or_default();
        last.starts_with(distribution.id())
    };
    let best = |urls: Vec<String>| urls.iter().find(|url| own(url)).or(urls.first()).cloned();
    (best(main), best(security))
}

/// The lines for apt from which an image of `suite` is built, and which stay in it.
///
/// # Errors
/// `invalid` when neither an option nor the machine's own sources name an archive.
pub(crate) fn lines(host: &impl Host, suite: &Suite, options: &Options) -> Result<Vec<String>> {
    let configured = host.config_get("mirror");
    let given = options.get("mirror").or(configured.as_deref());
    let (main, security) = match given {
        Some(url) => (Some(check_url("mirror", url)?), None),
        None => of_machine(&host.system_package_sources()?, suite.distribution),
    };
    let security = options
        .get("security-mirror")
        .map(|url| check_url("security-mirror", url))
        .transpose()?
        .or(security);
    let distribution = suite.distribution.name();
    let main = main.ok_or_else(|| {
        Error::invalid(format!(
            "the package sources of this machine have no archive of {distribution}: name one with the option \"mirror\""
        ))
    })?;
    let (name, components) = (suite.name, suite.distribution.components());
    let mut lines = vec![format!("deb {main} {name} {components}")];
    if suite.is_stable {
        lines.push(format!("deb {main} {name}-updates {components}"));
        // Ubuntu has its security fixes in the same archive, Debian in one of their own, which a mirror need not have.
        let in_main = (suite.distribution == Distribution::Ubuntu).then_some(main);
        lines.extend(
            security
                .or(in_main)
                .map(|url| format!("deb {url} {name}-security {components}")),
        );
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suites::find;
    use hutch_sdk::testing::FakeHost;

    fn machine(lines: &[&str]) -> FakeHost {
        let host = FakeHost::new(&[]);
        host.state().package_sources = lines.iter().map(|&line| line.to_owned()).collect();
        host
    }

    fn for_suite(host: &FakeHost, suite: &str, options: &[(&str, &str)]) -> Result<Vec<String>> {
        let options = options
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        lines(host, &find(suite).unwrap(), &options)
    }

    #[test]
    fn the_machines_archive_serves_other_suites_too() {
        let host = machine(&[
            "deb https://third.test/party bookworm main",
            "deb https://third.test/debian bookworm stable",
            "deb http://archive.test/debian bookworm-backports main",
            "deb http://security.test/debian-security/ bookworm-security main",
        ]);
        let expected = [
            "deb http://archive.test/debian trixie main",
            "deb http://archive.test/debian trixie-updates main",
            "deb http://security.test/debian-security trixie-security main",
        ];
        assert_eq!(for_suite(&host, "trixie", &[]).unwrap(), expected);
        assert_eq!(
            for_suite(&host, "sid", &[]).unwrap(),
            ["deb http://archive.test/debian sid main"]
        );
        assert!(for_suite(&host, "noble", &[]).is_err_and(|e| e.is("invalid") && e.message.contains("mirror")));
        let given = for_suite(&host, "noble", &[("mirror", "http://m.test/ubuntu/")]).unwrap();
        assert_eq!(given[2], "deb http://m.test/ubuntu noble-security main universe");
    }

    #[test]
    fn addresses_that_mean_more_are_refused() {
        let host = machine(&[
            "deb [trusted=yes] http://archive.test/debian bookworm main",
            "deb copy:///etc bookworm main",
        ]);
        assert!(for_suite(&host, "bookworm", &[]).is_err());
        for bad in [
            "file:///etc",
            "http://",
            "http://a b",
            "http://a\nb",
            "ftp://a",
            "http://-x",
            "http://a [trusted=yes]",
            "http://u@h/",
        ] {
            assert!(
                for_suite(&host, "bookworm", &[("mirror", bad)]).is_err_and(|e| e.is("invalid")),
                "{bad:?}"
            );
        }
    }
}

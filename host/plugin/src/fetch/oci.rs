//! Fetching from an OCI registry (OCI distribution specification, "Pull"): the manifest, which is pinned by its digest from then on,
//! then the one layer. Registries that ask for a token even of those who are nobody are asked for one (the token authentication of
//! Docker's registry, which all of them have).
//!
//! Every answer is hostile until its digest is the one that was asked for: each has a bound, and nothing of one that is refused is kept.

use hutch_broker::download::{Asker, DownloadRequest, document};
use hutch_broker::{HttpResponse, Subject};
use hutch_driver::{Cancel, DriverError, Progress};
use reqwest::Url;
use serde::Deserialize;

use super::{Address, Fetched, Place, fetcher, file, parse, plain};
use crate::change::{ChangeError, Result};
use crate::files::digest_of;
use crate::oci::{Artifact, MANIFEST_TYPE, MAX_MANIFEST, Reference};

/// The largest answer of a server of tokens, and the longest token, in bytes. Headers are at most 4 KiB.
const MAX_ANSWER: u64 = 64 << 10;
const MAX_TOKEN: usize = 4000;

/// A registry, and what it knows us by.
struct Registry<'a> {
    reference: &'a Reference,
    /// `https://HOST[:PORT]/v2/NAME`.
    base: String,
    subject: Subject,
    token: Option<String>,
    cancel: &'a Cancel,
}

/// Fetches the plugin at `address`, an address in a registry, into `place`.
pub(super) async fn fetch(
    place: &Place,
    address: Address<'_>,
    digest: Option<&str>,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Fetched> {
    let reference: Reference = address
        .url
        .parse()
        .map_err(|error: crate::oci::OciError| ChangeError::Invalid(error.to_string()))?;
    if !address.signature.is_empty() {
        return Err(ChangeError::Invalid(
            "a registry has a plugin's signature with the plugin: no other address of it is taken".to_owned(),
        ));
    }
    let mut registry = Registry::new(&reference, address.plain_http, cancel)?;
    let (manifest, artifact) = registry.manifest().await?;
    if let Some(wanted) = digest
        && wanted != artifact.digest
    {
        return Err(ChangeError::Invalid(format!(
            "{reference}: its file has the digest sha256:{}, and not sha256:{wanted}",
            artifact.digest
        )));
    }
    let request = DownloadRequest {
        url: format!("{}/blobs/sha256:{}", registry.base, artifact.digest),
        dir: place.0.clone(),
        sha256: Some(artifact.digest.clone()),
        size: Some(artifact.size),
        limit: artifact.size,
        headers: registry.headers(&[]),
    };
    Ok(Fetched {
        bytes: file(&request, &registry.subject, progress, cancel).await?,
        signature: artifact.signature.map(String::into_bytes),
        source: reference.pinned(&manifest).to_string(),
    })
}

impl<'a> Registry<'a> {
    fn new(reference: &'a Reference, plain_http: bool, cancel: &'a Cancel) -> Result<Self> {
        let scheme = if plain_http || reference.is_local() {
            "http"
        } else {
            "https"
        };
        // Docker's own registry goes by the name of its site.
        let host = match reference.registry() {
            "docker.io" => "registry-1.docker.io",
            other => other,
        };
        let base = format!("{scheme}://{host}/v2/{}", reference.name());
        let subject = fetcher(&parse(&base)?, plain_http)?;
        Ok(Self {
            reference,
            base,
            subject,
            token: None,
            cancel,
        })
    }

    /// The digest of the manifest, and what it says.
    async fn manifest(&mut self) -> Result<(String, Artifact)> {
        let url = format!("{}/manifests/{}", self.base, self.reference.key());
        let mut answer = self.get(&url).await?;
        if answer.status == 401 {
            let challenge = header(&answer, "www-authenticate").and_then(Challenge::parse);
            let Some(challenge) = challenge else {
                return Err(self.unavailable("it wants to know who asks, in a way that is not known here"));
            };
            self.token = Some(self.token(&challenge).await?);
            answer = self.get(&url).await?;
        }
        match answer.status {
            200 => {}
            404 => {
                let gone = format!("the registry has no {}", self.reference);
                return Err(ChangeError::Fetch(DriverError::new("not-found", gone)));
            }
            401 | 403 => {
                return Err(
                    self.unavailable("it does not give it to everybody; plugins are fetched without a password")
                );
            }
            status => return Err(self.unavailable(&format!("it answers with the status {status}"))),
        }
        let digest = digest_of(&answer.body);
        let stated = header(&answer, "docker-content-digest").unwrap_or_default();
        for wanted in [self.reference.digest(), stated.strip_prefix("sha256:")]
            .into_iter()
            .flatten()
        {
            if wanted != digest {
                return Err(ChangeError::Invalid(format!(
                    "the registry's manifest of {} has the digest sha256:{digest}, and not sha256:{}",
                    self.reference,
                    shown(wanted)
                )));
            }
        }
        let artifact = Artifact::parse(&answer.body);
        let artifact = artifact.map_err(|error| ChangeError::Invalid(format!("{}: {error}", self.reference)))?;
        Ok((digest, artifact))
    }

    async fn get(&self, url: &str) -> Result<HttpResponse> {
        let headers = self.headers(&[("accept", MANIFEST_TYPE)]);
        self.document(url, &headers, MAX_MANIFEST, &self.subject).await
    }

    async fn document(
        &self,
        url: &str,
        headers: &[(String, String)],
        limit: u64,
        subject: &Subject,
    ) -> Result<HttpResponse> {
        let asker = Asker { subject, origin: None };
        let answer = document(url, headers, limit, asker, self.cancel).await;
        answer.map_err(|error| ChangeError::Fetch(plain(error)))
    }

    fn headers(&self, more: &[(&str, &str)]) -> Vec<(String, String)> {
        let more = more
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let token = self
            .token
            .iter()
            .map(|token| ("authorization".to_owned(), format!("Bearer {token}")));
        more.chain(token).collect()
    }

    /// A token for somebody without a name.
    async fn token(&self, challenge: &Challenge) -> Result<String> {
        let bad = || self.unavailable("it sends to a server of tokens that gives none");
        let mut url = Url::parse(&challenge.realm).map_err(|_| bad())?;
        url.query_pairs_mut()
            .append_pair("service", &challenge.service)
            .append_pair("scope", &format!("repository:{}:pull", self.reference.name()));
        let subject = self.token_server(&url)?;
        let answer = self.document(url.as_str(), &[], MAX_ANSWER, &subject).await?;
        #[derive(Deserialize)]
        struct Given {
            token: Option<String>,
            access_token: Option<String>,
        }
        let given: Option<Given> = serde_json::from_slice(&answer.body).ok();
        let token = given.and_then(|given| given.token.or(given.access_token));
        // What can stand in a header (RFC 6750, section 2.1).
        let fits = |token: &String| token.len() <= MAX_TOKEN && token.bytes().all(|b| b.is_ascii_graphic());
        token
            .filter(|token| answer.status == 200 && fits(token))
            .ok_or_else(bad)
    }

    /// In whose name a token is asked for at `url`, where the registry sends. By plain HTTP that is the registry itself, which is asked
    /// by that, too: another one could be a service of this machine, which answers whoever is here.
    fn token_server(&self, url: &Url) -> Result<Subject> {
        let same = parse(&self.base)?.origin() == url.origin();
        if url.scheme() == "http" && !same {
            return Err(self.unavailable(
                "it sends elsewhere for a token, to be asked by plain HTTP: only the registry itself is asked by that",
            ));
        }
        fetcher(url, same)
    }

    fn unavailable(&self, why: &str) -> ChangeError {
        ChangeError::Fetch(DriverError::new(
            "unavailable",
            format!("the registry {}: {why}", self.reference.registry()),
        ))
    }
}

fn header<'a>(answer: &'a HttpResponse, name: &str) -> Option<&'a str> {
    let mut headers = answer.headers.iter();
    headers.find_map(|(other, value)| (other == name).then_some(value.as_str()))
}

fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(100).collect()
}

/// Where a registry sends who has no token: `Bearer realm="https://auth.example.org/token",service="registry"` (RFC 6750, section 3).
#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    realm: String,
    service: String,
}

impl Challenge {
    fn parse(text: &str) -> Option<Self> {
        let (scheme, mut rest) = text.trim().split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service) = (None, String::new());
        while let Some((name, after)) = rest.split_once('=') {
            let (value, after) = match after.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => after.split_at(after.find(',').unwrap_or(after.len())),
            };
            match name.trim_matches([' ', ',']).to_ascii_lowercase().as_str() {
                "realm" => realm = Some(value.to_owned()),
                "service" => value.clone_into(&mut service),
                _ => {}
            }
            rest = after;
        }
        realm.map(|realm| Self { realm, service })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_challenge_says_where_tokens_are() {
        let challenge = |realm: &str, service: &str| {
            Some(Challenge {
                realm: realm.to_owned(),
                service: service.to_owned(),
            })
        };
        for (text, expected) in [
            (
                r#"Bearer realm="https://a.example.org/token",service="r",scope="repository:a,b:pull""#,
                challenge("https://a.example.org/token", "r"),
            ),
            ("bearer service=r, realm=https://a/", challenge("https://a/", "r")),
            (r#"Bearer realm="https://a"#, None),
            (r#"Basic realm="x""#, None),
            (r#"Bearer service="x""#, None),
            ("Bearer", None),
            ("", None),
        ] {
            assert_eq!(Challenge::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn a_registry_elsewhere_is_asked_by_https_unless_that_is_waived() {
        let base = |text: &str, plain: bool| {
            let reference: Reference = text.parse().expect("an address");
            Registry::new(&reference, plain, &Cancel::default())
                .expect("a registry")
                .base
        };
        assert_eq!(base("oci://example.org/a/b:1", false), "https://example.org/v2/a/b");
        assert_eq!(base("oci://example.org:5000/a:1", true), "http://example.org:5000/v2/a");
        assert_eq!(base("oci://127.0.0.1:5000/a:1", false), "http://127.0.0.1:5000/v2/a");
    }

    #[test]
    fn a_token_comes_by_plain_http_from_the_registry_alone() {
        let goes = |registry: &str, plain: bool, realm: &str| {
            let reference: Reference = registry.parse().expect("an address");
            let cancel = Cancel::default();
            let registry = Registry::new(&reference, plain, &cancel).expect("a registry");
            registry.token_server(&parse(realm).expect("an address")).is_ok()
        };
        for (registry, plain, realm, expected) in [
            ("oci://example.org/a:1", false, "http://127.0.0.1:8080/token", false),
            ("oci://example.org/a:1", false, "http://localhost/token", false),
            ("oci://example.org/a:1", false, "http://[::1]/token", false),
            ("oci://example.org/a:1", false, "http://example.org/token", false),
            ("oci://example.org/a:1", false, "ftp://example.org/token", false),
            ("oci://example.org/a:1", false, "https://auth.example.org/token", true),
            ("oci://example.org:5000/a:1", true, "http://127.0.0.1:5000/token", false),
            (
                "oci://example.org:5000/a:1",
                true,
                "http://example.org:5001/token",
                false,
            ),
            (
                "oci://example.org:5000/a:1",
                true,
                "http://example.org:5000/token",
                true,
            ),
            ("oci://127.0.0.1:5000/a:1", false, "http://127.0.0.1:8080/token", false),
            ("oci://127.0.0.1:5000/a:1", false, "http://127.0.0.1:5000/token", true),
        ] {
            assert_eq!(goes(registry, plain, realm), expected, "{registry} {realm}");
        }
    }

    proptest! {
        #[test]
        fn no_challenge_is_too_much(text in "(?i:bearer )?[a-z=\", ]{0,60}") {
            let _ = Challenge::parse(&text);
        }
    }
}

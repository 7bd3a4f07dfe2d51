//! `hutch:host/http`: small documents, from addresses that the plugin may fetch.

use std::sync::OnceLock;
use std::time::Duration;

use futures_util::StreamExt as _;
use hutch_driver::{Cancel, DriverError};
use reqwest::header::{AUTHORIZATION, COOKIE, HeaderMap, HeaderName, HeaderValue, LOCATION};
use reqwest::{Response as Answer, Url};

use crate::download::Asker;
use crate::error::{cancelled, internal, invalid};
use crate::{CallContext, HttpResponse, Request, Response};

/// Largest body, in bytes (`wit/host`).
const MAX_BODY: u64 = 32 << 20;
/// Most headers of a request and largest of each, in bytes.
const MAX_HEADERS: usize = 32;
const MAX_HEADER: usize = 4 << 10;
/// Most redirections that are followed.
pub(crate) const MAX_REDIRECTS: usize = 10;
/// Until a connection is made, and between two pieces of an answer.
const CONNECT: Duration = Duration::from_secs(15);
const SILENCE: Duration = Duration::from_secs(60);

/// The client that everything goes through. It is made when it is first needed: reading the system's certificates takes
/// time and memory that a daemon which fetches nothing does not spend.
///
/// No proxy is taken from the environment, since the daemon's environment is not configuration.
///
/// # Errors
/// `unavailable` where TLS can't be set up, such as without the system's certificates.
pub(crate) fn client() -> Result<&'static reqwest::Client, DriverError> {
    static CLIENT: OnceLock<reqwest::Client> = OnceLock::new();
    if let Some(client) = CLIENT.get() {
        return Ok(client);
    }
    // Somebody in the process may have chosen a provider before, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT)
        .read_timeout(SILENCE)
        .pool_idle_timeout(Duration::from_secs(15))
        .user_agent(concat!("hutch/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|e| DriverError::new("unavailable", format!("can't set up HTTP: {}", chain(&e))))?;
    Ok(CLIENT.get_or_init(|| client))
}

/// Does `http` requests.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Client;

impl Client {
    /// Does an `http` request.
    pub(crate) async fn call(self, cx: &CallContext, request: Request) -> Result<Response, DriverError> {
        match request {
            Request::HttpGet { url, headers, limit } => {
                self.get(cx, &url, &headers, limit).await.map(Response::HttpResponse)
            }
            other => Err(internal(format!("{} is not a function of http", other.function()))),
        }
    }

    async fn get(
        self,
        cx: &CallContext,
        url: &str,
        headers: &[(String, String)],
        limit: Option<u64>,
    ) -> Result<HttpResponse, DriverError> {
        let asker = Asker {
            subject: &cx.subject,
            origin: cx.call.origin.as_deref(),
        };
        document(url, headers, limit.unwrap_or(MAX_BODY), asker, &cx.call.cancel).await
    }
}

/// Fetches a small document, of at most `limit` bytes, from where `asker` may fetch, also after redirections. Whatever the server
/// answers is an answer, with its status. It takes no longer than the limits of whoever asks say.
///
/// # Errors
/// `not-requested` and `not-granted` for an address that may not be fetched; `invalid` for what is no address or header; `limit`
/// for a document that is larger; `timeout`, `unavailable`, `io`, which may be repeated; `cancelled`.
pub async fn document(
    url: &str,
    headers: &[(String, String)],
    limit: u64,
    asker: Asker<'_>,
    cancel: &Cancel,
) -> Result<HttpResponse, DriverError> {
    let url = parse(url)?;
    asker.may_fetch(&url)?;
    let headers = read_headers(headers)?;
    let limit = limit.min(MAX_BODY);
    let work = async {
        let answer = follow(&url, &headers, cancel, |next| asker.may_fetch(next)).await?;
        read(answer, limit).await
    };
    let patience = asker.subject.limits.http_timeout;
    tokio::select! {
        done = tokio::time::timeout(patience, work) => done.unwrap_or_else(|_| {
            let mut error = DriverError::new("timeout", format!("{url} was not fetched within {} s", patience.as_secs()));
            error.retryable = true;
            Err(error)
        }),
        () = cancel.cancelled() => Err(cancelled(format_args!("can't fetch {url}"))),
    }
}

/// An absolute address over HTTP without a password in it, which logs would show.
pub(crate) fn parse(url: &str) -> Result<Url, DriverError> {
    let parsed = Url::parse(url).map_err(|e| invalid(format!("{url:?} is not an address: {e}")))?;
    if !matches!(parsed.scheme(), "http" | "https") || parsed.host_str().is_none() {
        return Err(invalid(format!("{url:?} is not an address over HTTP")));
    }
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return Err(invalid("an address must not have a user or password in it"));
    }
    Ok(parsed)
}

/// Fetches `url` and follows redirections, each of which `allowed` is asked about. Headers that prove who asks go to the
/// first server only, and nothing goes from HTTPS to HTTP.
pub(crate) async fn follow(
    url: &Url,
    headers: &HeaderMap,
    cancel: &Cancel,
    allowed: impl Fn(&Url) -> Result<(), DriverError>,
) -> Result<Answer, DriverError> {
    let client = client()?;
    let mut at = url.clone();
    let mut headers = headers.clone();
    for _ in 0..=MAX_REDIRECTS {
        if cancel.is_cancelled() {
            return Err(cancelled(format_args!("can't fetch {url}")));
        }
        let answer = client
            .get(at.clone())
            .headers(headers.clone())
            .send()
            .await
            .map_err(|e| failure(&at, &e))?;
        // 304 is an answer, and the others of this class that have no address are handed on as they are.
        let Some(location) = answer
            .headers()
            .get(LOCATION)
            .filter(|_| matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308))
        else {
            return Ok(answer);
        };
        let location = location
            .to_str()
            .map_err(|_| DriverError::new("io", format!("{at} redirects to what is not text")))?;
        let next = at
            .join(location)
            .map_err(|e| DriverError::new("io", format!("{at} redirects to {location:?}: {e}")))?;
        let next = parse(next.as_str())?;
        if at.scheme() == "https" && next.scheme() == "http" {
            return Err(DriverError::new(
                "io",
                format!("{at} redirects to {next}, which is not encrypted"),
            ));
        }
        allowed(&next).map_err(|mut error| {
            error.message = format!("{at} redirects to {next}: {}", error.message);
            error
        })?;
        if next.origin() != at.origin() {
            headers.remove(AUTHORIZATION);
            headers.remove(COOKIE);
        }
        at = next;
    }
    Err(DriverError::new(
        "io",
        format!("{url} redirects more than {MAX_REDIRECTS} times"),
    ))
}

async fn read(answer: Answer, limit: u64) -> Result<HttpResponse, DriverError> {
    let url = answer.url().clone();
    let too_large = || {
        DriverError::new(
            "limit",
            format!("{url} is larger than the {limit} bytes that may be fetched"),
        )
    };
    if answer.content_length().is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let status = answer.status().as_u16();
    let text =
        |(name, value): (&HeaderName, &HeaderValue)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()));
    let headers = answer.headers().iter().filter_map(text).collect();
    let mut body = Vec::new();
    let mut pieces = answer.bytes_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|e| failure(&url, &e))?;
        if (body.len() + piece.len()) as u64 > limit {
            return Err(too_large());
        }
        body.extend_from_slice(&piece);
    }
    Ok(HttpResponse { status, headers, body })
}

/// Headers that a plugin may set: none that belong to the connection or the message's frame.
pub(crate) fn read_headers(headers: &[(String, String)]) -> Result<HeaderMap, DriverError> {
    const FORBIDDEN: [&str; 11] = [
        "host",
        "connection",
        "content-length",
        "transfer-encoding",
        "te",
        "trailer",
        "upgrade",
        "keep-alive",
        "expect",
        "proxy-authorization",
        "proxy-connection",
    ];
    if headers.len() > MAX_HEADERS {
        return Err(invalid(format!("{} headers: at most {MAX_HEADERS}", headers.len())));
    }
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let wrong = |why: &str| invalid(format!("the header {name:?} {why}"));
        if value.len() > MAX_HEADER {
            return Err(wrong("is too long"));
        }
        let parsed: HeaderName = name.parse().map_err(|_| wrong("has no name of a header"))?;
        if FORBIDDEN.contains(&parsed.as_str()) {
            return Err(wrong("is the host's to set"));
        }
        map.append(
            parsed,
            HeaderValue::from_str(value).map_err(|_| wrong("has a value that can't be sent"))?,
        );
    }
    Ok(map)
}

/// What a driver or the core is told of a failure of a request's.
pub(crate) fn failure(url: &Url, error: &reqwest::Error) -> DriverError {
    let code = if error.is_timeout() {
        "timeout"
    } else if error.is_connect() {
        "unavailable"
    } else {
        "io"
    };
    let mut failure = DriverError::new(code, format!("can't fetch {url}: {}", chain(error)));
    failure.retryable = true;
    failure
}

/// The causes, without the outermost sentence where there is a better one: it says no more than that there was an error.
fn chain(error: &reqwest::Error) -> String {
    let mut causes: Vec<String> = Vec::new();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        let text = cause.to_string();
        // Some repeat their cause in their own words.
        if causes.last().is_none_or(|last| !last.ends_with(&text)) {
            causes.push(text);
        }
        next = cause.source();
    }
    if causes.is_empty() {
        error.to_string()
    } else {
        causes.join(": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_and_secrets_are_the_hosts() {
        let read = |name: &str, value: &str| read_headers(&[(name.to_owned(), value.to_owned())]);
        assert!(read("If-None-Match", "\"x\"").is_ok());
        for (name, value) in [
            ("Host", "x"),
            ("content-length", "1"),
            ("a b", "x"),
            ("x", "a\r\nb: c"),
            ("x", &"a".repeat(5000)),
        ] {
            assert!(read(name, value).is_err(), "{name}");
        }
    }

    #[test]
    fn addresses_are_absolute_and_without_passwords() {
        assert!(parse("http://127.0.0.1:80/x").is_ok());
        for bad in [
            "",
            "/x",
            "file:///etc/passwd",
            "https://u:p@x/",
            "https://u@x/",
            "http://",
        ] {
            assert_eq!(parse(bad).unwrap_err().code, "invalid", "{bad}");
        }
    }
}

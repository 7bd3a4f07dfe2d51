//! What a request is about, in a few words for a trace: a name or a place, and never what could be secret or long (contents, values,
//! arguments, variables, headers, what follows a path in an address).

use hutch_driver::TreePath;
use reqwest::Url;

use crate::Request;

/// The most bytes of it.
const MOST: usize = 200;

impl Request {
    /// The object that is asked about; empty where the function says it all. It has at most some 200 bytes, and no control characters.
    pub fn about(&self) -> String {
        let text = match self {
            Self::ConfigGet { key }
            | Self::KvGet { key }
            | Self::KvSet { key, .. }
            | Self::KvCompareAndSet { key, .. }
            | Self::KvDelete { key } => key.clone(),
            Self::KvKeys { prefix, .. } => prefix.clone(),
            Self::FsStat { at }
            | Self::FsMakeDir { at, .. }
            | Self::FsListDir { at, .. }
            | Self::FsReadFile { at }
            | Self::FsWriteFile { at, .. }
            | Self::FsWritePart { at, .. }
            | Self::FsDiscard { at }
            | Self::FsUsage { at }
            | Self::FsSetQuota { at, .. } => place(at),
            Self::FsRename { source, to } | Self::FsReplaceFile { source, to } | Self::FsCopyTree { source, to } => {
                format!("{} to {}", place(source), place(to))
            }
            Self::FsCopyMerged { to, .. } => place(to),
            Self::FsFeatures { root } | Self::FsSpace { root } => root.clone(),
            Self::LinkEnsureBridge { name, .. }
            | Self::LinkEnsureVeth { name, .. }
            | Self::LinkDelete { name }
            | Self::LinkGet { name }
            | Self::LinkSetAddresses { name, .. }
            | Self::LinkSetUp { name, .. }
            | Self::LinkSetOptions { name, .. }
            | Self::LinkLimitSent { name, .. }
            | Self::FilterReplaceTable { name, .. }
            | Self::FilterChangeElements { name, .. }
            | Self::FilterDeleteTable { name, .. }
            | Self::ServiceEnsure { name, .. }
            | Self::ServiceRemove { name }
            | Self::ServiceStatus { name }
            | Self::ServiceSignal { name, .. } => name.clone(),
            Self::ServiceWriteFile { name, path, .. }
            | Self::ServiceReadFile { name, path }
            | Self::ServiceRemoveFile { name, path }
            | Self::ServiceListFiles { name, path } => format!("{name}:{path}"),
            Self::LinkEnsureMacvlan { guest_name, .. } | Self::LinkDeleteMacvlan { guest_name, .. } => {
                guest_name.clone()
            }
            Self::CommandRun { program, .. } => program.clone(),
            Self::HttpGet { url, .. } => address(url),
            Self::RecordsPage { version, .. } => version.to_string(),
            Self::RecordsChanges { since } => since.to_string(),
            Self::WatchChanged { topic } | Self::WatchServiceFile { topic, .. } => topic.clone(),
            Self::Log { .. }
            | Self::MetricCount { .. }
            | Self::MetricGauge { .. }
            | Self::ProgressReport { .. }
            | Self::Cancelled
            | Self::LinkSubnetsInUse
            | Self::SystemArchitecture
            | Self::SystemPackageSources
            | Self::RecordsVersion => String::new(),
        };
        harmless(&text)
    }
}

fn place(at: &TreePath) -> String {
    format!("{}:{}", at.root, at.path)
}

/// An address without its user and password, and without the query and fragment, in which tokens are passed (RFC 3986, section 3). It is
/// taken apart as it is when it is fetched (<https://url.spec.whatwg.org>), which finds a password also where there are no slashes
/// before it. Of what is no address nothing is told, since nobody knows what in it is what.
fn address(url: &str) -> String {
    let Ok(url) = Url::parse(url) else {
        return "no address".to_owned();
    };
    let Some(host) = url.host_str() else {
        return format!("{}:", url.scheme());
    };
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{host}{port}{}", url.scheme(), url.path())
}

fn harmless(text: &str) -> String {
    let cut = text.get(..text.floor_char_boundary(MOST)).unwrap_or_default();
    cut.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_and_contents_are_not_told() {
        let get = |url: &str| {
            let request = Request::HttpGet {
                url: url.to_owned(),
                headers: vec![("authorization".to_owned(), "secret".to_owned())],
                limit: None,
            };
            request.about()
        };
        assert_eq!(
            get("https://user:secret@example.org/a/b?token=secret#secret"),
            "https://example.org/a/b"
        );
        assert_eq!(
            get("https://user:secret@example.org:8443?secret"),
            "https://example.org:8443/"
        );
        for url in [
            "https:user:secret@example.org",
            "https:/user:secret@example.org",
            "https:\\\\user:secret@example.org",
            "ht\ttps://user:sec\nret@example.org",
            "https://user:secret@secret@example.org",
        ] {
            assert_eq!(get(url), "https://example.org/", "{url}");
        }
        for url in [
            "secret?secret",
            "user:secret@example.org",
            "https://user:se/cret@x",
            "https://user:1?secret@x",
        ] {
            assert!(
                !get(url).contains("secret") && !get(url).contains("se/"),
                "{}",
                get(url)
            );
        }
        let set = Request::KvSet {
            key: "a\n\u{1b}[31m".to_owned(),
            value: b"secret".to_vec(),
        };
        assert_eq!(set.about(), "a  [31m");
        let run = Request::CommandRun {
            program: "mkfs".to_owned(),
            args: vec!["secret".to_owned()],
            env: vec![("KEY".to_owned(), "secret".to_owned())],
            trees: Vec::new(),
        };
        assert_eq!(run.about(), "mkfs");
    }

    #[test]
    fn it_is_short() {
        let at = TreePath {
            root: "pool".to_owned(),
            path: "ä".repeat(3000),
        };
        let about = Request::FsStat { at }.about();
        assert!(about.len() <= MOST && about.starts_with("pool:ää"), "{about}");
    }
}

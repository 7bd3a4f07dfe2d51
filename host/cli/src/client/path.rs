//! Paths of the API, built from names that are anything.

use std::fmt::{self, Write};

/// A path under `/1.0` with its query, percent-encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiPath {
    path: String,
    query: String,
}

impl ApiPath {
    /// `/1.0` and one segment for each name.
    pub(crate) fn new<S: AsRef<str>>(segments: impl IntoIterator<Item = S>) -> Self {
        let mut path = String::from("/1.0");
        for segment in segments {
            path.push('/');
            encode(&mut path, segment.as_ref());
        }
        Self {
            path,
            query: String::new(),
        }
    }

    /// A path as the daemon gave it, such as an operation's, or as the user typed it.
    pub(crate) fn raw(text: &str) -> Self {
        let (path, query) = text.split_once('?').unwrap_or((text, ""));
        Self {
            path: path.to_owned(),
            query: query.to_owned(),
        }
    }

    /// The same path with more segments.
    pub(crate) fn join<S: AsRef<str>>(mut self, segments: impl IntoIterator<Item = S>) -> Self {
        for segment in segments {
            self.path.push('/');
            encode(&mut self.path, segment.as_ref());
        }
        self
    }

    /// The same path with one more parameter.
    pub(crate) fn query(mut self, key: &str, value: &str) -> Self {
        if !self.query.is_empty() {
            self.query.push('&');
        }
        encode(&mut self.query, key);
        self.query.push('=');
        encode(&mut self.query, value);
        self
    }

    /// The same path for objects of all projects, if `all` says so, instead of those of one.
    pub(crate) fn of_all_projects(self, all: bool) -> Self {
        if all { self.query("all-projects", "true") } else { self }
    }

    /// Whether a parameter is there.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.query.split('&').any(|pair| pair.split('=').next() == Some(key))
    }
}

impl fmt::Display for ApiPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        if !self.query.is_empty() {
            f.write_char('?')?;
            f.write_str(&self.query)?;
        }
        Ok(())
    }
}

/// Percent-encodes all but the unreserved characters of RFC 3986, section 2.3.
fn encode(out: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            // Writing into a string can't fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

/// Keys and values as a query, without its question mark.
pub(crate) fn query_string<'a>(pairs: impl IntoIterator<Item = (&'a String, &'a String)>) -> String {
    let path = ApiPath {
        path: String::new(),
        query: String::new(),
    };
    pairs
        .into_iter()
        .fold(path, |path, (key, value)| path.query(key, value))
        .query
}

/// Undoes percent-encoding; what is not valid stays as it is.
pub(crate) fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        match hex
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok())
        {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_can_not_leave_their_segment() {
        let path = ApiPath::new(["instances", "../x y?z=1"]).query("path", "/a&b=c");
        assert_eq!(path.to_string(), "/1.0/instances/..%2Fx%20y%3Fz%3D1?path=%2Fa%26b%3Dc");
        assert!(path.has("path"));
        assert!(!path.has("a"));
    }

    #[test]
    fn a_raw_path_keeps_its_query_and_takes_more() {
        let path = ApiPath::raw("/1.0/images?recursion=1").query("project", "p");
        assert_eq!(path.to_string(), "/1.0/images?recursion=1&project=p");
    }

    #[test]
    fn decoding_undoes_encoding_and_survives_nonsense() {
        assert_eq!(decode("a%2Fb%20c"), "a/b c");
        assert_eq!(decode("100%"), "100%");
        assert_eq!(decode("%zz%4"), "%zz%4");
    }
}

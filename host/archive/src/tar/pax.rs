//! Extended headers of the pax format: records `length key=value` that override fields of the next header, or of all
//! that follow.

use super::sparse::PaxSparse;
use crate::entry::{Time, Xattr};
use crate::error::{Error, Result};

/// What extended headers say. Fields that they do not mention are `None`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Overrides {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link_path: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<u64>,
    pub(crate) gid: Option<u64>,
    pub(crate) mtime: Option<Time>,
    pub(crate) xattrs: Vec<Xattr>,
    pub(crate) sparse: PaxSparse,
}

impl Overrides {
    /// Adds the records of one extended header.
    pub(crate) fn parse(&mut self, mut data: &[u8]) -> Result<()> {
        while !data.is_empty() {
            // Some writers pad the last record with zero bytes.
            if data.iter().all(|&b| b == 0) {
                return Ok(());
            }
            let (key, value, rest) = record(data).ok_or_else(|| Error::corrupt("an extended header is malformed"))?;
            self.set(key, value)?;
            data = rest;
        }
        Ok(())
    }

    /// One record. An empty value takes an earlier one back, as POSIX has it.
    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        match key {
            b"path" => self.path = (!value.is_empty()).then(|| value.to_vec()),
            b"linkpath" => self.link_path = (!value.is_empty()).then(|| value.to_vec()),
            b"size" => self.size = decimal(key, value)?,
            b"uid" => self.uid = decimal(key, value)?,
            b"gid" => self.gid = decimal(key, value)?,
            b"mtime" => self.mtime = time(value)?,
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.retain(|(known, _)| known != name);
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                } else if let Some(field) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.set(field, value)?;
                }
            }
        }
        Ok(())
    }

    /// These overrides with those of `global` where they say nothing.
    pub(crate) fn or(mut self, global: &Self) -> Self {
        self.path = self.path.or_else(|| global.path.clone());
        self.link_path = self.link_path.or_else(|| global.link_path.clone());
        self.size = self.size.or(global.size);
        self.uid = self.uid.or(global.uid);
        self.gid = self.gid.or(global.gid);
        self.mtime = self.mtime.or(global.mtime);
        if self.xattrs.is_empty() {
            self.xattrs.clone_from(&global.xattrs);
        }
        self
    }
}

/// The first record: key, value and what follows.
fn record(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = data.iter().take(20).position(|&b| b == b' ')?;
    let length: usize = std::str::from_utf8(&data[..space]).ok()?.parse().ok()?;
    let body = data.get(space + 1..length)?;
    let body = body.strip_suffix(b"\n")?;
    let equals = body.iter().position(|&b| b == b'=')?;
    Some((&body[..equals], &body[equals + 1..], &data[length..]))
}

/// A decimal number; an empty value is none.
pub(crate) fn decimal(key: &[u8], value: &[u8]) -> Result<Option<u64>> {
    if value.is_empty() {
        return Ok(None);
    }
    let number = std::str::from_utf8(value)
        .ok()
        .filter(|v| v.bytes().all(|b| b.is_ascii_digit()));
    match number.and_then(|v| v.parse().ok()) {
        Some(number) => Ok(Some(number)),
        None => Err(Error::corrupt(format!(
            "the extended header {:?} is no number",
            crate::error::show(key)
        ))),
    }
}

/// Seconds with an optional fraction, perhaps negative.
fn time(value: &[u8]) -> Result<Option<Time>> {
    if value.is_empty() {
        return Ok(None);
    }
    parse_time(value)
        .map(Some)
        .ok_or_else(|| Error::corrupt("an extended header's time is no number"))
}

fn parse_time(value: &[u8]) -> Option<Time> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanoseconds: u32 = format!("{fraction:0<9.9}").parse().ok()?;
    if text.starts_with('-') && nanoseconds > 0 {
        // The fraction counts away from zero, the kernel's nanoseconds always forwards.
        return Some(Time {
            seconds: seconds.checked_sub(1)?,
            nanoseconds: 1_000_000_000 - nanoseconds,
        });
    }
    Some(Time { seconds, nanoseconds })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn records() {
        let mut o = Overrides::default();
        o.parse(b"16 path=new/name\n18 mtime=1.5000001\n28 SCHILY.xattr.user.x=a=b\n")
            .unwrap_err();
        let mut o = Overrides::default();
        o.parse(b"17 path=new/name\n20 mtime=1.50000010\n27 SCHILY.xattr.user.x=a=b\n")
            .unwrap();
        assert_eq!(o.path.as_deref(), Some(&b"new/name"[..]));
        assert_eq!(
            o.mtime,
            Some(Time {
                seconds: 1,
                nanoseconds: 500_000_100
            })
        );
        assert_eq!(o.xattrs, vec![(b"user.x".to_vec(), b"a=b".to_vec())]);
        o.parse(b"8 path=\n").unwrap();
        assert_eq!(o.path, None);
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        for bad in [
            &b"5 a=b\n"[..],
            b"7 a=b\n",
            b"0 a=b\n",
            b"99999999999999999999 a=b\n",
            b"6 abcd\n",
            b"-6 a=b\n",
            b"x",
        ] {
            assert!(
                Overrides::default().parse(bad).is_err(),
                "{:?}",
                String::from_utf8_lossy(bad)
            );
        }
        assert!(Overrides::default().parse(b"6 a=b\n").is_ok());
        assert!(Overrides::default().parse(b"11 size=1x\n").is_err());
        assert!(Overrides::default().parse(b"11 size=-1\n").is_err());
    }

    #[test]
    fn times_before_1970() {
        assert_eq!(
            parse_time(b"-1.25"),
            Some(Time {
                seconds: -2,
                nanoseconds: 750_000_000
            })
        );
        assert_eq!(
            parse_time(b"-3"),
            Some(Time {
                seconds: -3,
                nanoseconds: 0
            })
        );
        assert_eq!(parse_time(b"1.x"), None);
    }

    proptest! {
        #[test]
        fn no_extended_header_panics(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Overrides::default().parse(&data);
        }

        #[test]
        fn what_is_written_is_read(key in "[a-z.]{1,20}", value in proptest::collection::vec(any::<u8>(), 1..300)) {
            let mut data = Vec::new();
            let key = format!("SCHILY.xattr.{key}");
            crate::tar::writer::push_record(&mut data, key.as_bytes(), &value);
            let mut o = Overrides::default();
            o.parse(&data).unwrap();
            prop_assert_eq!(&o.xattrs[0].1, &value);
        }
    }
}

//! Tests of the tar reader on archives made here, good and bad.

use std::io::Cursor;

use proptest::prelude::*;

use super::*;
use crate::tar::header::seal;
use crate::tar::writer::{TarWriter, push_record};

/// Collects data, holes as zeros.
#[derive(Default)]
struct Memory(Vec<u8>);

impl DataSink for Memory {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        let offset = usize::try_from(offset).unwrap();
        self.0.resize(self.0.len().max(offset + data.len()), 0);
        self.0[offset..offset + data.len()].copy_from_slice(data);
        Ok(())
    }
}

fn block(name: &[u8], typeflag: u8, size: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    block[..name.len()].copy_from_slice(name);
    block[100..108].copy_from_slice(b"0000644\0");
    block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    block[156] = typeflag;
    block[257..265].copy_from_slice(b"ustar\x0000");
    seal(&mut block);
    block
}

fn padded(data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    data.resize(data.len().next_multiple_of(BLOCK), 0);
    data
}

const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

fn read(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>> {
    let mut reader = TarReader::new(Cursor::new(bytes), 64);
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut data = Memory::default();
        if matches!(entry.kind, Kind::File(_)) {
            reader.read_data(&mut data)?;
        }
        entries.push((entry, data.0));
    }
    Ok(entries)
}

fn sample_entries() -> Vec<(Entry, Vec<u8>)> {
    let path = |name: &str| EntryPath::parse(name.as_bytes(), 300).unwrap();
    let entry = |name: &str, kind| Entry {
        path: path(name),
        kind,
        mode: 0o4755,
        uid: 1000,
        gid: 3_000_000_000,
        mtime: Time {
            seconds: -5,
            nanoseconds: 250_000_000,
        },
        xattrs: vec![],
    };
    let long = "d/".repeat(30) + &"n".repeat(200);
    let mut with_xattr = entry("etc/caps", Kind::File(3));
    with_xattr.xattrs = vec![(b"security.capability".to_vec(), vec![1, 0, 0, 2, b'\n', 0, 255])];
    vec![
        (entry("etc", Kind::Directory), vec![]),
        (with_xattr, b"abc".to_vec()),
        (entry(&long, Kind::File(1000)), vec![7; 1000]),
        (entry("link", Kind::Symlink(long.clone().into_bytes())), vec![]),
        (entry("hard", Kind::Hardlink(path(&long))), vec![]),
        (entry("fifo", Kind::Fifo), vec![]),
        (entry("empty", Kind::File(0)), vec![]),
        (entry("grüße", Kind::File(0)), vec![]),
    ]
}

fn written(entries: &[(Entry, Vec<u8>)]) -> Vec<u8> {
    let mut writer = TarWriter::new(Vec::new());
    for (entry, data) in entries {
        writer.entry(entry).unwrap();
        writer.data(data).unwrap();
    }
    writer.finish().unwrap()
}

#[test]
fn what_is_written_is_read_back() {
    let entries = sample_entries();
    assert_eq!(read(&written(&entries)).unwrap(), entries);
}

#[test]
fn every_cut_is_noticed() {
    let bytes = written(&sample_entries());
    // The end mark is two blocks, of which one is enough.
    for cut in (0..bytes.len() - BLOCK).step_by(100) {
        assert_eq!(read(&bytes[..cut]), Err(Error::Truncated), "cut at {cut}");
    }
    assert!(read(&bytes[..bytes.len() - BLOCK]).is_ok());
}

#[test]
fn long_names_of_gnu() {
    let name = "x/".repeat(20) + &"y".repeat(150);
    let long = padded(format!("{name}\0").as_bytes());
    let bytes = [
        &block(b"././@LongLink", b'L', name.len() as u64 + 1)[..],
        &long,
        &block(b"short", b'0', 0),
        &END,
    ]
    .concat();
    assert_eq!(read(&bytes).unwrap()[0].0.path.as_bytes(), name.as_bytes());
    let huge = [&block(b"././@LongLink", b'L', 1 << 30)[..], &END].concat();
    assert!(matches!(read(&huge), Err(Error::Corrupt(_))));
}

#[test]
fn sparse_files_of_every_version() {
    let expected = [&b"AB"[..], &[0; 8], b"CD", &[0; 8]].concat();
    let check = |bytes: &[u8], what: &str| {
        let entries = read(bytes).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(entries[0].0.kind, Kind::File(20), "{what}");
        assert_eq!(entries[0].0.path.as_bytes(), b"real", "{what}");
        let mut data = entries[0].1.clone();
        data.resize(20, 0);
        assert_eq!(data, expected, "{what}");
    };
    // GNU's own format.
    let mut old = block(b"real", b'S', 4);
    old[257..265].copy_from_slice(b"ustar  \0");
    old[386..398].copy_from_slice(b"00000000000\0");
    old[398..410].copy_from_slice(b"00000000002\0");
    old[410..422].copy_from_slice(b"00000000012\0");
    old[422..434].copy_from_slice(b"00000000002\0");
    old[483..495].copy_from_slice(b"00000000024\0");
    seal(&mut old);
    check(&[&old[..], &padded(b"ABCD"), &END].concat(), "old");
    // The three versions on pax.
    let pax = |records: &[(&str, &str)], data: &[u8]| {
        let mut extended = Vec::new();
        for (key, value) in records {
            push_record(&mut extended, key.as_bytes(), value.as_bytes());
        }
        let size = data.len() as u64;
        [
            &block(b"pax", b'x', extended.len() as u64)[..],
            &padded(&extended),
            &block(b"made/up", b'0', size),
            &padded(data),
            &END,
        ]
        .concat()
    };
    let name = ("GNU.sparse.name", "real");
    let zero = ("GNU.sparse.size", "20");
    let offsets = [
        ("GNU.sparse.offset", "0"),
        ("GNU.sparse.numbytes", "2"),
        ("GNU.sparse.offset", "10"),
        ("GNU.sparse.numbytes", "2"),
    ];
    check(&pax(&[&[name, zero][..], &offsets].concat(), b"ABCD"), "0.0");
    check(&pax(&[name, zero, ("GNU.sparse.map", "0,2,10,2")], b"ABCD"), "0.1");
    let data = [&padded(b"2\n0\n2\n10\n2\n")[..], b"ABCD"].concat();
    let one = [
        name,
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.realsize", "20"),
    ];
    check(&pax(&one, &data), "1.0");
    let lying = pax(&[name, zero, ("GNU.sparse.map", "0,2,19,2")], b"ABCD");
    assert!(matches!(read(&lying), Err(Error::Corrupt(_))));
}

#[test]
fn bad_archives_are_refused_with_a_reason() {
    let one = |block: [u8; BLOCK]| [&block[..], &END].concat();
    let refused = |bytes: &[u8]| match read(bytes) {
        Err(Error::Refused { reason, .. }) => reason,
        other => panic!("not refused: {other:?}"),
    };
    assert_eq!(refused(&one(block(b"../x", b'0', 0))), Refusal::Upwards);
    assert_eq!(refused(&one(block(b"/x", b'0', 0))), Refusal::Absolute);
    assert_eq!(refused(&one(block(b"x", b'M', 0))), Refusal::Type('M'));
    let mut owner = block(b"x", b'0', 0);
    owner[108..116].copy_from_slice(&[0x80, 0, 0, 1, 0, 0, 0, 0]);
    seal(&mut owner);
    assert_eq!(refused(&one(owner)), Refusal::Owner);
    let mut hard = block(b"x", b'1', 0);
    hard[157..162].copy_from_slice(b"../up");
    seal(&mut hard);
    assert_eq!(refused(&one(hard)), Refusal::Upwards);

    let corrupt = |bytes: &[u8]| matches!(read(bytes), Err(Error::Corrupt(_)));
    assert!(corrupt(&one(block(b"dir", b'5', 512))), "a directory with data");
    assert!(corrupt(&one(block(b"sym", b'2', 0))), "a link to nowhere");
    let mut wrong = block(b"x", b'0', 0);
    wrong[0] = b'y';
    assert!(corrupt(&one(wrong)), "a wrong checksum");
    assert!(
        corrupt(&[&[0; BLOCK][..], &block(b"x", b'0', 0), &END].concat()),
        "an entry after the end"
    );
    let many: Vec<u8> = (0..20)
        .flat_map(|_| [&block(b"p", b'x', 6)[..], &padded(b"6 a=b\n")].concat())
        .collect();
    assert!(corrupt(&many), "nothing but extended headers");
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
        let _ = read(&bytes);
    }

    /// Changes single bytes of a good archive and mends the checksum, so that the change is looked at.
    #[test]
    fn no_change_of_a_good_archive_panics(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = written(&sample_entries());
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
            let start = at / BLOCK * BLOCK;
            let block: &mut [u8; BLOCK] = (&mut bytes[start..start + BLOCK]).try_into().unwrap();
            if block[257..262] == *b"ustar" {
                seal(block);
            }
        }
        let _ = read(&bytes);
    }
}

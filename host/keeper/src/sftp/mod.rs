//! A file server: SFTP version 3 (draft-ietf-secsh-filexfer-02), with OpenSSH's extensions `posix-rename`, `hardlink`, `fsync`, `lsetstat`
//! and `statvfs` (its `PROTOCOL` document).
//!
//! It runs inside the container, as its root and with its root directory: what it can reach, the container can. It answers requests
//! in order, one at a time.

mod operations;
mod packet;

use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use operations::{Failure, Server};
use packet::{Reader, Writer};

/// Longest packet that is taken, and longest block of data that is sent: as OpenSSH has them.
const LONGEST_PACKET: u32 = 256 * 1024;
const LONGEST_READ: u32 = 255 * 1024;

const INIT: u8 = 1;
const VERSION: u8 = 2;
const OPEN: u8 = 3;
const CLOSE: u8 = 4;
const READ: u8 = 5;
const WRITE: u8 = 6;
const LSTAT: u8 = 7;
const FSTAT: u8 = 8;
const SETSTAT: u8 = 9;
const FSETSTAT: u8 = 10;
const OPENDIR: u8 = 11;
const READDIR: u8 = 12;
const REMOVE: u8 = 13;
const MKDIR: u8 = 14;
const RMDIR: u8 = 15;
const REALPATH: u8 = 16;
const STAT: u8 = 17;
const RENAME: u8 = 18;
const READLINK: u8 = 19;
const SYMLINK: u8 = 20;
const STATUS: u8 = 101;
const HANDLE: u8 = 102;
const DATA: u8 = 103;
const NAME: u8 = 104;
const ATTRS: u8 = 105;
const EXTENDED: u8 = 200;
const EXTENDED_REPLY: u8 = 201;

const EXTENSIONS: [(&str, &str); 5] = [
    ("posix-rename@openssh.com", "1"),
    ("hardlink@openssh.com", "1"),
    ("fsync@openssh.com", "1"),
    ("lsetstat@openssh.com", "1"),
    ("statvfs@openssh.com", "2"),
];

/// Serves until the stream ends, or something is sent on it that is no packet.
pub(crate) fn serve(stream: OwnedFd) {
    // Modes are what the client says; without any, what is usual.
    rustix::process::umask(rustix::fs::Mode::empty());
    let mut stream = std::os::unix::net::UnixStream::from(stream);
    let mut server = Server::new();
    let mut packet = Vec::new();
    while read_packet(&mut stream, &mut packet).is_some() {
        let Some(answer) = answer(&mut server, &packet) else {
            return;
        };
        if stream.write_all(&answer).is_err() {
            return;
        }
    }
}

fn read_packet(stream: &mut impl Read, packet: &mut Vec<u8>) -> Option<()> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let length = u32::from_be_bytes(length);
    if length == 0 || length > LONGEST_PACKET {
        return None;
    }
    packet.resize(usize::try_from(length).ok()?, 0);
    stream.read_exact(packet).ok()
}

/// The answer to a packet; `None` when it has no request number to answer to.
fn answer(server: &mut Server, packet: &[u8]) -> Option<Vec<u8>> {
    let mut reader = Reader::new(packet);
    let kind = reader.byte()?;
    if kind == INIT {
        let hello = Writer::new(VERSION).u32(3);
        let add =
            |writer: Writer, (name, version): (&str, &str)| writer.string(name.as_bytes()).string(version.as_bytes());
        return Some(EXTENSIONS.into_iter().fold(hello, add).finish());
    }
    let id = reader.u32()?;
    let answer = request(server, kind, id, &mut reader);
    Some(answer.unwrap_or_else(|failure| {
        let text = match (failure, subject(packet)) {
            (Failure::System(_), Some(path)) => format!("{:?}: {}", String::from_utf8_lossy(path), failure.text()),
            _ => failure.text(),
        };
        status_saying(id, &failure, &text)
    }))
}

/// The path that a request is about; of a symbolic link the link's, which comes second.
fn subject(packet: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader::new(packet);
    let kind = reader.byte()?;
    reader.u32()?;
    match kind {
        OPEN | OPENDIR | LSTAT | STAT | SETSTAT | REMOVE | RMDIR | MKDIR | REALPATH | READLINK | RENAME => {
            reader.string()
        }
        SYMLINK => {
            reader.string()?;
            reader.string()
        }
        EXTENDED => match reader.string()? {
            b"posix-rename@openssh.com"
            | b"hardlink@openssh.com"
            | b"lsetstat@openssh.com"
            | b"statvfs@openssh.com" => reader.string(),
            _ => None,
        },
        _ => None,
    }
}

fn status(id: u32, failure: &Failure) -> Vec<u8> {
    status_saying(id, failure, &failure.text())
}

fn status_saying(id: u32, failure: &Failure, text: &str) -> Vec<u8> {
    Writer::new(STATUS)
        .u32(id)
        .u32(failure.code())
        .string(text.as_bytes())
        .string(b"")
        .finish()
}

type Answer = Result<Vec<u8>, Failure>;

fn request(server: &mut Server, kind: u8, id: u32, reader: &mut Reader<'_>) -> Answer {
    match kind {
        OPEN | CLOSE | READ | WRITE | FSTAT | FSETSTAT | OPENDIR | READDIR => opened(server, kind, id, reader),
        EXTENDED => extended(server, id, reader),
        _ => named(server, kind, id, reader),
    }
}

/// Requests about what is open, or is to be.
fn opened(server: &mut Server, kind: u8, id: u32, reader: &mut Reader<'_>) -> Answer {
    let short = Failure::BadMessage;
    let done = |()| status(id, &Failure::None);
    let handle = |handle: u32| Writer::new(HANDLE).u32(id).string(&handle.to_be_bytes()).finish();
    let file = reader.string().ok_or(short)?;
    match kind {
        OPEN => {
            let flags = reader.u32().ok_or(short)?;
            server.open(file, flags, &reader.attributes().ok_or(short)?).map(handle)
        }
        OPENDIR => server.open_directory(file).map(handle),
        CLOSE => server.close(file).map(done),
        READ => {
            let offset = reader.u64().ok_or(short)?;
            let length = reader.u32().ok_or(short)?.min(LONGEST_READ);
            server
                .read(file, offset, length)
                .map(|data| Writer::new(DATA).u32(id).string(&data).finish())
        }
        WRITE => {
            let offset = reader.u64().ok_or(short)?;
            server.write(file, offset, reader.string().ok_or(short)?).map(done)
        }
        FSTAT => server
            .fstat(file)
            .map(|attributes| Writer::new(ATTRS).u32(id).attributes(&attributes).finish()),
        FSETSTAT => server.set_open(file, &reader.attributes().ok_or(short)?).map(done),
        READDIR => server.read_directory(file).map(|entries| {
            let first = Writer::new(NAME).u32(id).u32(u32::try_from(entries.len()).unwrap_or(0));
            let add = |writer: Writer, entry: operations::Entry| {
                writer
                    .string(&entry.name)
                    .string(&entry.long_name)
                    .attributes(&entry.attributes)
            };
            entries.into_iter().fold(first, add).finish()
        }),
        _ => Err(Failure::Unsupported),
    }
}

/// Requests about names.
fn named(server: &Server, kind: u8, id: u32, reader: &mut Reader<'_>) -> Answer {
    let short = Failure::BadMessage;
    let done = |()| status(id, &Failure::None);
    let attrs = |attributes: packet::Attributes| Writer::new(ATTRS).u32(id).attributes(&attributes).finish();
    let name = |name: Vec<u8>| {
        let none = packet::Attributes::default();
        Writer::new(NAME)
            .u32(id)
            .u32(1)
            .string(&name)
            .string(&name)
            .attributes(&none)
            .finish()
    };
    let path = reader
        .string()
        .ok_or(if kind > SYMLINK { Failure::Unsupported } else { short })?;
    match kind {
        LSTAT => server.lstat(path).map(attrs),
        STAT => server.stat(path).map(attrs),
        SETSTAT => server.set(path, &reader.attributes().ok_or(short)?, true).map(done),
        REMOVE => server.remove(path).map(done),
        RMDIR => server.remove_directory(path).map(done),
        MKDIR => server
            .make_directory(path, &reader.attributes().ok_or(short)?)
            .map(done),
        REALPATH => server.real_path(path).map(name),
        READLINK => server.read_link(path).map(name),
        RENAME => server.rename(path, reader.string().ok_or(short)?, false).map(done),
        // The draft has the link first. OpenSSH has it second, and with it everybody (its PROTOCOL, 4.1).
        SYMLINK => server.symlink(path, reader.string().ok_or(short)?).map(done),
        _ => Err(Failure::Unsupported),
    }
}

fn extended(server: &mut Server, id: u32, reader: &mut Reader<'_>) -> Answer {
    let short = Failure::BadMessage;
    let done = |()| status(id, &Failure::None);
    match reader.string().ok_or(short)? {
        b"posix-rename@openssh.com" => {
            let (from, to) = (reader.string().ok_or(short)?, reader.string().ok_or(short)?);
            server.rename(from, to, true).map(done)
        }
        b"hardlink@openssh.com" => {
            let (from, to) = (reader.string().ok_or(short)?, reader.string().ok_or(short)?);
            server.link(from, to).map(done)
        }
        b"fsync@openssh.com" => server.sync(reader.string().ok_or(short)?).map(done),
        b"lsetstat@openssh.com" => {
            let path = reader.string().ok_or(short)?;
            server.set(path, &reader.attributes().ok_or(short)?, false).map(done)
        }
        b"statvfs@openssh.com" => server.file_system(reader.string().ok_or(short)?).map(|values| {
            let first = Writer::new(EXTENDED_REPLY).u32(id);
            values.into_iter().fold(first, Writer::u64).finish()
        }),
        _ => Err(Failure::Unsupported),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use packet::Attributes;

    /// Sends a request to a server and returns the type and the body of the answer, after its number.
    fn ask(server: &mut Server, packet: Writer) -> (u8, Vec<u8>) {
        let bytes = answer(server, &packet.finish()[4..]).unwrap();
        assert_eq!(
            usize::try_from(u32::from_be_bytes(bytes[..4].try_into().unwrap())).unwrap(),
            bytes.len() - 4
        );
        assert_eq!(bytes[5..9], [0, 0, 0, 9]);
        (bytes[4], bytes[9..].to_vec())
    }

    fn code(answer: (u8, Vec<u8>)) -> u32 {
        assert_eq!(answer.0, STATUS);
        u32::from_be_bytes(answer.1[..4].try_into().unwrap())
    }

    fn to(kind: u8) -> Writer {
        Writer::new(kind).u32(9)
    }

    #[test]
    fn a_file_is_written_read_and_removed() {
        let dir = std::env::temp_dir().join(format!("hutch-sftp-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let path = dir.join("file").into_os_string().into_encoded_bytes();
        let mut server = Server::new();
        let none = Attributes::default();
        let mode = Attributes {
            permissions: Some(0o640),
            ..none
        };

        assert_eq!(
            code(ask(&mut server, to(OPEN).string(&path).u32(1).attributes(&none))),
            2
        );
        let (kind, handle) = ask(&mut server, to(OPEN).string(&path).u32(2 | 8 | 32).attributes(&mode));
        assert_eq!(kind, HANDLE);
        let handle = handle[4..].to_vec();
        assert_eq!(
            code(ask(&mut server, to(WRITE).string(&handle).u64(2).string(b"cd"))),
            0
        );
        assert_eq!(
            code(ask(&mut server, to(WRITE).string(&handle).u64(0).string(b"ab"))),
            0
        );
        assert_eq!(code(ask(&mut server, to(CLOSE).string(&handle))), 0);
        assert_eq!(code(ask(&mut server, to(CLOSE).string(&handle))), 4);

        let (_, handle) = ask(&mut server, to(OPEN).string(&path).u32(1).attributes(&none));
        let handle = handle[4..].to_vec();
        assert_eq!(
            ask(&mut server, to(READ).string(&handle).u64(1).u32(100)),
            (DATA, b"\0\0\0\x03bcd".to_vec())
        );
        assert_eq!(code(ask(&mut server, to(READ).string(&handle).u64(4).u32(100))), 1);
        let (kind, attributes) = ask(&mut server, to(FSTAT).string(&handle));
        assert_eq!(kind, ATTRS);
        let attributes = Reader::new(&attributes).attributes().unwrap();
        assert_eq!(
            (attributes.size, attributes.permissions.map(|mode| mode & 0o777)),
            (Some(4), Some(0o640))
        );

        // What fails says of which file.
        let (_, refused) = ask(&mut server, to(MKDIR).string(&path).attributes(&none));
        let said = String::from_utf8_lossy(&refused[8..]).into_owned();
        assert!(said.starts_with(&format!("{:?}: ", dir.join("file"))), "{said}");

        let (kind, opened) = ask(&mut server, to(OPENDIR).string(dir.as_os_str().as_encoded_bytes()));
        assert_eq!(kind, HANDLE);
        let (kind, names) = ask(&mut server, to(READDIR).string(&opened[4..]));
        assert_eq!((kind, &names[..12]), (NAME, &b"\0\0\0\x01\0\0\0\x04file"[..]));
        assert_eq!(code(ask(&mut server, to(READDIR).string(&opened[4..]))), 1);
        assert_eq!(code(ask(&mut server, to(REMOVE).string(&path))), 0);
        assert_eq!(
            code(ask(&mut server, to(RMDIR).string(dir.as_os_str().as_encoded_bytes()))),
            0
        );
    }

    #[test]
    fn whatever_comes_is_answered_or_ends_it() {
        let mut server = Server::new();
        // What is opened may be made: only in here.
        let dir = std::env::temp_dir().join(format!("hutch-sftp-any-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let mut seed = 7_u64;
        let mut random = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed.to_le_bytes()[3]
        };
        for round in 0..20_000 {
            // Kinds that look at files alone, lest a lucky path be removed.
            let kind = [OPEN, READ, LSTAT, FSTAT, READDIR, STAT, READLINK, EXTENDED, 99, 255][round % 10];
            let mut packet = vec![kind];
            let mut any = |most: u8| -> Vec<u8> {
                let bytes = 0..random() % most;
                bytes
                    .map(|_| if random() % 3 == 0 { 0 } else { random() % 16 })
                    .collect()
            };
            if kind == OPEN {
                let path = [dir.as_os_str().as_encoded_bytes(), b"/", &any(8)].concat();
                packet.extend(to(OPEN).string(&path).finish()[5..].iter());
            }
            packet.extend(any(40));
            if let Some(answer) = answer(&mut server, &packet) {
                assert!(answer.len() >= 9);
            } else {
                assert!(packet.len() < 5);
            }
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}

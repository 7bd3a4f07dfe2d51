//! A client of SFTP version 3 (draft-ietf-secsh-filexfer-02). The server is trusted with nothing: sizes, counts, ids and
//! waiting times are bounded.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::Content;
use super::packet::{Attrs, Malformed, Reader, put_bytes};

/// Flags of [`Client::open`] (section 6.3).
pub(super) const READ: u32 = 0x01;
pub(super) const WRITE: u32 = 0x02;
pub(super) const APPEND: u32 = 0x04;
pub(super) const CREATE: u32 = 0x08;
pub(super) const TRUNCATE: u32 = 0x10;

/// Bytes of one read or write; every server takes 34,000 in a packet (section 3).
const BLOCK: u32 = 32 << 10;
/// Reads or writes that are under way at one time.
const WINDOW: usize = 16;
/// Bytes of the longest packet that is accepted.
const PACKET: u32 = 256 << 10;
/// The most entries of a directory.
const ENTRIES: usize = 1 << 17;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

mod kind {
    pub(super) const INIT: u8 = 1;
    pub(super) const VERSION: u8 = 2;
    pub(super) const OPEN: u8 = 3;
    pub(super) const CLOSE: u8 = 4;
    pub(super) const READ: u8 = 5;
    pub(super) const WRITE: u8 = 6;
    pub(super) const LSTAT: u8 = 7;
    pub(super) const SETSTAT: u8 = 9;
    pub(super) const FSETSTAT: u8 = 10;
    pub(super) const OPENDIR: u8 = 11;
    pub(super) const READDIR: u8 = 12;
    pub(super) const REMOVE: u8 = 13;
    pub(super) const MKDIR: u8 = 14;
    pub(super) const RMDIR: u8 = 15;
    pub(super) const STAT: u8 = 17;
    pub(super) const READLINK: u8 = 19;
    pub(super) const SYMLINK: u8 = 20;
    pub(super) const STATUS: u8 = 101;
    pub(super) const HANDLE: u8 = 102;
    pub(super) const DATA: u8 = 103;
    pub(super) const NAME: u8 = 104;
    pub(super) const ATTRS: u8 = 105;
}

/// Why a request failed.
#[derive(Debug)]
pub(super) enum SftpError {
    /// There is no such file.
    NotFound,
    /// Not even the instance's root may.
    Denied,
    /// The server says why not.
    Refused(String),
    /// The connection or the content broke, or the server makes no sense.
    Broken(io::Error),
}

impl From<io::Error> for SftpError {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

impl From<Malformed> for SftpError {
    fn from(_: Malformed) -> Self {
        nonsense()
    }
}

impl From<SftpError> for io::Error {
    fn from(error: SftpError) -> Self {
        match error {
            SftpError::NotFound => io::ErrorKind::NotFound.into(),
            SftpError::Denied => io::ErrorKind::PermissionDenied.into(),
            SftpError::Refused(message) => Self::other(message),
            SftpError::Broken(error) => error,
        }
    }
}

fn nonsense() -> SftpError {
    SftpError::Broken(io::Error::new(
        io::ErrorKind::InvalidData,
        "the instance's file server sent nonsense",
    ))
}

type Result<T, E = SftpError> = std::result::Result<T, E>;

/// An answer: its kind and what follows the id.
type Answer = (u8, Reader);

/// A connection.
pub(super) struct Client {
    stream: UnixStream,
    next: u32,
    out: Vec<u8>,
}

/// An open file or directory.
pub(super) struct Handle(Bytes);

impl Client {
    /// Says which version is spoken.
    pub(super) async fn connect(stream: UnixStream) -> Result<Self> {
        let mut client = Self {
            stream,
            next: 0,
            out: Vec::new(),
        };
        client.stream.write_all(&[0, 0, 0, 5, kind::INIT, 0, 0, 0, 3]).await?;
        let (kind, mut packet) = client.packet().await?;
        // A later server answers with the version that was asked for (section 4).
        if kind == kind::VERSION && packet.u32()? == 3 {
            Ok(client)
        } else {
            Err(nonsense())
        }
    }

    pub(super) async fn lstat(&mut self, path: &str) -> Result<Attrs> {
        self.attrs(kind::LSTAT, path).await
    }

    pub(super) async fn stat(&mut self, path: &str) -> Result<Attrs> {
        self.attrs(kind::STAT, path).await
    }

    async fn attrs(&mut self, request: u8, path: &str) -> Result<Attrs> {
        match self.ask(request, |out| put_bytes(out, path.as_bytes())).await? {
            (kind::ATTRS, mut packet) => Ok(Attrs::read(&mut packet)?),
            other => Err(failure(other)),
        }
    }

    pub(super) async fn open(&mut self, path: &str, flags: u32, attrs: &Attrs) -> Result<Handle> {
        let answer = self.ask(kind::OPEN, |out| {
            put_bytes(out, path.as_bytes());
            out.extend(flags.to_be_bytes());
            attrs.write(out);
        });
        handle(answer.await?)
    }

    pub(super) async fn close(&mut self, handle: &Handle) -> Result<()> {
        self.done(kind::CLOSE, |out| put_bytes(out, &handle.0)).await
    }

    pub(super) async fn setstat(&mut self, path: &str, attrs: &Attrs) -> Result<()> {
        self.done(kind::SETSTAT, |out| {
            put_bytes(out, path.as_bytes());
            attrs.write(out);
        })
        .await
    }

    pub(super) async fn fsetstat(&mut self, handle: &Handle, attrs: &Attrs) -> Result<()> {
        self.done(kind::FSETSTAT, |out| {
            put_bytes(out, &handle.0);
            attrs.write(out);
        })
        .await
    }

    pub(super) async fn mkdir(&mut self, path: &str, attrs: &Attrs) -> Result<()> {
        self.done(kind::MKDIR, |out| {
            put_bytes(out, path.as_bytes());
            attrs.write(out);
        })
        .await
    }

    pub(super) async fn rmdir(&mut self, path: &str) -> Result<()> {
        self.done(kind::RMDIR, |out| put_bytes(out, path.as_bytes())).await
    }

    pub(super) async fn remove(&mut self, path: &str) -> Result<()> {
        self.done(kind::REMOVE, |out| put_bytes(out, path.as_bytes())).await
    }

    /// Makes a link at `path`. The target comes first, as OpenSSH has it and with it everybody else, against the draft.
    pub(super) async fn symlink(&mut self, target: &str, path: &str) -> Result<()> {
        self.done(kind::SYMLINK, |out| {
            put_bytes(out, target.as_bytes());
            put_bytes(out, path.as_bytes());
        })
        .await
    }

    pub(super) async fn readlink(&mut self, path: &str) -> Result<String> {
        match self.ask(kind::READLINK, |out| put_bytes(out, path.as_bytes())).await? {
            (kind::NAME, mut packet) => {
                if packet.u32()? != 1 {
                    return Err(nonsense());
                }
                Ok(packet.text()?)
            }
            other => Err(failure(other)),
        }
    }

    /// The entries of a directory but itself and its parent.
    pub(super) async fn list(&mut self, path: &str) -> Result<Vec<(String, Attrs)>> {
        let handle = handle(self.ask(kind::OPENDIR, |out| put_bytes(out, path.as_bytes())).await?)?;
        let mut entries = Vec::new();
        loop {
            let (kind, mut packet) = self.ask(kind::READDIR, |out| put_bytes(out, &handle.0)).await?;
            if kind != kind::NAME {
                match status((kind, packet))? {
                    Status::End => break,
                    Status::Done => return Err(nonsense()),
                }
            }
            for _ in 0..packet.u32()? {
                let name = packet.text()?;
                packet.bytes()?;
                let attrs = Attrs::read(&mut packet)?;
                if name.is_empty() || name.contains(['/', '\0']) {
                    return Err(nonsense());
                }
                if name != "." && name != ".." {
                    entries.push((name, attrs));
                }
                if entries.len() > ENTRIES {
                    return Err(SftpError::Refused(format!(
                        "the directory has more than {ENTRIES} entries"
                    )));
                }
            }
        }
        self.close(&handle).await?;
        Ok(entries)
    }

    /// Writes content from `offset` on.
    pub(super) async fn write(&mut self, handle: &Handle, mut offset: u64, content: &mut Content) -> Result<()> {
        let mut under_way = VecDeque::new();
        while let Some(block) = content.next().await {
            let mut block = block?;
            while !block.is_empty() {
                let part = block.split_to(block.len().min(BLOCK as usize));
                if under_way.len() == WINDOW {
                    self.written(&mut under_way).await?;
                }
                let id = self.send(kind::WRITE, |out| {
                    put_bytes(out, &handle.0);
                    out.extend(offset.to_be_bytes());
                    put_bytes(out, &part);
                });
                under_way.push_back(id.await?);
                offset += part.len() as u64;
            }
        }
        while !under_way.is_empty() {
            self.written(&mut under_way).await?;
        }
        Ok(())
    }

    /// Waits for the answer to one of the writes under way, in whatever order the server gives them.
    async fn written(&mut self, under_way: &mut VecDeque<u32>) -> Result<()> {
        let (id, answer) = self.answer().await?;
        let at = under_way
            .iter()
            .position(|waiting| *waiting == id)
            .ok_or_else(nonsense)?;
        under_way.remove(at);
        match status(answer)? {
            Status::Done => Ok(()),
            Status::End => Err(nonsense()),
        }
    }

    /// The content of an open file to its end, several reads ahead. The connection goes with it.
    pub(super) fn into_content(self, handle: Handle) -> impl Stream<Item = io::Result<Bytes>> + Send {
        let reading = Reading {
            client: self,
            handle,
            asked: VecDeque::new(),
            early: BTreeMap::new(),
            next: 0,
            ended: false,
        };
        futures_util::stream::try_unfold(reading, |mut reading| async move {
            let block = reading.block().await.map_err(io::Error::from)?;
            Ok(block.map(|block| (block, reading)))
        })
    }

    async fn done(&mut self, request: u8, body: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
        match status(self.ask(request, body).await?)? {
            Status::Done => Ok(()),
            Status::End => Err(nonsense()),
        }
    }

    /// Sends a request and waits for its answer.
    async fn ask(&mut self, request: u8, body: impl FnOnce(&mut Vec<u8>)) -> Result<Answer> {
        let sent = self.send(request, body).await?;
        match self.answer().await? {
            (id, answer) if id == sent => Ok(answer),
            _ => Err(nonsense()),
        }
    }

    async fn send(&mut self, request: u8, body: impl FnOnce(&mut Vec<u8>)) -> Result<u32> {
        let id = self.next;
        self.next = id.wrapping_add(1);
        self.out.clear();
        self.out.extend([0, 0, 0, 0, request]);
        self.out.extend(id.to_be_bytes());
        body(&mut self.out);
        let length = u32::try_from(self.out.len() - 4).map_err(|_| nonsense())?;
        self.out[..4].copy_from_slice(&length.to_be_bytes());
        within(self.stream.write_all(&self.out)).await?;
        Ok(id)
    }

    async fn answer(&mut self) -> Result<(u32, Answer)> {
        let (kind, mut packet) = self.packet().await?;
        Ok((packet.u32()?, (kind, packet)))
    }

    async fn packet(&mut self) -> Result<Answer> {
        within(async {
            let length = self.stream.read_u32().await?;
            if length == 0 || length > PACKET {
                return Err(nonsense().into());
            }
            let mut packet = BytesMut::zeroed(length as usize);
            self.stream.read_exact(&mut packet).await?;
            let mut packet = Reader(packet.freeze());
            let kind = packet.u8().map_err(SftpError::from)?;
            Ok((kind, packet))
        })
        .await
    }
}

/// A file that is being read.
struct Reading {
    client: Client,
    handle: Handle,
    /// The reads under way, oldest first: id, offset.
    asked: VecDeque<(u32, u64)>,
    /// Answers that came before their turn.
    early: BTreeMap<u32, Answer>,
    /// Where the next read begins.
    next: u64,
    ended: bool,
}

impl Reading {
    /// The next block, or nothing at the end.
    async fn block(&mut self) -> Result<Option<Bytes>> {
        while !self.ended && self.asked.len() < WINDOW {
            let (handle, offset) = (&self.handle, self.next);
            let id = self.client.send(kind::READ, |out| {
                put_bytes(out, &handle.0);
                out.extend(offset.to_be_bytes());
                out.extend(BLOCK.to_be_bytes());
            });
            self.asked.push_back((id.await?, offset));
            self.next += u64::from(BLOCK);
        }
        let Some((id, offset)) = self.asked.pop_front() else {
            return Ok(None);
        };
        let (kind, mut packet) = self.answer_to(id).await?;
        if kind != kind::DATA {
            return match status((kind, packet))? {
                Status::End => {
                    self.ended = true;
                    Ok(None)
                }
                Status::Done => Err(nonsense()),
            };
        }
        let block = packet.bytes()?;
        if block.is_empty() || block.len() > BLOCK as usize {
            return Err(nonsense());
        }
        if block.len() < BLOCK as usize {
            // Less than was asked for: the reads after it leave a gap, so they are made again from here.
            while let Some((id, _)) = self.asked.pop_front() {
                self.answer_to(id).await?;
            }
            self.next = offset + block.len() as u64;
        }
        Ok(Some(block))
    }

    async fn answer_to(&mut self, wanted: u32) -> Result<Answer> {
        loop {
            if let Some(answer) = self.early.remove(&wanted) {
                return Ok(answer);
            }
            let (id, answer) = self.client.answer().await?;
            if id == wanted {
                return Ok(answer);
            }
            if !self.asked.iter().any(|(asked, _)| *asked == id) {
                return Err(nonsense());
            }
            self.early.insert(id, answer);
        }
    }
}

/// Bounds a step in time.
async fn within<T>(step: impl Future<Output = io::Result<T>>) -> Result<T> {
    match tokio::time::timeout(PATIENCE, step).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(SftpError::Broken(io::Error::new(
            io::ErrorKind::TimedOut,
            format!(
                "the instance's file server did not answer within {} seconds",
                PATIENCE.as_secs()
            ),
        ))),
    }
}

/// A status that is no failure.
enum Status {
    Done,
    End,
}

/// Reads a status (section 7).
fn status(answer: Answer) -> Result<Status> {
    let (kind::STATUS, mut packet) = answer else {
        return Err(nonsense());
    };
    match packet.u32()? {
        0 => Ok(Status::Done),
        1 => Ok(Status::End),
        2 => Err(SftpError::NotFound),
        3 => Err(SftpError::Denied),
        code => {
            let message = packet.text().unwrap_or_default();
            let message = message
                .trim()
                .chars()
                .filter(|c| !c.is_control())
                .take(200)
                .collect::<String>();
            Err(SftpError::Refused(if message.is_empty() {
                format!("it failed with status {code}")
            } else {
                message
            }))
        }
    }
}

/// The failure that an answer of the wrong kind stands for.
fn failure(answer: Answer) -> SftpError {
    status(answer).err().unwrap_or_else(nonsense)
}

fn handle(answer: Answer) -> Result<Handle> {
    match answer {
        // Section 6.3: a handle has 256 bytes at most.
        (kind::HANDLE, mut packet) => Some(packet.bytes()?)
            .filter(|handle| handle.len() <= 256)
            .map(Handle)
            .ok_or_else(nonsense),
        other => Err(failure(other)),
    }
}

#[cfg(test)]
mod tests;

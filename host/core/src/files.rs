//! Files in instances, for clients that use the REST endpoints rather than SFTP.
//!
//! The files are reached by SFTP too: its server runs inside the container, as the container's root and in its mount
//! namespace, so that no path and no link of the container's can lead anywhere on the host. What that server answers is the
//! container's word, and checked as such.

mod packet;
mod sftp;

use std::io;
use std::os::unix::net::UnixStream as StdStream;
use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use tokio::net::UnixStream;

use crate::error::{Error, Result};
use crate::events;
use packet::{Attrs, Kind};
use sftp::{Client, SftpError};

/// Bytes of the longest path (`PATH_MAX` in limits.h, without the zero at its end).
const PATH: usize = 4095;
/// The deepest tree that a recursive removal goes into.
const DEPTH: usize = 1024;
/// Permissions of a new file when the client names none.
const FILE_MODE: u32 = 0o644;
/// Permissions of a new directory when the client names none.
const DIRECTORY_MODE: u32 = 0o755;

/// Content on its way.
pub type Content = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// What kinds of files the endpoints know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    #[default]
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
}

impl FileKind {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Directory => "directory",
            Self::Symlink => "symlink",
        }
    }

    /// The kind with this name on the wire; empty means a file.
    ///
    /// # Errors
    /// [`Error::Invalid`] for others.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "" | "file" => Ok(Self::File),
            "directory" => Ok(Self::Directory),
            "symlink" => Ok(Self::Symlink),
            _ => Err(Error::invalid(format!(
                "Invalid file type {name:?}: file, directory and symlink are"
            ))),
        }
    }
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileInfo {
    /// Its kind.
    pub kind: FileKind,
    /// Its owner, as the instance sees it.
    pub uid: u32,
    /// Its group, as the instance sees it.
    pub gid: u32,
    /// Its permissions (the lowest twelve bits of `st_mode`, inode(7)).
    pub mode: u32,
    /// When its content changed, in seconds since 1970.
    pub modified: i64,
    /// Bytes of a regular file.
    pub size: Option<u64>,
}

/// A file that was asked for.
pub struct FileGet {
    /// What it is.
    pub info: FileInfo,
    /// What is in it.
    pub body: FileBody,
}

/// What is in a file.
pub enum FileBody {
    /// A regular file's content.
    Content(Content),
    /// The names in a directory, sorted.
    Entries(Vec<String>),
    /// Where a link leads.
    Target(String),
}

/// A file to make or change.
pub struct FilePut {
    /// What it is to be.
    pub kind: FileKind,
    /// Its owner; absent leaves that of an existing file and is root's for a new one.
    pub uid: Option<u32>,
    /// Its group, likewise.
    pub gid: Option<u32>,
    /// Its permissions; absent leaves those of an existing file.
    pub mode: Option<u32>,
    /// Whether the content goes to the end of what is there.
    pub append: bool,
    /// The content, or a link's target.
    pub body: Content,
}

impl crate::Core {
    /// Reads a file: its attributes, and then its content as the caller takes it.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`] for devices and the like, and the instance's.
    pub async fn file_get(&self, project: &str, name: &str, path: &str) -> Result<FileGet> {
        let path = clean(path)?;
        let found = get(self.file_client(project, name).await?, &path)
            .await
            .map_err(|error| error.on("reading", name, &path))?;
        self.tell_of_file(project, name, "instance-file-retrieved", path);
        Ok(found)
    }

    /// What a file is, without its content.
    ///
    /// # Errors
    /// As [`Core::file_get`](crate::Core::file_get).
    pub async fn file_info(&self, project: &str, name: &str, path: &str) -> Result<FileInfo> {
        let path = clean(path)?;
        let mut client = self.file_client(project, name).await?;
        let attrs = client
            .lstat(&path)
            .await
            .map_err(|error| error.on("looking at", name, &path))?;
        info(&attrs).map_err(|error| error.on("looking at", name, &path))
    }

    /// Makes a file, directory or link, or changes the content and attributes of an existing file.
    ///
    /// # Errors
    /// [`Error::NotFound`] without the directory that it is to be in, [`Error::Invalid`] when something else has the name, and
    /// the instance's.
    pub async fn file_put(&self, project: &str, name: &str, path: &str, put: FilePut) -> Result<()> {
        let path = clean(path)?;
        let mut client = self.file_client(project, name).await?;
        match put.kind {
            FileKind::File => put_file(&mut client, &path, put).await,
            FileKind::Directory => put_directory(&mut client, &path, put).await,
            FileKind::Symlink => put_symlink(&mut client, &path, put.body).await,
        }
        .map_err(|error| error.on("writing", name, &path))?;
        self.tell_of_file(project, name, "instance-file-pushed", path);
        Ok(())
    }

    /// Removes a file, link or empty directory; with `recursive` also what is in the directory.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`] for a directory that isn't empty, and the instance's.
    pub async fn file_delete(&self, project: &str, name: &str, path: &str, recursive: bool) -> Result<()> {
        let path = clean(path)?;
        let mut client = self.file_client(project, name).await?;
        remove(&mut client, &path, recursive)
            .await
            .map_err(|error| error.on("removing", name, &path))?;
        self.tell_of_file(project, name, "instance-file-deleted", path);
        Ok(())
    }

    fn tell_of_file(&self, project: &str, name: &str, action: &str, path: String) {
        self.tell_of_instance(project, name, action, events::context([("path", path.into())]));
    }

    async fn file_client(&self, project: &str, name: &str) -> Result<Client> {
        let failed = || format!("reaching the files of instance {name}");
        let stream = StdStream::from(self.instance_sftp(project, name).await?);
        stream.set_nonblocking(true).map_err(Error::io(failed()))?;
        let stream = UnixStream::from_std(stream).map_err(Error::io(failed()))?;
        Client::connect(stream)
            .await
            .map_err(|error| error.on("opening", name, "its file server"))
    }
}

impl SftpError {
    /// The same as an error of the core's, said of `path` in the instance `name`.
    fn on(self, doing: &str, name: &str, path: &str) -> Error {
        let action = format!("{doing} {path} in instance {name}");
        match self {
            Self::NotFound => Error::missing("File", path),
            Self::Denied => Error::Forbidden(format!("{action}: permission denied")),
            Self::Refused(message) => {
                // The instance's file server names the path, too.
                let why = message.strip_prefix(&format!("{path:?}: ")).unwrap_or(&message);
                Error::Invalid(format!("{action}: {why}"))
            }
            Self::Broken(source) => Error::Io { action, source },
        }
    }
}

/// An absolute path without anything that can't be in one.
fn clean(path: &str) -> Result<String> {
    if path.is_empty() {
        return Err(Error::invalid("the path of a file is missing"));
    }
    if path.len() > PATH || path.contains('\0') {
        return Err(Error::invalid(format!(
            "the path of a file may have {PATH} bytes and none that is zero"
        )));
    }
    Ok(if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    })
}

fn info(attrs: &Attrs) -> Result<FileInfo, SftpError> {
    let kind = match attrs.kind() {
        Kind::File => FileKind::File,
        Kind::Directory => FileKind::Directory,
        Kind::Symlink => FileKind::Symlink,
        Kind::Other => {
            return Err(SftpError::Refused(
                "it is no file, directory or symbolic link".to_owned(),
            ));
        }
    };
    let (uid, gid) = attrs.owner.unwrap_or_default();
    Ok(FileInfo {
        kind,
        uid,
        gid,
        mode: attrs.permissions.unwrap_or_default() & 0o7777,
        modified: attrs.times.map_or(0, |(_, modified)| i64::from(modified)),
        size: attrs.size.filter(|_| kind == FileKind::File),
    })
}

async fn get(mut client: Client, path: &str) -> Result<FileGet, SftpError> {
    let info = info(&client.lstat(path).await?)?;
    let body = match info.kind {
        FileKind::Directory => {
            let mut names: Vec<String> = client.list(path).await?.into_iter().map(|(name, _)| name).collect();
            names.sort_unstable();
            FileBody::Entries(names)
        }
        FileKind::Symlink => FileBody::Target(client.readlink(path).await?),
        FileKind::File => {
            let handle = client.open(path, sftp::READ, &Attrs::default()).await?;
            FileBody::Content(Box::pin(client.into_content(handle)))
        }
    };
    Ok(FileGet { info, body })
}

/// The attributes that `put` asks for; for what is `new` with everything that it leaves open.
fn wanted(put: &FilePut, existing: Option<&Attrs>, mode: u32) -> Attrs {
    let Some(existing) = existing else {
        return Attrs {
            owner: Some((put.uid.unwrap_or(0), put.gid.unwrap_or(0))),
            permissions: Some(put.mode.unwrap_or(mode) & 0o7777),
            ..Attrs::default()
        };
    };
    // The protocol sets owner and group together.
    let owner = (put.uid.is_some() || put.gid.is_some()).then(|| {
        let (uid, gid) = existing.owner.unwrap_or_default();
        (put.uid.unwrap_or(uid), put.gid.unwrap_or(gid))
    });
    Attrs {
        owner,
        permissions: put.mode.map(|mode| mode & 0o7777),
        ..Attrs::default()
    }
}

async fn existing(client: &mut Client, path: &str) -> Result<Option<Attrs>, SftpError> {
    match client.stat(path).await {
        Ok(attrs) => Ok(Some(attrs)),
        Err(SftpError::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn put_file(client: &mut Client, path: &str, mut put: FilePut) -> Result<(), SftpError> {
    let existing = existing(client, path).await?;
    if existing.as_ref().is_some_and(|attrs| attrs.kind() != Kind::File) {
        return Err(SftpError::Refused("something that is no file has the name".to_owned()));
    }
    let attrs = wanted(&put, existing.as_ref(), FILE_MODE);
    let flags = sftp::WRITE | sftp::CREATE | if put.append { sftp::APPEND } else { sftp::TRUNCATE };
    let handle = client
        .open(
            path,
            flags,
            &Attrs {
                permissions: attrs.permissions,
                ..Attrs::default()
            },
        )
        .await?;
    // Owner and permissions come before the content, so that nobody else can read it meanwhile.
    if !attrs.is_empty() {
        client.fsetstat(&handle, &attrs).await?;
    }
    let start = if put.append {
        existing.and_then(|attrs| attrs.size).unwrap_or(0)
    } else {
        0
    };
    client.write(&handle, start, &mut put.body).await?;
    client.close(&handle).await
}

async fn put_directory(client: &mut Client, path: &str, put: FilePut) -> Result<(), SftpError> {
    let existing = existing(client, path).await?;
    match &existing {
        Some(attrs) if attrs.kind() != Kind::Directory => {
            return Err(SftpError::Refused(
                "something that is no directory has the name".to_owned(),
            ));
        }
        Some(_) => {}
        None => {
            client
                .mkdir(
                    path,
                    &Attrs {
                        permissions: Some(0o700),
                        ..Attrs::default()
                    },
                )
                .await?;
        }
    }
    let attrs = wanted(&put, existing.as_ref(), DIRECTORY_MODE);
    // A directory has no content.
    drop(put);
    if attrs.is_empty() {
        Ok(())
    } else {
        client.setstat(path, &attrs).await
    }
}

async fn put_symlink(client: &mut Client, path: &str, mut body: Content) -> Result<(), SftpError> {
    let mut target = BytesMut::new();
    while let Some(block) = body.next().await {
        target.extend_from_slice(&block.map_err(SftpError::Broken)?);
        if target.len() > PATH {
            return Err(SftpError::Refused(format!(
                "the target of a link may have {PATH} bytes"
            )));
        }
    }
    let target = String::from_utf8(target.to_vec())
        .ok()
        .filter(|target| !target.is_empty() && !target.contains('\0'))
        .ok_or_else(|| SftpError::Refused("the target of a link must be a path in UTF-8".to_owned()))?;
    // Asking for what is there already is no error.
    if let Ok(attrs) = client.lstat(path).await
        && attrs.kind() == Kind::Symlink
        && client.readlink(path).await? == target
    {
        return Ok(());
    }
    client.symlink(&target, path).await
}

async fn remove(client: &mut Client, path: &str, recursive: bool) -> Result<(), SftpError> {
    if client.lstat(path).await?.kind() != Kind::Directory {
        return client.remove(path).await;
    }
    if !recursive {
        return client.rmdir(path).await;
    }
    // Each directory with what is left in it; a directory goes once nothing is.
    let mut open = vec![(path.to_owned(), client.list(path).await?)];
    while let Some((directory, left)) = open.last_mut() {
        let Some((name, attrs)) = left.pop() else {
            client.rmdir(directory).await?;
            open.pop();
            continue;
        };
        let child = format!("{}/{name}", directory.trim_end_matches('/'));
        if attrs.kind() != Kind::Directory {
            client.remove(&child).await?;
        } else if open.len() == DEPTH || child.len() > PATH {
            return Err(SftpError::Refused(format!(
                "the directory is deeper than {DEPTH} levels"
            )));
        } else {
            let entries = client.list(&child).await?;
            open.push((child, entries));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_absolute_and_bounded() {
        assert_eq!(clean("etc/hosts").unwrap(), "/etc/hosts");
        assert_eq!(clean("/etc/hosts").unwrap(), "/etc/hosts");
        for bad in ["", "a\0b", &"x".repeat(PATH + 1)] {
            assert!(matches!(clean(bad), Err(Error::Invalid(_))));
        }
    }

    fn put(uid: Option<u32>, mode: Option<u32>) -> FilePut {
        FilePut {
            kind: FileKind::File,
            uid,
            gid: None,
            mode,
            append: false,
            body: Box::pin(futures_util::stream::empty()),
        }
    }

    #[test]
    fn what_the_client_leaves_open_stays_or_has_a_default() {
        let new = wanted(&put(None, None), None, FILE_MODE);
        assert_eq!((new.owner, new.permissions), (Some((0, 0)), Some(0o644)));
        let there = Attrs {
            owner: Some((5, 6)),
            permissions: Some(0o100_600),
            ..Attrs::default()
        };
        assert!(wanted(&put(None, None), Some(&there), FILE_MODE).is_empty());
        let changed = wanted(&put(Some(7), Some(0o4755)), Some(&there), FILE_MODE);
        assert_eq!((changed.owner, changed.permissions), (Some((7, 6)), Some(0o4755)));
    }
}

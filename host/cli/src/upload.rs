//! Bodies that are files, and answers that become files.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use indicatif::{ProgressBar, ProgressStyle};
use tokio_util::io::ReaderStream;

use crate::client::{Body, Progress};
use crate::error::{Error, Result};

/// How much of a file is read at once.
const CHUNK: usize = 256 * 1024;

/// The most that the head of a part may take.
const MAX_HEAD: usize = 16 * 1024;

/// A file of several in a body, and the name of its part.
pub(crate) struct Part {
    /// The name of the field.
    pub(crate) field: &'static str,
    /// The file.
    pub(crate) path: PathBuf,
}

/// A line that shows how much has gone or come.
fn bar(progress: &Progress, total: u64) -> ProgressBar {
    let Some(label) = progress.label() else {
        return ProgressBar::hidden();
    };
    let bar = if total > 0 {
        ProgressBar::new(total)
    } else {
        ProgressBar::no_length()
    };
    let template = if total > 0 {
        "{spinner} {msg}: {percent}% ({binary_bytes_per_sec})"
    } else {
        "{spinner} {msg}: {binary_bytes} ({binary_bytes_per_sec})"
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(label.to_owned());
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

/// The size of a file.
fn size(path: &Path) -> Result<u64> {
    let metadata = fs::metadata(path).map_err(|error| Error::file("cannot read", path, error))?;
    if !metadata.is_file() {
        return Err(Error::usage(format!("{} is not a file", path.display())));
    }
    Ok(metadata.len())
}

/// A stream of bytes that a body is made of.
type Stream = futures_util::stream::BoxStream<'static, std::io::Result<Bytes>>;

async fn stream(path: &Path) -> Result<Stream> {
    let file = tokio::fs::File::open(path)
        .await
        .map_err(|error| Error::file("cannot read", path, error))?;
    Ok(ReaderStream::with_capacity(file, CHUNK).boxed())
}

fn body(stream: Stream, bar: ProgressBar) -> Body {
    // The line goes with the stream: both end when the last byte is sent.
    let stream = stream.map_ok(move |bytes| {
        bar.inc(bytes.len() as u64);
        Frame::data(bytes)
    });
    // The body's type asks for what can be shared between threads, which a stream of files only is behind a lock.
    BodyExt::boxed(StreamBody::new(sync_wrapper(stream)))
}

/// A stream that only its owner touches, in a type that says so.
fn sync_wrapper<S>(stream: S) -> impl futures_util::Stream<Item = S::Item> + Send + Sync
where
    S: futures_util::Stream + Send + Unpin,
{
    let stream = std::sync::Mutex::new(stream);
    futures_util::stream::poll_fn(move |context| {
        let mut stream = stream.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        stream.poll_next_unpin(context)
    })
}

/// A body that is one file, and its length.
pub(crate) async fn single(path: &Path, progress: &Progress) -> Result<(Body, u64)> {
    let total = size(path)?;
    Ok((body(stream(path).await?, bar(progress, total)), total))
}

/// A body of several files as RFC 7578 says, its length and its content type.
pub(crate) async fn form(parts: &[Part], progress: &Progress) -> Result<(Body, u64, String)> {
    let boundary = format!("hutch-{}-{:x}", std::process::id(), nanoseconds());
    let mut total = 0;
    let mut streams: Vec<Stream> = Vec::new();
    for part in parts {
        let name = part.path.file_name().unwrap_or_default().to_string_lossy();
        let name: String = name
            .chars()
            .map(|c| if c == '"' || c.is_control() { '_' } else { c })
            .collect();
        let head = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"{}\"; filename=\"{name}\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n",
            part.field
        );
        total += head.len() as u64 + size(&part.path)? + 2;
        streams.push(bytes_of(head));
        streams.push(stream(&part.path).await?);
        streams.push(bytes_of("\r\n".into()));
    }
    let end = format!("--{boundary}--\r\n");
    total += end.len() as u64;
    streams.push(bytes_of(end));
    let all = futures_util::stream::iter(streams).flatten().boxed();
    Ok((
        body(all, bar(progress, total)),
        total,
        format!("multipart/form-data; boundary={boundary}"),
    ))
}

fn bytes_of(text: String) -> Stream {
    futures_util::stream::once(std::future::ready(Ok(Bytes::from(text)))).boxed()
}

fn nanoseconds() -> u128 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
        .as_nanos()
}

/// Saves an answer: one file, or several parts. `path_of` names the file for the field and file name that the daemon gave.
pub(crate) async fn save(
    response: hyper::Response<Incoming>,
    progress: &Progress,
    mut path_of: impl FnMut(&str, &str) -> PathBuf,
) -> Result<Vec<PathBuf>> {
    let header = |name: &str| {
        response
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned()
    };
    let kind = header("content-type");
    let total = header("content-length").parse().unwrap_or_default();
    let bar = bar(progress, total);
    let disposition = header("content-disposition");
    let mut body = response.into_body();
    let Some(boundary) = kind
        .strip_prefix("multipart/form-data")
        .and_then(|rest| parameter(rest, "boundary"))
    else {
        let path = path_of("", &parameter(&disposition, "filename").unwrap_or_default());
        let mut file = create(&path)?;
        while let Some(bytes) = next(&mut body, &bar).await? {
            write(&mut file, &bytes, &path)?;
        }
        return Ok(vec![path]);
    };
    let mut splitter = Splitter::new(&boundary);
    let mut saved: Vec<(PathBuf, fs::File)> = Vec::new();
    loop {
        match splitter.step()? {
            Step::Head { field, file } => {
                let path = path_of(&field, &file);
                let file = create(&path)?;
                saved.push((path, file));
            }
            Step::Data(bytes) => {
                if let Some((path, file)) = saved.last_mut() {
                    write(file, &bytes, path)?;
                }
            }
            Step::More => match next(&mut body, &bar).await? {
                Some(bytes) => splitter.buffer.extend_from_slice(&bytes),
                None => return Err(Error::usage("the daemon's answer ends within a file")),
            },
            Step::End => return Ok(saved.into_iter().map(|(path, _)| path).collect()),
        }
    }
}

async fn next(body: &mut Incoming, bar: &ProgressBar) -> Result<Option<Bytes>> {
    while let Some(frame) = body.frame().await {
        if let Ok(bytes) = frame?.into_data() {
            bar.inc(bytes.len() as u64);
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

fn create(path: &Path) -> Result<fs::File> {
    fs::File::create(path).map_err(|error| Error::file("cannot write", path, error))
}

fn write(file: &mut fs::File, bytes: &[u8], path: &Path) -> Result<()> {
    file.write_all(bytes)
        .map_err(|error| Error::file("cannot write", path, error))
}

/// A parameter of a header's value: `name=value` or `name="value"` after a semicolon.
fn parameter(value: &str, name: &str) -> Option<String> {
    value.split(';').find_map(|part| {
        let (key, value) = part.trim().split_once('=')?;
        key.eq_ignore_ascii_case(name)
            .then(|| value.trim_matches('"').to_owned())
    })
}

/// Splits a body of several parts (RFC 2046, section 5.1) as it comes.
struct Splitter {
    /// What stands between parts: a line break, two dashes and the boundary.
    delimiter: Vec<u8>,
    buffer: BytesMut,
    in_part: bool,
}

/// What the next bytes are.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// A part begins.
    Head { field: String, file: String },
    /// Bytes of the part.
    Data(Bytes),
    /// There is too little to say.
    More,
    /// There is nothing more.
    End,
}

impl Splitter {
    fn new(boundary: &str) -> Self {
        // The first delimiter has no line break before it on the wire.
        Self {
            delimiter: format!("\r\n--{boundary}").into_bytes(),
            buffer: BytesMut::from("\r\n"),
            in_part: false,
        }
    }

    fn step(&mut self) -> Result<Step> {
        let found = find(&self.buffer, &self.delimiter);
        if self.in_part {
            let keep = self.delimiter.len() - 1;
            let data = match found {
                Some(0) => {
                    self.in_part = false;
                    return self.step();
                }
                Some(at) => at,
                // What may be the beginning of a delimiter waits for its rest.
                None => self.buffer.len().saturating_sub(keep),
            };
            return Ok(if data == 0 {
                Step::More
            } else {
                Step::Data(self.buffer.split_to(data).freeze())
            });
        }
        let Some(at) = found else { return self.short() };
        let after = at + self.delimiter.len();
        let rest = &self.buffer[after..];
        if rest.starts_with(b"--") {
            return Ok(Step::End);
        }
        let Some(end) = find(rest, b"\r\n\r\n") else {
            return self.short();
        };
        let head = String::from_utf8_lossy(&rest[..end]).into_owned();
        let disposition = head
            .lines()
            .find_map(|line| {
                line.split_once(':')
                    .filter(|(name, _)| name.eq_ignore_ascii_case("content-disposition"))
            })
            .map(|(_, value)| value)
            .unwrap_or_default();
        let (field, file) = (parameter(disposition, "name"), parameter(disposition, "filename"));
        let _head = self.buffer.split_to(after + end + 4);
        self.in_part = true;
        Ok(Step::Head {
            field: field.unwrap_or_default(),
            file: file.unwrap_or_default(),
        })
    }

    fn short(&self) -> Result<Step> {
        if self.buffer.len() > MAX_HEAD {
            return Err(Error::usage("the daemon's answer has a part whose head does not end"));
        }
        Ok(Step::More)
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = b"--x\r\nContent-Disposition: form-data; name=\"metadata\"; filename=\"m.tar\"\r\n\r\nab\r\n-\
        -y\r\n--x\r\ncontent-disposition: form-data; name=rootfs; filename=\"r\"\r\n\r\n\r\n--x--\r\n";

    fn split(chunk: usize) -> Vec<(String, Vec<u8>)> {
        let mut splitter = Splitter::new("x");
        let mut chunks = BODY.chunks(chunk);
        let mut parts: Vec<(String, Vec<u8>)> = Vec::new();
        loop {
            match splitter.step().unwrap() {
                Step::Head { field, .. } => parts.push((field, Vec::new())),
                Step::Data(bytes) => parts.last_mut().unwrap().1.extend_from_slice(&bytes),
                Step::More => splitter.buffer.extend_from_slice(chunks.next().expect("an end")),
                Step::End => return parts,
            }
        }
    }

    #[test]
    fn parts_are_found_however_the_body_is_cut() {
        for chunk in 1..BODY.len() {
            let expected = vec![
                ("metadata".into(), b"ab\r\n--y".to_vec()),
                ("rootfs".into(), Vec::new()),
            ];
            assert_eq!(split(chunk), expected, "{chunk}");
        }
    }

    #[test]
    fn a_head_without_an_end_is_refused() {
        let mut splitter = Splitter::new("x");
        splitter.buffer.extend_from_slice(b"--x\r\n");
        splitter.buffer.extend_from_slice(&vec![b'a'; MAX_HEAD + 1]);
        assert!(splitter.step().is_err());
    }

    #[test]
    fn parameters_are_found() {
        assert_eq!(
            parameter("attachment;filename=\"a b.tar\"", "filename").as_deref(),
            Some("a b.tar")
        );
        assert_eq!(parameter("; boundary=x", "boundary").as_deref(), Some("x"));
        assert_eq!(parameter("inline", "filename"), None);
    }
}

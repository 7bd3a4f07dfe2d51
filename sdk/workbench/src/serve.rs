//! A folder over HTTP, on the loopback interface of the scratch host: enough for a source to be tried with files.

use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The longest head of a request.
const MAX_HEAD: usize = 16 << 10;

/// Serves `folder` for as long as the runtime lives, and answers with the address.
///
/// # Errors
/// When nobody can listen.
pub(crate) async fn start(folder: PathBuf) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .context("can't serve on the loopback interface")?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let folder = folder.clone();
            tokio::spawn(async move {
                // Whoever went away needs no answer.
                let _ = answer(stream, &folder).await;
            });
        }
    });
    Ok(format!("http://{address}"))
}

/// Answers one request, and closes the connection.
async fn answer(mut stream: TcpStream, folder: &Path) -> std::io::Result<()> {
    let mut head = Vec::new();
    // It ends with an empty line (RFC 9112, section 2.1).
    while !head.ends_with(b"\r\n\r\n") && head.len() < MAX_HEAD {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let (status, body) = match file(folder, head.split(' ').nth(1).unwrap_or_default()) {
        Some(path) => match tokio::fs::read(path).await {
            Ok(body) => ("200 OK", body),
            Err(_) => ("404 Not Found", Vec::new()),
        },
        None => ("400 Bad Request", Vec::new()),
    };
    let reply = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(reply.as_bytes()).await?;
    stream.write_all(&body).await?;
    stream.shutdown().await
}

/// The file that a path of a request names, which is below the folder.
fn file(folder: &Path, path: &str) -> Option<PathBuf> {
    let path = path.split('?').next()?.strip_prefix('/')?;
    let plain = Path::new(path)
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    plain.then(|| folder.join(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_outside_the_folder_is_served() {
        let folder = Path::new("/srv");
        assert_eq!(file(folder, "/a/b?c"), Some(PathBuf::from("/srv/a/b")));
        for outside in ["/../etc/passwd", "//etc/passwd", "a", "", "/a/../../b"] {
            assert_eq!(file(folder, outside), None, "{outside}");
        }
    }
}

//! Servers that reorder, split, refuse and lie.

use futures_util::TryStreamExt;

use super::*;

/// Answers requests with `answer`'s bytes after the id; in `reverse`, all that have arrived from the last to the first.
fn server(reverse: bool, answer: impl Fn(u8, Reader) -> (u8, Vec<u8>) + Send + 'static) -> UnixStream {
    let (ours, theirs) = UnixStream::pair().unwrap();
    tokio::spawn(async move {
        let mut peer = Client {
            stream: theirs,
            next: 0,
            out: Vec::new(),
        };
        peer.packet().await.unwrap();
        peer.stream
            .write_all(&[0, 0, 0, 5, kind::VERSION, 0, 0, 0, 3])
            .await
            .unwrap();
        let mut waiting = Vec::new();
        while let Ok((request, mut packet)) = peer.packet().await {
            let id = packet.u32().unwrap();
            let (kind, body) = answer(request, packet);
            let mut out = u32::try_from(body.len() + 5).unwrap().to_be_bytes().to_vec();
            out.push(kind);
            out.extend(id.to_be_bytes());
            out.extend(body);
            waiting.push(out);
            let more = rustix::io::ioctl_fionread(&peer.stream).unwrap() > 0;
            if !(reverse && more) {
                for out in waiting.drain(..).rev() {
                    if peer.stream.write_all(&out).await.is_err() {
                        return;
                    }
                }
            }
        }
    });
    ours
}

fn status_answer(code: u32) -> (u8, Vec<u8>) {
    let mut body = code.to_be_bytes().to_vec();
    put_bytes(&mut body, b"why\x07not");
    put_bytes(&mut body, b"en");
    (kind::STATUS, body)
}

/// A server of one file, which gives `most` bytes for a read at most.
fn file_server(reverse: bool, content: Vec<u8>, most: usize) -> UnixStream {
    server(reverse, move |request, mut packet| {
        let mut body = Vec::new();
        match request {
            kind::OPEN => put_bytes(&mut body, b"handle"),
            kind::READ => {
                packet.bytes().unwrap();
                let offset = usize::try_from(packet.u64().unwrap()).unwrap();
                let length = most.min(packet.u32().unwrap() as usize);
                if offset >= content.len() {
                    return status_answer(1);
                }
                put_bytes(&mut body, &content[offset..(offset + length).min(content.len())]);
                return (kind::DATA, body);
            }
            _ => return status_answer(4),
        }
        (kind::HANDLE, body)
    })
}

async fn read_back(stream: UnixStream) -> io::Result<Vec<u8>> {
    let mut client = Client::connect(stream).await.map_err(io::Error::from)?;
    let handle = client
        .open("/f", READ, &Attrs::default())
        .await
        .map_err(io::Error::from)?;
    let blocks: Vec<Bytes> = client.into_content(handle).try_collect().await?;
    Ok(blocks.concat())
}

#[tokio::test]
async fn content_comes_in_order_whatever_the_servers_is() {
    let content: Vec<u8> = (0..1_000_003_u32).map(|i| (i % 251) as u8).collect();
    for (reverse, most) in [
        (false, BLOCK as usize),
        (true, BLOCK as usize),
        (false, 1000 + BLOCK as usize / 2),
        (true, 30_001),
    ] {
        let read = read_back(file_server(reverse, content.clone(), most)).await.unwrap();
        assert!(read == content, "in reverse: {reverse}, at most {most}");
    }
    assert!(read_back(file_server(false, Vec::new(), 1)).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_refusal_is_told_without_its_control_characters() {
    let mut client = Client::connect(file_server(false, Vec::new(), 1)).await.unwrap();
    let Err(SftpError::Refused(message)) = client.rmdir("/d").await else {
        panic!("it was not refused")
    };
    assert_eq!(message, "whynot");
}

#[tokio::test]
async fn a_server_that_lies_is_left() {
    // Longer than any packet may be; of no known kind; of another request; without its end.
    for bytes in [
        &[255, 255, 255, 255][..],
        &[0, 0, 0, 5, 99, 0, 0, 0, 0],
        &[0, 0, 0, 9, kind::STATUS, 0, 0, 0, 77, 0, 0, 0, 0],
        &[0, 0, 0, 6, kind::ATTRS, 0, 0, 0, 0, 1],
    ] {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs
            .write_all(&[0, 0, 0, 5, kind::VERSION, 0, 0, 0, 3])
            .await
            .unwrap();
        theirs.write_all(bytes).await.unwrap();
        let mut client = Client::connect(ours).await.unwrap();
        assert!(
            matches!(client.lstat("/").await, Err(SftpError::Broken(_))),
            "{bytes:?}"
        );
    }
}

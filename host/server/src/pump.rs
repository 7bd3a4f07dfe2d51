//! Bytes between websockets and descriptors of processes, terminals and consoles.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use hutch_api::instance::ExecControl;
use hutch_core::Socket;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::websocket::{WebSocket, close};

/// Bytes that are read from a descriptor, and sent, at one time: what a pipe holds (pipe(7)).
const BLOCK: usize = 64 << 10;
/// Bytes of the longest command on a control websocket.
const COMMAND: usize = 64 << 10;
/// What a client sends by going away without a word (kill(2)).
const SIGKILL: i32 = 9;

/// A pipe, terminal or socket, read and written without blocking.
#[derive(Debug)]
pub(crate) struct Descriptor(AsyncFd<OwnedFd>);

impl Descriptor {
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        Self::with_interest(fd, Interest::READABLE | Interest::WRITABLE)
    }

    /// For a pipe's writing end, which also tells when nobody reads any more.
    fn for_writing(fd: OwnedFd) -> io::Result<Self> {
        Self::with_interest(fd, Interest::WRITABLE | Interest::ERROR)
    }

    #[allow(
        deprecated,
        reason = "its successor is unsafe for types whose descriptor may change or close; an OwnedFd's can do neither"
    )]
    fn with_interest(fd: OwnedFd, interest: Interest) -> io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(Self(AsyncFd::with_interest(fd, interest)?))
    }

    /// Returns once nobody reads what is written.
    async fn deserted(&self) {
        loop {
            match self.0.ready(Interest::ERROR).await {
                Ok(guard) if guard.ready().is_error() || guard.ready().is_write_closed() => return,
                Ok(mut guard) => guard.clear_ready(),
                Err(_) => return,
            }
        }
    }

    /// Reads what is there, or returns `None` when there is nothing now.
    fn read_now(&self, block: &mut [u8]) -> io::Result<Option<usize>> {
        match read(self.0.get_ref(), block) {
            Ok(length) => Ok(Some(length)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn read(&self, block: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut guard = self.0.readable().await?;
            if let Ok(result) = guard.try_io(|fd| read(fd.get_ref(), block)) {
                return result;
            }
        }
    }

    async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut guard = self.0.writable().await?;
            if let Ok(result) = guard.try_io(|fd| Ok(nix::unistd::write(fd.get_ref(), bytes)?)) {
                bytes = &bytes[result?..];
            }
        }
        Ok(())
    }
}

/// read(2), for which a terminal without anybody at its other end is at its end.
fn read(fd: &OwnedFd, block: &mut [u8]) -> io::Result<usize> {
    loop {
        return match nix::unistd::read(fd, block) {
            Err(Errno::EINTR) => continue,
            Err(Errno::EIO) => Ok(0),
            result => Ok(result?),
        };
    }
}

impl AsyncRead for Descriptor {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(context))?;
            if let Ok(result) = guard.try_io(|fd| read(fd.get_ref(), buffer.initialize_unfilled())) {
                buffer.advance(result?);
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Descriptor {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(context))?;
            if let Ok(result) = guard.try_io(|fd| Ok(nix::sys::uio::writev(fd.get_ref(), slices)?)) {
                return Poll::Ready(result);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let raw = self.0.get_ref().as_fd().as_raw_fd();
        Poll::Ready(
            match nix::sys::socket::shutdown(raw, nix::sys::socket::Shutdown::Write) {
                // Only sockets can be closed by halves; a pipe ends when it is dropped.
                Ok(()) | Err(Errno::ENOTSOCK | Errno::ENOTCONN) => Ok(()),
                Err(errno) => Err(errno.into()),
            },
        )
    }
}

/// Joins a websocket and what an operation gave for it, until either ends.
pub(crate) async fn run(socket: WebSocket, end: Socket) {
    let result = match end {
        Socket::Input(fd) => input(socket, fd).await,
        Socket::Output(fd, over) => output(socket, fd, over).await,
        Socket::Terminal(fd, over) => both(socket, fd, Some(over)).await,
        Socket::Stream(fd) => both(socket, fd, None).await,
        Socket::Control(commands, over) => {
            control(socket, commands, over).await;
            Ok(())
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a websocket's stream ended early");
    }
}

/// What a client's message means to what it is written to.
enum Input {
    Bytes(Bytes),
    /// The end of what the client has to say: the empty text.
    End,
    /// The client goes, or is gone.
    Gone,
}

async fn next(stream: &mut SplitStream<WebSocket>) -> Input {
    loop {
        return match stream.next().await {
            Some(Ok(Message::Binary(bytes))) => Input::Bytes(bytes),
            Some(Ok(Message::Text(text))) if text.is_empty() => Input::End,
            Some(Ok(Message::Text(text))) => Input::Bytes(text.into()),
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
            Some(Ok(Message::Close(_)) | Err(_)) | None => Input::Gone,
        };
    }
}

/// Standard input: until the client ends it, or nobody reads it any more.
async fn input(socket: WebSocket, fd: OwnedFd) -> io::Result<()> {
    let fd = Descriptor::for_writing(fd)?;
    let (sink, mut stream) = socket.split();
    loop {
        let message = tokio::select! {
            message = next(&mut stream) => message,
            () = fd.deserted() => break,
        };
        match message {
            Input::Bytes(bytes) => {
                let written = tokio::select! {
                    written = fd.write_all(&bytes) => written,
                    () = fd.deserted() => break,
                };
                if written.is_err() {
                    break;
                }
            }
            Input::End | Input::Gone => break,
        }
    }
    drop(fd);
    close(sink, stream, CloseCode::Normal, "").await;
    Ok(())
}

/// Standard output or error: until its end, or the process is over and all that it wrote has been sent.
async fn output(socket: WebSocket, fd: OwnedFd, over: watch::Receiver<bool>) -> io::Result<()> {
    let fd = Descriptor::new(fd)?;
    let (mut sink, mut stream) = socket.split();
    tokio::select! {
        result = send_all(&fd, &mut sink, Some(over)) => result?,
        // A client that has closed it wants no more. What it sends here has no meaning.
        () = gone(&mut stream) => {}
    }
    close(sink, stream, CloseCode::Normal, "").await;
    Ok(())
}

/// A terminal or console, both ways.
async fn both(socket: WebSocket, fd: OwnedFd, over: Option<watch::Receiver<bool>>) -> io::Result<()> {
    let fd = Descriptor::new(fd)?;
    let (mut sink, mut stream) = socket.split();
    let receive = async {
        loop {
            match next(&mut stream).await {
                Input::Bytes(bytes) => fd.write_all(&bytes).await?,
                // Whoever has no more to say may still want to listen.
                Input::End => {}
                Input::Gone => return io::Result::Ok(()),
            }
        }
    };
    tokio::select! {
        result = send_all(&fd, &mut sink, over) => result?,
        result = receive => result?,
    }
    close(sink, stream, CloseCode::Normal, "").await;
    Ok(())
}

async fn gone(stream: &mut SplitStream<WebSocket>) {
    while let Some(Ok(message)) = stream.next().await {
        if message.is_close() {
            return;
        }
    }
}

/// Sends what the descriptor gives, and the empty text that means its end.
async fn send_all(
    fd: &Descriptor,
    sink: &mut SplitSink<WebSocket, Message>,
    mut over: Option<watch::Receiver<bool>>,
) -> io::Result<()> {
    let mut block = vec![0; BLOCK];
    loop {
        let length = tokio::select! {
            // Reading goes first: the end of the process only counts once there is nothing left.
            biased;
            length = fd.read(&mut block) => length?,
            () = ended(over.as_mut()) => match fd.read_now(&mut block)? {
                Some(length) => length,
                None => break,
            },
        };
        if length == 0 {
            break;
        }
        let message = Message::Binary(Bytes::copy_from_slice(&block[..length]));
        // For as long as the client likes: people page through what commands say.
        sink.send(message).await.map_err(io::Error::other)?;
    }
    sink.send(Message::Text("".into())).await.map_err(io::Error::other)
}

/// Returns once a process is over; never without one.
async fn ended(over: Option<&mut watch::Receiver<bool>>) {
    match over {
        // A sender that is gone without a word has nothing more to say either.
        Some(over) => drop(over.wait_for(|over| *over).await),
        None => std::future::pending().await,
    }
}

/// Commands of a client. One that vanishes without closing the websocket takes its process with it, as with LXD.
async fn control(socket: WebSocket, commands: mpsc::Sender<ExecControl>, mut over: watch::Receiver<bool>) {
    let (sink, mut stream) = socket.split();
    loop {
        let message = tokio::select! {
            message = stream.next() => message,
            () = ended(Some(&mut over)) => {
                close(sink, stream, CloseCode::Normal, "").await;
                return;
            }
        };
        let command = match message {
            Some(Ok(Message::Text(text))) if text.len() <= COMMAND => serde_json::from_str(&text),
            Some(Ok(Message::Binary(bytes))) if bytes.len() <= COMMAND => serde_json::from_slice(&bytes),
            Some(Ok(Message::Close(_))) => {
                close(sink, stream, CloseCode::Normal, "").await;
                return;
            }
            Some(Ok(_)) => continue,
            Some(Err(_)) | None => {
                let kill = ExecControl {
                    command: "signal".to_owned(),
                    signal: SIGKILL,
                    ..ExecControl::default()
                };
                // An error means that the process is over.
                let _ = commands.send(kill).await;
                return;
            }
        };
        match command {
            Ok(command) => {
                if commands.send(command).await.is_err() {
                    return;
                }
            }
            Err(error) => tracing::debug!(%error, "a control websocket sent what is no command"),
        }
    }
}

/// Joins a raw stream and a descriptor until both directions have ended.
pub(crate) async fn splice<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, fd: OwnedFd) {
    let result = async {
        let mut fd = Descriptor::new(fd)?;
        tokio::io::copy_bidirectional_with_sizes(&mut stream, &mut fd, BLOCK, BLOCK).await
    };
    if let Err(error) = result.await {
        tracing::debug!(%error, "a raw stream ended early");
    }
    // The client's end goes with this function; saying so first costs nothing.
    let _ = stream.shutdown().await;
}

#[cfg(test)]
mod tests;

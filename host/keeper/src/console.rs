//! The console: its terminal, the log of its output, and the streams of those who watch.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;

use rustix::event::epoll::EventFlags;
use rustix::fs::MemfdFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::fault::{At, Result};
use crate::reactor::{Places, Reactor, Source};

/// Streams at a time.
const MOST_STREAMS: usize = 64;
/// Typed bytes that wait for a terminal which takes no more; until they are gone the streams are not read.
const MOST_TYPED: usize = 4096;

struct Terminal {
    master: OwnedFd,
    /// Held so that the master side does not report a hang-up whenever nobody has the console open.
    _slave: OwnedFd,
}

/// The console over all boots of a container.
pub(crate) struct Console {
    terminal: Option<Terminal>,
    log: VecDeque<u8>,
    log_bytes: usize,
    streams: Places<OwnedFd>,
    typed: VecDeque<u8>,
    size: (u16, u16),
}

impl Console {
    pub(crate) fn new(log_bytes: u32) -> Self {
        Self {
            terminal: None,
            log: VecDeque::new(),
            log_bytes: log_bytes as usize,
            streams: Places::new(),
            typed: VecDeque::new(),
            size: (0, 0),
        }
    }

    /// Takes the terminal of a new boot.
    pub(crate) fn attach(&mut self, reactor: &Reactor, master: OwnedFd, slave: OwnedFd) -> Result<()> {
        self.detach(reactor);
        rustix::io::ioctl_fionbio(&master, true).at("preparing", "the console")?;
        reactor
            .add(&master, Source::Console, 0, EventFlags::IN)
            .at("watching", "the console")?;
        self.terminal = Some(Terminal { master, _slave: slave });
        let (cols, rows) = self.size;
        if cols != 0 && rows != 0 {
            self.resize(cols, rows)
        } else {
            Ok(())
        }
    }

    /// Lets the terminal go, after what it still had to say.
    pub(crate) fn detach(&mut self, reactor: &Reactor) {
        // No more than a terminal holds, by far: a program that writes on and on must not keep the keeper here.
        for _ in 0..64 {
            if !self.read_terminal(reactor) {
                break;
            }
        }
        if let Some(terminal) = self.terminal.take() {
            reactor.remove(&terminal.master);
        }
        self.typed.clear();
        self.watch_streams(reactor);
    }

    pub(crate) fn resize(&mut self, cols: u16, rows: u16) -> Result<()> {
        self.size = (cols, rows);
        let Some(terminal) = &self.terminal else { return Ok(()) };
        let size = Winsize {
            ws_col: cols,
            ws_row: rows,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&terminal.master, size).at("resizing", "the console")
    }

    /// A new stream; returns the end that is given away.
    pub(crate) fn open_stream(&mut self, reactor: &Reactor) -> Result<OwnedFd> {
        if self.streams.iter().count() >= MOST_STREAMS {
            return Err(rustix::io::Errno::MFILE).at("opening", "the console");
        }
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).at("opening", "the console")?;
        rustix::io::ioctl_fionbio(&ours, true).at("opening", "the console")?;
        let place = self.streams.insert(ours);
        if let Some(stream) = self.streams.get(place)
            && let Err(error) = reactor.add(&*stream, Source::ConsoleStream, place, EventFlags::IN)
        {
            self.streams.remove(place);
            return Err(error).at("watching", "the console");
        }
        Ok(theirs)
    }

    /// Deals with an event of the terminal.
    pub(crate) fn terminal_ready(&mut self, reactor: &Reactor, flags: EventFlags) {
        if flags.contains(EventFlags::OUT) {
            self.write_typed(reactor);
        }
        if flags.contains(EventFlags::IN) {
            self.read_terminal(reactor);
        }
    }

    /// Takes output; `false` when there is none.
    fn read_terminal(&mut self, reactor: &Reactor) -> bool {
        let Some(terminal) = &self.terminal else { return false };
        let mut buffer = [0; 4096];
        match rustix::io::read(&terminal.master, &mut buffer) {
            Ok(length) if length > 0 => {
                self.output(reactor, &buffer[..length]);
                true
            }
            _ => false,
        }
    }

    fn output(&mut self, reactor: &Reactor, bytes: &[u8]) {
        let over = (self.log.len() + bytes.len()).saturating_sub(self.log_bytes);
        self.log.drain(..over.min(self.log.len()));
        self.log.extend(bytes);
        for place in self.streams.places() {
            let Some(stream) = self.streams.get(place) else {
                continue;
            };
            // One that does not take it all is behind by the socket's whole buffer: it is cut off rather than waited for.
            let flags = rustix::net::SendFlags::NOSIGNAL;
            if !rustix::net::send(&*stream, bytes, flags).is_ok_and(|sent| sent == bytes.len()) {
                self.close_stream(reactor, place);
            }
        }
    }

    /// Deals with an event of a stream: what is typed goes to the terminal.
    pub(crate) fn stream_ready(&mut self, reactor: &Reactor, place: u32) {
        let Some(stream) = self.streams.get(place) else { return };
        let mut buffer = [0; 1024];
        match rustix::io::read(&*stream, &mut buffer) {
            Ok(0) => self.close_stream(reactor, place),
            Ok(length) => {
                self.typed.extend(&buffer[..length]);
                self.write_typed(reactor);
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(_) => self.close_stream(reactor, place),
        }
    }

    fn write_typed(&mut self, reactor: &Reactor) {
        let Some(terminal) = &self.terminal else {
            // Typed between two boots: there is nobody to read it.
            self.typed.clear();
            return;
        };
        while !self.typed.is_empty() {
            match rustix::io::write(&terminal.master, self.typed.as_slices().0) {
                Ok(length) => drop(self.typed.drain(..length)),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                Err(_) => self.typed.clear(),
            }
        }
        let flags = if self.typed.is_empty() {
            EventFlags::IN
        } else {
            EventFlags::IN | EventFlags::OUT
        };
        // It is registered, so that this can't fail.
        let _ = reactor.modify(&terminal.master, Source::Console, 0, flags);
        self.watch_streams(reactor);
    }

    fn watch_streams(&self, reactor: &Reactor) {
        let flags = if self.typed.len() < MOST_TYPED {
            EventFlags::IN
        } else {
            EventFlags::empty()
        };
        for (place, stream) in self.streams.iter() {
            let _ = reactor.modify(stream, Source::ConsoleStream, place, flags);
        }
    }

    fn close_stream(&mut self, reactor: &Reactor, place: u32) {
        if let Some(stream) = self.streams.remove(place) {
            reactor.remove(&stream);
        }
    }

    /// Closes every stream: nothing more will come.
    pub(crate) fn close_streams(&mut self, reactor: &Reactor) {
        for place in self.streams.places() {
            self.close_stream(reactor, place);
        }
    }

    /// The log as a file.
    pub(crate) fn log(&self) -> io::Result<OwnedFd> {
        use std::io::{Seek, Write};
        let memfd = rustix::fs::memfd_create("console-log", MemfdFlags::CLOEXEC)?;
        let mut file = std::fs::File::from(memfd);
        let (first, second) = self.log.as_slices();
        file.write_all(first)?;
        file.write_all(second)?;
        file.rewind()?;
        Ok(file.into())
    }

    pub(crate) fn clear_log(&mut self) {
        self.log = VecDeque::new();
    }
}

//! Waiting for several descriptors at once.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

/// What a descriptor is, as its event names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Source {
    /// The listening socket.
    Listener,
    /// A daemon's connection, by its place.
    Client,
    /// The reports of a boot.
    Boot,
    /// The preparer of a boot.
    Preparer,
    /// PID 1.
    Init,
    /// A `cgroup.events`.
    Cgroup,
    /// The console's master side.
    Console,
    /// A stream of the console, by its place.
    ConsoleStream,
    /// The reports of a process that begins programs, by what it begins.
    Guest,
    /// That process itself, likewise.
    GuestProcess,
    /// The reports of a program that begins, by its place.
    ExecReport,
    /// A program, by its place.
    ExecProcess,
    /// A program's terminal that no daemon reads, by its place.
    ExecTerminal,
    /// A timer.
    Timer,
    /// A service's program.
    Service,
    /// The report of a process that mounts.
    Mounts,
    /// Such a process that was ended, by its place.
    Mounter,
    /// Calls that wait to be answered, by the place of their listener.
    Listening,
    /// A process that answers a call, by its place.
    Helper,
    /// The timer of such processes.
    HelperTimer,
}

const SOURCES: [Source; 20] = [
    Source::Listener,
    Source::Client,
    Source::Boot,
    Source::Preparer,
    Source::Init,
    Source::Cgroup,
    Source::Console,
    Source::ConsoleStream,
    Source::Guest,
    Source::GuestProcess,
    Source::ExecReport,
    Source::ExecProcess,
    Source::ExecTerminal,
    Source::Timer,
    Source::Service,
    Source::Mounts,
    Source::Mounter,
    Source::Listening,
    Source::Helper,
    Source::HelperTimer,
];

/// An event: what, in which place, and what is the matter with it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ready {
    pub(crate) source: Source,
    pub(crate) place: u32,
    pub(crate) flags: EventFlags,
}

/// The descriptors that are waited for.
#[derive(Debug)]
pub(crate) struct Reactor {
    epoll: OwnedFd,
}

fn data(source: Source, place: u32) -> EventData {
    EventData::new_u64(u64::from(source as u8) << 32 | u64::from(place))
}

impl Reactor {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
        })
    }

    pub(crate) fn add(&self, fd: impl AsFd, source: Source, place: u32, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, data(source, place), flags)?)
    }

    pub(crate) fn modify(&self, fd: impl AsFd, source: Source, place: u32, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, fd, data(source, place), flags)?)
    }

    /// Stops waiting for a descriptor. To be done before it is closed: the kernel keeps waiting as long as any process has a
    /// copy. One that is not waited for is no error.
    pub(crate) fn remove(&self, fd: impl AsFd) {
        // ENOENT is the only error that an open descriptor can have here (epoll_ctl(2)).
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Waits for the next events.
    pub(crate) fn wait(&self, ready: &mut Vec<Ready>) -> io::Result<()> {
        let mut space = [MaybeUninit::<Event>::uninit(); 16];
        let events = match epoll::wait(&self.epoll, &mut space, None) {
            Ok((events, _)) => events,
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        ready.extend(events.iter().filter_map(|event| {
            let (data, flags) = (event.data, event.flags);
            let number = usize::try_from(data.u64() >> 32).ok()?;
            let place = u32::try_from(data.u64() & u64::from(u32::MAX)).ok()?;
            Some(Ready {
                source: *SOURCES.get(number)?,
                place,
                flags,
            })
        }));
        Ok(())
    }
}

/// A list whose entries keep their places.
#[derive(Debug)]
pub(crate) struct Places<T>(Vec<Option<T>>);

impl<T> Places<T> {
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn insert(&mut self, value: T) -> u32 {
        let place = self.0.iter().position(Option::is_none).unwrap_or_else(|| {
            self.0.push(None);
            self.0.len() - 1
        });
        self.0[place] = Some(value);
        u32::try_from(place).unwrap_or(u32::MAX)
    }

    pub(crate) fn get(&mut self, place: u32) -> Option<&mut T> {
        self.0.get_mut(place as usize)?.as_mut()
    }

    pub(crate) fn remove(&mut self, place: u32) -> Option<T> {
        self.0.get_mut(place as usize)?.take()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0..)
            .zip(&self.0)
            .filter_map(|(place, entry)| Some((place, entry.as_ref()?)))
    }

    pub(crate) fn places(&self) -> Vec<u32> {
        self.iter().map(|(place, _)| place).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_have_their_numbers() {
        for (number, source) in SOURCES.iter().enumerate() {
            assert_eq!(*source as usize, number);
        }
    }

    #[test]
    fn places_are_kept_and_used_again() {
        let mut places = Places::new();
        let (a, b) = (places.insert('a'), places.insert('b'));
        assert_eq!(places.remove(a), Some('a'));
        assert_eq!(places.get(b), Some(&mut 'b'));
        assert_eq!(places.insert('c'), a);
        assert_eq!(places.remove(7), None);
    }
}

//! What daemon and worker say to each other: messages in postcard's encoding (<https://postcard.jamesmunns.com/wire-format>), each
//! behind its length ([`super::frame`]).
//!
//! The daemon begins with [`ToWorker::Hello`] and the worker answers with [`FromWorker::Ready`] or [`FromWorker::Failed`]. After
//! that the daemon sends calls, any number at a time up to the plugin's limit, and each ends with one [`FromWorker::Done`]. A guest
//! runs on one thread, so a call has at most one question on the way.
//!
//! Both are the same program, and the version is there to refuse what is not.

use std::time::Duration;

use hutch_broker::{Request, Response};
use hutch_driver::DriverError;
use postcard::de_flavors::Flavor;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::walls::Walls;
use crate::counters::Used;
use crate::harm::Fault;

/// The version of these messages.
pub(crate) const VERSION: u32 = 3;
/// The longest message of a worker. What a file, a key or a program's arguments may hold is less; a longer answer is refused in the
/// worker already.
pub(crate) const MAX_FROM_WORKER: usize = 8 << 20;
/// The longest message to a worker: a document that it had fetched (32 MiB at most, see `host/broker/src/http.rs`) with its headers.
pub(crate) const MAX_TO_WORKER: usize = 40 << 20;

/// Texts and byte strings in one message of a worker, which may be anybody: twice what the longest list of leases has that is taken,
/// so that one which is too long is refused by name, and few enough that what a message of the greatest length becomes in memory is
/// no great multiple of it. (Everything of which there can be many has a text in it.)
const MAX_TEXTS: usize = 1 << 19;

/// What the daemon says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToWorker {
    /// The first message.
    Hello(Hello),
    /// Call a function of the plugin.
    Call {
        /// A number that the daemon never uses twice.
        id: u64,
        /// `pool.validate`.
        function: String,
        /// The parameters, a tuple in postcard's encoding.
        params: Vec<u8>,
    },
    /// The answer to a question.
    Answer {
        /// The call that asked.
        call: u64,
        /// The question's number within the call.
        ask: u64,
        /// What the broker said.
        result: Result<Response, DriverError>,
    },
    /// Nobody waits for this call any more. It is dropped, and told as done.
    Cancel {
        /// The call.
        call: u64,
    },
}

/// What a worker has to know of its plugin.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// [`VERSION`].
    pub(crate) version: u32,
    /// `storage`, `network`, `image`.
    pub(crate) family: String,
    /// The optional interfaces that it exports.
    pub(crate) abilities: Vec<String>,
    /// Linear memory of one instance, in bytes.
    pub(crate) memory: u64,
    /// The guest's own running time in a call.
    pub(crate) cpu_time: Duration,
    /// Calls at once.
    pub(crate) concurrency: u32,
}

/// What a worker says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromWorker {
    /// It can be called.
    Ready {
        /// [`VERSION`].
        version: u32,
        /// What it says of the walls around it.
        walls: Walls,
    },
    /// It can't.
    Failed(Failed),
    /// A guest asks, and waits.
    Ask {
        /// Its call.
        call: u64,
        /// A number of the worker's choice, which the answer carries.
        ask: u64,
        /// What it asks.
        request: Request,
    },
    /// A guest tells what needs no answer: a line of its log, a figure, how far it is.
    Tell {
        /// Its call.
        call: u64,
        /// What it tells.
        request: Request,
    },
    /// A call has ended.
    Done {
        /// The call.
        call: u64,
        /// How.
        outcome: Outcome,
        /// What its guest used.
        used: Used,
    },
}

/// Why a worker can't be used.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Failed {
    /// The code is not for this machine or this version, and should be made again.
    Code(String),
    /// The plugin does not fit its world.
    Plugin(String),
    /// Its walls could not be put up.
    Walls(String),
    /// The machine lacks what it takes (memory, descriptors), which is not the plugin's fault.
    Machine(String),
}

/// How a call ended.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// The guest answered, or failed with an error of its own: a `Result` in postcard's encoding.
    Answer(Vec<u8>),
    /// It came to harm.
    Fault(Fault),
    /// It was given up, as the daemon wanted.
    Cancelled,
}

/// Whether a request is one that is told and not asked.
pub(crate) fn is_told(request: &Request) -> bool {
    matches!(
        request,
        Request::Log { .. }
            | Request::MetricCount { .. }
            | Request::MetricGauge { .. }
            | Request::ProgressReport { .. }
    )
}

/// Writes a value in postcard's encoding.
pub(crate) fn encode(value: &impl Serialize) -> Result<Vec<u8>, postcard::Error> {
    postcard::to_allocvec(value)
}

/// Whose messages are read, and so how far they are believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sender {
    /// A worker, which may be anybody: its messages may become only so much in memory.
    Worker,
    /// The daemon. A worker reads what its plugin is asked however much that is: the daemon has it in memory already.
    Daemon,
}

/// Reads a value that takes up all of `bytes`; of a worker's, one with at most [`MAX_TEXTS`] texts.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8], from: Sender) -> Result<T, postcard::Error> {
    let mut deserializer = postcard::Deserializer::from_flavor(Counting {
        rest: bytes,
        texts: match from {
            Sender::Worker => MAX_TEXTS,
            Sender::Daemon => usize::MAX,
        },
    });
    let value = T::deserialize(&mut deserializer)?;
    match deserializer.finalize()? {
        [] => Ok(value),
        _ => Err(postcard::Error::DeserializeBadEncoding),
    }
}

/// Bytes that are read one after the other, and how many texts there may still be among them. An empty text is a byte here and 24 in
/// memory.
struct Counting<'de> {
    rest: &'de [u8],
    texts: usize,
}

impl<'de> Flavor<'de> for Counting<'de> {
    type Remainder = &'de [u8];
    type Source = &'de [u8];

    fn pop(&mut self) -> postcard::Result<u8> {
        let (first, rest) = self
            .rest
            .split_first()
            .ok_or(postcard::Error::DeserializeUnexpectedEnd)?;
        self.rest = rest;
        Ok(*first)
    }

    fn try_take_n(&mut self, count: usize) -> postcard::Result<&'de [u8]> {
        self.texts = self
            .texts
            .checked_sub(1)
            .ok_or(postcard::Error::DeserializeBadEncoding)?;
        let split = self.rest.split_at_checked(count);
        let (taken, rest) = split.ok_or(postcard::Error::DeserializeUnexpectedEnd)?;
        self.rest = rest;
        Ok(taken)
    }

    fn finalize(self) -> postcard::Result<&'de [u8]> {
        Ok(self.rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_does_not_become_a_multiple_of_itself() {
        let many = |count: usize| encode(&vec![(String::new(), String::new()); count]).expect("it can be written");
        // 8 MiB of empty pairs would take 200.
        assert!(decode::<Vec<(String, String)>>(&many(4 << 20), Sender::Worker).is_err());
        let most = decode::<Vec<(String, String)>>(&many(MAX_TEXTS / 2), Sender::Worker).expect("as many as may be");
        assert_eq!(most.len(), MAX_TEXTS / 2);
        // Bytes are no texts.
        let bytes = vec![7_u8; 1 << 20];
        assert_eq!(
            decode::<Vec<u8>>(&encode(&bytes).expect("it can be written"), Sender::Worker).expect("it is read"),
            bytes
        );
    }

    #[test]
    fn what_the_daemon_says_is_read_however_many_texts_it_has() {
        // All volumes of a large pool with their snapshots.
        let volume = |number: usize| (format!("volume-{number}"), vec!["snap".to_owned(); 30]);
        let volumes: Vec<_> = (0..20_000).map(volume).collect();
        let bytes = encode(&volumes).expect("it can be written");
        assert!(decode::<Vec<(String, Vec<String>)>>(&bytes, Sender::Worker).is_err());
        assert_eq!(
            decode::<Vec<(String, Vec<String>)>>(&bytes, Sender::Daemon),
            Ok(volumes)
        );
    }

    #[test]
    fn what_ends_too_early_or_too_late_is_refused() {
        let text = encode(&"abc".to_owned()).expect("it can be written");
        for from in [Sender::Worker, Sender::Daemon] {
            assert_eq!(decode::<String>(&text, from), Ok("abc".to_owned()));
            assert!(decode::<String>(&text[..3], from).is_err());
            assert!(decode::<String>(&[text.as_slice(), b"x"].concat(), from).is_err());
        }
    }
}

//! Frames: a message behind its length, four bytes in little-endian order. What the daemon reads here comes from a worker, which may
//! be anybody.

use bytes::{Buf, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::protocol::{Sender, decode, encode};

/// Bytes of the length before each message.
const HEADER: usize = 4;
/// Room that is made before it is known how much will come, and what is kept between messages.
const ROOM: usize = 8 << 10;

/// Why what was read is no message.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    /// It begins with the length of one that may not be.
    #[error("a message of {length} bytes, where at most {most} are allowed")]
    TooLong {
        /// What it said.
        length: usize,
        /// What it may say.
        most: usize,
    },
    /// Its content makes no sense.
    #[error("a message that can't be read: {0}")]
    Content(postcard::Error),
    /// It can't be written.
    #[error("a message that can't be written: {0}")]
    Unwritable(postcard::Error),
}

/// A message as it goes over the socket.
///
/// # Errors
/// [`FrameError::TooLong`] where it has more than `most` bytes.
pub(crate) fn frame(message: &impl Serialize, most: usize) -> Result<Vec<u8>, FrameError> {
    let body = encode(message).map_err(FrameError::Unwritable)?;
    let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= most);
    let length = length.ok_or(FrameError::TooLong {
        length: body.len(),
        most,
    })?;
    let mut frame = Vec::with_capacity(HEADER + body.len());
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&body);
    Ok(frame)
}

/// Puts messages together from what comes, in whatever pieces it comes.
#[derive(Debug)]
pub(crate) struct Frames {
    buffer: BytesMut,
    from: Sender,
    most: usize,
}

impl Frames {
    /// For messages of at most `most` bytes.
    pub(crate) fn new(from: Sender, most: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            from,
            most,
        }
    }

    /// Where what comes is to be appended. It has room for more, and never much more than has come already: a length that is
    /// announced is no reason to believe that it will come.
    pub(crate) fn space(&mut self) -> &mut BytesMut {
        let wanted = self.buffer.len().max(ROOM);
        self.buffer.reserve(wanted);
        &mut self.buffer
    }

    /// The next message, if all of it is there.
    ///
    /// # Errors
    /// What came is none. Nothing that comes after it can be read.
    pub(crate) fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let Some((header, rest)) = self.buffer.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        // A length that does not fit is too long in any case.
        let length = usize::try_from(u32::from_le_bytes(*header)).unwrap_or(usize::MAX);
        if length > self.most {
            return Err(FrameError::TooLong {
                length,
                most: self.most,
            });
        }
        let Some(body) = rest.get(..length) else {
            return Ok(None);
        };
        let message = decode(body, self.from).map_err(FrameError::Content)?;
        // Without moving what is behind it: there may be a million small ones.
        self.buffer.advance(HEADER + length);
        if self.buffer.is_empty() && self.buffer.capacity() > 4 * ROOM {
            self.buffer = BytesMut::new();
        }
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::protocol::{FromWorker, MAX_FROM_WORKER, ToWorker};
    use super::*;

    fn read(frames: &mut Frames, pieces: &[&[u8]]) -> Result<Vec<FromWorker>, FrameError> {
        let mut messages = Vec::new();
        for piece in pieces {
            frames.space().extend_from_slice(piece);
            while let Some(message) = frames.next()? {
                messages.push(message);
            }
        }
        Ok(messages)
    }

    fn ask(call: u64, key: String) -> FromWorker {
        FromWorker::Ask {
            call,
            ask: 1,
            request: hutch_broker::Request::KvGet { key },
        }
    }

    #[test]
    fn a_length_makes_no_room() {
        let mut frames = Frames::new(Sender::Worker, MAX_FROM_WORKER);
        let length = u32::try_from(MAX_FROM_WORKER).expect("it fits");
        read(&mut frames, &[&length.to_le_bytes(), b"x"]).expect("it may come");
        assert!(frames.space().capacity() < 64 << 10, "{}", frames.space().capacity());
        let over = read(
            &mut Frames::new(Sender::Worker, MAX_FROM_WORKER),
            &[&(1_u32 << 30).to_le_bytes()],
        );
        assert!(matches!(over, Err(FrameError::TooLong { .. })), "{over:?}");
    }

    #[test]
    fn a_message_with_something_behind_it_is_none() {
        let mut body = encode(&ask(1, "a".to_owned())).expect("it can be written");
        body.push(0);
        let length = u32::try_from(body.len()).expect("it fits").to_le_bytes();
        let read = read(&mut Frames::new(Sender::Worker, MAX_FROM_WORKER), &[&length, &body]);
        assert!(matches!(read, Err(FrameError::Content(_))), "{read:?}");
    }

    #[test]
    fn a_message_over_the_bound_is_not_written() {
        assert!(matches!(
            frame(&ask(1, "a".repeat(100)), 64),
            Err(FrameError::TooLong { .. })
        ));
    }

    proptest! {
        #[test]
        fn messages_arrive_whole_however_they_are_cut(
            keys in prop::collection::vec(".{0,40}", 1..6),
            cuts in prop::collection::vec(1_usize..64, 1..40),
        ) {
            let mut stream = Vec::new();
            for (number, key) in keys.iter().enumerate() {
                stream.extend(frame(&ask(number as u64, key.clone()), MAX_FROM_WORKER).expect("it can be written"));
            }
            let mut rest = stream.as_slice();
            let mut pieces = Vec::new();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            let messages = read(&mut Frames::new(Sender::Worker, MAX_FROM_WORKER), &pieces).expect("they are messages");
            prop_assert_eq!(messages.len(), keys.len());
            for (number, (message, key)) in messages.into_iter().zip(keys).enumerate() {
                let FromWorker::Ask { call, request: hutch_broker::Request::KvGet { key: read }, .. } = message else {
                    panic!("another message");
                };
                prop_assert_eq!((call, read), (number as u64, key));
            }
        }

        #[test]
        fn anything_can_come(bytes in prop::collection::vec(any::<u8>(), 0..4096), most in 0_usize..8192) {
            let mut frames = Frames::new(Sender::Worker, most);
            let before = bytes.len();
            // Whatever it is, it is a message, the beginning of one, or an error.
            if let Ok(messages) = read(&mut frames, &[&bytes]) {
                prop_assert!(messages.len() <= before / HEADER + 1);
            }
        }

        #[test]
        fn any_content_in_a_right_frame_can_come(body in prop::collection::vec(any::<u8>(), 0..2048), kind in 0_u8..8) {
            let mut body = body;
            if let Some(first) = body.first_mut() {
                // Mostly something that begins as a message does.
                *first = kind;
            }
            let mut stream = u32::try_from(body.len()).expect("it fits").to_le_bytes().to_vec();
            stream.extend_from_slice(&body);
            // It is read to its end or refused; neither panics nor asks for more memory than a message may have.
            let _ = read(&mut Frames::new(Sender::Worker, MAX_FROM_WORKER), &[&stream]);
            let mut other = Frames::new(Sender::Daemon, MAX_FROM_WORKER);
            other.space().extend_from_slice(&stream);
            let _ = other.next::<ToWorker>();
        }

        #[test]
        fn damaged_messages_are_refused_or_read(key in ".{0,60}", at in any::<prop::sample::Index>(), bit in 0_u8..8) {
            let mut stream = frame(&ask(7, key), MAX_FROM_WORKER).expect("it can be written");
            let at = at.index(stream.len());
            stream[at] ^= 1 << bit;
            let _ = read(&mut Frames::new(Sender::Worker, MAX_FROM_WORKER), &[&stream]);
        }
    }
}

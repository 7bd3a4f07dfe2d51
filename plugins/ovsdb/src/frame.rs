//! Messages out of a stream of bytes. JSON-RPC on a stream has no other bounds than those of its JSON texts (RFC 7047, 4).

use crate::{Error, Result};

/// Bytes that one message may have. A monitor's first answer has all rows: 10,000 ports of OVN are some 8 MB.
pub const LARGEST_MESSAGE: usize = 64 << 20;

/// Cuts a stream into JSON texts.
#[derive(Debug)]
pub struct Frames {
    buffer: Vec<u8>,
    /// How much of the buffer was looked at.
    seen: usize,
    /// Objects and arrays that are open.
    depth: usize,
    place: Place,
    largest: usize,
}

/// Where in a text the next byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Outside,
    String,
    /// Behind a backslash in a string.
    Escape,
}

impl Default for Frames {
    fn default() -> Self {
        Self::new(LARGEST_MESSAGE)
    }
}

impl Frames {
    /// For messages of at most `largest` bytes.
    #[must_use]
    pub fn new(largest: usize) -> Self {
        Self {
            buffer: Vec::new(),
            seen: 0,
            depth: 0,
            place: Place::Outside,
            largest,
        }
    }

    /// Takes in what was received.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next message that is whole, if there is one.
    ///
    /// # Errors
    /// [`Error::TooLarge`], and [`Error::Protocol`] where what comes is no JSON object or array.
    pub fn next_message(&mut self) -> Result<Option<serde_json::Value>> {
        if self.depth == 0 {
            self.begin()?;
        }
        while let Some(&byte) = self.buffer.get(self.seen) {
            self.seen += 1;
            self.step(byte);
            if self.seen > self.largest {
                return Err(Error::TooLarge(self.largest));
            }
            if self.depth == 0 {
                let message = serde_json::from_slice(&self.buffer[..self.seen]);
                self.drop_seen();
                return message.map(Some).map_err(|error| Error::Protocol(error.to_string()));
            }
        }
        Ok(None)
    }

    /// Drops the space between messages, and checks what follows it.
    fn begin(&mut self) -> Result<()> {
        let space = |byte: &u8| byte.is_ascii_whitespace();
        self.seen = self.buffer.iter().take_while(|byte| space(byte)).count();
        self.drop_seen();
        match self.buffer.first() {
            None | Some(b'{' | b'[') => Ok(()),
            Some(byte) => Err(Error::Protocol(format!("a message begins with the byte {byte:#04x}"))),
        }
    }

    fn step(&mut self, byte: u8) {
        self.place = match (self.place, byte) {
            (Place::String, b'\\') => Place::Escape,
            (Place::String, b'"') => Place::Outside,
            (Place::String | Place::Escape, _) => Place::String,
            (Place::Outside, b'"') => Place::String,
            (Place::Outside, b'{' | b'[') => {
                self.depth += 1;
                Place::Outside
            }
            (Place::Outside, b'}' | b']') => {
                // One is open, or this would not be within a message. Which kind it is, the parser finds.
                self.depth -= 1;
                Place::Outside
            }
            (Place::Outside, _) => Place::Outside,
        };
    }

    fn drop_seen(&mut self) {
        self.buffer.drain(..self.seen);
        self.seen = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn read(frames: &mut Frames) -> Vec<serde_json::Value> {
        std::iter::from_fn(|| frames.next_message().expect("messages")).collect()
    }

    #[test]
    fn messages_are_found_wherever_the_stream_is_cut() {
        let messages = [
            json!({"a": "}\"]\\", "b": [[], {"c": "ä"}]}),
            json!([]),
            json!({"id": null}),
        ];
        let stream: String = messages.iter().map(|message| format!(" {message}\n")).collect();
        for size in 1..=stream.len() {
            let mut frames = Frames::default();
            let mut found = Vec::new();
            for part in stream.as_bytes().chunks(size) {
                frames.push(part);
                found.extend(read(&mut frames));
            }
            assert_eq!(found, messages, "in parts of {size}");
            assert!(frames.buffer.is_empty(), "in parts of {size}");
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for (text, why) in [
            ("nonsense", "begins with"),
            ("{]", "key must be"),
            ("]", "begins with"),
            ("1", "begins with"),
        ] {
            let mut frames = Frames::default();
            frames.push(text.as_bytes());
            let error = frames.next_message().expect_err(text).to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
        let mut frames = Frames::default();
        frames.push("[".repeat(100_000).as_bytes());
        assert_eq!(frames.next_message(), Ok(None));
        frames.push("]".repeat(100_000).as_bytes());
        assert!(
            frames
                .next_message()
                .expect_err("too deep")
                .to_string()
                .contains("recursion")
        );
    }

    #[test]
    fn a_message_without_an_end_is_not_kept_for_ever() {
        let mut frames = Frames::new(1000);
        frames.push(b"[\"");
        frames.push(&vec![b'x'; 2000]);
        assert_eq!(frames.next_message(), Err(Error::TooLarge(1000)));
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_much(bytes in prop::collection::vec(prop_oneof![Just(b'{'), Just(b'}'), Just(b'"'), Just(b'['), any::<u8>()], 0..200)) {
            let mut frames = Frames::new(100);
            frames.push(&bytes);
            while let Ok(Some(_)) = frames.next_message() {}
        }
    }
}

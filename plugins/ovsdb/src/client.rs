//! Requests and answers on one connection (RFC 7047, 4).

use std::collections::VecDeque;

use serde_json::{Value as Json, json};

use crate::{Error, Frames, Monitor, Replica, Result, Results, Schema, Transaction};

/// Updates that wait to be asked for. A server sends one for each transaction of anybody.
const MOST_UPDATES: usize = 4096;

/// A stream of bytes to a server. How long sending and receiving may take is its own business, and so is TLS.
pub trait Transport {
    /// Sends all of it.
    ///
    /// # Errors
    /// Why it can't be sent.
    fn send(&mut self, bytes: &[u8]) -> std::result::Result<(), String>;

    /// Waits for bytes and returns those that came; none where the server has closed the connection.
    ///
    /// # Errors
    /// Why nothing can be received.
    fn receive(&mut self) -> std::result::Result<Vec<u8>, String>;
}

/// A connection to a server.
#[derive(Debug)]
pub struct Client<T> {
    transport: T,
    frames: Frames,
    next: u64,
    /// Updates that came while an answer was waited for.
    updates: VecDeque<Json>,
}

impl<T: Transport> Client<T> {
    /// On a connection that was just made.
    pub fn new(transport: T) -> Self {
        Self {
            transport,
            frames: Frames::default(),
            next: 0,
            updates: VecDeque::new(),
        }
    }

    /// The databases of the server.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn databases(&mut self) -> Result<Vec<String>> {
        let names = self.request("list_dbs", &json!([]))?;
        serde_json::from_value(names).map_err(|error| Error::Protocol(error.to_string()))
    }

    /// What a database is made of.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn schema(&mut self, database: &str) -> Result<Schema> {
        Schema::from_json(&self.request("get_schema", &json!([database]))?)
    }

    /// Does all of a transaction, or none of it.
    ///
    /// # Errors
    /// [`Error::Operation`] where one of its operations failed, and the others.
    pub fn transact(&mut self, transaction: &Transaction) -> Result<Results> {
        let result = self.request("transact", &transaction.params())?;
        transaction.results(result)
    }

    /// Begins to watch, and returns what there is. Changes come by [`Self::next_change`].
    ///
    /// # Errors
    /// See [`Error`].
    pub fn monitor(&mut self, monitor: &Monitor) -> Result<Replica> {
        let schema = self.schema(monitor.database())?;
        let first = self.request("monitor_cond", &monitor.params())?;
        Replica::new(monitor, &schema, &first)
    }

    /// Waits for a change of what is watched and applies it.
    ///
    /// # Errors
    /// See [`Error`]; the replica is to be thrown away then.
    pub fn next_change(&mut self, replica: &mut Replica) -> Result<()> {
        loop {
            while let Some(update) = self.updates.pop_front() {
                if replica.apply(&update)? {
                    return Ok(());
                }
            }
            let message = self.message()?;
            self.take(message)?;
        }
    }

    fn request(&mut self, method: &str, params: &Json) -> Result<Json> {
        let id = self.next;
        self.next += 1;
        self.say(&json!({"method": method, "params": params, "id": id}))?;
        loop {
            let mut message = self.message()?;
            if message.get("method").is_some() {
                self.take(message)?;
                continue;
            }
            if message["id"] != id {
                return Err(Error::Protocol("an answer to what was not asked".to_owned()));
            }
            return match message["error"].take() {
                Json::Null => Ok(message["result"].take()),
                error => Err(Error::Refused(reason(&error))),
            };
        }
    }

    /// Does what a request or notification of the server asks for.
    fn take(&mut self, mut message: Json) -> Result<()> {
        match message["method"].as_str() {
            // Either side may ask whether the other one lives (RFC 7047, 4.1.11).
            Some("echo") => {
                let (params, id) = (message["params"].take(), message["id"].take());
                self.say(&json!({"result": params, "error": null, "id": id}))
            }
            Some("update2") if self.updates.len() < MOST_UPDATES => {
                self.updates.push_back(message["params"].take());
                Ok(())
            }
            Some("update2") => Err(Error::Protocol("more updates than can be kept".to_owned())),
            // What a later server says beyond that was not asked for.
            _ => Ok(()),
        }
    }

    fn say(&mut self, message: &Json) -> Result<()> {
        self.transport
            .send(message.to_string().as_bytes())
            .map_err(Error::Transport)
    }

    fn message(&mut self) -> Result<Json> {
        loop {
            if let Some(message) = self.frames.next_message()? {
                return Ok(message);
            }
            match self.transport.receive().map_err(Error::Transport)? {
                bytes if bytes.is_empty() => return Err(Error::Closed),
                bytes => self.frames.push(&bytes),
            }
        }
    }
}

/// An error of a whole request: a text, or an object as operations have it.
fn reason(error: &Json) -> String {
    let text = |json: &Json| json.as_str().map(str::to_owned);
    match (text(error), text(&error["error"]), text(&error["details"])) {
        (Some(text), ..) => text,
        (_, Some(code), Some(details)) => format!("{code}: {details}"),
        (_, Some(code), None) => code,
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server whose words are written beforehand.
    #[derive(Default)]
    struct Script {
        said: Vec<u8>,
        answers: VecDeque<Vec<u8>>,
    }

    impl Transport for Script {
        fn send(&mut self, bytes: &[u8]) -> std::result::Result<(), String> {
            self.said.extend_from_slice(bytes);
            Ok(())
        }

        fn receive(&mut self) -> std::result::Result<Vec<u8>, String> {
            Ok(self.answers.pop_front().unwrap_or_default())
        }
    }

    fn client(answers: &[&str]) -> Client<Script> {
        Client::new(Script {
            said: Vec::new(),
            answers: answers.iter().map(|answer| answer.as_bytes().to_vec()).collect(),
        })
    }

    #[test]
    fn an_echo_is_answered_while_something_else_is_waited_for() {
        let mut client = client(&[
            r#"{"method":"echo","params":["x"],"id":"echo"}{"id":0,"err"#,
            r#"or":null,"result":["db"]}"#,
        ]);
        assert_eq!(client.databases(), Ok(vec!["db".to_owned()]));
        let said = String::from_utf8(client.transport.said).unwrap();
        assert!(said.contains(r#"{"error":null,"id":"echo","result":["x"]}"#), "{said}");
    }

    #[test]
    fn a_server_that_lies_is_an_error() {
        for (answer, why) in [
            (r#"{"id":1,"error":null,"result":[]}"#, "what was not asked"),
            (
                r#"{"id":0,"error":{"error":"unknown database","details":"no x"},"result":null}"#,
                "unknown database: no x",
            ),
            (r#"{"id":0,"error":"not leader","result":null}"#, "not leader"),
            (r#"{"id":0,"error":null,"result":[1]}"#, "not understood"),
            (r#"{"id":0}"#, "not understood"),
            ("", "closed the connection"),
            ("x", "begins with"),
        ] {
            let error = client(&[answer]).databases().expect_err(answer).to_string();
            assert!(error.contains(why), "{answer}: {error}");
        }
    }

    #[test]
    fn updates_are_not_kept_without_end() {
        let update = r#"{"method":"update2","params":[null,{}],"id":null}"#.repeat(MOST_UPDATES + 1);
        assert!(client(&[&update]).databases().is_err());
    }
}

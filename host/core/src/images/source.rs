//! What image sources offer. Their drivers are asked on the same path as for a creation, with the same grants (the server that the caller
//! named, and no other), and answered at once: nothing of an answer is kept.
//!
//! A source may be anybody's, and a listing is nobody's right to wait for: it has a time, a number of questions at once, and a size. It
//! claims nothing that others need, so that a source which does not answer holds up those who ask it, and nobody else.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hutch_api::Timestamp;
use hutch_api::image::{Image, ImageAlias, ImageSource, ImageSourceDriver};
use hutch_api::instance::VIRTUAL_MACHINE;
use hutch_driver::image::{ImageDriver, ImageRequest, SourceImage};
use hutch_driver::{Call, DriverError, DriverInfo};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::architecture;
use super::choose::LONGEST_NAME;
use super::fetch::source_call;
use super::record::CONTAINER;
use crate::Core;
use crate::error::{Error, Result};
use crate::projects::Feature;

/// How long a source may take to say what it has, with the waiting for its turn.
const TIME: Duration = Duration::from_secs(60);
/// Questions that one driver is asked at a time. What its plugin can do beyond that is left to creations.
const AT_ONCE: usize = 2;
/// Bytes of a listing as JSON has it.
const MOST_BYTES: usize = 16 << 20;
/// Bytes that an image takes of that besides its own texts, at most: the names of its fields, numbers and times.
const FRAME: usize = 1 << 10;

/// What is asked of a source.
#[derive(Clone, Debug, Default)]
pub struct SourceQuery {
    /// The server's address; empty where the source has none.
    pub server: String,
    /// The architecture, by the kernel's name or a distribution's; empty for this machine's.
    pub architecture: String,
    /// `container` or `virtual-machine`; empty for the first.
    pub kind: String,
}

/// A question to a driver, ready to be asked.
struct Question {
    driver: Arc<dyn ImageDriver>,
    info: DriverInfo,
    call: Call,
    request: ImageRequest,
    action: String,
}

impl Question {
    /// That the driver's answer can't be used.
    fn refuse(&self, code: &str, message: String) -> Error {
        let error = DriverError::new(code, message).from_plugin(&self.info.plugin, &self.info.version);
        Error::driver(&self.action)(error)
    }
}

/// Who is being asked at this moment.
#[derive(Debug)]
pub(super) struct Asking {
    /// The turns of each driver, by its name.
    turns: Mutex<HashMap<String, Arc<Semaphore>>>,
    /// See [`TIME`].
    time: Duration,
}

impl Default for Asking {
    fn default() -> Self {
        Self {
            turns: Mutex::default(),
            time: TIME,
        }
    }
}

impl Asking {
    /// The turns of a driver. It is one that is there, so that there are no more of them than drivers.
    fn turns(&self, source: &str) -> Arc<Semaphore> {
        let mut all = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let turns = all
            .entry(source.to_owned())
            .or_insert_with(|| Arc::new(Semaphore::new(AT_ONCE)));
        Arc::clone(turns)
    }

    /// Waits for the driver's answer, which is `answer`, in its turn and within the time that there is for it. Whoever stops waiting gives
    /// the call up.
    async fn ask<T>(
        &self,
        source: &str,
        question: &Question,
        answer: impl Future<Output = Result<T, DriverError>>,
    ) -> Result<T> {
        let (deadline, seconds) = (Instant::now() + self.time, self.time.as_secs());
        let turns = self.turns(source);
        let Ok(turn) = tokio::time::timeout_at(deadline, turns.acquire()).await else {
            return Err(Error::Unavailable(format!(
                "{}: it is being asked {AT_ONCE} times already, and did not answer within {seconds} s: try again",
                question.action
            )));
        };
        // Turns are never closed; without one nothing would be wrong, either.
        let _turn = turn.ok();
        match tokio::time::timeout_at(deadline, answer).await {
            Ok(answer) => answer.map_err(Error::driver(&question.action)),
            Err(_) => Err(question.refuse("timeout", format!("it did not answer within {seconds} s"))),
        }
    }
}

impl Core {
    /// The image sources that there are at present.
    pub fn image_sources(&self) -> Vec<ImageSourceDriver> {
        let shown = |info: DriverInfo| ImageSourceDriver {
            builds: info.can("build"),
            name: info.name,
            plugin: info.plugin,
            version: info.version,
        };
        self.drivers.list("image").into_iter().map(shown).collect()
    }

    /// The images that a source has whose names begin with `name`, as it says: none of them is here because of that.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what no source can be asked, [`Error::NotFound`] for the project, and [`Error::Driver`] with the plugin and
    /// its version: its own errors, `timeout` after a minute, and `limit` for an answer that is too large. [`Error::Unavailable`] while
    /// others ask the same source and are not answered.
    pub async fn image_source_list(
        &self,
        project: &str,
        source: &str,
        name: &str,
        query: &SourceQuery,
    ) -> Result<Vec<Image>> {
        let action = format!("listing the images of {source:.64}");
        let question = self.question(project, source, name, query, action)?;
        let answer = question.driver.list(&question.call, &question.request);
        let images = self.images.asking.ask(source, &question, answer).await?;
        let mut room = MOST_BYTES;
        let mut shown = Vec::with_capacity(images.len());
        for image in images {
            let Some(left) = room.checked_sub(written(&image, query)) else {
                let message = format!("source.list answered with more than {} MiB of text", MOST_BYTES >> 20);
                return Err(question.refuse("limit", message));
            };
            room = left;
            shown.push(show(image, source, query));
        }
        Ok(shown)
    }

    /// The image that a source has under a name or a fingerprint, as it says.
    ///
    /// # Errors
    /// As [`Core::image_source_list`], with the driver's `not-found` where there is none.
    pub async fn image_source_image(
        &self,
        project: &str,
        source: &str,
        name: &str,
        query: &SourceQuery,
    ) -> Result<Image> {
        if name.is_empty() {
            return Err(Error::invalid("The name of an image is missing"));
        }
        let action = format!("finding image {name}");
        let question = self.question(project, source, name, query, action)?;
        let answer = question.driver.resolve(&question.call, &question.request);
        let image = self.images.asking.ask(source, &question, answer).await?;
        Ok(show(image, source, query))
    }

    fn question(
        &self,
        project: &str,
        source: &str,
        name: &str,
        query: &SourceQuery,
        action: String,
    ) -> Result<Question> {
        let project = self.scope(project, Feature::Images)?;
        if name.len() > LONGEST_NAME {
            return Err(Error::invalid(format!(
                "The name of an image has {} bytes, and may have {LONGEST_NAME}",
                name.len()
            )));
        }
        let architecture = match query.architecture.as_str() {
            "" => architecture::of_this_machine(),
            other => architecture::canonical(other)
                .ok_or_else(|| Error::invalid(format!("Architecture isn't supported: {other:.32}")))?,
        };
        let kind = match query.kind.as_str() {
            "" | CONTAINER => CONTAINER,
            VIRTUAL_MACHINE => VIRTUAL_MACHINE,
            other => {
                return Err(Error::invalid(format!(
                    "Images of type {other:.32?} don't exist: there are {CONTAINER} and {VIRTUAL_MACHINE}"
                )));
            }
        };
        let driver = self.image_driver(source, &query.server, &action)?;
        Ok(Question {
            info: driver.info(),
            driver,
            call: source_call(&project, &query.server, source),
            request: ImageRequest {
                server: query.server.clone(),
                name: name.to_owned(),
                architecture: architecture.to_owned(),
                kind: kind.to_owned(),
                options: hutch_driver::Options::new(),
            },
            action,
        })
    }
}

/// Bytes that an image has as JSON, or more.
fn written(image: &SourceImage, query: &SourceQuery) -> usize {
    // What is longest is a control character: `\u0000` (RFC 8259, section 7).
    let text = |text: &str| {
        let escaped = |byte: u8| {
            if byte < 0x20 {
                5
            } else {
                usize::from(matches!(byte, b'"' | b'\\'))
            }
        };
        text.len() + text.bytes().map(escaped).sum::<usize>()
    };
    let aliases = image.aliases.iter().map(|alias| text(alias) + 64);
    let properties = image.properties.iter().map(|(key, value)| text(key) + text(value) + 8);
    // The first alias is shown twice.
    let first = image.aliases.first().map_or(0, |alias| text(alias));
    FRAME + first + text(&query.server) + aliases.chain(properties).sum::<usize>()
}

fn show(image: SourceImage, source: &str, query: &SourceQuery) -> Image {
    let time = |seconds: i64| match seconds {
        0 => Timestamp::NEVER,
        seconds => Timestamp::from_unix(seconds),
    };
    // Sizes are the source's word, and may be any.
    let sum = |sum: i64, size: Option<u64>| sum.checked_add(i64::try_from(size?).ok()?);
    let size = match image.files.as_slice() {
        [] => None,
        files => files.iter().try_fold(0, |so_far, file| sum(so_far, file.size)),
    };
    let name = image.aliases.first().unwrap_or(&image.fingerprint).clone();
    Image {
        aliases: image
            .aliases
            .into_iter()
            .map(|name| ImageAlias {
                name,
                ..ImageAlias::default()
            })
            .collect(),
        architecture: image.architecture,
        created_at: time(image.created),
        uploaded_at: time(image.created),
        expires_at: time(image.expires),
        properties: image.properties,
        // Whoever can ask the source may have it.
        public: true,
        size: size.unwrap_or(-1),
        update_source: Some(ImageSource {
            alias: name,
            image_type: image.kind.clone(),
            protocol: source.to_owned(),
            server: query.server.clone(),
            ..ImageSource::default()
        }),
        kind: image.kind,
        fingerprint: image.fingerprint,
        ..Image::default()
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use hutch_driver::TreePath;
    use hutch_driver::image::{BuiltImage, ImageFile, NamedBy};

    use super::*;

    /// A driver that nobody asks.
    struct Unasked;

    fn unasked<T>() -> Result<T, DriverError> {
        Err(DriverError::new("internal", "the answer is the test's"))
    }

    #[async_trait]
    impl ImageDriver for Unasked {
        fn info(&self) -> DriverInfo {
            DriverInfo {
                name: "slow".to_owned(),
                plugin: "org.example.slow".to_owned(),
                version: "1.2.3".to_owned(),
                abilities: Vec::new(),
            }
        }
        async fn resolve(&self, _: &Call, _: &ImageRequest) -> Result<SourceImage, DriverError> {
            unasked()
        }
        async fn list(&self, _: &Call, _: &ImageRequest) -> Result<Vec<SourceImage>, DriverError> {
            unasked()
        }
        async fn build(&self, _: &Call, _: &ImageRequest, _: &TreePath) -> Result<BuiltImage, DriverError> {
            unasked()
        }
    }

    fn question() -> Question {
        Question {
            info: Unasked.info(),
            driver: Arc::new(Unasked),
            call: source_call("default", "https://images.example", "slow"),
            request: ImageRequest {
                server: "https://images.example".to_owned(),
                name: String::new(),
                architecture: String::new(),
                kind: String::new(),
                options: hutch_driver::Options::new(),
            },
            action: "listing the images of slow".to_owned(),
        }
    }

    fn never() -> impl Future<Output = Result<(), DriverError>> {
        std::future::pending()
    }

    #[tokio::test]
    async fn who_does_not_answer_is_named_and_holds_up_nobody_else() {
        let asking = Asking {
            time: Duration::from_millis(200),
            ..Asking::default()
        };
        let question = question();
        let mut hanging: Vec<_> = (0..AT_ONCE)
            .map(|_| Box::pin(asking.ask("slow", &question, never())))
            .collect();
        for ask in &mut hanging {
            assert!(futures_util::poll!(ask).is_pending());
        }
        let other = asking.ask("other", &question, std::future::ready(Ok(1))).await;
        assert_eq!(other.unwrap(), 1);
        // Whoever comes now waits, and goes on as soon as somebody gives up.
        let mut next = Box::pin(asking.ask("slow", &question, std::future::ready(Ok(2))));
        assert!(futures_util::poll!(&mut next).is_pending());
        let late = asking.ask("slow", &question, never());
        drop(hanging.pop());
        assert_eq!(next.await.unwrap(), 2);
        hanging.push(Box::pin(late));
        for ask in hanging {
            let error = ask.await.unwrap_err();
            let report = error.report();
            assert!(
                report.starts_with("listing the images of slow: plugin org.example.slow 1.2.3: it did not answer"),
                "{report}"
            );
        }
    }

    #[tokio::test]
    async fn who_gets_no_turn_is_told_why() {
        let asking = Asking {
            time: Duration::from_millis(100),
            ..Asking::default()
        };
        let question = question();
        let turns = asking.turns("slow");
        let _all = turns.acquire_many(u32::try_from(AT_ONCE).unwrap()).await.unwrap();
        let error = asking.ask("slow", &question, never()).await.unwrap_err();
        assert_eq!(error.status(), 503, "{}", error.report());
    }

    fn image() -> SourceImage {
        SourceImage {
            fingerprint: "f".repeat(64),
            aliases: vec!["debian/12".to_owned(), "bookworm".to_owned()],
            architecture: "x86_64".to_owned(),
            kind: CONTAINER.to_owned(),
            properties: [("os".to_owned(), "Debian".to_owned())].into(),
            created: 1_700_000_000,
            expires: 0,
            files: Vec::new(),
            build_key: None,
            named_by: NamedBy::default(),
        }
    }

    fn file(size: Option<u64>) -> ImageFile {
        ImageFile {
            role: "unified".to_owned(),
            url: String::new(),
            sha256: String::new(),
            size,
        }
    }

    fn query() -> SourceQuery {
        SourceQuery {
            server: "https://images.example".to_owned(),
            ..SourceQuery::default()
        }
    }

    #[test]
    fn an_image_is_shown_with_where_it_comes_from() {
        let shown = show(image(), "streams", &query());
        assert_eq!(shown.aliases[1].name, "bookworm");
        assert_eq!(shown.created_at, shown.uploaded_at);
        assert!(shown.expires_at.is_never() && shown.public);
        let source = shown.update_source.unwrap();
        assert_eq!(
            (source.alias.as_str(), source.protocol.as_str(), source.server.as_str()),
            ("debian/12", "streams", "https://images.example")
        );
    }

    #[test]
    fn sizes_are_added_where_they_are_known() {
        let size = |files: Vec<ImageFile>| show(SourceImage { files, ..image() }, "s", &query()).size;
        assert_eq!(size(Vec::new()), -1);
        assert_eq!(size(vec![file(Some(5)), file(Some(6))]), 11);
        assert_eq!(size(vec![file(Some(5)), file(None)]), -1);
        assert_eq!(size(vec![file(Some(i64::MAX as u64)), file(Some(1))]), -1);
        assert_eq!(size(vec![file(Some(u64::MAX))]), -1);
    }

    #[test]
    fn what_is_counted_is_no_less_than_what_is_written() {
        let hostile = SourceImage {
            aliases: vec!["\"\\\u{1}".repeat(80), String::new()],
            properties: [("\u{7f}é\u{2028}\n".to_owned(), "\u{1}".repeat(1000))].into(),
            kind: "virtual-machine".to_owned(),
            architecture: "a".repeat(32),
            ..image()
        };
        for image in [image(), hostile] {
            let counted = written(&image, &query());
            let shown = show(image, "streams", &query());
            let bytes = serde_json::to_vec(&shown).unwrap().len();
            assert!(counted >= bytes, "{counted} are counted of {bytes}");
        }
    }
}

//! What a case is and how it can end.

use std::pin::Pin;

use hutch_driver::DriverError;

use crate::Stand;

/// Why a case did not pass.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// The driver did not do what it must.
    #[error("{0}")]
    Fail(String),
    /// The case can't be shown here, and why.
    #[error("{0}")]
    Skip(String),
}

/// What a case's function answers with.
pub type Outcome<T = ()> = Result<T, Stop>;

/// What a driver answered, with the call in words when it is an error.
pub type Answer<T = ()> = Result<T, Refused>;

/// A call that the driver answered with an error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{call} failed with {code}: {error}", code = error.code)]
pub struct Refused {
    /// The call as a person would write it: `volume.create(container c1)`.
    pub call: String,
    /// What the driver said.
    #[source]
    pub error: Box<DriverError>,
}

/// A driver's answer, with the name of the call in case that it is an error.
pub fn named<T>(answer: Result<T, DriverError>, call: impl FnOnce() -> String) -> Answer<T> {
    answer.map_err(|error| Refused {
        call: call(),
        error: Box::new(error),
    })
}

impl From<Refused> for Stop {
    fn from(refused: Refused) -> Self {
        Self::Fail(refused.to_string())
    }
}

/// A failure with this reason.
pub fn fail<T>(reason: impl Into<String>) -> Outcome<T> {
    Err(Stop::Fail(reason.into()))
}

/// Leaves a case out for this reason.
pub fn skip<T>(reason: impl Into<String>) -> Outcome<T> {
    Err(Stop::Skip(reason.into()))
}

/// Fails with `reason` unless `holds`.
pub fn ensure(holds: bool, reason: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { fail(reason()) }
}

/// Fails unless the driver refused with one of `codes`. `what` says what was asked of it.
pub fn refused<T>(answer: Answer<T>, codes: &[&str], what: &str) -> Outcome {
    let wanted = || codes.join(" or ");
    match answer {
        Ok(_) => fail(format!("{what} succeeded; it must fail with {}", wanted())),
        Err(refused) if codes.contains(&refused.error.code.as_str()) => well_said(&refused),
        Err(refused) => fail(format!("{what} must fail with {}: {refused}", wanted())),
    }
}

/// Holds an error's message against what docs/wit.md asks of one: it is there, on one line, and ends without a full stop.
fn well_said(refused: &Refused) -> Outcome {
    let message = &refused.error.message;
    ensure(!message.trim().is_empty() && !message.ends_with('.'), || {
        format!(
            "{}: the message {message:?} is not a sentence without a full stop",
            refused.call
        )
    })
}

type Run = Box<dyn for<'a> Fn(&'a Stand) -> Pin<Box<dyn Future<Output = Outcome> + Send + 'a>> + Send + Sync>;

/// One case.
pub struct Case {
    /// `family.interface.function.what`: stays the same.
    pub id: String,
    /// One sentence.
    pub proves: String,
    run: Run,
}

impl Case {
    /// A case that runs `run`.
    pub fn new<F>(id: impl Into<String>, proves: impl Into<String>, run: F) -> Self
    where
        F: for<'a> Fn(&'a Stand) -> Pin<Box<dyn Future<Output = Outcome> + Send + 'a>> + Send + Sync + 'static,
    {
        Self {
            id: id.into(),
            proves: proves.into(),
            run: Box::new(run),
        }
    }

    /// Runs it.
    pub async fn run(&self, stand: &Stand) -> Verdict {
        match (self.run)(stand).await {
            Ok(()) => Verdict::Passed,
            Err(Stop::Fail(reason)) => Verdict::Failed(reason),
            Err(Stop::Skip(reason)) => Verdict::Skipped(reason),
        }
    }
}

/// How a case ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The driver does what the case asks.
    Passed,
    /// It does not, and what it does instead.
    Failed(String),
    /// The case could not be shown, and why.
    Skipped(String),
}

/// Makes cases of `id: "sentence" => function` lines; the functions are `async fn(&Stand) -> Outcome`.
macro_rules! cases {
    ($($id:literal: $proves:literal => $run:path;)+) => {
        vec![$($crate::Case::new($id, $proves, |stand| Box::pin($run(stand))),)+]
    };
}
pub(crate) use cases;

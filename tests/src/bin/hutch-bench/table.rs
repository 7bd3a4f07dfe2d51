//! Figures, and the table of them.

use crate::Side;
use anyhow::Result;
use std::fmt::Write as _;
use std::time::Duration;

/// In what a figure is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Milliseconds,
    Microseconds,
    Mebibytes,
    PerSecond,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::Microseconds => "µs",
            Self::Mebibytes => "MiB",
            Self::PerSecond => "/s",
        }
    }
}

/// What is promised.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    /// No more than this, in the figure's unit.
    AtMost(f64),
    /// At least so many times the peer's figure.
    Times(f64),
}

/// The values of one figure from one daemon.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples {
    values: Vec<f64>,
    p99: Option<f64>,
}

impl Samples {
    /// Values of which only the median and the 99th percentile are known.
    pub(crate) fn summary(median: f64, p99: f64) -> Self {
        Self {
            values: vec![median],
            p99: Some(p99),
        }
    }

    pub(crate) fn push(&mut self, value: f64) {
        self.values.push(value);
    }

    /// Adds a time, in milliseconds.
    pub(crate) fn push_time(&mut self, time: Duration) {
        self.values.push(time.as_secs_f64() * 1e3);
    }

    fn sorted(&self) -> Vec<f64> {
        let mut values = self.values.clone();
        values.sort_by(f64::total_cmp);
        values
    }

    /// The middle value; the lower one of two.
    pub(crate) fn median(&self) -> Option<f64> {
        let values = self.sorted();
        values.get(values.len().saturating_sub(1) / 2).copied()
    }

    fn worst(&self) -> Option<f64> {
        self.sorted().last().copied()
    }

    fn shown(&self, unit: Unit) -> String {
        match (self.median(), self.worst()) {
            (Some(median), _) if self.p99.is_some() => {
                let p99 = self.p99.map(digits).unwrap_or_default();
                format!("{} {} (p99 {p99})", digits(median), unit.name())
            }
            (Some(median), Some(worst)) if self.values.len() > 1 => {
                format!(
                    "{} {} (worst {} of {})",
                    digits(median),
                    unit.name(),
                    digits(worst),
                    self.values.len()
                )
            }
            (Some(median), _) => format!("{} {}", digits(median), unit.name()),
            _ => "not measured".to_owned(),
        }
    }
}

/// Three digits that say something.
fn digits(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// One figure of both daemons.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    name: String,
    unit: Unit,
    goal: Goal,
    pub(crate) hutch: Samples,
    pub(crate) peer: Samples,
}

impl Row {
    pub(crate) fn new(name: impl Into<String>, unit: Unit, goal: Goal) -> Self {
        Self {
            name: name.into(),
            unit,
            goal,
            hutch: Samples::default(),
            peer: Samples::default(),
        }
    }

    pub(crate) fn of(&mut self, side: Side) -> &mut Samples {
        match side {
            Side::Hutch => &mut self.hutch,
            Side::Peer => &mut self.peer,
        }
    }

    /// How many times better Hutch is.
    fn ratio(&self) -> Option<f64> {
        let (hutch, peer) = (self.hutch.median()?, self.peer.median()?);
        Some(if self.unit == Unit::PerSecond {
            hutch / peer
        } else {
            peer / hutch
        })
    }

    fn reached(&self) -> &'static str {
        let verdict = match self.goal {
            Goal::AtMost(limit) => self.hutch.median().map(|value| value <= limit),
            Goal::Times(times) => self.ratio().map(|ratio| ratio >= times),
        };
        match verdict {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "-",
        }
    }

    fn goal(&self) -> String {
        match self.goal {
            Goal::AtMost(limit) => format!("at most {limit} {}", self.unit.name()),
            Goal::Times(times) => format!("{times} times the peer"),
        }
    }
}

/// The table of all figures, with a line about the machine and the day.
pub(crate) fn markdown(rows: &[Row], peer: Option<&str>) -> Result<String> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = hutch_tests::sandbox::must("uname", &["-srm"])?;
    let day = hutch_tests::sandbox::must("date", &["--utc", "+%Y-%m-%d"])?;
    let mut text = format!(
        "Measured on {}, {}, {processors} processors. Medians.\n\n",
        day.trim(),
        kernel.trim()
    );
    let peer_title = peer.map_or_else(
        || "peer (not installed)".to_owned(),
        |version| format!("Incus {version}"),
    );
    writeln!(text, "| what | Hutch | {peer_title} | ratio | to reach | reached |")?;
    writeln!(text, "|---|---|---|---|---|---|")?;
    for row in rows {
        let peer = if row.peer.median().is_some() {
            row.peer.shown(row.unit)
        } else {
            "-".to_owned()
        };
        let ratio = row
            .ratio()
            .map_or_else(|| "-".to_owned(), |ratio| format!("{}\u{d7}", digits(ratio)));
        writeln!(
            text,
            "| {} | {} | {peer} | {ratio} | {} | {} |",
            row.name,
            row.hutch.shown(row.unit),
            row.goal(),
            row.reached()
        )?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(unit: Unit, goal: Goal, hutch: &[f64], peer: &[f64]) -> Row {
        let mut row = Row::new("figure", unit, goal);
        row.hutch.values = hutch.to_vec();
        row.peer.values = peer.to_vec();
        row
    }

    #[test]
    fn less_is_better_for_times_and_more_for_rates() {
        let time = row(Unit::Milliseconds, Goal::AtMost(5.0), &[9.0, 2.0, 3.0], &[30.0]);
        assert_eq!(time.ratio(), Some(10.0));
        assert_eq!(time.reached(), "yes");
        let rate = row(Unit::PerSecond, Goal::Times(10.0), &[30.0], &[6.0]);
        assert_eq!(rate.ratio(), Some(5.0));
        assert_eq!(rate.reached(), "**no**");
    }

    #[test]
    fn what_was_not_measured_is_not_judged() {
        let alone = row(Unit::PerSecond, Goal::Times(10.0), &[30.0], &[]);
        assert_eq!(alone.reached(), "-");
        assert_eq!(alone.peer.shown(Unit::PerSecond), "not measured");
    }
}

//! Metrics as text: OpenMetrics 1.0 (<https://prometheus.io/docs/specs/om/open_metrics_spec/>), and the older format of Prometheus
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>) for whoever does not ask for the former.
//!
//! The two differ in what they call a counter's family (its samples end in `_total` in both), in the kinds that they know, and in how
//! a help text is escaped. The samples are the same.

use std::fmt::{self, Write as _};
use std::time::Duration;

/// Which of the two formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus's text format 0.0.4.
    Plain,
}

impl Format {
    /// What a client takes, by its header `Accept` (RFC 9110, section 12.5.1): OpenMetrics where it is named and not refused by a weight
    /// of nothing, and the format that everybody can read otherwise.
    pub fn accepted(accept: &str) -> Self {
        let wanted = accept.split(',').any(|range| {
            let mut parts = range.split(';').map(str::trim);
            let named = parts
                .next()
                .is_some_and(|kind| kind.eq_ignore_ascii_case("application/openmetrics-text"));
            let refused = |part: &str| {
                let weight = part.strip_prefix("q=").or_else(|| part.strip_prefix("Q="));
                weight.is_some_and(|weight| weight.parse() == Ok(0.0_f32))
            };
            named && !parts.any(refused)
        });
        if wanted { Self::OpenMetrics } else { Self::Plain }
    }

    /// Its media type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Plain => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// What the samples of a family are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A number that only grows. Its samples end in `_total`.
    Counter,
    /// A number that goes up and down.
    Gauge,
    /// Labels that say something, with the number 1. Its samples end in `_info`.
    Info,
    /// How often and how much, in samples that end in `_count` and `_sum`.
    Summary,
    /// The same, and in samples that end in `_bucket` how often up to the number in the label `le`, the last of which is `+Inf`.
    Histogram,
}

/// A number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// One that is not negative.
    Count(u64),
    /// One that may be.
    Level(i64),
    /// A time, which is written in seconds.
    Time(Duration),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => count.fmt(f),
            Self::Level(level) => level.fmt(f),
            Self::Time(time) => match time.subsec_nanos() {
                0 => time.as_secs().fmt(f),
                nanos => {
                    let digits = format!("{nanos:09}");
                    write!(f, "{}.{}", time.as_secs(), digits.trim_end_matches('0'))
                }
            },
        }
    }
}

impl From<u64> for Value {
    fn from(count: u64) -> Self {
        Self::Count(count)
    }
}

impl From<i64> for Value {
    fn from(level: i64) -> Self {
        Self::Level(level)
    }
}

impl From<Duration> for Value {
    fn from(time: Duration) -> Self {
        Self::Time(time)
    }
}

/// Metrics that are being written.
#[derive(Debug)]
pub struct Exposition {
    format: Format,
    text: String,
}

impl Exposition {
    /// Nothing yet.
    pub fn new(format: Format) -> Self {
        Self {
            format,
            text: String::new(),
        }
    }

    /// Begins a family. Its name is one of Prometheus's (`[a-zA-Z_][a-zA-Z0-9_]*`), without the endings that its samples have by its
    /// kind, and is there once.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> Family<'_> {
        let word = match (self.format, kind) {
            (_, Kind::Counter) => "counter",
            (_, Kind::Gauge) | (Format::Plain, Kind::Info) => "gauge",
            (_, Kind::Summary) => "summary",
            (_, Kind::Histogram) => "histogram",
            (Format::OpenMetrics, Kind::Info) => "info",
        };
        let called = match (self.format, kind) {
            (Format::Plain, Kind::Counter) => "_total",
            (Format::Plain, Kind::Info) => "_info",
            _ => "",
        };
        let quotes = self.format == Format::OpenMetrics;
        self.text.push_str("# HELP ");
        self.text.push_str(name);
        self.text.push_str(called);
        self.text.push(' ');
        escape(&mut self.text, help, quotes);
        // Writing to a text does not fail.
        let _ = writeln!(self.text, "\n# TYPE {name}{called} {word}");
        Family {
            text: &mut self.text,
            name,
            kind,
        }
    }

    /// The whole text, with the line that says that it is whole.
    pub fn finish(mut self) -> String {
        self.text.push_str("# EOF\n");
        self.text
    }
}

/// A family whose samples are being written.
#[derive(Debug)]
pub struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
    kind: Kind,
}

impl Family<'_> {
    /// A sample of a counter, a gauge or an information. No two have the same labels.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Into<Value>) {
        let ending = match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Summary | Kind::Histogram => "",
        };
        self.line(ending, labels, &[], value.into());
    }

    /// The two samples of a summary: how often, and how long altogether.
    pub fn summary(&mut self, labels: &[(&str, &str)], count: u64, sum: Duration) {
        self.line("_count", labels, &[], Value::Count(count));
        self.line("_sum", labels, &[], Value::Time(sum));
    }

    /// All samples of a histogram: `counts` has how many were up to each of `bounds` and above the one before it, and one more
    /// number for what is above the last.
    pub fn histogram(&mut self, labels: &[(&str, &str)], bounds: &[Duration], counts: &[u64], sum: Duration) {
        let mut seen = 0_u64;
        for (bound, count) in bounds.iter().zip(counts) {
            seen = seen.saturating_add(*count);
            self.line("_bucket", labels, &[("le", &bucket(*bound))], Value::Count(seen));
        }
        let rest = counts.iter().skip(bounds.len());
        let all = rest.fold(seen, |all, count| all.saturating_add(*count));
        self.line("_bucket", labels, &[("le", "+Inf")], Value::Count(all));
        self.line("_count", labels, &[], Value::Count(all));
        self.line("_sum", labels, &[], Value::Time(sum));
    }

    fn line(&mut self, ending: &str, labels: &[(&str, &str)], more: &[(&str, &str)], value: Value) {
        self.text.push_str(self.name);
        self.text.push_str(ending);
        let mut before = '{';
        for (name, value) in labels.iter().chain(more) {
            self.text.push(before);
            self.text.push_str(name);
            self.text.push_str("=\"");
            escape(self.text, value, true);
            self.text.push('"');
            before = ',';
        }
        if before == ',' {
            self.text.push('}');
        }
        // Writing to a text does not fail.
        let _ = writeln!(self.text, " {value}");
    }
}

/// A bound as OpenMetrics wants them written, with a point (section "Considerations: Canonical Numbers").
fn bucket(bound: Duration) -> String {
    match bound.subsec_nanos() {
        0 => format!("{}.0", bound.as_secs()),
        _ => Value::Time(bound).to_string(),
    }
}

/// A text in which nothing ends a line or, where they matter, a quotation.
fn escape(to: &mut String, text: &str, quotes: bool) {
    for c in text.chars() {
        match c {
            '\\' => to.push_str("\\\\"),
            '\n' => to.push_str("\\n"),
            '"' if quotes => to.push_str("\\\""),
            c => to.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(format: Format) -> String {
        let mut all = Exposition::new(format);
        let mut calls = all.family("x_calls", Kind::Counter, "Calls of \"x\".");
        calls.sample(&[("name", "a\"b\\c\nd"), ("code", "ü")], 3_u64);
        calls.sample(&[], u64::MAX);
        all.family("x_level", Kind::Gauge, "Levels\\\nof x.")
            .sample(&[("a", "")], -1_i64);
        all.family("x", Kind::Info, "What x is.")
            .sample(&[("version", "1")], 1_u64);
        all.family("x_seconds", Kind::Histogram, "Times.").histogram(
            &[("a", "b")],
            &[Duration::from_micros(50), Duration::from_secs(60)],
            &[2, 1, 4],
            Duration::from_nanos(1_500_000_001),
        );
        all.finish()
    }

    #[test]
    fn openmetrics_is_written_as_its_specification_has_it() {
        assert_eq!(
            all(Format::OpenMetrics),
            concat!(
                "# HELP x_calls Calls of \\\"x\\\".\n# TYPE x_calls counter\n",
                "x_calls_total{name=\"a\\\"b\\\\c\\nd\",code=\"ü\"} 3\nx_calls_total 18446744073709551615\n",
                "# HELP x_level Levels\\\\\\nof x.\n# TYPE x_level gauge\nx_level{a=\"\"} -1\n",
                "# HELP x What x is.\n# TYPE x info\nx_info{version=\"1\"} 1\n",
                "# HELP x_seconds Times.\n# TYPE x_seconds histogram\n",
                "x_seconds_bucket{a=\"b\",le=\"0.00005\"} 2\nx_seconds_bucket{a=\"b\",le=\"60.0\"} 3\n",
                "x_seconds_bucket{a=\"b\",le=\"+Inf\"} 7\nx_seconds_count{a=\"b\"} 7\nx_seconds_sum{a=\"b\"} 1.500000001\n",
                "# EOF\n",
            )
        );
    }

    #[test]
    fn the_older_format_names_families_as_their_samples() {
        let text = all(Format::Plain);
        for line in [
            "# HELP x_calls_total Calls of \"x\".\n# TYPE x_calls_total counter\n",
            "# TYPE x_info gauge\nx_info{version=\"1\"} 1\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }

    #[test]
    fn who_asks_for_openmetrics_gets_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.2";
        assert_eq!(Format::accepted(prometheus), Format::OpenMetrics);
        for other in ["", "*/*", "text/plain", "application/openmetrics-text; q=0, text/plain"] {
            assert_eq!(Format::accepted(other), Format::Plain, "{other}");
        }
    }

    #[test]
    fn times_are_seconds() {
        let text = |time| Value::Time(time).to_string();
        assert_eq!(text(Duration::ZERO), "0");
        assert_eq!(text(Duration::from_millis(1200)), "1.2");
        assert_eq!(text(Duration::from_nanos(1)), "0.000000001");
    }
}

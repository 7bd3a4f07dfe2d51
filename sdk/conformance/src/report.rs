//! What came of a run: for people, for programs, and for what collects the results of tests.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use crate::case::Verdict;

/// What came of one case.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Result {
    /// The case's id.
    pub id: String,
    /// What it proves.
    pub proves: String,
    /// `passed`, `failed`, `skipped`.
    pub verdict: &'static str,
    /// Why it failed or was skipped; empty for what passed.
    pub reason: String,
    /// How long it took, in seconds.
    pub seconds: f64,
}

impl Result {
    /// The result of a case that took so long.
    pub fn new(id: &str, proves: &str, verdict: Verdict, time: Duration) -> Self {
        let (verdict, reason) = match verdict {
            Verdict::Passed => ("passed", String::new()),
            Verdict::Failed(reason) => ("failed", reason),
            Verdict::Skipped(reason) => ("skipped", reason),
        };
        Self {
            id: id.to_owned(),
            proves: proves.to_owned(),
            verdict,
            reason,
            seconds: time.as_secs_f64(),
        }
    }

    /// The result as a line or two of text.
    pub fn line(&self) -> String {
        let mark = match self.verdict {
            "passed" => "ok  ",
            "failed" => "FAIL",
            _ => "skip",
        };
        let milliseconds = self.seconds * 1000.0;
        let reason = if self.reason.is_empty() {
            String::new()
        } else {
            format!("\n       {}", self.reason)
        };
        format!("{mark}  {:<44} {} ({milliseconds:.0} ms){reason}", self.id, self.proves)
    }
}

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The plugin's id.
    pub plugin: String,
    /// Its version.
    pub version: String,
    /// Of its file.
    pub sha256: String,
    /// The driver that was tried, as `family/name`.
    pub driver: String,
    /// The file system or other surroundings of the run.
    pub surroundings: String,
    /// In the order in which they were run.
    pub results: Vec<Result>,
}

impl Report {
    /// How many ended so: `passed`, `failed`, `skipped`.
    pub fn count(&self, verdict: &str) -> usize {
        self.results.iter().filter(|result| result.verdict == verdict).count()
    }

    /// The last line for people.
    pub fn summary(&self) -> String {
        let (passed, failed, skipped) = (self.count("passed"), self.count("failed"), self.count("skipped"));
        let seconds: f64 = self.results.iter().map(|result| result.seconds).sum();
        format!(
            "{} {} on {}: {passed} passed, {failed} failed, {skipped} skipped in {seconds:.1} s",
            self.driver, self.version, self.surroundings
        )
    }

    /// As a JSON document.
    ///
    /// # Errors
    /// None in practice: everything in it is text and numbers.
    pub fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }

    /// As the XML that JUnit writes, which what runs tests for people can read.
    pub fn junit(&self) -> String {
        let seconds: f64 = self.results.iter().map(|result| result.seconds).sum();
        let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        // Writing to a text does not fail.
        let _ = writeln!(
            xml,
            "<testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" errors=\"0\" skipped=\"{}\" time=\"{seconds:.3}\">",
            escaped(&format!("{} {} on {}", self.plugin, self.version, self.surroundings)),
            self.results.len(),
            self.count("failed"),
            self.count("skipped"),
        );
        for result in &self.results {
            let (suite, name) = result.id.rsplit_once('.').unwrap_or(("", &result.id));
            let _ = write!(
                xml,
                "  <testcase classname=\"{}\" name=\"{}\" time=\"{:.3}\"",
                escaped(suite),
                escaped(name),
                result.seconds
            );
            let _ = match result.verdict {
                "failed" => writeln!(xml, "><failure message=\"{}\"/></testcase>", escaped(&result.reason)),
                "skipped" => writeln!(xml, "><skipped message=\"{}\"/></testcase>", escaped(&result.reason)),
                _ => writeln!(xml, "/>"),
            };
        }
        xml.push_str("</testsuite>\n");
        xml
    }
}

/// A text as the value of an attribute of XML 1.0, without the characters that it has no way to write (section 2.2).
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#10;"),
            '\t' => out.push_str("&#9;"),
            '\u{FFFE}' | '\u{FFFF}' => out.push('\u{FFFD}'),
            c if c.is_control() => out.push('\u{FFFD}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let result = |id: &str, verdict| Result::new(id, "it is so", verdict, Duration::from_millis(5));
        Report {
            plugin: "org.example.x".into(),
            version: "1.0.0".into(),
            sha256: "00".into(),
            driver: "storage/x".into(),
            surroundings: "tmpfs".into(),
            results: vec![
                result("storage.pool.create.idempotent", Verdict::Passed),
                result("storage.quota.set.enforced", Verdict::Skipped("no quotas".into())),
                result(
                    "storage.pool.open.unknown",
                    Verdict::Failed("\"a\" <b>\n& \u{1}c".into()),
                ),
            ],
        }
    }

    #[test]
    fn a_failure_counts_and_says_why() {
        let report = report();
        assert_eq!(
            (report.count("passed"), report.count("failed"), report.count("skipped")),
            (1, 1, 1)
        );
        assert!(report.summary().contains("1 passed, 1 failed, 1 skipped"));
        assert!(report.results[2].line().starts_with("FAIL  storage.pool.open.unknown"));
    }

    #[test]
    fn what_a_driver_says_can_t_break_the_xml() {
        let xml = report().junit();
        assert!(
            xml.contains("tests=\"3\" failures=\"1\" errors=\"0\" skipped=\"1\""),
            "{xml}"
        );
        assert!(xml.contains("<testcase classname=\"storage.pool.create\" name=\"idempotent\" time=\"0.005\"/>"));
        assert!(xml.contains("&quot;a&quot; &lt;b&gt;&#10;&amp; \u{FFFD}c"), "{xml}");
    }
}

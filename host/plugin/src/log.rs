//! What plugins log: the last lines of each are kept, and those of a call go into its error.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

use hutch_broker::{LogLevel, LogSink};

use crate::sync::Mutex;

/// Lines of a plugin that are kept.
pub const KEPT_LINES: usize = 50;
/// Lines of one call that its error carries.
const CALL_LINES: usize = 8;
/// Lines that one call may log. The rest is counted and dropped, so that a guest in a loop does not fill the daemon's log.
pub(crate) const MAX_CALL_LINES: u32 = 500;
/// Bytes of a line.
const MAX_LINE: usize = 2048;

/// A line that a plugin logged.
#[derive(Clone, Debug)]
pub struct LogLine {
    /// When.
    pub time: SystemTime,
    /// How serious.
    pub level: LogLevel,
    /// The object that the call was for, empty for what belongs to none.
    pub object: String,
    /// The message with its fields.
    pub text: String,
}

/// The last lines of one plugin.
#[derive(Debug)]
pub(crate) struct PluginLog {
    plugin: String,
    lines: Mutex<VecDeque<LogLine>>,
}

impl PluginLog {
    pub(crate) fn new(plugin: &str) -> Self {
        Self {
            plugin: plugin.to_owned(),
            lines: Mutex::new(VecDeque::with_capacity(KEPT_LINES)),
        }
    }

    /// The kept lines, oldest first.
    pub(crate) fn lines(&self) -> Vec<LogLine> {
        self.lines.lock().iter().cloned().collect()
    }

    fn push(&self, level: LogLevel, object: &str, text: String) {
        let (plugin, line) = (self.plugin.as_str(), text.as_str());
        match level {
            LogLevel::Trace => tracing::trace!(target: "plugin", plugin, object, "{line}"),
            LogLevel::Debug => tracing::debug!(target: "plugin", plugin, object, "{line}"),
            LogLevel::Info => tracing::info!(target: "plugin", plugin, object, "{line}"),
            LogLevel::Warn => tracing::warn!(target: "plugin", plugin, object, "{line}"),
            LogLevel::Error => tracing::error!(target: "plugin", plugin, object, "{line}"),
        }
        // What only serves to find faults would push out what an operator is looking for.
        if level <= LogLevel::Debug && !tracing::enabled!(target: "plugin", tracing::Level::DEBUG) {
            return;
        }
        let mut lines = self.lines.lock();
        if lines.len() == KEPT_LINES {
            lines.pop_front();
        }
        lines.push_back(LogLine {
            time: SystemTime::now(),
            level,
            object: object.to_owned(),
            text,
        });
    }
}

/// The log of one call: a view of the plugin's that remembers what came of this call.
#[derive(Debug)]
pub(crate) struct CallLog {
    plugin: Arc<PluginLog>,
    object: String,
    call: Mutex<CallLines>,
}

#[derive(Debug, Default)]
struct CallLines {
    last: VecDeque<String>,
    seen: u32,
}

impl CallLog {
    pub(crate) fn new(plugin: Arc<PluginLog>, object: &str) -> Self {
        Self {
            plugin,
            object: object.to_owned(),
            call: Mutex::new(CallLines::default()),
        }
    }

    /// The last lines of this call, oldest first.
    pub(crate) fn last_lines(&self) -> Vec<String> {
        self.call.lock().last.iter().cloned().collect()
    }

    fn line(&self, level: LogLevel, text: String) {
        {
            let mut call = self.call.lock();
            call.seen += 1;
            if call.seen == MAX_CALL_LINES {
                drop(call);
                self.plugin.push(
                    LogLevel::Warn,
                    &self.object,
                    "too many lines in one call, the rest is dropped".into(),
                );
                return;
            }
            if call.seen > MAX_CALL_LINES {
                return;
            }
            if call.last.len() == CALL_LINES {
                call.last.pop_front();
            }
            call.last.push_back(text.clone());
        }
        self.plugin.push(level, &self.object, text);
    }
}

impl LogSink for CallLog {
    fn write(&self, level: LogLevel, message: &str, fields: &[(String, String)]) {
        let mut text = one_line(message, MAX_LINE);
        for (name, value) in fields {
            if text.len() >= MAX_LINE {
                break;
            }
            text.push_str(&format!(" {}={}", one_line(name, 64), one_line(value, 512)));
        }
        self.line(level, text);
    }
}

/// At most `most` bytes of `text`, with control characters made harmless for a terminal and a log.
pub(crate) fn one_line(text: &str, most: usize) -> String {
    let mut line = String::with_capacity(text.len().min(most));
    for c in text.trim_end().chars() {
        if line.len() + c.len_utf8() > most {
            line.push('…');
            break;
        }
        line.push(if c.is_control() { ' ' } else { c });
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_lines_are_kept() {
        let log = Arc::new(PluginLog::new("org.example.test"));
        let call = CallLog::new(Arc::clone(&log), "pool");
        for i in 0..2000 {
            call.write(
                LogLevel::Warn,
                &format!("line {i}"),
                &[("key".to_owned(), "value\n\u{1b}[31m".to_owned())],
            );
        }
        let lines = log.lines();
        assert_eq!(lines.len(), KEPT_LINES);
        assert_eq!(
            lines.last().map(|l| l.text.as_str()),
            Some("too many lines in one call, the rest is dropped")
        );
        let last = call.last_lines();
        assert_eq!(last.len(), CALL_LINES);
        assert_eq!(last.last().map(String::as_str), Some("line 498 key=value  [31m"));
    }

    #[test]
    fn long_lines_are_cut_at_a_character() {
        assert_eq!(one_line(&"ä".repeat(2000), 5), "ää…");
        assert_eq!(one_line("a\tb\r\n", 80), "a b");
    }
}

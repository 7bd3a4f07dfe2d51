//! What every plugin may do: log, count, read its settings, report progress. Nothing here reaches anything outside, but
//! what comes from a plugin is bounded before it goes on.

use hutch_driver::DriverError;

use crate::error::{internal, invalid};
use crate::{CallContext, Request, Response};

/// Longest line of a log and longest value that goes with it, in bytes; what is longer is cut.
const MAX_LINE: usize = 8 << 10;
/// Most values with one line; the rest is dropped.
const MAX_FIELDS: usize = 32;
/// Longest name of a metric, in bytes.
const MAX_METRIC: usize = 100;
/// Longest text of progress, in bytes; what is longer is cut.
const MAX_STAGE: usize = 200;

/// Does a `log`, `metric`, `config` or `progress` request.
pub(crate) fn call(cx: &CallContext, request: Request) -> Result<Response, DriverError> {
    match request {
        Request::Log {
            level,
            message,
            mut fields,
        } => {
            fields.truncate(MAX_FIELDS);
            let fields: Vec<_> = fields
                .iter()
                .map(|(k, v)| (clean(k, MAX_METRIC), clean(v, MAX_LINE)))
                .collect();
            cx.log.write(level, &clean(&message, MAX_LINE), &fields);
            Ok(Response::Unit)
        }
        Request::MetricCount { name, delta } => {
            check_metric(&name)?;
            cx.metrics.count(&name, delta);
            Ok(Response::Unit)
        }
        Request::MetricGauge { name, value } => {
            check_metric(&name)?;
            cx.metrics.gauge(&name, value);
            Ok(Response::Unit)
        }
        Request::ConfigGet { key } => Ok(Response::Text(cx.subject.config.get(&key).cloned())),
        Request::ProgressReport { stage, done, total } => {
            cx.call.progress.report(&clean(&stage, MAX_STAGE), done, total);
            Ok(Response::Unit)
        }
        Request::Cancelled => Ok(Response::Bool(cx.call.cancel.is_cancelled())),
        other => Err(internal(format!("{} is not known to this broker", other.function()))),
    }
}

/// Cuts `text` at a character's boundary and takes control characters out, which could forge lines or move a terminal.
fn clean(text: &str, max: usize) -> String {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let cut = text.get(..end).unwrap_or_default();
    cut.chars()
        .map(|c| if c.is_control() && c != '\t' { ' ' } else { c })
        .collect()
}

/// Names as Prometheus has them, without colons.
fn check_metric(name: &str) -> Result<(), DriverError> {
    let good = name.len() <= MAX_METRIC
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if good {
        Ok(())
    } else {
        Err(invalid(format!(
            "{name:?} is not the name of a metric: [a-z][a-z0-9_]*"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_and_cleaned() {
        assert_eq!(clean("a\nb\u{1b}[2Jc\td", 100), "a b [2Jc\td");
        assert_eq!(clean("äöü", 3), "ä");
    }

    #[test]
    fn metric_names_are_checked() {
        assert!(check_metric("leases_total").is_ok());
        for bad in ["", "A", "1a", "a b", "a{}", &"a".repeat(101)] {
            assert!(check_metric(bad).is_err(), "{bad:?}");
        }
    }
}

//! `plugin top`: what plugins do at this moment, from two listings of their counters.

use std::time::{Duration, Instant};

use clap::Args;
use hutch_api::plugin::{Plugin, PluginMetrics};
use serde::Serialize;

use super::all;
use crate::context::{Context, Target};
use crate::error::{Error, Result};
use crate::output::{self, Format, FormatArg, Table};
use crate::terminal;

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// The daemon
    #[arg(value_name = "REMOTE:")]
    remote: Option<String>,
    /// Seconds between two looks
    #[arg(short, long, value_name = "SECONDS", default_value = "1", value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
    /// Print one table and end, as without a terminal
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    format: FormatArg,
}

/// What a plugin did between two looks.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Row {
    /// Its id.
    plugin: String,
    /// `enabled`, `quarantined`, …
    state: String,
    /// Calls that ended, a second.
    calls_per_second: f64,
    /// Median time of these, in microseconds; nothing without calls. It is the upper bound of the daemon's bucket.
    p50_us: Option<u64>,
    /// The time that 99 of 100 of these stay under.
    p99_us: Option<u64>,
    /// Processor time of its guests, in percent of one processor.
    guest_percent: f64,
    /// Calls that are being made now.
    running: u64,
    /// Time that the calls that ended waited for their turn, in microseconds a call.
    queue_us: u64,
    /// Calls that failed, since the daemon began.
    errors: u64,
    /// The most linear memory that one of its instances had, in bytes.
    memory_peak: u64,
    /// Bytes that it may have.
    memory_limit: u64,
    /// Faults that count towards a quarantine.
    recent_faults: u64,
}

/// Prints the table, again and again on a terminal.
pub(crate) async fn top(ctx: &Context, args: TopArgs) -> Result<()> {
    let target = ctx.daemon(args.remote.as_deref())?;
    let interval = Duration::from_secs(args.interval);
    let mut before = look(&target).await?;
    let live = !args.once && args.format.format == Format::Table && terminal::stdout_is_terminal();
    loop {
        tokio::time::sleep(interval).await;
        let now = look(&target).await?;
        let rows = rows(&before, &now);
        if !live {
            return output::print_list(args.format.format, &rows, table);
        }
        output::write_out(screen(&table(&rows).bordered()).as_bytes())?;
        before = now;
    }
}

/// The counters at a moment.
struct Look {
    at: Instant,
    plugins: Vec<Plugin>,
}

async fn look(target: &Target) -> Result<Look> {
    let plugins = all(target).await?;
    if plugins
        .iter()
        .any(|plugin| !has_figures(plugin) && !plugin.id.is_empty() && plugin.state != "failed")
    {
        return Err(Error::usage(
            "this daemon is too old for it: it does not tell how long calls take",
        ));
    }
    Ok(Look {
        at: Instant::now(),
        plugins,
    })
}

/// Whether there is anything to tell of it: of a file that is no plugin, or that was refused for another with its id, there is not.
fn has_figures(plugin: &Plugin) -> bool {
    !plugin.id.is_empty() && !plugin.metrics.latency.is_empty()
}

/// The busiest first.
fn rows(before: &Look, now: &Look) -> Vec<Row> {
    let seconds = now.at.duration_since(before.at).as_secs_f64().max(0.001);
    let mut rows: Vec<Row> = now
        .plugins
        .iter()
        .filter(|plugin| has_figures(plugin))
        .map(|plugin| {
            let mut before = before.plugins.iter().filter(|other| has_figures(other));
            let earlier = before.find(|other| other.id == plugin.id);
            row(plugin, earlier.map(|plugin| &plugin.metrics), seconds)
        })
        .collect();
    rows.sort_by(|a, b| {
        let busy = b.calls_per_second.total_cmp(&a.calls_per_second);
        busy.then_with(|| a.plugin.cmp(&b.plugin))
    });
    rows
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn row(plugin: &Plugin, before: Option<&PluginMetrics>, seconds: f64) -> Row {
    let none = PluginMetrics::default();
    let now = &plugin.metrics;
    // Counters that went back are those of another daemon, which began with nothing.
    let before = before.filter(|before| before.calls <= now.calls).unwrap_or(&none);
    let calls = now.calls - before.calls;
    let earlier = before.latency.iter().chain(std::iter::repeat(&0));
    let buckets: Vec<u64> = now
        .latency
        .iter()
        .zip(earlier)
        .map(|(now, before)| now.saturating_sub(*before))
        .collect();
    let guest = now.guest_us.saturating_sub(before.guest_us);
    Row {
        plugin: plugin.id.clone(),
        state: plugin.state.clone(),
        calls_per_second: calls as f64 / seconds,
        p50_us: quantile(&buckets, &now.latency_bounds_us, 50),
        p99_us: quantile(&buckets, &now.latency_bounds_us, 99),
        guest_percent: guest as f64 / 10_000.0 / seconds,
        running: now.running,
        queue_us: now
            .queue_us
            .saturating_sub(before.queue_us)
            .checked_div(calls)
            .unwrap_or(0),
        errors: now.errors.values().sum(),
        memory_peak: now.memory_peak,
        memory_limit: plugin.limits.memory,
        recent_faults: plugin.recent_faults,
    }
}

/// The upper bound of the bucket in which this per cent of the calls lie; the last bucket has none, and its lower one stands for it.
fn quantile(buckets: &[u64], bounds: &[u64], percent: u64) -> Option<u64> {
    let total: u64 = buckets.iter().sum();
    let mut seen = 0;
    let at = buckets.iter().position(|count| {
        seen += count;
        total > 0 && seen * 100 >= total * percent
    })?;
    bounds.get(at).or(bounds.last()).copied()
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new([
        "PLUGIN", "STATE", "CALLS/S", "P50", "P99", "GUEST", "RUNNING", "QUEUE", "MEMORY", "ERRORS", "FAULTS",
    ]);
    let size = |bytes: u64| output::bytes(i64::try_from(bytes).unwrap_or(i64::MAX));
    for row in rows {
        table.row(vec![
            row.plugin.clone(),
            row.state.to_uppercase(),
            format!("{:.1}", row.calls_per_second),
            row.p50_us.map_or_else(|| "-".to_owned(), output::time),
            row.p99_us.map_or_else(|| "-".to_owned(), output::time),
            format!("{:.1}%", row.guest_percent),
            row.running.to_string(),
            output::time(row.queue_us),
            format!("{} of {}", size(row.memory_peak), size(row.memory_limit)),
            row.errors.to_string(),
            row.recent_faults.to_string(),
        ]);
    }
    table
}

/// What draws a table over the one before (ECMA-48: CUP, EL and ED), so that nothing flickers.
fn screen(table: &str) -> String {
    let lines = table.lines().map(|line| format!("{line}\x1b[K\n"));
    format!("\x1b[H{}\x1b[J", lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(calls: u64, latency: &[u64]) -> Plugin {
        Plugin {
            id: "org.example.a".to_owned(),
            metrics: PluginMetrics {
                calls,
                guest_us: calls * 1_000,
                queue_us: calls * 7,
                latency: latency.to_vec(),
                latency_bounds_us: vec![50, 100],
                ..PluginMetrics::default()
            },
            ..Plugin::default()
        }
    }

    #[test]
    fn rates_are_of_what_happened_between_two_looks() {
        let (before, now) = (plugin(100, &[100, 0, 0]), plugin(120, &[100, 19, 1]));
        let row = row(&now, Some(&before.metrics), 2.0);
        assert!((row.calls_per_second - 10.0).abs() < 1e-9, "{row:?}");
        assert_eq!((row.p50_us, row.p99_us, row.queue_us), (Some(100), Some(100), 7));
        assert!((row.guest_percent - 1.0).abs() < 1e-9, "{row:?}");
    }

    #[test]
    fn a_plugin_that_was_not_called_has_no_times() {
        let same = plugin(5, &[5, 0, 0]);
        let idle = row(&same, Some(&same.metrics), 1.0);
        assert_eq!((idle.p50_us, idle.p99_us, idle.queue_us), (None, None, 0));
    }

    #[test]
    fn a_daemon_that_was_started_anew_begins_with_nothing() {
        let (before, now) = (plugin(100, &[100, 0, 0]), plugin(3, &[3, 0, 0]));
        let row = row(&now, Some(&before.metrics), 1.0);
        assert!((row.calls_per_second - 3.0).abs() < 1e-9, "{row:?}");
    }

    #[test]
    fn a_plugin_that_was_refused_is_no_row() {
        let refused = Plugin {
            id: "org.example.a".to_owned(),
            state: "failed".to_owned(),
            ..Plugin::default()
        };
        let at = Instant::now();
        let look = |calls, at| Look {
            at,
            plugins: vec![refused.clone(), plugin(calls, &[calls, 0, 0]), Plugin::default()],
        };
        let rows = rows(&look(1, at), &look(5, at + Duration::from_secs(2)));
        assert_eq!(rows.len(), 1, "{rows:?}");
        assert!((rows[0].calls_per_second - 2.0).abs() < 1e-9, "{rows:?}");
    }

    #[test]
    fn what_is_left_of_the_table_before_is_cleared() {
        assert_eq!(screen("ab\nc\n"), "\x1b[Hab\x1b[K\nc\x1b[K\n\x1b[J");
    }
}

//! Numbers and times for people.

use hutch_api::Timestamp;
use time::macros::format_description;
use time::{OffsetDateTime, UtcOffset};

/// A size with a binary unit and two digits after the point, as `12.50MiB`; -1, which is "unknown", as nothing.
pub(crate) fn bytes(count: i64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 0 {
        return String::new();
    }
    if count < 1024 {
        return format!("{count}B");
    }
    // Hundredths of the unit, in whole numbers so that nothing is lost to rounding of a float.
    let mut scale: i128 = 1024;
    let mut unit = 0;
    while i128::from(count) >= scale * 1024 && unit + 1 < UNITS.len() {
        scale *= 1024;
        unit += 1;
    }
    let hundredths = i128::from(count) * 100 / scale;
    format!("{}.{:02}{}", hundredths / 100, hundredths % 100, UNITS[unit])
}

/// A time with the unit that fits it, of `us` microseconds.
pub(crate) fn time(us: u64) -> String {
    match us {
        0..1_000 => format!("{us}µs"),
        1_000..1_000_000 => format!("{}.{}ms", us / 1_000, us % 1_000 / 100),
        1_000_000..120_000_000 => format!("{}.{}s", us / 1_000_000, us % 1_000_000 / 100_000),
        _ => format!("{}min", us / 60_000_000),
    }
}

fn local(at: OffsetDateTime) -> OffsetDateTime {
    UtcOffset::local_offset_at(at).map_or(at, |offset| at.to_offset(offset))
}

/// A time in the local zone to the minute, with the zone; nothing for "never".
pub(crate) fn minute(at: Timestamp) -> String {
    let Some(at) = at.get().map(local) else {
        return String::new();
    };
    let minute = format_description!("[year]/[month]/[day] [hour]:[minute]");
    // These parts exist for every time there is.
    let text = at.format(minute).unwrap_or_default();
    let offset = at.offset();
    if offset.is_utc() {
        return format!("{text} UTC");
    }
    let (hours, minutes, _) = offset.as_hms();
    let sign = if offset.is_negative() { '-' } else { '+' };
    format!("{text} {sign}{:02}{:02}", hours.unsigned_abs(), minutes.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_the_largest_unit_that_leaves_a_whole_number() {
        for (count, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1.00KiB"),
            (1536, "1.50KiB"),
            (1024 * 1024 - 1, "1023.99KiB"),
            (200 * 1024 * 1024, "200.00MiB"),
            (i64::MAX, "7.99EiB"),
            (-1, ""),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn never_is_nothing() {
        assert_eq!(minute(Timestamp::NEVER), "");
        assert!(minute(Timestamp::from_unix(86_400 * 365)).starts_with("197"));
    }

    #[test]
    fn times_have_a_fitting_unit() {
        for (us, text) in [
            (0, "0µs"),
            (999, "999µs"),
            (2_500, "2.5ms"),
            (60_000_000, "60.0s"),
            (7_200_000_000, "120min"),
        ] {
            assert_eq!(time(us), text);
        }
    }
}

//! Times in names of versions and in catalogues. No I/O here.

/// Days from 1 January 1970 to a day of the Gregorian calendar (days are counted from 1 March, so that a leap day is the
/// last of its year).
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    365 * year + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468
}

fn number(text: &str, from: usize, length: usize) -> Option<i64> {
    let part = text.get(from..from + length)?;
    part.bytes().all(|c| c.is_ascii_digit()).then(|| part.parse().ok())?
}

/// Seconds since 1970 of a day, and of an hour and minute of it where they are given; 0 for what is no date.
fn seconds(digits: &str) -> i64 {
    let date = (number(digits, 0, 4), number(digits, 4, 2), number(digits, 6, 2));
    let (Some(year), Some(month @ 1..=12), Some(day @ 1..=31)) = date else {
        return 0;
    };
    let time = (
        number(digits, 8, 2).filter(|hour| *hour < 24),
        number(digits, 10, 2).filter(|minute| *minute < 60),
    );
    let (hour, minute) = time.0.zip(time.1).unwrap_or_default();
    days(year, month, day) * 86_400 + hour * 3600 + minute * 60
}

/// The time in a version's name: `20231114`, `20231114.1`, `20231114_07:42`, `202311140742`. 0 where there is none.
pub(crate) fn of_version(name: &str) -> i64 {
    match name.split_once('_') {
        Some((date, time)) => seconds(&format!("{date}{}", time.replace(':', ""))),
        None => seconds(name.split('.').next().unwrap_or_default()),
    }
}

/// The day `2027-04-30`. 0 for anything else.
pub(crate) fn of_day(text: &str) -> i64 {
    match text.len() {
        10 => seconds(&text.replace('-', "")),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_have_times() {
        for (name, seconds) in [
            ("19700101", 0),
            ("20231114", 1_699_920_000),
            ("20231114.2", 1_699_920_000),
            ("202311142213", 1_700_000_000 - 20),
            ("20231114_22:13", 1_700_000_000 - 20),
            ("20000229", 951_782_400),
            ("latest", 0),
            ("", 0),
            ("2023é114", 0),
            ("20231399", 0),
        ] {
            assert_eq!(of_version(name), seconds, "{name}");
        }
        assert_eq!(of_day("2027-04-30"), 1_809_043_200);
        assert_eq!(of_day("never"), 0);
    }
}

//! `YYYY-MM-DD HH:MM:SS` to and from Unix seconds, as SQL tables store moments, in UTC or in the zone of the process. No
//! leap seconds.

use chrono::{DateTime, Local, MappedLocalTime, Offset as _, TimeZone as _};

const DAY_SECS: i64 = 86_400;

/// `unix_secs` as `YYYY-MM-DD HH:MM:SS` UTC. Years outside 0 to 9999 keep all their digits and their sign.
pub fn format(unix_secs: i64) -> String {
    let days = unix_secs.div_euclid(DAY_SECS);
    let secs = unix_secs.rem_euclid(DAY_SECS);
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", secs / 3600, secs / 60 % 60, secs % 60)
}

/// Unix seconds of `YYYY-MM-DD HH:MM:SS` (a `T` between, a fraction of a second and a final `Z` are accepted) or
/// `YYYY-MM-DD`, taken as UTC; `None` when it is no date.
pub fn parse(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let (date, time) = match text.split_once([' ', 'T']) {
        Some((date, time)) => (date, time.strip_suffix('Z').unwrap_or(time)),
        None => (text, "00:00:00"),
    };
    let mut date = date.splitn(3, '-');
    let (year, month, day) = (number(date.next()?)?, number(date.next()?)?, number(date.next()?)?);
    let time = time.split_once('.').map_or(time, |(whole, _)| whole);
    let mut time = time.splitn(3, ':');
    let (hour, minute, second) = (number(time.next()?)?, number(time.next()?)?, number(time.next()?)?);
    let in_range = year <= 9999 && (1..=12).contains(&month) && (1..=month_days(year, month)).contains(&day);
    if !in_range || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    Some(days(year, month, day) * DAY_SECS + hour * 3600 + minute * 60 + second)
}

/// What the clock on the wall shows at `unix_secs`, in seconds since it showed 1970-01-01 00:00:00. OpenSIPS writes moments
/// into tables by this clock (variable TZ, /etc/localtime).
pub fn wall_clock(unix_secs: i64) -> i64 {
    let offset = DateTime::from_timestamp(unix_secs, 0)
        .map_or(0, |utc| Local.offset_from_utc_datetime(&utc.naive_utc()).fix().local_minus_utc());
    unix_secs.saturating_add(i64::from(offset))
}

/// The reverse: the moment at which the clock on the wall shows that; the earlier of two, and the hour that a change of
/// summer time leaves out is read as if it had not changed.
pub fn from_wall_clock(wall_secs: i64) -> i64 {
    let Some(naive) = DateTime::from_timestamp(wall_secs, 0).map(|utc| utc.naive_utc()) else { return wall_secs };
    match Local.from_local_datetime(&naive) {
        MappedLocalTime::Single(moment) | MappedLocalTime::Ambiguous(moment, _) => moment.timestamp(),
        MappedLocalTime::None => wall_secs - (wall_clock(wall_secs - DAY_SECS) - (wall_secs - DAY_SECS)),
    }
}

fn number(text: &str) -> Option<i64> {
    let digits = !text.is_empty() && text.len() <= 4 && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

fn month_days(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 of a date of the Gregorian calendar. Years are counted from March, so that the leap day is the
/// last of its year.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day_of_year - (153 * from_march + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::{format, from_wall_clock, parse, wall_clock};

    #[test]
    fn the_clock_on_the_wall_can_be_read_back() {
        for secs in [-2_208_988_799, 0, 1_700_000_000, 1_720_000_000, 4_102_444_799] {
            assert_eq!(from_wall_clock(wall_clock(secs)), secs);
        }
        assert_eq!(from_wall_clock(i64::MAX), i64::MAX);
    }

    #[test]
    fn known_moments_are_written_and_read() {
        let table = [
            (0, "1970-01-01 00:00:00"),
            (951_782_400, "2000-02-29 00:00:00"),
            (1_700_000_000, "2023-11-14 22:13:20"),
            (-2_208_988_799, "1900-01-01 00:00:01"),
            (4_102_444_799, "2099-12-31 23:59:59"),
        ];
        for (secs, text) in table {
            assert_eq!(format(secs), text);
            assert_eq!(parse(text.as_bytes()), Some(secs));
        }
        assert_eq!(parse(b"2023-11-14T22:13:20.123Z"), Some(1_700_000_000));
        assert_eq!(parse(b"2023-11-14"), Some(1_699_920_000));
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for text in [
            "",
            "now",
            "2023-02-29 00:00:00",
            "2023-13-01",
            "2023-00-01",
            "2023-01-01 24:00:00",
            "2023-01-01 10:00",
            "-1-1-1",
            "2023-01-0a",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn reading_what_was_written_gives_the_same_moment() {
        for step in 0..20_000_i64 {
            let secs = step * 3_600_007 - 30_000_000_000;
            assert_eq!(parse(format(secs).as_bytes()), Some(secs));
        }
    }
}

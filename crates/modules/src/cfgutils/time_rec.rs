//! `check_time_rec()`: time recurrences of RFC 2445 in the `|`-separated form of OpenSIPS, local time only. Expressions
//! of several recurrences (`&`, `/`, `!`, parentheses) are understood; time zones other than the local one are not.

use chrono::{DateTime, Datelike, Local, NaiveDateTime, TimeDelta, TimeZone, Timelike};
use tandem_module::context::{Called, Context};
use tandem_module::declare::arg_text;
use tandem_script::vm::Arg;

/// Nesting of parentheses and negations that is accepted.
pub(crate) const DEPTH_MAX: usize = 16;

/// `check_time_rec(recurrence[, timestamp])`.
pub(super) fn check(_: &mut Context, args: &[Arg]) -> Called {
    let Some(text) = arg_text(args, 0).and_then(|text| std::str::from_utf8(text).ok()) else { return Called::Done(-3) };
    let moment = match arg_text(args, 1).filter(|stamp| !stamp.is_empty()) {
        None => Some(crate::core::local_now()),
        Some(stamp) => std::str::from_utf8(stamp)
            .ok()
            .and_then(|stamp| stamp.trim().parse().ok())
            .and_then(crate::core::local_time),
    };
    let Some(moment) = moment else { return Called::Done(-2) };
    match Expression::new(text).evaluate(&moment) {
        Some(true) => Called::Done(1),
        Some(false) => Called::Done(-1),
        None => Called::Done(-2),
    }
}

/// Whether a moment lies in a recurrence, or in an expression of several; `None` for a text that is none.
pub(crate) fn contains(text: &str, moment: &DateTime<Local>) -> Option<bool> {
    Expression::new(text).evaluate(moment)
}

struct Expression<'a> {
    rest: &'a str,
}

impl<'a> Expression<'a> {
    fn new(text: &'a str) -> Expression<'a> {
        Expression { rest: text.trim() }
    }

    fn evaluate(mut self, moment: &DateTime<Local>) -> Option<bool> {
        let value = self.chain(moment, 0)?;
        self.rest.trim().is_empty().then_some(value)
    }

    /// Terms joined by `&` and `/`, left to right.
    fn chain(&mut self, moment: &DateTime<Local>, depth: usize) -> Option<bool> {
        let mut value = self.term(moment, depth)?;
        loop {
            self.rest = self.rest.trim_start();
            if let Some(rest) = self.rest.strip_prefix('&') {
                self.rest = rest;
                value &= self.term(moment, depth)?;
            } else if let Some(rest) = self.rest.strip_prefix('/') {
                self.rest = rest;
                value |= self.term(moment, depth)?;
            } else {
                return Some(value);
            }
        }
    }

    fn term(&mut self, moment: &DateTime<Local>, depth: usize) -> Option<bool> {
        if depth > DEPTH_MAX {
            return None;
        }
        self.rest = self.rest.trim_start();
        if let Some(rest) = self.rest.strip_prefix('!') {
            self.rest = rest;
            return self.term(moment, depth + 1).map(|value| !value);
        }
        if let Some(rest) = self.rest.strip_prefix('(') {
            self.rest = rest;
            let value = self.chain(moment, depth + 1)?;
            self.rest = self.rest.trim_start().strip_prefix(')')?;
            return Some(value);
        }
        // A slash inside a time zone name has letters on both sides.
        let bytes = self.rest.as_bytes();
        let is_end = |at: usize| match bytes.get(at) {
            Some(b'&' | b')' | b'(') => true,
            Some(b'/') => {
                let letter = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_alphabetic);
                !(letter(at.checked_sub(1)) && letter(Some(at + 1)))
            }
            _ => false,
        };
        let end = (0..bytes.len()).find(|at| is_end(*at)).unwrap_or(bytes.len());
        let (text, rest) = self.rest.split_at(end);
        self.rest = rest;
        Recurrence::parse(text.trim())?.contains(moment)
    }
}

/// One recurrence.
#[derive(Default)]
struct Recurrence {
    start: Option<DateTime<Local>>,
    /// Length of one occurrence; without one it never ends.
    length: Option<TimeDelta>,
    frequency: Option<Frequency>,
    until: Option<DateTime<Local>>,
    interval: i64,
    weekdays: Vec<u32>,
    month_days: Vec<i32>,
    year_days: Vec<i32>,
    weeks: Vec<i32>,
    months: Vec<i32>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Frequency {
    Daily,
    Weekly,
    Monthly,
    Yearly,
}

impl Recurrence {
    fn parse(text: &str) -> Option<Recurrence> {
        let mut fields: Vec<&str> = text.split('|').map(str::trim).collect();
        // The time zone in front is optional; a start begins with a digit, or is empty.
        let is_zone =
            fields.first().is_some_and(|first| first.starts_with(|letter: char| letter.is_ascii_alphabetic()));
        if is_zone {
            return None;
        }
        // `|dtstart|...`: an empty zone before a start.
        if fields.first() == Some(&"") && fields.get(1).is_some_and(|next| parse_time(next).is_some()) {
            fields.remove(0);
        }
        let field = |at: usize| fields.get(at).copied().filter(|field| !field.is_empty());
        let start = field(0).map(parse_time);
        let start = match start {
            Some(None) => return None,
            Some(parsed) => parsed,
            None => None,
        };
        let end = match field(1) {
            Some(text) => Some(parse_time(text)?),
            None => None,
        };
        let length = match (field(2), start, end) {
            (Some(text), _, _) => Some(parse_duration(text)?),
            (None, Some(start), Some(end)) => Some(end - start).filter(|span| *span > TimeDelta::zero()),
            _ => None,
        };
        let frequency = match field(3).map(str::to_ascii_uppercase).as_deref() {
            None => None,
            Some("DAILY") => Some(Frequency::Daily),
            Some("WEEKLY") => Some(Frequency::Weekly),
            Some("MONTHLY") => Some(Frequency::Monthly),
            Some("YEARLY") => Some(Frequency::Yearly),
            Some(_) => return None,
        };
        let until = match field(4) {
            Some(text) => Some(parse_time(text)?),
            None => None,
        };
        let numbers = |at: usize| -> Option<Vec<i32>> {
            field(at).map_or(Some(Vec::new()), |text| text.split(',').map(|item| item.trim().parse().ok()).collect())
        };
        let weekdays = field(6).map_or(Some(Vec::new()), |text| text.split(',').map(weekday).collect())?;
        let interval = field(5).map_or(Some(1), |text| text.parse().ok())?;
        Some(Recurrence {
            start,
            length,
            frequency,
            until,
            interval: interval.max(1),
            weekdays,
            month_days: numbers(7)?,
            year_days: numbers(8)?,
            weeks: numbers(9)?,
            months: numbers(10)?,
        })
    }

    fn contains(&self, moment: &DateTime<Local>) -> Option<bool> {
        let Some(start) = self.start else { return Some(self.fits_lists(moment)) };
        if *moment < start || self.until.is_some_and(|until| *moment > until) {
            return Some(false);
        }
        let Some(frequency) = self.frequency else {
            return Some(self.length.is_none_or(|length| *moment < start + length));
        };
        // The occurrence of the same day, or one that began on an earlier day and still lasts.
        let days_back = self.length.map_or(0, |length| length.num_days().clamp(0, 31));
        for back in 0..=days_back + 1 {
            let day = moment.date_naive().checked_sub_signed(TimeDelta::days(back))?;
            let Some(begin) = Local.from_local_datetime(&day.and_time(start.time())).earliest() else { continue };
            let lasts = self.length.is_none_or(|length| *moment < begin + length);
            if begin >= start && begin <= *moment && lasts && self.recurs(frequency, &start, &begin) {
                return Some(true);
            }
        }
        Some(false)
    }

    /// Whether an occurrence begins on that day.
    fn recurs(&self, frequency: Frequency, start: &DateTime<Local>, begin: &DateTime<Local>) -> bool {
        let days = (begin.date_naive() - start.date_naive()).num_days();
        let weeks = {
            let monday = |moment: &DateTime<Local>| {
                moment.date_naive() - TimeDelta::days(i64::from(moment.weekday().num_days_from_monday()))
            };
            (monday(begin) - monday(start)).num_days() / 7
        };
        let years = i64::from(begin.year() - start.year());
        let months = years * 12 + i64::from(begin.month()) - i64::from(start.month());
        let (count, is_same) = match frequency {
            Frequency::Daily => (days, true),
            Frequency::Weekly => (weeks, !self.weekdays.is_empty() || begin.weekday() == start.weekday()),
            Frequency::Monthly => {
                let is_listed = !self.month_days.is_empty() || !self.weekdays.is_empty();
                (months, is_listed || begin.day() == start.day())
            }
            Frequency::Yearly => {
                let has_list =
                    [&self.month_days, &self.year_days, &self.weeks, &self.months].iter().any(|list| !list.is_empty())
                        || !self.weekdays.is_empty();
                (years, has_list || (begin.day() == start.day() && begin.month() == start.month()))
            }
        };
        count % self.interval == 0 && is_same && self.fits_lists(begin)
    }

    fn fits_lists(&self, day: &DateTime<Local>) -> bool {
        let fits = |list: &[i32], value: i32, count: i32| {
            list.is_empty()
                || list.iter().any(|wanted| *wanted == value || (*wanted < 0 && wanted + count + 1 == value))
        };
        let in_month = i32::from(day.num_days_in_month());
        let in_year = if day.date_naive().leap_year() { 366 } else { 365 };
        (self.weekdays.is_empty() || self.weekdays.contains(&day.weekday().num_days_from_monday()))
            && fits(&self.month_days, day.day() as i32, in_month)
            && fits(&self.year_days, day.ordinal() as i32, in_year)
            && fits(&self.weeks, day.iso_week().week() as i32, 53)
            && fits(&self.months, day.month() as i32, 12)
    }
}

fn weekday(text: &str) -> Option<u32> {
    let letters: String = text.trim().chars().filter(char::is_ascii_alphabetic).collect();
    ["MO", "TU", "WE", "TH", "FR", "SA", "SU"]
        .iter()
        .position(|name| name.eq_ignore_ascii_case(&letters))
        .and_then(|at| u32::try_from(at).ok())
}

/// `YYYYMMDDThhmmss`, local time.
fn parse_time(text: &str) -> Option<DateTime<Local>> {
    let parsed = NaiveDateTime::parse_from_str(text, "%Y%m%dT%H%M%S").ok()?;
    let parsed = parsed.with_nanosecond(0)?;
    Local.from_local_datetime(&parsed).earliest()
}

/// `P1W2DT3H4M5S`.
fn parse_duration(text: &str) -> Option<TimeDelta> {
    let text = text.to_ascii_uppercase();
    let text = text.trim_start_matches('+').strip_prefix('P')?;
    let (mut total, mut number) = (0i64, None::<i64>);
    for letter in text.chars() {
        if let Some(digit) = letter.to_digit(10) {
            number = Some(number.unwrap_or(0).checked_mul(10)?.checked_add(i64::from(digit))?);
            continue;
        }
        let unit = match letter {
            'T' => continue,
            'W' => 604_800,
            'D' => 86_400,
            'H' => 3600,
            'M' => 60,
            'S' => 1,
            _ => return None,
        };
        total = total.checked_add(number.take()?.checked_mul(unit)?)?;
    }
    if number.is_some() { None } else { TimeDelta::try_seconds(total) }
}

//! Moments, as the platforms write them.

use std::fmt;

/// Seconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub i64);

/// Why a text is no moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoMoment {
    text: String,
    why: &'static str,
}

impl fmt::Display for NoMoment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` is no point in time: {}; write it as 2026-01-31T23:59:00+01:00",
            crate::clean::line(&self.text, 60),
            self.why
        )
    }
}

impl std::error::Error for NoMoment {}

impl Moment {
    /// Reads `2026-01-31T23:59:00+01:00` (RFC 3339), also with a blank instead of the `T`, a fraction of a second (dropped), a blank before the offset, an offset
    /// without colon, and `UTC` for `Z`: so write Gradescope, Canvas and git.
    ///
    /// # Errors
    ///
    /// What is missing. A time without an offset is refused: it would be another moment on another machine.
    pub fn parse(text: &str) -> Result<Moment, NoMoment> {
        let fail = |why| NoMoment {
            text: text.to_owned(),
            why,
        };
        let trimmed = text.trim();
        let (date, rest) = trimmed.split_at_checked(10).ok_or(fail("it has no date"))?;
        let rest = rest
            .strip_prefix(['T', 't', ' '])
            .ok_or(fail("it has no time of day"))?;
        let [year, month, day] = numbers(date, '-').ok_or(fail("its date is no date"))?;
        let (time, rest) = rest.split_at_checked(8).ok_or(fail("it has no seconds"))?;
        let [hour, minute, second] = numbers(time, ':').ok_or(fail("its time is no time"))?;
        let fraction = rest.strip_prefix(['.', ',']);
        let rest = fraction.map_or(rest, |rest| {
            rest.trim_start_matches(|letter: char| letter.is_ascii_digit())
        });
        let offset = offset(rest.trim()).ok_or(fail("it does not say how far from UTC it is"))?;
        let length = [
            31,
            if is_leap(year) { 29 } else { 28 },
            31,
            30,
            31,
            30,
            31,
            31,
            30,
            31,
            30,
            31,
        ];
        let is_day = (1..=12).contains(&month)
            && usize::try_from(month - 1).is_ok_and(|month| (1..=length[month]).contains(&day));
        if !is_day || hour > 23 || minute > 59 || second > 60 {
            return Err(fail("there is no such day or time"));
        }
        Ok(Moment(
            days(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second - offset,
        ))
    }
}

fn numbers(text: &str, between: char) -> Option<[i64; 3]> {
    let mut parts = text.split(between).map(|part| {
        let is_number = part.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| part.parse::<i64>().ok()).flatten()
    });
    let three = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(three)
}

/// Seconds east of UTC.
fn offset(text: &str) -> Option<i64> {
    if ["Z", "z", "UTC", "GMT"].contains(&text) {
        return Some(0);
    }
    let (sign, digits) = match text.split_at_checked(1)? {
        ("+", digits) => (1, digits),
        ("-", digits) => (-1, digits),
        _ => return None,
    };
    let digits = digits.replacen(':', "", 1);
    if digits.len() != 4 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: i64 = digits.parse().ok()?;
    (number / 100 <= 23 && number % 100 <= 59)
        .then_some(sign * (number / 100 * 3_600 + number % 100 * 60))
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

/// Days from 1970-01-01 in the Gregorian calendar. Source: Hinnant, "chrono-compatible low-level date algorithms",
/// `days_from_civil`: years begin in March, so that the leap day is the last one.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let of_era = of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    era * 146_097 + of_era - 719_468
}

/// A moment as RFC 3339, in UTC: `2026-01-31T22:59:00Z`.
impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The inverse, `civil_from_days`, of the same source.
        let (day, second) = (self.0.div_euclid(86_400), self.0.rem_euclid(86_400));
        let day = day + 719_468;
        let era = day.div_euclid(146_097);
        let of_era = day.rem_euclid(146_097);
        let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year + year / 4 - year / 100);
        let month = (5 * of_year + 2) / 153;
        let date = of_year - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        let year = year + era * 400 + i64::from(month <= 2);
        write!(
            f,
            "{year:04}-{month:02}-{date:02}T{:02}:{:02}:{:02}Z",
            second / 3_600,
            second / 60 % 60,
            second % 60
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_of_every_platform_are_read() {
        // 1_769_900_340 is `date -u -d 2026-01-31T22:59:00 +%s`.
        for text in [
            "2026-01-31T23:59:00+01:00",
            "2026-01-31 23:59:00.123456 +0100",
            "2026-01-31T22:59:00Z",
            "2026-01-31 22:59:00 UTC",
            "2026-01-31T14:59:00.365935-08:00",
        ] {
            let moment = Moment::parse(text).expect(text);
            assert_eq!(moment, Moment(1_769_900_340), "{text}");
            assert_eq!(moment.to_string(), "2026-01-31T22:59:00Z");
        }
        assert_eq!(
            Moment::parse("1970-01-01T00:00:00Z").expect("valid"),
            Moment(0)
        );
        // 951_782_400 is `date -u -d 2000-02-29 +%s`.
        assert_eq!(
            Moment::parse("2000-02-29T00:00:00Z").expect("valid"),
            Moment(951_782_400)
        );
    }

    #[test]
    fn what_is_no_moment_says_why() {
        for (text, words) in [
            ("2026-01-31T23:59:00", "UTC"),
            ("2026-02-29T00:00:00Z", "no such day"),
            ("2026-13-01T00:00:00Z", "no such day"),
            ("31.01.2026", "time of day"),
            ("yesterday", "no date"),
            ("", "no date"),
            ("2026-01-31T23:59Z", "no seconds"),
            ("2026-0é-31T23:59:00Z", "no"),
        ] {
            let error = Moment::parse(text).expect_err(text).to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}

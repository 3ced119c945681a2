//! Dates as people write them: UTC, proleptic Gregorian. Only what message ids and the command line need.

const MS_PER_DAY: i64 = 86_400_000;

/// Year, month (1 to 12) and day (1 to 31) of a number of days since 1970.
fn date_of_days(days: i64) -> (i64, i64, i64) {
    // Years counted from March, in eras of 400 years: then leap days come last.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

fn days_of_date(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Milliseconds since 1970 at which the month of `ms` began.
pub fn month_start_ms(ms: i64) -> i64 {
    let (year, month, _) = date_of_days(ms.div_euclid(MS_PER_DAY));
    days_of_date(year, month, 1) * MS_PER_DAY
}

/// `2024-05-01T10:00:00.123Z`.
pub fn format_ms(ms: i64) -> String {
    let (year, month, day) = date_of_days(ms.div_euclid(MS_PER_DAY));
    let of_day = ms.rem_euclid(MS_PER_DAY);
    let (hour, minute, second) = (of_day / 3_600_000, of_day / 60_000 % 60, of_day / 1_000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", of_day % 1_000)
}

/// Reads `2024-05-01`, `2024-05-01T10:00` and `2024-05-01T10:00:00[.123][Z]`, a blank for the `T` allowed.
pub fn parse_ms(text: &str) -> Option<i64> {
    let text = text.trim().trim_end_matches(['Z', 'z']);
    let (date, time) = match text.split_once(['T', ' ']) {
        Some((date, time)) => (date, time),
        None => (text, ""),
    };
    let mut parts = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    let (clock, fraction) = time.split_once('.').unwrap_or((time, ""));
    let mut parts = clock.split(':').filter(|part| !part.is_empty()).map(|part| part.parse::<i64>().ok());
    let mut next = || parts.next().unwrap_or(Some(0));
    let (hour, minute, second) = (next()?, next()?, next()?);
    let fraction_ms = if fraction.is_empty() {
        0
    } else {
        let digits: String = fraction.chars().chain("00".chars()).take(3).collect();
        digits.parse::<i64>().ok()?
    };
    let in_range = (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..=60).contains(&second);
    in_range.then(|| {
        days_of_date(year, month, day) * MS_PER_DAY
            + (hour * 3_600 + minute * 60 + second) * 1_000
            + fraction_ms
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_come_back_as_they_were_written() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_709_164_800_000, "2024-02-29T00:00:00.000Z"),
            (1_735_689_599_999, "2024-12-31T23:59:59.999Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(format_ms(ms), text);
            assert_eq!(parse_ms(text), Some(ms), "{text}");
        }
        assert_eq!(parse_ms("2024-02-29"), Some(1_709_164_800_000));
        assert_eq!(parse_ms("2024-02-29 00:01"), Some(1_709_164_860_000));
        assert_eq!(parse_ms("2024-02-29T00:00:00.5"), Some(1_709_164_800_500));
    }

    #[test]
    fn what_is_no_date_is_none() {
        for text in ["", "now", "2024", "2024-13-01", "2024-01-01T25:00", "2024-01-01T1:b"] {
            assert_eq!(parse_ms(text), None, "{text}");
        }
    }

    #[test]
    fn a_month_starts_on_its_first_day() {
        assert_eq!(month_start_ms(1_709_164_800_123), 1_706_745_600_000);
    }
}

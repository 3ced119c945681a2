//! Arguments that several commands share, and how their texts are read.

use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::client::remoting::ConnectOptions;
use crate::client::{Servers, calendar};
use crate::clock::WallMs;

/// Where the servers are.
#[derive(Clone, Debug, Args)]
pub struct ServerArgs {
    /// Name servers, separated by semicolons
    #[arg(short = 'n', long, value_name = "ADDR", default_value = default_name_server())]
    pub name_server: String,
    /// How long to wait for an answer
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "5s")]
    pub timeout: Duration,
}

/// What RocketMQ's own tools go by, or the usual port on this machine.
fn default_name_server() -> String {
    let set = std::env::var("NAMESRV_ADDR").ok().filter(|addr| !addr.trim().is_empty());
    set.unwrap_or_else(|| "127.0.0.1:9876".to_owned())
}

impl ServerArgs {
    pub fn servers(&self) -> Servers {
        Servers::new(&self.name_server, ConnectOptions::default(), self.timeout)
    }
}

/// How results are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum OutputFormat {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
}

#[derive(Clone, Copy, Debug, Args)]
pub struct OutputArgs {
    /// How to write the result
    #[arg(short, long, value_enum, default_value_t)]
    pub output: OutputFormat,
}

/// `10s`, `500ms`, `2m`, `1.5h`; a bare number is seconds.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let seconds_per_unit = match unit.trim() {
        "us" => 0.000_001,
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return Err(format!("{unit:?} is no unit of time: use us, ms, s, m, h or d")),
    };
    let number: f64 = number.parse().map_err(|_| "a duration is a number and a unit, as 10s".to_owned())?;
    Duration::try_from_secs_f64(number * seconds_per_unit).map_err(|_| "the duration is too long".to_owned())
}

/// A time as people give it, before it is known what time it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimeArg {
    /// Milliseconds since 1970.
    AtMs(i64),
    AgoMs(i64),
}

impl TimeArg {
    pub fn ms(self, now: WallMs) -> i64 {
        match self {
            TimeArg::AtMs(at) => at,
            TimeArg::AgoMs(ago) => now.0 - ago,
        }
    }
}

/// `now`, ms since 1970, `2024-05-01T10:00`, `15m` for 15 minutes ago.
pub fn parse_time(text: &str) -> Result<TimeArg, String> {
    if text == "now" {
        return Ok(TimeArg::AgoMs(0));
    }
    if let Some(at) = text.parse::<i64>().ok().or_else(|| calendar::parse_ms(text)) {
        return Ok(TimeArg::AtMs(at));
    }
    let ago = parse_duration(text);
    ago.map(|ago| TimeArg::AgoMs(ago.as_millis() as i64)).map_err(|_| {
        "a time is now, ms since 1970, UTC as 2024-05-01T10:00, or how long ago, as 15m".to_owned()
    })
}

/// `1024`, `4k`, `1m`: bytes, in powers of 1024.
pub fn parse_size(text: &str) -> Result<usize, String> {
    let lower = text.trim().to_ascii_lowercase();
    let lower = lower.trim_end_matches('b').trim_end_matches('i');
    let (number, unit) = match lower.strip_suffix('k') {
        Some(number) => (number, 1024),
        None => lower.strip_suffix('m').map_or((lower, 1), |number| (number, 1024 * 1024)),
    };
    let number: usize =
        number.parse().map_err(|_| "a size is a number of bytes, as 1024 or 4k".to_owned())?;
    number.checked_mul(unit).ok_or_else(|| "the size is too large".to_owned())
}

/// `5000`, `5000/s`, `50k/s`, `1.5m/s`: how often per second.
pub fn parse_rate(text: &str) -> Result<f64, String> {
    let lower = text.trim().to_ascii_lowercase();
    let lower = lower.strip_suffix("/s").unwrap_or(&lower);
    let (number, unit) = match lower.strip_suffix('k') {
        Some(number) => (number, 1e3),
        None => lower.strip_suffix('m').map_or((lower, 1.0), |number| (number, 1e6)),
    };
    let rate: f64 = number.parse().map_err(|_| "a rate is a number per second, as 5000/s".to_owned())?;
    let rate = rate * unit;
    if rate.is_finite() && rate > 0.0 { Ok(rate) } else { Err("a rate is more than 0 per second".to_owned()) }
}

/// `100000`, `100k`, `1.5m`: how many.
pub fn parse_count(text: &str) -> Result<u64, String> {
    match parse_rate(text) {
        Ok(count) if count >= 1.0 => Ok(count as u64),
        _ => Err("a count is a whole number above 0, as 100000 or 100k".to_owned()),
    }
}

/// `name=value`.
pub fn parse_property(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(name, value)| !name.is_empty() && !value.is_empty());
    let (name, value) = pair.ok_or_else(|| "a property is written name=value".to_owned())?;
    match text.contains(['\u{1}', '\u{2}']) {
        true => Err("a property cannot hold the characters 1 and 2".to_owned()),
        false => Ok((name.to_owned(), value.to_owned())),
    }
}

/// `key=value`, as the change of attributes has it.
pub fn parse_attribute(text: &str) -> Result<String, String> {
    let fits = text.split_once('=').is_some_and(|(key, _)| !key.is_empty() && !key.contains(['+', '-', ',']));
    match fits && !text.contains(',') {
        true => Ok(format!("+{text}")),
        false => Err("use KEY=VALUE, as body.filter=JSON or consumed.window.ms=600000".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_sizes_and_rates_are_read_as_people_write_them() {
        assert_eq!(parse_duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("3"), Ok(Duration::from_secs(3)));
        assert_eq!(parse_size("4k"), Ok(4096));
        assert_eq!(parse_size("1MiB"), Ok(1024 * 1024));
        assert_eq!(parse_size("1024"), Ok(1024));
        assert_eq!(parse_rate("50k/s"), Ok(50_000.0));
        assert_eq!(parse_rate("0.5"), Ok(0.5));
        assert_eq!(parse_count("1.5m"), Ok(1_500_000));
        assert_eq!(parse_property("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
    }

    #[test]
    fn times_are_read_in_every_form() {
        for (text, ms) in [
            ("1709164800000", 1_709_164_800_000),
            ("2024-02-29T00:00", 1_709_164_800_000),
            ("now", 5_000_000),
            ("15m", 5_000_000 - 900_000),
        ] {
            assert_eq!(parse_time(text).unwrap().ms(WallMs(5_000_000)), ms, "{text}");
        }
        assert!(parse_time("yesterday").unwrap_err().contains("15m"));
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for text in ["", "s", "10 years", "-1s", "1e400h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        for text in ["", "k", "1.5k", "-1"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        for text in ["", "0", "-5/s", "fast"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
        for text in ["a", "=b", "a=", "a\u{1}=b"] {
            assert!(parse_property(text).is_err(), "{text}");
        }
    }
}

//! Delay levels: `1s 5s 10s 30s 1m …`, numbered from 1.
//!
//! RocketMQ: `MessageStoreConfig.messageDelayLevel`.

use std::time::Duration;

use thiserror::Error;

/// Java's default.
pub const DEFAULT_DELAY_LEVELS: &str = "1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h";

/// The delays by level.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DelayLevels(Vec<Duration>);

#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{word:?} is no delay: a whole number with s, m, h or d")]
pub struct DelayLevelError {
    pub word: String,
}

impl Default for DelayLevels {
    fn default() -> Self {
        // The default is well-formed, a test says so.
        Self::parse(DEFAULT_DELAY_LEVELS).unwrap_or(Self(Vec::new()))
    }
}

impl DelayLevels {
    /// Reads delays separated by blanks; units are s, m, h, d.
    pub fn parse(text: &str) -> Result<Self, DelayLevelError> {
        let delay = |word: &str| {
            let error = || DelayLevelError { word: word.to_owned() };
            let unit_at =
                word.len().checked_sub(1).filter(|at| word.is_char_boundary(*at)).ok_or_else(error)?;
            let (number, unit) = word.split_at(unit_at);
            let seconds = match unit {
                "s" => 1,
                "m" => 60,
                "h" => 3600,
                "d" => 86_400,
                _ => return Err(error()),
            };
            let number: u64 = number.parse().map_err(|_| error())?;
            Ok(Duration::from_secs(number.checked_mul(seconds).ok_or_else(error)?))
        };
        text.split_whitespace().map(delay).collect::<Result<_, _>>().map(Self)
    }

    /// The highest level.
    pub fn max_level(&self) -> usize {
        self.0.len()
    }

    /// The delay of a level from 1 on; levels above the highest have its delay, 0 has none.
    pub fn delay(&self, level: usize) -> Duration {
        match level.min(self.max_level()).checked_sub(1) {
            Some(index) => self.0[index],
            None => Duration::ZERO,
        }
    }

    /// The level that waits exactly so long.
    pub fn level_of(&self, delay: Duration) -> Option<usize> {
        self.0.iter().position(|known| *known == delay).map(|index| index + 1)
    }

    /// The first level that waits no shorter, or the highest.
    pub fn level_from(&self, delay: Duration) -> usize {
        self.0.iter().position(|known| *known >= delay).map_or(self.max_level(), |index| index + 1)
    }

    /// When a message of `level`, stored at `stored_at_ms`, is due. A level that does not exist means 1 s, as
    /// in Java.
    pub fn deliver_at_ms(&self, level: usize, stored_at_ms: i64) -> i64 {
        let delay = match level {
            level if (1..=self.max_level()).contains(&level) => self.delay(level),
            _ => Duration::from_secs(1),
        };
        stored_at_ms.saturating_add(delay.as_millis() as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_has_eighteen_levels_from_a_second_to_two_hours() {
        let levels = DelayLevels::default();
        assert_eq!(levels.max_level(), 18);
        assert_eq!(levels.delay(0), Duration::ZERO);
        assert_eq!(levels.delay(1), Duration::from_secs(1));
        assert_eq!(levels.delay(18), Duration::from_secs(7200));
        assert_eq!(levels.delay(99), Duration::from_secs(7200));
        assert_eq!(levels.level_of(Duration::from_secs(10)), Some(3));
        assert_eq!(levels.level_of(Duration::from_secs(11)), None);
        assert_eq!(levels.level_from(Duration::from_secs(11)), 4);
        assert_eq!(levels.level_from(Duration::from_secs(99_999)), 18);
        assert_eq!(levels.deliver_at_ms(3, 1000), 11_000);
        assert_eq!(levels.deliver_at_ms(19, 1000), 2000);
    }

    #[test]
    fn what_is_no_delay_is_named() {
        for word in ["5", "s", "1y", "-1s", "1.5s", "99999999999999999999s", "é"] {
            assert_eq!(DelayLevels::parse(word), Err(DelayLevelError { word: word.into() }));
        }
    }
}
